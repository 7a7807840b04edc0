package distributor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/palliumhq/pallium/backend/ring"
)

// zonesEvery is how often WatchZones looks whether the cluster has zones enough.
const zonesEvery = 10 * time.Second

// ErrZones is returned while no write can find all its replicas.
var ErrZones = errors.New("writes fail until more ingesters join")

// EnoughZones returns ErrZones, with what is missing, while no write can find all
// its replicas: each is an ACTIVE ingester of another zone (docs/cluster.md).
func EnoughZones(r *ring.Ring, replication int) error {
	n := r.Domains()
	if n >= replication {
		return nil
	}
	return fmt.Errorf("%w: those that are ACTIVE are in %d zones (without zones: are %d), %d are needed (cluster.replication)",
		ErrZones, n, n, replication)
}

// ZoneMetrics registers what EnoughZones compares.
func ZoneMetrics(ctx context.Context, members ring.Membership, replication int, registerer prometheus.Registerer) {
	auto := promauto.With(registerer)
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_distributor_zones",
		Help: "Zones with an ACTIVE ingester (without zones: ACTIVE ingesters)."}, func() float64 {
		r, err := members.Ring(ctx)
		if err != nil {
			return 0
		}
		return float64(r.Domains())
	})
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_distributor_zones_needed",
		Help: "Zones with an ACTIVE ingester that writes need (cluster.replication)."}, func() float64 { return float64(replication) })
}

// WatchZones tells the log when writes cannot find their replicas, and when they can
// again, until ctx is done.
func WatchZones(ctx context.Context, members ring.Membership, replication int, logger *slog.Logger) {
	tick := time.NewTicker(zonesEvery)
	defer tick.Stop()
	for missing := false; ; {
		if r, err := members.Ring(ctx); err == nil {
			n := r.Domains()
			switch {
			case n < replication && !missing:
				logger.Warn("too few zones have ACTIVE ingesters: writes fail until more join", "zones", n, "needed", replication)
			case n >= replication && missing:
				logger.Info("enough zones have ACTIVE ingesters: writes find their replicas", "zones", n, "needed", replication)
			}
			missing = n < replication
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
