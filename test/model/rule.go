package model

import (
	"cmp"
	"math"
)

// compare orders the values that one time of one series may have; the larger one
// is kept, in whatever order they arrive. It is the model's own: it shares nothing
// with what it tests. A value beats a staleness marker, an integer histogram a
// float histogram and that a float, a number NaN, and the larger number wins.
// Start timestamps come last; no answer shows them, so the model leaves them out.
func compare(a, b *Value) int {
	if a.stale() || b.stale() {
		return order(!a.stale(), !b.stale())
	}
	if c := cmp.Compare(a.kind(), b.kind()); c != 0 {
		return c
	}
	if a.kind() == kindFloat {
		return compareNumbers(a.V, b.V)
	}
	return compareMeanings(meaningOf(a.float()), meaningOf(b.float()))
}

// order has false below true.
func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// compareNumbers has every NaN below every number, NaNs by their bits, and -0
// below +0.
func compareNumbers(a, b float64) int {
	switch aNaN, bNaN := math.IsNaN(a), math.IsNaN(b); {
	case aNaN && bNaN:
		return cmp.Compare(math.Float64bits(a), math.Float64bits(b))
	case aNaN || bNaN:
		return order(!aNaN, !bNaN)
	case a == 0 && b == 0:
		return order(!math.Signbit(a), !math.Signbit(b))
	}
	return cmp.Compare(a, b)
}

func compareMeanings(a, b meaning) int {
	return cmp.Or(
		order(a.gauge, b.gauge),
		compareNumbers(a.count, b.count),
		compareNumbers(a.sum, b.sum),
		cmp.Compare(a.schema, b.schema),
		compareNumbers(a.zeroThreshold, b.zeroThreshold),
		compareNumbers(a.zeroCount, b.zeroCount),
		compareBuckets(a.positive, b.positive),
		compareBuckets(a.negative, b.negative),
		compareBounds(a.custom, b.custom),
	)
}

func compareBuckets(a, b []bucket) int {
	for i := range min(len(a), len(b)) {
		if c := cmp.Or(cmp.Compare(a[i].index, b[i].index), compareNumbers(a[i].count, b[i].count)); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}

func compareBounds(a, b []float64) int {
	for i := range min(len(a), len(b)) {
		if c := compareNumbers(a[i], b[i]); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}
