package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/palliumhq/pallium/backend/alerts"
)

// receiver is an Alertmanager that records the names of the alerts it receives.
type receiver struct {
	*httptest.Server
	mu    sync.Mutex
	names []string
}

func newReceiver() *receiver {
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		var list []struct {
			Labels       map[string]string
			GeneratorURL string
		}
		body, _ := io.ReadAll(q.Body)
		_ = json.Unmarshal(body, &list)
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, a := range list {
			r.names = append(r.names, a.Labels["alertname"]+" "+a.Labels["team"]+" "+a.GeneratorURL)
		}
	}))
	return r
}

func (r *receiver) received() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.names...)
}

// eventually repeats a check until it returns "". After 30 seconds, it fails the test.
func eventually(t *testing.T, check func() string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		why := check()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(why)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

const ruleGroup = `name: g
interval: 1s
labels: {team: %s}
rules:
- record: answer
  expr: vector(42)
- record: answer:double
  expr: answer * 2
- alert: Always
  expr: answer:double == 84
  annotations: {summary: "{{ $value }}"}
`

// TestRules checks that configured rules of two tenants lead to recorded samples, states and alerts, also after a restart, and
// that the series of a deleted group end.
func TestRules(t *testing.T) {
	noLeaks(t)
	manager := newReceiver()
	defer manager.Close()
	cfg := testConfig(t)
	cfg.Self.Disabled = true
	cfg.Ruler.Alertmanagers = []alerts.Config{{URL: manager.URL, Tenants: []string{"a"}}}
	cfg.Ruler.GeneratorURL = "http://grafana/{tenant}?q={expr}"
	cfg.Egress.Allow = []string{"127.0.0.1"}
	if err := cfg.Limits.Set("min_rule_interval", "1s"); err != nil {
		t.Fatal(err)
	}
	p := start(t, cfg, All, nil)
	keys := map[string]string{}
	for _, id := range []string{"a", "b"} {
		keys[id] = p.tenant(id)
		rules := p.ruleKey(id, `"rules:read","rules:write"`)
		keys[id+" rules"] = rules
		if code, text := p.do(http.MethodPost, p.edge+"/prometheus/config/v1/rules/n%2F1", rules, strings.NewReader(fmt.Sprintf(ruleGroup, id))); code != 202 {
			t.Fatalf("load rules of %s: %d %s", id, code, text)
		}
	}
	check := func(p *running) {
		t.Helper()
		for _, id := range []string{"a", "b"} {
			eventually(t, func() string {
				code, text := p.query(keys[id], `ALERTS{alertstate="firing"} or answer:double`)
				if code != 200 || strings.Count(text, `"team":"`+id+`"`) != 2 || strings.Count(text, `"team"`) != 2 || !strings.Contains(text, `"84"`) {
					return fmt.Sprintf("recorded series of %s: %d %s", id, code, text)
				}
				code, text = p.do(http.MethodGet, p.edge+"/prometheus/api/v1/rules?type=alert", keys[id], nil)
				if code != 200 || !strings.Contains(text, `"file":"n/1"`) || !strings.Contains(text, `"state":"firing"`) || !strings.Contains(text, `"health":"ok"`) {
					return fmt.Sprintf("rules of %s: %d %s", id, code, text)
				}
				code, text = p.do(http.MethodGet, p.edge+"/prometheus/api/v1/alerts", keys[id], nil)
				if code != 200 || strings.Count(text, `"alertname":"Always"`) != 1 || !strings.Contains(text, `"summary":"84"`) {
					return fmt.Sprintf("alerts of %s: %d %s", id, code, text)
				}
				return ""
			})
		}
	}
	check(p)
	eventually(t, func() string {
		if got := manager.received(); len(got) == 0 || got[0] != "Always a http://grafana/a?q=answer%3Adouble+%3D%3D+84" {
			return fmt.Sprintf("the Alertmanager received %q", got)
		}
		return ""
	})
	for _, got := range manager.received() {
		if !strings.HasPrefix(got, "Always a ") {
			t.Errorf("the Alertmanager of tenant a received %q", got)
		}
	}
	p.stop()
	p = start(t, cfg, All, nil)
	check(p)
	if code, text := p.do(http.MethodDelete, p.edge+"/prometheus/config/v1/rules/n%2F1/g", keys["a rules"], nil); code != 202 {
		t.Fatalf("delete the rules: %d %s", code, text)
	}
	eventually(t, func() string {
		if code, text := p.query(keys["a"], "answer"); code != 200 || strings.Contains(text, "team") {
			return fmt.Sprintf("the series of a deleted group do not end: %d %s", code, text)
		}
		return ""
	})
	if code, text := p.do(http.MethodGet, p.edge+"/prometheus/api/v1/rules", keys["a"], nil); code != 200 || !strings.Contains(text, `"groups":[]`) {
		t.Errorf("rules after the deletion: %d %s", code, text)
	}
	if code, text := p.query(keys["b"], "answer"); code != 200 || !strings.Contains(text, `"team":"b"`) {
		t.Errorf("the other tenant's series: %d %s", code, text)
	}
	if code, text := p.do(http.MethodDelete, p.admin+"/admin/v1/tenants/b?cascade=true", p.token, nil, "If-Match", "*"); code/100 != 2 {
		t.Fatalf("delete the tenant: %d %s", code, text)
	}
	eventually(t, func() string {
		if groups := p.app.backend.ruling.ruler.State("b"); len(groups) > 0 {
			return fmt.Sprintf("rules of a deleted tenant are evaluated: %v", groups)
		}
		return ""
	})
	p.stop()
}

// TestRuleBackfill checks through the edge that a backfill records a chain of rules for an hour in the past, also if the process
// restarts right after it has accepted the backfill.
func TestRuleBackfill(t *testing.T) {
	noLeaks(t)
	cfg := testConfig(t)
	cfg.Self.Disabled = true
	p := start(t, cfg, All, nil)
	key := p.tenant("a")
	rules := p.ruleKey("a", `"rules:read","rules:write"`)
	if code, text := p.do(http.MethodPost, p.edge+"/api/v1/rules/n%2F1", rules, strings.NewReader(strings.Replace(fmt.Sprintf(ruleGroup, "x"), "interval: 1s", "interval: 15s", 1))); code != 202 {
		t.Fatal(code, text)
	}
	const at = "/api/v1/rules/n%2F1/g/backfill"
	end := time.Now().Add(-10 * time.Minute).Truncate(time.Minute)
	from := end.Add(-time.Hour)
	if code, text := p.do(http.MethodPost, fmt.Sprintf("%s%s?start=%d&end=%d", p.edge, at, from.Unix(), end.Unix()), rules, nil); code != 202 {
		t.Fatal(code, text)
	}
	p.stop()
	p = start(t, cfg, All, nil)
	defer p.stop()
	eventually(t, func() string {
		if code, text := p.do(http.MethodGet, p.edge+at, rules, nil); code != 200 || !strings.Contains(text, `"state":"done"`) || !strings.Contains(text, `"samples":480,`) {
			return fmt.Sprintf("the backfill: %d %s", code, text)
		}
		return ""
	})
	query := fmt.Sprintf("sum(count_over_time(answer:double[1h] @ %d))", end.Unix())
	if code, text := p.query(key, query); code != 200 || !strings.Contains(text, `"240"`) {
		t.Errorf("%s: %d %s, want a sample for each slot of the hour", query, code, text)
	}
}
