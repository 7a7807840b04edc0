package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/frontend"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/policies/routes"
)

// switchedAPI returns an API whose tenants have different PromQL switches: tenant a has none; any
// other tenant has the switch of its name, or, if its name is a number, the switches of its bits.
func switchedAPI(t *testing.T, deleted func(Deletion)) http.Handler {
	t.Helper()
	b := newBackend(t)
	for _, id := range []tenant.ID{"a", "promql_unquoted_utf8_names", "promql_delayed_name_removal"} {
		b.write(id, "größe.b", 1)
		b.write(id, "up", 1)
	}
	lim := func(id tenant.ID) limits.Limits {
		var on limits.Partial
		set, _ := strconv.Atoi(string(id))
		for i, name := range switchNames() {
			if name == string(id) || set&(1<<i) != 0 {
				if err := on.Set(name, "true"); err != nil {
					panic(err)
				}
			}
		}
		return limits.Merge(limits.Default(), on)
	}
	now := func() time.Time { return b.now }
	engine := querier.NewEngine(querier.NewParsers(querier.MaxOperators), slog.New(slog.DiscardHandler), nil)
	return newAPI(Options{Queryable: querier.NewQueryable(recentOnly{b.ing}, now, nil), Features: engine.Features, Limits: lim,
		Parsers: querier.NewParsers(querier.MaxPrettyOperators), Lookback: querier.LookbackDelta, Now: now, Registerer: prometheus.NewRegistry(),
		Delete: func(_ context.Context, d Deletion) error { deleted(d); return nil },
		Engine: frontend.New(frontend.Options{Evaluator: engine, Parsers: querier.NewParsers(querier.MaxOperators), Syntax: querier.Switches, Now: now,
			Engine: split.Options{Lookback: querier.LookbackDelta, SubqueryStep: querier.SubqueryStep}})})
}

// switchNames returns the names of the limits that are switches of PromQL.
func switchNames() []string {
	return slices.DeleteFunc(limits.Names(), func(name string) bool { return !strings.HasPrefix(name, "promql_") })
}

// TestSwitchesOfTenants checks that every endpoint that parses uses the switches of the request's
// tenant, while other tenants have other switches.
func TestSwitchesOfTenants(t *testing.T) {
	const functions, fill, names, late, typed, steps = "promql_experimental_functions", "promql_binop_fill_modifiers",
		"promql_unquoted_utf8_names", "promql_delayed_name_removal", "promql_type_and_unit_labels", "promql_per_step_stats"
	h := switchedAPI(t, func(Deletion) {})
	now := fmt.Sprint(time.Now().Unix())
	query := func(text string) string { return "query?time=" + now + "&query=" + url.QueryEscape(text) }
	ranged := func(text string) string {
		return "query_range?step=60&start=" + now + "&end=" + now + "&query=" + url.QueryEscape(text)
	}
	var all sync.WaitGroup
	for _, tt := range []struct {
		with, path string
		says       string // with the switch
		without    string // without it
	}{
		{functions, query(`sort_by_label(vector(1), "x")`), `"status":"success"`, "is not enabled"},
		{functions, ranged(`limitk(1, vector(1))`), `"status":"success"`, "is experimental"},
		{functions, "parse_query?query=" + url.QueryEscape(`limitk(1, x)`), `"status":"success"`, "is experimental"},
		{functions, "features", `"limitk":true`, `"limitk":false`},
		{functions, "query_exemplars?start=1&end=2&query=" + url.QueryEscape(`limitk(1, x)`), `"status":"success"`, "is experimental"},
		{fill, query(`vector(1) + fill(0) vector(1)`), `"status":"success"`, "fill modifiers are experimental"},
		{fill, "format_query?query=" + url.QueryEscape(`a+fill(0)b`), `a + fill (0) b`, "fill modifiers are experimental"},
		{fill, "features", `"fill":true`, `"fill":false`},
		{names, query(`größe.b`), `"größe.b"`, "unexpected character"},
		{names, ranged(`größe.b`), `"größe.b"`, "unexpected character"},
		{names, "format_query?query=" + url.QueryEscape(`{"größe.b",x.y="z"}`), `x.y=\"z\"`, "unexpected character"},
		{names, "series?match[]=" + url.QueryEscape(`größe.b`), `"größe.b"`, "unexpected character"},
		{names, "labels?match[]=" + url.QueryEscape(`größe.b`), `"__name__"`, "unexpected character"},
		{names, "label/__name__/values?match[]=" + url.QueryEscape(`größe.b`), `"größe.b"`, "unexpected character"},
		{names, "search/metric_names?match[]=" + url.QueryEscape(`größe.b`), `"größe.b"`, "unexpected character"},
		{names, "cardinality/label_names?selector=" + url.QueryEscape(`größe.b`), `"label_names_count":`, "unexpected character"},
		{names, "/federate?match[]=" + url.QueryEscape(`größe.b`), `gr__e_b{`, "unexpected character"},
		{names, "features", `"unquoted_utf8_names":true`, `"unquoted_utf8_names":false`},
		{late, query(`label_replace(-up, "x", "$1", "__name__", "(.*)")`), `"x":"up"`, `"metric":{`},
		{late, ranged(`label_replace(-up, "x", "$1", "__name__", "(.*)")`), `"x":"up"`, `"metric":{`},
		{late, "features", `"delayed_name_removal":true`, `"delayed_name_removal":false`},
		{typed, "features", `"type_and_unit_labels":true`, `"type_and_unit_labels":false`},
		{steps, ranged("vector(1)") + "&stats=all", "totalQueryableSamplesPerStep", `"status":"success"`},
		{steps, "features", `"per_step_stats":true`, `"per_step_stats":false`},
	} {
		all.Go(func() {
			ask := func(id tenant.ID) string {
				path := routes.PrometheusAPI + "/" + tt.path
				if strings.HasPrefix(tt.path, "/") {
					path = "/prometheus" + tt.path
				}
				return do(h, as(id, httptest.NewRequest(http.MethodGet, path, nil))).Body.String()
			}
			if got := ask(tenant.ID(tt.with)); !strings.Contains(got, tt.says) {
				t.Errorf("%s with %s: %s", tt.path, tt.with, got)
			}
			if got := ask("a"); !strings.Contains(got, tt.without) || strings.Contains(got, tt.says) && tt.says != `"status":"success"` {
				t.Errorf("%s without %s: %s", tt.path, tt.with, got)
			}
		})
	}
	all.Wait()
}

// TestDeletionWithSwitches checks that the selectors of a deletion are parsed with the switches of the
// tenant.
func TestDeletionWithSwitches(t *testing.T) {
	var got []Deletion
	h := switchedAPI(t, func(d Deletion) { got = append(got, d) })
	for id, want := range map[tenant.ID]int{"a": http.StatusBadRequest, "promql_unquoted_utf8_names": http.StatusNoContent} {
		r := httptest.NewRequest(http.MethodPost, routes.PrometheusAPI+"/admin/tsdb/delete_series?match[]="+url.QueryEscape(`größe.b`), nil)
		if w := do(h, as(id, r)); w.Code != want {
			t.Errorf("tenant %s: %d %s, want %d", id, w.Code, w.Body, want)
		}
	}
	if len(got) != 1 || got[0].Sets[0][0].Value != "größe.b" {
		t.Errorf("deletions %v", got)
	}
}

// TestManySwitches checks that requests are answered correctly with more sets of switches than the cache
// holds.
func TestManySwitches(t *testing.T) {
	h := switchedAPI(t, func(Deletion) {})
	functions := slices.Index(switchNames(), "promql_experimental_functions")
	for range 2 {
		for set := range 1 << len(switchNames()) {
			r := httptest.NewRequest(http.MethodGet, routes.PrometheusAPI+"/query?query=limitk(1,vector(1))", nil)
			w := do(h, as(tenant.ID(strconv.Itoa(set)), r))
			if (w.Code == http.StatusOK) != (set&(1<<functions) != 0) {
				t.Errorf("set %d: %d %s", set, w.Code, w.Body)
			}
		}
	}
}
