// Package model is a model-based test of the whole system. It runs random operations
// against the real binary, as one process or a cluster, and compares each response
// with a small model that knows the rules. docs/testing.md describes it.
package model

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/value"
)

// Value is the value of a sample: a float, an integer histogram or a float histogram.
// A Value is never changed after its creation. The model identifies a write by the
// address of its Value.
type Value struct {
	V  float64
	H  *histogram.Histogram
	FH *histogram.FloatHistogram
}

// Kinds of values, in the order of their precedence.
const (
	kindFloat = iota
	kindFloatHistogram
	kindHistogram
)

func (v *Value) kind() int {
	switch {
	case v.H != nil:
		return kindHistogram
	case v.FH != nil:
		return kindFloatHistogram
	}
	return kindFloat
}

// stale reports whether the value is a staleness marker.
func (v *Value) stale() bool {
	switch {
	case v.H != nil:
		return value.IsStaleNaN(v.H.Sum)
	case v.FH != nil:
		return value.IsStaleNaN(v.FH.Sum)
	}
	return value.IsStaleNaN(v.V)
}

// float returns the histogram with float counts; nil for a float.
func (v *Value) float() *histogram.FloatHistogram {
	if v.H != nil {
		return v.H.ToFloat(nil)
	}
	return v.FH
}

// bucket is a non-empty bucket of a native histogram.
type bucket struct {
	index int32
	count float64
}

// meaning is the content of a native histogram, independent of how its spans are laid
// out.
type meaning struct {
	gauge                    bool
	count, sum               float64
	schema                   int32
	zeroThreshold, zeroCount float64
	positive, negative       []bucket
	custom                   []float64
}

func meaningOf(h *histogram.FloatHistogram) meaning {
	return meaning{gauge: h.CounterResetHint == histogram.GaugeType, count: h.Count, sum: h.Sum, schema: h.Schema,
		zeroThreshold: h.ZeroThreshold, zeroCount: h.ZeroCount,
		positive: bucketsOf(h.PositiveSpans, h.PositiveBuckets), negative: bucketsOf(h.NegativeSpans, h.NegativeBuckets), custom: h.CustomValues}
}

func bucketsOf(spans []histogram.Span, counts []float64) []bucket {
	var out []bucket
	index, at := int32(0), 0
	for _, s := range spans {
		index += s.Offset
		for range s.Length {
			if counts[at] != 0 {
				out = append(out, bucket{index, counts[at]})
			}
			at++
			index++
		}
	}
	return out
}

// staleText is the text of a staleness marker. Markers of all kinds of values are equal.
const staleText = "stale"

// text returns the exact value as text, for responses that contain all of it.
func (v *Value) text() string {
	if v.stale() {
		return staleText
	}
	if v.kind() == kindFloat {
		return fmt.Sprintf("%s(%016x)", formatFloat(v.V), math.Float64bits(v.V))
	}
	m := meaningOf(v.float())
	name := "float histogram"
	if v.H != nil {
		name = "histogram"
	}
	return fmt.Sprintf("%s{gauge:%t count:%s sum:%s(%x) schema:%d zero:%s<=%s +%v -%v custom:%v}", name, m.gauge, formatFloat(m.count),
		formatFloat(m.sum), math.Float64bits(m.sum), m.schema, formatFloat(m.zeroCount), formatFloat(m.zeroThreshold), m.positive, m.negative,
		m.custom)
}

// json returns the value as the JSON of a query shows it, which has only one NaN, and
// one kind of histogram, described by the bounds of its buckets.
func (v *Value) json() string {
	if v.stale() {
		return staleText
	}
	if v.kind() == kindFloat {
		return formatFloat(v.V)
	}
	h := v.float()
	var b strings.Builder
	fmt.Fprintf(&b, "count:%s sum:%s", formatFloat(h.Count), formatFloat(h.Sum))
	for it := h.AllBucketIterator(); it.Next(); {
		if k := it.At(); k.Count != 0 {
			fmt.Fprintf(&b, " %s..%s:%s", formatFloat(k.Lower), formatFloat(k.Upper), formatFloat(k.Count))
		}
	}
	return b.String()
}

func formatFloat(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
