// Package frontend answers range queries in parts: it divides the range, reads parts from a results
// cache, and evaluates the other parts, in shards if they are large. Its answers equal the engine's
// answers for the whole range, and a cached part is used only if its data has not changed. See
// docs/frontend.md.
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
	// NewPartQuery returns a query for some steps of a range query, or for a shard of them if `of` is not nil.
	// The query's error wraps evaluation.ErrNotSharded if the shard cannot be evaluated alone.
	NewPartQuery(ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, whole split.Times, part split.Range,
		of *shard.Shard) (promql.Query, error)
	// NewRootQuery returns a query for some steps of a range query whose aggregations were evaluated
	// in shards. This process evaluates it.
	NewRootQuery(ctx context.Context, text string, whole split.Times, part split.Range, answers []shard.Answer) (promql.Query, error)
	// Check returns an error if a query that has not run yet exceeds a limit.
	Check(q promql.Query) error
	// CheckCost returns an error if an evaluation of this cost exceeds a limit.
	CheckCost(ctx context.Context, series, samples int64) error
	// TooLarge reports whether an evaluation failed because it read too much, so that one of
	// fewer steps may succeed.
	TooLarge(err error) bool
	// Cost returns the number of series of the selector that selected the most, and the peak number
	// of samples in memory.
	Cost(q promql.Query) (series, samples int64)
	// Readers returns the ingesters that answered all reads of a query that ran.
	Readers(q promql.Query) evaluation.Readers
	// Series returns the labels of the series that match, ascending.
	Series(ctx context.Context, q storage.Queryable, mint, maxt int64, matchers []*labels.Matcher) ([]labels.Labels, error)
	// Take reserves memory for the request.
	Take(ctx context.Context, bytes int64) error
	// Charge accounts for the memory of an answer from the cache or from shards.
	Charge(ctx context.Context, m promql.Matrix) error
	// Failed returns the result of a query that failed with an error of Check, CheckCost, Take or
	// Charge, or because a part was too large, and counts it.
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
	// Settle is the age below which samples are never cached. If the first step of a query depends on
	// a younger sample, the query does not use the cache.
	Settle time.Duration
	Engine split.Options
	// Switches has the versions of this process on which answers depend, as text.
	Switches  string
	Workers   int // maximum number of concurrent runs of parts of one query; less than 1 counts as 1
	MaxShards int // maximum number of shards of a leaf of an expression; less than 2: leaves are not divided
	// ShardPoints is the minimum work of a shard in samples (see shard.Leaf.Work): with less, the fixed
	// cost of an evaluation would be too high; default 1<<19.
	ShardPoints int64
	Now         func() time.Time
	Logger      *slog.Logger
	Registerer  prometheus.Registerer
}

// Frontend is a promql.QueryEngine over an Evaluator. It is safe for concurrent use.
type Frontend struct {
	o       Options
	metrics metrics
	// noted has recent expressions whose evaluations had annotations.
	noted *lru.Cache[notedKey, struct{}]
	// selected has the selections of recently evaluated expressions.
	selected *lru.Cache[notedKey, *selection]
}

type notedKey struct {
	tenant tenant.ID
	text   string
}

const (
	mostNoted    = 10_000  // maximum number of expressions in noted
	mostSelected = 2_000   // maximum number of expressions in selected
	longestNoted = 2 << 10 // maximum length of these expressions; longer ones are treated as noted
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
				Help: "Range queries that were not divided by time because their steps depend, or may depend, on each other."}),
			shards: auto.NewCounter(prometheus.CounterOpts{Name: "pallium_frontend_shards_total",
				Help: "Evaluations of a shard: a range of the series of an aggregation, or of an expression without aggregations."}),
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
