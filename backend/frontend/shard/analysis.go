package shard

import (
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// analysis collects the leaves of an expression.
type analysis struct{ leaves []*Leaf }

// visit finds the leaves of an expression; nested is set inside an aggregation. It returns false
// if the expression must be evaluated as a whole.
func (a *analysis) visit(expr parser.Expr, nested bool) bool {
	switch n := expr.(type) {
	case *parser.NumberLiteral, *parser.StringLiteral:
		return true
	case *parser.ParenExpr:
		return a.visit(n.Expr, nested)
	case *parser.UnaryExpr:
		return a.visit(n.Expr, nested)
	case *parser.BinaryExpr:
		return a.visit(n.LHS, nested) && a.visit(n.RHS, nested)
	case *parser.Call:
		return a.call(n, nested)
	case *parser.AggregateExpr:
		return a.aggregation(n, nested)
	}
	return false // a selector, or a subquery, which is evaluated at other times
}

// call visits the arguments of a function outside of leaves.
func (a *analysis) call(n *parser.Call, nested bool) bool {
	switch n.Func.Name {
	case "absent": // takes labels from the matchers of a selector
		return false
	case "info": // reads series that are not in the expression
		return false
	case "histogram_count", "histogram_sum", "histogram_avg", "timestamp", "start_timestamp":
		// The engine does not decode the histogram buckets of the arguments of these functions. A shard evaluates only
		// the argument, and would decode them.
		return false
	}
	for _, arg := range n.Args {
		if !a.visit(arg, nested) {
			return false
		}
	}
	return true
}

// aggregation adds an aggregation as a leaf if its argument can be divided. Otherwise it visits the
// argument.
func (a *analysis) aggregation(n *parser.AggregateExpr, nested bool) bool {
	if n.Param != nil && !constant(n.Param) {
		return false
	}
	switch n.Op {
	case parser.SUM, parser.AVG, parser.MIN, parser.MAX, parser.COUNT, parser.GROUP, parser.STDDEV, parser.STDVAR, parser.QUANTILE,
		parser.TOPK, parser.BOTTOMK, parser.COUNT_VALUES, parser.LIMITK, parser.LIMIT_RATIO:
	default:
		return false
	}
	l := &Leaf{agg: n}
	l.selector = divisible(n.Expr, &l.window)
	if l.selector == nil {
		return a.visit(n.Expr, true)
	}
	switch n.Op {
	case parser.MIN, parser.MAX, parser.COUNT, parser.GROUP:
		// An outer aggregation may depend on the order in which the groups first appear in the
		// input. The answers of shards have lost it: the engine sorts them by labels.
		l.again = !nested
	}
	a.leaves = append(a.leaves, l)
	return true
}

// divisible returns the selector of an expression that is evaluated series by series, or nil
// for any other expression. It adds the ranges of range selectors and subqueries to window.
func divisible(expr parser.Expr, window *time.Duration) *parser.VectorSelector {
	switch n := expr.(type) {
	case *parser.ParenExpr:
		return divisible(n.Expr, window)
	case *parser.UnaryExpr:
		return divisible(n.Expr, window)
	case *parser.MatrixSelector:
		*window += n.Range
		return divisible(n.VectorSelector, window)
	case *parser.SubqueryExpr:
		if n.Timestamp != nil || n.StartOrEnd != 0 {
			return nil
		}
		*window += n.Range
		return divisible(n.Expr, window)
	case *parser.VectorSelector:
		if n.Timestamp == nil && n.StartOrEnd == 0 && ofOneMetric(n) {
			return n
		}
	case *parser.BinaryExpr:
		switch {
		case constant(n.RHS):
			return divisible(n.LHS, window)
		case constant(n.LHS):
			return divisible(n.RHS, window)
		}
	case *parser.Call:
		return divisibleCall(n, window)
	}
	return nil
}

// ofOneMetric reports whether a selector has a matcher for exactly one metric name. Series of several
// metrics could have equal labels after their names are removed, and the engine returns an error then.
func ofOneMetric(n *parser.VectorSelector) bool {
	for _, m := range n.LabelMatchers {
		if m.Name == model.MetricNameLabel && m.Type == labels.MatchEqual && m.Value != "" {
			return true
		}
	}
	return false
}

// divisibleCall returns the selector of a function call that is evaluated series by series, or nil for
// any other call.
func divisibleCall(n *parser.Call, window *time.Duration) *parser.VectorSelector {
	if !seriesBySeries(n.Func.Name) {
		return nil
	}
	var found *parser.VectorSelector
	for _, arg := range n.Args {
		if constant(arg) {
			continue
		}
		sel := divisible(arg, window)
		if sel == nil || found != nil {
			return nil
		}
		found = sel
	}
	return found
}

// seriesBySeries reports whether each series of the result of a function depends on one series
// of its argument only, and has the labels of that series, with or without the name.
func seriesBySeries(name string) bool {
	switch name {
	case "abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "ceil", "clamp", "clamp_max", "clamp_min", "cos", "cosh",
		"days_in_month", "day_of_month", "day_of_week", "day_of_year", "deg", "exp", "floor", "hour", "ln", "log10", "log2", "minute",
		"month", "rad", "round", "sgn", "sin", "sinh", "sqrt", "tan", "tanh", "timestamp", "year",
		"avg_over_time", "changes", "count_over_time", "delta", "deriv", "double_exponential_smoothing", "first_over_time",
		"idelta", "increase", "irate", "last_over_time", "mad_over_time", "max_over_time", "min_over_time", "predict_linear",
		"present_over_time", "quantile_over_time", "rate", "resets", "stddev_over_time", "stdvar_over_time", "sum_over_time",
		"ts_of_first_over_time", "ts_of_last_over_time", "ts_of_max_over_time", "ts_of_min_over_time":
		return true
	}
	return false
}

// constant reports whether an expression consists of literals, time(), pi() and operators only.
func constant(expr parser.Expr) bool {
	switch n := expr.(type) {
	case *parser.NumberLiteral, *parser.StringLiteral:
		return true
	case *parser.ParenExpr:
		return constant(n.Expr)
	case *parser.UnaryExpr:
		return constant(n.Expr)
	case *parser.BinaryExpr:
		return constant(n.LHS) && constant(n.RHS)
	case *parser.Call:
		return n.Func.Name == "time" || n.Func.Name == "pi"
	}
	return false
}
