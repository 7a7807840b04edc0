package querier

import (
	"context"
	"errors"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/limits"
)

// limitsKey is that of a request's limits in its context.
type limitsKey struct{}

// errNoLimits is the error of a query whose context has no limits.
var errNoLimits = errors.New("the context of a query carries no limits")

// WithLimits returns a context for the queries of one request, with the limits of its
// tenant as they were when it reached the process: the engine and everything that it
// selects go by the same. A context has them since Prometheus' API is between the
// request and the engine, the queryable and its queriers, and hands on nothing else.
// lim is not changed.
func WithLimits(ctx context.Context, lim *limits.Limits) context.Context {
	return context.WithValue(ctx, limitsKey{}, lim)
}

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
