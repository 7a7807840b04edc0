package backfill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/schema"
)

// Store reads and writes the rows of backfills. *index.Rules implements it.
type Store interface {
	Tenants(ctx context.Context) ([]tenant.ID, error)
	Backfills(ctx context.Context, tenants ...tenant.ID) ([]index.Backfill, error)
	Backfill(ctx context.Context, t tenant.ID, namespace, group string) (b index.Backfill, ok bool, err error)
	UpdateBackfill(ctx context.Context, b *index.Backfill, old schema.Backfill) error
}

// ErrNoGroup is returned by JobsOptions.Group for a group that cannot be evaluated. The tenant sees its text.
var ErrNoGroup = errors.New("the group cannot be evaluated")

// JobsOptions configure Jobs.
type JobsOptions struct {
	Store    Store
	Backfill *Backfill
	// Group returns the current definition of a group. First is its first slot at or after start, Last its last slot at or
	// before end.
	Group func(ctx context.Context, b *index.Backfill, start, end time.Time) (*Group, error)
	// Mine reports whether this process evaluates the group.
	Mine       func(id tenant.ID, namespace, group string) bool
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

const (
	jobsInterval = 10 * time.Second
	maxJobs      = 4 // concurrent backfills in one process; each tenant has at most one of them
)

// Jobs runs the backfills of the groups that this process evaluates, and records their progress. An
// interrupted backfill is continued by the process that then evaluates the group.
type Jobs struct {
	o       JobsOptions
	wake    chan struct{}
	samples prometheus.Counter
	ended   *prometheus.CounterVec

	mu      sync.Mutex
	running map[tenant.ID]struct{}
	turns   uint64               // number of turns so far
	last    map[tenant.ID]uint64 // number of the last turn of a tenant
}

// NewJobs returns Jobs. Call Run to run them.
func NewJobs(o JobsOptions) *Jobs {
	auto := promauto.With(o.Registerer)
	j := &Jobs{o: o, wake: make(chan struct{}, 1), running: map[tenant.ID]struct{}{}, last: map[tenant.ID]uint64{},
		samples: auto.NewCounter(prometheus.CounterOpts{Name: "pallium_ruler_backfill_samples_total",
			Help: "Samples that backfills of recording rules have written."}),
		ended: auto.NewCounterVec(prometheus.CounterOpts{Name: "pallium_ruler_backfills_total",
			Help: "Backfills of recording rules that ended, by outcome: done or failed."}, []string{"outcome"})}
	for _, outcome := range []string{"done", "failed"} {
		j.ended.WithLabelValues(outcome)
	}
	return j
}

// Wake makes Run look for new backfills now.
func (j *Jobs) Wake() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// Run runs backfills until ctx ends.
func (j *Jobs) Run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	tick := time.NewTicker(jobsInterval)
	defer tick.Stop()
	for {
		list, err := j.due(ctx)
		if err != nil && ctx.Err() == nil {
			j.o.Logger.Warn("could not read the backfills of recording rules; retrying", "err", err)
		}
		for i := range list {
			if b := list[i]; j.begin(b.Tenant) {
				all.Go(func() {
					more := j.run(ctx, &b)
					j.end(b.Tenant)
					if more {
						j.Wake()
					}
				})
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-j.wake:
		}
	}
}

// due returns the unfinished backfills of groups that this process evaluates. Tenants whose last turn was longest ago come
// first.
func (j *Jobs) due(ctx context.Context) ([]index.Backfill, error) {
	tenants, err := j.o.Store.Tenants(ctx)
	if err != nil {
		return nil, err
	}
	all, err := j.o.Store.Backfills(ctx, tenants...)
	var out []index.Backfill
	for _, b := range all {
		if b.State == schema.BackfillRunning && j.o.Mine(b.Tenant, b.Namespace, b.Group) {
			out = append(out, b)
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	waiting := map[tenant.ID]uint64{}
	for i := range out {
		if n, ok := j.last[out[i].Tenant]; ok {
			waiting[out[i].Tenant] = n
		}
	}
	j.last = waiting
	slices.SortStableFunc(out, func(a, b index.Backfill) int {
		return cmp.Or(cmp.Compare(waiting[a.Tenant], waiting[b.Tenant]), cmp.Compare(a.Updated, b.Updated))
	})
	return out, err
}

func (j *Jobs) begin(id tenant.ID) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, busy := j.running[id]; busy || len(j.running) >= maxJobs {
		return false
	}
	j.running[id] = struct{}{}
	j.turns++
	j.last[id] = j.turns
	return true
}

func (j *Jobs) end(id tenant.ID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.running, id)
}

// turn is the time for which a backfill runs before other backfills get a turn.
const turn = 5 * time.Second

// run runs a backfill for a turn, or until it is complete, fails, is changed by another process, or another process evaluates
// the group. It reports whether Run should search for backfills again at once. After an error that the tenant did not cause,
// it returns false, so that the backfill is continued after the next regular search.
func (j *Jobs) run(ctx context.Context, b *index.Backfill) (more bool) {
	began := time.Now()
	log := j.o.Logger.With("tenant", b.Tenant, "namespace", b.Namespace, "group", b.Group)
	// An earlier turn may have changed the backfill since b was read.
	now, ok, err := j.o.Store.Backfill(ctx, b.Tenant, b.Namespace, b.Group)
	if err != nil || !ok || now.State != schema.BackfillRunning {
		return err == nil
	}
	*b = now
	for b.State == schema.BackfillRunning && j.o.Mine(b.Tenant, b.Namespace, b.Group) {
		if time.Since(began) >= turn {
			return true
		}
		old := b.Backfill
		err := j.block(ctx, b)
		if err == nil {
			err = j.o.Store.UpdateBackfill(ctx, b, old)
		}
		switch {
		case ctx.Err() != nil:
			return false
		case errors.Is(err, index.ErrBackfillChanged):
			log.Info("stopped a backfill of recording rules: it was changed or deleted")
			return true
		case err != nil:
			log.Warn("could not continue a backfill of recording rules; retrying", "err", err)
			return false
		}
	}
	switch b.State {
	case schema.BackfillDone:
		j.ended.WithLabelValues("done").Inc()
		log.Info("completed a backfill of recording rules", "samples", b.Samples, "failed", b.Failed)
	case schema.BackfillFailed:
		j.ended.WithLabelValues("failed").Inc()
		log.Info("a backfill of recording rules failed", "err", b.Error)
	}
	return true // other backfills may be waiting for a turn
}

// block evaluates the next block of a backfill, and updates b. It returns only errors that the tenant did not cause; the others
// are recorded in b.
func (j *Jobs) block(ctx context.Context, b *index.Backfill) error {
	after := b.Done >= b.Start
	start := b.Start
	if after {
		start = b.Done + 1
	}
	g, err := j.o.Group(ctx, b, time.UnixMilli(start), time.UnixMilli(b.End))
	switch {
	case errors.Is(err, ErrNoGroup):
		b.State, b.Error = schema.BackfillFailed, err.Error()
		return nil
	case err != nil:
		return fmt.Errorf("read the group: %w", err)
	case g.First.After(g.Last):
		b.State, b.Done = schema.BackfillDone, b.End
		return nil
	}
	return j.evaluate(ctx, b, g, after)
}

// evaluate evaluates the block that begins with a group's first slot.
func (j *Jobs) evaluate(ctx context.Context, b *index.Backfill, g *Group, after bool) error {
	last, report, err := j.o.Backfill.Block(ctx, g, after)
	failed := err != nil && (j.o.Backfill.o.Tenant(err) || errors.Is(err, ErrFails))
	if err != nil && !failed {
		return err
	}
	j.samples.Add(float64(report.Samples))
	b.Samples += report.Samples
	b.Failed += int64(report.Failed)
	if report.Err != nil {
		b.Error = "last failed evaluation: " + report.Err.Error()
	}
	if failed {
		b.State, b.Error = schema.BackfillFailed, err.Error()
		return nil //nolint:nilerr // the tenant caused it, and it was recorded
	}
	b.Done = last.UnixMilli()
	if last.Add(g.Interval).After(g.Last) {
		b.State, b.Done = schema.BackfillDone, b.End
	}
	return nil
}
