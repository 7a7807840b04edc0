package column

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/palliumhq/pallium/backend/series"
)

func FuzzOpen(f *testing.F) {
	rng := rand.New(rand.NewPCG(2, 2))
	for range 10 {
		list := []Series{randomSeries(rng), randomSeries(rng)}
		list = append(list, neighbour(rng, list[1]))
		list[0].Histograms = histogramChunks(f, rng)
		p := encodeAll(f, list)
		f.Add(p.frames[0], p.times[1])
	}
	f.Fuzz(func(t *testing.T, payload, times []byte) {
		all := [][]byte{times, times, times, times}
		decodeAny(t, payload, all)
		var r timesReader
		if r.openColumn(times) == nil && r.n < 1<<20 {
			if n, err := checkTimes(times); err == nil && n != r.n {
				t.Fatalf("decoded %d timestamps, the header has %d", n, r.n)
			}
		}
	})
}

// FuzzRoundTrip encodes and decodes series with arbitrary steps and value bits.
// Some values are small integers, decimals or equal to the previous value.
func FuzzRoundTrip(f *testing.F) {
	rng := rand.New(rand.NewPCG(3, 3))
	for range 10 {
		b := make([]byte, rng.IntN(2000))
		for i := range b {
			b[i] = byte(rng.Uint64() >> rng.IntN(8))
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var list []Series
		for len(b) > 0 && len(list) < 20 {
			var s Series
			n := int(b[0]) * int(b[0])
			b = b[1:]
			at, v := testStart-1, 0.0
			for len(s.T) < n && len(b) >= 2 {
				step := int64(b[0]>>3) + 1
				if b[0]>>3 == 31 {
					step = int64(b[1]) << 12
				}
				kind, arg := b[0]&7, float64(b[1])
				b = b[2:]
				switch kind {
				case 0:
				case 1:
					v += arg
				case 2:
					v = arg
				case 3:
					v = math.Round(v*10+arg) / 10
				case 4:
					v = (arg - 128) / 1000
				case 5:
					v = odd()[int(arg)%len(odd())]
				case 6:
					v *= arg
				case 7:
					if len(b) >= 8 {
						v = math.Float64frombits(binary.LittleEndian.Uint64(b))
						b = b[8:]
					}
				}
				if at += max(step, 1); at >= testStart+series.DayMillis {
					break
				}
				s.T, s.V = append(s.T, at), append(s.V, v)
			}
			list = append(list, s)
		}
		decodeAll(t, encodeAll(t, list), list)
	})
}
