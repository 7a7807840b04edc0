package series

import (
	"cmp"
	"math"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/value"
)

// Wins reports whether a is stored and b discarded when a series has both at
// the same timestamp.
func Wins(a, b *Sample) bool { return Compare(a, b) > 0 }

// Compare orders the values of two samples at the same timestamp of the same
// series; the larger one is stored. The order depends only on the values, not
// on the order of arrival, so all replicas and all levels of storage choose the
// same one. Its keys, in this order:
//
//   - a value beats a staleness marker; staleness markers are equal
//   - an integer histogram beats a float histogram, which beats a float
//   - a number beats NaN, of two NaNs the larger bits win
//   - floats: the larger number, +0 over -0
//   - histograms: gauge over counter, then the larger count, sum, schema, zero
//     threshold, zero count, the buckets as (index, count) without empty ones, and
//     the custom bounds
//
// Two histograms that differ only in their layout of spans, in empty buckets or
// in counter reset hints other than gauge are equal: chunk encoders change
// these.
func Compare(a, b *Sample) int {
	if sa, sb := a.isStale(), b.isStale(); sa || sb {
		return compareBools(!sa, !sb)
	}
	if c := cmp.Compare(a.kind(), b.kind()); c != 0 {
		return c
	}
	switch a.kind() {
	case kindHistogram:
		return compareHistograms(a.H, b.H)
	case kindFloatHistogram:
		return compareFloatHistograms(a.FH, b.FH)
	}
	return compareNumbers(a.V, b.V)
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

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// compareNumbers orders NaNs by their bits, then numbers, with -0 below +0.
func compareNumbers(a, b float64) int {
	if a == b && a != 0 {
		return 0
	}
	if c := compareBools(a == a, b == b); c != 0 { //nolint:gocritic // only a NaN differs from itself
		return c
	}
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	case a == 0:
		return compareBools(!math.Signbit(a), !math.Signbit(b))
	}
	return cmp.Compare(math.Float64bits(a), math.Float64bits(b))
}

// head has the fields of histograms of both kinds that are not counts.
type head struct {
	sum           float64
	schema        int32
	zeroThreshold float64
}

// compareHeads compares sums, schemas and zero thresholds.
func compareHeads(a, b head) int {
	return cmp.Or(compareNumbers(a.sum, b.sum), cmp.Compare(a.schema, b.schema), cmp.Compare(a.zeroThreshold, b.zeroThreshold))
}

func compareHistograms(a, b *histogram.Histogram) int {
	if c := cmp.Or(
		compareBools(a.CounterResetHint == histogram.GaugeType, b.CounterResetHint == histogram.GaugeType),
		cmp.Compare(a.Count, b.Count),
		compareHeads(head{sum: a.Sum, schema: a.Schema, zeroThreshold: a.ZeroThreshold},
			head{sum: b.Sum, schema: b.Schema, zeroThreshold: b.ZeroThreshold}),
		cmp.Compare(a.ZeroCount, b.ZeroCount)); c != 0 {
		return c
	}
	if c := compareBuckets(
		integerBuckets(a.PositiveSpans, a.PositiveBuckets), integerBuckets(b.PositiveSpans, b.PositiveBuckets), cmp.Compare[int64],
	); c != 0 {
		return c
	}
	if c := compareBuckets(
		integerBuckets(a.NegativeSpans, a.NegativeBuckets), integerBuckets(b.NegativeSpans, b.NegativeBuckets), cmp.Compare[int64],
	); c != 0 {
		return c
	}
	return compareBounds(a.CustomValues, b.CustomValues)
}

func compareFloatHistograms(a, b *histogram.FloatHistogram) int {
	if c := cmp.Or(
		compareBools(a.CounterResetHint == histogram.GaugeType, b.CounterResetHint == histogram.GaugeType),
		compareNumbers(a.Count, b.Count),
		compareHeads(head{sum: a.Sum, schema: a.Schema, zeroThreshold: a.ZeroThreshold},
			head{sum: b.Sum, schema: b.Schema, zeroThreshold: b.ZeroThreshold}),
		compareNumbers(a.ZeroCount, b.ZeroCount)); c != 0 {
		return c
	}
	if c := compareBuckets(
		floatBuckets(a.PositiveSpans, a.PositiveBuckets), floatBuckets(b.PositiveSpans, b.PositiveBuckets), compareNumbers,
	); c != 0 {
		return c
	}
	if c := compareBuckets(
		floatBuckets(a.NegativeSpans, a.NegativeBuckets), floatBuckets(b.NegativeSpans, b.NegativeBuckets), compareNumbers,
	); c != 0 {
		return c
	}
	return compareBounds(a.CustomValues, b.CustomValues)
}

// compareBuckets compares lists of nonzero buckets: at the first difference the
// larger index wins, then the larger count; if one list is a prefix of the
// other, the longer one wins.
func compareBuckets[N int64 | float64](a, b func() (int64, N, bool), compare func(N, N) int) int {
	for {
		ai, an, aok := a()
		bi, bn, bok := b()
		if !aok || !bok {
			return compareBools(aok, bok)
		}
		if c := cmp.Or(cmp.Compare(ai, bi), compare(an, bn)); c != 0 {
			return c
		}
	}
}

// integerBuckets returns an iterator over the nonzero buckets of spans; deltas
// are the differences of their counts.
func integerBuckets(spans []histogram.Span, deltas []int64) func() (index, count int64, ok bool) {
	at, count := buckets{spans: spans}, int64(0)
	return func() (int64, int64, bool) {
		for at.next() && at.at < len(deltas) {
			if count += deltas[at.at]; count != 0 {
				return at.index, count, true
			}
		}
		return 0, 0, false
	}
}

// floatBuckets is integerBuckets for absolute float counts.
func floatBuckets(spans []histogram.Span, counts []float64) func() (index int64, count float64, ok bool) {
	at := buckets{spans: spans}
	return func() (int64, float64, bool) {
		for at.next() && at.at < len(counts) {
			if counts[at.at] != 0 {
				return at.index, counts[at.at], true
			}
		}
		return 0, 0, false
	}
}

// compareBounds compares custom bounds in order; if one list is a prefix of the
// other, the longer one wins. It treats -0 and +0 as equal, because chunk
// encoders do not distinguish them in custom bounds and zero thresholds.
func compareBounds(a, b []float64) int {
	for i := range min(len(a), len(b)) {
		if c := cmp.Compare(a[i], b[i]); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}
