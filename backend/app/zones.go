package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/palliumhq/pallium/backend/ring"
)

// zonesEvery is how often a distributor looks whether its cluster has zones enough.
const zonesEvery = 10 * time.Second

var errZones = errors.New("writes fail until more ingesters join")

// enoughZones returns errZones, with what is missing, while no write can find all
// its replicas: each is an ACTIVE ingester of another zone (docs/cluster.md).
func enoughZones(r *ring.Ring, replication int) error {
	n := r.Domains()
	if n >= replication {
		return nil
	}
	return fmt.Errorf("%w: those that are ACTIVE are in %d zones (without zones: are %d), %d are needed (cluster.replication)",
		errZones, n, n, replication)
}

// zonesMissing is why this process, as a distributor, can write nothing; nil for
// others.
func (a *App) zonesMissing(ctx context.Context) error {
	if a.members == nil || !a.opts.Targets[TargetDistributor] {
		return nil
	}
	r, err := a.members.Ring(ctx)
	if err != nil {
		return err
	}
	return enoughZones(r, a.cfg.Cluster.Replication)
}

// zoneMetrics tell what enoughZones compares.
func (a *App) zoneMetrics() {
	if !a.opts.Targets[TargetDistributor] {
		return
	}
	auto := promauto.With(a.registry)
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_distributor_zones",
		Help: "Zones with an ACTIVE ingester (without zones: ACTIVE ingesters)."}, func() float64 {
		r, err := a.members.Ring(a.running)
		if err != nil {
			return 0
		}
		return float64(r.Domains())
	})
	auto.NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_distributor_zones_needed",
		Help: "Zones with an ACTIVE ingester that writes need (cluster.replication)."}, func() float64 { return float64(a.cfg.Cluster.Replication) })
}

// watchZones tells the log when writes cannot find their replicas, and when they
// can again.
func (a *App) watchZones(ctx context.Context) {
	if a.members == nil || !a.opts.Targets[TargetDistributor] || a.members.Wait(ctx) != nil {
		return
	}
	tick := time.NewTicker(zonesEvery)
	defer tick.Stop()
	for missing := false; ; {
		if r, err := a.members.Ring(ctx); err == nil {
			n, needed := r.Domains(), a.cfg.Cluster.Replication
			switch {
			case n < needed && !missing:
				a.opts.Logger.Warn("too few zones have ACTIVE ingesters: writes fail until more join", "zones", n, "needed", needed)
			case n >= needed && missing:
				a.opts.Logger.Info("enough zones have ACTIVE ingesters: writes find their replicas", "zones", n, "needed", needed)
			}
			missing = n < needed
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
