package ingester

import (
	"context"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// TestBatchLimits checks that the limits that a batch carries are applied without a
// lookup, and that for a batch without limits, as from another process, the tenant's
// limits are looked up once.
func TestBatchLimits(t *testing.T) {
	b := newBench(t)
	looked, own := 0, limits.Limits{MaxActiveSeries: 1}
	b.ing.opts.Limits = func(tenant.ID) limits.Limits {
		looked++
		return own
	}
	for _, tt := range []struct {
		id       tenant.ID
		carried  *limits.Limits
		rejected int
		looked   int
	}{
		{"carried", &limits.Limits{MaxActiveSeries: 3}, 2, 0},
		{"carried, none", &limits.Limits{}, 0, 0},
		{"own", nil, 4, 1},
	} {
		looked = 0
		out, err := b.ing.Push(context.Background(), &series.Batch{Tenant: tt.id, Limits: tt.carried, Entries: b.some("m", 5)})
		if err != nil || reasons(out)[limits.MaxActiveSeries.Name()] != tt.rejected || looked != tt.looked {
			t.Errorf("%s: %+v, %v after %d lookups; want %d series rejected after %d", tt.id, out, err, looked, tt.rejected, tt.looked)
		}
	}
}
