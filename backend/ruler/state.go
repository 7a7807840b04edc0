package ruler

import (
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/rules"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rulestate"
)

// State returns the groups of a tenant in the shares that this process holds, sorted by
// namespace and name.
func (r *Ruler) State(id tenant.ID) []rulestate.Group {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := []rulestate.Group{}
	if t := r.tenants[id]; t != nil {
		for _, g := range t.groups {
			out = append(out, r.state(g))
		}
	}
	rulestate.Sort(out)
	return out
}

// state returns the state of a group. r.mu is locked.
func (r *Ruler) state(g *group) rulestate.Group {
	if !g.evaluated() {
		return blockedState(g)
	}
	s := rulestate.Group{Name: g.name, File: g.namespace, Rules: []rulestate.Rule{}, Interval: g.interval.Seconds(), Limit: g.rules.Limit(),
		EvaluationTime: g.rules.GetEvaluationTime().Seconds(), LastEvaluation: g.rules.GetLastEvaluation()}
	list := g.rules.Rules()
	for i := range len(list) + len(g.skipped) {
		if skipped, ok := g.skipped[i]; ok {
			s.Rules = append(s.Rules, skipped)
			continue
		}
		s.Rules = append(s.Rules, stateOf(list[0]))
		list = list[1:]
	}
	return s
}

// blockedState returns the state of a group that is not evaluated.
func blockedState(g *group) rulestate.Group {
	v := g.want
	def := &v.definition.Group
	s := rulestate.Group{Name: g.name, File: g.namespace, Rules: []rulestate.Rule{}, Limit: def.Limit,
		Interval: time.Duration(def.Interval).Seconds()}
	if def.Interval <= 0 {
		s.Interval = DefaultInterval.Seconds()
	}
	for i := range def.Rules {
		d := &def.Rules[i]
		rule := rulestate.Rule{Name: d.Record + d.Alert, Query: d.Expr, Labels: rules.FromMaps(def.Labels, d.Labels), Type: rulestate.Recording}
		if d.Alert != "" {
			rule.Type = rulestate.Alerting
			rule.State, rule.Duration = rulestate.Unknown, time.Duration(d.For).Seconds()
			rule.KeepFiringFor = time.Duration(d.KeepFiringFor).Seconds()
			rule.Annotations, rule.Alerts = labels.FromMap(d.Annotations), []rulestate.Alert{}
		}
		s.Rules = append(s.Rules, notEvaluated(rule, g.blocked))
	}
	if len(s.Rules) == 0 { // a group that cannot be read: the API has errors of rules only
		s.Rules = append(s.Rules, notEvaluated(rulestate.Rule{Name: g.name, Type: rulestate.Recording}, g.blocked))
	}
	return s
}

// notEvaluated returns the state of a rule that is not evaluated.
func notEvaluated(s rulestate.Rule, why string) rulestate.Rule {
	s.Health, s.LastError = string(rules.HealthBad), why
	return s
}

// stateOf returns the state of a rule.
func stateOf(rule rules.Rule) rulestate.Rule {
	s := rulestate.Rule{Name: rule.Name(), Query: rule.Query().String(), Labels: rule.Labels(), Health: string(rule.Health()),
		EvaluationTime: rule.GetEvaluationDuration().Seconds(), LastEvaluation: rule.GetEvaluationTimestamp(), Type: rulestate.Recording}
	if err := rule.LastError(); err != nil {
		s.LastError = err.Error()
	}
	a, ok := rule.(*rules.AlertingRule)
	if !ok {
		return s
	}
	s.Type = rulestate.Alerting
	s.State, s.Duration, s.KeepFiringFor = a.State().String(), a.HoldDuration().Seconds(), a.KeepFiringFor().Seconds()
	s.Annotations, s.Alerts = a.Annotations(), alertsOf(a)
	return s
}

// alertsOf returns the active alerts of a rule, sorted by labels.
func alertsOf(rule *rules.AlertingRule) []rulestate.Alert {
	active := rule.ActiveAlerts()
	slices.SortFunc(active, func(a, b *rules.Alert) int { return labels.Compare(a.Labels, b.Labels) })
	out := make([]rulestate.Alert, 0, len(active))
	for _, a := range active {
		s := rulestate.Alert{Labels: a.Labels, Annotations: a.Annotations, State: a.State.String(), ActiveAt: &a.ActiveAt,
			Value: strconv.FormatFloat(a.Value, 'e', -1, 64)}
		if !a.KeepFiringSince.IsZero() {
			s.KeepFiringSince = &a.KeepFiringSince
		}
		out = append(out, s)
	}
	return out
}
