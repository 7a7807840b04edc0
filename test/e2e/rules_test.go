package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/rules"

	"github.com/palliumhq/pallium/backend/ruler"
	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// besideGroup is evaluated by both: chains of rules, counters, native histograms, series that come and go,
// and alerts that wait, fire and flap. The time of its expressions makes them change every few seconds.
const besideGroup = `
interval: %s
query_offset: 3s
labels: {source: rules}
rules:
- {record: "job:up:sum", expr: "sum by (job) (up)"}
- {record: "job:up:share", expr: "job:up:sum / on () group_left () sum(job:up:sum)"}
- {record: "handler:requests:rate30s", expr: "sum by (handler, code) (rate(prometheus_http_requests_total[30s]))"}
- {record: "cpu:seconds:rate30s", expr: "sum without (cpu) (irate(node_cpu_seconds_total[30s]))"}
- {record: "samples:increase", expr: "increase(prometheus_tsdb_head_samples_appended_total[30s])"}
- {record: "goroutines:topk", expr: "topk(1, go_goroutines)"}
- {record: "comes:goes", expr: "up == on () group_left () vector(1) and on () (vector(time()) %% 20 < 12)"}
- {record: "latency:native", expr: "sum(rate(prometheus_http_request_duration_seconds[30s]))"}
- {record: "latency:p90", expr: "histogram_quantile(0.9, sum by (le) (rate(prometheus_http_request_duration_seconds_bucket[30s])))"}
- {record: "nothing", expr: "absent(up)"}
- {record: "now", expr: "vector(time())"}
- alert: Flaps
  expr: up and on () (vector(time()) %% 20 < 12)
  for: 4s
  labels: {severity: page}
  annotations: {summary: "{{ $labels.job }} {{ with query \"count(up)\" }}{{ . | first | value }}{{ end }}"}
- alert: Kept
  expr: up and on () (vector(time()) %% 20 < 4)
  keep_firing_for: 6s
`

// besideSeries select what is compared.
func besideSeries() []string {
	return []string{`{source="rules"}`, `ALERTS{source="rules"}`, `ALERTS_FOR_STATE{source="rules"}`}
}

// TestRulesBesidePrometheus lets Pallium and a real Prometheus evaluate the same group over the same samples, and compares
// the recorded samples: all values and times, and where series end. RULES_BESIDE=20m compares for longer, with an
// interval of 5 s.
func TestRulesBesidePrometheus(t *testing.T) {
	length, interval := 40*time.Second, 2*time.Second
	if text := os.Getenv("RULES_BESIDE"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
		interval = 5 * time.Second
	}
	p := programs.StartPallium(t, palliumConfig+"limits: {min_rule_interval: 1s}\n")
	key, config := p.Tenant("acme"), p.Token("acme", "rules:read,rules:write")
	file := filepath.Join(t.TempDir(), "rules.yaml")
	group := fmt.Sprintf(besideGroup, interval)
	if err := os.WriteFile(file, []byte("groups:\n- name: g"+strings.ReplaceAll(group, "\n", "\n  ")), 0o600); err != nil {
		t.Fatal(err)
	}
	addr, node := kit.FreeAddr(t), kit.FreeAddr(t)
	programs.Start(t, programs.Binary(t, "NODE_EXPORTER"), "--web.listen-address="+node, "--log.level=error").WaitReady("http://" + node + "/")
	prom := programs.StartPrometheus(t, addr, fmt.Sprintf(`
global: {scrape_interval: 1s, scrape_timeout: 1s, scrape_native_histograms: true}
rule_files: [%[4]q]
scrape_configs:
  - {job_name: prometheus, always_scrape_classic_histograms: true, static_configs: [{targets: [%[1]q]}]}
  - {job_name: node, static_configs: [{targets: [%[5]q]}]}
remote_write:
  - url: %[2]s/api/v1/push
    authorization: {credentials: %[3]s}
    send_native_histograms: true
    queue_config: {batch_send_deadline: 300ms, max_backoff: 1s}
    write_relabel_configs: [{source_labels: [source], regex: rules, action: drop}]
`, addr, p.Edge, key, file, node))
	load(t, p, config, sameSlots(t, file, interval), "name: g"+group)
	local := client{name: "prometheus", base: prom.URL, auth: func(*http.Request) {}}
	pallium := client{name: "pallium", base: p.Edge + "/prometheus", auth: func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+key) }}
	begin := time.Now().Add(35 * time.Second) // after the first flaps, and the ranges of 30 s
	time.Sleep(time.Until(begin.Add(length + 10*time.Second)))
	end := begin.Add(length)
	samples := 0
	for _, selector := range besideSeries() {
		for _, c := range []struct {
			endpoint string
			form     url.Values
		}{
			{"query", url.Values{"query": {fmt.Sprintf("%s[%ds]", selector, int(length.Seconds()))}, "time": {seconds(end)}}},
			{"query_range", url.Values{"query": {selector}, "start": {seconds(begin)}, "end": {seconds(end)}, "step": {"1"}}},
		} {
			want, err := local.data(t, c.endpoint, c.form)
			if err != nil {
				t.Fatal(err)
			}
			got, err := pallium.data(t, c.endpoint, c.form)
			if err != nil {
				t.Fatal(err)
			}
			if err := sameResult(got, want, true); err != nil {
				t.Errorf("%s of %s: %v", c.endpoint, selector, err)
			}
			samples += strings.Count(string(want), "],[")
		}
	}
	t.Logf("%d samples are equal", samples)
	if samples < 1000 {
		t.Errorf("only %d samples were compared", samples)
	}
}

// sameSlots returns a namespace in which Pallium evaluates the group g at the same times, to the millisecond, at which
// Prometheus evaluates the group g of a file. Both add a hash of the names to multiples of the interval.
func sameSlots(t *testing.T, file string, interval time.Duration) string {
	t.Helper()
	now := time.Now()
	theirs := rules.NewGroup(rules.GroupOptions{Name: "g", File: file, Interval: interval}).EvalTimestamp(now.UnixNano()).UnixMilli()
	for i := range 1_000_000 {
		namespace := fmt.Sprint("n", i)
		if ruler.Slot("acme", namespace, "g", interval, false, now).UnixMilli() == theirs {
			return namespace
		}
	}
	t.Fatal("no namespace has the slots of Prometheus")
	return ""
}

// load stores a group of rules.
func load(t *testing.T, p *programs.Pallium, key, namespace, group string) {
	t.Helper()
	code, text := programs.Do(t, http.MethodPost, p.Edge+"/prometheus/config/v1/rules/"+namespace, key, "application/yaml", strings.NewReader(group))
	var answer struct{ Status string }
	if err := json.Unmarshal([]byte(text), &answer); err != nil || code != http.StatusAccepted || answer.Status != "success" {
		t.Fatalf("load a group: %d %s", code, text)
	}
}
