package model

import (
	"math"
	"math/rand"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/value"
)

// ranked returns values from the smallest to the largest, as docs/duplicate-samples.md
// orders them. TestRule checks the model against this list.
func ranked() []struct {
	name string
	v    *Value
} {
	stale, nan := math.Float64frombits(value.StaleNaN), math.NaN()
	h := func(change func(*histogram.Histogram)) *histogram.Histogram {
		h := &histogram.Histogram{Count: 4, Sum: 10, Schema: 1, ZeroThreshold: 0.001, ZeroCount: 1,
			PositiveSpans: []histogram.Span{{Offset: 0, Length: 2}}, PositiveBuckets: []int64{1, 1}}
		change(h)
		return h
	}
	as := func(change func(*histogram.Histogram)) *Value { return &Value{H: h(change)} }
	return []struct {
		name string
		v    *Value
	}{
		{"staleness marker", &Value{H: &histogram.Histogram{Sum: stale}}},
		{"NaN", &Value{V: nan}},
		{"NaN with larger bits", &Value{V: math.Float64frombits(0xfff8000000000001)}},
		{"-Inf", &Value{V: math.Inf(-1)}},
		{"-50", &Value{V: -50}},
		{"-0", &Value{V: math.Copysign(0, -1)}},
		{"0", &Value{}},
		{"5", &Value{V: 5}},
		{"+Inf", &Value{V: math.Inf(1)}},
		{"float histogram", &Value{FH: h(func(h *histogram.Histogram) { h.Count = 900 }).ToFloat(nil)}},
		{"histogram with a smaller count", as(func(h *histogram.Histogram) { h.Count = 3 })},
		{"sum NaN", as(func(h *histogram.Histogram) { h.Sum = nan })},
		{"smaller sum", as(func(h *histogram.Histogram) { h.Sum = -1 })},
		{"custom bounds", as(func(h *histogram.Histogram) {
			h.Schema, h.CustomValues = histogram.CustomBucketsSchema, []float64{1, 2}
		})},
		{"larger custom bounds", as(func(h *histogram.Histogram) {
			h.Schema, h.CustomValues = histogram.CustomBucketsSchema, []float64{1, 3}
		})},
		{"smaller schema", as(func(h *histogram.Histogram) { h.Schema = 0 })},
		{"smaller zero threshold", as(func(h *histogram.Histogram) { h.ZeroThreshold = 0 })},
		{"smaller zero count", as(func(h *histogram.Histogram) { h.ZeroCount = 0 })},
		{"smaller bucket", as(func(h *histogram.Histogram) { h.PositiveBuckets = []int64{1, 0} })},
		{"histogram", as(func(*histogram.Histogram) {})},
		{"larger index", as(func(h *histogram.Histogram) { h.PositiveSpans[0].Offset = 1 })},
		{"larger negative buckets", as(func(h *histogram.Histogram) {
			h.PositiveSpans[0].Offset = 1
			h.NegativeSpans, h.NegativeBuckets = []histogram.Span{{Length: 1}}, []int64{1}
		})},
		{"larger count", as(func(h *histogram.Histogram) { h.Count = 5 })},
		{"gauge", as(func(h *histogram.Histogram) { h.CounterResetHint = histogram.GaugeType })},
	}
}

func TestRule(t *testing.T) {
	list := ranked()
	for i, a := range list {
		for j, b := range list {
			if got, want := compare(a.v, b.v), order(i > j, j > i); got != want {
				t.Errorf("%s and %s: %d, want %d", a.name, b.name, got, want)
			}
		}
	}
}

// TestEqual checks that differences that recoding introduces are ignored, and that staleness
// markers of every kind are equal.
func TestEqual(t *testing.T) {
	stale := math.Float64frombits(value.StaleNaN)
	one := &histogram.Histogram{Count: 3, Sum: 1, PositiveSpans: []histogram.Span{{Offset: 1, Length: 3}}, PositiveBuckets: []int64{1, -1, 2}}
	cut := &histogram.Histogram{Count: 3, Sum: 1, PositiveSpans: []histogram.Span{{Offset: 0, Length: 2}, {Offset: 1, Length: 1}}, PositiveBuckets: []int64{0, 1, 1},
		CounterResetHint: histogram.CounterReset}
	for name, pair := range map[string][2]*Value{
		"layout":           {{H: one}, {H: cut}},
		"layout of floats": {{FH: one.ToFloat(nil)}, {FH: cut.ToFloat(nil)}},
		"stale histogram":  {{V: stale}, {H: &histogram.Histogram{Sum: stale}}},
		"stale of floats":  {{FH: &histogram.FloatHistogram{Sum: stale}}, {H: &histogram.Histogram{Sum: stale}}},
	} {
		if c := compare(pair[0], pair[1]); c != 0 || pair[0].text() != pair[1].text() {
			t.Errorf("%s: %d; %s and %s", name, c, pair[0].text(), pair[1].text())
		}
	}
}

// TestTextsDiffer checks that values have different texts if compare distinguishes them, so that a
// response with the wrong value is detected.
func TestTextsDiffer(t *testing.T) {
	g := &generator{rnd: rand.New(rand.NewSource(1))}
	var list []*Value
	for _, r := range ranked() {
		list = append(list, r.v)
	}
	for range 300 {
		list = append(list, g.value(mixAll))
	}
	for _, a := range list {
		for _, b := range list {
			if c := compare(a, b); c != -compare(b, a) || (c == 0) != (a.text() == b.text()) {
				t.Fatalf("%s and %s: %d and %d", a.text(), b.text(), c, compare(b, a))
			}
		}
	}
}
