package querier

import (
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/backend/series"
)

// shape has the properties of an expression that determine the memory of its
// evaluation, in addition to the selected data.
type shape struct {
	bound *labelBound // nil: the expression creates no labels
	// selectors are the selectors of the expression in the order in which the
	// engine selects them, which is that of parser.Inspect.
	selectors []selectorShape
	// steps is the maximum number of steps of any part of the expression.
	steps int64
	// ownPoints is the maximum number of points held at once that do not come
	// from a selection.
	ownPoints int64
}

// selectorShape has the properties of an expression that determine the memory
// for the series of one selector.
type selectorShape struct {
	// copies is the number of matrices of the selection's size in memory at once: the selected one,
	// and results of operators or functions.
	copies int64
	// groupBy are the labels of an aggregation directly above the selector,
	// which returns one series for each combination of their values; grouped is
	// set if there is such an aggregation.
	groupBy []string
	grouped bool

	countsValues valuesCounted
	// steps is the number of steps for which the selector is evaluated, or for which its value is
	// repeated.
	steps int64
	// top is the k of a topk, bottomk or limitk directly above the selector,
	// which allocates memory for k series in each group; 0 without one, maxTop
	// if k is unknown.
	top int64
}

// maxTop is larger than the number of series of any selection.
const maxTop = 1 << 40

// valuesCounted describes the values from which count_values creates series.
type valuesCounted int

const (
	noValues    valuesCounted = iota
	sameValues                // the selected values, or one value for each of them
	otherValues               // arbitrary values
)

// shapeOf returns the shape of an expression of the query.
func (q *query) shapeOf(e parser.Expr) shape {
	s := shape{bound: newLabelBound(e), ownPoints: q.ownPoints(e, nil, q.steps())}
	if most := int64(q.lim.MaxQuerySamples); most > 0 { // the engine enforces this limit, too
		s.ownPoints = min(s.ownPoints, most)
	}
	s.steps = q.steps()
	anyFixed := false
	parser.Inspect(e, func(n parser.Node, path []parser.Node) error {
		switch n := n.(type) {
		case *parser.SubqueryExpr:
			s.steps = max(s.steps, q.subquerySteps(n, path))
			anyFixed = anyFixed || fixed(n)
		case *parser.VectorSelector:
			anyFixed = anyFixed || n.Timestamp != nil || n.StartOrEnd != 0
			at := selectorAt(path)
			at.steps = q.stepsInside(path)
			s.selectors = append(s.selectors, at)
		}
		return nil
	})
	if anyFixed { // a selection with the @ modifier is repeated for all steps
		for i := range s.selectors {
			s.selectors[i].steps = s.steps
		}
	}
	return s
}

// ownPoints returns, for a node of the expression, the maximum number of points in memory at once
// that do not come from a selection. Constants, time() and expressions of them are series with a
// point per step, and a subquery can have millions of steps. The result of an operator's left side
// is held while its right side is evaluated.
func (q *query) ownPoints(n parser.Node, path []parser.Node, steps int64) int64 {
	switch n := n.(type) {
	case *parser.VectorSelector, *parser.MatrixSelector:
		return 0
	case *parser.SubqueryExpr:
		steps = q.subquerySteps(n, path)
	}
	path = append(path, n)
	held, most := steps, int64(0)
	for child := range parser.ChildrenIter(n) {
		most = max(most, held-steps+q.ownPoints(child, path, steps))
		held += steps
	}
	return max(most, held)
}

// steps returns the number of points per series of the query.
func (q *query) steps() int64 {
	if q.step <= 0 {
		return 1
	}
	return int64(q.end.Sub(q.start)/q.step) + 1
}

// stepsInside returns the number of steps for which an expression inside the
// nodes of path is evaluated.
func (q *query) stepsInside(path []parser.Node) int64 {
	for i := len(path) - 1; i >= 0; i-- {
		if sq, ok := path[i].(*parser.SubqueryExpr); ok {
			return q.subquerySteps(sq, path[:i])
		}
	}
	return q.steps()
}

// selectorAt returns the shape of a selector inside the nodes of path.
func selectorAt(path []parser.Node) selectorShape {
	s := selectorShape{copies: 1, countsValues: countedAbove(path)}
	for i := len(path) - 1; i >= 0; i-- {
		switch p := path[i].(type) {
		case *parser.AggregateExpr:
			if groups(p) {
				s.groupBy, s.grouped = p.Grouping, true
				return s
			}
			s.copies, s.top = 2, topOf(p)
			if !p.Without {
				s.groupBy = p.Grouping
			}
			return s
		case *parser.BinaryExpr, *parser.SubqueryExpr:
			s.copies = 2
			return s
		case *parser.Call:
			// Functions of a range selector write their result while they read.
			if i+1 < len(path) {
				if _, ok := path[i+1].(*parser.MatrixSelector); ok {
					continue
				}
			}
			// Some functions return several series for one, depending on their
			// arguments.
			s.copies = 1 + int64(max(len(p.Args)-2, 1))
			return s
		}
	}
	return s
}

// groups reports whether an aggregation returns one series for each combination
// of values of the labels that it groups by.
func groups(agg *parser.AggregateExpr) bool {
	switch agg.Op {
	case parser.SUM, parser.AVG, parser.COUNT, parser.MIN, parser.MAX, parser.GROUP, parser.STDDEV, parser.STDVAR, parser.QUANTILE:
		return !agg.Without
	}
	return false
}

// topOf returns the k of a topk, bottomk or limitk; 0 for other aggregations,
// maxTop if k is unknown.
func topOf(agg *parser.AggregateExpr) int64 {
	switch agg.Op {
	case parser.TOPK, parser.BOTTOMK, parser.LIMITK:
	default:
		return 0
	}
	if n, ok := agg.Param.(*parser.NumberLiteral); ok && !agg.Without && n.Val < maxTop {
		return max(int64(n.Val), 1)
	}
	return maxTop
}

// topSeries returns the number of series for which the groups of a topk
// allocate memory.
func (s *selectorShape) topSeries(list []series.WithChunks) int64 {
	n := int64(len(list))
	if s.top == 0 {
		return 0
	}
	k := min(s.top, n)
	groups := n
	if s.top < maxTop {
		groups = s.count(list)
	}
	return sumOf(0, k, groups)
}

// countGroups returns the number of series that an aggregation returns for a
// selection.
func (s *selectorShape) countGroups(list []series.WithChunks) int64 {
	if !s.grouped {
		return 0
	}
	return s.count(list)
}

// count returns the number of distinct values of the groupBy labels.
func (s *selectorShape) count(list []series.WithChunks) int64 {
	if len(s.groupBy) == 0 {
		return 1
	}
	seen := map[uint64]struct{}{}
	var buf []byte
	for i := range list {
		var hash uint64
		hash, buf = list[i].Labels.HashForLabels(buf, s.groupBy...)
		seen[hash] = struct{}{}
	}
	return int64(len(seen))
}

// countedAbove describes the values that a count_values around a selector counts.
func countedAbove(path []parser.Node) valuesCounted {
	between := sameValues
	for i := len(path) - 1; i >= 0; i-- {
		switch p := path[i].(type) {
		case *parser.AggregateExpr:
			if p.Op == parser.COUNT_VALUES {
				return between
			}
			between = otherValues
		case *parser.ParenExpr, *parser.StepInvariantExpr, *parser.UnaryExpr:
		default:
			between = otherValues
		}
	}
	return noValues
}
