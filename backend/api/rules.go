package api

import "net/http"

// nothingOf returns a handler that responds with an empty list, for a process without a ruler: clients
// such as Grafana request its lists and show an error after a 404.
func nothingOf(list string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{"status": "success", "data": map[string]any{list: []any{}}})
	}
}
