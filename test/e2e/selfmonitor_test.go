package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/dashboards"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// rareMetrics are those that a healthy single process does not have: of a cluster, of stores in Google Cloud, and of
// damage. Expressions with them end in ` or on () vector(0)`.
var rareMetrics = regexp.MustCompile(`pallium_(ring_unhealthy_ingesters|distributor_zones|distributor_zones_needed|distributor_push_failures_total|` +
	`store_read_(retries|hedges)_total|results_cache_redis_lookups_total|compactor_failing_days|ingester_aside_series)\b`)

// orZero ends expressions that have no result until something happens for the first time.
const orZero = " or on () vector(0)"

// watched is a Pallium that stores its own metrics and evaluates the built-in rules on them.
type watched struct {
	*programs.Pallium
	t    *testing.T
	key  string // of the tenant pallium
	team string // key of a tenant that writes samples; its queries and notifications exceed limits

	alerts string // key of the same tenant, for its Alertmanager
	busy   string // key of a tenant whose requests exceed a limit
}

func startWatched(t *testing.T) *watched {
	t.Helper()
	w := &watched{t: t, Pallium: programs.StartPallium(t, "log: {level: warn}\nself_monitoring: {interval: 1s}\negress: {allow: [127.0.0.1]}\n")}
	w.key = w.Token("pallium", "metrics:read,rules:read,rules:write")
	w.team = w.Tenant("team", "max_query_series=10", "notifications_per_second=1", "notification_burst=1")
	w.alerts = w.Token("team", "alerts:read,alerts:write")
	w.busy = w.Tenant("busy", "requests_per_second=1", "request_burst=1")
	return w
}

// load loads the built-in rules, and a group of the tenant team.
func (w *watched) load() {
	w.t.Helper()
	env := []string{"PALLIUM_URL=" + w.Edge, "PALLIUM_TOKEN=" + w.key}
	if code, out := programs.RunPallium(w.t, time.Minute, env, "rules", "load", "-builtin"); code != 0 {
		w.t.Fatalf("rules load -builtin: %d %s", code, out)
	}
	if code, out := programs.RunPallium(w.t, time.Minute, env, "rules", "diff", "-builtin"); code != 0 {
		w.t.Fatalf("rules diff -builtin: %d %s", code, out)
	}
	group := "{name: g, interval: 5s, rules: [{record: 'm:sum', expr: 'sum(m{i=\"1\"})'}, {alert: M, expr: 'm{i=\"1\"} > 0'}]}"
	code, body := programs.Do(w.t, http.MethodPost, w.Edge+"/prometheus/config/v1/rules/n", w.Token("team", "rules:write"), "application/yaml",
		strings.NewReader(group))
	if code != http.StatusAccepted {
		w.t.Fatalf("a group of rules: %d %s", code, body)
	}
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/broken" {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	w.t.Cleanup(receiver.Close)
	config := fmt.Sprintf("alertmanager_config: |\n  route: {receiver: r, group_by: [...], group_wait: 0s, group_interval: 2s}\n"+
		"  receivers: [{name: r, webhook_configs: [{url: %[1]q}, {url: '%[1]s/broken'}]}]\n", receiver.URL)
	code, body = programs.Do(w.t, http.MethodPost, w.Edge+"/api/v1/alerts", w.alerts, "application/yaml", strings.NewReader(config))
	if code != http.StatusCreated {
		w.t.Fatalf("a configuration of the Alertmanager: %d %s", code, body)
	}
}

// use sends requests of all kinds that dashboards show, some of which are rejected.
func (w *watched) use() {
	w.t.Helper()
	now := time.Now()
	w.push(w.team, http.StatusNoContent, now)
	w.push(w.team, http.StatusBadRequest, now.Add(24*time.Hour)) // too far in the future
	params := url.Values{"query": {`sum(m{i="1"})`}, "start": {seconds(now.Add(-time.Hour))}, "end": {seconds(now)}, "step": {"60"}}
	w.get(w.team, "query_range", http.StatusOK, params)
	w.get(w.team, "query", http.StatusUnprocessableEntity, url.Values{"query": {"m"}})
	w.get(w.team, "labels", http.StatusOK, nil)
	for range 2 {
		w.get(w.busy, "query", 0, url.Values{"query": {"1"}})
	}
	alerts := fmt.Sprintf(`[{"labels": {"alertname": "A", "i": "%[1]d"}}, {"labels": {"alertname": "B", "i": "%[1]d"}}]`, now.UnixNano())
	if code, body := programs.Do(w.t, http.MethodPost, w.Edge+"/alertmanager/api/v2/alerts", w.alerts, "application/json",
		strings.NewReader(alerts)); code != http.StatusOK {
		w.t.Fatalf("alerts: %d %s", code, body)
	}
}

// guess sends requests with a key and an admin token that are not valid. Only a few: more of them from one address
// are delayed.
func (w *watched) guess() {
	w.t.Helper()
	w.push("unknown", http.StatusUnauthorized, time.Now())
	if code, body := programs.Do(w.t, http.MethodGet, w.Admin+"/admin/v1/tenants", "wrong", "", nil); code != http.StatusUnauthorized {
		w.t.Fatalf("a wrong admin token: %d %s", code, body)
	}
}

// push writes samples of several series with one time.
func (w *watched) push(key string, want int, at time.Time) {
	w.t.Helper()
	req := &prompb.WriteRequest{}
	for i := range 20 {
		req.Timeseries = append(req.Timeseries, prompb.TimeSeries{
			Labels:  []prompb.Label{{Name: "__name__", Value: "m"}, {Name: "i", Value: fmt.Sprint(i)}},
			Samples: []prompb.Sample{{Timestamp: at.UnixMilli(), Value: 1}},
		})
	}
	b, err := req.Marshal()
	if err != nil {
		w.t.Fatal(err)
	}
	code, body := programs.Do(w.t, http.MethodPost, w.Edge+"/api/v1/push", key, "application/x-protobuf", strings.NewReader(string(snappy.Encode(nil, b))))
	if code != want {
		w.t.Fatalf("push: %d %s, want %d", code, body, want)
	}
}

// get sends a request to the query API; want is the status, or 0 for any.
func (w *watched) get(key, endpoint string, want int, params url.Values) string {
	w.t.Helper()
	code, body := programs.Do(w.t, http.MethodGet, w.Edge+"/prometheus/api/v1/"+endpoint+"?"+params.Encode(), key, "", nil)
	if want != 0 && code != want {
		w.t.Fatalf("%s %v: %d %s, want %d", endpoint, params, code, body, want)
	}
	return body
}

// results returns the number of series with a number that an expression has; every failure of a query ends the test.
func (w *watched) results(expr string) int {
	w.t.Helper()
	var a struct {
		Data struct{ Result []struct{ Value [2]any } }
	}
	if err := json.Unmarshal([]byte(w.get(w.key, "query", http.StatusOK, url.Values{"query": {expr}})), &a); err != nil {
		w.t.Fatal(err)
	}
	return len(slices.DeleteFunc(a.Data.Result, func(r struct{ Value [2]any }) bool { return r.Value[1] == "NaN" }))
}

// expressions returns the expressions of all panels, without the default of 0 unless it is the usual result.
func expressions(list []dashboards.Dashboard) (out []string) {
	values := map[string]string{"__rate_interval": "1m", "instance": ".*", "route": ".*", "tenant": ".*"}
	for _, d := range list {
		for _, p := range d.Panels {
			for _, q := range p.Targets {
				expr, _ := dashboards.Replace(q.Expr, values)
				if !rareMetrics.MatchString(expr) {
					expr = strings.ReplaceAll(expr, orZero, "")
				}
				out = append(out, expr)
			}
		}
	}
	return out
}

// TestSelfMonitoring loads the built-in rules into a Pallium that stores its own metrics, uses and restarts it, and
// checks that every query of the dashboards returns data, also without its default of 0.
func TestSelfMonitoring(t *testing.T) {
	w := startWatched(t)
	w.load()
	w.use()
	kit.Until(t, "the group of a tenant is evaluated", func() bool {
		w.use()
		return strings.Contains(w.get(w.team, "query", http.StatusOK, url.Values{"query": {"m:sum"}}), `"__name__":"m:sum"`)
	})
	w.Stop()
	w.Restart()
	w.guess()

	list := dashboards.Read(t, "../../deploy/grafana")
	missing := expressions(list)
	if len(missing) < 80 {
		t.Fatalf("only %d expressions", len(missing))
	}
	kit.Eventually(t, time.Minute, func() error {
		w.use()
		missing = slices.DeleteFunc(missing, func(expr string) bool { return w.results(expr) > 0 })
		if len(missing) > 0 {
			return fmt.Errorf("expressions without data:\n%s", strings.Join(missing, "\n"))
		}
		return nil
	})
	for _, d := range list {
		for _, v := range d.Templating.List {
			w.checkVariable(d.File, &v)
		}
	}
	w.checkRules()
}

// checkVariable checks that a variable has values.
func (w *watched) checkVariable(dashboard string, v *dashboards.Variable) {
	w.t.Helper()
	if v.Type != "query" {
		return
	}
	query := fmt.Sprint(v.Query)
	m := regexp.MustCompile(`label_values\((\S+), (\w+)\)`).FindStringSubmatch(query)
	if m == nil {
		w.t.Errorf("%s: the query of the variable %s is %s", dashboard, v.Name, query)
		return
	}
	if body := w.get(w.key, "label/"+m[2]+"/values", http.StatusOK, url.Values{"match[]": {m[1]}}); strings.Contains(body, `"data":[]`) {
		w.t.Errorf("%s: the variable %s has no values", dashboard, v.Name)
	}
}

// checkRules checks that the rules of all groups can be evaluated, also those that the ruler has not
// evaluated yet, and that those which it evaluated did not fail.
func (w *watched) checkRules() {
	w.t.Helper()
	var a struct {
		Data struct {
			Groups []struct {
				Name  string
				Rules []struct{ Name, Query, Health, LastError string }
			}
		}
	}
	if err := json.Unmarshal([]byte(w.get(w.key, "rules", http.StatusOK, nil)), &a); err != nil {
		w.t.Fatal(err)
	}
	rules := 0
	for _, g := range a.Data.Groups {
		for _, r := range g.Rules {
			rules++
			w.results(r.Query)
			if r.LastError != "" || r.Health != "ok" && g.Name == "pallium-recordings" {
				w.t.Errorf("group %s, rule %s: health %s, %s", g.Name, r.Name, r.Health, r.LastError)
			}
		}
	}
	if rules < 50 {
		w.t.Errorf("only %d rules are loaded", rules)
	}
}
