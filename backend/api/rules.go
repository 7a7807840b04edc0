package api

import "net/http"

// nothingOf returns the handler of a list of the ruler, which does not exist yet: an
// empty one, since clients such as Grafana ask for it and show an error after a 404.
func nothingOf(list string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]any{"status": "success", "data": map[string]any{list: []any{}}})
	}
}
