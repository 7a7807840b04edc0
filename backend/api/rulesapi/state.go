package rulesapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	promrules "github.com/prometheus/prometheus/rules"

	"github.com/palliumhq/pallium/backend/api/exchange"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/regexsize"
	"github.com/palliumhq/pallium/backend/rules"
	"github.com/palliumhq/pallium/backend/rulestate"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/limits"
)

// notReported is the error of a rule whose group no ruler reports.
const notReported = "no ruler reports this group: it is about to be evaluated for the first time, it moves between rulers, " +
	"or no ruler is running"

// settled is the age of a group from which a ruler should have read it.
const settled = time.Minute

// groups returns the state of all stored groups of the tenant: the state that rulers report, or else the state unknown, so
// that no group is missing in the response. `silent` is the number of groups with alerting rules that no ruler reports
// or has evaluated, although they are not new.
func (a *api) groups(x *request) (out []rulestate.Group, silent int, err error) {
	set, err := a.Store.List(x.R.Context(), x.Tenant)
	if err != nil {
		return nil, 0, err
	}
	if err := x.Memory.Take(listFactor * size(set)); err != nil {
		return nil, 0, err
	}
	var reported []rulestate.Group
	if len(set.Groups) > 0 {
		if reported, err = a.States(x.R.Context(), x.Tenant); err != nil {
			return nil, 0, err
		}
	}
	type key struct{ namespace, name string }
	at := make(map[key]*rulestate.Group, len(reported))
	for i := range reported {
		at[key{reported[i].File, reported[i].Name}] = &reported[i]
	}
	out = make([]rulestate.Group, 0, len(set.Groups))
	for i := range set.Groups {
		g := &set.Groups[i]
		if state := at[key{g.Namespace, g.Name}]; state != nil {
			out = append(out, *state)
			if unevaluated(state) && a.Now().Sub(time.UnixMilli(g.Written)) > settled+time.Duration(state.Interval*float64(time.Second)) {
				silent++
			}
			continue
		}
		state, alerting := unknown(g)
		if alerting && a.Now().Sub(time.UnixMilli(g.Written)) > settled {
			silent++
		}
		out = append(out, state)
	}
	rulestate.Sort(out)
	return out, silent, nil
}

// unevaluated reports whether a group has alerting rules that were not evaluated since its ruler has the group. Their alerts are
// unknown then.
func unevaluated(g *rulestate.Group) bool {
	return slices.ContainsFunc(g.Rules, func(r rulestate.Rule) bool {
		return r.Type == rulestate.Alerting && r.Health == rulestate.Unknown
	})
}

// unknown returns the state of a group that no ruler reports, and whether it has alerting rules.
func unknown(g *index.RuleGroup) (state rulestate.Group, alerting bool) {
	state = rulestate.Group{Name: g.Name, File: g.Namespace, Rules: []rulestate.Rule{}}
	d, err := rules.Stored(g.Namespace, []byte(g.YAML))
	if g.Err != nil {
		err = g.Err
	}
	if err != nil {
		state.Rules = append(state.Rules, rulestate.Rule{Name: g.Name, Type: rulestate.Recording, Health: "err", LastError: err.Error()})
		return state, true
	}
	state.Interval, state.Limit = time.Duration(d.Interval).Seconds(), d.Limit
	for i := range d.Rules {
		r := &d.Rules[i]
		rule := rulestate.Rule{Name: r.Record, Query: r.Expr, Labels: promrules.FromMaps(d.Labels, r.Labels), Type: rulestate.Recording,
			Health: rulestate.Unknown, LastError: notReported}
		if r.Alert != "" {
			alerting = true
			rule.Name, rule.Type, rule.State, rule.Alerts = r.Alert, rulestate.Alerting, rulestate.Unknown, []rulestate.Alert{}
			rule.Duration, rule.KeepFiringFor = time.Duration(r.For).Seconds(), time.Duration(r.KeepFiringFor).Seconds()
			rule.Annotations = labels.FromMap(r.Annotations)
		}
		state.Rules = append(state.Rules, rule)
	}
	return state, alerting
}

// stateFactor is the memory for a response with a state, as a multiple of the size of its texts: encoded, escaped, and in
// the buffers of the encoder.
const stateFactor = 6

// stateSize returns the bytes of the texts of groups.
func stateSize(groups []rulestate.Group) (n int64) {
	const fields = 300 // names, numbers and times of a rule or an alert
	for i := range groups {
		n += fields
		for j := range groups[i].Rules {
			r := &groups[i].Rules[j]
			n += fields + int64(len(r.Name)+len(r.Query)+len(r.LastError)) + labelsSize(r.Labels) + labelsSize(r.Annotations)
			for k := range r.Alerts {
				n += fields + labelsSize(r.Alerts[k].Labels) + labelsSize(r.Alerts[k].Annotations)
			}
		}
	}
	return n
}

func labelsSize(ls labels.Labels) (n int64) {
	const quotes = 6
	ls.Range(func(l labels.Label) { n += int64(len(l.Name)+len(l.Value)) + quotes })
	return n
}

// rules responds with the state of rules, as Prometheus does.
func (a *api) rules(x *request) error {
	parser := a.Parsers(switches.Of(x.Limits))
	request, err := rulestate.ParseRequest(x.R.URL.Query(), func(s string) ([]*labels.Matcher, error) {
		if err := x.checkSelector(s); err != nil {
			return nil, err
		}
		return parser.ParseMetricSelector(s)
	})
	if err != nil {
		return exchange.BadRequest(err.Error())
	}
	all, _, err := a.groups(x)
	if err != nil {
		return err
	}
	page, err := request.Select(all)
	if err != nil {
		return exchange.BadRequest(err.Error())
	}
	if err := x.Memory.Take(stateFactor * stateSize(page.Groups)); err != nil {
		return err
	}
	return writeDataAs(x.W, http.StatusOK, page)
}

// checkSelector checks the size of a selector before it is parsed.
func (x *request) checkSelector(s string) error {
	if most := x.Limits.MaxQueryLength; most > 0 && len(s) > most {
		return limits.MaxQueryLength.Exceeded(x.Limits, int64(len(s)))
	}
	most := x.Limits.MaxRegexInstructions
	if most <= 0 {
		most = 1 << 30
	}
	if _, err := regexsize.Expression(s, most); err != nil {
		return limits.MaxRegexInstructions.Exceeded(x.Limits, limits.More)
	}
	return nil
}

// alerts responds with the active alerts, as Prometheus does. It fails if no ruler reports or has evaluated a group, unless the group is
// new.
func (a *api) alerts(x *request) error {
	all, silent, err := a.groups(x)
	if err != nil {
		return err
	}
	if silent > 0 {
		of := "1 group"
		if silent > 1 {
			of = fmt.Sprintf("%d groups", silent)
		}
		return exchange.Unavailable(fmt.Sprintf("the alerts of %s are unknown, because no ruler has evaluated them since it started or "+
			"took them over; send the request again", of))
	}
	if err := x.Memory.Take(stateFactor * stateSize(all)); err != nil {
		return err
	}
	return writeDataAs(x.W, http.StatusOK, map[string]any{"alerts": rulestate.Alerts(all)})
}

func writeDataAs(w http.ResponseWriter, code int, data any) error {
	text, err := json.Marshal(map[string]any{"status": "success", "data": data})
	if err != nil {
		return fmt.Errorf("encode the response: %w", err)
	}
	writeJSON(w, code, string(text))
	return nil
}
