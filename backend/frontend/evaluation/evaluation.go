// Package evaluation describes evaluations of PromQL that one process requests from
// another: the request, the answer, and the encoding of points and annotations, which the
// results cache uses too. See docs/frontend.md.
package evaluation

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/frontend/queue"
	"github.com/palliumhq/pallium/backend/frontend/shard"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/backend/timing"
	"github.com/palliumhq/pallium/policies/limits"
)

// Request is one evaluation: of an instant query, of a range query, or of some steps of
// a range query.
type Request struct {
	Access tenant.Access
	Limits limits.Limits
	Text   string
	// Times are the times of the whole query. An instant query has no step, and is evaluated at
	// Start.
	Times split.Times
	// Part is the range of steps to evaluate; nil means all.
	Part *split.Range
	// Shard restricts the evaluation of the part to a shard; nil means everything.
	Shard    *shard.Shard
	Lookback time.Duration // 0 = the default
	Class    queue.Class
	Uncached bool // do not use the results cache
	Partial  bool // leave out days of the long-term store that cannot be read
	// Timeout is the time that the query had left when the request was sent; 0 = no limit.
	Timeout time.Duration
	// Alone is set if a querier disappeared during this evaluation: the next querier runs nothing
	// else at the same time.
	Alone bool
}

// Portable reports whether a query with these options can be answered in parts, by another process,
// or with an equal query. It cannot if it wants the statistics of each step, if its cost is
// counted, or if it overrides the setting for start timestamps.
func Portable(ctx context.Context, opts promql.QueryOpts) bool {
	return !Priced(ctx) && (opts == nil || !opts.EnablePerStepStats() && opts.UseStartTimestamps() == nil)
}

type pricedKey struct{}

// WithPrice returns a context for queries whose cost is estimated, or counted as in Prometheus and
// compared with the ceilings of their options (promql.QueryCostOpts). Such a query is evaluated as
// a whole, without the results cache, so that the cost is that of the whole query.
func WithPrice(ctx context.Context) context.Context { return context.WithValue(ctx, pricedKey{}, true) }

// Priced reports whether the context is one of WithPrice.
func Priced(ctx context.Context) bool { return ctx.Value(pricedKey{}) != nil }

// Of returns the request for a query, with the tenant, the policy and the limits of r.
func (r Request) Of(ctx context.Context, opts promql.QueryOpts, text string, times split.Times) Request {
	r.Text, r.Times = text, times
	r.Class = ClassOf(ctx, r.Instant())
	if opts != nil {
		r.Lookback = opts.LookbackDelta()
	}
	return r
}

// Instant reports whether the request is an instant query.
func (r *Request) Instant() bool { return r.Times.Step == 0 }

// CheckSyntax returns an error if the answer was evaluated with other PromQL switches than the
// limits of the request turn on: a process of an older version ignores switches that it does not
// know, and its answer may be wrong.
func (r *Request) CheckSyntax(a *Answer) error {
	want := switches.Of(&r.Limits).String()
	if a.Syntax == want {
		return nil
	}
	return fmt.Errorf("a process of another version evaluated the query with the PromQL switches %q, not %q", a.Syntax, want)
}

// ErrNotSharded is the error of an evaluation of a shard by a process of an older version,
// which ignores the shard and evaluates everything, or of series that must not be divided; see
// shard.Inseparable.
var ErrNotSharded = errors.New("the series of the query could not be divided")

// Answer is the result of an evaluation.
type Answer struct {
	Value parser.Value // nil after an error
	Notes []Note
	// Joinable is set if the annotations can be joined with those of other steps of the
	// same query.
	Joinable bool
	Cost     Cost
	Readers  Readers
	// Switches are the settings of the process that evaluated, as far as they can change answers.
	Switches string
	// Syntax are the PromQL switches that it applied, as text; see switches.Set.String.
	Syntax string
	// Sharded is set if only the shard of the request was evaluated.
	Sharded bool
	Timing  timing.Report // empty from a process of an older version
	Err     error
	// Fault is the error of a failed read of data, or nil. A retry, perhaps by another process, may
	// succeed.
	Fault error
}

// Readers are the ingesters whose samples are in an answer: the ones that answered all of its
// reads. Any is false if the evaluation read nothing from ingesters.
type Readers struct {
	Any bool
	IDs []string // ascending
}

// And returns the readers of two evaluations whose answers are one together.
func (r Readers) And(o Readers) Readers {
	switch {
	case !o.Any:
		return r
	case !r.Any:
		return o
	}
	ids := slices.DeleteFunc(slices.Clone(r.IDs), func(id string) bool { return !slices.Contains(o.IDs, id) })
	return Readers{Any: true, IDs: ids}
}

// Cost is what an evaluation has read.
type Cost struct {
	Series  int64 // selected by the selector that selected most
	Samples int64 // peak number in memory at the same time
	Read    int64 // samples read in total
}

// Report sets the statistics of a query that another process answered.
func (c Cost) Report(q promql.Query) {
	if s := q.Stats(); s != nil && s.Samples != nil {
		s.Samples.TotalSamples, s.Samples.PeakSamples = c.Read, int(c.Samples)
	}
}

// And returns the cost of two evaluations together.
func (c Cost) And(o Cost) Cost {
	return Cost{Series: max(c.Series, o.Series), Samples: max(c.Samples, o.Samples), Read: saturated(c.Read, o.Read)}
}

func saturated(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// Result returns the answer as the result of a query.
func (a *Answer) Result() *promql.Result {
	res := &promql.Result{Value: a.Value, Err: a.Err}
	for _, n := range a.Notes {
		res.Warnings.Add(&storedNote{Note: n, unjoinable: !a.Joinable})
	}
	return res
}

type classKey struct{}

// WithClass returns a context for queries of a class other than that of their kind (instant or range).
func WithClass(ctx context.Context, c queue.Class) context.Context {
	return context.WithValue(ctx, classKey{}, c)
}

// ClassOf returns the class of a query in a context: that of WithClass, or else Instant or Range.
func ClassOf(ctx context.Context, instant bool) queue.Class {
	if c, ok := ctx.Value(classKey{}).(queue.Class); ok {
		return c
	}
	if instant {
		return queue.Instant
	}
	return queue.Range
}

// Key identifies equal queries. It has everything that determines the answer, and whether the query exceeds a
// limit.
type Key struct {
	Access   tenant.Access
	Limits   limits.Limits
	Text     string
	Start    [2]int64 // Unix seconds and nanoseconds of the first and the last step
	End      [2]int64
	Step     time.Duration
	Lookback time.Duration
	Class    queue.Class
}

// Key returns the key of a request.
func (r *Request) Key() Key {
	return Key{Access: r.Access, Limits: r.Limits, Text: r.Text, Start: secondsOf(r.Times.Start), End: secondsOf(r.Times.End),
		Step: r.Times.Step, Lookback: r.Lookback, Class: r.Class}
}

// secondsOf returns a time as seconds and nanoseconds: an int64 of nanoseconds covers only 584 years.
func secondsOf(t time.Time) [2]int64 { return [2]int64{t.Unix(), int64(t.Nanosecond())} }
