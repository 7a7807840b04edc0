package querier

import (
	"context"
	"errors"

	"github.com/prometheus/prometheus/promql"

	"github.com/palliumhq/pallium/authn/tenant"
	evaluations "github.com/palliumhq/pallium/backend/frontend/evaluation"
)

// Interrupted returns the result of a query whose context ended before it was answered. The errors
// are those of Prometheus' engine during evaluation, although the query may still have been
// waiting.
func (e *Engine) Interrupted(ctx context.Context) *promql.Result {
	if err := explain(ctx, ctx.Err()); err != nil {
		return e.failed(err)
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &promql.Result{Err: promql.ErrQueryTimeout("expression evaluation")}
	}
	return &promql.Result{Err: promql.ErrQueryCanceled("expression evaluation")}
}

// Unreadable records the error with which another process failed to read data for a query.
func (e *Engine) Unreadable(ctx context.Context, err error) { NoteFault(ctx, err) }

// Request returns the tenant, the policy and the limits of a query.
func (e *Engine) Request(ctx context.Context) (evaluations.Request, error) {
	lim, _, err := tenantLimits(ctx)
	if err != nil {
		return evaluations.Request{}, err
	}
	access, err := tenant.FromContext(ctx)
	return evaluations.Request{Access: access, Limits: *lim, Partial: Partial(ctx)}, err
}
