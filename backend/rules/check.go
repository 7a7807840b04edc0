package rules

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/regexsize"
	"github.com/palliumhq/pallium/policies/limits"
)

// Checks are the conditions under which a group is valid.
type Checks struct {
	Parser parser.Parser  // with the PromQL switches of the tenant
	Limits *limits.Limits // nil: no limits, as for a check without a server
	Tenant tenant.ID      // the only one allowed in source_tenants; "": any
}

// Check returns an error with all problems of a group, or nil. Each problem names the group, the
// rule and its number, and the line and the field if they are known.
func Check(d *Document, c Checks) error {
	k := checker{Checks: c, group: d.Name}
	k.checkGroup(&d.Group)
	if len(d.Rules) > most(c.Limits) {
		k.add("%v", limits.MaxRulesPerGroup.Exceeded(c.Limits, int64(len(d.Rules)))) // further checks would take long
		return k.err()
	}
	for i := range d.Rules {
		var node rulefmt.RuleNode
		if i < len(d.node.Rules) {
			node = d.node.Rules[i]
		}
		k.checkRule(i, &d.Rules[i], node)
	}
	return k.err()
}

// most returns how many rules a group may have.
func most(lim *limits.Limits) int {
	if lim == nil || lim.MaxRulesPerGroup <= 0 {
		return 1 << 30 // the size of a group is limited
	}
	return lim.MaxRulesPerGroup
}

// checker collects the problems of one group.
type checker struct {
	Checks
	group    string
	problems []string
}

func (k *checker) add(format string, args ...any) {
	k.problems = append(k.problems, fmt.Sprintf("group %q: ", k.group)+fmt.Sprintf(format, args...))
}

func (k *checker) err() error {
	if len(k.problems) == 0 {
		return nil
	}
	const shown = 50
	if n := len(k.problems); n > shown {
		k.problems = append(k.problems[:shown], fmt.Sprintf("and %d more", n-shown))
	}
	return invalid("%s", strings.Join(k.problems, "\n"))
}

// checkGroup checks the fields of the group.
func (k *checker) checkGroup(g *Group) {
	if err := CheckName("name of the group", g.Name); err != nil {
		k.add("%v", err)
	}
	if g.Namespace != "" {
		if err := CheckName("namespace", g.Namespace); err != nil {
			k.add("%v", err)
		}
	}
	if len(g.Rules) == 0 {
		k.add("field rules is empty: a group must have at least one rule")
	}
	if g.Limit < 0 {
		k.add("field limit is %d: it must be 0 (unlimited) or more", g.Limit)
	}
	if g.QueryOffset != nil && g.EvaluationDelay != nil {
		k.add("fields query_offset and evaluation_delay are the same: set only query_offset")
	}
	if k.Tenant != "" && slices.ContainsFunc(g.SourceTenants, func(t string) bool { return t != string(k.Tenant) }) {
		k.add("field source_tenants may contain only the own tenant %q: rules across tenants are not supported", k.Tenant)
	}
	if k.Limits != nil && g.Interval > 0 && time.Duration(g.Interval) < time.Duration(k.Limits.MinRuleInterval) {
		k.add("field interval: the limit min_rule_interval is %s, and the interval is %s: use a longer interval", k.Limits.MinRuleInterval,
			g.Interval)
	}
	k.checkLabels(g)
}

// checkLabels checks the labels of the group.
func (k *checker) checkLabels(g *Group) {
	for _, name := range sorted(g.Labels) {
		if !model.UTF8Validation.IsValidLabelName(name) || name == model.MetricNameLabel {
			k.add("field labels: invalid label name: %s", name)
		}
		if !model.LabelValue(g.Labels[name]).IsValid() {
			k.add("field labels: label %s: the value is not valid UTF-8", name)
		}
	}
}

// checkRule checks one rule. Sizes are checked first, because parsing takes time and memory that grow with
// them.
func (k *checker) checkRule(i int, r *rulefmt.Rule, node rulefmt.RuleNode) {
	name := r.Record
	if r.Alert != "" {
		name = r.Alert
	}
	add := func(format string, args ...any) {
		k.add("rule %d, %q: %s", i+1, name, fmt.Sprintf(format, args...))
	}
	if err := k.checkSize(r.Expr); err != nil {
		add("%sfield expr: %v", line(node.Expr.Line), err)
		return
	}
	if r.Alert != "" {
		if problems := checkTemplates(r); len(problems) > 0 {
			for _, p := range problems {
				add("%s", p)
			}
			return
		}
	}
	var texts []string
	for _, w := range r.Validate(node, model.UTF8Validation, k.Parser) {
		texts = append(texts, validation(w, node))
	}
	slices.Sort(texts) // rulefmt visits labels in any order
	for _, t := range slices.Compact(texts) {
		add("%s", t)
	}
}

// validation returns the text of an error of rulefmt, with the line of the field.
func validation(w rulefmt.WrappedError, node rulefmt.RuleNode) string {
	err := errors.Unwrap(&w)
	text := err.Error()
	at := 0
	for _, f := range []struct {
		part string
		line int
	}{
		{"could not parse expression", node.Expr.Line},
		{"'expr'", node.Expr.Line},
		{"'record'", node.Record.Line},
		{"recording rule", node.Record.Line},
	} {
		if strings.Contains(text, f.part) {
			at = f.line
			break
		}
	}
	if rest, ok := strings.CutPrefix(text, "could not parse expression"); ok {
		text = "field expr could not be parsed" + rest
	}
	return line(at) + text
}

func line(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf("line %d: ", n)
}

// maxInstructions is the greatest size of the regular expressions of one expression, if the tenant has no
// limit.
const maxInstructions = 1 << 20

// checkSize checks the length of an expression and the size of its regular expressions.
func (k *checker) checkSize(expr string) error {
	lim := k.Limits
	most := maxInstructions
	if lim != nil {
		if lim.MaxQueryLength > 0 && len(expr) > lim.MaxQueryLength {
			return limits.MaxQueryLength.Exceeded(lim, int64(len(expr)))
		}
		if lim.MaxRegexInstructions > 0 {
			most = lim.MaxRegexInstructions
		}
	}
	if _, err := regexsize.Expression(expr, most); err != nil {
		if lim != nil {
			return limits.MaxRegexInstructions.ExceededAt(int64(most), limits.More)
		}
		return err
	}
	return nil
}

func sorted(m map[string]string) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
