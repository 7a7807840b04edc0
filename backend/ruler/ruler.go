// Package ruler evaluates the recording and alerting rules of tenants. It schedules the groups
// of the shares that this process holds, evaluates them with Prometheus' rules.Group, and takes
// groups over from other rulers so that the results are those of one uninterrupted ruler.
// docs/ruler.md describes scheduling and takeovers.
package ruler

import (
	"context"
	"encoding/binary"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/background"
	defs "github.com/palliumhq/pallium/backend/rules"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/limits"
)

const (
	// syncInterval is the interval at which the rules of all tenants are read.
	syncInterval = 10 * time.Second
	// grace is the time for which evaluations in progress may continue after their share must be
	// released, and at the end of the process.
	grace = 10 * time.Second
	// abandonAfter is the time for which the ruler waits for an evaluation after canceling it. An evaluation that does not
	// check its context, for example in a template, is abandoned: it continues, but can no longer write samples or send
	// alerts.
	abandonAfter = 2 * time.Second
	// DefaultInterval is the interval of groups without one, as in Prometheus.
	DefaultInterval = time.Minute
	// maxTemplateQueries is the maximum number of queries that the templates of one evaluation of a
	// rule run.
	maxTemplateQueries = 100
	// maxTemplateResults is the maximum number of series that such a query returns. Package rules uses it to estimate the
	// size of an expanded template.
	maxTemplateResults = defs.MaxQueryResults
)

// Definition is a stored group.
type Definition struct {
	Namespace string
	Group     rulefmt.RuleGroup
	// Text is the stored text of the group. Groups with equal texts are equal. If it is empty, the fields are compared.
	Text string
	// Written is the time at which the group was last stored. If it is zero, an earlier ruler may have evaluated the group.
	Written time.Time
	// AlignEvaluationTime is Mimir's align_evaluation_time_on_interval.
	AlignEvaluationTime bool
	// Err is set if the group cannot be read. Only Namespace and the group's name are set then.
	Err error
}

// Set contains all groups of a tenant.
type Set struct {
	Version string // differs after every change
	Groups  []Definition
}

// Rules gives access to the stored groups.
type Rules interface {
	// Tenants returns the tenants that may have rules.
	Tenants(context.Context) ([]tenant.ID, error)
	// Versions returns the versions of the rules of tenants; a tenant without rules has none.
	Versions(context.Context, []tenant.ID) (map[tenant.ID]string, error)
	// Groups returns the groups of a tenant. Because parsing a large group takes long, `known` returns the earlier result
	// for a group with the same text, or nil if the text is new.
	Groups(ctx context.Context, id tenant.ID, known func(namespace, name, text string) *Definition) (Set, error)
}

// Leases reports which shares this process holds. shares.Holder implements it.
type Leases interface {
	Lease(share int) (number uint64, deadline time.Duration, ok bool)
}

// Bounds contains a tenant's limits for the evaluation of rules. 0 means no limit.
type Bounds struct {
	MaxGroups   int
	MaxResults  int // maximum number of series that one evaluation of a rule returns
	Concurrent  int // maximum number of groups that are evaluated concurrently
	QueryOffset time.Duration
	Recording   bool // whether recording rules are evaluated
	Alerting    bool // whether alerting rules are evaluated
}

// Options configure a Ruler. Fields without a default must be set.
type Options struct {
	Rules Rules
	// Query evaluates an expression for a tenant.
	Query func(ctx context.Context, id tenant.ID, expr string, at time.Time) (promql.Vector, error)
	// Select returns the series of a tenant.
	Select func(tenant.ID) storage.Queryable
	Push   func(context.Context, *series.Batch) (series.Outcome, error)
	// Notify sends alerts. It is called after an evaluation of an alerting rule if alerts are due to be
	// sent, and after several late slots only once.
	Notify func(ctx context.Context, id tenant.ID, expr string, alerts ...*rules.Alert)
	Limits func(tenant.ID) *limits.Limits
	Bounds func(tenant.ID) Bounds
	// Deleted reports whether a tenant was deleted.
	Deleted func(context.Context, tenant.ID) (bool, error)
	Shares  Leases
	Count   int // number of shares
	Parsers switches.Parsers
	// ExternalURL returns the external URL in templates and links of a tenant's alerts.
	ExternalURL func(tenant.ID) string
	// UserError reports whether the tenant's rules, data or limits caused an error of Query or
	// Push. By default, no error counts as such.
	UserError func(error) bool

	Now         func() time.Time // default time.Now
	Running     func() time.Duration
	Concurrency int // maximum number of groups that are evaluated concurrently; default 512
	Logger      *slog.Logger
	Registerer  prometheus.Registerer
}

// Ruler evaluates the groups of the shares that it holds according to Gained and Lost. It is safe for
// concurrent use.
type Ruler struct {
	opts       Options
	metrics    metrics
	groups     *rules.Metrics // not registered: its labels name tenants' groups
	evaluators *background.Group
	wake       chan struct{} // wakes the scheduler
	work       chan struct{} // wakes a worker for tasks

	mu       sync.Mutex
	tenants  map[tenant.ID]*rulerTenant
	held     map[int]*heldShare
	tasks    tasks
	stopping bool
	schedule schedule
}

// heldShare is a share between Gained and the end of its last evaluation.
type heldShare struct {
	number  uint64
	idle    time.Duration // time without a holder before the share was gained
	gained  time.Time
	running int // evaluations in progress
	leaving bool
	ended   func() // while leaving: called once, when the last evaluation has ended or was abandoned
}

// end calls `ended` unless it was called before. Ruler.mu is locked.
func (s *heldShare) end() {
	if ended := s.ended; ended != nil {
		s.ended = nil
		ended()
	}
}

// New returns a Ruler that holds no shares.
func New(o Options) *Ruler {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Concurrency == 0 {
		o.Concurrency = 512
	}
	if o.UserError == nil {
		o.UserError = func(error) bool { return false }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Ruler{opts: o, groups: rules.NewGroupMetrics(nil), evaluators: background.New(), wake: make(chan struct{}, 1),
		work: make(chan struct{}, syncWorkers), tenants: map[tenant.ID]*rulerTenant{}, held: map[int]*heldShare{},
		tasks: tasks{byTenant: map[tenant.ID]*task{}}}
	r.metrics = newMetrics(o.Registerer, r)
	return r
}

// Share returns the share of a group.
func Share(id tenant.ID, namespace, name string, count int) int {
	var d xxhash.Digest
	d.Reset()
	for _, s := range []string{string(id), namespace, name} {
		_, _ = d.Write(binary.AppendUvarint(nil, uint64(len(s))))
		_, _ = d.WriteString(s)
	}
	return int(d.Sum64() % uint64(count))
}

// Run reads and evaluates rules until the context ends. Then it waits for the evaluations in
// progress. It cancels them after 10 seconds, and abandons them 2 s later. When Run has returned,
// the shares may be released.
func (r *Ruler) Run(ctx context.Context) {
	var loops sync.WaitGroup
	loops.Go(func() { r.scheduleLoop(ctx) })
	loops.Go(func() { r.syncLoop(ctx) })
	for range syncWorkers {
		loops.Go(func() { r.syncWorker(ctx) })
	}
	<-ctx.Done()
	r.mu.Lock()
	r.stopping = true
	r.mu.Unlock()
	stop := time.AfterFunc(grace, r.evaluators.Cancel)
	defer stop.Stop()
	defer r.evaluators.Cancel()
	ended := make(chan struct{})
	go func() { // until the last evaluation has ended
		defer close(ended)
		loops.Wait()
		r.evaluators.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(grace + abandonAfter):
		r.mu.Lock()
		defer r.mu.Unlock()
		r.opts.Logger.Warn("rule evaluations did not end after they were canceled: stopping without waiting for them",
			"evaluations", r.schedule.active)
	}
}

// Gained implements shares.Events: the ruler takes over the groups of the share.
func (r *Ruler) Gained(share int, number uint64, idle time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held[share] = &heldShare{number: number, idle: idle, gained: r.opts.Now()}
	for id, t := range r.tenants {
		if slices.ContainsFunc(t.defs, func(d *definition) bool { return d.share == share }) {
			r.enqueue(id, true, func(*task) {})
		}
	}
}

// Lost implements shares.Events. The ruler begins no more evaluations of the share's groups. It
// calls `ended` when the evaluations in progress have ended. It cancels them after 10 seconds, or at
// once if the lease has ended, and abandons them 2 seconds later.
func (r *Ruler) Lost(share int, ended func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.held[share]
	if s == nil {
		ended()
		return
	}
	delete(r.held, share)
	s.leaving, s.ended = true, ended
	var running []*group
	for _, t := range r.tenants {
		for _, g := range t.all() {
			if g.share != share {
				continue
			}
			if g.running {
				running = append(running, g)
			}
			r.drop(t, g)
		}
	}
	if s.running == 0 {
		s.end()
		return
	}
	wait := grace
	if _, _, ok := r.opts.Shares.Lease(share); !ok {
		wait = 0
	}
	time.AfterFunc(wait, func() {
		for _, g := range running {
			g.cancel()
		}
	})
	time.AfterFunc(wait+abandonAfter, func() { r.abandon(share, s) })
}

// abandon ends the wait for evaluations of a share that were canceled.
func (r *Ruler) abandon(share int, s *heldShare) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.running > 0 {
		r.opts.Logger.Warn("rule evaluations did not end after they were canceled: leaving the share without waiting for them", "share", share,
			"evaluations", s.running)
	}
	s.end()
}

// Wake makes the ruler read the rules of a tenant at once.
func (r *Ruler) Wake(id tenant.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.enqueue(id, true, func(t *task) { t.woken = true })
}

// signal wakes the scheduler.
func (r *Ruler) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}
