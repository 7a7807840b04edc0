package querier

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"

	"github.com/palliumhq/pallium/backend/frontend/shard"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// NewPartQuery returns the query of a part of a range query: of the steps of a range. The
// expression means what it means in the whole query. Its limits on text, range and steps
// are checked for the part; for those of the whole query see Check. A part that is too large
// is not counted; see Failed. If of is not nil, only this shard of the part is evaluated.
func (e *Engine) NewPartQuery(
	ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, whole split.Times, part split.Range, of *shard.Shard,
) (promql.Query, error) {
	lim, id, err := tenantLimits(ctx)
	if err != nil {
		return nil, err
	}
	// An engine of its own, since the parser cannot be chosen for a query. Engines are
	// cheap to create and have no state but metrics.
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
	return partQuery{&query{Query: inner, engine: e, id: id, lim: lim, start: first, end: last, step: whole.Step, part: true}, of}, nil
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
	return partQuery{&query{Query: inner, engine: e, id: id, lim: lim, start: first, end: last, step: whole.Step, part: true}, nil}, nil
}

// partQuery is the query of a part. When it has run, it holds memory for its answer only:
// otherwise a query would need the memory for reading all its parts at once.
type partQuery struct {
	*query
	of *shard.Shard // nil: not divided by series
}

// Exec implements promql.Query.
func (q partQuery) Exec(ctx context.Context) *promql.Result {
	h := memory.FromContext(ctx).Part()
	inner := memory.NewContext(ctx, h)
	if q.of != nil {
		inner = withRange(inner, q.of.Range)
	}
	res := q.query.Exec(inner)
	h.Close()
	m, ok := res.Value.(promql.Matrix)
	if res.Err != nil || !ok {
		return res
	}
	if q.of != nil { // it is no response: it has no text
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

// Check returns the error of a query that exceeds a limit on its text, its range or its
// steps.
func (e *Engine) Check(q promql.Query) error {
	switch q := q.(type) {
	case *query:
		return q.check()
	case *unparsed:
		return q.err
	}
	return nil
}

// CheckCost returns the error of a query that would read as much as an answer that was kept:
// series is the most that one selector selected, samples the most held at the same time.
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

// TooLarge reports whether an evaluation with fewer steps may succeed: this one exceeded a
// limit other than its time, or there was too little memory.
func (e *Engine) TooLarge(err error) bool {
	var exceeded *limits.Exceeded
	if errors.As(err, &exceeded) {
		return !exceeded.Of(limits.QueryTimeout)
	}
	var unreadable promql.ErrStorage
	return errors.As(err, &unreadable) && errors.Is(unreadable.Err, memory.ErrFull)
}

// Failed returns the result of a query that failed with an error of Check, CheckCost or a part
// that was too large, and counts it.
func (e *Engine) Failed(err error) *promql.Result { return e.failed(err) }

// Cost returns what a query that ran has read: the most series that one of its selectors
// selected, and the most samples that the engine held at the same time.
func (e *Engine) Cost(q promql.Query) (series, samples int64) {
	own, ok := q.(partQuery)
	if !ok || own.ran == nil {
		return 0, 0
	}
	if s := q.Stats(); s != nil && s.Samples != nil {
		samples = int64(s.Samples.PeakSamples)
	}
	return own.ran.selected, samples
}

// Take takes memory for a request.
func (e *Engine) Take(ctx context.Context, bytes int64) error {
	return memory.FromContext(ctx).Take(bytes)
}

// Charge accounts for the memory of an answer that was not evaluated: its points and its
// text. After an error it has taken nothing.
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

// pointsBytes returns the memory of an answer with this many bytes for a float.
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

// Explained returns an error of the memory of a process, or of a limit, as the engine would
// return it, and any other error unchanged.
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
// range (Unix milliseconds, inclusive), ascending.
func (e *Engine) Series(ctx context.Context, q storage.Queryable, mint, maxt int64, matchers []*labels.Matcher) ([]labels.Labels, error) {
	from, err := q.Querier(mint, maxt)
	if err != nil {
		return nil, err
	}
	defer func() { _ = from.Close() }()
	hints := &storage.SelectHints{Start: mint, End: maxt, Func: "series"}
	set := from.Select(Counting(ctx), true, hints, matchers...)
	var out []labels.Labels
	for set.Next() {
		out = append(out, set.At().Labels().Copy())
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
