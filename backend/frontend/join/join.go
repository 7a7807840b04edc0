// Package join evaluates equal queries that wait together only once: many viewers of one dashboard
// cost little more than one viewer. Queries are equal if they have the same tenant, label policy,
// limits, text, times, class and look-back.
//
// A query must not get the answer of one that was already running when it was sent: samples that
// were acknowledged in between could be missing. So equal queries that arrive while one is running
// wait for a short time (maxWait), and are then evaluated together.
package join

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/stats"

	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/timing"
)

// Options configure an Engine.
type Options struct {
	Engine promql.QueryEngine
	// Request returns the tenant, the policy and the limits of a query.
	Request func(ctx context.Context) (evaluation.Request, error)
	// Uncached reports whether a query must not use the results of other queries.
	Uncached func(ctx context.Context) bool
	// Faults returns a context that collects errors of reads of data, and a function that returns
	// the first error. Unreadable records such an error for a query.
	Faults     func(ctx context.Context) (context.Context, func() error)
	Unreadable func(ctx context.Context, err error)
	// Timer returns a channel that receives after a duration, as time.After.
	Timer       func(time.Duration) <-chan time.Time
	Interrupted func(ctx context.Context) *promql.Result
	Registerer  prometheus.Registerer
}

// Engine is a promql.QueryEngine that joins equal queries.
type Engine struct {
	o      Options
	joined prometheus.Counter

	mu      sync.Mutex
	flights map[evaluation.Key]*flights
}

var _ promql.QueryEngine = (*Engine)(nil)

// New returns an Engine.
func New(o Options) *Engine {
	return &Engine{o: o, flights: map[evaluation.Key]*flights{}, joined: promauto.With(o.Registerer).NewCounter(prometheus.CounterOpts{
		Name: "pallium_frontend_joined_queries_total",
		Help: "Queries that were answered with the result of an equal query that waited at the same time."})}
}

// NewInstantQuery implements promql.QueryEngine.
func (e *Engine) NewInstantQuery(
	ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, at time.Time,
) (promql.Query, error) {
	inner, err := e.o.Engine.NewInstantQuery(ctx, q, opts, text, at)
	return e.query(ctx, inner, err, opts, text, split.Times{Start: at, End: at})
}

// NewRangeQuery implements promql.QueryEngine.
func (e *Engine) NewRangeQuery(
	ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, start, end time.Time, step time.Duration,
) (promql.Query, error) {
	inner, err := e.o.Engine.NewRangeQuery(ctx, q, opts, text, start, end, step)
	return e.query(ctx, inner, err, opts, text, split.Times{Start: start, End: end, Step: step})
}

func (e *Engine) query(ctx context.Context, inner promql.Query, err error, opts promql.QueryOpts, text string, times split.Times) (
	promql.Query, error) {
	if err != nil {
		return nil, err
	}
	if e.o.Uncached(ctx) || !evaluation.Portable(ctx, opts) {
		return inner, nil
	}
	r, err := e.o.Request(ctx)
	if err != nil {
		inner.Close()
		return nil, err
	}
	r = r.Of(ctx, opts, text, times)
	return &query{Query: inner, e: e, key: r.Key()}, nil
}

// query is a query that may get the result of an equal one.
type query struct {
	promql.Query
	e   *Engine
	key evaluation.Key

	flight *flight // nil before Exec
	once   sync.Once
}

// Exec implements promql.Query.
func (q *query) Exec(ctx context.Context) *promql.Result {
	f, first := q.e.board(ctx, q)
	q.flight = f
	if !first {
		q.e.joined.Inc()
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		q.leave()
		if f.ctx.Err() != nil { // no query is left
			select {
			case <-f.done:
			case <-q.e.o.Timer(maxReport):
			}
		}
		timing.Of(ctx).Merge(f.timing.Report())
		return q.e.o.Interrupted(ctx)
	}
	timing.Of(ctx).Merge(f.timing.Report())
	if !first && interrupted(f.result.Err) && ctx.Err() == nil { // the timeout started with the first query, and this query may have time left
		q.leave()
		return q.Query.Exec(ctx)
	}
	if f.unreadable != nil {
		q.e.o.Unreadable(ctx, f.unreadable)
	}
	return f.result.copy()
}

func interrupted(err error) bool {
	var timeout promql.ErrQueryTimeout
	var canceled promql.ErrQueryCanceled
	return errors.As(err, &timeout) || errors.As(err, &canceled)
}

// Stats implements promql.Query.
func (q *query) Stats() *stats.Statistics {
	if f := q.flight; f != nil && f.ended() {
		return f.query.Stats()
	}
	return q.Query.Stats()
}

// Close implements promql.Query.
func (q *query) Close() {
	q.leave()
	if q.flight == nil || q.flight.query != q.Query { // otherwise the flight closes it
		q.Query.Close()
	}
}

func (q *query) leave() {
	if q.flight != nil {
		q.once.Do(func() { q.e.leave(q.flight) })
	}
}
