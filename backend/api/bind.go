package api

import (
	"maps"
	"net/http"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/api/cardinality"
	"github.com/palliumhq/pallium/policies/routes"
)

// handlers returns the API's own handlers, by route name. prom is Prometheus'
// API, which serves the other routes.
func (a *api) handlers(prom http.Handler) map[string]http.HandlerFunc {
	counts := cardinality.New(cardinality.Options{Queryable: a.Queryable, Parser: a.parser, Head: a.Head, Now: a.Now})
	return map[string]http.HandlerFunc{
		"push":             a.push,
		"query":            a.admitIf(a.evaluates, a.partial(prom)),
		"query_range":      a.admitIf(a.evaluates, a.partial(prom)),
		"query_exemplars":  a.admitIf(a.notBlocked, a.hold(prom)),
		"query_cost":       a.admitIf(a.estimates, prom),
		"query_range_cost": a.admitIf(a.estimates, prom),
		"read":             a.remoteRead(prom),
		"metadata":         a.admit(a.hold(http.HandlerFunc(a.metadata))),
		"delete_series":    a.admit(http.HandlerFunc(a.deleteSeries)),
		"clean_tombstones": a.cleanTombstones,
		"user_stats":       a.userStats,
		"federate":         a.admit(compressed(a.federate)),
		"features":         a.admit(http.HandlerFunc(a.features)),
		"rules":            nothingOf("groups"),
		"alerts":           nothingOf("alerts"),

		"tsdb_status":               a.counted(counts.Status),
		"cardinality_label_names":   a.counted(counts.LabelNames),
		"cardinality_label_values":  a.counted(counts.LabelValues),
		"cardinality_active_series": a.counted(counts.ActiveSeries),
		"search_metric_names":       a.admit(a.searchMetrics(prom)),
	}
}

// bind assigns a handler to every route of the table that backends serve. Routes of roles
// that this process does not have respond with 503.
func (a *api) bind(r chi.Router, table []routes.Route) error {
	var prom http.Handler
	if a.Queryable != nil {
		own, err := a.prometheus(table)
		if err != nil {
			return err
		}
		prom = http.StripPrefix(routes.PrometheusAPI, own)
	}
	handlers := a.handlers(prom)
	for i := range table { // without the handlers of packages rulesapi and alertsapi
		switch rt := &table[i]; rt.Scope {
		case tenant.RulesRead, tenant.RulesWrite:
			handlers[rt.Name] = NotServed("ruler")
		case tenant.AlertsRead, tenant.AlertsWrite:
			handlers[rt.Name] = NotServed(rolesOf(rt))
		}
	}
	maps.Copy(handlers, a.Handlers)
	var forwarded []routes.Route
	for i := range table {
		rt := &table[i]
		if rt.By == routes.Gateway {
			continue
		}
		forwarded = append(forwarded, *rt)
		if handlers[rt.Name] == nil && rt.By == routes.Prometheus {
			handlers[rt.Name] = a.admit(prom)
		}
	}
	if err := routes.CheckHandlers(forwarded, maps.Keys(handlers)); err != nil {
		return err
	}
	for i := range forwarded {
		rt := &forwarded[i]
		for _, method := range rt.Methods {
			if a.serves(rt) {
				r.Method(method, rt.Upstream(), handlers[rt.Name])
			} else {
				r.Method(method, rt.Upstream(), NotServed(rolesOf(rt)))
			}
		}
	}
	return nil
}

// serves reports whether this process has the role that a route needs.
func (a *api) serves(rt *routes.Route) bool {
	switch rt.Cost {
	case routes.Samples:
		return a.Push != nil
	case routes.Query:
		return a.Queryable != nil
	}
	return true
}

// rolesOf returns the names of the roles that serve a route.
func rolesOf(rt *routes.Route) string {
	if rt.Cost == routes.Samples {
		return "distributor"
	}
	return "querier or query-frontend"
}

// NotServed returns the handler of routes that a process does not serve since it lacks a role. A
// request for such a route means that a gateway is configured with the wrong backends. The response
// is 503, because senders of remote write drop their samples after a 404.
func NotServed(roles string) http.HandlerFunc {
	text := "this process does not have the role " + roles + ": correct upstream.urls and upstream.write_urls of the gateway"
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", retryAfter)
		if strings.HasPrefix(r.URL.Path, "/prometheus/") {
			writeError(w, http.StatusServiceUnavailable, "unavailable", text)
			return
		}
		writeText(w, http.StatusServiceUnavailable, text)
	}
}
