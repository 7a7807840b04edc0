package querier

import (
	"context"
	"errors"

	"github.com/palliumhq/pallium/authn/tenant"
	evaluations "github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/limits"
)

// limitsKey is the context key of a request's limits.
type limitsKey struct{}

// errNoLimits is returned for a query whose context has no limits.
var errNoLimits = errors.New("internal error: query without tenant limits")

// WithLimits returns a context for the queries of one request. It has the limits that the tenant had
// when the request reached the process, so that the engine and all selections use the same limits.
// They are in the context because Prometheus' API, which calls the engine and the queryable, passes
// on nothing else of a request. lim is not modified.
func WithLimits(ctx context.Context, lim *limits.Limits) context.Context {
	return context.WithValue(ctx, limitsKey{}, lim)
}

// Limits returns the limits of a request; nil if it has none.
func Limits(ctx context.Context) *limits.Limits {
	lim, _ := ctx.Value(limitsKey{}).(*limits.Limits)
	return lim
}

// Switches returns the PromQL switches that the limits of a request turn on.
func Switches(ctx context.Context) switches.Set { return switches.Of(Limits(ctx)) }

// tenantLimits returns the tenant of a request, and its limits.
func tenantLimits(ctx context.Context) (*limits.Limits, tenant.ID, error) {
	access, err := tenant.FromContext(ctx)
	if err != nil {
		return nil, "", err
	}
	lim, ok := ctx.Value(limitsKey{}).(*limits.Limits)
	if !ok {
		return nil, "", errNoLimits
	}
	return lim, access.Tenant, nil
}

// WithPrice returns a context for queries whose cost is counted or estimated; see evaluation.WithPrice.
func WithPrice(ctx context.Context) context.Context { return evaluations.WithPrice(ctx) }
