// Package timing measures the time that a read spends in each of its steps, such as queues, the
// index and the engine. A context carries the measurements of a read, and the answer of another
// process contains those of that process. docs/frontend.md explains the numbers to users.
package timing

import (
	"context"
	"math"
	"sync"
	"time"
)

// Kind is what time was spent on. The values are part of the protocol between processes: new kinds
// must be added at the end.
type Kind int

// The kinds. The time of a kind is the sum for all parts of a query. Parts run concurrently, so it can
// be longer than the time of the response.
const (
	Queue      Kind = iota // waiting for one of the tenant's queries to end, or for a slot of a querier
	Cache                  // reading versions and cached results
	Ingesters              // waiting for series of ingesters
	Index                  // waiting for rows of the long-term store: which pages have matching series
	Chunks                 // waiting for samples of the long-term store
	Selecting              // the engine waited for series, from ingesters and the store at the same time
	Engine                 // computing, which includes decoding samples
	Evaluation             // Selecting and Engine
	kinds
)

// maxParts is the maximum number of parts in a Report. Further parts are only counted.
const maxParts = 400

// Part is a range of steps of a range query, or a shard of such a range.
type Part struct {
	Start, End int64 // first and last step, Unix milliseconds
	Cached     bool  // read from the results cache
	Shard      bool  // evaluated for a range of series
	// Queue and Evaluation are the times of these kinds for the part.
	Queue, Evaluation time.Duration
}

// Report is what a Record has measured.
type Report struct {
	Times [kinds]time.Duration
	// Reads is the number of reads of rows and objects of the long-term store, Bytes the number of
	// bytes that were read from objects.
	Reads, Bytes int64
	// Cached and Evaluated are the numbers of steps of range queries that were read from the results
	// cache and that were evaluated.
	Cached, Evaluated int64
	Parts             []Part
	Omitted           int64 // parts that are not in Parts
}

// Of returns the time of a kind.
func (r Report) Of(k Kind) time.Duration { return r.Times[k] }

// Record collects measurements. It is safe for concurrent use. A nil Record measures nothing.
type Record struct {
	now func() time.Time

	mu     sync.Mutex
	report Report
}

// New returns an empty Record with a clock.
func New(now func() time.Time) *Record { return &Record{now: now} }

// Child returns an empty Record with the same clock, for a part of what r measures. See Merge.
func (r *Record) Child() *Record {
	if r == nil {
		return nil
	}
	return New(r.now)
}

type contextKey struct{}

// NewContext returns a context with a Record.
func NewContext(ctx context.Context, r *Record) context.Context {
	return context.WithValue(ctx, contextKey{}, r)
}

// Of returns the Record of a context, or nil.
func Of(ctx context.Context) *Record {
	r, _ := ctx.Value(contextKey{}).(*Record)
	return r
}

// Measure starts a measurement. The function that it returns ends it, adds the time to the kind,
// and returns it.
func (r *Record) Measure(k Kind) (end func() time.Duration) {
	if r == nil {
		return func() time.Duration { return 0 }
	}
	start := r.now()
	return func() time.Duration {
		took := max(r.now().Sub(start), 0)
		r.Add(k, took)
		return took
	}
}

// Add adds a time to a kind.
func (r *Record) Add(k Kind, took time.Duration) {
	if r == nil || took <= 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Times[k] += took
}

// Read counts a read of the long-term store. bytes is the number of bytes read from an object; 0 for
// a read of rows.
func (r *Record) Read(bytes int64) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Reads++
	r.report.Bytes += bytes
}

// Steps counts steps of a range query that were read from the results cache and that were evaluated.
func (r *Record) Steps(cached, evaluated int64) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Cached += cached
	r.report.Evaluated += evaluated
}

// AddPart adds a part.
func (r *Record) AddPart(p Part) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addPart(p)
}

func (r *Record) addPart(p Part) {
	if len(r.report.Parts) >= maxParts {
		r.report.Omitted++
		return
	}
	r.report.Parts = append(r.report.Parts, p)
}

// most is the largest sum, so that two of them together are still a number.
const most = math.MaxInt64 / 2

// sum adds a number of another report, which counts as 0 if it is negative.
func sum[N ~int64](a, b N) N {
	a = min(a, most)
	return a + min(max(b, 0), most-a)
}

// Merge adds a report, for example of another process. Negative numbers count as 0, and no sum
// exceeds most.
func (r *Record) Merge(o Report) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for k := range o.Times {
		r.report.Times[k] = sum(r.report.Times[k], o.Times[k])
	}
	r.report.Reads = sum(r.report.Reads, o.Reads)
	r.report.Bytes = sum(r.report.Bytes, o.Bytes)
	r.report.Cached = sum(r.report.Cached, o.Cached)
	r.report.Evaluated = sum(r.report.Evaluated, o.Evaluated)
	r.report.Omitted = sum(r.report.Omitted, o.Omitted)
	for _, p := range o.Parts {
		p.Queue, p.Evaluation = max(p.Queue, 0), max(p.Evaluation, 0)
		r.addPart(p)
	}
}

// Report returns what was measured so far.
func (r *Record) Report() Report {
	if r == nil {
		return Report{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.report
	out.Parts = append([]Part(nil), r.report.Parts...)
	return out
}
