package querier

import (
	"fmt"
	"time"

	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/policies/limits"
)

// maxSubquerySteps is the maximum number of steps of a subquery, independent of the limits: the
// engine allocates memory for all steps before it counts a sample, and a failed allocation ends the
// process. It is the number of steps of 15 seconds in five years.
const maxSubquerySteps = 5 * 366 * 24 * 60 * 4

// SubqueryStep is the step of a subquery without one, as in [1h:].
const SubqueryStep = time.Minute

// defaultSubqueryStep is SubqueryStep in milliseconds.
const defaultSubqueryStep = int64(SubqueryStep / time.Millisecond)

// checkSubqueries compares the number of steps of every subquery with
// max_query_samples: every step has at least one sample.
func (q *query) checkSubqueries() error {
	stmt, ok := q.Statement().(*parser.EvalStmt)
	if !ok {
		return nil
	}
	most := int64(maxSubquerySteps)
	if q.lim.MaxQuerySamples > 0 {
		most = min(most, int64(q.lim.MaxQuerySamples))
	}
	var exceeded *limits.Exceeded
	parser.Inspect(stmt.Expr, func(n parser.Node, path []parser.Node) error {
		sq, ok := n.(*parser.SubqueryExpr)
		if !ok || exceeded != nil {
			return nil //nolint:nilerr // the first error is returned below
		}
		if steps := q.subquerySteps(sq, path); steps > most {
			exceeded = limits.MaxQuerySamples.ExceededAt(most, limits.More).With(fmt.Sprintf(": a subquery has %d steps", steps))
		}
		return nil
	})
	if exceeded != nil {
		return exceeded
	}
	return nil
}

// subquerySteps returns how often the engine evaluates the expression inside a subquery: over its
// own range plus the ranges of the subqueries around it and of the query. With the @ modifier,
// ranges around it do not count.
func (q *query) subquerySteps(sq *parser.SubqueryExpr, path []parser.Node) int64 {
	span, moves := sq.Range.Milliseconds(), !fixed(sq)
	for i := len(path) - 1; i >= 0 && moves; i-- {
		if outer, ok := path[i].(*parser.SubqueryExpr); ok {
			span += outer.Range.Milliseconds()
			moves = !fixed(outer)
		}
	}
	if moves {
		span += q.end.Sub(q.start).Milliseconds()
	}
	step := sq.Step.Milliseconds()
	if step <= 0 {
		step = defaultSubqueryStep
	}
	return span/step + 1
}

func fixed(sq *parser.SubqueryExpr) bool { return sq.Timestamp != nil || sq.StartOrEnd != 0 }
