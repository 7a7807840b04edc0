package distributor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/palliumhq/pallium/backend/ring"
)

// zonesInterval is how often WatchZones checks that the cluster has enough zones.
const zonesInterval = 10 * time.Second

// ErrZones is returned while the ring has too few zones for the replicas of a series.
var ErrZones = errors.New("writes fail until more ingesters join")

// EnoughZones returns an error that wraps ErrZones while fewer failure domains than
// replicas have ACTIVE ingesters: the replicas of a series are in distinct failure
// domains (docs/cluster.md).
func EnoughZones(r *ring.Ring, replication int) error {
	n := r.Domains()
	if n >= replication {
		return nil
	}
	if hasZone := func(in ring.Instance) bool { return in.Zone != "" }; !slices.ContainsFunc(r.Instances(), hasZone) {
		return fmt.Errorf("%w: cluster.zone is not set, and %d ingesters are ACTIVE; %d are needed (cluster.replication)",
			ErrZones, n, replication)
	}
	return fmt.Errorf("%w: %d zones have ACTIVE ingesters, %d are needed (cluster.replication)", ErrZones, n, replication)
}

// ZoneMetrics registers gauges of the two numbers that EnoughZones compares.
func ZoneMetrics(ctx context.Context, members ring.Membership, replication int, registerer prometheus.Registerer) {
	auto := promauto.With(registerer)
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_distributor_zones",
		Help: "Zones with an ACTIVE ingester; each ingester without a zone counts as one. 0 while the ring cannot be read."}, func() float64 {
		r, err := members.Ring(ctx)
		if err != nil {
			return 0
		}
		return float64(r.Domains())
	})
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_distributor_zones_needed",
		Help: "Zones with an ACTIVE ingester that writes require (cluster.replication)."}, func() float64 { return float64(replication) })
}

// WatchZones logs when the cluster begins and ceases to have too few zones for
// writes, until ctx is done.
func WatchZones(ctx context.Context, members ring.Membership, replication int, logger *slog.Logger) {
	tick := time.NewTicker(zonesInterval)
	defer tick.Stop()
	for missing := false; ; {
		if r, err := members.Ring(ctx); err == nil {
			n := r.Domains()
			switch {
			case n < replication && !missing:
				logger.Warn("too few zones have ACTIVE ingesters: writes fail until more join", "zones", n, "needed", replication)
			case n >= replication && missing:
				logger.Info("enough zones have ACTIVE ingesters: writes are accepted again", "zones", n, "needed", replication)
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
