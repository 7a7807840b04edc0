package routes

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
)

// TestRouteTable checks that invalid tables are rejected.
func TestRouteTable(t *testing.T) {
	if err := Check(Table()); err != nil {
		t.Fatal(err)
	}
	base := Route{Name: "x", Methods: []string{"GET"}, Paths: []string{"/a"}, Scope: tenant.MetricsRead, Kind: Read, Cost: Slot, By: Backend}
	one := func(change func(*Route)) []Route {
		r := base
		change(&r)
		return []Route{r}
	}
	paths := func(list ...string) (out []Route) {
		for i, p := range list {
			r := base
			r.Name, r.Paths = string(rune('a'+i)), []string{p}
			out = append(out, r)
		}
		return out
	}
	for _, tt := range []struct {
		name  string
		table []Route
		err   string // "": valid
	}{
		{"valid", one(func(*Route) {}), ""},
		{"same", paths("/a", "/a"), "overlap"},
		{"same in one route", one(func(r *Route) { r.Paths = []string{"/a", "/b", "/a"} }), "overlap"},
		{"parameter", paths("/a/{name}", "/a/b"), "overlap"},
		{"parameters", paths("/{name}/b", "/a/{name}"), "overlap"},
		{"parameters apart", paths("/{name}/b", "/a/{name}/c"), ""},
		{"wildcard", paths("/a/*"), "exact"},
		{"relative", paths("a"), "exact"},
		{"another parameter", paths("/a/{tenant}"), "a parameter other than"},
		{"group without namespace", paths("/a/{group}"), "only after"},
		{"group before namespace", paths("/a/{group}/{namespace}"), "only after"},
		{"name and namespace", paths("/{name}/{namespace}"), "alone"},
		{"namespace and group", paths("/a/{namespace}/{group}", "/a/{namespace}"), ""},
		{"a namespace that the backend lacks", one(func(r *Route) { r.Paths = []string{"/a", "/b/{namespace}"} }), "once"},
		{"two methods of one path", append(paths("/a"), one(func(r *Route) { r.Name, r.Paths, r.Methods = "b", []string{"/a"}, []string{"POST"} })...), ""},
		{"two methods of overlapping paths", append(paths("/a"), one(func(r *Route) { r.Name, r.Paths, r.Methods = "b", []string{"/{name}"}, []string{"POST"} })...), "overlap"},
		{"half a parameter", paths("/a/x{name}"), "a parameter other than"},
		{"two parameters", paths("/{name}/{name}"), "once"},
		{"a parameter that the backend lacks", one(func(r *Route) { r.Paths = []string{"/a", "/b/{name}"} }), "once"},
		{"a parameter that the client lacks", one(func(r *Route) { r.Paths = []string{"/b/{name}", "/a"} }), "once"},
		{"no scope", one(func(r *Route) { r.Scope = "" }), "scope"},
		{"no such", one(func(r *Route) { r.Scope = "x" }), "not a scope"},
		{"open scoped", one(func(r *Route) { r.Kind, r.Cost, r.By = Open, Free, Gateway }), "scope"},
		{"no name", one(func(r *Route) { r.Name = "" }), "must have a name"},
		{"no method", one(func(r *Route) { r.Methods = nil }), "must have a name"},
		{"no path", one(func(r *Route) { r.Paths = nil }), "must have a name"},
		{"same name", append(paths("/b"), one(func(r *Route) { r.Name = "a" })...), "twice"},
		{"no kind", one(func(r *Route) { r.Kind = 0 }), "contradict"},
		{"no cost", one(func(r *Route) { r.Cost = 0 }), "contradict"},
		{"no handler", one(func(r *Route) { r.By = 0 }), "contradict"},
		{"an open route at the backend", one(func(r *Route) { r.Kind, r.Scope, r.Cost = Open, "", Free }), "contradict"},
		{"an open route with a cost", one(func(r *Route) { r.Kind, r.Scope, r.By = Open, "", Gateway }), "contradict"},
		{"a local route with a slot", one(func(r *Route) { r.Kind, r.By = Local, Gateway }), "contradict"},
		{"a local route at the backend", one(func(r *Route) { r.Kind, r.Cost = Local, Request }), "contradict"},
		{"a write without samples", one(func(r *Route) { r.Kind = Write }), "contradict"},
		{"a read with samples", one(func(r *Route) { r.Cost = Samples }), "contradict"},
		{"a free read", one(func(r *Route) { r.Cost = Free }), "contradict"},
		{"a read at the gateway", one(func(r *Route) { r.By = Gateway }), "contradict"},
		{"Prometheus elsewhere", one(func(r *Route) { r.By = Prometheus }), PrometheusAPI},
	} {
		err := Check(tt.table)
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.err)
		}
	}
}

// TestUpstreamPaths checks that all paths of a route have the same path at the backend.
func TestUpstreamPaths(t *testing.T) {
	want := map[string]string{
		"/api/v1/push": "/api/v1/push", "/api/v1/write": "/api/v1/push", "/api/prom/push": "/api/v1/push",
		"/prometheus/api/v1/write": "/api/v1/push", "/prometheus/api/v1/push": "/api/v1/push",
		"/api/prom/api/v1/write": "/api/v1/push", "/api/prom/api/v1/push": "/api/v1/push",
		"/api/v1/user_stats":       "/api/v1/user_stats",
		"/prometheus/api/v1/query": "/prometheus/api/v1/query", "/api/prom/api/v1/query": "/prometheus/api/v1/query",
		"/api/prom/api/v1/label/{name}/values": "/prometheus/api/v1/label/{name}/values",
	}
	for _, r := range Table() {
		for _, p := range r.Paths {
			if up, ok := want[p]; ok && up != r.Upstream() {
				t.Errorf("upstream path of %s = %s, want %s", p, r.Upstream(), up)
			}
			delete(want, p)
		}
	}
	if len(want) > 0 {
		t.Errorf("not in the table: %v", slices.Sorted(maps.Keys(want)))
	}
}

// TestTableIsACopy checks that callers cannot change the table for others.
func TestTableIsACopy(t *testing.T) {
	first := Table()
	first[0].Name, first[0].Methods[0], first[0].Paths[0] = "x", "x", "x"
	if second := Table(); second[0].Name == "x" || second[0].Methods[0] == "x" || second[0].Paths[0] == "x" {
		t.Errorf("the table was changed: %+v", second[0])
	}
}

// TestCheckHandlers checks that one error names all missing handlers and routes.
func TestCheckHandlers(t *testing.T) {
	table := []Route{{Name: "a"}, {Name: "b"}, {Name: "c"}}
	for _, tt := range []struct{ handlers, err string }{
		{"a b c", ""},
		{"b", "route a has no handler\nroute c has no handler"},
		{"a b c e d", "handler d has no route\nhandler e has no route"},
		{"a c d", "route b has no handler\nhandler d has no route"},
	} {
		err := CheckHandlers(table, slices.Values(strings.Fields(tt.handlers)))
		if err == nil {
			err = errors.New("")
		}
		if err.Error() != tt.err {
			t.Errorf("%s: %q, want %q", tt.handlers, err, tt.err)
		}
	}
}

// TestMatch checks that values of parameters are taken from the encoded path as they are.
func TestMatch(t *testing.T) {
	const pattern = "/r/{namespace}/{group}"
	for path, want := range map[string]string{
		"/r/a/b": "a b", "/r/a%2Fb/%2e%2e": "a%2Fb %2e%2e", "/r//": " ", "/r/a": "no", "/r/a/b/c": "no", "/R/a/b": "no", "/%72/a/b": "no", "r/a/b": "no",
	} {
		values, ok := Match(pattern, path)
		got := strings.Join(values, " ")
		if !ok {
			got = "no"
		}
		if got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
		if ok && Fill(pattern, values) != path {
			t.Errorf("%s: filled as %s", path, Fill(pattern, values))
		}
	}
}
