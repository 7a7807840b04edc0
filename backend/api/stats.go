package api

import (
	"context"
	"fmt"

	"github.com/prometheus/prometheus/util/stats"

	"github.com/palliumhq/pallium/backend/timing"
)

// renderStats returns the statistics of a query for the response, if the parameter stats is not
// empty, as Prometheus does, with where the time went.
func renderStats(ctx context.Context, s *stats.Statistics, param string) stats.QueryStats {
	if param == "" {
		return nil
	}
	report := timing.Of(ctx).Report()
	return report.Stats(s)
}

type statsKey struct{}

// withStats returns a context for a query with a value of the parameter stats.
func withStats(ctx context.Context, param string) context.Context {
	switch param {
	case "", "true", "all":
		return ctx
	}
	return context.WithValue(ctx, statsKey{}, param)
}

// statsWarning returns the warning with which Prometheus answers values of the parameter stats
// that it will reject. It returns none itself because the statistics are rendered here.
func statsWarning(ctx context.Context) error {
	param, ok := ctx.Value(statsKey{}).(string)
	if !ok {
		return nil
	}
	return fmt.Errorf("value %q for parameter \"stats\" is deprecated and will be rejected in the next major release, use %q or %q",
		param, "true", "all")
}
