package querier

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"

	evaluations "github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/shard"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// NewPartQuery returns a query for some steps of a range query. The expression means the same as in
// the whole query. The limits on text, range and steps are checked for the part; Check checks them
// for the whole query. A part that is too large is not counted as a failed query; see Failed. If `of`
// is not nil, only this shard of the part is evaluated.
func (e *Engine) NewPartQuery(
	ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, whole split.Times, part split.Range, of *shard.Shard,
) (promql.Query, error) {
	lim, id, err := tenantLimits(ctx)
	if err != nil {
		return nil, err
	}
	// Each part has its own engine, since the parser belongs to the engine. Engines are cheap to
	// create and have no state but metrics.
	o := e.options(engineKeyOf(lim))
	o.Parser = split.Parser(o.Parser, whole.Start, whole.End, whole.Step)
	if of != nil {
		o.Parser = shard.Parser(o.Parser, of)
	}
	first, last := timestamp.Time(part.Start), timestamp.Time(part.End)
	inner, err := promql.NewEngine(o).NewRangeQuery(ctx, q, opts, text, first, last, whole.Step)
	if err != nil {
		return nil, err
	}
	own := &query{Query: inner, engine: e, id: id, lim: lim, start: first, end: last, step: whole.Step, part: true}
	return partQuery{query: own, of: of}, nil
}

// NewRootQuery returns the query of a part of a range query whose aggregations have been
// evaluated in shards.
func (e *Engine) NewRootQuery(ctx context.Context, text string, whole split.Times, part split.Range, answers []shard.Answer) (
	promql.Query, error,
) {
	lim, id, err := tenantLimits(ctx)
	if err != nil {
		return nil, err
	}
	o := e.options(engineKeyOf(lim))
	var stored storage.Queryable
	o.Parser, stored = shard.Root(split.Parser(o.Parser, whole.Start, whole.End, whole.Step), answers)
	first, last := timestamp.Time(part.Start), timestamp.Time(part.End)
	opts := promql.NewPrometheusQueryOpts(false, time.Millisecond, nil)
	inner, err := promql.NewEngine(o).NewRangeQuery(ctx, stored, opts, text, first, last, whole.Step)
	if err != nil {
		return nil, err
	}
	// The engine copies the points to slices, which may grow to twice the size.
	copied := int64(0)
	for i := range answers {
		copied += pointsBytes(answers[i].Points(), 2*pointBytes)
	}
	own := &query{Query: inner, engine: e, id: id, lim: lim, start: first, end: last, step: whole.Step, part: true}
	return partQuery{query: own, copied: copied}, nil
}

// partQuery is the query of a part. After it has run, it holds memory only for its answer:
// otherwise a query would hold the memory for reading all its parts until it ends.
type partQuery struct {
	*query
	of *shard.Shard // nil: not divided by series
	// copied is the memory in bytes of the engine's copy of points that are not from a selection: a
	// selection takes this memory itself.
	copied int64
}

// Exec implements promql.Query.
func (q partQuery) Exec(ctx context.Context) *promql.Result {
	h := memory.FromContext(ctx).Part()
	inner := memory.NewContext(ctx, h)
	if q.of != nil {
		inner = withRange(inner, q.of.Range)
	}
	if err := h.Take(q.copied); err != nil {
		h.Close()
		return q.failed(Explained(ctx, err))
	}
	res := q.query.Exec(inner)
	h.Close()
	if q.ran != nil && q.ran.inseparable {
		return &promql.Result{Err: promql.ErrStorage{Err: evaluations.ErrNotSharded}}
	}
	m, ok := res.Value.(promql.Matrix)
	if res.Err != nil || !ok {
		return res
	}
	if q.of != nil { // the answer of a shard is not sent to a client: it needs no memory for its text
		err := memory.FromContext(ctx).Take(pointsBytes(m, pointBytes))
		if err != nil {
			return q.failed(Explained(ctx, err))
		}
		return res
	}
	if err := q.engine.Charge(ctx, m); err != nil {
		return q.failed(err)
	}
	return res
}

type rangeKey struct{}

// withRange returns a context for selections of the series of a range.
func withRange(ctx context.Context, r series.LabelRange) context.Context {
	return context.WithValue(ctx, rangeKey{}, r)
}

// Check returns an error if a query exceeds a limit on its text, its range or its steps.
func (e *Engine) Check(q promql.Query) error {
	switch q := q.(type) {
	case *query:
		return q.check()
	case *unparsed:
		return q.err
	}
	return nil
}

// CheckCost returns an error if the cost of a query exceeds a limit, for example the cost of a cached
// answer. series is the number of series of the selector with the most series, and samples the peak
// number of samples in memory.
func (e *Engine) CheckCost(ctx context.Context, series, samples int64) error {
	lim, _, err := tenantLimits(ctx)
	if err != nil {
		return err
	}
	switch {
	case lim.MaxQuerySeries > 0 && series > int64(lim.MaxQuerySeries):
		return limits.MaxQuerySeries.Exceeded(lim, limits.More)
	case lim.MaxQuerySamples > 0 && samples > int64(lim.MaxQuerySamples):
		return limits.MaxQuerySamples.Exceeded(lim, limits.More)
	}
	return nil
}

// TooLarge reports whether an evaluation of fewer steps may succeed where one failed with err: it
// exceeded a limit other than its timeout, or there was too little memory.
func (e *Engine) TooLarge(err error) bool {
	var exceeded *limits.Exceeded
	if errors.As(err, &exceeded) {
		return !exceeded.Of(limits.QueryTimeout)
	}
	var unreadable promql.ErrStorage
	return errors.As(err, &unreadable) && errors.Is(unreadable.Err, memory.ErrFull)
}

// Failed returns the result of a query that failed with an error of Check, CheckCost, Take or
// Charge, or because a part was too large, and counts the query as failed.
func (e *Engine) Failed(err error) *promql.Result { return e.failed(err) }

// Cost returns the cost of a query that ran: the number of series of the selector with the most
// series, and the peak number of samples in the engine. For a query that did not run it returns zeros.
func (e *Engine) Cost(q promql.Query) (series, samples int64) {
	own, ok := q.(*query)
	if part, is := q.(partQuery); is {
		own, ok = part.query, true
	}
	if !ok || own.ran == nil {
		return 0, 0
	}
	if s := q.Stats(); s != nil && s.Samples != nil {
		samples = int64(s.Samples.PeakSamples)
	}
	return own.ran.selected, samples
}

// Take reserves memory for a request.
func (e *Engine) Take(ctx context.Context, bytes int64) error {
	return memory.FromContext(ctx).Take(bytes)
}

// Charge reserves memory for an answer: its points and its text. After an error it has reserved
// nothing.
func (e *Engine) Charge(ctx context.Context, m promql.Matrix) error {
	h := memory.FromContext(ctx)
	n := pointsBytes(m, 2*pointBytes) // while slices may be growing
	if err := h.Take(n); err != nil {
		return Explained(ctx, err)
	}
	err := chargeResult(h, m)
	if err != nil {
		h.Give(n)
	}
	return Explained(ctx, err)
}

// pointsBytes returns the memory of an answer of which each float point uses `each` bytes.
func pointsBytes(m promql.Matrix, each int64) int64 {
	points := int64(0)
	for i := range m {
		points += int64(len(m[i].Floats))
		for j := range m[i].Histograms {
			f := m[i].Histograms[j].H
			points += 1 + histogramBytes(len(f.PositiveSpans)+len(f.NegativeSpans),
				len(f.PositiveBuckets)+len(f.NegativeBuckets)+len(f.CustomValues))/pointBytes
		}
	}
	return sumOf(int64(len(m))*seriesBytes, points, each)
}

// Explained returns the error for the client if err says that a limit, the memory of the process or
// an operator ended the query, and any other error unchanged.
func Explained(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if public := explain(ctx, err); public != nil {
		return public
	}
	return err
}

// Series returns the labels of the series of a tenant that match and may have samples in a
// range (Unix milliseconds, inclusive), ascending. An error is not noted as a fault of the request,
// which may succeed without the labels.
func (e *Engine) Series(ctx context.Context, q storage.Queryable, mint, maxt int64, matchers []*labels.Matcher) ([]labels.Labels, error) {
	from, err := q.Querier(mint, maxt)
	if err != nil {
		return nil, err
	}
	defer func() { _ = from.Close() }()
	hints := &storage.SelectHints{Start: mint, End: maxt, Func: "series"}
	ctx, _ = NoteFaults(ctx)
	set := from.Select(Counting(ctx), true, hints, matchers...)
	var out []labels.Labels
	for set.Next() {
		ls := set.At().Labels()
		if err := memory.FromContext(ctx).Take(int64(ls.ByteSize())); err != nil {
			return nil, err
		}
		out = append(out, ls.Copy())
	}
	return out, set.Err()
}

// Retention returns how long the samples of the tenant of a request are kept; 0 means
// without limit.
func (e *Engine) Retention(ctx context.Context) (time.Duration, error) {
	lim, _, err := tenantLimits(ctx)
	if err != nil {
		return 0, err
	}
	return time.Duration(lim.Retention), nil
}
