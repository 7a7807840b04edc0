package querier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/features"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/active"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/backend/timing"
	"github.com/palliumhq/pallium/policies/limits"
)

// LookbackDelta is the maximum age of a sample that counts as the current value
// of a series.
const LookbackDelta = 5 * time.Minute

// Engine is Prometheus' engine with the tenant's limits, which are in the
// context of each query (see WithLimits).
type Engine struct {
	logger  *slog.Logger
	parsers switches.Parsers

	mu      sync.Mutex
	engines map[engineKey]*promql.Engine // one for each combination of limits that the engine itself enforces

	queries  prometheus.Counter
	exceeded *prometheus.CounterVec
}

type engineKey struct {
	maxSamples int
	timeout    time.Duration
	switches   switches.Set
}

var _ promql.QueryEngine = (*Engine)(nil)

// NewEngine returns an Engine that parses queries with the parser of their tenant's switches.
func NewEngine(p switches.Parsers, logger *slog.Logger, reg prometheus.Registerer) *Engine {
	auto := promauto.With(reg)
	return &Engine{
		logger: logger, parsers: p,
		engines: map[engineKey]*promql.Engine{},
		queries: auto.NewCounter(
			prometheus.CounterOpts{Name: "pallium_querier_queries_total",
				Help: "Evaluations that were started, of whole PromQL queries and of their parts and shards."},
		),
		exceeded: auto.NewCounterVec(
			prometheus.CounterOpts{Name: "pallium_querier_limited_queries_total", Help: "PromQL queries that exceeded a limit, by limit."},
			[]string{"limit"}),
	}
}

// maxEngines is the maximum size of the cache of engines. With more
// combinations of limits the cache is cleared; creating an engine is cheap.
const maxEngines = 64

// engineKeyOf returns the limits that the engine itself enforces.
func engineKeyOf(lim *limits.Limits) engineKey {
	key := engineKey{maxSamples: lim.MaxQuerySamples, timeout: time.Duration(lim.QueryTimeout), switches: switches.Of(lim)}
	if key.maxSamples <= 0 {
		key.maxSamples = math.MaxInt
	}
	if key.timeout <= 0 {
		key.timeout = 24 * time.Hour
	}
	return key
}

func (e *Engine) options(key engineKey) promql.EngineOpts {
	o := promql.EngineOpts{
		Logger: e.logger, MaxSamples: key.maxSamples, Timeout: key.timeout, LookbackDelta: LookbackDelta,
		EnableAtModifier: true, EnableNegativeOffset: true, Parser: e.parsers(key.switches),
		NoStepSubqueryIntervalFn: func(int64) int64 { return defaultSubqueryStep },
	}
	key.switches.Engine(&o)
	return o
}

// Features sets in r which PromQL features are enabled for the tenant of a request.
func (e *Engine) Features(ctx context.Context, r features.Collector) {
	o := e.options(engineKey{maxSamples: 1, timeout: time.Second, switches: Switches(ctx)})
	o.FeatureRegistry = r
	promql.NewEngine(o) // sets its features in r
}

func (e *Engine) engine(lim *limits.Limits) *promql.Engine {
	key := engineKeyOf(lim)
	e.mu.Lock()
	defer e.mu.Unlock()
	if eng := e.engines[key]; eng != nil {
		return eng
	}
	if len(e.engines) >= maxEngines {
		clear(e.engines)
	}
	eng := promql.NewEngine(e.options(key))
	e.engines[key] = eng
	return eng
}

// NewInstantQuery implements promql.QueryEngine.
func (e *Engine) NewInstantQuery(
	ctx context.Context, q storage.Queryable, opts promql.QueryOpts, qs string, ts time.Time,
) (promql.Query, error) {
	lim, id, err := tenantLimits(ctx)
	if err != nil {
		return nil, err
	}
	if exceeded := checkLength(lim, qs); exceeded != nil {
		return &unparsed{engine: e, text: qs, err: exceeded}, nil //nolint:nilerr // returned by Exec: 422, not 400
	}
	inner, err := e.promqlEngine(ctx, lim).NewInstantQuery(ctx, q, opts, qs, ts)
	if err != nil {
		return nil, Explained(ctx, err)
	}
	return &query{Query: inner, engine: e, id: id, lim: lim, opts: opts, start: ts, end: ts}, nil
}

// NewRangeQuery implements promql.QueryEngine.
func (e *Engine) NewRangeQuery(
	ctx context.Context, q storage.Queryable, opts promql.QueryOpts, qs string, start, end time.Time, step time.Duration,
) (promql.Query, error) {
	lim, id, err := tenantLimits(ctx)
	if err != nil {
		return nil, err
	}
	if exceeded := checkLength(lim, qs); exceeded != nil {
		return &unparsed{engine: e, text: qs, err: exceeded}, nil //nolint:nilerr // returned by Exec: 422, not 400
	}
	inner, err := e.promqlEngine(ctx, lim).NewRangeQuery(ctx, q, opts, qs, start, end, step)
	if err != nil {
		return nil, Explained(ctx, err)
	}
	return &query{Query: inner, engine: e, id: id, lim: lim, opts: opts, start: start, end: end, step: step}, nil
}

// query checks the limits when it is executed, not when it is created: the API
// then responds with 422 (execution error) and not with 400 (bad data).
type query struct {
	promql.Query
	engine     *Engine
	id         tenant.ID
	lim        *limits.Limits
	opts       promql.QueryOpts
	start, end time.Time
	step       time.Duration // 0 for an instant query
	part       bool          // a part of a query: if it exceeds a limit, the caller counts the whole query
	ran        *evaluation   // nil before Exec
}

// failed returns a failed result and counts it. It does not count a part that is too large: fewer
// steps of it may then be evaluated.
func (q *query) failed(err error) *promql.Result {
	if q.part && q.engine.TooLarge(err) {
		return &promql.Result{Err: err}
	}
	return q.engine.failed(err)
}

// Exec implements promql.Query.
func (q *query) Exec(ctx context.Context) *promql.Result {
	if err := q.check(); err != nil {
		return q.failed(err)
	}
	q.engine.queries.Inc()
	ctx, end := timed(ctx)
	defer end()
	e, err := newEvaluation(ctx, q)
	q.ran = e
	if err != nil {
		return q.failed(explain(ctx, err))
	}
	res := q.Query.Exec(context.WithValue(ctx, evaluationKey{}, e))
	if res.Err == nil {
		if err := chargeResult(e.memory, res.Value); err != nil {
			return q.failed(explain(ctx, err))
		}
		return res
	}
	if err := overCeiling(q.opts, res.Err); err != nil {
		return q.engine.failed(err)
	}
	if err := explain(ctx, res.Err); err != nil {
		return q.failed(err)
	}
	var timeout promql.ErrQueryTimeout
	var tooMany promql.ErrTooManySamples
	switch {
	case errors.As(res.Err, &tooMany):
		return q.failed(limits.MaxQuerySamples.Exceeded(q.lim, limits.More))
	case errors.As(res.Err, &timeout) && ctx.Err() == nil:
		return q.failed(TimedOut(q.lim))
	}
	return res
}

// timed returns a context for an evaluation, whose time it measures until the function that it
// returns is called. The time of the engine is this time without that of selections.
func timed(ctx context.Context) (context.Context, func()) {
	whole := timing.Of(ctx)
	own := whole.Child()
	end := own.Measure(timing.Evaluation)
	return timing.NewContext(ctx, own), func() {
		took := end()
		own.Add(timing.Engine, took-own.Report().Of(timing.Selecting))
		whole.Merge(own.Report())
	}
}

// explain returns the error to return to the client if a limit, the memory of the process or an
// operator ended the query or read, and nil for any other error.
func explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = errors.Join(err, context.Cause(ctx))
	}
	var exceeded *limits.Exceeded
	switch {
	case errors.Is(err, active.ErrEnded):
		return active.ErrEnded
	case errors.Is(err, memory.ErrEnded): // not a promql.ErrStorage, after which another process would try
		return memory.ErrEnded
	case errors.As(err, &exceeded):
		if exceeded.Of(limits.QueryTimeout) {
			return timeoutError{exceeded}
		}
		return exceeded
	case errors.Is(err, memory.ErrFull):
		return promql.ErrStorage{Err: fmt.Errorf("%w; try again later", memory.ErrFull)}
	}
	return nil
}

// TimedOut returns the error of a query or read that took longer than the
// tenant's query_timeout. errors.As finds a *limits.Exceeded and a
// promql.ErrQueryTimeout in it.
func TimedOut(lim *limits.Limits) error {
	return timeoutError{limits.QueryTimeout.Exceeded(lim, limits.More)}
}

// TimedOutAt returns the error of TimedOut for a limit that the caller has formatted.
func TimedOutAt(exceeded *limits.Exceeded) error { return timeoutError{exceeded} }

// timeoutError has the text of the limit query_timeout and the type of
// promql.ErrQueryTimeout, for which Prometheus' API responds with 503 and
// errorType timeout.
type timeoutError struct{ exceeded *limits.Exceeded }

func (e timeoutError) Error() string { return e.exceeded.Error() }
func (e timeoutError) Unwrap() error { return e.exceeded }

// As implements the interface of errors.As.
func (e timeoutError) As(target any) bool {
	timeout, ok := target.(*promql.ErrQueryTimeout)
	if ok {
		*timeout = promql.ErrQueryTimeout(limits.QueryTimeout.Name())
	}
	return ok
}

func (e *Engine) failed(err error) *promql.Result {
	var exceeded *limits.Exceeded
	if errors.As(err, &exceeded) {
		e.exceeded.WithLabelValues(exceeded.Name()).Inc()
	}
	return &promql.Result{Err: err}
}

// check compares the steps, subqueries and time range of the query with the limits. It is called
// before the query runs.
func (q *query) check() error {
	if q.step > 0 && q.lim.MaxQuerySteps > 0 {
		if steps := q.end.Sub(q.start) / q.step; int64(steps) > int64(q.lim.MaxQuerySteps) {
			return limits.MaxQuerySteps.Exceeded(q.lim, int64(steps))
		}
	}
	if err := q.checkSubqueries(); err != nil {
		return err
	}
	if most := time.Duration(q.lim.MaxQueryRange); most > 0 {
		if r := q.end.Sub(q.start).Milliseconds() + q.reach(); r > most.Milliseconds() {
			return limits.MaxQueryRange.Exceeded(q.lim, r)
		}
	}
	return nil
}

// reach returns how far, in milliseconds, the expression's selectors look back from the query's
// start: by ranges, subqueries, offsets, the @ modifier, and the parameter lookback_delta if it is
// set. It uses the original offsets, because the engine computes the final ones only when the query
// runs.
func (q *query) reach() int64 {
	stmt, ok := q.Statement().(*parser.EvalStmt)
	if !ok {
		return 0
	}
	longest := int64(0)
	parser.Inspect(stmt.Expr, func(n parser.Node, path []parser.Node) error {
		if vs, ok := n.(*parser.VectorSelector); ok {
			longest = max(longest, q.lookBack(vs, path))
		}
		return nil
	})
	return longest
}

// lookBack returns the reach of one selector inside the nodes of path.
func (q *query) lookBack(vs *parser.VectorSelector, path []parser.Node) int64 {
	back, at := vs.OriginalOffset.Milliseconds(), vs.Timestamp
	if q.opts != nil && (!inMatrix(path) || vs.Anchored || vs.Smoothed) {
		back += max(0, q.opts.LookbackDelta().Milliseconds()) // the engine ignores negative values
	}
	for i := len(path) - 1; i >= 0; i-- {
		switch p := path[i].(type) {
		case *parser.MatrixSelector:
			back += p.Range.Milliseconds()
		case *parser.SubqueryExpr:
			if at == nil { // subqueries around an @ modifier have no effect
				back += (p.Range + p.OriginalOffset).Milliseconds()
				at = p.Timestamp
			}
		}
	}
	if at != nil {
		const far = int64(1) << 52 // 140,000 years; keeps the sums within an int64
		back += q.start.UnixMilli() - min(max(*at, -far), far)
	}
	return back
}

// inMatrix reports whether the selector inside the nodes of path belongs to a range selector.
func inMatrix(path []parser.Node) bool {
	if len(path) == 0 {
		return false
	}
	_, ok := path[len(path)-1].(*parser.MatrixSelector)
	return ok
}
