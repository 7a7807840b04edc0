package model

import (
	"cmp"
	"math"
)

// compare orders the values that one series may have at one time; the larger one is
// kept, in whatever order they arrive. The model has its own implementation, which
// shares nothing with the code under test. A value beats a staleness marker, an
// integer histogram beats a float histogram, which beats a float, a number beats NaN,
// and the larger number wins. Start timestamps come last; responses do not contain
// them, so the model ignores them.
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

// order sorts false before true.
func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// compareNumbers sorts every NaN below every number, NaNs by their bits, and -0 below
// +0.
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
