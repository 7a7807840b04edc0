// Package frontend answers range queries in parts: it divides the range, reads parts from a results
// cache, and evaluates the others. Its answers are the ones that the engine gives for the whole
// range, and never older than the data. See docs/frontend.md.
package frontend

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/cache"
	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/shard"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/lru"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/switches"
)

// Evaluator is the engine that evaluates queries and their parts.
type Evaluator interface {
	promql.QueryEngine
	// NewPartQuery returns a query for some steps of a range query, or for a shard of these steps. The
	// error of a shard that cannot be evaluated alone wraps evaluation.ErrNotSharded.
	NewPartQuery(ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, whole split.Times, part split.Range,
		of *shard.Shard) (promql.Query, error)
	// NewRootQuery returns a query for some steps of a range query whose aggregations were evaluated
	// in shards. This process evaluates it.
	NewRootQuery(ctx context.Context, text string, whole split.Times, part split.Range, answers []shard.Answer) (promql.Query, error)
	// Check returns an error if a query exceeds a limit before it runs, CheckCost if an answer of
	// that cost exceeds one.
	Check(q promql.Query) error
	CheckCost(ctx context.Context, series, samples int64) error
	// TooLarge reports whether an evaluation failed because it read too much, so that one of
	// fewer steps may succeed.
	TooLarge(err error) bool
	// Cost returns how many series the selector that selected most has selected, and the peak
	// number of samples in memory.
	Cost(q promql.Query) (series, samples int64)
	// Readers returns the ingesters that answered all reads of a query that ran.
	Readers(q promql.Query) evaluation.Readers
	// Series returns the labels of the series that match, ascending.
	Series(ctx context.Context, q storage.Queryable, mint, maxt int64, matchers []*labels.Matcher) ([]labels.Labels, error)
	// Take reserves memory for the request.
	Take(ctx context.Context, bytes int64) error
	// Charge accounts for the memory of an answer that was not evaluated.
	Charge(ctx context.Context, m promql.Matrix) error
	// Failed returns the result of a query that failed with an error of Check, Take or Charge, or
	// because a part was too large, and counts it.
	Failed(err error) *promql.Result
	// Retention returns how long the tenant's samples are kept; 0 means without limit.
	Retention(ctx context.Context) (time.Duration, error)
}

// Options configure a Frontend.
type Options struct {
	Evaluator Evaluator
	Parsers   switches.Parsers
	// Syntax returns the PromQL switches of a request's tenant; nil: all are off.
	Syntax func(context.Context) switches.Set
	// Versions reads the versions of all data on which answers for a range of times (Unix
	// milliseconds, inclusive) depend.
	Versions func(ctx context.Context, id tenant.ID, mint, maxt int64) (series.Versions, error)
	Cache    cache.Cache // nil: answers are not cached
	// Settle is the least age of samples that may be cached. If the first step of a query needs younger ones,
	// the cache is not used.
	Settle time.Duration
	Engine split.Options
	// Switches are the settings of this process that can change answers, as text.
	Switches  string
	Workers   int // parts of one query that are evaluated at the same time; at least 1
	MaxShards int // maximum number of shards of the series of an aggregation; less than 2: they are not divided
	// ShardPoints is the minimum number of points and samples of a shard: with fewer, the fixed cost of
	// an evaluation would be too high; default 1<<19.
	ShardPoints int64
	Now         func() time.Time
	Logger      *slog.Logger
	Registerer  prometheus.Registerer
}

// Frontend is a promql.QueryEngine over an Evaluator. It is safe for concurrent use.
type Frontend struct {
	o       Options
	metrics metrics
	// noted are the expressions whose evaluations had annotations.
	noted *lru.Cache[notedKey, struct{}]
	// selected has what the leaves of expressions select that were evaluated before.
	selected *lru.Cache[notedKey, *selection]
}

type notedKey struct {
	tenant tenant.ID
	text   string
}

// mostNoted is the maximum number of expressions in noted, longestNoted the maximum length of one.
// Longer expressions are treated as noted.
const (
	mostNoted    = 10_000
	mostSelected = 2_000 // expressions, each with some labels
	longestNoted = 2 << 10
)

type metrics struct {
	steps    *prometheus.CounterVec // by source
	unusable *prometheus.CounterVec // by reason
	notKept  *prometheus.CounterVec
	whole    prometheus.Counter
	shards   prometheus.Counter
}

var _ promql.QueryEngine = (*Frontend)(nil)

// New returns a Frontend.
func New(o Options) *Frontend {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Workers = max(o.Workers, 1)
	if o.ShardPoints == 0 {
		o.ShardPoints = 1 << 19
	}
	if o.Syntax == nil {
		o.Syntax = func(context.Context) switches.Set { return switches.Set{} }
	}
	auto := promauto.With(o.Registerer)
	return &Frontend{o: o, noted: lru.New[notedKey, struct{}](mostNoted, nil),
		selected: lru.New[notedKey, *selection](mostSelected, nil), metrics: metrics{
			steps: auto.NewCounterVec(prometheus.CounterOpts{Name: "pallium_frontend_steps_total",
				Help: "Steps of range queries that were answered, by source: cache, or evaluated."}, []string{"source"}),
			unusable: auto.NewCounterVec(prometheus.CounterOpts{Name: "pallium_frontend_unusable_results_total",
				Help: "Cached results that could not be used, by reason."}, []string{"reason"}),
			notKept: auto.NewCounterVec(prometheus.CounterOpts{Name: "pallium_frontend_results_not_kept_total",
				Help: "Results that could have been cached but were not, by reason."}, []string{"reason"}),
			whole: auto.NewCounter(prometheus.CounterOpts{Name: "pallium_frontend_undivided_queries_total",
				Help: "Range queries that were evaluated as one part because their steps depend on each other."}),
			shards: auto.NewCounter(prometheus.CounterOpts{Name: "pallium_frontend_shards_total",
				Help: "Evaluations of a range of the series of an aggregation."}),
		}}
}

// NewInstantQuery implements promql.QueryEngine.
func (f *Frontend) NewInstantQuery(
	ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, at time.Time,
) (promql.Query, error) {
	return f.o.Evaluator.NewInstantQuery(ctx, q, opts, text, at)
}

// NewRangeQuery implements promql.QueryEngine.
func (f *Frontend) NewRangeQuery(
	ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, start, end time.Time, step time.Duration,
) (promql.Query, error) {
	whole, err := f.o.Evaluator.NewRangeQuery(ctx, q, opts, text, start, end, step)
	if err != nil {
		return nil, err
	}
	return &rangeQuery{Query: whole, f: f, storage: q, opts: opts, text: text,
		times: split.Times{Start: start, End: end, Step: step}}, nil
}

type uncachedKey struct{}

// WithoutCache returns a context for queries that neither use nor fill the cache.
func WithoutCache(ctx context.Context) context.Context {
	return context.WithValue(ctx, uncachedKey{}, true)
}

// Uncached reports whether the context is one of WithoutCache.
func Uncached(ctx context.Context) bool { return ctx.Value(uncachedKey{}) != nil }
