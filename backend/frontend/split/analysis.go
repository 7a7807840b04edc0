package split

import (
	"fmt"
	"math"

	"github.com/prometheus/prometheus/promql/parser"
)

// order is what determines the order of the series of a result inside the
// engine. It matters where values are added up and where equal ones are chosen
// from, and is not that of the answer, which is sorted.
type order int

const (
	// one: there is at most one series.
	one order = iota
	// stable: that of the storage. Of the series with a sample at a step, the
	// order does not depend on the range.
	stable
	// ranged: that in which the groups of an aggregation first appear in its
	// input, and a group appears with its first series in the range, which may
	// have no sample in a part.
	ranged
	// arbitrary: that of a Go map, another one each time.
	arbitrary
)

// place is where in the expression a node is.
type place struct {
	// step is the distance of the times of evaluation in milliseconds.
	step int64
	// moved is set inside a subquery with an offset or @.
	moved bool
	// stats is set inside a function of the count and sum of histograms, for
	// which the engine does not read buckets.
	stats bool
	// hints is the name of an operation around the node, inside that function,
	// that warns of conflicting counter reset hints.
	hints string
}

// analysis collects why an expression cannot be split.
type analysis struct {
	subqueryStep int64
	// coupled is why steps depend on each other; ordered is why they do, if
	// only by the order of series.
	coupled, ordered string
	// open is set if a value depends on the order of a Go map.
	open bool
}

func (a *analysis) couple(format string, args ...any) {
	if a.coupled == "" {
		a.coupled = fmt.Sprintf(format, args...)
	}
}

// visit looks for what couples steps in an expression and returns the order of
// its series. What is not listed as safe is not.
func (a *analysis) visit(expr parser.Expr, at place) order {
	switch n := expr.(type) {
	case *parser.NumberLiteral, *parser.StringLiteral:
		return one
	case *parser.ParenExpr:
		return a.visit(n.Expr, at)
	case *parser.UnaryExpr:
		// Series whose labels become equal without the name are merged, and a
		// step with two of them is an error: by step, like all of the engine's
		// checks for duplicate labels.
		return a.visit(n.Expr, at)
	case *parser.VectorSelector:
		a.selector(n, at)
		return stable
	case *parser.MatrixSelector:
		return a.visit(n.VectorSelector, at)
	case *parser.SubqueryExpr:
		return a.subquery(n, at)
	case *parser.AggregateExpr:
		return a.aggregation(n, at)
	case *parser.BinaryExpr:
		return a.binary(n, at)
	case *parser.Call:
		return a.call(n, at)
	}
	a.couple("an expression of type %T is not known to be splittable", expr)
	return arbitrary
}

func (a *analysis) selector(n *parser.VectorSelector, at place) {
	if n.Timestamp != nil && at.moved {
		a.movedAt()
	}
	// The engine reads such histograms without buckets and works out the counter
	// reset hint from the sample that it read before; at the first step of a
	// query it has read none. With conflicting hints there is a warning, and + and
	// - drop the result, which the first step of a part would not.
	if at.hints != "" && n.SkipHistogramBuckets {
		a.couple("%s of histograms of which only the count and sum are read compares counter resets with the step before", at.hints)
	}
}

// movedAt excludes @ inside a subquery that has an offset or @ itself. The
// engine computes the time of the inner @ relative to the first step of the
// subquery, but not if that is the first step of the query: it then takes the
// outer offset into account twice, and reads at a wrong time. Whether it does
// depends on where a part starts.
func (a *analysis) movedAt() {
	a.couple("@ inside a subquery with offset or @ depends on the first step of the query")
}

// subquery checks that the windows of consecutive steps have no gap between
// them. The engine evaluates a subquery once for the whole range, also at times
// that are in the window of no step: there, it may fail or warn. A split would
// not evaluate those between two parts.
func (a *analysis) subquery(n *parser.SubqueryExpr, at place) order {
	if n.Timestamp != nil && at.moved {
		a.movedAt()
	}
	if n.Timestamp == nil && n.Range.Milliseconds() < at.step {
		a.couple("a subquery is also evaluated between its windows, which are shorter than the step")
	}
	inner := place{step: n.Step.Milliseconds(), moved: at.moved || n.Timestamp != nil || n.OriginalOffset != 0}
	if inner.step <= 0 {
		inner.step = a.subqueryStep
	}
	if inner.step <= 0 {
		inner.step = math.MaxInt64 // not known: any range may be shorter
	}
	return a.visit(n.Expr, inner)
}

// aggregation checks the parameter and the order of the input.
//
// A parameter that may change with time couples steps: the engine decides by
// the largest value of the whole range whether topk, bottomk, limitk and
// limit_ratio return anything at all, checks all values for NaN, and prints the
// largest and smallest one in warnings of quantile and limit_ratio. It also
// takes an aggregation for constant if its input is, whatever the parameter.
//
// The sum of floats, also where it is compensated, and with it avg, stddev and
// stdvar, depends on the order of the values, as does the choice of topk,
// bottomk and limitk between equal ones. min, max and quantile do not, except
// that they may return either of 0 and -0, which a sum never is. count, group,
// count_values and limit_ratio, which takes series by the hash of their labels,
// do not.
func (a *analysis) aggregation(n *parser.AggregateExpr, at place) order {
	if n.Param != nil && n.Op != parser.COUNT_VALUES && !literal(n.Param) {
		a.couple("the parameter of %s is checked for all steps at once", n.Op)
	}
	inner := at
	if inner.stats && (n.Op == parser.SUM || n.Op == parser.AVG) {
		inner.hints = n.Op.String()
	}
	input := a.visit(n.Expr, inner)
	switch n.Op {
	case parser.SUM, parser.AVG, parser.STDDEV, parser.STDVAR, parser.TOPK, parser.BOTTOMK, parser.LIMITK:
		a.needsOrder(n, input)
	case parser.MIN, parser.MAX, parser.QUANTILE:
		if !neverNegativeZero(n.Expr) {
			a.needsOrder(n, input)
		}
	case parser.COUNT, parser.GROUP, parser.COUNT_VALUES, parser.LIMIT_RATIO:
	default:
		a.couple("the aggregation %s is not known to be splittable", n.Op)
	}
	switch n.Op {
	case parser.TOPK, parser.BOTTOMK, parser.LIMITK, parser.LIMIT_RATIO, parser.COUNT_VALUES:
		return arbitrary // collected in a map by labels
	}
	switch {
	case !n.Without && len(n.Grouping) == 0:
		return one
	case input == arbitrary:
		return arbitrary
	}
	return ranged
}

func (a *analysis) needsOrder(n *parser.AggregateExpr, input order) {
	a.open = a.open || input == arbitrary
	if input == ranged && a.ordered == "" {
		a.ordered = fmt.Sprintf("%s depends on the order of the groups of another aggregation, which depends on the range", n.Op)
	}
}

// literal reports whether an expression is arithmetic with numbers.
func literal(e parser.Expr) bool {
	switch n := e.(type) {
	case *parser.NumberLiteral:
		return true
	case *parser.ParenExpr:
		return literal(n.Expr)
	case *parser.UnaryExpr:
		return literal(n.Expr)
	case *parser.BinaryExpr:
		return literal(n.LHS) && literal(n.RHS)
	}
	return false
}

// neverNegativeZero reports whether an expression is an aggregation whose
// values are never -0: the engine adds a compensation of +0 to sums and means,
// and squares for the variance.
func neverNegativeZero(e parser.Expr) bool {
	switch n := e.(type) {
	case *parser.ParenExpr:
		return neverNegativeZero(n.Expr)
	case *parser.AggregateExpr:
		switch n.Op {
		case parser.SUM, parser.AVG, parser.COUNT, parser.GROUP, parser.STDDEV, parser.STDVAR:
			return true
		}
	}
	return false
}

// binary checks the operands. All operators work step by step on pairs of
// series, which they find by their labels; series that match several others
// are an error of the step. The result is collected in a map.
func (a *analysis) binary(n *parser.BinaryExpr, at place) order {
	switch n.Op {
	case parser.ADD, parser.SUB:
		if at.stats {
			at.hints = n.Op.String()
		}
	case parser.MUL, parser.DIV, parser.MOD, parser.POW, parser.ATAN2, parser.TRIM_UPPER, parser.TRIM_LOWER,
		parser.EQLC, parser.NEQ, parser.GTR, parser.LSS, parser.GTE, parser.LTE,
		parser.LAND, parser.LOR, parser.LUNLESS:
	default:
		a.couple("the operator %s is not known to be splittable", n.Op)
	}
	left, right := a.visit(n.LHS, at), a.visit(n.RHS, at)
	if left == one && right == one && n.Op != parser.LOR {
		return one
	}
	return arbitrary
}
