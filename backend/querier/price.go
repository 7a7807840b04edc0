package querier

import (
	"context"
	"errors"
	"strconv"

	"github.com/prometheus/prometheus/promql"

	evaluations "github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/policies/limits"
)

// promqlEngine returns the engine that evaluates a query of the context. An engine that counts
// costs is created for each query: it is cheap, has no state but metrics, and has the timeout of
// the request.
func (e *Engine) promqlEngine(ctx context.Context, lim *limits.Limits) *promql.Engine {
	if !evaluations.Priced(ctx) {
		return e.engine(lim)
	}
	o := e.options(engineKeyOf(lim))
	o.EnableQueryCost = true
	return promql.NewEngine(o)
}

// overCeiling returns the error for the client if err says that the query exceeded a ceiling of its
// request, either in the engine or in a selection whose limit the ceiling has lowered. It returns
// nil for other errors.
func overCeiling(opts promql.QueryOpts, err error) error {
	asked, ok := opts.(promql.QueryCostOpts)
	if !ok {
		return nil
	}
	var tooManySeries promql.ErrTooManySeries
	var tooManySamples promql.ErrTooManySamplesRead
	var exceeded *limits.Exceeded
	switch {
	case errors.As(err, &tooManySeries),
		asked.MaxSeries() > 0 && errors.As(err, &exceeded) && exceeded.Of(limits.MaxQuerySeries):
		return ceilingError{limits.ExceededSetting("max_series", strconv.FormatUint(asked.MaxSeries(), 10)+" series",
			"the selectors of the query select more together", "select fewer series, or request a higher ceiling"), tooManySeries}
	case errors.As(err, &tooManySamples):
		return ceilingError{limits.ExceededSetting("max_samples_read", strconv.FormatUint(asked.MaxSamplesRead(), 10)+" samples",
			"the query reads more", "select fewer series or a shorter range, or request a higher ceiling"), tooManySamples}
	}
	return nil
}

// ceilingError has the text of an exceeded limit, and wraps an error for which Prometheus' API
// responds with errorType cost_limit.
type ceilingError struct {
	exceeded *limits.Exceeded
	cost     error
}

func (e ceilingError) Error() string   { return e.exceeded.Error() }
func (e ceilingError) Unwrap() []error { return []error{e.exceeded, e.cost} }
