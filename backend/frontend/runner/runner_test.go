package runner

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/prometheus/prometheus/util/stats"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/frontend"
	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/queue"
	"github.com/palliumhq/pallium/backend/frontend/shard"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/timing"
	"github.com/palliumhq/pallium/policies/limits"
)

// engine creates queries, and records how they were created and run.
type engine struct {
	kind   string
	opts   promql.QueryOpts
	ctx    context.Context //nolint:containedctx // what the test checks
	result promql.Result
	fault  error
	closed bool

	measured int64 // number of bytes that Exec counts as read
}

func (e *engine) NewInstantQuery(_ context.Context, _ storage.Queryable, o promql.QueryOpts, text string, at time.Time) (promql.Query, error) {
	if text == "bad" {
		return nil, errors.New("parse error")
	}
	e.kind, e.opts = "instant "+text+at.UTC().Format(" 15:04:05"), o
	return e, nil
}

func (e *engine) NewRangeQuery(_ context.Context, _ storage.Queryable, o promql.QueryOpts, text string, start, end time.Time, step time.Duration) (
	promql.Query, error) {
	e.kind, e.opts = "range "+text+start.UTC().Format(" 15:04:05")+end.UTC().Format(" 15:04:05 ")+step.String(), o
	return e, nil
}

func (e *engine) NewPartQuery(_ context.Context, _ storage.Queryable, o promql.QueryOpts, text string, _ split.Times, _ split.Range,
	of *shard.Shard) (promql.Query, error) {
	e.kind, e.opts = "part "+text, o
	if of != nil {
		e.kind = "shard " + text
	}
	return e, nil
}

func (e *engine) Exec(ctx context.Context) *promql.Result {
	e.ctx = ctx
	timing.Of(ctx).Read(e.measured)
	if e.fault != nil {
		querier.NoteFault(ctx, e.fault)
	}
	if err := memory.FromContext(ctx).Take(1 << 20); err != nil {
		return &promql.Result{Err: err}
	}
	return &e.result
}
func (e *engine) Close()                      { e.closed = true }
func (e *engine) Cancel()                     {}
func (e *engine) String() string              { return "" }
func (e *engine) Statement() parser.Statement { return nil }
func (e *engine) Stats() *stats.Statistics {
	s := &stats.Statistics{Samples: stats.NewQuerySamples(false)}
	s.Samples.TotalSamples, s.Samples.PeakSamples = 7, 5
	return s
}

func request() *evaluation.Request {
	at := time.Unix(3600, 0)
	return &evaluation.Request{Access: tenant.Access{Tenant: "acme", Policy: tenant.Unrestricted()}, Limits: limits.Default(), Text: "x",
		Times: split.Times{Start: at, End: at}, Lookback: time.Second, Class: queue.Rule, Uncached: true, Partial: true, Timeout: time.Hour}
}

// TestRun checks that an evaluation has the context of a client's query (tenant, limits, memory,
// class, timeout and options), and checks its answer.
func TestRun(t *testing.T) {
	e := &engine{result: promql.Result{Value: promql.Scalar{V: 1}, Warnings: annotations.New().Add(errors.New("w"))}, fault: errors.New("fault")}
	account := memory.NewAccount(1<<30, prometheus.NewRegistry())
	r := New(Options{Engine: e, Parts: e, Memory: account, Switches: "v1", Gate: querier.NewGate(prometheus.NewRegistry()),
		Cost: func(promql.Query) (int64, int64) { return 3, 4 }})
	req := request()
	req.Limits.PromQLPerStepStats = true
	a, release := r.Run(t.Context(), req)
	if a.Syntax != "promql_per_step_stats" || req.CheckSyntax(a) != nil {
		t.Errorf("the answer was evaluated with %q", a.Syntax)
	}
	if a.Err != nil || a.Value.(promql.Scalar).V != 1 || len(a.Notes) != 1 || !a.Joinable || a.Switches != "v1" || !errors.Is(a.Fault, e.fault) ||
		a.Cost != (evaluation.Cost{Series: 3, Samples: 4, Read: 7}) {
		t.Errorf("answer %+v", a)
	}
	access, err := tenant.FromContext(e.ctx)
	deadline, ok := e.ctx.Deadline()
	switch {
	case err != nil || access != req.Access:
		t.Errorf("access %v, %v", access, err)
	case querier.Limits(e.ctx) != &req.Limits:
		t.Error("not the limits of the request")
	case !ok || time.Until(deadline) < 59*time.Minute || time.Until(deadline) > time.Hour+grace:
		t.Errorf("deadline %v", deadline)
	case !frontend.Uncached(e.ctx) || !querier.Partial(e.ctx) || evaluation.ClassOf(e.ctx, true) != queue.Rule:
		t.Error("options of the request are lost")
	case e.kind != "instant x 01:00:00" || e.opts.LookbackDelta() != time.Second:
		t.Errorf("query %s, look-back %v", e.kind, e.opts.LookbackDelta())
	case e.closed || account.Used() == 0:
		t.Error("the answer was released before it was used")
	}
	release()
	if !e.closed || account.Used() != 0 || e.ctx.Err() == nil {
		t.Errorf("closed %v, %d bytes held, context %v after the release", e.closed, account.Used(), e.ctx.Err())
	}

	req.Times.End, req.Times.Step = req.Times.Start.Add(time.Hour), time.Minute
	_, release = r.Run(t.Context(), req)
	release()
	if e.kind != "range x 01:00:00 02:00:00 1m0s" {
		t.Errorf("query %s", e.kind)
	}
	req.Part = &split.Range{}
	_, release = r.Run(t.Context(), req)
	release()
	if e.kind != "part x" {
		t.Errorf("query %s", e.kind)
	}
}

// TestNotSharded checks that the answer for a shard that cannot be evaluated alone says that the
// shard was ignored, so that the frontend evaluates the query without shards.
func TestNotSharded(t *testing.T) {
	e := &engine{result: promql.Result{Err: promql.ErrStorage{Err: evaluation.ErrNotSharded}}}
	r := New(Options{Engine: e, Parts: e})
	req := request()
	req.Times.Step, req.Part, req.Shard = time.Minute, &split.Range{}, &shard.Shard{Of: 2}
	a, release := r.Run(t.Context(), req)
	defer release()
	if a.Err != nil || a.Sharded || a.Value == nil {
		t.Errorf("answer %+v", a)
	}
}

// TestErrors checks the errors of queries that cannot be parsed, are not allowed, or exceed a limit.
func TestErrors(t *testing.T) {
	e := &engine{}
	account := memory.NewAccount(1<<30, prometheus.NewRegistry())
	gate := querier.NewGate(prometheus.NewRegistry())
	r := New(Options{Engine: e, Memory: account, Gate: gate})
	req := request()
	req.Text = "bad"
	if a, release := r.Run(t.Context(), req); a.Err == nil {
		t.Error("a query that cannot be parsed has no error")
	} else {
		release()
	}
	req = request()
	req.Times.Step, req.Part = time.Minute, &split.Range{}
	if a, release := r.Run(t.Context(), req); a.Err == nil {
		t.Error("a part has no error, although the runner cannot evaluate parts")
	} else {
		release()
	}
	req = request()
	req.Limits.MaxMemoryBytes = 1000
	a, release := r.Run(t.Context(), req)
	release()
	var exceeded *limits.Exceeded
	if !errors.As(a.Err, &exceeded) {
		t.Errorf("beyond max_memory_bytes: %v", a.Err)
	}
	req = request()
	req.Limits.MaxConcurrentQueries, req.Limits.MaxQueuedQueries = 1, 0
	leave, err := gate.Enter(t.Context(), "acme", &req.Limits)
	if err != nil {
		t.Fatal(err)
	}
	a, release = r.Run(t.Context(), req)
	release()
	var full *querier.QueueFullError
	if !errors.As(a.Err, &full) || !errors.As(a.Fault, &full) {
		t.Errorf("beyond max_concurrent_queries: %v, fault %v", a.Err, a.Fault)
	}
	leave()
	if a, release := r.Run(t.Context(), req); a.Err != nil {
		t.Errorf("after a slot became free: %v", a.Err)
	} else {
		release()
	}
	if account.Used() != 0 {
		t.Errorf("%d bytes held", account.Used())
	}
}

// TestTiming checks that an answer has the measurements of its evaluation, also if that failed.
func TestTiming(t *testing.T) {
	for _, err := range []error{nil, errors.New("x")} {
		e := &engine{result: promql.Result{Value: promql.Scalar{V: 1}, Err: err}, measured: 7}
		r := New(Options{Engine: e})
		a, release := r.Run(t.Context(), request())
		if a.Timing.Reads != 1 || a.Timing.Bytes != 7 {
			t.Errorf("error %v: %+v", err, a.Timing)
		}
		release()
	}
}
