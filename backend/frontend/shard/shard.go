// Package shard divides the series of aggregations in a PromQL expression into shards that
// are evaluated separately, and puts their answers together. Answers are those of the whole
// expression, to the bit.
//
// The order of calls is: [Analyze] the expression, choose the ranges of series of each
// [Leaf], evaluate each range of each leaf with an engine whose parser is [Parser], join the
// answers with [Leaf.Collect] in the order of the ranges, and evaluate the rest of the
// expression with [Root].
//
// # What is exact
//
// The series must have no label that functions drop besides the name; see [Inseparable].
//
// The engine evaluates the argument of an aggregation series by series, if that argument is
// one selector of one metric inside functions and operators that do the same. So the answers
// for ranges of its series are together its answer for all of them.
//
//   - min, max, count and group are evaluated for each range, and their answers are
//     aggregated again: the result does not depend on how values were grouped before. (min
//     and max return the first of 0 and -0, so the order of the ranges counts.)
//   - For sum and avg, ranges return the argument. [Leaf.Collect] adds the values in the order
//     of the series, with the same compensated addition as the engine. Sums of partial sums
//     would differ in the last bits from one division to another, and cached results from
//     evaluated ones.
//   - If the argument has native histograms, and for all other aggregations, the engine
//     aggregates what the ranges returned.
//
// After operators between a vector and a scalar, and functions of instant vectors, the engine
// has the series in the order of a Go map, another one each time. There, the order here is
// that of labels, one of those that Prometheus may have.
package shard

import (
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/backend/series"
)

// Shard is a part of an expression for a range of series.
type Shard struct {
	// Aggregation is the offset in bytes of the aggregation in the text of the query, where no
	// two begin; Everything for the whole expression. Argument is set if its argument is
	// evaluated, not the aggregation.
	Aggregation int
	Argument    bool
	Range       series.LabelRange
	// Of is the number of shards of the aggregation.
	Of int
}

// Inseparable reports whether a series may be equal to another one of its metric without the labels
// that functions drop. Such series are merged, or an error, so they must not be in two shards.
func Inseparable(ls labels.Labels) bool {
	return ls.Has(model.MetricTypeLabel) || ls.Has(model.MetricUnitLabel)
}

// Everything is the Shard.Aggregation of an expression that is divided as a whole.
const Everything = -1

// Leaf is an aggregation whose series can be divided, or an expression without one.
type Leaf struct {
	agg      *parser.AggregateExpr // nil: the whole expression
	selector *parser.VectorSelector
	// window is the sum of the ranges over which functions in the leaf go at each step.
	window time.Duration
	// again is set if aggregating the answers of ranges gives the answer of all series.
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

// windowPoints is how many samples of a window that a function goes over, again at each step,
// take the time of one sample that is read.
const windowPoints = 16

// Work returns about how many points and samples a series of the leaf has: for a number of
// steps, and samples at an interval over the time that is read.
func (l *Leaf) Work(steps int64, read, interval time.Duration) int64 {
	return steps*(1+int64(l.window/interval)/windowPoints) + int64(read/interval)
}

// Analyze returns the leaves of an expression, which no engine may have evaluated yet. It
// returns none if the series of a selector cannot be divided: then all are evaluated together.
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
