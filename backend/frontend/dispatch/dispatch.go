// Package dispatch runs evaluations of queries on the queriers that are connected to a query
// frontend, or on the slots of its own process, in the order of a fair queue. It repeats an
// evaluation if the querier disappeared or could not read the data. See docs/frontend.md.
package dispatch

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"

	"github.com/palliumhq/pallium/backend/frontend"
	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/queue"
	"github.com/palliumhq/pallium/backend/frontend/shard"
	"github.com/palliumhq/pallium/backend/frontend/split"
)

// Errors of a Slot.
var (
	// ErrQuerierEnded is returned if the querier disappeared before it answered.
	ErrQuerierEnded = errors.New("the querier disappeared before it answered")
	// ErrNotBegun is returned if the querier disappeared before it began the evaluation (which may
	// have waited to run alone): the evaluation cannot be the cause.
	ErrNotBegun = errors.New("the querier disappeared before it began")
	// ErrSlotBroken is returned if the slot cannot be used again: the evaluation was
	// canceled, or its request could not be encoded, or its answer was not received completely.
	ErrSlotBroken = errors.New("the slot of the querier cannot be used again")
)

// Errors of queries.
var (
	// ErrNoQuerier is the error of a query that waited while no querier was connected for noQuerierWait.
	ErrNoQuerier = errors.New("no querier is connected to the query frontend")
	// errSuspect is the error of a query during which, or during an earlier query like it, two
	// queriers disappeared.
	errSuspect = errors.New("the query may have ended a querier: two queriers disappeared while they evaluated it or " +
		"an earlier one like it; it is rejected for 5 minutes; select fewer series, a shorter range or a longer step")
)

// Slot is a slot of a querier: it runs one evaluation at a time.
type Slot interface {
	// Querier returns the name of the querier.
	Querier() string
	// Evaluate runs an evaluation. The error is ErrQuerierEnded, ErrNotBegun or
	// ErrSlotBroken, after which the slot must not be used; with ErrSlotBroken there may also be an answer.
	Evaluate(ctx context.Context, r *evaluation.Request) (*evaluation.Answer, error)
	// Leaving returns a channel that is closed when the querier takes no more evaluations.
	Leaving() <-chan struct{}
}

// Engine is the engine of this process. It parses and checks queries, and evaluates them in
// the slots of this process.
type Engine interface {
	frontend.Evaluator
	// Interrupted returns the result of a query whose context ended before the query had a result.
	Interrupted(ctx context.Context) *promql.Result
	// Unreadable records the error with which another process failed to read data for a query.
	Unreadable(ctx context.Context, err error)
	// Request returns the tenant, the policy and the limits of a query.
	Request(ctx context.Context) (evaluation.Request, error)
}

// Options configure a Dispatcher.
type Options struct {
	Engine Engine
	Queue  *queue.Queue
	// Switches has the versions of this process on which answers depend, as text.
	Switches string
	// Timer returns a channel that receives after a duration, as time.After.
	Timer      func(time.Duration) <-chan time.Time
	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Dispatcher is a frontend.Evaluator whose queries are evaluated by slots. It is safe for
// concurrent use.
type Dispatcher struct {
	frontend.Evaluator
	o        Options
	costs    *costs
	suspects *suspects
	here     atomic.Int64 // number of slots of this process
	draining chan struct{}
	drain    sync.Once
	metrics  metrics

	mu     sync.Mutex
	warned time.Time // when it was last logged that no querier is connected
}

type metrics struct {
	repeated *prometheus.CounterVec
	suspects prometheus.Counter
}

var _ frontend.Evaluator = (*Dispatcher)(nil)

// New returns a Dispatcher without slots.
func New(o Options) *Dispatcher {
	auto := promauto.With(o.Registerer)
	d := &Dispatcher{Evaluator: o.Engine, o: o, costs: newCosts(), suspects: newSuspects(o.Now), draining: make(chan struct{}),
		metrics: metrics{
			repeated: auto.NewCounterVec(prometheus.CounterOpts{Name: "pallium_frontend_repeated_evaluations_total",
				Help: "Evaluations that were repeated, by reason: querier_ended, or unreadable (data could not be read, or no memory was free).",
			}, []string{"reason"}),
			suspects: auto.NewCounter(prometheus.CounterOpts{Name: "pallium_frontend_suspect_queries_total",
				Help: "Queries that were rejected because two queriers disappeared while they evaluated the query or an earlier one like it."}),
		}}
	for _, reason := range []string{"querier_ended", "unreadable"} {
		d.metrics.repeated.WithLabelValues(reason)
	}
	return d
}

// NewInstantQuery implements promql.QueryEngine.
func (d *Dispatcher) NewInstantQuery(
	ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, at time.Time,
) (promql.Query, error) {
	inner, err := d.Evaluator.NewInstantQuery(ctx, q, opts, text, at)
	return d.query(ctx, inner, err, opts, text, split.Times{Start: at, End: at}, nil, nil)
}

// NewRangeQuery implements promql.QueryEngine.
func (d *Dispatcher) NewRangeQuery(
	ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, start, end time.Time, step time.Duration,
) (promql.Query, error) {
	inner, err := d.Evaluator.NewRangeQuery(ctx, q, opts, text, start, end, step)
	return d.query(ctx, inner, err, opts, text, split.Times{Start: start, End: end, Step: step}, nil, nil)
}

// NewPartQuery implements frontend.Evaluator.
func (d *Dispatcher) NewPartQuery(
	ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, whole split.Times, part split.Range,
	of *shard.Shard,
) (promql.Query, error) {
	inner, err := d.Evaluator.NewPartQuery(ctx, q, opts, text, whole, part, of)
	return d.query(ctx, inner, err, opts, text, whole, &part, of)
}

func (d *Dispatcher) query(ctx context.Context, inner promql.Query, err error, opts promql.QueryOpts, text string, whole split.Times,
	part *split.Range, of *shard.Shard) (promql.Query, error) {
	if err != nil {
		return nil, err
	}
	r, err := d.o.Engine.Request(ctx)
	if err != nil {
		inner.Close()
		return nil, err
	}
	r = r.Of(ctx, opts, text, whole)
	r.Part, r.Shard, r.Uncached = part, of, true
	return &query{Query: inner, d: d, request: r, local: !evaluation.Portable(ctx, opts)}, nil
}

// Check implements frontend.Evaluator.
func (d *Dispatcher) Check(q promql.Query) error { return d.Evaluator.Check(inner(q)) }

// Cost implements frontend.Evaluator.
func (d *Dispatcher) Cost(q promql.Query) (series, samples int64) {
	if own, ok := q.(*query); ok && own.answer != nil {
		return own.answer.Cost.Series, own.answer.Cost.Samples
	}
	return d.Evaluator.Cost(inner(q))
}

// Readers implements frontend.Evaluator.
func (d *Dispatcher) Readers(q promql.Query) evaluation.Readers {
	if own, ok := q.(*query); ok && own.answer != nil {
		return own.answer.Readers
	}
	return d.Evaluator.Readers(inner(q))
}

// warnNoQuerier logs, at most once a minute, that no querier is connected.
func (d *Dispatcher) warnNoQuerier() {
	now := d.o.Now()
	d.mu.Lock()
	recent := now.Sub(d.warned).Abs() < time.Minute
	if !recent {
		d.warned = now
	}
	d.mu.Unlock()
	if !recent {
		d.o.Logger.Warn("queries fail: no querier is connected to this query frontend")
	}
}

func inner(q promql.Query) promql.Query {
	if own, ok := q.(*query); ok {
		return own.Query
	}
	return q
}

// Drain ends each slot when it is idle. All queries must have ended before: a query that still waits
// fails.
func (d *Dispatcher) Drain() { d.drain.Do(func() { close(d.draining) }) }

// Serve gives evaluations to a slot until it leaves or ends, ctx ends, or the frontend
// drains.
func (d *Dispatcher) Serve(ctx context.Context, slot Slot) error {
	remove := d.o.Queue.AddWorkers(slot.Querier(), 1)
	defer remove()
	return d.each(ctx, slot.Querier(), slot.Leaving(), func(t *task) error {
		r := t.query.request
		r.Alone = t.alone
		var err error
		t.answer, err = slot.Evaluate(t.ctx, &r)
		t.ended, t.unbegun = errors.Is(err, ErrQuerierEnded), errors.Is(err, ErrNotBegun)
		return err
	})
}

// ServeHere gives evaluations to a slot of this process until ctx ends or the frontend drains.
func (d *Dispatcher) ServeHere(ctx context.Context) {
	remove := d.o.Queue.AddWorkers("", 1)
	defer remove()
	d.here.Add(1)
	defer d.here.Add(-1)
	_ = d.each(ctx, "", nil, func(t *task) error {
		t.result = t.query.Query.Exec(t.ctx)
		return nil
	})
}

// each takes one job after another: it runs fn for a task and occupies the slot for a hold. It returns
// nil when ctx ends, leaving is closed or the frontend drains, or the first error of fn.
func (d *Dispatcher) each(ctx context.Context, querier string, leaving <-chan struct{}, fn func(*task) error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-leaving:
		case <-d.draining:
		case <-ctx.Done():
		}
		stop()
	}()
	for {
		job, err := d.o.Queue.Take(ctx, querier)
		if err != nil {
			return nil //nolint:nilerr // the slot ends
		}
		if h, ok := job.Value.(*hold); ok {
			h.serve(ctx)
			d.o.Queue.Done(job, -1)
			continue
		}
		t := job.Value.(*task)
		t.querier, t.began = querier, d.o.Now()
		err = fn(t)
		d.o.Queue.Done(job, t.read())
		close(t.done)
		if err != nil {
			return err
		}
	}
}
