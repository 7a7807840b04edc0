package series

import (
	"math"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/value"
)

// Wins reports whether a is kept when a and b stand at the same timestamp of
// the same series. The order is total and depends on the values alone, so head,
// query and compaction all keep the same one whatever order they see them in:
// a real value beats a staleness marker, a histogram beats a float, an integer
// histogram beats a float histogram, and then the larger one wins (floats by
// their bits, histograms by count, sum and buckets). Equal values: false.
func Wins(a, b *Sample) bool {
	if sa, sb := a.isStale(), b.isStale(); sa != sb {
		return sb
	}
	if ra, rb := a.kind(), b.kind(); ra != rb {
		return ra > rb
	}
	switch a.kind() {
	case kindHistogram:
		return compareHistograms(a.H.ToFloat(nil), b.H.ToFloat(nil)) > 0
	case kindFloatHistogram:
		return compareHistograms(a.FH, b.FH) > 0
	}
	return math.Float64bits(a.V) > math.Float64bits(b.V)
}

const (
	kindFloat = iota
	kindFloatHistogram
	kindHistogram
)

func (s *Sample) kind() int {
	switch {
	case s.H != nil:
		return kindHistogram
	case s.FH != nil:
		return kindFloatHistogram
	}
	return kindFloat
}

func (s *Sample) isStale() bool {
	switch {
	case s.H != nil:
		return value.IsStaleNaN(s.H.Sum)
	case s.FH != nil:
		return value.IsStaleNaN(s.FH.Sum)
	}
	return value.IsStaleNaN(s.V)
}

// Equal reports whether two samples have the same value to the bit; the
// timestamp is not compared.
func Equal(a, b *Sample) bool {
	if a.kind() != b.kind() {
		return false
	}
	switch a.kind() {
	case kindHistogram:
		return a.H.Equals(b.H)
	case kindFloatHistogram:
		return a.FH.Equals(b.FH)
	}
	return math.Float64bits(a.V) == math.Float64bits(b.V)
}

func compareHistograms(a, b *histogram.FloatHistogram) int {
	if c := compareBits(a.Count, b.Count); c != 0 {
		return c
	}
	if c := compareBits(a.Sum, b.Sum); c != 0 {
		return c
	}
	if a.Schema != b.Schema {
		return int(a.Schema) - int(b.Schema)
	}
	if c := compareBits(a.ZeroThreshold, b.ZeroThreshold); c != 0 {
		return c
	}
	if c := compareBits(a.ZeroCount, b.ZeroCount); c != 0 {
		return c
	}
	if c := compareSpans(a.PositiveSpans, b.PositiveSpans); c != 0 {
		return c
	}
	if c := compareSpans(a.NegativeSpans, b.NegativeSpans); c != 0 {
		return c
	}
	if c := compareSlices(a.PositiveBuckets, b.PositiveBuckets); c != 0 {
		return c
	}
	if c := compareSlices(a.NegativeBuckets, b.NegativeBuckets); c != 0 {
		return c
	}
	if c := compareSlices(a.CustomValues, b.CustomValues); c != 0 {
		return c
	}
	return int(a.CounterResetHint) - int(b.CounterResetHint)
}

func compareSpans(a, b []histogram.Span) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	for i := range a {
		if a[i].Offset != b[i].Offset {
			return int(a[i].Offset) - int(b[i].Offset)
		}
		if a[i].Length != b[i].Length {
			return int(int64(a[i].Length) - int64(b[i].Length))
		}
	}
	return 0
}

func compareSlices(a, b []float64) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	for i := range a {
		if c := compareBits(a[i], b[i]); c != 0 {
			return c
		}
	}
	return 0
}

func compareBits(a, b float64) int {
	x, y := math.Float64bits(a), math.Float64bits(b)
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}
