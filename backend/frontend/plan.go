package frontend

import (
	"context"
	"math"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/model/timestamp"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/shard"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/series"
)

const (
	// minSteps is the minimum number of steps of a whole part: each part costs a request to
	// ingesters and index for every selector.
	minSteps = 24
	// maxParts is the maximum number of parts of a query. Longer ranges have wider parts,
	// and are not cached.
	maxParts = 1000
	// retentionMargin is added to the start of a tenant's retention. A part that reads older samples
	// is not cached: whether a sample has expired depends on the clock of the process that reads it.
	retentionMargin = time.Hour
)

// plan describes how a range query is answered, and collects its parts.
type plan struct {
	q        *rangeQuery
	f        *Frontend
	id       tenant.ID
	policy   string
	syntax   string // the switches of PromQL that are on
	shape    split.Shape
	leaves   []*shard.Leaf // of shard.Analyze
	step     int64
	parts    []part
	tasks    []task
	runs     [][]*task    // of tasks that are evaluated together
	answered atomic.Int64 // number of evaluations that succeeded
	cached   bool         // the cache may be used

	versions series.Versions // before the first read; only if cached
	bound    int64           // the first result of versions.Bounds
}

// part is one part of a query and its entry in the cache.
type part struct {
	steps split.Range
	// full is the range of steps that the part would have in a longer query, so that the entry
	// depends on the same data for all queries.
	full split.Range
	// keepable is the range of steps that may be cached; empty if none may be.
	keepable split.Range
	key      string

	kept  *entry // usable entry of the cache; nil if there is none
	tasks []*task
}

// divisible reports whether the query can be divided into parts, by its times and options.
func (q *rangeQuery) divisible(ctx context.Context) bool {
	switch {
	case !whole(q.times.Start), !whole(q.times.End), q.times.End.Before(q.times.Start):
		return false
	case q.times.Step <= 0, q.times.Step%time.Millisecond != 0:
		return false
	}
	return evaluation.Portable(ctx, q.opts)
}

// plan returns the plan for the query, and false if the query must be evaluated as a whole, without
// the cache.
func (q *rangeQuery) plan(ctx context.Context) (*plan, bool) {
	f := q.f
	if !q.divisible(ctx) {
		return nil, false
	}
	syntax := f.o.Syntax(ctx)
	expr, err := f.o.Parsers(syntax).ParseExpr(q.text)
	if err != nil {
		return nil, false // the whole query reports it
	}
	resolved, err := split.Resolve(expr, q.times.Start, q.times.End, q.times.Step)
	if err != nil {
		return nil, false
	}
	access, err := tenant.FromContext(ctx)
	if err != nil {
		return nil, false
	}
	options := f.o.Engine
	options.DelayedNames = syntax.DelayedNameRemoval
	if q.opts != nil && q.opts.LookbackDelta() > 0 {
		options.Lookback = q.opts.LookbackDelta()
	}
	p := &plan{q: q, f: f, id: access.Tenant, policy: access.Policy.String(), syntax: syntax.String(), shape: split.Analyze(resolved, options),
		step: q.times.Step.Milliseconds()}
	if !syntax.DelayedNameRemoval {
		p.leaves = shard.Analyze(resolved.Expr)
	}
	p.divide(timestamp.FromTime(q.times.Start), timestamp.FromTime(q.times.End), options.Lookback)
	p.cached = p.cached && f.o.Cache != nil && !Uncached(ctx)
	if len(p.parts) == 1 && !p.cached && (len(p.leaves) == 0 || f.o.MaxShards < 2) {
		return nil, false
	}
	return p, true
}

// divide sets the parts. A query that cannot be divided is one part, whose cache entry is used only
// for exactly the same range.
func (p *plan) divide(start, end int64, lookback time.Duration) {
	interval := p.shape.Interval()
	if least := minSteps * p.step; least > interval {
		interval *= (least + interval - 1) / interval
	}
	ranges := []split.Range{{Start: start, End: start + (end-start)/p.step*p.step}}
	fixed := !p.shape.Splittable
	if fixed {
		p.f.metrics.whole.Inc()
	} else {
		ranges = split.Parts(start, end, p.step, interval, maxParts)
	}
	_, reads := p.shape.Reads(start, end)
	p.cached = reads && (end-start)/interval < maxParts-1
	for _, r := range ranges {
		full := r
		if !fixed {
			first := floor(r.Start, interval)
			full = split.Range{Start: first, End: first + interval - 1}
		}
		p.parts = append(p.parts, part{steps: r, full: full, keepable: none(), key: p.key(r, interval, lookback, fixed)})
	}
}

// key returns the cache key of a part: everything on which its answer depends, except the data.
func (p *plan) key(r split.Range, interval int64, lookback time.Duration, fixed bool) string {
	b := make([]byte, 0, 160+len(p.q.text))
	put := func(s string) {
		b = strconv.AppendInt(b, int64(len(s)), 10)
		b = append(append(b, ':'), s...)
	}
	number := func(n int64) { put(strconv.FormatInt(n, 10)) }
	put(string(p.id))
	put(p.policy)
	put(p.f.o.Switches)
	put(p.syntax)
	number(lookback.Milliseconds())
	number(p.step)
	number(mod(r.Start, p.step))
	number(interval)
	number(floor(r.Start, interval))
	if fixed || p.shape.DependsOnStep { // of one query only
		number(timestamp.FromTime(p.q.times.Start))
		number(timestamp.FromTime(p.q.times.End))
	}
	put(p.q.text)
	return string(b)
}

// window returns the range of times of the samples on which the full range of a part depends.
func (p *plan) window(part *part) (mint, maxt int64) {
	w, _ := p.shape.Reads(part.full.Start, part.full.End)
	return min(w.After, math.MaxInt64-1) + 1, w.To
}

// lastSample returns the time of the last sample on which any step up to the given one depends.
func (p *plan) lastSample(step int64) int64 {
	last := int64(math.MinInt64)
	if f := p.shape.Fixed; f != nil {
		last = f.To
	}
	if p.shape.Moves {
		last = max(last, step+min(max(p.shape.After, -maxTime), maxTime))
	}
	return last
}

// setKeepable sets which steps of the parts may be cached: steps whose samples are all before
// bound, in parts that read no samples before oldest.
func (p *plan) setKeepable(bound, oldest int64) {
	for i := range p.parts {
		part := &p.parts[i]
		part.keepable = none()
		if mint, _ := p.window(part); mint < oldest {
			continue
		}
		if f := p.shape.Fixed; f != nil && f.To >= bound {
			continue
		}
		last := part.steps.End
		if p.shape.Moves {
			last = min(last, bound-1-min(max(p.shape.After, -maxTime), maxTime))
		}
		if last >= part.steps.Start {
			part.keepable = split.Range{Start: part.steps.Start, End: part.steps.Start + (last-part.steps.Start)/p.step*p.step}
		}
		if !p.shape.Splittable && part.keepable != part.steps {
			part.keepable = none() // all or nothing
		}
	}
}

// none returns an empty range. (The zero Range has one step.)
func none() split.Range { return split.Range{Start: 0, End: -1} }

// whole reports whether a time is a whole number of milliseconds with which the engine can compute.
func whole(t time.Time) bool {
	return t.Nanosecond()%int(time.Millisecond) == 0 && t.UnixMilli() > -lastMilli && t.UnixMilli() < lastMilli
}

// lastMilli is the last millisecond (in the year 2262) whose nanoseconds fit an int64, as the
// engine's arithmetic needs.
const lastMilli = math.MaxInt64 / int64(time.Millisecond)

// maxTime limits times to 140,000 years, so that their sums fit an int64.
const maxTime = int64(1) << 52

// floor returns the largest multiple of b that is not above a.
func floor(a, b int64) int64 { return a - mod(a, b) }

func mod(a, b int64) int64 { return (a%b + b) % b }
