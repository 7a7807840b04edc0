package rulesapi

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/rulestate"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/policies/limits"
)

const (
	stateRoot = "/prometheus/api/v1/rules"
	alertRoot = "/prometheus/api/v1/alerts"
)

// reported returns the state of a group as a ruler reports it.
func reported(namespace, name string) rulestate.Group {
	return rulestate.Group{Name: name, File: namespace, Rules: []rulestate.Rule{{Name: "Down", Type: rulestate.Alerting, State: "firing", Health: "ok",
		Alerts: []rulestate.Alert{{State: "firing", Value: name}}}}}
}

const alertingGroup = "name: %\nlabels: {team: x}\nrules:\n- alert: Down\n  expr: up == 0\n  for: 1m\n"

// TestState checks that all stored groups are shown, those that no ruler reports as unknown, and that a request for alerts
// fails if alerts may be missing.
func TestState(t *testing.T) {
	b := newBench(t)
	b.want("a", "GET", stateRoot, "", 200, `{"data":{"groups":[]},"status":"success"}`)
	b.want("a", "GET", alertRoot, "", 200, `{"data":{"alerts":[]},"status":"success"}`)
	for _, name := range []string{"g1", "g2"} {
		if code, text := b.do("a", "POST", root+"/n", strings.ReplaceAll(alertingGroup, "%", name)); code != 202 {
			t.Fatal(code, text)
		}
	}
	b.states = []rulestate.Group{reported("n", "g1"), reported("n", "deleted")}
	get := func(path string, code int, has string, hasNot ...string) {
		t.Helper()
		got, text := b.do("a", "GET", path, "")
		if got != code || !strings.Contains(text, has) {
			t.Errorf("%s: %d %s, want %d and %s", path, got, text, code, has)
		}
		for _, s := range hasNot {
			if strings.Contains(text, s) {
				t.Errorf("%s: the response contains %s: %s", path, s, text)
			}
		}
	}
	get(stateRoot, 200, `"state":"unknown","name":"Down","query":"up == 0","duration":60,"keepFiringFor":0,"labels":{"team":"x"}`, "deleted")
	get(stateRoot+"?rule_group[]=g2", 200, `"lastError":"no ruler reports this group`, "g1")
	get(stateRoot+"?state=firing", 200, `"g1"`, "g2")
	get(stateRoot+"?group_limit=1", 200, `"groupNextToken"`, "g2")
	get(alertRoot, 200, `"value":"g1"`, "deleted") // g2 is new
	b.now = b.now.Add(2 * settled)
	get(alertRoot, 503, "the alerts of 1 group are unknown")
	b.states = append(b.states, reported("n", "g2"))
	get(alertRoot, 200, `"value":"g2"`, "deleted")
	b.states[0].Interval, b.states[0].Rules[0].Health = 90, rulestate.Unknown
	get(alertRoot, 200, `"value":"g2"`) // g1 may be due for the first time in its interval
	b.now = b.now.Add(time.Minute)
	get(alertRoot, 503, "the alerts of 1 group are unknown")
	b.states[0].Rules[0].Health = "ok"
	for path, says := range map[string]string{"?type=x": `\"type\"`, "?group_limit=0": "group_limit", "?match[]={": "match[]", "?group_limit=1&group_next_token=x": "group_next_token",
		"?match[]={a=~%22" + strings.Repeat("(x{900})", 200) + "%22}": "regular expressions", "?match[]={a=%22" + strings.Repeat("x", 70_000) + "%22}": "65536"} {
		get(stateRoot+path, 400, says)
	}
	b.want("b", "GET", stateRoot, "", 200, `{"data":{"groups":[]},"status":"success"}`)
	b.broken = errors.New("down")
	get(stateRoot, 503, "could not be read", "down")
	get(alertRoot, 503, "could not be read", "down")
}

// TestStateMemory checks that a state is not encoded if it would exceed the tenant's memory limit.
func TestStateMemory(t *testing.T) {
	b := newBench(t)
	if code, text := b.do("a", "POST", root+"/n", strings.ReplaceAll(alertingGroup, "%", "g")); code != 202 {
		t.Fatal(code, text)
	}
	g := reported("n", "g")
	for range 1000 {
		g.Rules[0].Alerts = append(g.Rules[0].Alerts, rulestate.Alert{Labels: labels.FromStrings("a", "b"), State: "firing",
			Annotations: labels.FromStrings("summary", strings.Repeat("x", 1000))})
	}
	b.states = []rulestate.Group{g}
	lim := limits.Default()
	for _, c := range []struct {
		most int64
		code int
		says string
	}{{1 << 20, 422, "max_memory_bytes"}, {16 << 20, 200, "xxx"}} {
		lim.MaxMemoryBytes = c.most
		b.limits["a"] = lim
		for _, path := range []string{stateRoot, alertRoot} {
			if code, text := b.do("a", "GET", path, ""); code != c.code || !strings.Contains(text, c.says) {
				t.Errorf("%s with max_memory_bytes %d: %d %.300s, want %d and %s", path, c.most, code, text, c.code, c.says)
			}
		}
		if code, text := b.do("a", "GET", stateRoot+"?exclude_alerts=true", ""); code != 200 {
			t.Errorf("rules without alerts: %d %.300s", code, text)
		}
	}
}

// TestBackfill checks all requests for backfills, and that another tenant does not see a backfill.
func TestBackfill(t *testing.T) {
	b := newBench(t)
	b.now = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	const at = root + "/n%2F1/g/backfill"
	b.want("a", "GET", at, "", 404, `{"error":"the group has no backfill","errorType":"not_found","status":"error"}`)
	b.want("a", "POST", at+"?start=2026-11-30T11:00:00Z", "", 404, noGroup)
	b.want("a", "POST", root+"/n%2F1", group("g", "up"), 202, done)
	b.want("a", "POST", root+"/n%2F1", strings.ReplaceAll(alertingGroup, "%", "only-alerts"), 202, done)
	for query, says := range map[string]string{
		"": "start is missing", "?start=x": `parameter start is \"x\"`, "?start=2026-11-30T13:00:00Z": "start is 2026-11-30T13:00:00Z, which is in the future", "?start=1e300": "parameter start",
		"?start=2026-11-30T11:00:00Z&end=2026-11-30T13:00:00Z": "in the future", "?start=2026-11-30T11:00:00Z&end=2026-11-30T10:00:00Z": "before end",
		"?start=2026-11-01T11:00:00Z": "the limit past_grace, 2w, are rejected", "?start=0": "past_grace",
	} {
		if code, text := b.do("a", "POST", at+query, ""); code != 400 || !strings.Contains(text, says) {
			t.Errorf("start a backfill with %s: %d %s, want %s", query, code, text, says)
		}
	}
	if code, text := b.do("a", "POST", root+"/n%2F1/only-alerts/backfill?start=2026-11-30T11:00:00Z", ""); code != 400 || !strings.Contains(text, "no recording rules") {
		t.Errorf("backfill of alerts: %d %s", code, text)
	}
	running := `{"data":{"namespace":"n/1","group":"g","state":"running","start":"2026-11-30T11:00:00Z","end":"2026-11-30T12:00:00Z","done":0,"samples":0,` +
		`"failedEvaluations":0,"created":"2026-11-30T12:00:00Z","updated":"2026-11-30T12:00:00Z"},"status":"success"}`
	b.want("a", "POST", at, "start=2026-11-30T11:00:00Z", 202, running, "Content-Type: application/x-www-form-urlencoded")
	b.want("a", "GET", at, "", 200, running)
	b.want("b", "GET", at, "", 404, `{"error":"the group has no backfill","errorType":"not_found","status":"error"}`)
	b.want("b", "DELETE", at, "", 404, `{"error":"the group has no backfill","errorType":"not_found","status":"error"}`)
	if code, text := b.do("a", "POST", at+"?start=1796036400", ""); code != 409 || !strings.Contains(text, "is running") {
		t.Errorf("a second backfill: %d %s", code, text)
	}
	job, _, err := b.rules.Backfill(t.Context(), "a", "n/1", "g")
	if err != nil {
		t.Fatal(err)
	}
	old := job.Backfill
	job.Done, job.Samples, job.Failed, job.Error = job.Start+1_800_000, 30, 2, "last"
	if err := b.rules.UpdateBackfill(t.Context(), &job, old); err != nil {
		t.Fatal(err)
	}
	if code, text := b.do("a", "GET", at, ""); code != 200 || !strings.Contains(text, `"done":0.5,"samples":30,"failedEvaluations":2,"error":"last"`) {
		t.Errorf("progress: %d %s", code, text)
	}
	old = job.Backfill
	job.State = schema.BackfillDone
	if err := b.rules.UpdateBackfill(t.Context(), &job, old); err != nil {
		t.Fatal(err)
	}
	if code, text := b.do("a", "GET", at, ""); code != 200 || !strings.Contains(text, `"state":"done"`) || !strings.Contains(text, `"done":1,`) {
		t.Errorf("progress at the end: %d %s", code, text)
	}
	if code, text := b.do("a", "POST", at+"?start=1796036400.5&end=2026-11-30T11:30:00Z", ""); code != 202 || !strings.Contains(text, `"start":"2026-11-30T11:00:00.5Z"`) {
		t.Errorf("a backfill after one that has ended: %d %s", code, text)
	}
	b.want("a", "DELETE", at, "", 202, done)
	b.want("a", "DELETE", at, "", 404, `{"error":"the group has no backfill","errorType":"not_found","status":"error"}`)
	if b.started != 2 {
		t.Errorf("%d backfills were reported as started, want 2", b.started)
	}
}
