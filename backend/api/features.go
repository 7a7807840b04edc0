package api

import (
	"net/http"
	"slices"

	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/prometheus/prometheus/util/features"

	"github.com/palliumhq/pallium/policies/routes"
)

// features implements Prometheus' endpoint features. An absent feature counts as false. The PromQL
// engine registers its features, with the switches of the tenant; the features of the API follow
// from the route table.
func (a *api) features(w http.ResponseWriter, r *http.Request) {
	has := features.NewRegistry()
	if a.Features != nil {
		a.Features(r.Context(), has)
	}
	apiFeatures(has, routes.Table())
	has.Set(features.API, "ruler_config_api", a.Handlers["set_rule_group"] != nil)
	writeJSON(w, http.StatusOK, map[string]any{"status": "success", "data": has.Get()})
}

// apiFeatures sets in r the features that the routes of the table offer, and native histograms.
func apiFeatures(r features.Collector, table []routes.Route) {
	has := func(paths ...string) bool {
		for _, p := range paths {
			if !slices.ContainsFunc(table, func(rt routes.Route) bool { return slices.Contains(rt.Paths, routes.PrometheusAPI+p) }) {
				return false
			}
		}
		return true
	}
	for name, paths := range map[string][]string{
		"query_warnings":        {"/query", "/query_range"},
		"query_stats":           {"/query", "/query_range"},
		"label_values_match":    {"/label/{name}/values"},
		"time_range_labels":     {"/labels", "/label/{name}/values"},
		"time_range_series":     {"/series"},
		"remote_write_receiver": {"/write"},
		"otlp_write_receiver":   {"/otlp/v1/metrics"},
		"query_cost":            {"/query_cost", "/query_range_cost"},
		"openapi_3.1":           {"/openapi.yaml"},
		"admin":                 {"/admin/tsdb/delete_series", "/admin/tsdb/clean_tombstones", "/admin/tsdb/snapshot"},
	} {
		r.Set(features.API, name, has(paths...))
	}
	search := has("/search/metric_names", "/search/label_names", "/search/label_values")
	r.Set(features.API, "search", search)
	for _, alg := range v1.FuzzAlgorithms() {
		r.Set(features.API, "search_fuzz_alg_"+alg, search)
	}
	r.Enable(features.TSDB, "native_histograms")
	r.Set(features.TSDB, "exemplar_storage", has("/query_exemplars"))
}
