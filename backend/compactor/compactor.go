// Package compactor makes the long-term form of what ingesters uploaded: it
// merges a tenant's day from the L0 packs of all replicas and from what was
// compacted before into one sorted copy, and has the store publish it. It keeps
// no state: whatever it has to do stands in the work rows, and a compaction that
// ends halfway is begun anew.
package compactor

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/progress"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

// Options of a Compactor.
type Options struct {
	ID    string // names it in the lease
	Store *store.Store
	// Retention is how long a tenant's samples are kept, now; 0 is for ever.
	Retention func(context.Context, tenant.ID) (time.Duration, error)
	// Tenants lists those whose data is kept, and those that were deleted.
	Tenants func(context.Context) (active, deleted []tenant.ID, err error)
	// KeepDeletions is how long a deletion of series is remembered: longer than
	// a sample of before it can still arrive.
	KeepDeletions func(tenant.ID) time.Duration

	Interval   time.Duration // between two looks at the work; default 5 min
	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Times of the schedule.
const (
	// lossDelay is how old a loss must be to be settled: what others owe of the
	// window they say within ten seconds.
	lossDelay   = 10 * time.Minute
	settleTime  = 2 * time.Hour // from a day's end to its first compaction
	lateSpacing = 6 * time.Hour // between two generations of a published day
	sweepEvery  = 10 * time.Minute
)

// Compactor compacts days as they end. It is safe for concurrent use; one
// compaction runs at a time.
type Compactor struct {
	opts    Options
	turn    chan struct{} // held by the compaction that runs
	work    *progress.Worker
	failing *failures // guarded by turn
	metrics *metrics
	status  atomic.Pointer[Status]
}

// Status is what the compactor is doing.
type Status struct {
	Day     int64 // being compacted; -1 when idle
	Tenant  tenant.ID
	Waiting []Waiting // days that may not be published yet
	Failing []Failing // what cannot be compacted, the longest first; bounded
	LastRun time.Time
	LastErr string
}

// Waiting is a day that waits for ingesters to upload what they owe.
type Waiting struct {
	Day    int64
	Reason string
}

// Failing is a tenant's day that cannot be compacted, or an L0 pack that cannot
// be opened, and when that is tried again.
type Failing struct {
	Tenant      tenant.ID // empty for a pack
	Day         int64
	Pack        string // object of a pack that cannot be opened
	Since, Next time.Time
	Attempts    int
	Err         string
}

// New returns a compactor.
func New(o Options) *Compactor {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Interval <= 0 {
		o.Interval = 5 * time.Minute
	}
	c := &Compactor{opts: o, turn: make(chan struct{}, 1)}
	c.metrics = newMetrics(o.Registerer)
	c.failing = newFailures(o.Interval, c.metrics)
	c.work = progress.NewWorker(progress.Options{
		Metric:  "pallium_compactor_stalled_seconds",
		Help:    "How long the compaction or sweep under way has made no progress; 0 when there is none, or it made some within a minute.",
		Message: "compaction makes no progress: the object store or the row store does not answer", Now: o.Now, Logger: o.Logger, Registerer: o.Registerer})
	c.status.Store(&Status{Day: -1})
	return c
}

// Run compacts and sweeps until ctx is done.
func (c *Compactor) Run(ctx context.Context) {
	var watching sync.WaitGroup
	watching.Go(func() { c.work.Watch(ctx) })
	defer watching.Wait()
	tick := time.NewTicker(c.opts.Interval)
	defer tick.Stop()
	var swept time.Time
	for {
		if _, err := c.Compact(ctx, Due); err != nil && ctx.Err() == nil {
			c.opts.Logger.Error("compaction failed, it will be tried again", "err", err)
		}
		if now := c.opts.Now(); now.Sub(swept) >= sweepEvery {
			swept = now
			if err := c.Sweep(ctx); err != nil && ctx.Err() == nil {
				c.opts.Logger.Error("sweeping failed, it will be tried again", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Which says which days to compact.
type Which int

// Days to compact.
const (
	Due Which = iota // those that ended and whose ingesters owe nothing
	All              // all that have anything uploaded, open days too
)

// Report is what a compaction did.
type Report struct {
	Days, Published int // published counts days of tenants
	Series, Samples int64
}

// Compact compacts what there is to compact. What fails does not keep the rest
// from it, and is tried again later and later; the errors are joined.
func (c *Compactor) Compact(ctx context.Context, which Which) (Report, error) {
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return Report{}, fmt.Errorf("wait for the compaction that is under way: %w", ctx.Err())
	}
	defer func() { <-c.turn }()
	ctx, task := c.work.Begin(ctx, "list of what is to be compacted")
	defer task.End()
	st := Status{Day: -1, LastRun: c.opts.Now(), Failing: c.failing.list()}
	defer func() { st.Day = -1; s := st; c.status.Store(&s) }()
	var report Report
	if which == Due {
		held, err := c.opts.Store.Lease(ctx, "compactor", c.opts.ID, 3*c.opts.Interval)
		if err != nil {
			return report, err
		}
		if !held {
			c.failing.clear()
			st.Failing = nil
			return report, nil
		}
	}
	if n, err := c.opts.Store.SettleLosses(ctx, c.opts.Now().Add(-lossDelay).UnixMilli()); err != nil {
		st.LastErr = err.Error()
		return report, err
	} else if n > 0 {
		c.opts.Logger.Info("what lost ingesters had is uploaded by others", "windows", n)
	}
	work, err := c.opts.Store.Work(ctx)
	if err != nil {
		st.LastErr = err.Error()
		return report, err
	}
	err = c.compactDays(ctx, work, which, &st, &report)
	if ctx.Err() != nil {
		return report, err
	}
	c.metrics.waiting.Set(float64(len(st.Waiting)))
	for _, w := range st.Waiting {
		c.opts.Logger.Warn("a day cannot be published yet", "day", w.Day, "reason", w.Reason)
	}
	if err != nil {
		st.LastErr = err.Error()
		c.metrics.failures.Inc()
	}
	return report, err
}

// compactDays goes through the days that have work.
func (c *Compactor) compactDays(ctx context.Context, work []store.DayWork, which Which, st *Status, report *Report) error {
	c.failing.look++
	var errs problems
	waiting := map[int64]bool{}
	for i := range work {
		d := &work[i]
		if ctx.Err() != nil {
			errs.add(ctx.Err())
			return errs.join()
		}
		if d.Idle() {
			continue
		}
		if which == Due {
			if reason := c.mustWait(d); reason != "" {
				waiting[d.Day] = true
				if c.ended(d.Day) {
					st.Waiting = append(st.Waiting, Waiting{d.Day, reason})
				}
				continue
			}
		}
		st.Day = d.Day
		now := *st
		c.status.Store(&now)
		if err := c.compactDay(ctx, d, which, report); err != nil {
			errs.add(fmt.Errorf("day %d: %w", d.Day, err))
		}
	}
	if ctx.Err() == nil {
		c.failing.prune(waiting)
	}
	c.failing.publish()
	st.Failing = c.failing.list()
	return errs.join()
}

// Status is what the compactor does now.
func (c *Compactor) Status() Status { return *c.status.Load() }

// ended reports whether the day's samples should all be uploaded.
func (c *Compactor) ended(day int64) bool {
	end := time.UnixMilli((day + 1) * series.DayMillis)
	return !c.opts.Now().Before(end.Add(settleTime))
}

// mustWait returns why a day may not be compacted now, or "". It waits for its
// end, and then until every ingester that said that it owes samples has uploaded
// them; an ingester that was lost is not waited for, as long as all that were are
// one, or in one zone: then others have every acknowledged sample.
// Samples that come late are not waited for, they make a new generation.
func (c *Compactor) mustWait(d *store.DayWork) string {
	if !c.ended(d.Day) {
		return "the day has not ended"
	}
	lost := map[string]string{} // ingester → zone
	for _, in := range d.Intents {
		if in.Late {
			continue
		}
		if !store.IsLost(in.Ingester) {
			return fmt.Sprintf("ingester %s has not uploaded window %d yet", in.Ingester, in.Window)
		}
		lost[in.Ingester] = in.Zone
	}
	zones := map[string]bool{}
	for ingester, zone := range lost {
		if zone == "" {
			zone = "ingester " + ingester
		}
		zones[zone] = true
	}
	if len(zones) > 1 {
		return fmt.Sprintf("%d ingesters of different zones were lost before they uploaded; acknowledged samples may be lost: accept it by POST /admin/v1/compact/accept-loss?day=%d", len(lost), d.Day)
	}
	return ""
}
