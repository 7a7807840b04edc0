package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// TestIncompleteInfo checks that the response is 503 instead of an incomplete result, and that the
// text of internal errors is not returned to the tenant.
func TestIncompleteInfo(t *testing.T) {
	for _, err := range []error{fmt.Errorf("ingester-7: %w", peers.ErrTooFew), errors.New("ingester-7: broken")} {
		b := newBackend(t)
		h := newAPI(Options{
			Queryable: querier.NewQueryable(nil, nil, nil), Engine: nil,
			Metadata: func(context.Context, tenant.ID) ([]series.MetricMetadata, error) {
				return []series.MetricMetadata{{Metric: "m"}}, err
			},
			SeriesCount: func(context.Context, tenant.ID) (int, error) { return 5, err },
			Limits:      func(tenant.ID) limits.Limits { return b.lim },
		})
		for _, path := range []string{"/api/v1/user_stats", "/prometheus/api/v1/metadata"} {
			r := httptest.NewRequest(http.MethodGet, path, nil)
			r = r.WithContext(tenant.NewContext(r.Context(), tenant.Access{Tenant: "acme", Policy: tenant.Unrestricted()}))
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || strings.Contains(w.Body.String(), "ingester-7") || strings.Contains(w.Body.String(), "numSeries") {
				t.Errorf("%s after %v: %d %s", path, err, w.Code, w.Body)
			}
		}
	}
}
