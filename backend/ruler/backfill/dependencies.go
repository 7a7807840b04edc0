package backfill

import (
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

// slotBySlot reports whether all rules must be evaluated at one slot after the other, because a query over several slots would
// have other results. This is the case if a rule may read samples that it or a later rule recorded at earlier slots, if its
// expression depends on the start, the end or the step of the query, or if it cannot be parsed.
func slotBySlot(rules []rulefmt.Rule) bool {
	p := parser.NewParser(parser.Options{EnableExperimentalFunctions: true, EnableBinopFillModifiers: true})
	for i := range rules {
		if rules[i].Record == "" {
			continue
		}
		expr, err := p.ParseExpr(rules[i].Expr)
		if err != nil || depends(expr, rules[i:]) {
			return true
		}
	}
	return false
}

// depends reports whether an expression may read series that one of the rules records, or depends on the start, the end or
// the step of the query.
func depends(expr parser.Expr, rules []rulefmt.Rule) bool {
	found := false
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.VectorSelector:
			found = found || n.StartOrEnd != 0 || computed(n.OriginalOffsetExpr) ||
				slices.ContainsFunc(rules, func(r rulefmt.Rule) bool { return selects(n.LabelMatchers, r.Record) })
		case *parser.MatrixSelector:
			found = found || computed(n.RangeExpr)
		case *parser.SubqueryExpr:
			found = found || n.StartOrEnd != 0 || computed(n.RangeExpr) || computed(n.StepExpr) || computed(n.OriginalOffsetExpr)
		case *parser.Call:
			found = found || slices.Contains([]string{"start", "end", "range", "step"}, n.Func.Name)
		}
		return nil
	})
	return found
}

// computed reports whether a duration depends on the step or the range of the query.
func computed(e parser.Expr) bool {
	d, ok := e.(*parser.DurationExpr)
	return ok && d != nil && (d.Op == parser.STEP || d.Op == parser.RANGE || computed(d.LHS) || computed(d.RHS))
}

// selects reports whether matchers may select series of a metric.
func selects(matchers []*labels.Matcher, metric string) bool {
	return metric != "" && !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool {
		return m.Name == model.MetricNameLabel && !m.Matches(metric)
	})
}
