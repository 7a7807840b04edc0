// Package shard divides the series of a PromQL expression, or of its aggregations, into shards
// that are evaluated separately, and joins their answers. The result equals the answer of the
// whole expression, to the bit.
//
// The order of calls is: [Analyze] the expression, choose the ranges of series of each
// [Leaf], evaluate each range of each leaf with an engine whose parser is [Parser], join the
// answers of each leaf with [Leaf.Collect] in the order of the ranges, and evaluate the rest
// of the expression with [Root], unless [Whole] already returns the result.
//
// # What is exact
//
// The series must not have labels that functions drop, other than the metric name; see
// [Inseparable].
//
// An argument of an aggregation can be divided if it contains one selector, of one metric,
// and only functions and operators that compute each series of the result from one series of
// their input. The answers for all ranges of series are then together the whole answer.
//
//   - min, max, count and group are evaluated for each range, unless they are inside another
//     aggregation. Leaf.Collect aggregates the answers again: the result does not depend on how
//     the values are divided. (min and max return the first of 0 and -0, so the order of the
//     ranges matters.)
//   - For sum and avg, each shard returns the series of the argument. Leaf.Collect adds their
//     values in the order of the series, with the same compensated addition as the engine.
//     Sums of partial sums would have other last bits for each division, and cached results
//     would differ from evaluated ones.
//   - For all other aggregations, and for sum and avg if the argument has native histograms, the
//     engine aggregates the series of the argument, which each shard returns.
//
// After operators between a vector and a scalar, and after functions of instant vectors, the
// engine has the series in the random order of a Go map. This package then uses the order of
// labels, which is one of the possible orders.
package shard

import (
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/backend/series"
)

// Shard restricts the evaluation of a leaf to a range of series.
type Shard struct {
	// Aggregation identifies the aggregation by its offset in bytes in the text of the query: no
	// two aggregations begin at the same byte. It is Everything if the whole expression is evaluated.
	Aggregation int
	// Argument is set if the argument of the aggregation is evaluated instead of the aggregation.
	Argument bool
	Range    series.LabelRange
	// Of is the number of shards of the leaf.
	Of int
}

// Inseparable reports whether a series has labels, other than the metric name, that functions drop.
// Without them, two series of a metric could be equal: the engine merges such series or returns an
// error, so they must not be in two shards.
func Inseparable(ls labels.Labels) bool {
	return ls.Has(model.MetricTypeLabel) || ls.Has(model.MetricUnitLabel)
}

// Everything is the value of Shard.Aggregation if the whole expression is evaluated.
const Everything = -1

// Leaf is an aggregation whose series can be divided, or a whole expression without aggregations
// whose series can be divided.
type Leaf struct {
	agg      *parser.AggregateExpr // nil: the whole expression
	selector *parser.VectorSelector
	// window is the sum of the ranges of the range selector and the subqueries in the leaf.
	window time.Duration
	// again is set if aggregating the answers of the shards again gives the answer for all series.
	again bool
	// root is set if the leaf is the whole expression.
	root bool
}

// Matchers returns the matchers of the selector of the leaf.
func (l *Leaf) Matchers() []*labels.Matcher { return l.selector.LabelMatchers }

// Shards returns the shards of the leaf for ranges of its series.
func (l *Leaf) Shards(ranges []series.LabelRange) []Shard {
	at := Everything
	if l.agg != nil {
		at = int(l.agg.PosRange.Start)
	}
	out := make([]Shard, len(ranges))
	for i, r := range ranges {
		out[i] = Shard{Aggregation: at, Argument: l.agg != nil && !l.again, Range: r, Of: len(ranges)}
	}
	return out
}

// windowPoints is the number of samples in the window of a function that cost as much time as
// reading one sample. A function processes the samples of its window again at each step.
const windowPoints = 16

// Work estimates the work for one series of the leaf, in samples read. The argument `read` is the
// length of the time range that is read, and `interval` the time between two samples of the series.
func (l *Leaf) Work(steps int64, read, interval time.Duration) int64 {
	return steps*(1+int64(l.window/interval)/windowPoints) + int64(read/interval)
}

// Analyze returns the leaves of an expression that no engine has evaluated yet. It returns none if
// the expression must be evaluated as a whole.
func Analyze(expr parser.Expr) []*Leaf {
	var window time.Duration
	if sel := divisible(expr, &window); sel != nil {
		return []*Leaf{{selector: sel, window: window, root: true}}
	}
	a := &analysis{}
	if !a.visit(expr, false) {
		return nil
	}
	if agg, ok := bare(expr).(*parser.AggregateExpr); ok && len(a.leaves) == 1 {
		a.leaves[0].root = a.leaves[0].agg == agg
	}
	return a.leaves
}

// bare returns an expression without the parentheses around it.
func bare(expr parser.Expr) parser.Expr {
	for {
		p, ok := expr.(*parser.ParenExpr)
		if !ok {
			return expr
		}
		expr = p.Expr
	}
}
