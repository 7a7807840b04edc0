// Package compactor compacts uploaded packs: it merges a tenant's day from the L0 packs
// of all replicas and from the packs of the last generation into one sorted copy, and
// publishes it. It has no state of its own: all pending work is in the work rows, and an
// interrupted compaction starts over.
package compactor

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/semaphore"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/clock"
	"github.com/palliumhq/pallium/backend/progress"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/store/lifecycle"
)

// Options are the options of a Compactor.
type Options struct {
	ID        string // identifies the compactor in the lease
	Store     *store.Store
	Lifecycle *lifecycle.Keeper // of Store
	// Retention returns a tenant's current retention; 0 keeps samples forever.
	Retention func(context.Context, tenant.ID) (time.Duration, error)
	// Tenants lists the existing and the deleted tenants.
	Tenants func(context.Context) (active, deleted []tenant.ID, err error)
	// KeepDeletions returns how long the record of a deletion of series is kept. After
	// that time, no sample from before the deletion can still arrive.
	KeepDeletions func(tenant.ID) time.Duration

	Interval      time.Duration // between two compactions; default 5 min
	TenantsAtOnce int           // number of tenants compacted concurrently; default four per processor, 8 to 64
	// InputBytes limits the total size of the packs merged concurrently, compressed. A
	// tenant with more is compacted alone. Default 64 MiB.
	InputBytes int64

	Now func() time.Time
	// Clock tells whether Now is reliable enough to decide deletions. nil: always.
	Clock      *clock.Guard
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Delays of the schedule.
const (
	// lossDelay is the minimum age of a loss whose intents are cleared. Replicas write
	// the intents for their copies of the lost window within ten seconds.
	lossDelay   = 10 * time.Minute
	settleTime  = 2 * time.Hour // from a day's end to its first compaction
	lateSpacing = 6 * time.Hour // between two generations of a published day
	sweepEvery  = 10 * time.Minute
)

// Compactor compacts days after they end. It is safe for concurrent use; only one
// compaction runs at a time.
type Compactor struct {
	opts     Options
	turn     chan struct{} // held by the running compaction
	wake     chan struct{}
	sweeping sync.Mutex // held by the running sweep
	visits   *visits    // changed only while sweeping is held
	work     *progress.Worker
	input    *semaphore.Weighted // bytes of the packs being merged
	failing  *failures
	metrics  *metrics
	status   atomic.Pointer[Status]
}

// Status is the state of a compactor.
type Status struct {
	Day     int64     `json:"day"` // day being compacted; -1 if idle
	Tenant  tenant.ID `json:"tenant,omitempty"`
	Waiting []Waiting `json:"waiting,omitempty"` // days that may not be published yet
	Failing []Failing `json:"failing,omitempty"` // the 100 oldest failures
	LastRun time.Time `json:"lastRun"`
	LastErr string    `json:"lastError,omitempty"`
	Clock   string    `json:"clock,omitempty"` // why nothing expires now; empty if the clock is trusted
	Expired int       `json:"expired"`         // days beyond retention that are not deleted yet because of the limit for 24 hours
}

// Waiting is a day that may not be published yet, and the reason.
type Waiting struct {
	Day    int64  `json:"day"`
	Reason string `json:"reason"`
}

// Failing is a tenant's day that cannot be compacted, or an L0 pack that cannot be
// opened.
type Failing struct {
	Tenant   tenant.ID `json:"tenant,omitempty"` // empty for a pack
	Day      int64     `json:"day"`
	Pack     string    `json:"pack,omitempty"` // object name of a pack that cannot be opened
	Since    time.Time `json:"since"`
	Next     time.Time `json:"next"` // time of the next attempt
	Attempts int       `json:"attempts"`
	Err      string    `json:"error"`
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
	if o.TenantsAtOnce <= 0 {
		o.TenantsAtOnce = defaultTenantsAtOnce()
	}
	if o.InputBytes <= 0 {
		o.InputBytes = defaultInputBytes
	}
	c := &Compactor{opts: o, turn: make(chan struct{}, 1), wake: make(chan struct{}, 1), input: semaphore.NewWeighted(o.InputBytes)}
	if c.opts.Clock == nil {
		c.opts.Clock = clock.New(clock.Options{Now: o.Now})
	}
	c.visits = newVisits()
	c.metrics = newMetrics(o.Registerer)
	promauto.With(o.Registerer).NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_compactor_days_expiry_waiting",
		Help: "Days beyond retention that are not deleted yet: unless a retention was lowered, only a few days are deleted in 24 " +
			"hours, because the clock may be wrong."}, func() float64 { return float64(c.visits.waiting()) })
	c.failing = newFailures(o.Interval, c.metrics)
	c.work = progress.NewWorker(progress.Options{
		Metric:  "pallium_compactor_stalled_seconds",
		Help:    "Time since the running compaction or sweep last made progress; 0 if none is running, or it made progress within a minute.",
		Message: "no progress in compacting or sweeping: the object store or the row store does not respond",
		Now:     o.Now, Logger: o.Logger, Registerer: o.Registerer})
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
			c.opts.Logger.Error("compaction failed; retrying", "err", err)
		}
		if now := c.opts.Now(); now.Sub(swept) >= sweepEvery {
			swept = now
			if err := c.sweepDue(ctx); err != nil && ctx.Err() == nil {
				c.opts.Logger.Error("sweep failed; retrying", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-c.wake:
		}
	}
}

// Which selects the days to compact.
type Which int

// Days to compact.
const (
	Due   Which = iota // days that have ended and have no pending uploads
	All                // all days with uploaded packs, even if they have not ended
	asked              // days with deleted series, for tenants that requested their removal
)

// Report counts the results of a compaction.
type Report struct {
	Days, Published int // days; generations of tenants' days
	Series, Samples int64
}

// Compact compacts all selected days. A failure of one tenant does not stop the others;
// a failed compaction is retried with increasing delays. The errors are joined.
func (c *Compactor) Compact(ctx context.Context, which Which) (Report, error) {
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return Report{}, fmt.Errorf("wait for the running compaction: %w", ctx.Err())
	}
	defer func() { <-c.turn }()
	ctx, task := c.work.Begin(ctx, "list pending work")
	defer task.End()
	st := Status{Day: -1, LastRun: c.opts.Now(), Failing: c.failing.list()}
	defer func() { st.Day = -1; s := st; c.status.Store(&s) }()
	var report tally
	if which == Due {
		held, err := c.lease(ctx)
		if err != nil {
			return report.Report, err
		}
		if !held {
			c.failing.clear()
			st.Failing = nil
			return report.Report, nil
		}
	}
	work, err := c.pendingWork(ctx)
	if err != nil {
		st.LastErr = err.Error()
		return report.Report, err
	}
	err = c.compactDays(ctx, work, which, &st, &report)
	if ctx.Err() != nil {
		return report.Report, err
	}
	c.metrics.waiting.Set(float64(len(st.Waiting)))
	for _, w := range st.Waiting {
		c.opts.Logger.Warn("day not compacted yet: ingesters have pending uploads or were lost", "day", w.Day, "reason", w.Reason)
	}
	if err != nil {
		st.LastErr = err.Error()
		c.metrics.failures.Inc()
	}
	return report.Report, err
}

// pendingWork clears recovered losses and lists the work rows.
func (c *Compactor) pendingWork(ctx context.Context) ([]store.DayWork, error) {
	if now, err := c.opts.Clock.Now(); err == nil {
		n, err := c.opts.Store.ClearLosses(ctx, now.Add(-lossDelay).UnixMilli())
		if err != nil {
			return nil, err
		}
		if n > 0 {
			c.opts.Logger.Info("lost windows recovered: replicas have uploaded them", "windows", n)
		}
	}
	work, err := c.opts.Store.Days(ctx)
	if err == nil {
		c.opts.Clock.SawSeals(newestSeal(work))
	}
	return work, err
}

// newestSeal returns the time when the newest of the uploaded packs was sealed, or zero
// if there is none.
func newestSeal(work []store.DayWork) time.Time {
	newest := uint64(0)
	for i := range work {
		for k := range work[i].Receipts {
			newest = max(newest, work[i].Receipts[k].ID.Time())
		}
	}
	if newest == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(newest))
}

// lease acquires or renews the lease and reports whether this compactor has it.
func (c *Compactor) lease(ctx context.Context) (bool, error) {
	return c.opts.Store.Options().Index.Leases.Take(ctx, "compactor", c.opts.ID, 3*c.opts.Interval)
}

// compactDays compacts the selected days of the work list, one after the other.
func (c *Compactor) compactDays(ctx context.Context, work []store.DayWork, which Which, st *Status, report *tally) error {
	c.failing.nextPass()
	var errs problems
	waiting := map[int64]bool{}
	for i := range work {
		d := &work[i]
		if ctx.Err() != nil {
			errs.add(ctx.Err())
			return errs.join()
		}
		if len(d.Cleans) > 0 {
			if err := c.clean(ctx, d, report); err != nil {
				errs.add(fmt.Errorf("remove deleted series of day %d: %w", d.Day, err))
			}
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

// Status returns the current state of the compactor.
func (c *Compactor) Status() Status {
	s := *c.status.Load()
	s.Expired = c.visits.waiting()
	if _, err := c.opts.Clock.Now(); err != nil {
		s.Clock = err.Error()
	}
	return s
}

// ended reports whether the day ended at least settleTime ago, so that its samples should
// all be uploaded.
func (c *Compactor) ended(day int64) bool {
	end := time.UnixMilli((day + 1) * series.DayMillis)
	return !c.opts.Now().Before(end.Add(settleTime))
}

// mustWait returns why a day may not be compacted now, or "". A day is compacted when it has ended
// and no ingester has pending uploads for it. Lost ingesters are ignored if they are all in one
// zone, or if there is only one, however often it was lost, because then replicas have every
// acknowledged sample. Late intents are ignored, because late samples go into a later generation.
func (c *Compactor) mustWait(d *store.DayWork) string {
	if !c.ended(d.Day) {
		return "the day has not ended"
	}
	lost := map[string]string{} // ingester (without its incarnation) → zone
	for _, in := range d.Intents {
		if in.Late {
			continue
		}
		if !store.IsLost(in.Ingester) {
			return fmt.Sprintf("ingester %s has not uploaded window %d yet", in.Ingester, in.Window)
		}
		lost[store.InstanceOf(in.Ingester)] = in.Zone
	}
	zones := map[string]bool{}
	for ingester, zone := range lost {
		if zone == "" {
			zone = "ingester " + ingester
		}
		zones[zone] = true
	}
	if len(zones) > 1 {
		return fmt.Sprintf("%d ingesters of different failure domains were lost before they uploaded their samples; "+
			"acknowledged samples may be lost: "+
			"to accept the loss, run: pallium loss accept %s", len(lost), series.DateOf(d.Day))
	}
	return ""
}
