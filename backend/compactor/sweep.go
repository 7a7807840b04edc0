package compactor

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Sweep deletes what is beyond retention, what deleted tenants left, and
// whatever the garbage queue has due.
func (c *Compactor) Sweep(ctx context.Context) error {
	ctx, task := c.work.Begin(ctx, "sweep")
	defer task.End()
	var errs error
	active, deleted, err := c.opts.Tenants(ctx)
	if err != nil {
		return err
	}
	for _, t := range active {
		if ctx.Err() != nil {
			return errors.Join(errs, ctx.Err())
		}
		days, err := c.opts.Store.Expire(ctx, t)
		c.metrics.expired.Add(float64(days))
		errs = errors.Join(errs, err)
		stamped, err := c.opts.Store.Restamp(ctx, t)
		if stamped > 0 {
			c.opts.Logger.Info("cells made to last for a longer retention", "tenant", t, "days", stamped)
		}
		errs = errors.Join(errs, err, c.opts.Store.ForgetDeletions(ctx, t, c.opts.Now().Add(-c.opts.KeepDeletions(t)).UnixMilli()))
	}
	for _, t := range deleted {
		e, err := c.opts.Store.Erase(ctx, t)
		if e.Objects > 0 || e.Rows {
			c.opts.Logger.Info("erased a deleted tenant", "tenant", t, "objects", e.Objects, "bytes", e.Bytes)
		}
		errs = errors.Join(errs, err)
	}
	report, err := c.opts.Store.Sweep(ctx)
	if report.Objects+report.Generations+report.Adopted > 0 {
		c.opts.Logger.Info("swept", "objects", report.Objects, "generations", report.Generations, "adopted", report.Adopted)
	}
	c.metrics.swept.Add(float64(report.Objects))
	return errors.Join(errs, err)
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
		failures: counter("pallium_compactor_failures_total", "Compactions that failed and will be tried again."),
		expired:  counter("pallium_compactor_days_expired_total", "Days of tenants that went beyond retention."),
		swept:    counter("pallium_compactor_objects_swept_total", "Objects deleted by the sweep."),
		waiting: auto.NewGauge(prometheus.GaugeOpts{Name: "pallium_compactor_days_waiting",
			Help: "Days that ended and may not be published, because ingesters owe samples."}),
		unreadable: auto.NewGauge(prometheus.GaugeOpts{Name: "pallium_compactor_unreadable_packs",
			Help: "L0 packs that cannot be opened; the days of the tenants in them are not compacted."}),
		failing: auto.NewGaugeVec(prometheus.GaugeOpts{Name: "pallium_compactor_failing_days",
			Help: "Days of a tenant that cannot be compacted; only while there are any, and 100 tenants at most, others together."}, []string{"tenant"}),
	}
}
