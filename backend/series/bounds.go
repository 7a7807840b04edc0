package series

import (
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/value"
)

// Bounds of samples that hold for every tenant, whatever its limits: what lies
// within them can be kept by every format and given back by every reader.
// docs/format/bounds.md lists all bounds and says what each is derived from.
const (
	// MaxTime is the last timestamp, the end of the year 2261: PromQL's engine
	// computes in nanoseconds, for which an int64 has room until April 2262.
	MaxTime = int64(9_214_646_399_999)

	// MaxHistogramParts bounds the buckets, the spans and the custom bounds of one
	// native histogram, each. A histogram then takes less than half of a chunk.
	MaxHistogramParts = 1 << 14

	// MaxChunkBytes is the size in bytes at which a chunk is cut. Only native
	// histograms reach it.
	MaxChunkBytes = 1 << 20

	// MaxWindowChunks is how many chunks the samples of one series may begin in a
	// window. An ordinary series begins four.
	MaxWindowChunks = 10_000

	// LateChunks is what an out-of-order sample costs of MaxWindowChunks: it may
	// split a chunk when it is merged with the others.
	LateChunks = 2
)

// Parts counts buckets, spans and custom bounds of a native histogram. A float
// has none.
func (s *Sample) Parts() (buckets, spans, bounds int) {
	switch {
	case s.H != nil:
		return len(s.H.PositiveBuckets) + len(s.H.NegativeBuckets), len(s.H.PositiveSpans) + len(s.H.NegativeSpans), len(s.H.CustomValues)
	case s.FH != nil:
		return len(s.FH.PositiveBuckets) + len(s.FH.NegativeBuckets), len(s.FH.PositiveSpans) + len(s.FH.NegativeSpans), len(s.FH.CustomValues)
	}
	return 0, 0, 0
}

// Continues reports whether a sample surely goes into the chunk of the one
// before it, which is nil when it is not known. It does not look at the size of
// the chunk or at boundaries of time.
func Continues(prev, s *Sample) bool {
	if prev == nil || prev.kind() != s.kind() {
		return false
	}
	switch s.kind() {
	case kindHistogram:
		return continues(prev.H.ToFloat(nil), s.H.ToFloat(nil))
	case kindFloatHistogram:
		return continues(prev.FH, s.FH)
	}
	return true
}

// continues is Continues for two histograms of one kind, by the rules of
// Prometheus' appenders: a change of layout is no reason for a new chunk unless
// a bucket that was used is gone.
func continues(prev, h *histogram.FloatHistogram) bool {
	gauge := h.CounterResetHint == histogram.GaugeType
	switch {
	case gauge != (prev.CounterResetHint == histogram.GaugeType), h.CounterResetHint == histogram.CounterReset:
		return false
	case value.IsStaleNaN(h.Sum):
		return true
	case value.IsStaleNaN(prev.Sum), h.Schema != prev.Schema, h.ZeroThreshold != prev.ZeroThreshold,
		h.UsesCustomBuckets() && !histogram.CustomBucketBoundsMatch(h.CustomValues, prev.CustomValues):
		return false
	case gauge:
		return true
	}
	// Beyond 2^53 a float does not tell whether a count of an integer fell.
	const exact = 1 << 53
	if h.Count >= exact || h.Count < prev.Count || h.ZeroCount < prev.ZeroCount {
		return false
	}
	return grows(prev.PositiveSpans, prev.PositiveBuckets, h.PositiveSpans, h.PositiveBuckets) &&
		grows(prev.NegativeSpans, prev.NegativeBuckets, h.NegativeSpans, h.NegativeBuckets)
}

// grows reports whether no bucket of b is below the one of a with its index. One
// that is not there is 0.
func grows(a []histogram.Span, av []float64, b []histogram.Span, bv []float64) bool {
	ai, bi := buckets{spans: a}, buckets{spans: b}
	bOK := bi.next()
	for ai.next() {
		for bOK && bi.index < ai.index {
			bOK = bi.next()
		}
		count := 0.0
		if bOK && bi.index == ai.index {
			count = bv[bi.at]
		}
		if !(av[ai.at] <= count) { // NaN, too
			return false
		}
	}
	return true
}

// buckets steps through the indexes of the buckets of spans.
type buckets struct {
	spans []histogram.Span
	used  uint32 // of the first span
	index int64
	at    int // place in the list of counts
	begun bool
}

func (b *buckets) next() bool {
	step := int64(1)
	if !b.begun {
		b.at, step = -1, 0
	}
	for len(b.spans) > 0 && (b.used == b.spans[0].Length || !b.begun) {
		if b.begun {
			b.spans = b.spans[1:]
			if len(b.spans) == 0 {
				return false
			}
		}
		b.begun, b.used = true, 0
		step += int64(b.spans[0].Offset)
	}
	if len(b.spans) == 0 {
		return false
	}
	b.index, b.at, b.used = b.index+step, b.at+1, b.used+1
	return true
}
