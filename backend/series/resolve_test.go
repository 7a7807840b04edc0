package series

import (
	"fmt"
	"math"
	"math/rand"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/value"
)

// layout returns an integer histogram with its buckets in the layout of spans.
func layout(sum float64, spans []histogram.Span, deltas ...int64) *histogram.Histogram {
	h := &histogram.Histogram{Schema: 1, ZeroThreshold: 0.001, ZeroCount: 2, Sum: sum, Count: 2, PositiveSpans: spans, PositiveBuckets: deltas}
	for _, n := range absolute(deltas) {
		h.Count += uint64(n)
	}
	return h
}

func absolute(deltas []int64) []int64 {
	out, n := make([]int64, len(deltas)), int64(0)
	for i, d := range deltas {
		n += d
		out[i] = n
	}
	return out
}

func with(h *histogram.Histogram, change func(*histogram.Histogram)) Sample {
	h = h.Copy()
	change(h)
	return Sample{H: h}
}

// custom returns the histogram with custom bounds.
func custom(bounds ...float64) func(*histogram.Histogram) {
	return func(h *histogram.Histogram) {
		h.Schema, h.ZeroThreshold, h.ZeroCount, h.CustomValues = histogram.CustomBucketsSchema, 0, 0, bounds
	}
}

func asFloats(s Sample, change func(*histogram.FloatHistogram)) Sample {
	fh := s.H.ToFloat(nil)
	change(fh)
	return Sample{FH: fh}
}

// ladder lists values in ascending order of Compare. Those of one rung are
// equal.
func ladder() [][]Sample {
	stale, nan := math.Float64frombits(value.StaleNaN), math.Float64frombits(0x7ff8000000000001)
	one := []histogram.Span{{Offset: 0, Length: 2}}
	base := layout(10, one, 1, 1)
	same := func(*histogram.Histogram) {}
	rungs := [][]Sample{
		{{V: stale}, {H: &histogram.Histogram{Sum: stale}}, {FH: &histogram.FloatHistogram{Sum: stale, Count: 3}}},
		{{V: nan}}, {{V: math.Float64frombits(0xfff8000000000001)}},
		{{V: math.Inf(-1)}}, {{V: -50}}, {{V: math.Copysign(0, -1)}}, {{V: 0}}, {{V: 5}}, {{V: 10}}, {{V: math.Inf(1)}},
	}
	integers := [][]Sample{
		{with(base, func(h *histogram.Histogram) { h.Count-- })},
		{with(base, func(h *histogram.Histogram) { h.Sum = nan })},
		{with(base, func(h *histogram.Histogram) { h.Sum = -4 })},
		{with(base, custom(1, 2))}, {with(base, custom(1, 2, 3))}, {with(base, custom(1, 4))},
		{with(base, func(h *histogram.Histogram) { h.Schema = 0 })},
		{ // an encoder does not keep the sign of the threshold
			with(base, func(h *histogram.Histogram) { h.ZeroThreshold = 0 }),
			with(base, func(h *histogram.Histogram) { h.ZeroThreshold = math.Copysign(0, -1) }),
		},
		{with(base, func(h *histogram.Histogram) { h.ZeroCount = 1 })},
		// Fewer nonzero buckets, then the same count in a later bucket.
		{with(base, func(h *histogram.Histogram) {
			h.PositiveSpans, h.PositiveBuckets = []histogram.Span{{Length: 1}}, []int64{1}
		})},
		{ // one value, in every way to lay it out
			with(base, same),
			with(base, func(h *histogram.Histogram) {
				h.PositiveSpans, h.PositiveBuckets = []histogram.Span{{Length: 4}}, []int64{1, 1, -2, 0}
			}),
			with(base, func(h *histogram.Histogram) {
				h.PositiveSpans, h.PositiveBuckets = []histogram.Span{{Offset: -2, Length: 1}, {Offset: 1, Length: 0}, {Offset: 0, Length: 1}, {Offset: 0, Length: 1}}, []int64{0, 1, 1}
			}),
			with(base, func(h *histogram.Histogram) { h.CounterResetHint = histogram.CounterReset }),
			with(base, func(h *histogram.Histogram) { h.CounterResetHint = histogram.NotCounterReset }),
		},
		{with(base, func(h *histogram.Histogram) {
			h.NegativeSpans, h.NegativeBuckets = []histogram.Span{{Length: 1}}, []int64{1}
		})},
		{with(base, func(h *histogram.Histogram) { h.PositiveBuckets = []int64{1, 2} })},
		{with(base, func(h *histogram.Histogram) { h.PositiveSpans = []histogram.Span{{Length: 1}, {Offset: 1, Length: 1}} })},
		{with(base, func(h *histogram.Histogram) { h.PositiveSpans = []histogram.Span{{Offset: 1, Length: 2}} })},
		{with(base, func(h *histogram.Histogram) { h.Count++; h.Sum = -100 })},
		{with(base, func(h *histogram.Histogram) { h.Count = 1<<53 + 1 }), with(base, func(h *histogram.Histogram) { h.Count = 1<<53 + 1 })},
		{with(base, func(h *histogram.Histogram) { h.Count, h.CounterResetHint = 1, histogram.GaugeType })},
	}
	for _, rung := range integers {
		var as []Sample
		for _, s := range rung {
			as = append(as, asFloats(s, func(*histogram.FloatHistogram) {}))
		}
		rungs = append(rungs, as)
	}
	rungs = append(rungs, []Sample{asFloats(with(base, same), func(h *histogram.FloatHistogram) { h.Count, h.CounterResetHint = 1.5, histogram.GaugeType })})
	return append(rungs, integers...)
}

func TestLadder(t *testing.T) {
	rungs := ladder()
	for i, lower := range rungs {
		for j, upper := range rungs {
			for _, a := range lower {
				for _, b := range upper {
					if got, want := Compare(&a, &b), compareInts(i, j); got < 0 != (want < 0) || got > 0 != (want > 0) {
						t.Errorf("Compare of rung %d %v and rung %d %v = %d, want %d", i, text(&a), j, text(&b), got, want)
					}
				}
			}
		}
	}
	// Counts that are equal as float64.
	a, b := with(layout(1, nil), func(h *histogram.Histogram) { h.Count = 1 << 53 }), with(layout(1, nil), func(h *histogram.Histogram) { h.Count = 1<<53 + 1 })
	if Compare(&a, &b) >= 0 {
		t.Error("a count of 2^53 is not smaller than 2^53+1")
	}
}

func compareInts(a, b int) int { return a - b }

func text(s *Sample) string {
	switch {
	case s.H != nil:
		return fmt.Sprintf("%+v", *s.H)
	case s.FH != nil:
		return fmt.Sprintf("%+v", *s.FH)
	}
	return fmt.Sprintf("%v (%x)", s.V, math.Float64bits(s.V))
}

// TestOneValueWhateverTheWay sends conflicting values to several sources, which
// cut, re-encode and merge them in random order, grouping and repetition: each
// timestamp must have the largest of the values.
func TestOneValueWhateverTheWay(t *testing.T) {
	var pool []Sample
	for _, rung := range ladder() {
		pool = append(pool, rung...)
	}
	for seed := range int64(300) {
		r := rand.New(rand.NewSource(seed))
		best := map[int64]Sample{}
		var sources [][]Chunk
		for range 1 + r.Intn(5) {
			source := map[int64]Sample{}
			for range 1 + r.Intn(80) {
				s := pool[r.Intn(len(pool))]
				s.T = int64(r.Intn(30)) * SubChunkMillis / 20
				for _, kept := range []map[int64]Sample{source, best} {
					if old, ok := kept[s.T]; !ok || Wins(&s, &old) {
						kept[s.T] = s
					}
				}
			}
			sources = append(sources, encodeCut(t, r, source))
		}
		want := sortedByTime(best)
		for range 3 {
			if got := collect(t, Iterator(mergeAnyWay(t, r, sources), nil)); !equalSamples(got, want) {
				t.Fatalf("seed %d: got %d samples, want %d, or other values", seed, len(got), len(want))
			}
		}
	}
}

func sortedByTime(m map[int64]Sample) []Sample {
	var out []Sample
	for _, s := range m {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Sample) int { return int(a.T - b.T) })
	return copySamples(out)
}

// encodeCut encodes samples and cuts chunks at random samples.
func encodeCut(t *testing.T, r *rand.Rand, samples map[int64]Sample) []Chunk {
	t.Helper()
	var b ChunkBuilder
	for _, s := range sortedByTime(samples) {
		if err := b.Add(&s); err != nil {
			t.Fatal(err)
		}
		if r.Intn(6) == 0 {
			b.Cut()
		}
	}
	b.Cut()
	return b.Done()
}

// mergeAnyWay merges random groups of the sources with Normalize, four times, and
// returns the chunks of the sources and of the merged groups in random order.
func mergeAnyWay(t *testing.T, r *rand.Rand, sources [][]Chunk) []Chunk {
	t.Helper()
	groups := slices.Clone(sources)
	for range 4 {
		var joined []Chunk
		for range 1 + r.Intn(3) {
			joined = append(joined, groups[r.Intn(len(groups))]...)
		}
		r.Shuffle(len(joined), func(i, j int) { joined[i], joined[j] = joined[j], joined[i] })
		normal, err := Normalize(slices.Clone(joined))
		if err != nil {
			t.Fatal(err)
		}
		groups = append(groups, normal)
	}
	var all []Chunk
	for _, i := range r.Perm(len(groups)) {
		all = append(all, groups[i]...)
	}
	return all
}
