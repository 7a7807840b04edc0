package compactor

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// sweepDue sweeps if this compactor has the lease. Without it, a standby compactor would
// repeat the work, and fence the compactions of the active one.
func (c *Compactor) sweepDue(ctx context.Context) error {
	held, err := c.lease(ctx)
	if err != nil || !held {
		return err
	}
	return c.Sweep(ctx)
}

// Sweep expires days beyond retention, erases deleted tenants, and processes the due
// entries of the garbage queue. While the clock cannot be trusted, it only erases deleted
// tenants.
func (c *Compactor) Sweep(ctx context.Context) error { return c.sweep(ctx, false) }

// ExpireAll is Sweep without the limit for the number of days that expire in 24 hours. It
// is for an operator who has checked that the clock is right.
func (c *Compactor) ExpireAll(ctx context.Context) error {
	if _, err := c.opts.Clock.Now(); err != nil {
		return fmt.Errorf("expire all days beyond retention: %w", err)
	}
	return c.sweep(ctx, true)
}

func (c *Compactor) sweep(ctx context.Context, all bool) error {
	c.sweeping.Lock()
	defer c.sweeping.Unlock()
	ctx, task := c.work.Begin(ctx, "sweep")
	defer task.End()
	active, deleted, err := c.opts.Tenants(ctx)
	if err != nil {
		return err
	}
	c.visits.forget(active, deleted)
	var errs problems
	for _, t := range active {
		now, err := c.opts.Clock.Now()
		if err != nil {
			break // the clock guard has logged it
		}
		if ctx.Err() != nil {
			errs.add(ctx.Err())
			return errs.join()
		}
		errs.add(c.visit(ctx, t, now, all))
	}
	for _, t := range deleted {
		if ctx.Err() != nil {
			errs.add(ctx.Err())
			return errs.join()
		}
		errs.add(c.erase(ctx, t))
	}
	if _, err := c.opts.Clock.Now(); err != nil {
		return errs.join()
	}
	report, err := c.opts.Lifecycle.Sweep(ctx)
	if report.Objects+report.Generations+report.Adopted > 0 {
		c.opts.Logger.Info("swept garbage", "objects", report.Objects, "generations", report.Generations, "adopted", report.Adopted)
	}
	c.metrics.swept.Add(float64(report.Objects))
	errs.add(err)
	return errs.join()
}

type metrics struct {
	samples, failures, expired, swept prometheus.Counter
	waiting, unreadable               prometheus.Gauge
	failing                           *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	auto := promauto.With(reg)
	counter := func(name, help string) prometheus.Counter {
		return auto.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return &metrics{
		samples:  counter("pallium_compactor_samples_total", "Samples written into compacted packs."),
		failures: counter("pallium_compactor_failures_total", "Runs of the compactor in which the compaction of a day failed; it is retried."),
		expired:  counter("pallium_compactor_days_expired_total", "Days of tenants deleted because they are beyond retention."),
		swept:    counter("pallium_compactor_objects_swept_total", "Objects deleted by the sweep."),
		waiting: auto.NewGauge(prometheus.GaugeOpts{Name: "pallium_compactor_days_waiting",
			Help: "Days that have ended and cannot be published yet, because ingesters have pending uploads or were lost."}),
		unreadable: auto.NewGauge(prometheus.GaugeOpts{Name: "pallium_compactor_unreadable_packs",
			Help: "L0 packs that cannot be opened; the day of the tenants in them is not compacted."}),
		failing: auto.NewGaugeVec(prometheus.GaugeOpts{Name: "pallium_compactor_failing_days",
			Help: "Days of a tenant that cannot be compacted. At most 100 tenants have a series of their own; the others share one."},
			[]string{"tenant"}),
	}
}
