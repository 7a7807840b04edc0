// Package frontend answers range queries in parts: it divides the range, takes parts from
// a cache of results, and evaluates the others. Its answers are those of the engine for
// the whole range, and never older than the data. See docs/frontend.md.
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
	// NewPartQuery returns the query of some steps of a range query, or of a shard of these
	// steps. A process of an older version returns evaluation.ErrNotSharded for a shard.
	NewPartQuery(ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, whole split.Times, part split.Range,
		of *shard.Shard) (promql.Query, error)
	// NewRootQuery returns the query of some steps of a range query whose aggregations were
	// evaluated in shards. This process evaluates it.
	NewRootQuery(ctx context.Context, text string, whole split.Times, part split.Range, answers []shard.Answer) (promql.Query, error)
	// Check returns the error of a query that exceeds a limit before it runs, CheckCost
	// that of an answer that would have read too much.
	Check(q promql.Query) error
	CheckCost(ctx context.Context, series, samples int64) error
	// TooLarge reports whether an evaluation failed because it read too much, so that one of
	// fewer steps may succeed.
	TooLarge(err error) bool
	// Cost returns the most series that one selector of a query selected, and the most
	// samples that were held at the same time.
	Cost(q promql.Query) (series, samples int64)
	// Readers returns the ingesters whose samples are in all reads of a query that ran.
	Readers(q promql.Query) evaluation.Readers
	// Series returns the labels of the series that match, ascending.
	Series(ctx context.Context, q storage.Queryable, mint, maxt int64, matchers []*labels.Matcher) ([]labels.Labels, error)
	// Take takes memory for the request.
	Take(ctx context.Context, bytes int64) error
	// Charge accounts for the memory of an answer that was not evaluated.
	Charge(ctx context.Context, m promql.Matrix) error
	// Failed returns the result of a query that failed with one of these errors, or because a
	// part was too large, and counts it.
	Failed(err error) *promql.Result
	// Retention returns how long the tenant's samples are kept; 0 means without limit.
	Retention(ctx context.Context) (time.Duration, error)
}

// Options configure a Frontend.
type Options struct {
	Evaluator Evaluator
	Parsers   switches.Parsers
	// Syntax returns the optional parts of PromQL of a request's tenant; nil: there are none.
	Syntax func(context.Context) switches.Set
	// Versions reads the versions of all that answers for a range of times depend on
	// (Unix milliseconds, inclusive).
	Versions func(ctx context.Context, id tenant.ID, mint, maxt int64) (series.Versions, error)
	Cache    cache.Cache // nil: answers are not kept
	// Settle is the least age of samples that may be before the ingesters' recent bound.
	Settle time.Duration
	Engine split.Options
	// Switches are the settings of the process on which answers depend, as text.
	Switches  string
	Workers   int // parts of one query that are evaluated at the same time; at least 1
	MaxShards int // evaluations among which the series of an aggregation are divided; less than 2: none are
	// ShardPoints is the least number of points and samples of a shard, so that the fixed cost
	// of an evaluation is small beside it; default 1<<18.
	ShardPoints int64
	Now         func() time.Time
	Logger      *slog.Logger
	Registerer  prometheus.Registerer
}

// Frontend is a promql.QueryEngine over an Evaluator. It is safe for concurrent use.
type Frontend struct {
	o       Options
	metrics metrics
	// noted are expressions whose evaluations have annotations.
	noted *lru.Cache[notedKey, struct{}]
	// selected has what the leaves of expressions select that were evaluated before.
	selected *lru.Cache[notedKey, *selection]
}

type notedKey struct {
	tenant tenant.ID
	text   string
}

// mostNoted is the maximum number of expressions in noted, longestNoted the length of one.
// Longer ones count as noted.
const (
	mostNoted    = 10_000
	mostSelected = 2_000 // expressions, each with some labels
	longestNoted = 2 << 10
)

type metrics struct {
	steps    *prometheus.CounterVec // by where they came from
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
		o.ShardPoints = 1 << 18
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
