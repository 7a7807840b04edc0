package series

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/value"
)

// TestContinues compares Continues with the encoder: it must not return true
// for a sample with which the encoder starts a new chunk.
func TestContinues(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 1))
	promised := 0
	for round := range 20_000 {
		a, b := randomSample(rng, 1000), randomSample(rng, 2000)
		says := Continues(&a, &b)
		text := fmt.Sprintf("round %d: %v %v, then %v %v", round, a.H, a.FH, b.H, b.FH)
		chunks, err := Encode([]Sample{a, b})
		if err != nil {
			t.Fatal(err)
		}
		if says && len(chunks) > 1 {
			t.Fatalf("%s: Continues is true, but the encoder made %d chunks", text, len(chunks))
		}
		if says {
			promised++
		}
	}
	if promised < 1000 {
		t.Errorf("only %d of 20,000 pairs continue, too few for a meaningful test", promised)
	}
}

// randomSample returns samples that often continue a chunk and often do not.
func randomSample(rng *rand.Rand, at int64) Sample {
	kind := rng.IntN(8)
	if kind == 0 {
		return Sample{T: at, V: 1}
	}
	h := &histogram.Histogram{Schema: int32(rng.IntN(8) / 7), ZeroThreshold: []float64{0.001, 0.001, 0.001, 1e300}[rng.IntN(4)], ZeroCount: uint64(rng.IntN(3) / 2)}
	h.CounterResetHint = []histogram.CounterResetHint{0, 0, 0, 1, 2, 3, 3}[rng.IntN(7)]
	h.Count = h.ZeroCount
	last, index := int64(0), int32(0)
	for range rng.IntN(4) {
		span := histogram.Span{Offset: int32(rng.IntN(2)), Length: uint32(rng.IntN(3))}
		index += span.Offset
		h.PositiveSpans = append(h.PositiveSpans, span)
		for range span.Length {
			n := int64(rng.IntN(3)) * (at / 1000)
			if rng.IntN(50) == 0 {
				n += 1 << 60
			}
			h.PositiveBuckets = append(h.PositiveBuckets, n-last)
			last = n
			h.Count += uint64(n)
		}
	}
	switch rng.IntN(12) {
	case 0:
		h.Sum = math.Float64frombits(value.StaleNaN)
	case 1:
		h.Schema, h.CustomValues, h.ZeroThreshold, h.ZeroCount = histogram.CustomBucketsSchema, []float64{1, 2 + float64(rng.IntN(2)), 3, 4, 5, 6, 7, 8, 9, 10}, 0, 0
	}
	if kind < 3 {
		return Sample{T: at, FH: h.ToFloat(nil)}
	}
	return Sample{T: at, H: h}
}

// TestChunksAreCutByBytes checks that the encoder cuts histogram chunks at
// MaxChunkBytes, and that the chunks count all samples.
func TestChunksAreCutByBytes(t *testing.T) {
	for _, float := range []bool{false, true} {
		rng := rand.New(rand.NewPCG(5, 5))
		var in []Sample
		for i := range 40 {
			h := &histogram.Histogram{CounterResetHint: histogram.GaugeType, PositiveSpans: []histogram.Span{{Length: MaxHistogramParts}}}
			for range MaxHistogramParts {
				h.PositiveBuckets = append(h.PositiveBuckets, int64(rng.Uint64()>>2)-1<<60)
			}
			s := Sample{T: int64(i) * 1000, H: h}
			if float {
				s = Sample{T: s.T, FH: h.ToFloat(nil)}
			}
			in = append(in, s)
		}
		chunks, err := Encode(in)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, c := range chunks {
			n += c.Samples
			if len(c.Data) > MaxChunkBytes*3/2 {
				t.Errorf("float=%v: chunk has %d bytes and %d samples, want a cut at %d bytes", float, len(c.Data), c.Samples, MaxChunkBytes)
			}
		}
		if n != len(in) || len(chunks) > 12 {
			t.Errorf("float=%v: %d samples in %d chunks, want %d samples in few chunks", float, n, len(chunks), len(in))
		}
	}
}
