package gateway

import (
	"net/http"
	"strings"
)

// notFoundText returns the error for a path without a route. For paths of Prometheus, Cortex and
// Mimir, and for the root, it names the path to use instead.
func (g *Gateway) notFoundText(path string) string {
	const nothing = "there is nothing at this path"
	switch {
	case path == "/":
		return "this is Pallium: point Prometheus' remote_write at /api/v1/push, and give a Grafana data source (type Prometheus) the URL " +
			"of this server with /prometheus appended; the admin API and the overview page are on the admin listener (default 127.0.0.1:9010)"
	case path == "/metrics" || strings.HasPrefix(path, "/admin/"):
		return "not found here: it is on the admin listener (default 127.0.0.1:9010)"
	case strings.HasPrefix(path, "/api/prom/"):
		return nothing + ": Prometheus' API is below /prometheus"
	}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		if rt, _, _ := g.router.find(method, "/prometheus"+path); rt != nil {
			return nothing + ": Prometheus' API is below /prometheus; give a Grafana data source the URL of this server " +
				"with /prometheus appended"
		}
	}
	return nothing
}
