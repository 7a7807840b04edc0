package series

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// floats is a Column of plain slices.
type floats struct {
	ts  []int64
	vs  []float64
	err error
}

func (f *floats) AppendTo(ts []int64, vs []float64) ([]int64, []float64, error) {
	return append(ts, f.ts...), append(vs, f.vs...), f.err
}

// TestColumnChunks iterates and seeks over columns, XOR chunks and mixtures of
// them, and compares the samples with the original ones.
func TestColumnChunks(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 300 {
		var samples []Sample
		for ts := int64(rng.IntN(1000)); len(samples) < 1+rng.IntN(200); ts += 1 + rng.Int64N(SubChunkMillis/20) {
			samples = append(samples, Sample{T: ts, V: float64(rng.IntN(1000))})
		}
		var chunks []Chunk
		for rest := samples; len(rest) > 0; {
			n := 1 + rng.IntN(len(rest))
			part := rest[:n]
			rest = rest[n:]
			if rng.IntN(2) == 0 {
				encoded, err := Encode(part)
				if err != nil {
					t.Fatal(err)
				}
				chunks = append(chunks, encoded...)
				if rng.IntN(3) > 0 {
					continue // else both forms of the same samples
				}
			}
			col := &floats{}
			for _, s := range part {
				col.ts, col.vs = append(col.ts, s.T), append(col.vs, s.V)
			}
			chunks = append(chunks, Chunk{MinTime: part[0].T, MaxTime: part[n-1].T, Samples: n, Column: col})
		}
		mint, maxt := rng.Int64N(samples[len(samples)-1].T+2), rng.Int64N(samples[len(samples)-1].T+2)
		if mint > maxt {
			mint, maxt = maxt, mint
		}
		checkColumns(t, fmt.Sprintf("round %d", round), samples, chunks, mint, maxt, rng)
	}
}

func checkColumns(t *testing.T, what string, samples []Sample, chunks []Chunk, mint, maxt int64, rng *rand.Rand) {
	t.Helper()
	want := samples
	for len(want) > 0 && want[0].T < mint {
		want = want[1:]
	}
	for len(want) > 0 && want[len(want)-1].T > maxt {
		want = want[:len(want)-1]
	}
	it := IteratorBetween(append([]Chunk(nil), chunks...), mint, maxt, nil)
	for i := 0; ; i++ {
		seek := rng.IntN(4) == 0 && i < len(want)
		var vt chunkenc.ValueType
		if seek {
			i += rng.IntN(len(want) - i)
			vt = it.Seek(want[i].T)
		} else {
			vt = it.Next()
		}
		if vt == chunkenc.ValNone {
			if i != len(want) || it.Err() != nil {
				t.Fatalf("%s: ended after %d of %d samples, error %v", what, i, len(want), it.Err())
			}
			return
		}
		if ts, v := it.At(); i >= len(want) || ts != want[i].T || v != want[i].V {
			t.Fatalf("%s: sample %d = %d %v (seek %v), want %+v", what, i, ts, v, seek, want[min(i, len(want)-1)])
		}
	}
}

func TestColumnError(t *testing.T) {
	broken := errors.New("broken")
	good := Chunk{MinTime: 0, MaxTime: 1, Samples: 2, Column: &floats{ts: []int64{0, 1}, vs: []float64{1, 2}}}
	bad := Chunk{MinTime: 5, MaxTime: 9, Samples: 2, Column: &floats{err: broken}}
	for name, chunks := range map[string][]Chunk{"alone": {bad}, "last": {good, bad}, "merged": {good, bad, bad}} {
		it := Iterator(chunks, nil)
		for it.Next() != chunkenc.ValNone {
			continue
		}
		if !errors.Is(it.Err(), broken) {
			t.Errorf("%s: error %v", name, it.Err())
		}
		it = Iterator(chunks, nil)
		if vt := it.Seek(7); vt != chunkenc.ValNone || !errors.Is(it.Err(), broken) {
			t.Errorf("%s: Seek = %v, error %v", name, vt, it.Err())
		}
	}
}
