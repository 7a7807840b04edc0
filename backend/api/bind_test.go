package api

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/policies/routes"
)

// forRoles returns the options of a process with the given roles.
func forRoles(push, read bool) Options {
	o := Options{
		Logger: slog.New(slog.DiscardHandler), Gate: querier.NewGate(nil), Limits: func(tenant.ID) limits.Limits { return limits.Default() },
		SeriesCount: func(context.Context, tenant.ID) (int, error) { return 0, nil },
	}
	if push {
		o.Push = func(context.Context, *series.Batch) (series.Outcome, error) { return series.Outcome{}, nil }
	}
	if read {
		o.Queryable = querier.NewQueryable(nil, nil, nil)
	}
	return o
}

// TestBind checks that bind returns an error for a route without a handler, a
// handler without a route, and a Prometheus route that Prometheus' API does not
// have.
func TestBind(t *testing.T) {
	change := func(name string, change func(*routes.Route)) []routes.Route {
		table := routes.Table()
		change(&table[slices.IndexFunc(table, func(r routes.Route) bool { return r.Name == name })])
		return table
	}
	more := func(rt routes.Route) []routes.Route { return append(routes.Table(), rt) }
	get := []string{http.MethodGet}
	for _, tt := range []struct {
		name  string
		table []routes.Route
		err   string // "" if the table fits
	}{
		{"the table", routes.Table(), ""},
		{"a route of the gateway", more(routes.Route{Name: "x", By: routes.Gateway, Methods: get, Paths: []string{"/x"}}), ""},
		{"no handler", more(routes.Route{Name: "x", By: routes.Backend, Methods: get, Paths: []string{"/x"}}), "route x has no handler"},
		{"no route", change("metadata", func(r *routes.Route) { r.Name = "meta" }), "handler metadata has no route"},
		{"removed route", change("read", func(r *routes.Route) { r.By = routes.Gateway }), "handler read has no route"},
		{"renamed route", change("read", func(r *routes.Route) { r.Name = "remote_read" }), "handler read has no route"},
		{"not in Prometheus", more(routes.Route{Name: "x", By: routes.Prometheus, Methods: get, Paths: []string{routes.PrometheusAPI + "/nothing"}}), "does not have GET /nothing"},
		{"unknown method", change("label_values", func(r *routes.Route) { r.Methods = []string{"GET", "POST"} }), "does not have POST /label/x/values"},
		{"unknown path", change("query", func(r *routes.Route) { r.Paths = []string{routes.PrometheusAPI + "/query/"} }), "does not have GET /query/"},
	} {
		a := &api{Options: forRoles(true, true)}
		a.Parsers = querier.NewParsers(querier.MaxPrettyOperators)
		err := a.bind(chi.NewRouter(), tt.table)
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.err)
		}
	}
}

// TestRolesHaveTheirRoutes checks that a process serves exactly the routes of its roles, and that
// the response on routes of other roles is 503, after which clients retry.
func TestRolesHaveTheirRoutes(t *testing.T) {
	for _, tt := range []struct{ push, read bool }{{true, true}, {true, false}, {false, true}, {false, false}} {
		h := newAPI(forRoles(tt.push, tt.read))
		for _, rt := range routes.Table() {
			for _, path := range rt.Paths {
				path := strings.Replace(path, "{name}", "x", 1)
				got := h.(chi.Routes).Match(chi.NewRouteContext(), rt.Methods[0], path)
				if got != (rt.By != routes.Gateway && path == strings.Replace(rt.Upstream(), "{name}", "x", 1)) {
					t.Errorf("push %v, read %v: %s %s is known: %v", tt.push, tt.read, rt.Methods[0], path, got)
				}
				if served := rt.Cost == routes.Samples && tt.push || rt.Cost == routes.Query && tt.read || rt.Cost < routes.Query; got && !served {
					checkNotServed(t, h, &rt, path)
				}
			}
		}
	}
	w := httptest.NewRecorder()
	newAPI(forRoles(false, false)).ServeHTTP(w, as("a", httptest.NewRequest(http.MethodGet, "/api/v1/user_stats", nil)))
	if w.Code != http.StatusOK {
		t.Errorf("user_stats: %d %s", w.Code, w.Body)
	}
}

func checkNotServed(t *testing.T, h http.Handler, rt *routes.Route, path string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, as("a", httptest.NewRequest(rt.Methods[0], path, nil)))
	text, kind := "the role querier or query-frontend", "application/json"
	if rt.Cost == routes.Samples {
		text, kind = "the role distributor", "text/plain; charset=utf-8"
	}
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || w.Header().Get("Content-Type") != kind ||
		!strings.Contains(w.Body.String(), text) {
		t.Errorf("%s %s: %d %v %s", rt.Methods[0], path, w.Code, w.Header(), w.Body)
	}
}
