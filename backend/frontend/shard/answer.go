package shard

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strconv"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
)

// Steps are the steps of an evaluation, in Unix milliseconds: N of them from Start.
type Steps struct {
	Start, Step int64
	N           int
}

// Answer is the answer for a leaf.
type Answer struct {
	leaf *Leaf
	// argument is set if points are the series of the argument, which the engine must still aggregate.
	argument bool
	points   promql.Matrix
}

// Collect joins the answers of the shards of a leaf, given in the order of their ranges. The result
// may share points with them. Collect calls the function `take` with the memory of each group before
// it adds the group. If `take` returns an error, Collect returns this error.
func (l *Leaf) Collect(pieces []promql.Matrix, steps Steps, take func(bytes int64) error) (Answer, error) {
	if l.agg == nil {
		return Answer{leaf: l, points: slices.Concat(pieces...)}, nil
	}
	f := newFold(l.agg.Op, steps, take)
	if l.again {
		err := f.addAll(pieces, f.whole)
		return Answer{leaf: l, points: f.result()}, err
	}
	for _, p := range pieces {
		l.inStorageOrder(p)
	}
	floats := !slices.ContainsFunc(pieces, func(p promql.Matrix) bool {
		return slices.ContainsFunc(p, func(s promql.Series) bool { return len(s.Histograms) > 0 })
	})
	if !floats || l.agg.Op != parser.SUM && l.agg.Op != parser.AVG {
		return Answer{leaf: l, argument: true, points: slices.Concat(pieces...)}, nil
	}
	f.groupBy(l.agg.Grouping, l.agg.Without)
	err := f.addAll(pieces, f.group)
	return Answer{leaf: l, points: f.result()}, err
}

// inStorageOrder sorts the series of a shard's answer in the order of the storage: by their labels
// including the metric name. The engine sorted them after a function had removed the name. The
// two orders differ only if a label name sorts before __name__.
func (l *Leaf) inStorageOrder(m promql.Matrix) {
	before := func(s promql.Series) bool {
		found := false
		s.Metric.Range(func(lb labels.Label) { found = found || lb.Name < model.MetricNameLabel })
		return found
	}
	if !slices.ContainsFunc(m, before) {
		return
	}
	name := ""
	for _, matcher := range l.selector.LabelMatchers {
		if matcher.Name == model.MetricNameLabel && matcher.Type == labels.MatchEqual {
			name = matcher.Value
		}
	}
	type named struct {
		labels labels.Labels
		series promql.Series
	}
	list := make([]named, len(m))
	b := labels.NewBuilder(labels.EmptyLabels())
	for i, s := range m {
		b.Reset(s.Metric)
		list[i] = named{b.Set(model.MetricNameLabel, name).Labels(), s}
	}
	slices.SortFunc(list, func(a, b named) int { return labels.Compare(a.labels, b.labels) })
	for i := range list {
		m[i] = list[i].series
	}
}

// Points returns the points that the engine reads when it evaluates the expression with [Root].
func (a *Answer) Points() promql.Matrix { return a.points }

// Shares reports whether the answer of the expression may share points or histograms with the
// answers of the shards.
func (a *Answer) Shares() bool {
	return a.leaf.agg == nil || slices.ContainsFunc(a.points, func(s promql.Series) bool { return len(s.Histograms) > 0 })
}

// Whole returns the answer of the expression, sorted by labels, if the expression is a single leaf
// that needs no further aggregation.
func Whole(answers []Answer) (m promql.Matrix, ok bool) {
	if len(answers) != 1 || !answers[0].leaf.root || answers[0].argument {
		return nil, false
	}
	m = answers[0].points
	sort.Sort(m)
	return m, true
}

// Root returns the parser and the storage for the engine that evaluates an expression with the
// answers of its leaves. The look-back of the query must be one millisecond, so that each point
// is used only at its own step.
func Root(inner parser.Parser, answers []Answer) (parser.Parser, storage.Queryable) {
	return rootParser(inner, answers), queryable(answers)
}

// queryable is the storage of the answers of leaves.
type queryable []Answer

// Querier implements storage.Queryable.
func (q queryable) Querier(int64, int64) (storage.Querier, error) { return querier{answers: q}, nil }

type querier struct{ answers []Answer }

// Select implements storage.Querier.
func (q querier) Select(_ context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	for _, m := range matchers {
		if i, err := strconv.Atoi(m.Value); m.Name == answerLabel && err == nil && i < len(q.answers) {
			return &seriesSet{points: q.answers[i].points, i: -1}
		}
	}
	return storage.ErrSeriesSet(fmt.Errorf("internal error: no answer of a leaf for the matchers %v", matchers))
}

// LabelValues implements storage.LabelQuerier.
func (querier) LabelValues(context.Context, string, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

// LabelNames implements storage.LabelQuerier.
func (querier) LabelNames(context.Context, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

// Close implements storage.LabelQuerier.
func (querier) Close() error { return nil }

// seriesSet iterates over the series of an answer.
type seriesSet struct {
	points promql.Matrix
	i      int
}

func (s *seriesSet) Next() bool                        { s.i++; return s.i < len(s.points) }
func (s *seriesSet) At() storage.Series                { return promql.NewStorageSeries(s.points[s.i]) }
func (s *seriesSet) Err() error                        { return nil }
func (s *seriesSet) Warnings() annotations.Annotations { return nil }
