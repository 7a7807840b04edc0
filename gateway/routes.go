package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/palliumhq/pallium/authn/tenant"
)

// kind is what a route does, which decides its limits and how its errors read.
type kind int

const (
	kindRead  kind = iota // errors are Prometheus' JSON
	kindWrite             // errors are plain text: Prometheus logs the first line
	kindOpen              // answered by the gateway, without a credential
	kindLocal             // answered by the gateway, with a credential
)

// Route is one line of the route table: what may be asked, and what for. What
// is not in the table does not exist.
type Route struct {
	Name     string       // for metrics and logs
	Methods  []string     //
	Path     string       // exact; {name} stands for one segment
	Upstream string       // path that the backend is asked for; "" as Path
	Scope    tenant.Scope // "" for open routes
	kind     kind
}

// prefixes under which the query API is served: Mimir's, and Cortex' old one.
// The backend is always asked under the first.
var prefixes = [...]string{"/prometheus", "/api/prom"}

const pushPath = "/api/v1/push"

// Routes returns the whole table, in the order of the documentation.
func Routes() []Route {
	get, getPost, post := []string{http.MethodGet}, []string{http.MethodGet, http.MethodPost}, []string{http.MethodPost}
	getHead := []string{http.MethodGet, http.MethodHead}
	table := []Route{
		{Name: "push", Methods: post, Path: pushPath, Scope: tenant.MetricsWrite, kind: kindWrite},
		{Name: "push", Methods: post, Path: "/api/v1/write", Upstream: pushPath, Scope: tenant.MetricsWrite, kind: kindWrite},
		{Name: "push", Methods: post, Path: "/api/prom/push", Upstream: pushPath, Scope: tenant.MetricsWrite, kind: kindWrite},
	}
	query := []struct {
		name    string
		methods []string
	}{
		{"query", getPost}, {"query_range", getPost}, {"query_exemplars", getPost},
		{"labels", getPost}, {"series", getPost}, {"format_query", getPost}, {"parse_query", getPost},
		{"metadata", get}, {"read", post},
	}
	for _, p := range prefixes {
		for _, q := range query {
			table = append(table, Route{Name: q.name, Methods: q.methods, Path: p + "/api/v1/" + q.name,
				Upstream: prefixes[0] + "/api/v1/" + q.name, Scope: tenant.MetricsRead, kind: kindRead})
		}
		table = append(table,
			Route{Name: "label_values", Methods: get, Path: p + "/api/v1/label/{name}/values",
				Upstream: prefixes[0] + "/api/v1/label/{name}/values", Scope: tenant.MetricsRead, kind: kindRead},
			Route{Name: "delete_series", Methods: []string{http.MethodPost, http.MethodPut}, Path: p + "/api/v1/admin/tsdb/delete_series",
				Upstream: prefixes[0] + "/api/v1/admin/tsdb/delete_series", Scope: tenant.MetricsDelete, kind: kindRead},
			Route{Name: "buildinfo", Methods: get, Path: p + "/api/v1/status/buildinfo", kind: kindOpen},
		)
	}
	return append(table,
		Route{Name: "user_limits", Methods: get, Path: "/api/v1/user_limits", Scope: tenant.MetricsRead, kind: kindLocal},
		Route{Name: "user_stats", Methods: get, Path: "/api/v1/user_stats", Scope: tenant.MetricsRead, kind: kindRead},
		Route{Name: "ready", Methods: getHead, Path: "/ready", kind: kindOpen},
		Route{Name: "ready", Methods: getHead, Path: "/-/ready", kind: kindOpen},
		Route{Name: "healthy", Methods: getHead, Path: "/-/healthy", kind: kindOpen},
	)
}

// router finds the route of a request. chi only matches: it sets nothing in the
// request, where a backend that uses chi too would find it.
type router struct {
	mux    *chi.Mux
	routes map[string]*Route // by method and pattern
	allow  map[string]string // pattern → the Allow header
	all    []string          // every method in the table
}

func newRouter(table []Route) (*router, error) {
	r := &router{mux: chi.NewMux(), routes: map[string]*Route{}, allow: map[string]string{}}
	seen := map[string]bool{}
	for i := range table {
		rt := &table[i]
		if err := checkRoute(rt); err != nil {
			return nil, err
		}
		for j := range table[:i] {
			if overlap(rt.Path, table[j].Path) {
				return nil, fmt.Errorf("routes %s and %s overlap", table[j].Path, rt.Path)
			}
		}
		r.allow[rt.Path] = strings.Join(rt.Methods, ", ")
		for _, m := range rt.Methods {
			r.mux.MethodFunc(m, rt.Path, func(http.ResponseWriter, *http.Request) {})
			r.routes[m+" "+rt.Path] = rt
			if !seen[m] {
				seen[m] = true
				r.all = append(r.all, m)
			}
		}
	}
	return r, nil
}

func checkRoute(r *Route) error {
	if r.Name == "" || len(r.Methods) == 0 || !strings.HasPrefix(r.Path, "/") || strings.Contains(r.Path, "*") {
		return fmt.Errorf("route %q has no name, no methods or no exact path", r.Path)
	}
	if (r.Scope == "") != (r.kind == kindOpen) {
		return errors.New("route " + r.Path + ": only an open route has no scope")
	}
	if r.Scope != "" && !r.Scope.Valid() {
		return fmt.Errorf("route %s: %q is not a scope", r.Path, r.Scope)
	}
	return nil
}

// overlap reports whether some path fits both patterns.
func overlap(a, b string) bool {
	as, bs := strings.Split(a, "/"), strings.Split(b, "/")
	if len(as) != len(bs) {
		return false
	}
	for i := range as {
		param := strings.HasPrefix(as[i], "{") || strings.HasPrefix(bs[i], "{")
		if !param && as[i] != bs[i] {
			return false
		}
	}
	return true
}

// find returns the route, and the path to ask the backend for. Without a route,
// allow names the methods that the path has, "" if it has none.
func (r *router) find(method, path string) (rt *Route, upstream, allow string) {
	rctx := chi.NewRouteContext()
	if pattern := r.mux.Find(rctx, method, path); pattern != "" {
		rt = r.routes[method+" "+pattern]
	}
	if rt != nil {
		if rt.Upstream == "" {
			return rt, path, ""
		}
		if name := rctx.URLParam("name"); name != "" {
			return rt, strings.Replace(rt.Upstream, "{name}", name, 1), ""
		}
		return rt, rt.Upstream, ""
	}
	for _, m := range r.all {
		if m == method {
			continue
		}
		if pattern := r.mux.Find(chi.NewRouteContext(), m, path); pattern != "" {
			return nil, "", r.allow[pattern]
		}
	}
	return nil, "", ""
}
