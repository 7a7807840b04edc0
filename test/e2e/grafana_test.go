package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// grafanaCall is a request as Grafana's Prometheus data source sends it.
type grafanaCall struct {
	name   string
	method string
	path   string // includes the query that Grafana puts into the URL
	form   url.Values
	header http.Header
	list   bool // the data is a list in arbitrary order
}

// grafanaCalls returns the data source's requests: its health check, panels, metadata
// for the editor, and unusual ones.
func grafanaCalls(w window) []grafanaCall {
	const get, post = http.MethodGet, http.MethodPost
	with := func(more ...string) url.Values {
		form := w.between()
		for i := 0; i < len(more); i += 2 {
			form.Add(more[i], more[i+1])
		}
		return form
	}
	forwarded := http.Header{"X-Dashboard-Uid": {"adxyz"}, "X-Panel-Id": {"4"}, "X-Grafana-Org-Id": {"1"}, "X-Grafana-User": {"admin"},
		"Fromalert": {"true"}, "X-Rule-Uid": {"abc"}, "X-Rule-Name": {"High%20load"}, "X-Rule-Folder": {"ops"}}
	fraction := seconds(w.end) + "1234"
	msStart, msEnd := fmt.Sprint(w.start.UnixMilli()), fmt.Sprint(w.end.Add(time.Hour).UnixMilli())
	return []grafanaCall{
		{name: "health", method: post, path: "/api/v1/query", form: url.Values{"query": {"1+1"}, "time": {"4"}}},
		{name: "panel", method: post, path: "/api/v1/query_range", form: with("query", "rate(app_requests_total[5s])", "step", "1")},
		{name: "panel by GET", method: get, path: "/api/v1/query_range", form: with("query", "rate(app_requests_total[5s])", "step", "1")},
		{name: "panel with a timeout", method: post, path: "/api/v1/query_range", form: with("query", "up", "step", "2.5", "timeout", "30s")},
		{name: "panel with stats", method: post, path: "/api/v1/query_range?stats=all", form: with("query", "up", "step", "1")},
		{name: "panel with headers", method: post, path: "/api/v1/query_range", form: with("query", "up", "step", "1"), header: forwarded},
		{name: "table", method: post, path: "/api/v1/query", form: url.Values{"query": {"app_requests_total"}, "time": {fraction}}},
		{name: "heatmap", method: post, path: "/api/v1/query_range", form: with("query", "app_size_bytes", "step", "1")},
		{name: "wrong query", method: post, path: "/api/v1/query_range", form: with("query", "rate(up", "step", "1")},
		{name: "query that fails", method: post, path: "/api/v1/query", form: url.Values{"query": {`count_over_time({job="app"}[5s])`}, "time": {seconds(w.end)}}},
		{name: "too many points", method: post, path: "/api/v1/query_range", form: url.Values{"query": {"up"}, "start": {"0"}, "end": {seconds(w.end)}, "step": {"1"}}},
		{name: "end before start", method: post, path: "/api/v1/query_range", form: url.Values{"query": {"up"}, "start": {seconds(w.end)}, "end": {"0"}, "step": {"1"}}},
		{name: "step of zero", method: post, path: "/api/v1/query_range", form: with("query", "up", "step", "0")},
		{name: "exemplars", method: post, path: "/api/v1/query_exemplars", form: with("query", "app_requests_total"), list: true},
		{name: "exemplars as it loads", method: post, path: "/api/v1/query_exemplars", form: url.Values{"query": {"test"}, "start": {msStart}, "end": {msEnd}}},
		{name: "exemplars as it loads, by GET", method: get, path: "/api/v1/query_exemplars", form: url.Values{"query": {"test"}, "start": {msStart}, "end": {msEnd}}},
		{name: "labels", method: post, path: "/api/v1/labels", form: with("limit", "40000"), list: true},
		{name: "labels by GET", method: get, path: "/api/v1/labels", form: with("limit", "40000", "match[]", `{job="app"}`), list: true},
		{name: "label values", method: get, path: "/api/v1/label/job/values", form: with("limit", "40000"), list: true},
		{name: "label values of a metric", method: get, path: "/api/v1/label/code/values", form: with("limit", "40000", "match[]", "app_requests_total"), list: true},
		{name: "metric names", method: get, path: "/api/v1/label/__name__/values", form: with("limit", "40000"), list: true},
		{name: "label in UTF-8", method: get, path: "/api/v1/label/U__site_2e_name/values", form: with("limit", "40000"), list: true},
		{name: "series", method: post, path: "/api/v1/series", form: with("limit", "40000", "match[]", `{__name__!=""}`), list: true},
		{name: "series by GET", method: get, path: "/api/v1/series", form: with("limit", "40000", "match[]", `{job="node"}`), list: true},
		{name: "series without a selector", method: post, path: "/api/v1/series", form: with("limit", "40000")},
		{name: "suggestions", method: get, path: "/api/v1/label/__name__/values", form: with("limit", "1000", "match[]", `{__name__=~".*app.*"}`), list: true},
		{name: "format", method: get, path: "/api/v1/format_query", form: url.Values{"query": {"sum(up)by(job)"}}},
		{name: "parse", method: post, path: "/api/v1/parse_query", form: url.Values{"query": {"sum(up)by(job)"}}},
		{name: "metadata of one metric", method: get, path: "/api/v1/metadata", form: url.Values{"metric": {"app_requests_total"}, "limit": {"40000"}}},
	}
}

// grafana sends Grafana's requests to Prometheus and Pallium and compares status,
// content type and the whole body except execution times.
func (s *system) grafana(t *testing.T, w window) {
	for _, tenant := range s.tenants {
		for _, c := range []client{tenant, tenant.basic()} {
			for _, call := range grafanaCalls(w) {
				t.Run(c.name+"/"+call.name, func(t *testing.T) {
					want := s.local.call(t, call.method, call.path, call.form, call.header)
					got := c.call(t, call.method, call.path, call.form, call.header)
					if got.Code != want.Code {
						t.Fatalf("status %d, want %d: %.300s", got.Code, want.Code, got.Body)
					}
					if g, w := got.Header.Get("Content-Type"), want.Header.Get("Content-Type"); g != w {
						t.Errorf("Content-Type %q, want %q", g, w)
					}
					if strings.Contains(call.path, "stats=") && !strings.Contains(got.Body, `"pallium":{"timings":{"queueTime":`) {
						t.Errorf("the answer has no statistics of Pallium: %.2000s", got.Body)
					}
					g, w := normal(t, got.Body, call.list), normal(t, want.Body, call.list)
					if !nearValue(g, w) {
						t.Errorf("answer %.2000s\nwant %.2000s", got.Body, want.Body)
					}
				})
			}
			s.grafanaBuildInfo(t, c)
		}
	}
}

// normal decodes a response and removes what differs between two runs.
func normal(t *testing.T, body string, list bool) any {
	t.Helper()
	var a map[string]any
	if err := json.Unmarshal([]byte(body), &a); err != nil {
		t.Fatalf("not JSON: %v: %.300s", err, body)
	}
	switch data := a["data"].(type) {
	case map[string]any:
		if stats, ok := data["stats"].(map[string]any); ok {
			delete(stats, "timings")
			delete(stats, "pallium") // Prometheus has no such key
		}
		if result, ok := data["result"].([]any); ok {
			data["result"] = inOrder(result)
		}
	case []any:
		if list {
			a["data"] = inOrder(data)
		}
	}
	return a
}

// inOrder sorts by the JSON of the items.
func inOrder(list []any) []any {
	text := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return string(data)
	}
	return slices.SortedFunc(slices.Values(list), func(a, b any) int { return strings.Compare(text(a), text(b)) })
}

// grafanaBuildInfo checks the fields from which Grafana derives the kind of data
// source: the version is Prometheus', and the one feature says that rules can be
// configured, as in Mimir.
func (s *system) grafanaBuildInfo(t *testing.T, c client) {
	var info struct {
		Status string
		Data   struct {
			Version  string
			Features map[string]string
		}
	}
	for _, who := range []client{c, {name: "nobody", base: c.base, auth: func(*http.Request) {}}} {
		r := who.call(t, http.MethodGet, "/api/v1/status/buildinfo", nil, nil)
		if err := json.Unmarshal([]byte(r.Body), &info); err != nil || r.Code != http.StatusOK || info.Status != "success" ||
			!strings.HasPrefix(info.Data.Version, "3.") || !maps.Equal(info.Data.Features, map[string]string{"ruler_config_api": "true", "alertmanager_config_api": "true"}) {
			t.Errorf("%s: buildinfo: %d %s", who.name, r.Code, r.Body)
		}
	}
}
