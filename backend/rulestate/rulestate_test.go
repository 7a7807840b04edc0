package rulestate

import (
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

func parse(s string) ([]*labels.Matcher, error) {
	return parser.NewParser(parser.Options{}).ParseMetricSelector(s)
}

// world returns three groups of two namespaces.
func world() []Group {
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	alert := Alert{Labels: labels.FromStrings("alertname", "Down"), State: "firing", ActiveAt: &at, Value: "1e+00"}
	return []Group{
		{Name: "g1", File: "a", Interval: 60, LastEvaluation: at, Rules: []Rule{
			{Type: Recording, Name: "x:sum", Query: "sum(x)", Labels: labels.FromStrings("team", "a"), Health: "ok"},
			{Type: Alerting, Name: "Down", Query: "up == 0", State: "firing", Health: "ok", Labels: labels.FromStrings("team", "b"), Alerts: []Alert{alert}},
		}},
		{Name: "g2", File: "a", Interval: 60, Rules: []Rule{{Type: Alerting, Name: "Up", State: Unknown, Health: Unknown}}},
		{Name: "g1", File: "b", Interval: 60, Rules: []Rule{{Type: Recording, Name: "x:sum", Health: "err", LastError: "too many series"}}},
	}
}

// text describes a page: file/group:rule,rule and the number of alerts of each rule.
func text(p Page) string {
	var out []string
	for _, g := range p.Groups {
		var rules []string
		for _, r := range g.Rules {
			name := r.Name
			if len(r.Alerts) > 0 {
				name += fmt.Sprintf("(%d)", len(r.Alerts))
			}
			rules = append(rules, name)
		}
		out = append(out, g.File+"/"+g.Name+":"+strings.Join(rules, ","))
	}
	return strings.Join(out, " ")
}

func TestSelect(t *testing.T) {
	for _, tt := range []struct{ query, want string }{
		{"", "a/g1:x:sum,Down(1) a/g2:Up b/g1:x:sum"},
		{"type=alert", "a/g1:Down(1) a/g2:Up"}, {"type=RECORD", "a/g1:x:sum b/g1:x:sum"},
		{"rule_name[]=Up", "a/g2:Up"}, {"rule_name[]=Up&rule_name[]=Down", "a/g1:Down(1) a/g2:Up"}, {"rule_name=Up", "a/g2:Up"},
		{"rule_group[]=g1", "a/g1:x:sum,Down(1) b/g1:x:sum"}, {"rule_group=g2", "a/g2:Up"}, {"file[]=b", "b/g1:x:sum"}, {"file=a&rule_group=g1", "a/g1:x:sum,Down(1)"},
		{"file[]=c", ""}, {`match[]={team="a"}`, "a/g1:x:sum"}, {`match={team="a"}`, "a/g1:x:sum"}, {`match[]={team="a"}&match[]={team="b"}`, "a/g1:x:sum,Down(1)"},
		{`match[]={team=~".%2B",team!="a"}`, "a/g1:Down(1)"}, {"exclude_alerts=true", "a/g1:x:sum,Down a/g2:Up b/g1:x:sum"},
		{"exclude_alerts=0", "a/g1:x:sum,Down(1) a/g2:Up b/g1:x:sum"}, {"health=err", "b/g1:x:sum"}, {"health=OK", "a/g1:x:sum,Down(1)"},
		{"state=firing", "a/g1:Down(1)"}, {"state[]=unknown&state[]=firing", "a/g1:Down(1) a/g2:Up"}, {"group_limit=5", "a/g1:x:sum,Down(1) a/g2:Up b/g1:x:sum"},
		{"other=1", "a/g1:x:sum,Down(1) a/g2:Up b/g1:x:sum"},
	} {
		form, err := url.ParseQuery(tt.query)
		if err != nil {
			t.Fatal(err)
		}
		r, err := ParseRequest(form, parse)
		if err != nil {
			t.Errorf("%s: %v", tt.query, err)
			continue
		}
		groups := world()
		page, err := r.Select(groups)
		if got := text(page); err != nil || got != tt.want || page.NextToken != "" {
			t.Errorf("%s: %q, next %q, %v; want %q", tt.query, got, page.NextToken, err, tt.want)
		}
		if !reflect.DeepEqual(groups, world()) {
			t.Errorf("%s: Select changed the groups", tt.query)
		}
	}
}

// TestPages checks that pages of every size together contain all groups, with and without a filter.
func TestPages(t *testing.T) {
	for _, filter := range []string{"", "type=record&"} {
		for size := 1; size <= 4; size++ {
			var got []string
			next := ""
			for pages := 0; pages < 5; pages++ {
				form, _ := url.ParseQuery(filter + "group_limit=" + fmt.Sprint(size) + "&group_next_token=" + next)
				r, err := ParseRequest(form, parse)
				if err != nil {
					t.Fatal(err)
				}
				page, err := r.Select(world())
				if err != nil || len(page.Groups) > size {
					t.Fatalf("%d groups in a page of %d, %v", len(page.Groups), size, err)
				}
				got = append(got, text(page))
				if next = page.NextToken; next == "" {
					break
				}
			}
			want := "a/g1:x:sum,Down(1) a/g2:Up b/g1:x:sum"
			if filter != "" {
				want = "a/g1:x:sum b/g1:x:sum"
			}
			if all := strings.Join(got, " "); all != want || next != "" {
				t.Errorf("filter %q, pages of %d: %q, want %q", filter, size, all, want)
			}
		}
	}
	if a, b := token(&Group{File: "x;y", Name: "z"}), token(&Group{File: "x", Name: "y;z"}); a == b {
		t.Error("two groups have the same token")
	}
	r, err := ParseRequest(url.Values{"group_limit": {"1"}, "group_next_token": {"x"}}, parse)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Select(world()); err == nil || !strings.Contains(err.Error(), "group_next_token") {
		t.Errorf("Select with an unknown token: %v", err)
	}
}

func TestParseRequest(t *testing.T) {
	for query, says := range map[string]string{
		"type=x": `"type"`, "health=good": `"health"`, "state=red": `"state"`, "match[]={": `"match[]"`, "match[]=": `"match[]"`,
		"exclude_alerts=maybe": `"exclude_alerts"`, "group_limit=0": `"group_limit"`, "group_limit=-1": `"group_limit"`, "group_limit=x": `"group_limit"`,
		"group_limit=99999999999": `"group_limit"`, "group_next_token=x": "group_limit",
	} {
		form, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseRequest(form, parse); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want an error with %s", query, err, says)
		}
	}
}

// TestMerge checks that a group that two rulers report is shown once, in the state of its later evaluation.
func TestMerge(t *testing.T) {
	old, current := world()[:2], world()
	current[0].LastEvaluation = current[0].LastEvaluation.Add(time.Minute)
	for name, got := range map[string][]Group{"old first": Merge(old, current), "new first": Merge(current, old), "split": Merge(current[2:], nil, current[:2])} {
		if !reflect.DeepEqual(got, current) {
			t.Errorf("%s: %v, want %v", name, got, current)
		}
	}
	if got := Merge(); got == nil || len(got) != 0 {
		t.Errorf("Merge of nothing = %#v, want an empty list", got)
	}
}

// TestJSON checks the fields of both types of rules, and that another ruler reads the same state.
func TestJSON(t *testing.T) {
	text, err := json.Marshal(world()[0])
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"name":"g1","file":"a","rules":[` +
		`{"name":"x:sum","query":"sum(x)","labels":{"team":"a"},"health":"ok","evaluationTime":0,"lastEvaluation":"0001-01-01T00:00:00Z","type":"recording"},` +
		`{"state":"firing","name":"Down","query":"up == 0","duration":0,"keepFiringFor":0,"labels":{"team":"b"},"annotations":{},` +
		`"alerts":[{"labels":{"alertname":"Down"},"annotations":{},"state":"firing","activeAt":"2026-11-30T12:00:00Z","value":"1e+00"}],` +
		`"health":"ok","evaluationTime":0,"lastEvaluation":"0001-01-01T00:00:00Z","type":"alerting"}],` +
		`"interval":60,"limit":0,"evaluationTime":0,"lastEvaluation":"2026-11-30T12:00:00Z"}`
	if string(text) != want {
		t.Errorf("JSON of a group:\n%s\nwant\n%s", text, want)
	}
	var back Group
	if err := json.Unmarshal(text, &back); err != nil || !reflect.DeepEqual(back, world()[0]) {
		t.Errorf("decoded %+v, %v", back, err)
	}
	if got := Alerts(world()); len(got) != 1 || got[0].State != "firing" {
		t.Errorf("Alerts = %+v", got)
	}
	if got := Alerts(nil); got == nil {
		t.Error("Alerts of no groups is nil, which JSON shows as null")
	}
}
