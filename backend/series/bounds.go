package series

import (
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/value"
)

// Bounds of samples that apply to every tenant, independent of its limits:
// every format can store and every reader can return samples within them.
// docs/format/bounds.md lists all bounds and their derivations.
const (
	// MaxTime is the maximum timestamp in Unix milliseconds, the end of the
	// year 2261: PromQL's engine computes in nanoseconds, which overflow an
	// int64 in April 2262.
	MaxTime = int64(9_214_646_399_999)

	// MaxHistogramParts is the maximum number of buckets, of spans and of
	// custom bounds of a native histogram. Within it, a histogram takes less
	// than half of MaxChunkBytes.
	MaxHistogramParts = 1 << 14

	// MaxChunkBytes is the size in bytes at which a chunk is cut. Only native
	// histograms reach it.
	MaxChunkBytes = 1 << 20

	// MaxWindowChunks is the maximum number of chunks that the samples of one
	// series may start in a window. An ordinary series starts four.
	MaxWindowChunks = 10_000

	// LateChunks is the number of chunks that an out-of-order sample counts
	// against MaxWindowChunks: it may split a chunk when it is merged with the
	// other samples.
	LateChunks = 2
)

// Parts returns the numbers of buckets, spans and custom bounds of a native
// histogram, or zeros for a float.
func (s *Sample) Parts() (buckets, spans, bounds int) {
	switch {
	case s.H != nil:
		return len(s.H.PositiveBuckets) + len(s.H.NegativeBuckets), len(s.H.PositiveSpans) + len(s.H.NegativeSpans), len(s.H.CustomValues)
	case s.FH != nil:
		return len(s.FH.PositiveBuckets) + len(s.FH.NegativeBuckets), len(s.FH.PositiveSpans) + len(s.FH.NegativeSpans), len(s.FH.CustomValues)
	}
	return 0, 0, 0
}

// Continues reports whether the encoder certainly appends s to the chunk of the
// previous sample prev, which is nil if unknown. It ignores cuts by the size of the
// chunk and at sub-chunk boundaries.
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

// continues is Continues for two histograms of one kind. It follows the rules
// of Prometheus' appenders: a change of the bucket layout does not start a new
// chunk unless a used bucket is missing.
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
	// Beyond 2^53, integer counts converted to float64 do not show whether the
	// count decreased.
	const exact = 1 << 53
	if h.Count >= exact || h.Count < prev.Count || h.ZeroCount < prev.ZeroCount {
		return false
	}
	return grows(prev.PositiveSpans, prev.PositiveBuckets, h.PositiveSpans, h.PositiveBuckets) &&
		grows(prev.NegativeSpans, prev.NegativeBuckets, h.NegativeSpans, h.NegativeBuckets)
}

// grows reports whether no bucket of b is smaller than the bucket of a with the
// same index. A missing bucket counts as 0.
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
		if !(av[ai.at] <= count) { // also true for NaN
			return false
		}
	}
	return true
}

// buckets iterates over the bucket indexes of spans.
type buckets struct {
	spans []histogram.Span
	used  uint32 // number of visited buckets of the first span
	index int64
	at    int // position in the list of counts
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
