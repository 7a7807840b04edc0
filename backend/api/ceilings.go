package api

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql"

	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/policies/limits"
)

// ceilings are the limits that a request sets for itself, as in Prometheus' feature query-cost; 0 =
// no limit. Prometheus' handlers pass them to the engine.
type ceilings struct {
	series, samplesRead uint64
	duration            time.Duration
}

// ceilingsOf reads the ceilings of a request. Values that cannot be parsed are ignored:
// Prometheus' handlers reject them.
func ceilingsOf(form url.Values) ceilings {
	return ceilings{
		series: countOf(form.Get("max_series")), samplesRead: countOf(form.Get("max_samples_read")),
		duration: durationOf(form.Get("max_query_duration")),
	}
}

// countOf parses a number; 0 if it cannot be parsed.
func countOf(text string) uint64 {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// durationOf parses a number of seconds or a duration, as Prometheus' API does; 0 if it cannot
// be parsed or is negative.
func durationOf(text string) time.Duration {
	if seconds, err := strconv.ParseFloat(text, 64); err == nil {
		if n := seconds * float64(time.Second); n > 0 && n < math.MaxInt64 {
			return time.Duration(n)
		}
		return 0
	}
	d, _ := model.ParseDuration(text)
	return time.Duration(d)
}

// check returns an error if a ceiling is above the tenant's limit.
func (c ceilings) check(lim *limits.Limits) error {
	if most := lim.MaxQuerySeries; most > 0 && c.series > uint64(most) {
		return above("max_series", c.series, most)
	}
	if most := lim.MaxQuerySamples; most > 0 && c.samplesRead > uint64(most) {
		return above("max_samples_read", c.samplesRead, most)
	}
	if most := time.Duration(lim.QueryTimeout); most > 0 && c.duration > most {
		return above("max_query_duration", c.duration, most)
	}
	return nil
}

// above returns the error of a ceiling above a limit, with Prometheus' text.
func above(name string, requested, most any) error {
	return badRequest{promql.ErrLimitAboveCeiling{Limit: name, Requested: fmt.Sprint(requested), Ceiling: fmt.Sprint(most)}}
}

// evaluates is the check of admitIf for queries: the query must not be blocked, and its ceilings
// must be within the tenant's limits. max_series and max_query_duration lower the limits of the
// request, so that it ends already when series are selected, or while it waits. The engine compares
// the cost of the whole query with the ceilings.
func (a *api) evaluates(r *http.Request, lim *limits.Limits) (*http.Request, func(), error) {
	c := ceilingsOf(r.Form)
	priced, _ := strconv.ParseBool(r.Form.Get("cost"))
	if c == (ceilings{}) && !priced {
		return a.notBlocked(r, lim)
	}
	return a.bounded(r, lim, c)
}

// estimates is the check of admitIf for estimates of costs. As in Prometheus, the ceiling on series
// does not apply: the estimate counts them.
func (a *api) estimates(r *http.Request, lim *limits.Limits) (*http.Request, func(), error) {
	c := ceilingsOf(r.Form)
	if err := c.check(lim); err != nil {
		return r, nil, err
	}
	return a.bounded(r, lim, ceilings{duration: c.duration}) // also checks that the query is not blocked
}

// bounded checks that the query is not blocked, and returns the request with the ceilings applied to its
// limits and context.
func (a *api) bounded(r *http.Request, lim *limits.Limits, c ceilings) (*http.Request, func(), error) {
	if err := a.blocked.Check(r.Form.Get("query"), lim); err != nil {
		return r, nil, err
	}
	if err := c.check(lim); err != nil {
		return r, nil, err
	}
	lower := *lim
	if c.series > 0 {
		lower.MaxQuerySeries = int(min(c.series, math.MaxInt))
	}
	ctx, stop := r.Context(), func() {}
	if c.duration > 0 {
		lower.QueryTimeout = limits.Duration(c.duration)
		exceeded := limits.QueryTimeout.Exceeded(&lower, limits.More).With(" than max_query_duration of the request")
		ctx, stop = context.WithTimeoutCause(ctx, c.duration, querier.TimedOutAt(exceeded))
	}
	return r.WithContext(querier.WithPrice(querier.WithLimits(ctx, &lower))), stop, nil
}

// notBlocked is a check of admitIf: the query of the request must not be blocked.
func (a *api) notBlocked(r *http.Request, lim *limits.Limits) (*http.Request, func(), error) {
	return r, func() {}, a.blocked.Check(r.Form.Get("query"), lim)
}
