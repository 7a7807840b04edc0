package gateway

import (
	"fmt"
	"maps"
	"net/http"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/policies/routes"
)

// Handlers of the routes that the gateway serves itself. An openHandler needs no
// credential; a localHandler gets the limits of the authorized tenant.
type (
	openHandler  func(*exchange) *rejection
	localHandler func(*exchange, *limits.Limits) *rejection
)

// ownHandlers are the gateway's own handlers by the names of their routes.
type ownHandlers struct {
	open  map[string]openHandler
	local map[string]localHandler
}

// boundRoute is a route with its handler. Requests of a route without a handler go to the
// backend.
type boundRoute struct {
	routes.Route
	open  openHandler
	local localHandler
}

// router finds the route of a request. chi only matches paths: nothing is stored in the
// request, where a backend that also uses chi would find it.
type router struct {
	mux    *chi.Mux
	routes map[string]*boundRoute // by method and pattern
	allow  map[string]string      // pattern → the Allow header
	all    []string               // every method in the table

	escaped []escapedPath // matched by findEscaped
}

// newRouter checks the route table and binds the handlers to it.
func newRouter(table []routes.Route, own ownHandlers) (*router, error) {
	if err := routes.Check(table); err != nil {
		return nil, err
	}
	if err := own.check(table); err != nil {
		return nil, fmt.Errorf("bind the gateway's handlers: %w", err)
	}
	r := &router{mux: chi.NewMux(), routes: map[string]*boundRoute{}, allow: map[string]string{}}
	seen := map[string]bool{}
	for i := range table {
		rt := &boundRoute{Route: table[i], open: own.open[table[i].Name], local: own.local[table[i].Name]}
		if rt.Escaped() {
			r.addEscaped(rt)
			continue
		}
		for _, m := range rt.Methods {
			for _, path := range rt.Paths {
				r.mux.MethodFunc(m, path, func(http.ResponseWriter, *http.Request) {})
				r.routes[m+" "+path] = rt
				r.allow[path] = strings.TrimPrefix(r.allow[path]+", "+m, ", ") // the methods of all routes with this path
			}
			if !seen[m] {
				seen[m] = true
				r.all = append(r.all, m)
			}
		}
	}
	return r, nil
}

// check returns an error if a route of the gateway has no handler, or a handler has no route.
func (h *ownHandlers) check(table []routes.Route) error {
	var open, local []routes.Route
	for i := range table {
		switch table[i].Kind {
		case routes.Open:
			open = append(open, table[i])
		case routes.Local:
			local = append(local, table[i])
		}
	}
	if err := routes.CheckHandlers(open, maps.Keys(h.open)); err != nil {
		return err
	}
	return routes.CheckHandlers(local, maps.Keys(h.local))
}

// find returns the route and the path of the request to the backend. If there is no
// route, allow lists the methods that the path supports; it is empty if the path does not
// exist.
func (r *router) find(method, path string) (rt *boundRoute, upstream, allow string) {
	rctx := chi.NewRouteContext()
	if pattern := r.mux.Find(rctx, method, path); pattern != "" {
		rt = r.routes[method+" "+pattern]
	}
	if rt != nil {
		if name := rctx.URLParam("name"); name != "" {
			return rt, strings.Replace(rt.Upstream(), "{name}", name, 1), ""
		}
		return rt, rt.Upstream(), ""
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

// target returns the route of a request and the path to the backend, or rejects a path that proxies
// could interpret in different ways.
func (r *router) target(req *http.Request) (target, *rejection) {
	if f := checkTarget(req); f != nil {
		return target{}, f
	}
	if t, f, ok := r.findEscaped(req); ok {
		return t, f
	}
	if f := checkPath(req); f != nil {
		return target{}, f
	}
	var t target
	t.route, t.path, t.allow = r.find(req.Method, req.URL.Path)
	return t, nil
}
