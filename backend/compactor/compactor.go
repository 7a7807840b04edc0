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
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/semaphore"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/clock"
	"github.com/palliumhq/pallium/backend/progress"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/store/lifecycle"
)

// Options of a Compactor.
type Options struct {
	ID        string // names it in the lease
	Store     *store.Store
	Lifecycle *lifecycle.Keeper // of the store
	// Retention is how long a tenant's samples are kept, now; 0 is for ever.
	Retention func(context.Context, tenant.ID) (time.Duration, error)
	// Tenants lists those whose data is kept, and those that were deleted.
	Tenants func(context.Context) (active, deleted []tenant.ID, err error)
	// KeepDeletions is how long a deletion of series is remembered: longer than
	// a sample of before it can still arrive.
	KeepDeletions func(tenant.ID) time.Duration

	Interval      time.Duration // between two looks at the work; default 5 min
	TenantsAtOnce int           // compacted at once; default four for each processor, 8 to 64
	// InputBytes is what the tenants that are compacted at once merge together, as it
	// is stored, but for one that has more: it is compacted alone. Default 64 MiB.
	InputBytes int64

	Now func() time.Time
	// Clock tells whether Now can decide what is deleted; nil: it always can.
	Clock      *clock.Guard
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
	opts     Options
	turn     chan struct{} // held by the compaction that runs
	sweeping sync.Mutex    // held by the sweep that runs
	visits   *visits       // changed under it
	work     *progress.Worker
	room     *semaphore.Weighted // bytes of what is merged
	failing  *failures
	metrics  *metrics
	status   atomic.Pointer[Status]
}

// Status is what the compactor is doing.
type Status struct {
	Day     int64     `json:"day"` // being compacted; -1 when idle
	Tenant  tenant.ID `json:"tenant,omitempty"`
	Waiting []Waiting `json:"waiting,omitempty"` // days that may not be published yet
	Failing []Failing `json:"failing,omitempty"` // what cannot be compacted, the longest first; bounded
	LastRun time.Time `json:"lastRun"`
	LastErr string    `json:"lastError,omitempty"`
	Clock   string    `json:"clock,omitempty"` // why nothing is deleted by its time now; empty when it is
	Expired int       `json:"expired"`         // days beyond retention that wait for the next day, or for an operator
}

// Waiting is a day that waits for ingesters to upload what they owe.
type Waiting struct {
	Day    int64  `json:"day"`
	Reason string `json:"reason"`
}

// Failing is a tenant's day that cannot be compacted, or an L0 pack that cannot
// be opened, and when that is tried again.
type Failing struct {
	Tenant   tenant.ID `json:"tenant,omitempty"` // empty for a pack
	Day      int64     `json:"day"`
	Pack     string    `json:"pack,omitempty"` // object of a pack that cannot be opened
	Since    time.Time `json:"since"`
	Next     time.Time `json:"next"`
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
	c := &Compactor{opts: o, turn: make(chan struct{}, 1), room: semaphore.NewWeighted(o.InputBytes)}
	if c.opts.Clock == nil {
		c.opts.Clock = clock.New(clock.Options{Now: o.Now})
	}
	c.visits = newVisits()
	c.metrics = newMetrics(o.Registerer)
	promauto.With(o.Registerer).NewGaugeFunc(prometheus.GaugeOpts{Name: "pallium_compactor_days_expiry_waiting",
		Help: "Days beyond retention that wait for the next day: few go in 24 hours unless a retention was lowered, since a clock " +
			"may be wrong."}, func() float64 { return float64(c.visits.waiting()) })
	c.failing = newFailures(o.Interval, c.metrics)
	c.work = progress.NewWorker(progress.Options{
		Metric:  "pallium_compactor_stalled_seconds",
		Help:    "How long the compaction or sweep under way has made no progress; 0 when there is none, or it made some within a minute.",
		Message: "compaction makes no progress: the object store or the row store does not answer",
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
			c.opts.Logger.Error("compaction failed, it will be tried again", "err", err)
		}
		if now := c.opts.Now(); now.Sub(swept) >= sweepEvery {
			swept = now
			if err := c.sweepDue(ctx); err != nil && ctx.Err() == nil {
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
	work, err := c.look(ctx)
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
		c.opts.Logger.Warn("a day cannot be published yet", "day", w.Day, "reason", w.Reason)
	}
	if err != nil {
		st.LastErr = err.Error()
		c.metrics.failures.Inc()
	}
	return report.Report, err
}

// look settles losses and lists the work.
func (c *Compactor) look(ctx context.Context) ([]store.DayWork, error) {
	if now, err := c.opts.Clock.Now(); err == nil {
		n, err := c.opts.Store.SettleLosses(ctx, now.Add(-lossDelay).UnixMilli())
		if err != nil {
			return nil, err
		}
		if n > 0 {
			c.opts.Logger.Info("what lost ingesters had is uploaded by others", "windows", n)
		}
	}
	work, err := c.opts.Store.Days(ctx)
	if err == nil {
		c.opts.Clock.SawSeals(newestSeal(work))
	}
	return work, err
}

// newestSeal is when the newest of the uploaded packs was sealed; zero when there
// is none.
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

// lease reports whether this compactor does the work now, and not another one.
func (c *Compactor) lease(ctx context.Context) (bool, error) {
	return c.opts.Store.Options().Index.Leases.Take(ctx, "compactor", c.opts.ID, 3*c.opts.Interval)
}

// compactDays goes through the days that have work.
func (c *Compactor) compactDays(ctx context.Context, work []store.DayWork, which Which, st *Status, report *tally) error {
	c.failing.nextLook()
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
func (c *Compactor) Status() Status {
	s := *c.status.Load()
	s.Expired = c.visits.waiting()
	if _, err := c.opts.Clock.Now(); err != nil {
		s.Clock = err.Error()
	}
	return s
}

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
		return fmt.Sprintf("%d ingesters of different zones were lost before they uploaded; acknowledged samples may be lost: "+
			"accept it by POST /admin/v1/compact/accept-loss?day=%d", len(lost), d.Day)
	}
	return ""
}
