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

// Checks contains the parameters of Check.
type Checks struct {
	Parser parser.Parser  // parser with the PromQL switches of the tenant
	Limits *limits.Limits // nil for no limits, as in a check without a server
	Tenant tenant.ID      // the only tenant that is allowed in source_tenants; "" allows any
}

// Check returns an error with the problems of a group (at most 50), or nil. Each problem names the group, the
// rule and its number, and the line and the field if they are known.
func Check(d *Document, c Checks) error {
	k := checker{Checks: c, group: d.Name, labels: d.Labels, unread: map[int][]problem{}}
	for _, p := range d.problems {
		k.unread[p.rule] = append(k.unread[p.rule], p)
	}
	k.checkGroup(&d.Group)
	if len(d.Rules) > most(c.Limits) {
		k.add("%v", limits.MaxRulesPerGroup.Exceeded(c.Limits, int64(len(d.Rules)))) // further checks would take too long
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

// most returns the maximum number of rules of a group.
func most(lim *limits.Limits) int {
	if lim == nil || lim.MaxRulesPerGroup <= 0 {
		return 1 << 30 // no limit is needed, because the size of a group is limited
	}
	return lim.MaxRulesPerGroup
}

// checker collects the problems of one group.
type checker struct {
	Checks
	group    string
	labels   map[string]string // labels of the group
	unread   map[int][]problem // problems of values that could not be read, by rule
	problems []string
}

func (k *checker) add(format string, args ...any) {
	k.problems = append(k.problems, fmt.Sprintf("group %q: ", k.group)+fmt.Sprintf(format, args...))
}

func (k *checker) err() error {
	if len(k.problems) == 0 {
		return nil
	}
	return invalid("%s", strings.Join(shortened(k.problems), "\n"))
}

// shortened returns the first problems, followed by the number of the others.
func shortened(problems []string) []string {
	const shown = 50
	if n := len(problems); n > shown {
		return append(problems[:shown:shown], fmt.Sprintf("and %d more", n-shown))
	}
	return problems
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
		k.add("field source_tenants may contain only this tenant, %q: rules across tenants are not supported", k.Tenant)
	}
	for _, p := range k.unread[-1] {
		k.add("%s", p.text)
	}
	k.checkDurations(g)
	k.checkLabels(g)
}

// DefaultInterval is the interval of groups without one, as in Prometheus.
const DefaultInterval = time.Minute

// maxDuration is the maximum interval and offset of a group.
const maxDuration = 365 * 24 * time.Hour

// checkDurations checks the interval and the offsets of the group.
func (k *checker) checkDurations(g *Group) {
	if k.Limits != nil && !slices.ContainsFunc(k.unread[-1], func(p problem) bool { return p.field == "interval" }) {
		least := time.Duration(k.Limits.MinRuleInterval)
		switch interval := time.Duration(g.Interval); {
		case interval > 0 && interval < least:
			k.add("field interval: the limit min_rule_interval is %s, and the interval is %s: use a longer interval", k.Limits.MinRuleInterval,
				g.Interval)
		case interval == 0 && DefaultInterval < least:
			k.add("field interval is missing: the limit min_rule_interval is %s, and the default interval is %s: set an interval",
				k.Limits.MinRuleInterval, model.Duration(DefaultInterval))
		}
	}
	for _, f := range []struct {
		name string
		d    *model.Duration
	}{{"interval", &g.Interval}, {"query_offset", g.QueryOffset}, {"evaluation_delay", g.EvaluationDelay}} {
		if f.d != nil && time.Duration(*f.d) > maxDuration {
			k.add("field %s is %s: it may be at most 365d", f.name, f.d)
		}
	}
}

// checkLabels checks the labels of the group.
func (k *checker) checkLabels(g *Group) {
	for _, name := range sorted(g.Labels) {
		if text := checkLabel(name, g.Labels[name]); text != "" {
			k.add("field labels: %s", text)
		}
	}
}

// checkLabel returns the problem of a label of the group, or "".
func checkLabel(name, v string) string {
	switch {
	case !model.UTF8Validation.IsValidLabelName(name) || name == model.MetricNameLabel:
		return "invalid label name: " + name
	case !model.LabelValue(v).IsValid():
		return fmt.Sprintf("label %s: the value is not valid UTF-8", name)
	}
	return ""
}

// checkRule checks one rule. It checks sizes first, because the time and memory for parsing grow with
// them.
func (k *checker) checkRule(i int, r *rulefmt.Rule, node rulefmt.RuleNode) {
	name := r.Record
	if r.Alert != "" {
		name = r.Alert
	}
	add := func(format string, args ...any) {
		k.add("rule %d, %q: %s", i+1, name, fmt.Sprintf(format, args...))
	}
	for _, p := range k.unread[i] {
		add("%s", p.text)
	}
	if err := k.checkSize(r.Expr); err != nil {
		add("%sfield expr: %v", line(node.Expr.Line), err)
		return
	}
	checked := *r
	if r.Alert != "" {
		if _, problems := costOf(k.labels, r); len(problems) > 0 {
			for _, p := range problems {
				add("%s", p)
			}
			return
		}
		checked.Labels = merged(k.templates(), r.Labels)
	}
	var texts []string
	for _, w := range checked.Validate(node, model.UTF8Validation, k.Parser) {
		texts = append(texts, validation(w, node))
	}
	if text := k.checkType(r.Expr); text != "" {
		texts = append(texts, line(node.Expr.Line)+text)
	}
	slices.Sort(texts) // rulefmt visits labels in a random order
	for _, t := range slices.Compact(texts) {
		add("%s", t)
	}
}

// templates returns the labels of the group with valid names, because each alerting rule has them, and expands them as templates.
func (k *checker) templates() map[string]string {
	out := map[string]string{}
	for name, v := range k.labels {
		if checkLabel(name, v) == "" {
			out[name] = v
		}
	}
	return out
}

// checkType returns the problem of an expression whose type a rule cannot record or compare, or "".
func (k *checker) checkType(expr string) string {
	e, err := k.Parser.ParseExpr(expr)
	if err != nil {
		return "" // rulefmt reports it
	}
	switch t := e.Type(); t {
	case parser.ValueTypeVector, parser.ValueTypeScalar:
		return ""
	case parser.ValueTypeMatrix:
		return "field expr returns a range vector: use a function such as rate or max_over_time, or remove the range"
	default:
		return fmt.Sprintf("field expr returns a %s: it must return numbers", t)
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

// maxInstructions is the maximum size of the compiled regular expressions of one expression, if the tenant has no
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
