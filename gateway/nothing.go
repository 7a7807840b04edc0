package gateway

import (
	"net/http"
	"strings"
)

// nothingAt is the answer to a path that is no route. It tells where users look who
// are used to Prometheus, Cortex and Mimir, and people with a browser.
func (g *Gateway) nothingAt(path string) string {
	const nothing = "there is nothing at this path"
	switch {
	case path == "/":
		return "this is Pallium: Prometheus remote-writes to /api/v1/push, and Grafana's data source (type Prometheus) has the URL " +
			"of this server with /prometheus at the end; the admin API and the overview page are on the admin listener (default 127.0.0.1:9010)"
	case path == "/metrics" || strings.HasPrefix(path, "/admin/"):
		return nothing + ": it is on the admin listener (default 127.0.0.1:9010)"
	case path == "/api/prom/push" || path == "/api/v1/write" || path == "/prometheus/api/v1/write":
		return nothing + ": remote write goes to /api/v1/push"
	case strings.HasPrefix(path, "/api/prom/"):
		return nothing + ": Prometheus' API is below /prometheus"
	}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		if rt, _, _ := g.router.find(method, "/prometheus"+path); rt != nil {
			return nothing + ": Prometheus' API is below /prometheus; a data source in Grafana has the URL of this server " +
				"with /prometheus at the end"
		}
	}
	return nothing
}
