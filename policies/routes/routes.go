// Package routes is the table of all paths that clients can use. The gateway and the backend's API
// bind their handlers to it by name, and do not start if a handler is missing. For all other paths
// the gateway returns 404.
package routes

import (
	"net/http"
	"slices"
	"strings"

	"github.com/palliumhq/pallium/authn/tenant"
)

// Kind is the kind of a route. It determines the format of its errors and whether it
// requires a credential.
type Kind int

// The kinds of routes.
const (
	Read  Kind = iota + 1 // handled by the backend; errors have Prometheus' JSON format
	Write                 // handled by the backend; errors are plain text, because Prometheus logs the first line
	Open                  // handled by the gateway, without a credential
	Local                 // handled by the gateway, with a credential
)

// Cost determines which of its tenant's budgets a request uses.
type Cost int

// The classes of cost. Each one includes those above it, except that Samples does not
// include Query.
const (
	Free    Cost = iota + 1 // none, because the tenant is unknown
	Request                 // requests_per_second, and bytes_per_second for its body
	Slot                    // one of max_concurrent_requests, and a slot of the gateway's max_in_flight
	Query                   // one of the backend's max_concurrent_queries
	Samples                 // samples_per_second
)

// String returns the name of the class in docs/gateway.md.
func (c Cost) String() string {
	switch c {
	case Free:
		return "none"
	case Request:
		return "request"
	case Slot:
		return "slot"
	case Query:
		return "query"
	case Samples:
		return "samples"
	}
	return "unknown"
}

// Answerer is the component that handles a route.
type Answerer int

// The components that handle routes.
const (
	Gateway    Answerer = iota + 1 // a handler of the gateway
	Backend                        // a handler of the backend's API
	Prometheus                     // Prometheus' own API in the backend, below PrometheusAPI
)

// PrometheusAPI is the path prefix of Prometheus' own API in the backend.
const PrometheusAPI = "/prometheus/api/v1"

// Route is one row of the table.
type Route struct {
	Name    string // unique; binds the handler, and is used in metrics and logs
	Methods []string
	Paths   []string     // exact, except that a parameter matches one segment; the first one is the backend's
	Scope   tenant.Scope // required of the credential; "" for open routes
	Kind    Kind
	Cost    Cost
	By      Answerer
}

// Upstream returns the path of the request to the backend, for all paths of the route. It
// contains the parameters of the client's path.
func (r *Route) Upstream() string { return r.Paths[0] }

// Table returns all routes, in the order of the documentation.
func Table() []Route {
	get, post := []string{http.MethodGet}, []string{http.MethodPost}
	getPost, getHead := []string{http.MethodGet, http.MethodPost}, []string{http.MethodGet, http.MethodHead}
	postPut, remove := []string{http.MethodPost, http.MethodPut}, []string{http.MethodDelete}
	return slices.Concat([]Route{
		{"push", post, pushPaths(), tenant.MetricsWrite, Write, Samples, Backend},

		{"query", getPost, query("query"), tenant.MetricsRead, Read, Query, Prometheus},
		{"query_range", getPost, query("query_range"), tenant.MetricsRead, Read, Query, Prometheus},
		{"query_cost", getPost, query("query_cost"), tenant.MetricsRead, Read, Query, Prometheus},
		{"query_range_cost", getPost, query("query_range_cost"), tenant.MetricsRead, Read, Query, Prometheus},
		{"query_exemplars", getPost, query("query_exemplars"), tenant.MetricsRead, Read, Query, Prometheus},
		{"labels", getPost, query("labels"), tenant.MetricsRead, Read, Query, Prometheus},
		{"series", getPost, query("series"), tenant.MetricsRead, Read, Query, Prometheus},
		{"format_query", getPost, query("format_query"), tenant.MetricsRead, Read, Query, Prometheus},
		{"parse_query", getPost, query("parse_query"), tenant.MetricsRead, Read, Query, Prometheus},
		{"metadata", get, query("metadata"), tenant.MetricsRead, Read, Query, Backend},
		{"read", post, query("read"), tenant.MetricsRead, Read, Query, Prometheus},
		{"label_values", get, query("label/{name}/values"), tenant.MetricsRead, Read, Query, Prometheus},
		{"delete_series", postPut, query("admin/tsdb/delete_series"), tenant.MetricsDelete, Read, Query, Backend},
		{"clean_tombstones", postPut, query("admin/tsdb/clean_tombstones"), tenant.MetricsDelete, Read, Slot, Backend},
		{"tsdb_status", get, query("status/tsdb"), tenant.MetricsRead, Read, Query, Backend},
		{"cardinality_label_names", getPost, query("cardinality/label_names"), tenant.MetricsRead, Read, Query, Backend},
		{"cardinality_label_values", getPost, query("cardinality/label_values"), tenant.MetricsRead, Read, Query, Backend},
		{"cardinality_active_series", getPost, query("cardinality/active_series"), tenant.MetricsRead, Read, Query, Backend},
		{"search_metric_names", getPost, query("search/metric_names"), tenant.MetricsRead, Read, Query, Prometheus},
		{"search_label_names", getPost, query("search/label_names"), tenant.MetricsRead, Read, Query, Prometheus},
		{"search_label_values", getPost, query("search/label_values"), tenant.MetricsRead, Read, Query, Prometheus},
		{"federate", get, []string{"/prometheus/federate", "/api/prom/federate"}, tenant.MetricsRead, Read, Query, Backend},
		{"features", getPost, query("features"), tenant.MetricsRead, Read, Query, Backend},
		{"rules", get, query("rules"), tenant.MetricsRead, Read, Slot, Backend},
		{"alerts", get, query("alerts"), tenant.MetricsRead, Read, Slot, Backend},
		{"rule_namespaces", get, ruleConfig(""), tenant.RulesRead, Read, Slot, Backend},
		{"rule_namespace", get, ruleConfig("/{namespace}"), tenant.RulesRead, Read, Slot, Backend},
		{"rule_group", get, ruleConfig("/{namespace}/{group}"), tenant.RulesRead, Read, Slot, Backend},
		{"set_rule_group", post, ruleConfig("/{namespace}"), tenant.RulesWrite, Read, Slot, Backend},
		{"delete_rule_namespace", remove, ruleConfig("/{namespace}"), tenant.RulesWrite, Read, Slot, Backend},
		{"delete_rule_group", remove, ruleConfig("/{namespace}/{group}"), tenant.RulesWrite, Read, Slot, Backend},
		{"start_rule_backfill", post, ruleConfig("/{namespace}/{group}/backfill"), tenant.RulesWrite, Read, Slot, Backend},
		{"rule_backfill", get, ruleConfig("/{namespace}/{group}/backfill"), tenant.RulesRead, Read, Slot, Backend},
		{"delete_rule_backfill", remove, ruleConfig("/{namespace}/{group}/backfill"), tenant.RulesWrite, Read, Slot, Backend},
	}, alertmanagerRoutes(), []Route{
		{"openapi", get, query("openapi.yaml"), tenant.MetricsRead, Local, Request, Gateway},
		{"buildinfo", get, query("status/buildinfo"), "", Open, Free, Gateway},

		{"user_limits", get, []string{"/api/v1/user_limits"}, tenant.MetricsRead, Local, Request, Gateway},
		{"user_stats", get, []string{"/api/v1/user_stats"}, tenant.MetricsRead, Read, Slot, Backend},
		{"ready", getHead, []string{"/ready", "/-/ready"}, "", Open, Free, Gateway},
		{"healthy", getHead, []string{"/-/healthy"}, "", Open, Free, Gateway},
	})
}

// alertmanagerRoutes returns the routes of tenants' Alertmanagers.
func alertmanagerRoutes() []Route {
	get, post, put := []string{http.MethodGet}, []string{http.MethodPost}, []string{http.MethodPut}
	remove := []string{http.MethodDelete}
	return []Route{
		{"alertmanager_config", get, []string{"/api/v1/alerts"}, tenant.AlertsRead, Read, Slot, Backend},
		{"set_alertmanager_config", post, []string{"/api/v1/alerts"}, tenant.AlertsWrite, Read, Slot, Backend},
		{"delete_alertmanager_config", remove, []string{"/api/v1/alerts"}, tenant.AlertsWrite, Read, Slot, Backend},
		{"alertmanager_attempts", get, []string{"/api/v1/alerts/receivers"}, tenant.AlertsRead, Read, Slot, Backend},
		{"alertmanager_secrets", get, []string{"/api/v1/alerts/secrets"}, tenant.AlertsRead, Read, Slot, Backend},
		{"set_alertmanager_secret", put, []string{"/api/v1/alerts/secrets/{name}"}, tenant.AlertsWrite, Read, Slot, Backend},
		{"delete_alertmanager_secret", remove, []string{"/api/v1/alerts/secrets/{name}"}, tenant.AlertsWrite, Read, Slot, Backend},
		{"alertmanager_page", get, []string{"/alertmanager", "/alertmanager/"}, tenant.AlertsRead, Read, Slot, Backend},
		{"alertmanager_status", get, alertmanager("status"), tenant.AlertsRead, Read, Slot, Backend},
		{"alertmanager_receivers", get, alertmanager("receivers"), tenant.AlertsRead, Read, Slot, Backend},
		{"alertmanager_alerts", get, alertmanager("alerts"), tenant.AlertsRead, Read, Slot, Backend},
		{"alertmanager_push", post, alertmanager("alerts"), tenant.AlertsWrite, Read, Slot, Backend},
		{"alertmanager_groups", get, alertmanager("alerts/groups"), tenant.AlertsRead, Read, Slot, Backend},
		{"silences", get, alertmanager("silences"), tenant.AlertsRead, Read, Slot, Backend},
		{"set_silence", post, alertmanager("silences"), tenant.AlertsWrite, Read, Slot, Backend},
		{"silence", get, alertmanager("silence/{name}"), tenant.AlertsRead, Read, Slot, Backend},
		{"delete_silence", remove, alertmanager("silence/{name}"), tenant.AlertsWrite, Read, Slot, Backend},
		{"alertmanager_buildinfo", get, []string{"/alertmanager/api/v1/status/buildinfo"}, "", Open, Free, Gateway},
	}
}

// pushPaths returns the paths of remote write. Some have the prefix of the query API: Grafana
// derives them from the URL of a data source, for the results of its recording rules.
func pushPaths() []string {
	return slices.Concat([]string{"/api/v1/push", "/api/v1/write", "/api/prom/push"}, query("write"), query("push"))
}

// query returns the paths of a route of the query API: Mimir's, and the old one of
// Cortex.
func query(path string) []string {
	return []string{PrometheusAPI + "/" + path, "/api/prom/api/v1/" + path}
}

// ruleConfig returns the paths of a route of the configuration of rules: Mimir's, the same below the
// old prefix, and Cortex's.
func ruleConfig(path string) []string {
	return []string{"/prometheus/config/v1/rules" + path, "/api/prom/config/v1/rules" + path, "/api/v1/rules" + path, "/api/prom/rules" + path}
}

// alertmanager returns the paths of a route of Alertmanager's API.
func alertmanager(path string) []string { return []string{"/alertmanager/api/v2/" + path} }

// segments splits a path at its slashes.
func segments(path string) []string { return strings.Split(path, "/") }
