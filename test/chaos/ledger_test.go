package chaos

import (
	"fmt"
	"hash/fnv"
	"math"
	"sync"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
)

// ledger records which samples were sent for one tenant and which were acknowledged. The
// value of a sample follows from its series and time, so times are enough.
type ledger struct {
	tenant string

	mu     sync.Mutex
	series map[string]map[int64]fate // by labels
}

// fate is the outcome of a sample that was sent.
type fate uint8

const (
	sent  fate = iota // in a request without a response, or with a 5xx response
	acked             // in a request with a 2xx response, or counted as written
	never             // reported as rejected: it must not be stored
)

func newLedger(tenant string) *ledger {
	return &ledger{tenant: tenant, series: map[string]map[int64]fate{}}
}

// note records the samples of a request. An acknowledged sample stays acknowledged.
func (l *ledger) note(entries []entry, f fate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range entries {
		key := e.labels.String()
		times := l.series[key]
		if times == nil {
			times = map[int64]fate{}
			l.series[key] = times
		}
		for _, t := range e.times {
			if old, ok := times[t]; !ok || old != acked {
				times[t] = f
			}
		}
	}
}

func (l *ledger) count(f fate) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, times := range l.series {
		for _, have := range times {
			if have == f {
				n++
			}
		}
	}
	return n
}

// sampleKey identifies one sample.
type sampleKey struct {
	series string
	t      int64
}

// ackedKeys returns the samples that were acknowledged so far.
func (l *ledger) ackedKeys() map[sampleKey]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[sampleKey]bool{}
	for series, times := range l.series {
		for t, f := range times {
			if f == acked {
				out[sampleKey{series, t}] = true
			}
		}
	}
	return out
}

// verify fails the test if the samples that were read contradict the ledger.
func (l *ledger) verify(t testing.TB, when string, got []readSeries, excused map[sampleKey]bool) {
	t.Helper()
	if wrong := l.compare(got, excused); wrong.n > 0 {
		t.Errorf("%s, tenant %s: %d faults:\n%s", when, l.tenant, wrong.n, wrong.text)
	}
}

// compare compares the samples that were read with the ledger. Every acknowledged sample must have
// been read, except excused ones. No sample may have been read that was rejected or never sent, and
// every value must be the one that was sent.
func (l *ledger) compare(got []readSeries, excused map[sampleKey]bool) faults {
	l.mu.Lock()
	defer l.mu.Unlock()
	var wrong faults
	read := map[string]map[int64]bool{}
	for _, s := range got {
		key := s.labels.String()
		times, known := l.series[key]
		if !known {
			wrong.add("series %s was never sent", key)
			continue
		}
		if read[key] != nil {
			wrong.add("series %s was read twice", key)
		}
		seen := map[int64]bool{}
		read[key] = seen
		for _, p := range s.points {
			f, ok := times[p.t]
			switch {
			case !ok:
				wrong.add("%s at %d was never sent", key, p.t)
			case f == never:
				wrong.add("%s at %d was rejected but was read", key, p.t)
			case seen[p.t]:
				wrong.add("%s at %d was read twice", key, p.t)
			case !p.right(key):
				wrong.add("%s at %d has the wrong value: %s", key, p.t, p.text(key))
			}
			seen[p.t] = true
		}
	}
	for key, times := range l.series {
		for at, f := range times {
			if f == acked && !read[key][at] && !excused[sampleKey{key, at}] {
				wrong.add("%s at %d was acknowledged but is missing", key, at)
			}
		}
	}
	return wrong
}

// faults counts faults and stores the text of the first few.
type faults struct {
	n    int
	text string
}

func (f *faults) add(format string, args ...any) {
	if f.n++; f.n <= 10 {
		f.text += fmt.Sprintf("  "+format+"\n", args...)
	}
}

// seed returns a number that depends on series and time only.
func seed(series string, t int64) uint64 {
	h := fnv.New64a()
	h.Write([]byte(series))
	for i := range 8 {
		h.Write([]byte{byte(t >> (8 * i))})
	}
	return h.Sum64()
}

// kind is the kind of a sample.
type kind int

const (
	kindFloat kind = iota
	kindInt
	kindFloatHistogram
)

// kindOf returns floats for the series of one metric, histograms for a second metric,
// and a mixture for a third.
func kindOf(ls labels.Labels, t int64) kind {
	switch ls.Get(model.MetricNameLabel) {
	case "chaos_histogram":
		return kindInt
	case "chaos_float_histogram":
		return kindFloatHistogram
	case "chaos_mixed":
		return kind(uint64(t) % 3)
	}
	return kindFloat
}

// floatOf returns the value of a float sample; occasionally it is a special one.
func floatOf(series string, t int64) float64 {
	n := seed(series, t)
	switch n % 97 {
	case 0:
		return math.Inf(1)
	case 1:
		return math.Float64frombits(0x7ff8000000000001) // an ordinary NaN
	case 2:
		return math.SmallestNonzeroFloat64
	}
	return float64(n>>20) / 8
}

func histogramOf(series string, t int64) *histogram.Histogram {
	n := seed(series, t)
	a, b, zero := int64(n%50), int64(n>>8%50), n>>16%20
	return &histogram.Histogram{
		Schema: 2, ZeroThreshold: 0.001, ZeroCount: zero, Count: zero + uint64(a+b), Sum: float64(n % 100000),
		PositiveSpans: []histogram.Span{{Offset: int32(n % 5), Length: 2}}, PositiveBuckets: []int64{a, b - a},
	}
}

// point is one sample that was read.
type point struct {
	t  int64
	v  float64
	h  *histogram.Histogram
	fh *histogram.FloatHistogram
}

type readSeries struct {
	labels labels.Labels
	points []point
}

// right reports whether the sample has the value that was sent. It ignores counter
// reset hints and the layout of empty buckets, which storage may change.
func (p point) right(key string) bool {
	want := histogramOf(key, p.t)
	switch {
	case p.h != nil:
		got := p.h.Copy()
		got.CounterResetHint = want.CounterResetHint
		return got.Compact(0).Equals(want.Compact(0))
	case p.fh != nil:
		got := p.fh.Copy()
		got.CounterResetHint = want.CounterResetHint
		return got.Compact(0).Equals(want.ToFloat(nil).Compact(0))
	}
	return math.Float64bits(p.v) == math.Float64bits(floatOf(key, p.t))
}

func (p point) text(key string) string {
	switch want := histogramOf(key, p.t); {
	case p.h != nil:
		return fmt.Sprintf("%s, want %s", p.h, want)
	case p.fh != nil:
		return fmt.Sprintf("%s, want %s", p.fh, want)
	}
	return fmt.Sprintf("%v, want %v", p.v, floatOf(key, p.t))
}
