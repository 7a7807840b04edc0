package model

import (
	"math"
	"math/rand"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
)

// Kinds of values that a series gets.
const (
	mixFloats = iota
	mixHistograms
	mixFloatHistograms
	mixBounds // custom bounds
	mixAll
	mixes
)

// newSeries creates the series of a tenant: several metrics, so that rows of an index
// have neighbours, and labels that differ in number.
func newSeries() []*Series {
	var out []*Series
	for i := range 2 * mixes {
		b := labels.NewScratchBuilder(4)
		b.Add(model.MetricNameLabel, []string{"model_a", "model_b", "model_é"}[i%3])
		b.Add("series", string(rune('a'+i)))
		if i%2 == 0 {
			b.Add("even", "yes")
		}
		b.Sort()
		out = append(out, &Series{labels: b.Labels(), mix: i % mixes, cells: map[int64]*cell{}, days: map[int64]bool{}})
	}
	return out
}

// generator creates random samples.
type generator struct {
	rnd     *rand.Rand
	without map[string]bool
}

// chance returns true once in n calls on average.
func (g *generator) chance(n int) bool { return g.rnd.Intn(n) == 0 }

// times are the possible times of a sample.
type times struct {
	now, oldest int64
	known       []int64 // existing times of the series
}

// time picks a time for a sample: in order, out of order, late, at the start and end
// of windows and days, and often an existing time of the series.
func (g *generator) time(ts times) int64 {
	window := int64(2 * time.Hour / time.Millisecond)
	hour := window / 2
	var t int64
	switch n := g.rnd.Intn(20); {
	case n < 6 && len(ts.known) > 0:
		return ts.known[g.rnd.Intn(len(ts.known))]
	case n < 10: // after the last time of the series
		last := ts.now - hour
		if len(ts.known) > 0 {
			last = min(slices.Max(ts.known), ts.now)
		}
		t = last + []int64{1, 1000, 15000, 15001}[g.rnd.Intn(4)]
	case n < 13:
		t = ts.now - g.rnd.Int63n(2*hour)
	case n < 16:
		t = ts.now/window*window - window*int64(g.rnd.Intn(36)) + int64(g.rnd.Intn(3)) - 1
	case n < 17:
		t = ts.now/dayMillis*dayMillis - dayMillis*int64(g.rnd.Intn(3)) + int64(g.rnd.Intn(3)) - 1
	case n < 18 || g.without["late"]:
		t = ts.now - g.rnd.Int63n(3*60*1000)
	default:
		t = ts.now - dayMillis*[]int64{1, 2, 5, 12}[g.rnd.Intn(4)] - g.rnd.Int63n(hour)
	}
	t = min(t, ts.now+60_000)
	if t < ts.oldest {
		t = ts.oldest + g.rnd.Int63n(max(ts.now-ts.oldest, 1))
	}
	return t
}

// value creates a value for a series.
func (g *generator) value(mix int) *Value {
	if mix == mixAll {
		mix = g.rnd.Intn(mixAll)
	}
	switch mix {
	case mixHistograms:
		if h := g.histogram(); !g.staleNow() {
			return &Value{H: h}
		}
		return &Value{H: &histogram.Histogram{Sum: math.Float64frombits(value.StaleNaN)}}
	case mixFloatHistograms:
		if h := g.histogram(); !g.staleNow() {
			return &Value{FH: h.ToFloat(nil)}
		}
		return &Value{FH: &histogram.FloatHistogram{Sum: math.Float64frombits(value.StaleNaN)}}
	case mixBounds:
		if h := g.bounds(); g.chance(2) {
			return &Value{H: h}
		} else {
			return &Value{FH: h.ToFloat(nil)}
		}
	}
	if g.staleNow() {
		return &Value{V: math.Float64frombits(value.StaleNaN)}
	}
	return &Value{V: g.float()}
}

func (g *generator) staleNow() bool { return g.chance(6) && !g.without["stale"] }

// float often returns one of a few numbers, so that values are equal or nearly equal.
// It never returns -0: Prometheus' encoders of remote write and remote read omit
// zeros, and -0 with them.
func (g *generator) float() float64 {
	list := []float64{0, 5, -50, 1e300, -1e-300, 0.1, math.Inf(1), math.Inf(-1)}
	if !g.without["nan"] {
		list = append(list, math.NaN(), math.Float64frombits(0x7ff8000000000007), math.Float64frombits(0xfff8000000000001))
	}
	if g.chance(2) {
		return list[g.rnd.Intn(len(list))]
	}
	return float64(g.rnd.Intn(1000)) / 8
}

// histogram creates a native histogram with exponential buckets. The same histogram
// can have many layouts: buckets may be empty, and spans may be split anywhere.
func (g *generator) histogram() *histogram.Histogram {
	h := &histogram.Histogram{
		Schema:        int32(g.rnd.Intn(3)),
		ZeroThreshold: []float64{0, 0.001}[g.rnd.Intn(2)],
		ZeroCount:     uint64(g.rnd.Intn(3)),
		Sum:           float64(g.rnd.Intn(4)) * 2.5,
	}
	if g.chance(4) {
		h.CounterResetHint = histogram.GaugeType
	}
	var positive, negative uint64
	h.PositiveSpans, h.PositiveBuckets, positive = g.buckets(int32(g.rnd.Intn(5)) - 2)
	if g.chance(3) {
		h.NegativeSpans, h.NegativeBuckets, negative = g.buckets(int32(g.rnd.Intn(3)))
	}
	h.Count = h.ZeroCount + positive + negative
	if g.chance(8) && !g.without["nan"] {
		h.Sum = math.NaN()
	}
	return h
}

// bounds creates a native histogram with custom bounds.
func (g *generator) bounds() *histogram.Histogram {
	h := &histogram.Histogram{
		Schema:       histogram.CustomBucketsSchema,
		CustomValues: []float64{0.1, 0.5, 1, 5, 10, 50},
		Sum:          float64(g.rnd.Intn(4)),
	}
	if g.chance(3) {
		h.CustomValues = []float64{0.1, 0.5, 1, 2, 5, 10, 20, 50}
	}
	h.PositiveSpans, h.PositiveBuckets, h.Count = g.buckets(0)
	return h
}

// buckets creates at most five buckets from an index on, encoded as deltas.
func (g *generator) buckets(first int32) (spans []histogram.Span, deltas []int64, count uint64) {
	last := int64(0)
	for i := range 1 + g.rnd.Intn(5) {
		n := int64(g.rnd.Intn(3)) // 0 is an empty bucket
		switch {
		case i == 0:
			spans = append(spans, histogram.Span{Offset: first, Length: 1})
		case g.chance(3):
			spans = append(spans, histogram.Span{Offset: 0, Length: 1})
		default:
			spans[len(spans)-1].Length++
		}
		deltas = append(deltas, n-last)
		last = n
		count += uint64(n)
	}
	return spans, deltas, count
}

// samples creates the samples of a request: for some series, each at some times. The
// caller must hold the tenant's lock.
func (g *generator) samples(t *Tenant, now time.Time) []Sample {
	var out []Sample
	for range 1 + g.rnd.Intn(4) {
		i := g.rnd.Intn(len(t.series))
		if g.without["conflict"] && slices.ContainsFunc(out, func(s Sample) bool { return s.series == i }) {
			continue // otherwise the request could have two values of the series at one time
		}
		s := t.series[i]
		ts := times{now: now.UnixMilli(), oldest: now.Add(-13 * 24 * time.Hour).UnixMilli()}
		for _, keep := range t.retention {
			if keep > 0 {
				ts.oldest = max(ts.oldest, now.Add(10*time.Minute-keep).UnixMilli())
			}
		}
		for at := range s.cells {
			if at >= ts.oldest {
				ts.known = append(ts.known, at)
			}
		}
		slices.Sort(ts.known)
		out = append(out, g.of(s, i, ts)...)
	}
	return out
}

// of creates the samples of one series in a request, in order.
func (g *generator) of(s *Series, index int, ts times) []Sample {
	var out []Sample
	for range 1 + g.rnd.Intn(5) {
		at := g.time(ts)
		if slices.ContainsFunc(out, func(o Sample) bool { return o.at == at }) {
			continue
		}
		v := g.value(s.mix)
		if c := s.cells[at]; c != nil {
			switch {
			case c.floor != nil && (g.chance(3) || g.without["conflict"]):
				copied := *c.floor
				v = &copied // a duplicate
			case g.without["conflict"]:
				continue
			}
		}
		out = append(out, Sample{index, at, v})
	}
	slices.SortFunc(out, func(a, b Sample) int { return int(a.at - b.at) })
	return out
}
