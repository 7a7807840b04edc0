// Package runner runs evaluations that another process requested. It sets the same values in the
// context that the API sets for a client's request.
package runner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/frontend"
	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/shard"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/backend/timing"
)

// Parts evaluates parts of range queries.
type Parts interface {
	// NewPartQuery returns a query for some steps of a range query, or for a shard of them if `of` is not nil.
	NewPartQuery(ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, whole split.Times, part split.Range,
		of *shard.Shard) (promql.Query, error)
}

// Options configure a Runner.
type Options struct {
	Engine    promql.QueryEngine
	Parts     Parts // nil: requests of parts fail
	Queryable storage.Queryable
	Memory    *memory.Account // nil: memory is not accounted for
	// Gate limits the queries of a tenant. It is nil where evaluations come from a query frontend, which
	// has its own gate.
	Gate     *querier.Gate
	Cost     func(promql.Query) (series, samples int64)
	Readers  func(promql.Query) evaluation.Readers
	Switches string // the versions of this process on which answers depend, as text
	Now      func() time.Time
}

// Runner runs evaluations. It is safe for concurrent use.
type Runner struct{ o Options }

// New returns a Runner.
func New(o Options) *Runner {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Runner{o}
}

// Run runs an evaluation. The caller must call release when it no longer needs the answer.
func (r *Runner) Run(ctx context.Context, req *evaluation.Request) (a *evaluation.Answer, release func()) {
	var closers []func()
	release = func() {
		for i := len(closers) - 1; i >= 0; i-- {
			closers[i]()
		}
	}
	ctx, fault, end := r.context(ctx, req)
	closers = append(closers, end)
	measured := timing.New(r.o.Now)
	ctx = timing.NewContext(ctx, measured)
	a = &evaluation.Answer{Joinable: true, Sharded: req.Shard != nil, Switches: r.o.Switches, Syntax: switches.Of(&req.Limits).String()}
	defer func() { a.Fault, a.Timing = fault(), measured.Report() }()
	if r.o.Gate != nil {
		leave, err := r.o.Gate.Enter(ctx, req.Access.Tenant, &req.Limits)
		if err != nil {
			querier.NoteFault(ctx, err)
			a.Err = err
			return a, release
		}
		closers = append(closers, leave)
	}
	q, err := r.query(ctx, req)
	if err != nil {
		a.Err = fmt.Errorf("prepare the query: %w", err)
		return a, release
	}
	closers = append(closers, q.Close)
	r.exec(ctx, q, req, a)
	return a, release
}

// context returns the context of an evaluation, with the values that the API sets for a query. The
// function `fault` returns the error of a failed read of data, or nil. The function `end` releases
// the memory of the evaluation.
func (r *Runner) context(ctx context.Context, req *evaluation.Request) (_ context.Context, fault func() error, end func()) {
	h := r.o.Memory.Begin(memory.Request{Tenant: req.Access.Tenant, Limit: req.Limits.MaxMemoryBytes})
	ctx, fault = querier.NoteFaults(tenant.NewContext(ctx, req.Access))
	ctx, cancel := context.WithCancelCause(querier.WithLimits(memory.NewContext(ctx, h), &req.Limits))
	h.OnEnd(cancel)
	if req.Uncached {
		ctx = frontend.WithoutCache(ctx)
	}
	if req.Partial {
		ctx = querier.WithPartial(ctx)
	}
	ctx = evaluation.WithClass(ctx, req.Class)
	stop := func() {}
	if t := req.Timeout; t > 0 {
		ctx, stop = context.WithTimeoutCause(ctx, t+grace, querier.TimedOut(&req.Limits))
	}
	return ctx, fault, func() {
		stop()
		cancel(nil)
		h.Close()
	}
}

// grace is added to the timeout of a request, so that the process that sent the request
// normally ends it first, at the timeout: only that process knows whether the timeout is the
// client's or the limit query_timeout, and returns the right error.
const grace = time.Second

func (r *Runner) query(ctx context.Context, req *evaluation.Request) (promql.Query, error) {
	opts := promql.NewPrometheusQueryOpts(false, req.Lookback, nil)
	switch {
	case req.Instant():
		return r.o.Engine.NewInstantQuery(ctx, r.o.Queryable, opts, req.Text, req.Times.Start)
	case req.Part != nil && r.o.Parts == nil:
		return nil, errors.New("parts of queries are not evaluated here")
	case req.Part != nil:
		return r.o.Parts.NewPartQuery(ctx, r.o.Queryable, opts, req.Text, req.Times, *req.Part, req.Shard)
	}
	return r.o.Engine.NewRangeQuery(ctx, r.o.Queryable, opts, req.Text, req.Times.Start, req.Times.End, req.Times.Step)
}

func (r *Runner) exec(ctx context.Context, q promql.Query, req *evaluation.Request, a *evaluation.Answer) {
	res := q.Exec(ctx)
	var unreadable promql.ErrStorage
	if errors.As(res.Err, &unreadable) && errors.Is(unreadable.Err, evaluation.ErrNotSharded) {
		a.Sharded, a.Value = false, promql.Matrix{} // the frontend evaluates the query without shards
		return
	}
	if a.Err = res.Err; a.Err == nil {
		a.Value = res.Value
		a.Notes, a.Joinable = evaluation.NotesOf(res.Warnings, req.Text)
	}
	if s := q.Stats(); s != nil && s.Samples != nil {
		a.Cost.Read, a.Cost.Samples = s.Samples.TotalSamples, int64(s.Samples.PeakSamples)
	}
	if r.o.Cost != nil {
		a.Cost.Series, a.Cost.Samples = r.o.Cost(q)
	}
	if r.o.Readers != nil {
		a.Readers = r.o.Readers(q)
	}
}
