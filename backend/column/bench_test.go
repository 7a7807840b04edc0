package column

import (
	"math/rand/v2"
	"testing"

	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

func benchmarkClasses(b *testing.B, jitter int64, run func(b *testing.B, list []Series)) {
	rng := rand.New(rand.NewPCG(1, 2))
	ts := scrapeTimes(rng, jitter)
	var all []Series
	for _, c := range classes() {
		list := generate(rng, c, ts)
		b.Run(c.name, func(b *testing.B) { run(b, list) })
		all = append(all, list...)
	}
	b.Run("all", func(b *testing.B) { run(b, all) })
}

func report(b *testing.B, list []Series) {
	n := 0
	for i := range list {
		n += len(list[i].T)
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds()/1e6, "Msamples/s")
}

func BenchmarkDecode(b *testing.B) { benchmarkClasses(b, 0, decodeBench) }

func BenchmarkDecodeJitter(b *testing.B) { benchmarkClasses(b, 5, decodeBench) }

func decodeBench(b *testing.B, list []Series) {
	p := encodeAll(b, list)
	var ts []int64
	var vs []float64
	for b.Loop() {
		i := 0
		for _, f := range p.frames {
			table, err := Open(f, testDay)
			if err != nil {
				b.Fatal(err)
			}
			for k := range table.Len() {
				if ts, vs, err = table.AppendFloats(k, p.times[i], ts[:0], vs[:0]); err != nil {
					b.Fatal(err)
				}
				i++
			}
		}
	}
	report(b, list)
}

func BenchmarkEncode(b *testing.B) {
	benchmarkClasses(b, 5, func(b *testing.B, list []Series) {
		e := NewEncoder(testDay)
		var payload []byte
		for b.Loop() {
			for i := range list {
				if _, err := e.Add(&list[i]); err != nil {
					b.Fatal(err)
				}
				if e.Size() >= testFrame {
					payload = e.Append(payload[:0])
				}
			}
			payload = e.Append(payload[:0])
		}
		report(b, list)
	})
}

func xorChunks(t testing.TB, s *Series, size int) [][]byte {
	t.Helper()
	var out [][]byte
	for i := 0; i < len(s.T); i += size {
		c := chunkenc.NewXORChunk()
		app, err := c.Appender()
		if err != nil {
			t.Fatal(err)
		}
		for k := i; k < min(i+size, len(s.T)); k++ {
			app.Append(0, s.T[k], s.V[k])
		}
		out = append(out, c.Bytes())
	}
	return out
}

func BenchmarkXOR(b *testing.B) {
	for _, jitter := range []int64{0, 5} {
		rng := rand.New(rand.NewPCG(1, 2))
		ts := scrapeTimes(rng, jitter)
		var all []Series
		var chunks [][]byte
		for _, c := range classes() {
			c.series /= 10
			for _, s := range generate(rng, c, ts) {
				all = append(all, s)
				chunks = append(chunks, xorChunks(b, &s, 120)...)
			}
		}
		name := "aligned"
		if jitter > 0 {
			name = "jitter"
		}
		b.Run(name+"/AppendXOR", func(b *testing.B) {
			var ts []int64
			var vs []float64
			for b.Loop() {
				for _, data := range chunks {
					var err error
					if ts, vs, err = AppendXOR(data, ts[:0], vs[:0]); err != nil {
						b.Fatal(err)
					}
				}
			}
			report(b, all)
		})
		b.Run(name+"/iterator", func(b *testing.B) {
			var ts []int64
			var vs []float64
			var it chunkenc.Iterator
			c := chunkenc.NewXORChunk()
			for b.Loop() {
				for _, data := range chunks {
					ts, vs = ts[:0], vs[:0]
					c.Reset(data)
					for it = c.Iterator(it); it.Next() != chunkenc.ValNone; {
						t, v := it.At()
						ts, vs = append(ts, t), append(vs, v)
					}
				}
			}
			report(b, all)
		})
	}
}
