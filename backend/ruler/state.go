package ruler

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/rules"

	"github.com/palliumhq/pallium/authn/tenant"
)

// GroupState is the state of a group as Prometheus' API encodes it.
type GroupState struct {
	Name           string      `json:"name"`
	File           string      `json:"file"` // the namespace
	Rules          []RuleState `json:"rules"`
	Interval       float64     `json:"interval"` // seconds
	Limit          int         `json:"limit"`
	EvaluationTime float64     `json:"evaluationTime"` // seconds
	LastEvaluation time.Time   `json:"lastEvaluation"`
}

// RuleState is the state of a rule. Alerting is nil for recording rules; its fields are encoded
// like the others.
type RuleState struct {
	Name  string `json:"name"`
	Query string `json:"query"`
	*Alerting
	Labels         labels.Labels `json:"labels"`
	Health         string        `json:"health"`
	LastError      string        `json:"lastError,omitempty"`
	EvaluationTime float64       `json:"evaluationTime"` // seconds
	LastEvaluation time.Time     `json:"lastEvaluation"`
	Type           string        `json:"type"`
}

// Alerting has the fields that only alerting rules have.
type Alerting struct {
	State         string        `json:"state"`
	Duration      float64       `json:"duration"` // seconds
	KeepFiringFor float64       `json:"keepFiringFor"`
	Annotations   labels.Labels `json:"annotations"`
	Alerts        []AlertState  `json:"alerts"`
}

// AlertState is an active alert.
type AlertState struct {
	Labels          labels.Labels `json:"labels"`
	Annotations     labels.Labels `json:"annotations"`
	State           string        `json:"state"`
	ActiveAt        *time.Time    `json:"activeAt,omitempty"`
	KeepFiringSince *time.Time    `json:"keepFiringSince,omitempty"`
	Value           string        `json:"value"`
}

// State returns the groups of a tenant in the shares that this process holds, sorted by
// namespace and name.
func (r *Ruler) State(id tenant.ID) []GroupState {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := []GroupState{}
	if t := r.tenants[id]; t != nil {
		for _, g := range t.groups {
			out = append(out, r.state(g))
		}
	}
	slices.SortFunc(out, func(a, b GroupState) int { return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Name, b.Name)) })
	return out
}

// state returns the state of a group. r.mu is locked.
func (r *Ruler) state(g *group) GroupState {
	if !g.evaluated() {
		return blockedState(g)
	}
	s := GroupState{Name: g.name, File: g.namespace, Rules: []RuleState{}, Interval: g.interval.Seconds(), Limit: g.rules.Limit(),
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
func blockedState(g *group) GroupState {
	v := g.want
	def := &v.definition.Group
	s := GroupState{Name: g.name, File: g.namespace, Rules: []RuleState{}, Limit: def.Limit, Interval: time.Duration(def.Interval).Seconds()}
	if def.Interval <= 0 {
		s.Interval = defaultInterval.Seconds()
	}
	for i := range def.Rules {
		d := &def.Rules[i]
		rule := RuleState{Name: d.Record + d.Alert, Query: d.Expr, Labels: rules.FromMaps(def.Labels, d.Labels), Type: "recording"}
		if d.Alert != "" {
			rule.Type = "alerting"
			rule.Alerting = &Alerting{State: rules.StateUnknown.String(), Duration: time.Duration(d.For).Seconds(),
				KeepFiringFor: time.Duration(d.KeepFiringFor).Seconds(), Annotations: labels.FromMap(d.Annotations), Alerts: []AlertState{}}
		}
		s.Rules = append(s.Rules, notEvaluated(rule, g.blocked))
	}
	if len(s.Rules) == 0 { // a group that cannot be read: the API has errors of rules only
		s.Rules = append(s.Rules, notEvaluated(RuleState{Name: g.name, Type: "recording"}, g.blocked))
	}
	return s
}

// notEvaluated returns the state of a rule that is not evaluated.
func notEvaluated(s RuleState, why string) RuleState {
	s.Health, s.LastError = string(rules.HealthBad), why
	return s
}

// stateOf returns the state of a rule.
func stateOf(rule rules.Rule) RuleState {
	s := RuleState{Name: rule.Name(), Query: rule.Query().String(), Labels: rule.Labels(), Health: string(rule.Health()),
		EvaluationTime: rule.GetEvaluationDuration().Seconds(), LastEvaluation: rule.GetEvaluationTimestamp(), Type: "recording"}
	if err := rule.LastError(); err != nil {
		s.LastError = err.Error()
	}
	a, ok := rule.(*rules.AlertingRule)
	if !ok {
		return s
	}
	s.Type = "alerting"
	s.Alerting = &Alerting{State: a.State().String(), Duration: a.HoldDuration().Seconds(), KeepFiringFor: a.KeepFiringFor().Seconds(),
		Annotations: a.Annotations(), Alerts: alertsOf(a)}
	return s
}

// alertsOf returns the active alerts of a rule, sorted by labels.
func alertsOf(rule *rules.AlertingRule) []AlertState {
	active := rule.ActiveAlerts()
	slices.SortFunc(active, func(a, b *rules.Alert) int { return labels.Compare(a.Labels, b.Labels) })
	out := make([]AlertState, 0, len(active))
	for _, a := range active {
		s := AlertState{Labels: a.Labels, Annotations: a.Annotations, State: a.State.String(), ActiveAt: &a.ActiveAt,
			Value: strconv.FormatFloat(a.Value, 'e', -1, 64)}
		if !a.KeepFiringSince.IsZero() {
			s.KeepFiringSince = &a.KeepFiringSince
		}
		out = append(out, s)
	}
	return out
}
