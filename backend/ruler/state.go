package ruler

import (
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/rules"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rulestate"
)

// shown contains the parts of a group from which its state is created. Alerts are copied without holding Ruler.mu.
type shown struct {
	namespace, name string
	interval        time.Duration
	blocked         string
	group           *rulefmt.RuleGroup
	rules           *rules.Group // nil if the group is not evaluated
	skipped         map[int]rulestate.Rule
	readers         *sync.WaitGroup // readers of rules; see group
}

// State returns the groups of a tenant in the shares that this process holds, sorted by
// namespace and name.
func (r *Ruler) State(id tenant.ID) []rulestate.Group {
	out := []rulestate.Group{}
	for _, s := range r.shown(id) {
		if s.rules == nil {
			out = append(out, blockedState(s))
			continue
		}
		out = append(out, state(s))
		s.readers.Done()
	}
	rulestate.Sort(out)
	return out
}

// shown returns the parts for the state of a tenant's groups. The caller must call Done of readers if `rules` is set.
func (r *Ruler) shown(id tenant.ID) []shown {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tenants[id]
	if t == nil {
		return nil
	}
	var out []shown
	for _, g := range t.groups {
		s := shown{namespace: g.namespace, name: g.name, interval: g.interval, blocked: g.blocked, group: &g.want.definition.Group}
		if g.evaluated() {
			s.rules, s.skipped, s.readers = g.rules, g.skipped, g.readers
			s.readers.Add(1)
		}
		out = append(out, s)
	}
	return out
}

// state returns the state of a group.
func state(g shown) rulestate.Group {
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
func blockedState(g shown) rulestate.Group {
	def := g.group
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
	if len(s.Rules) == 0 { // the group cannot be read: the error is shown in a rule, because the API has no errors of groups
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
