package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/test/kit"
)

// history is how long Prometheus must scrape before anything is compared.
const history = 15 * time.Second

// catchUp is how long remote write may take to deliver scraped samples.
const catchUp = 30 * time.Second

// TestPrometheus lets a real Prometheus write to Pallium and compares the responses of
// both, through sealing, restart and crash.
func TestPrometheus(t *testing.T) {
	s := startSystem(t)
	begin := time.Now()
	s.scraped(t, begin.Add(history))
	end := time.Now().Add(-2 * time.Second).Truncate(time.Second)
	w := window{start: begin.Add(-10 * time.Second).Truncate(time.Second), end: end}

	t.Run("from memory", func(t *testing.T) { s.agree(t, w) })
	t.Run("exemplars", func(t *testing.T) { s.agreeExemplars(t, w) })
	t.Run("metadata", func(t *testing.T) { s.agreeMetadata(t) })
	t.Run("grafana", func(t *testing.T) { s.grafana(t, w) })
	t.Run("promtool", func(t *testing.T) { s.promtool(t, w) })
	s.pallium.Flush()
	t.Run("sealed", func(t *testing.T) { s.agree(t, w) })
	t.Run("remote read", func(t *testing.T) { s.remoteRead(t, w) })

	s.pallium.Compact()
	t.Run("compacted", func(t *testing.T) { s.agree(t, w) })

	s.pallium.Stop()
	// From here on only the long-term store has the compacted samples.
	if n := s.pallium.DropUploaded(); n == 0 {
		t.Error("no pack was uploaded")
	}
	s.pallium.Restart()
	t.Run("from the long-term store", func(t *testing.T) { s.agree(t, w) })
	w.end = time.Now().Truncate(time.Second)
	t.Run("after a restart", func(t *testing.T) { s.agree(t, w) })
	t.Run("metadata after a restart", func(t *testing.T) { s.agreeMetadata(t) })

	s.pallium.Kill()
	s.pallium.Restart()
	back := time.Now()
	s.scraped(t, back.Add(4*time.Second))
	w.end = time.Now().Add(-time.Second).Truncate(time.Second)
	t.Run("after a crash", func(t *testing.T) { s.agree(t, w) })
	t.Run("exemplars after a crash", func(t *testing.T) {
		// Exemplars are only in memory.
		s.agreeExemplars(t, window{start: back.Add(time.Second), end: w.end})
	})

	s.pallium.Flush()
	s.pallium.Compact()
	s.pallium.Stop()
	s.pallium.DropUploaded()
	s.pallium.Restart()
	t.Run("second generation", func(t *testing.T) { s.agree(t, w) })
	t.Run("remote read of the second generation", func(t *testing.T) { s.remoteRead(t, w) })
	s.pallium.Stop()
	if out, err := s.pallium.Offline("verify", "-data"); err != nil || !strings.Contains(out, " 0 findings") {
		t.Errorf("pallium verify: %v\n%s", err, out)
	}
}

// window is a time range in which Prometheus will scrape no more samples.
type window struct{ start, end time.Time }

func (w window) instant(query string) url.Values {
	return url.Values{"query": {query}, "time": {seconds(w.end)}}
}

func (w window) over(query string) url.Values {
	return url.Values{"query": {query}, "start": {seconds(w.start)}, "end": {seconds(w.end)}, "step": {"1.5"}}
}

// between returns parameters for requests that list labels and series.
func (w window) between() url.Values {
	return url.Values{"start": {seconds(w.start)}, "end": {seconds(w.end)}}
}

// all returns a range from the window's end back to its start.
func (w window) all() string {
	return fmt.Sprintf("[%ds]", int(w.end.Sub(w.start).Seconds()))
}

// scraped waits until Prometheus has a sample of each target at or after the time.
func (s *system) scraped(t *testing.T, at time.Time) {
	t.Helper()
	kit.Eventually(t, catchUp, func() error {
		data, err := s.local.data(t, "query", url.Values{"query": {fmt.Sprintf("count(timestamp(up) >= %s)", seconds(at))}})
		if err != nil {
			return err
		}
		var v struct{ Result []struct{ Value [2]any } }
		if err := json.Unmarshal(data, &v); err != nil {
			return err
		}
		if len(v.Result) != 1 || v.Result[0].Value[1] != "3" {
			return fmt.Errorf("not all of three targets were scraped after %s: %s", at, data)
		}
		return nil
	})
}

// computed returns queries of the kinds that dashboards and alerts use.
func computed() []string {
	return []string{
		`up`,
		`rate(prometheus_http_requests_total[10s])`,
		`sum by (job) (rate({__name__=~"promhttp_.*_total",code!=""}[10s]))`,
		`count by (__name__, job) ({job=~".+"})`,
		`count({job="node"})`,
		`{instance!="",code="200"}`,
		`histogram_quantile(0.9, sum by (le, handler) (rate(prometheus_http_request_duration_seconds_bucket[10s])))`,
		`histogram_quantile(0.9, rate(app_size_bytes[10s]))`,
		`histogram_quantile(0.5, sum(rate(app_latency_seconds[10s])))`,
		`histogram_count(app_size_bytes)`,
		`app_size_bytes`,
		`node_memory_MemFree_bytes / on (instance, job) node_memory_MemTotal_bytes`,
		`node_cpu_seconds_total * on (instance) group_left (nodename) node_uname_info`,
		`topk(3, go_memstats_alloc_bytes)`,
		`{"app.temperature"}`,
		`avg_over_time({"app.temperature", "site.name"="Köln"}[5s])`,
		`app_flapping`,
		`absent(app_flapping)`,
		`changes(app_flapping[10s])`,
		`count_over_time(app_requests_total[5s] offset 3s)`,
		`max_over_time(rate(app_requests_total[5s])[10s:1s])`,
		`increase(app_requests_total[10s]) > 1 unless on (code) app_requests_total{code="404"}`,
		`label_replace(up, "host", "$1", "instance", "(.*):.*")`,
		`quantile_over_time(0.5, scrape_duration_seconds[10s])`,
		`sort_desc(process_resident_memory_bytes)`,
		`nothing_of_this_name`,
		`time()`,
		`"text"`,
	}
}

// agree compares all samples of all metrics, and the computed queries.
func (s *system) agree(t *testing.T, w window) {
	for _, tenant := range s.tenants {
		// Remote write may lag at first; after this, every sample has arrived.
		kit.Eventually(t, catchUp, func() error {
			return sameQuery(t, tenant, s.local, "query", w.instant(`{__name__!=""}`+w.all()), true)
		})
		s.agreeLists(t, tenant, w)
		data, err := s.local.data(t, "label/__name__/values", w.between())
		if err != nil {
			t.Fatal(err)
		}
		metrics, err := names(data)
		if err != nil {
			t.Fatal(err)
		}
		if len(metrics) < 300 {
			t.Errorf("only %d metrics were scraped", len(metrics))
		}
		for _, m := range metrics {
			if err := sameQuery(t, tenant, s.local, "query", w.instant(`{__name__=`+strconv.Quote(m)+`}`+w.all()), true); err != nil {
				t.Error(err)
			}
		}
		for _, q := range computed() {
			if err := sameQuery(t, tenant, s.local, "query", w.instant(q), false); err != nil {
				t.Error(err)
			}
			if q == `"text"` {
				continue // a range query cannot return a string
			}
			if err := sameQuery(t, tenant, s.local, "query_range", w.over(q), false); err != nil {
				t.Error("range query: ", err)
			}
		}
	}
}

func (s *system) agreeLists(t *testing.T, tenant client, w window) {
	matched := func(matchers ...string) url.Values {
		form := w.between()
		form["match[]"] = matchers
		return form
	}
	for _, c := range []struct {
		endpoint string
		form     url.Values
	}{
		{"labels", w.between()},
		{"labels", matched(`{job="node"}`)},
		{"labels", matched(`up`, `{"app.temperature"}`)},
		{"label/__name__/values", w.between()},
		{"label/__name__/values", matched(`{job="app"}`)},
		{"label/job/values", w.between()},
		{"label/le/values", w.between()},
		{"label/nothing/values", w.between()},
		{"label/U__site_2e_name/values", w.between()},
		{"series", matched(`{__name__!=""}`)},
		{"series", matched(`{job="app"}`, `up`)},
		{"series", matched(`nothing`)},
	} {
		if err := sameList(t, tenant, s.local, c.endpoint, c.form); err != nil {
			t.Error(err)
		}
	}
}

// agreeMetadata compares the metadata API. Prometheus has an entry for each different
// text of its targets, Pallium the latest one.
func (s *system) agreeMetadata(t *testing.T) {
	type entry struct{ Type, Help, Unit string }
	all := func(c client) (map[string][]entry, error) {
		data, err := c.data(t, "metadata", nil)
		if err != nil {
			return nil, err
		}
		var m map[string][]entry
		return m, json.Unmarshal(data, &m)
	}
	for _, tenant := range s.tenants {
		kit.Eventually(t, catchUp, func() error {
			want, err := all(s.local)
			if err != nil {
				return err
			}
			got, err := all(tenant)
			if err != nil {
				return err
			}
			for metric, entries := range want {
				g := got[metric]
				if len(g) != 1 || !slices.Contains(entries, g[0]) {
					return fmt.Errorf("%s: metadata of %s: %q, want one of %q", tenant.name, metric, g, entries)
				}
			}
			for metric := range got {
				// Prometheus also sends metadata of its own series about scrapes.
				if _, ok := want[metric]; !ok && metric != "up" && !strings.HasPrefix(metric, "scrape_") {
					return fmt.Errorf("%s: metadata of %s, which Prometheus does not have", tenant.name, metric)
				}
			}
			return nil
		})
	}
}

// agreeExemplars compares the exemplars of the window.
func (s *system) agreeExemplars(t *testing.T, w window) {
	for _, tenant := range s.tenants {
		for _, query := range []string{`app_requests_total`, `rate(app_latency_seconds_bucket[1m]) + on (instance) app_requests_total`, `app_latency_seconds`} {
			form := w.between()
			form.Set("query", query)
			kit.Eventually(t, catchUp, func() error {
				return sameList(t, tenant, s.local, "query_exemplars", form)
			})
		}
	}
	form := w.between()
	form.Set("query", "app_requests_total")
	if data, err := s.local.data(t, "query_exemplars", form); err != nil || string(data) == "[]" {
		t.Errorf("Prometheus itself has no exemplars: %s %v", data, err)
	}
}
