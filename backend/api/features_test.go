package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/prometheus/prometheus/util/features"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/frontend"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/policies/routes"
)

// featuresOf returns the answer of the endpoint features.
func featuresOf(t *testing.T, h http.Handler) map[string]map[string]bool {
	t.Helper()
	w := do(h, as("a", httptest.NewRequest(http.MethodGet, "/prometheus/api/v1/features", nil)))
	var answer struct {
		Status string
		Data   map[string]map[string]bool
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != http.StatusOK || answer.Status != "success" {
		t.Fatalf("%v: %d %s", err, w.Code, w.Body)
	}
	return answer.Data
}

// withSwitches returns the API of a backend whose tenants have these limits, once without a query
// frontend and once with one.
func withSwitches(t *testing.T, lim limits.Limits) (alone, front http.Handler) {
	b := newBackend(t)
	p := querier.NewParsers(querier.MaxOperators)
	engine := querier.NewEngine(p, slog.New(slog.DiscardHandler), nil)
	now := func() time.Time { return b.now }
	with := Options{Queryable: querier.NewQueryable(empty{}, now, nil), Parsers: p, Features: engine.Features, Engine: engine,
		Limits: func(tenant.ID) limits.Limits { return lim }, Lookback: querier.LookbackDelta, Now: now}
	alone = newAPI(with)
	with.Engine = frontend.New(frontend.Options{Evaluator: engine, Parsers: p, Syntax: querier.Switches, Now: now,
		Engine: split.Options{Lookback: querier.LookbackDelta, SubqueryStep: querier.SubqueryStep}})
	return alone, newAPI(with)
}

// empty is a source without series.
type empty struct{ broken }

func (empty) Select(context.Context, series.Request) (*series.Selection, error) {
	return &series.Selection{}, nil
}

// probe returns a query that succeeds only with the feature.
func probe(category, name string) (string, error) {
	switch category {
	case features.PromQLFunctions:
		return call(name)
	case features.PromQLOperators:
		return operation(name)
	case features.PromQL:
		if text, ok := keywords()[name]; ok {
			return text, nil
		}
	}
	return "", fmt.Errorf("no probe for %s %s", category, name)
}

// call returns a call of a function with arguments of its types.
func call(name string) (string, error) {
	f := parser.Functions[name]
	if f == nil {
		return "", fmt.Errorf("there is no function %s", name)
	}
	var args []string
	for i, kind := range f.ArgTypes {
		if name == "info" && i == 1 {
			args = append(args, `{data="x"}`)
			continue
		}
		args = append(args, map[parser.ValueType]string{parser.ValueTypeScalar: "1", parser.ValueTypeVector: "up",
			parser.ValueTypeMatrix: "up[5m]", parser.ValueTypeString: `"x"`}[kind])
	}
	return name + "(" + strings.Join(args, ", ") + ")", nil
}

func operation(name string) (string, error) {
	switch name {
	case "=~", "!~":
		return "up{job" + name + `"x"}`, nil
	case "@":
		return "up @ 1", nil
	case "</", ">/":
		return "up " + name + " 1", nil
	case "topk", "bottomk", "quantile", "limitk", "limit_ratio":
		return name + "(1, up)", nil
	case "count_values":
		return `count_values("x", up)`, nil
	case "sum", "avg", "count", "min", "max", "group", "stddev", "stdvar":
		return name + "(up)", nil
	}
	return "up " + name + " up", nil
}

// keywords returns expressions by the names of features in the category promql.
func keywords() map[string]string {
	return map[string]string{
		"offset": "up offset 1m", "smoothed": "rate(up[5m] smoothed)", "anchored": "rate(up[5m] anchored)",
		"by": "sum by (x) (up)", "without": "sum without (x) (up)", "on": "up + on (x) up", "ignoring": "up + ignoring (x) up",
		"group_left": "up + on (x) group_left (y) up", "group_right": "up + on (x) group_right (y) up",
		"fill": "up + fill(0) up", "fill_left": "up + fill_left(0) up", "fill_right": "up + fill_right(0) up", "bool": "up == bool 1",
		"start": "up @ start()", "end": "up @ end()", "step": "up[5m + step()]", "range": "up[5m + range()]",
		"max_of": "up[max_of(1m, 2m)]", "min_of": "up[min_of(1m, 2m)]",
		"at_modifier": "up @ 1", "negative_offset": "up offset -1m", "subqueries": "max_over_time(up[5m:1m])",
		"duration_expr": "up[1m * 2]", "unquoted_utf8_names": "ü.b",
	}
}

// TestFeaturesOfPromQL checks for each PromQL feature that it works if and only if the response
// says so, with the optional syntax off and on.
func TestFeaturesOfPromQL(t *testing.T) {
	for _, on := range []bool{false, true} {
		lim := limits.Default()
		lim.PromQLExperimentalFunctions, lim.PromQLBinopFillModifiers, lim.PromQLUnquotedUTF8Names = on, on, on
		alone, front := withSwitches(t, lim)
		all := featuresOf(t, front)
		n := 0
		for _, category := range []string{features.PromQL, features.PromQLFunctions, features.PromQLOperators} {
			for name, enabled := range all[category] {
				if works(time.Time{})[name] != nil {
					continue // see TestFeaturesByData
				}
				query, err := probe(category, name)
				if err != nil {
					t.Error(err)
					continue
				}
				form := url.Values{"query": {query}, "time": {"1000"}}
				for name, h := range map[string]http.Handler{"alone": alone, "with a frontend": front} {
					w := do(h, as("a", httptest.NewRequest(http.MethodGet, "/prometheus/api/v1/query?"+form.Encode(), nil)))
					if works := w.Code == http.StatusOK; works != enabled {
						t.Errorf("optional syntax %v, %s: %s %s is %v, but %s: %d %s", on, name, category, name, enabled, query, w.Code, w.Body)
					}
				}
				n++
			}
		}
		if n < 130 {
			t.Errorf("only %d features were called", n)
		}
	}
}

// works returns, by feature, functions that report whether a feature works. It has the features for
// which a successful request proves nothing. The backend has the series up{i="0"} to up{i="4"} with
// samples in the three minutes before at.
func works(at time.Time) map[string]func(*backend) bool {
	says := func(path string, form url.Values, part string) func(*backend) bool {
		return func(b *backend) bool {
			w := b.get("a", routes.PrometheusAPI+path, form)
			return w.Code == http.StatusOK && strings.Contains(w.Body.String(), part)
		}
	}
	not := func(f func(*backend) bool) func(*backend) bool { return func(b *backend) bool { return !f(b) } }
	both := func(f, g func(*backend) bool) func(*backend) bool {
		return func(b *backend) bool { return f(b) && g(b) }
	}
	now := fmt.Sprint(at.Unix())
	query := func(text string, more ...string) url.Values {
		form := url.Values{"query": {text}, "time": {now}}
		for i := 0; i < len(more); i += 2 {
			form.Set(more[i], more[i+1])
		}
		return form
	}
	past := func(more ...string) url.Values {
		return query("", append(more, "start", "0", "end", "1000")...)
	}
	const found = `"up"`
	out := map[string]func(*backend) bool{
		"per_query_lookback_delta": both(says("/query", query("up"), found), not(says("/query", query("up", "lookback_delta", "1m"), found))),
		"per_step_stats":           says("/query_range", query("up", "start", "0", "end", "10", "step", "5", "stats", "all"), "totalQueryableSamplesPerStep"),
		"delayed_name_removal":     says("/query", query(`label_replace(-up, "x", "$1", "__name__", "(.*)")`), `"x":"up"`),
		"type_and_unit_labels":     both(says("/query", query("rate(typed[10m])"), "value"), not(says("/query", query("rate(typed[10m])"), "might not be a counter"))),
		"query_warnings":           says("/query", query("quantile(2, up)"), `"warnings":[`),
		"query_stats":              says("/query", query("up", "stats", "all"), `"stats":{`),
		"label_values_match": both(says("/label/__name__/values", query("", "match[]", "up"), found),
			not(says("/label/__name__/values", query("", "match[]", "typed"), found))),
		"time_range_labels": both(both(says("/labels", nil, `"i"`), not(says("/labels", past(), `"i"`))), not(says("/label/i/values", past(), `"1"`))),
		"time_range_series": both(says("/series", query("", "match[]", "up"), found), not(says("/series", past("match[]", "up"), found))),
		"query_cost":        both(says("/query_cost", query("up"), ""), says("/query_range_cost", query("up", "start", "0", "end", "1", "step", "1"), "")),
		"search": both(both(says("/search/metric_names", nil, found), says("/search/label_names", nil, `"i"`)),
			says("/search/label_values", query("", "label", "i"), `"1"`)),
		"native_histograms":     says("/query", query("h"), `"histogram":[`),
		"exemplar_storage":      says("/query_exemplars", query("with_exemplar", "start", "0", "end", "99999999999"), `"id":"of the exemplar"`),
		"remote_write_receiver": receives("/write"), "otlp_write_receiver": receives("/otlp/v1/metrics"),
		"admin": func(b *backend) bool {
			return receives("/admin/tsdb/snapshot")(b) && receives("/admin/tsdb/delete_series")(b) && receives("/admin/tsdb/clean_tombstones")(b)
		},
		// The handlers are those of package rulesapi; here are none.
		"ruler_config_api": func(b *backend) bool {
			w := do(b.h, as("a", httptest.NewRequest(http.MethodPost, "/prometheus/config/v1/rules/n", nil)))
			return w.Code != http.StatusServiceUnavailable
		},
		// Answered by the gateway, whose tests call it.
		"openapi_3.1": func(*backend) bool { return routeOf("/openapi.yaml") != nil },
	}
	for _, alg := range []string{"subsequence", "jarowinkler"} {
		out["search_fuzz_alg_"+alg] = says("/search/metric_names", query("", "search[]", "up", "fuzz_alg", alg, "fuzz_threshold", "90"), found)
	}
	return out
}

// routeOf returns the route with the path below Prometheus' API; nil if there is none.
func routeOf(path string) *routes.Route {
	table := routes.Table()
	i := slices.IndexFunc(table, func(rt routes.Route) bool { return slices.Contains(rt.Paths, routes.PrometheusAPI+path) })
	if i < 0 {
		return nil
	}
	return &table[i]
}

// receives reports whether a POST to the path reaches a handler.
func receives(path string) func(*backend) bool {
	return func(b *backend) bool {
		rt := routeOf(path)
		if rt == nil || !slices.Contains(rt.Methods, http.MethodPost) {
			return false
		}
		w := do(b.h, as("a", httptest.NewRequest(http.MethodPost, rt.Upstream(), strings.NewReader("\x00"))))
		return w.Code != http.StatusNotFound && w.Code != http.StatusMethodNotAllowed && w.Code != http.StatusServiceUnavailable
	}
}

// TestFeaturesByData checks for each feature outside PromQL's syntax that it works if and only if
// the response says so, and that there is a probe for each feature of the API and the TSDB.
func TestFeaturesByData(t *testing.T) {
	for _, on := range []bool{false, true} {
		t.Run(fmt.Sprintf("optional parts %v", on), func(t *testing.T) {
			b := newBackend(t)
			b.lim.PromQLDelayedNameRemoval, b.lim.PromQLTypeAndUnitLabels, b.lim.PromQLPerStepStats = on, on, on
			featuresByData(t, b)
		})
	}
}

func featuresByData(t *testing.T, b *backend) {
	for i := range 5 {
		b.send("a", []string{"__name__", "up", "i", fmt.Sprint(i)}, b.ago(3*time.Minute, float64(i)))
	}
	b.send("a", []string{"__name__", "typed", "__type__", "counter"}, append(b.ago(time.Minute, 1), b.ago(0, 1)...))
	b.send("a", []string{"__name__", "h"}, nil, prompb.FromIntHistogram(b.now.UnixMilli(), tsdbutil.GenerateTestHistogram(1)))
	b.exemplar("a", "with_exemplar", "of the exemplar")
	answer := featuresOf(t, b.h)
	probes := works(b.now)
	for category, all := range answer {
		for name, enabled := range all {
			probe := probes[name]
			if probe == nil {
				if category == features.API || category == features.TSDB {
					t.Errorf("no probe for %s %s", category, name)
				}
				continue
			}
			if got := probe(b); got != enabled {
				t.Errorf("%s %s is %v, but works: %v", category, name, enabled, got)
			}
			delete(probes, name)
		}
	}
	if len(probes) > 0 {
		t.Errorf("not in the answer: %v", probes)
	}
	for category := range answer {
		if !slices.Contains([]string{features.API, features.TSDB, features.PromQL, features.PromQLFunctions, features.PromQLOperators}, category) {
			t.Errorf("no test of category %s", category)
		}
	}
}

// exemplar pushes a series with an exemplar that has the label id.
func (b *backend) exemplar(id tenant.ID, metric, value string) {
	b.t.Helper()
	data, err := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{Labels: []prompb.Label{{Name: "__name__", Value: metric}}, Samples: b.ago(0, 1),
		Exemplars: []prompb.Exemplar{{Labels: []prompb.Label{{Name: "id", Value: value}}, Value: 1, Timestamp: b.now.UnixMilli()}}}}}).Marshal()
	if err != nil {
		b.t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/api/v1/push", bytes.NewReader(snappy.Encode(nil, data)))
	if w := do(b.h, as(id, r)); w.Code != http.StatusNoContent {
		b.t.Fatalf("push: %d %s", w.Code, w.Body)
	}
}

// TestFeaturesFollowTheTable checks that the features of the API follow from the route table.
func TestFeaturesFollowTheTable(t *testing.T) {
	of := func(table []routes.Route) map[string]bool {
		r := features.NewRegistry()
		apiFeatures(r, table)
		return r.Get()[features.API]
	}
	for name, enabled := range of(nil) {
		if enabled {
			t.Errorf("%s is enabled without a route", name)
		}
	}
	var table []routes.Route
	for _, path := range []string{"query_cost", "query_range_cost", "otlp/v1/metrics", "search/metric_names", "search/label_names"} {
		table = append(table, routes.Route{Paths: []string{routes.PrometheusAPI + "/" + path}})
	}
	if got := of(table); !got["query_cost"] || !got["otlp_write_receiver"] || got["search"] || got["search_fuzz_alg_subsequence"] || got["query_stats"] {
		t.Errorf("features: %v", got)
	}
}

// TestRulesAndAlerts checks that both are empty lists, in the form of Prometheus.
func TestRulesAndAlerts(t *testing.T) {
	h := newAPI(forRoles(false, false))
	for path, want := range map[string]string{
		"rules": `{"data":{"groups":[]},"status":"success"}`, "rules?type=alert&exclude_alerts=true": `{"data":{"groups":[]},"status":"success"}`,
		"alerts": `{"data":{"alerts":[]},"status":"success"}`,
	} {
		w := do(h, as("a", httptest.NewRequest(http.MethodGet, "/prometheus/api/v1/"+path, nil)))
		if w.Code != http.StatusOK || w.Body.String() != want || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %v %s", path, w.Code, w.Header(), w.Body)
		}
		if w := do(h, as("a", httptest.NewRequest(http.MethodPost, "/prometheus/api/v1/"+path, nil))); w.Code != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %d", path, w.Code)
		}
	}
}
