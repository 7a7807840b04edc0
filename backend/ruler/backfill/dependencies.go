package backfill

import (
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

// slotBySlot reports whether all rules must be evaluated at one slot after the other, because a query over several slots would
// have other results. This is the case if a rule may read samples that it or a later rule recorded at earlier slots, or if its
// expression depends on the start or the end of the query.
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

// depends reports whether an expression may read series that one of the rules records, or depends on the start or the end of
// the query.
func depends(expr parser.Expr, rules []rulefmt.Rule) bool {
	found := false
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.VectorSelector:
			found = found || n.StartOrEnd != 0 || slices.ContainsFunc(rules, func(r rulefmt.Rule) bool { return selects(n.LabelMatchers, r.Record) })
		case *parser.SubqueryExpr:
			found = found || n.StartOrEnd != 0
		}
		return nil
	})
	return found
}

// selects reports whether matchers may select series of a metric.
func selects(matchers []*labels.Matcher, metric string) bool {
	return metric != "" && !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool {
		return m.Name == model.MetricNameLabel && !m.Matches(metric)
	})
}
