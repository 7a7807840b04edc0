package column

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// sameAsPrometheus compares AppendXOR with Prometheus' decoder: both must
// return the same samples or an error. The exception is a number truncated by
// the end of the chunk, for which Prometheus' decoder makes up bits.
func sameAsPrometheus(t testing.TB, data []byte, it chunkenc.Iterator) chunkenc.Iterator {
	t.Helper()
	ts, vs, err := AppendXOR(data, []int64{5}, []float64{6})
	if len(data) < 2 {
		if err == nil {
			t.Fatalf("AppendXOR accepted a chunk of %d bytes", len(data))
		}
		return it
	}
	c, cerr := chunkenc.FromData(chunkenc.EncXOR, data)
	if cerr != nil {
		t.Fatal(cerr)
	}
	it = c.Iterator(it)
	i := 1
	for it.Next() != chunkenc.ValNone {
		wt, wv := it.At()
		if err == nil && (ts[i] != wt || math.Float64bits(vs[i]) != math.Float64bits(wv)) {
			t.Fatalf("sample %d of %x = (%d, %x), want (%d, %x)", i-1, data, ts[i], math.Float64bits(vs[i]), wt, math.Float64bits(wv))
		}
		i++
	}
	if err != nil && it.Err() == nil {
		longer := append(append([]byte(nil), data...), make([]byte, 20*c.NumSamples())...)
		if _, _, err := AppendXOR(longer, nil, nil); err != nil {
			t.Fatalf("%x: error %v, but none from Prometheus", data, err)
		}
	} else if (it.Err() == nil) != (err == nil) {
		t.Fatalf("%x: error %v, Prometheus' error %v", data, err, it.Err())
	}
	if err != nil {
		i = 1
	}
	if len(ts) != i || len(vs) != i || ts[0] != 5 || vs[0] != 6 {
		t.Fatalf("%x: %d timestamps and %d values, want %d", data, len(ts), len(vs), i)
	}
	return it
}

func TestAppendXOR(t *testing.T) {
	const seed = 9
	rng := rand.New(rand.NewPCG(seed, 0))
	var it chunkenc.Iterator
	for _, jitter := range []int64{0, 5, 9000} {
		ts := scrapeTimes(rng, jitter)
		for _, c := range classes() {
			c.series = 3
			for _, s := range generate(rng, c, ts) {
				for _, data := range xorChunks(t, &s, 1+rng.IntN(960)) {
					it = sameAsPrometheus(t, data, it)
				}
			}
		}
	}
	for range 3000 {
		data := randomXOR(rng)
		it = sameAsPrometheus(t, data, it)
		for range 5 {
			cut := append([]byte(nil), data[:rng.IntN(len(data)+1)]...)
			it = sameAsPrometheus(t, cut, it)
			if len(cut) > 2 {
				cut[2+rng.IntN(len(cut)-2)] ^= byte(1 << rng.IntN(8))
				it = sameAsPrometheus(t, cut, it)
			}
		}
	}
}

// randomXOR returns a chunk with steps and values of every size.
func randomXOR(rng *rand.Rand) []byte {
	c := chunkenc.NewXORChunk()
	app, err := c.Appender()
	if err != nil {
		panic(err)
	}
	at, v := int64(rng.Uint64()), rng.Uint64()
	for range rng.IntN(50) {
		app.Append(0, at, math.Float64frombits(v))
		if rng.IntN(3) > 0 {
			at += int64(rng.Uint64() >> rng.IntN(64))
		}
		if rng.IntN(3) > 0 {
			v ^= rng.Uint64() >> rng.IntN(64) << rng.IntN(64)
		}
	}
	return c.Bytes()
}

func FuzzAppendXOR(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 20 {
		f.Add(randomXOR(rng))
	}
	f.Add([]byte{})
	f.Add(binary.BigEndian.AppendUint16(nil, 0))
	f.Fuzz(func(t *testing.T, data []byte) { sameAsPrometheus(t, data, nil) })
}
