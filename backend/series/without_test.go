package series

import (
	"math/rand/v2"
	"testing"

	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

func TestWithout(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for round := range 200 {
		var samples []Sample
		for ts := int64(rng.IntN(1000)); len(samples) < 100; ts += 1 + rng.Int64N(SubChunkMillis/10) {
			samples = append(samples, Sample{T: ts, V: rng.Float64()})
		}
		chunks, err := Encode(samples)
		if err != nil {
			t.Fatal(err)
		}
		last := samples[len(samples)-1].T
		var gone []Interval
		for range rng.IntN(5) {
			a := rng.Int64N(last)
			gone = append(gone, Interval{a, a + rng.Int64N(last/3)})
		}
		if rng.IntN(10) == 0 {
			gone = append(gone, Interval{-1 << 63, 1<<63 - 1})
		}
		var want []Sample
	next:
		for _, s := range samples {
			for _, g := range gone {
				if s.T >= g.Min && s.T <= g.Max {
					continue next
				}
			}
			want = append(want, s)
		}
		left, err := Without(chunks, gone)
		if err != nil {
			t.Fatal(err)
		}
		it, i := Iterator(left, nil), 0
		for ; it.Next() != chunkenc.ValNone; i++ {
			if ts, v := it.At(); i >= len(want) || ts != want[i].T || v != want[i].V {
				t.Fatalf("round %d: sample %d is %d", round, i, ts)
			}
		}
		if it.Err() != nil || i != len(want) {
			t.Fatalf("round %d: %d samples of %d, %v", round, i, len(want), it.Err())
		}
	}
}
