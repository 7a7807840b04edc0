// Package home sends each tenant's queries to the same query frontend of the ring, the tenant's
// home: there they wait in one queue, share one cache in memory, and equal queries are joined. See
// docs/frontend.md.
package home

import (
	"cmp"
	"context"
	"errors"
	"hash/fnv"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/timing"
)

// Frontend is a query frontend of the ring.
type Frontend struct {
	ID        string
	Self      bool // this process
	Unhealthy bool
	// Query sends a query to the frontend.
	Query func(ctx context.Context, r *evaluation.Request) (*evaluation.Answer, error)
	// Hold waits, like an instant query or a range query, until the frontend holds a slot for a read of
	// a tenant.
	Hold func(ctx context.Context, id tenant.ID, instant bool) (release func(), err error)
}

// Options configure an Engine.
type Options struct {
	// Here answers queries in this process: if this process is the first of the tenant's frontends
	// that is available, if none of the first maxFrontends frontends is available, or if a query
	// cannot be sent to another process.
	Here promql.QueryEngine
	// Hold holds a slot of this process' frontend for a read; nil: there is none.
	Hold func(ctx context.Context, id tenant.ID, instant bool) (release func(), err error)
	// Frontends returns the frontends of the ring.
	Frontends func(ctx context.Context) ([]Frontend, error)
	// Elsewhere reports whether, after an error of Query, another frontend or this process may
	// answer.
	Elsewhere func(err error) bool
	// Request returns the tenant, the policy and the limits of a query.
	Request func(ctx context.Context) (evaluation.Request, error)
	// Uncached reports whether a query must not use the results cache.
	Uncached func(ctx context.Context) bool
	// Failed returns the result of a query that failed in another process, or could not be sent to it.
	Failed func(err error) *promql.Result
	// Canceled returns the result of a query whose context has ended.
	Canceled func(ctx context.Context) *promql.Result
	// Unreadable records the error with which another process failed to read data for a query.
	Unreadable func(ctx context.Context, err error)
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Engine is a promql.QueryEngine that sends queries to their tenant's home.
type Engine struct {
	o       Options
	queries *prometheus.CounterVec
}

var _ promql.QueryEngine = (*Engine)(nil)

// Where queries were answered, as in metrics.
const (
	byHome  = "home"
	byOther = "other" // another frontend, since the home was not available
	byHere  = "here"
)

// New returns an Engine.
func New(o Options) *Engine {
	e := &Engine{o: o, queries: promauto.With(o.Registerer).NewCounterVec(prometheus.CounterOpts{
		Name: "pallium_frontend_passed_queries_total",
		Help: "Queries by who answered them: home (the tenant's query frontend, in another process), " +
			"other (another query frontend, since the home was not available), or here (this process, which may be the home).",
	}, []string{"by"})}
	for _, by := range []string{byHome, byOther, byHere} {
		e.queries.WithLabelValues(by)
	}
	return e
}

// NewInstantQuery implements promql.QueryEngine.
func (e *Engine) NewInstantQuery(
	ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, at time.Time,
) (promql.Query, error) {
	here, err := e.o.Here.NewInstantQuery(ctx, q, opts, text, at)
	return e.query(ctx, here, err, opts, split.Times{Start: at, End: at}, text)
}

// NewRangeQuery implements promql.QueryEngine.
func (e *Engine) NewRangeQuery(
	ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, start, end time.Time, step time.Duration,
) (promql.Query, error) {
	here, err := e.o.Here.NewRangeQuery(ctx, q, opts, text, start, end, step)
	return e.query(ctx, here, err, opts, split.Times{Start: start, End: end, Step: step}, text)
}

func (e *Engine) query(ctx context.Context, here promql.Query, err error, opts promql.QueryOpts, times split.Times, text string) (
	promql.Query, error) {
	if err != nil {
		return nil, err
	}
	if here.Statement() == nil { // rejected before it was parsed
		return here, nil
	}
	if !evaluation.Portable(ctx, opts) {
		return here, nil
	}
	r, err := e.o.Request(ctx)
	if err != nil {
		here.Close()
		return nil, err
	}
	r = r.Of(ctx, opts, text, times)
	r.Uncached = e.o.Uncached(ctx)
	return &query{Query: here, e: e, request: r}, nil
}

// query is a query whose home may be another process. The embedded query answers it here.
type query struct {
	promql.Query
	e       *Engine
	request evaluation.Request
}

// maxFrontends is the maximum number of frontends to which a query is sent before it is answered here.
const maxFrontends = 3

// Exec implements promql.Query.
func (q *query) Exec(ctx context.Context) *promql.Result {
	list, err := q.e.o.Frontends(ctx)
	if err != nil {
		q.e.o.Logger.Debug("reading the query frontends of the ring failed", "err", err)
	}
	for i, f := range order(list, q.request.Access.Tenant) {
		if f.Self || i == maxFrontends {
			break
		}
		a, err := f.Query(ctx, &q.request)
		switch {
		case err == nil:
			q.e.queries.WithLabelValues(by(i)).Inc()
			return q.result(ctx, a)
		case ctx.Err() != nil:
			return q.e.o.Canceled(ctx)
		case !q.e.o.Elsewhere(err):
			return q.e.o.Failed(err)
		}
		q.e.o.Logger.Warn("a query frontend did not answer", "frontend", f.ID, "err", err)
	}
	q.e.queries.WithLabelValues(byHere).Inc()
	return q.Query.Exec(ctx)
}

// Hold waits until the tenant's home, or another frontend if the home is not available, holds a slot
// for a read that this process performs. The caller must call release. If no other frontend holds
// one, and this process has no frontend, Hold returns without a slot. Its only error is the cause of
// the end of ctx.
func (e *Engine) Hold(ctx context.Context, id tenant.ID, instant bool) (release func(), err error) {
	list, err := e.o.Frontends(ctx)
	if err != nil {
		e.o.Logger.Debug("reading the query frontends of the ring failed", "err", err)
	}
	for i, f := range order(list, id) {
		if f.Self || i == maxFrontends {
			break
		}
		release, err := f.Hold(ctx, id, instant)
		switch {
		case err == nil:
			return release, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		}
		e.o.Logger.Debug("a query frontend could not reserve a slot for a read; trying the next one", "frontend", f.ID, "err", err)
	}
	if e.o.Hold != nil {
		return e.o.Hold(ctx, id, instant)
	}
	return func() {}, nil
}

func by(position int) string {
	if position == 0 {
		return byHome
	}
	return byOther
}

// result returns the answer of another process as a result of the query.
func (q *query) result(ctx context.Context, a *evaluation.Answer) *promql.Result {
	timing.Of(ctx).Merge(a.Timing)
	if a.Fault != nil {
		q.e.o.Unreadable(ctx, a.Fault)
	}
	if a.Err != nil {
		return q.e.o.Failed(a.Err)
	}
	a.Cost.Report(q.Query)
	return a.Result()
}

// order returns the frontends in the order in which a tenant uses them: by the hash of tenant and
// frontend (rendezvous hashing), so that only the tenants of a frontend that joins or leaves get
// another home. Unhealthy ones are last.
func order(list []Frontend, id tenant.ID) []Frontend {
	weights := map[string]uint64{}
	for _, f := range list {
		h := fnv.New64a()
		_, _ = h.Write([]byte(f.ID))
		_, _ = h.Write([]byte{0})
		_, _ = h.Write([]byte(id))
		weights[f.ID] = mix(h.Sum64())
	}
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b Frontend) int {
		if a.Unhealthy != b.Unhealthy {
			if a.Unhealthy {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(weights[b.ID], weights[a.ID]), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// mix spreads the bits of an FNV hash, whose high bits depend little on the last bytes
// (the finalizer of MurmurHash3).
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// ErrDraining is returned for a query that a frontend does not accept because it is stopping.
var ErrDraining = errors.New("query frontend is stopping")
