// Package rulestate describes the state of rules and alerts as Prometheus' API shows it (/api/v1/rules
// and /api/v1/alerts), with the filters and pages of that API. Rulers send it to each other in the
// same JSON.
package rulestate

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// Group is a group of rules. Durations are in seconds.
type Group struct {
	Name           string    `json:"name"`
	File           string    `json:"file"` // the namespace
	Rules          []Rule    `json:"rules"`
	Interval       float64   `json:"interval"`
	Limit          int       `json:"limit"`
	EvaluationTime float64   `json:"evaluationTime"`
	LastEvaluation time.Time `json:"lastEvaluation"`
}

// The types of a rule.
const (
	Alerting  = "alerting"
	Recording = "recording"
)

// Unknown is the health of a rule, and the state of an alerting rule, that was not evaluated yet or that no ruler reports.
const Unknown = "unknown"

// Rule is a rule of a group. A recording rule does not have State, Duration, KeepFiringFor, Annotations or Alerts.
type Rule struct {
	State          string        `json:"state"` // inactive, pending, firing, or Unknown
	Name           string        `json:"name"`
	Query          string        `json:"query"`
	Duration       float64       `json:"duration"`
	KeepFiringFor  float64       `json:"keepFiringFor"`
	Labels         labels.Labels `json:"labels"`
	Annotations    labels.Labels `json:"annotations"`
	Alerts         []Alert       `json:"alerts"`
	Health         string        `json:"health"` // ok, err, or Unknown
	LastError      string        `json:"lastError,omitempty"`
	EvaluationTime float64       `json:"evaluationTime"`
	LastEvaluation time.Time     `json:"lastEvaluation"`
	Type           string        `json:"type"`
}

// Alert is an active alert.
type Alert struct {
	Labels          labels.Labels `json:"labels"`
	Annotations     labels.Labels `json:"annotations"`
	State           string        `json:"state"` // pending or firing
	ActiveAt        *time.Time    `json:"activeAt,omitempty"`
	KeepFiringSince *time.Time    `json:"keepFiringSince,omitempty"`
	Value           string        `json:"value"`
}

// recording contains the fields of a recording rule in Prometheus' API.
type recording struct {
	Name           string        `json:"name"`
	Query          string        `json:"query"`
	Labels         labels.Labels `json:"labels"`
	Health         string        `json:"health"`
	LastError      string        `json:"lastError,omitempty"`
	EvaluationTime float64       `json:"evaluationTime"`
	LastEvaluation time.Time     `json:"lastEvaluation"`
	Type           string        `json:"type"`
}

// MarshalJSON implements json.Marshaler. A recording rule has fewer fields than an alerting one.
func (r Rule) MarshalJSON() ([]byte, error) {
	if r.Type == Recording {
		return json.Marshal(recording{r.Name, r.Query, r.Labels, r.Health, r.LastError, r.EvaluationTime, r.LastEvaluation, r.Type})
	}
	type plain Rule // without this method
	return json.Marshal(plain(r))
}

// Sort sorts groups by file and name.
func Sort(groups []Group) {
	slices.SortFunc(groups, func(a, b Group) int { return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Name, b.Name)) })
}

// Merge joins the groups that several rulers report. If two rulers report a group, because it is moving between them, the one
// with the later evaluation is kept.
func Merge(lists ...[]Group) []Group {
	type key struct{ file, name string }
	at := map[key]int{}
	out := []Group{}
	for _, list := range lists {
		for i := range list {
			g := &list[i]
			k := key{g.File, g.Name}
			old, seen := at[k]
			switch {
			case !seen:
				at[k] = len(out)
				out = append(out, *g)
			case g.LastEvaluation.After(out[old].LastEvaluation):
				out[old] = *g
			}
		}
	}
	Sort(out)
	return out
}

// Alerts returns the active alerts of groups, in the order of the rules.
func Alerts(groups []Group) []Alert {
	out := []Alert{}
	for i := range groups {
		for j := range groups[i].Rules {
			out = append(out, groups[i].Rules[j].Alerts...)
		}
	}
	return out
}
