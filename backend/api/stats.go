package api

import (
	"context"
	"fmt"

	"github.com/prometheus/prometheus/util/stats"

	"github.com/palliumhq/pallium/backend/timing"
)

// renderStats returns the statistics of a query for the response, with the measured times. Like
// Prometheus, it returns none if the parameter stats is empty.
func renderStats(ctx context.Context, s *stats.Statistics, param string) stats.QueryStats {
	if param == "" {
		return nil
	}
	report := timing.Of(ctx).Report()
	return report.Stats(s)
}

type statsKey struct{}

// withStats returns a context that carries the value of the parameter stats if it is deprecated.
func withStats(ctx context.Context, param string) context.Context {
	switch param {
	case "", "true", "all":
		return ctx
	}
	return context.WithValue(ctx, statsKey{}, param)
}

// statsWarning returns Prometheus' warning about a deprecated value of the parameter stats, or nil.
// Prometheus adds this warning only if it renders the statistics itself.
func statsWarning(ctx context.Context) error {
	param, ok := ctx.Value(statsKey{}).(string)
	if !ok {
		return nil
	}
	return fmt.Errorf("value %q for parameter \"stats\" is deprecated and will be rejected in the next major release, use %q or %q",
		param, "true", "all")
}
