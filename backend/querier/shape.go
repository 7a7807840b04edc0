package querier

import (
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/backend/series"
)

// shape is what an expression says of the memory that its evaluation takes, beside
// what it selects.
type shape struct {
	bound *labelBound // nil: it makes no labels
	// selectors are those of the expression in the order in which the engine selects
	// them, that of parser.Inspect.
	selectors []selectorShape
	// steps are the most at which any part of it is evaluated.
	steps int64
	// ownPoints are the most that are held at once of what is made without selecting
	// anything.
	ownPoints int64
}

// selectorShape is what becomes of the series of one selector.
type selectorShape struct {
	// copies is how many matrices of the size of the selection are held at once: what
	// was read, and what an operator or function makes of that.
	copies int64
	// groupBy are the labels of an aggregation right above it, which makes one series
	// for each of their values; grouped is set if there is one.
	groupBy []string
	grouped bool

	countsValues valuesCounted
	// steps is at how many times the selector is evaluated, or its value repeated.
	steps int64
	// top is the k of a topk, bottomk or limitk right above it, which makes room for
	// so many series in each group; 0 without one, maxTop when it is not known.
	top int64
}

// maxTop is more series than any selection has.
const maxTop = 1 << 40

// valuesCounted says which values make series by count_values.
type valuesCounted int

const (
	noValues    valuesCounted = iota
	sameValues                // those that are selected, or one for each of them
	otherValues               // any
)

// shapeOf finds the shape of an expression of the query.
func (q *query) shapeOf(e parser.Expr) shape {
	s := shape{bound: newLabelBound(e), ownPoints: q.ownPoints(e, nil, q.steps())}
	if most := int64(q.lim.MaxQuerySamples); most > 0 { // the engine counts them, too
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
	if anyFixed { // what is selected at a time of its own (the @ modifier) is repeated for all steps
		for i := range s.selectors {
			s.selectors[i].steps = s.steps
		}
	}
	return s
}

// ownPoints is the most points that are held at once for a node of the expression
// without what it selects: a constant, the time, and all that is made of them are
// series of all steps, and a subquery can have millions of those. What stands left
// of an operator is held while its right is evaluated.
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

// steps is the number of points per series of the query.
func (q *query) steps() int64 {
	if q.step <= 0 {
		return 1
	}
	return int64(q.end.Sub(q.start)/q.step) + 1
}

// stepsInside is at how many times what is inside the nodes of path is evaluated.
func (q *query) stepsInside(path []parser.Node) int64 {
	for i := len(path) - 1; i >= 0; i-- {
		if sq, ok := path[i].(*parser.SubqueryExpr); ok {
			return q.subquerySteps(sq, path[:i])
		}
	}
	return q.steps()
}

// selectorAt is the shape of a selector inside the nodes of path.
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
			// A function of a range selector writes its result while it reads.
			if i+1 < len(path) {
				if _, ok := path[i+1].(*parser.MatrixSelector); ok {
					continue
				}
			}
			// Some make several series of one, by their arguments.
			s.copies = 1 + int64(max(len(p.Args)-2, 1))
			return s
		}
	}
	return s
}

// groups reports whether an aggregation makes one series for each value of the
// labels that it names.
func groups(agg *parser.AggregateExpr) bool {
	switch agg.Op {
	case parser.SUM, parser.AVG, parser.COUNT, parser.MIN, parser.MAX, parser.GROUP, parser.STDDEV, parser.STDVAR, parser.QUANTILE:
		return !agg.Without
	}
	return false
}

// topOf is the k of a topk, bottomk or limitk; 0 for other aggregations.
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

// topSeries is for how many series the groups of a topk have room.
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

// countGroups is how many series an aggregation makes of a selection.
func (s *selectorShape) countGroups(list []series.WithChunks) int64 {
	if !s.grouped {
		return 0
	}
	return s.count(list)
}

// count is how many values the labels that are grouped by have.
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

// countedAbove says what a count_values around a selector counts.
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
