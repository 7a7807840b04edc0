package split

import (
	"fmt"
	"math"

	"github.com/prometheus/prometheus/promql/parser"
)

// order describes what determines the order of the series of an intermediate result in the engine.
// The order matters where values are added up, and where one of several equal values is chosen.
// (The series of the final answer are sorted.)
type order int

const (
	// one: there is at most one series.
	one order = iota
	// stable: the order of the storage. The order of the series with a sample at a step does not
	// depend on the range.
	stable
	// ranged: the order in which the groups of an aggregation first appear in its input. A group
	// appears with its first series in the whole range; that series may have no sample in a part.
	ranged
	// arbitrary: the order of a Go map, different each time.
	arbitrary
)

// place describes the position of a node in the expression.
type place struct {
	// step is the step of the evaluation in milliseconds.
	step int64
	// moved is set inside a subquery with an offset or @.
	moved bool
	// stats is set inside a function that needs only the count and sum of histograms: for these the
	// engine does not read buckets.
	stats bool
	// hints is the name of an enclosing operation, inside such a function, that warns of
	// conflicting counter reset hints.
	hints string
}

// analysis collects the reasons why an expression cannot be split.
type analysis struct {
	subqueryStep int64
	// coupled is the reason why steps depend on each other; ordered is the reason if they do so
	// only through the order of series.
	coupled, ordered string
	// open is set if a value depends on the order of a Go map.
	open bool
}

func (a *analysis) couple(format string, args ...any) {
	if a.coupled == "" {
		a.coupled = fmt.Sprintf(format, args...)
	}
}

// visit searches an expression for anything that makes steps depend on each other, and returns the
// order of its series. Anything not listed as safe counts as unsafe.
func (a *analysis) visit(expr parser.Expr, at place) order {
	switch n := expr.(type) {
	case *parser.NumberLiteral, *parser.StringLiteral:
		return one
	case *parser.ParenExpr:
		return a.visit(n.Expr, at)
	case *parser.UnaryExpr:
		// Series whose labels are equal without the name are merged. Two of them at one step are an
		// error of that step, like all duplicate labels in the engine.
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
	// The engine reads such histograms without buckets and computes the counter reset hint from the
	// previous sample that it read; at the first step of a query there is none. If hints conflict,
	// the engine warns, and additions and subtractions drop the result; at the first step of a part
	// it would do neither.
	if at.hints != "" && n.SkipHistogramBuckets {
		a.couple("%s of histograms without their buckets finds counter resets by comparison with the previous step", at.hints)
	}
}

// movedAt excludes @ inside a subquery that has an offset or @ itself. The engine computes the time
// of the inner @ relative to the first step of the subquery. If that is the first step of the
// query, it applies the outer offset twice, and reads at a wrong time. Whether this happens depends
// on where a part starts.
func (a *analysis) movedAt() {
	a.couple("@ inside a subquery with offset or @ depends on the first step of the query")
}

// subquery checks that the windows of consecutive steps have no gap between them. The engine
// evaluates a subquery once for the whole range, also at times that are in the window of no step:
// there, it may fail or warn. A split query would not evaluate those between two parts.
func (a *analysis) subquery(n *parser.SubqueryExpr, at place) order {
	if n.Timestamp != nil && at.moved {
		a.movedAt()
	}
	if n.Timestamp == nil && n.Range.Milliseconds() < at.step {
		a.couple("the range of a subquery is shorter than the step, and the subquery is also evaluated outside of its ranges")
	}
	inner := place{step: n.Step.Milliseconds(), moved: at.moved || n.Timestamp != nil || n.OriginalOffset != 0}
	if inner.step <= 0 {
		inner.step = a.subqueryStep
	}
	if inner.step <= 0 {
		inner.step = math.MaxInt64 // unknown: any range may be shorter
	}
	return a.visit(n.Expr, inner)
}

// aggregation checks the parameter and the order of the input.
//
// A parameter that may change with time couples steps: the engine decides by the largest value of
// the whole range whether topk, bottomk, limitk and limit_ratio return anything at all, checks all
// values for NaN, and prints the largest and smallest one in warnings of quantile and limit_ratio.
// It also treats an aggregation as constant if its input is constant, whatever the parameter.
//
// The sum of floats, even a compensated one, depends on the order of the values. So do avg, stddev
// and stdvar, and the choice of topk, bottomk and limitk between equal values. min, max and
// quantile do not, except that they may return 0 or -0 if the input has both (a sum is never -0).
// count, group, count_values and limit_ratio, which selects series by the hash of their labels, do
// not.
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

// literal reports whether an expression is a number, or arithmetic with numbers only.
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

// neverNegativeZero reports whether an expression is an aggregation whose values are never -0: the
// engine adds a compensation of +0 to sums and means, and variances are sums of squares.
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

// binary checks the operands. All operators work step by step on pairs of series that match by
// labels; a series that matches several others is an error of that step. The result is collected in
// a map.
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
