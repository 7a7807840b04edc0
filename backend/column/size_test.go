package column

import (
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

const testFrame = 64 << 10

// packed has the frames and timestamp columns that a caller of the encoder
// stores.
type packed struct {
	frames  [][]byte
	columns map[string]bool
	times   [][]byte // of each series
}

func encodeAll(t testing.TB, list []Series) packed {
	t.Helper()
	e := NewEncoder(testDay)
	p := packed{columns: map[string]bool{}}
	var last []byte
	for i := range list {
		times, err := e.Add(&list[i])
		if err != nil {
			t.Fatal(err)
		}
		if times != nil && string(times) != string(last) {
			last = append([]byte(nil), times...)
			p.columns[string(last)] = true
		}
		if times == nil {
			p.times = append(p.times, nil)
		} else {
			p.times = append(p.times, last)
		}
		if e.Size() >= testFrame {
			p.frames = append(p.frames, e.Append(nil))
		}
	}
	if e.Len() > 0 {
		p.frames = append(p.frames, e.Append(nil))
	}
	return p
}

func (p *packed) compressed(z *zstd.Encoder) (n int) {
	for _, f := range p.frames {
		n += len(z.EncodeAll(f, nil))
	}
	for c := range p.columns {
		n += len(z.EncodeAll([]byte(c), nil))
	}
	return n
}

// xorSize returns the size in bytes of the series as Prometheus chunks of 120
// samples.
func xorSize(t testing.TB, list []Series) (n int) {
	t.Helper()
	for _, s := range list {
		var app chunkenc.Appender
		var c *chunkenc.XORChunk
		for i := range s.T {
			if i%120 == 0 {
				if c != nil {
					n += len(c.Bytes())
				}
				c = chunkenc.NewXORChunk()
				var err error
				if app, err = c.Appender(); err != nil {
					t.Fatal(err)
				}
			}
			app.Append(0, s.T[i], s.V[i])
		}
		n += len(c.Bytes())
	}
	return n
}

func TestSize(t *testing.T) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(3)), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, jitter := range []int64{0, 5} {
		rng := rand.New(rand.NewPCG(1, 2))
		ts := scrapeTimes(rng, jitter)
		var all []Series
		for _, c := range classes() {
			list := generate(rng, c, ts)
			p := encodeAll(t, list)
			samples := float64(len(list) * len(ts))
			raw := 0
			for _, f := range p.frames {
				raw += len(f)
			}
			t.Logf("jitter %d, %-20s XOR %.3f, raw %.3f, stored %.3f B/sample", jitter, c.name,
				float64(xorSize(t, list))/samples, float64(raw)/samples, float64(p.compressed(z))/samples)
			all = append(all, list...)
		}
		p := encodeAll(t, all)
		size := float64(p.compressed(z)) / float64(len(all)*len(ts))
		t.Logf("jitter %d, all: XOR %.3f, stored %.3f B/sample", jitter, float64(xorSize(t, all))/float64(len(all)*len(ts)), size)
		if size > 0.75 {
			t.Errorf("jitter %d: %.3f B/sample, want at most 0.75", jitter, size)
		}
	}
}
