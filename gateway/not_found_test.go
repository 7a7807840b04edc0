package gateway

import (
	"strings"
	"testing"

	"github.com/palliumhq/pallium/policies/routes"
)

// TestNotFoundText checks that paths of other products point to Pallium's own.
func TestNotFoundText(t *testing.T) {
	router, err := newRouter(routes.Table(), newOwnHandlers())
	if err != nil {
		t.Fatal(err)
	}
	g := &Gateway{router: router}
	for path, want := range map[string]string{
		"/": "/api/v1/push", "/metrics": "admin listener", "/admin/v1/tenants": "admin listener",
		"/api/prom/api/v1/query": "below /prometheus", "/api/v1/query": "with /prometheus appended", "/api/v1/query_range": "with /prometheus appended",
		"/api/v1/label/job/values": "with /prometheus appended",
	} {
		if got := g.notFoundText(path); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q in it", path, got, want)
		}
	}
	for _, path := range []string{"/x", "/api/v2/query", "/prometheus", "/favicon.ico"} {
		if got := g.notFoundText(path); got != "there is nothing at this path" {
			t.Errorf("%s: %s", path, got)
		}
	}
}
