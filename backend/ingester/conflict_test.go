package ingester

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/value"

	"github.com/palliumhq/pallium/backend/series"
)

// largest is the expected content of series: the winning sample at each timestamp.
type largest map[string]map[int64]series.Sample

func (l largest) take(e *series.Entry) {
	key := e.Labels.String()
	if l[key] == nil {
		l[key] = map[int64]series.Sample{}
	}
	for _, s := range e.Samples {
		if old, ok := l[key][s.T]; !ok || series.Wins(&s, &old) {
			if s.H != nil {
				s.H = s.H.Copy()
			}
			if s.FH != nil {
				s.FH = s.FH.Copy()
			}
			l[key][s.T] = s
		}
	}
}

func (l largest) sorted() map[string][]series.Sample {
	out := map[string][]series.Sample{}
	for key, byTime := range l {
		for _, s := range byTime {
			out[key] = append(out[key], s)
		}
		slices.SortFunc(out[key], func(a, b series.Sample) int { return int(a.T - b.T) })
	}
	return out
}

// TestWinningValueIsStored pushes values of every kind at few timestamps, so that most
// conflict, in any order, between seals, flushes and kills.
func TestWinningValueIsStored(t *testing.T) {
	for seed := range uint64(25) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			b := newBench(t)
			b.still()
			rng := rand.New(rand.NewPCG(seed, 12))
			want := largest{}
			for range 150 {
				switch rng.IntN(16) {
				case 0:
					b.set(b.now.Add(time.Duration(rng.IntN(50)) * time.Minute))
				case 1:
					b.must(b.ing.sealDue())
				case 2:
					b.must(b.ing.Flush())
				case 3:
					b.kill()
				}
				var entries []series.Entry
				for range 1 + rng.IntN(6) {
					i := rng.IntN(4)
					e := entry(metric("m", "i", fmt.Sprint(i)))
					for range 1 + rng.IntN(5) {
						s := randomSample(rng, b.now.UnixMilli(), []int{0, 3, 1, 2}[i])
						s.T = s.T / 100 * 100
						switch {
						case rng.IntN(10) == 0:
							s.H, s.FH, s.V = nil, nil, math.Float64frombits(value.StaleNaN)
						case !s.IsHistogram():
							s.V = []float64{-1, 0, 1, math.NaN()}[rng.IntN(4)]
						case s.H != nil && rng.IntN(2) == 0:
							s.H.Sum = float64(rng.IntN(3))
						}
						e.Samples = append(e.Samples, s)
					}
					want.take(&e)
					entries = append(entries, e)
				}
				n := 0
				for i := range entries {
					n += len(entries[i].Samples)
				}
				if out := b.push("a", entries...); out.Samples+out.Histograms != n || len(out.Rejections) != 0 {
					t.Fatalf("%d samples: %+v", n, out)
				}
				same(t, "after a push", b.read("a"), want.sorted())
			}
			b.kill()
			same(t, "after a kill", b.read("a"), want.sorted())
			b.must(b.ing.Flush())
			same(t, "after a flush", b.read("a"), want.sorted())
		})
	}
}

// TestOrderDoesNotMatter checks that concurrent senders of conflicting values do
// not affect the result, before and after a kill.
func TestOrderDoesNotMatter(t *testing.T) {
	b := newBench(t)
	b.still()
	now := b.now.UnixMilli()
	var senders sync.WaitGroup
	for g := range 8 {
		senders.Go(func() {
			for i := range 300 {
				out, err := b.ing.Push(context.Background(), &series.Batch{Tenant: "a", Entries: []series.Entry{entry(metric("m"), f(now+int64(i), float64((g+i)%8)))}})
				if err != nil || out.Samples != 1 {
					t.Errorf("push of one sample: %+v, error %v", out, err)
				}
			}
		})
	}
	senders.Wait()
	want := map[string][]series.Sample{}
	for i := range 300 {
		want[metric("m").String()] = append(want[metric("m").String()], f(now+int64(i), 7))
	}
	same(t, "before a kill", b.read("a"), want)
	b.kill()
	same(t, "after a kill", b.read("a"), want)
}

// TestConflictsAreCounted checks that a conflict is counted once per sample,
// whether its value wins or not.
func TestConflictsAreCounted(t *testing.T) {
	b := newBench(t)
	now := b.now.UnixMilli()
	h := func(at int64, n int) series.Sample { return series.Sample{T: at, H: wideHistogram(n, now)} }
	for _, tt := range []struct {
		name            string
		sample          series.Sample
		same, different int
	}{
		{"first", f(now, 1), 0, 0},
		{"again", f(now, 1), 1, 0},
		{"smaller", f(now, 0), 0, 1},
		{"larger", f(now, 2), 0, 1},
		{"the larger again", f(now, 2), 1, 0},
		{"the first again", f(now, 1), 0, 1},
		{"a staleness marker", f(now, math.Float64frombits(value.StaleNaN)), 0, 1},
		{"newer", f(now+10, 1), 0, 0},
		{"older and new", f(now-10, 1), 0, 0},
		{"older, again", f(now-10, 1), 1, 0},
		{"older, larger", f(now-10, 3), 0, 1},
		{"in the chunk, the largest again", f(now, 2), 1, 0},
		{"histogram over a float", h(now, 3), 0, 1},
		{"that histogram again", h(now, 3), 1, 0},
		{"newer histogram", h(now+20, 3), 0, 0},
		{"the last histogram again", h(now+20, 3), 1, 0},
		{"a different histogram", h(now+20, 4), 0, 1},
	} {
		out := b.push("a", entry(metric("x"), tt.sample))
		var got series.EntryRepeats
		for _, r := range out.Repeats {
			got = r
		}
		if out.Samples+out.Histograms != 1 || got.Same != tt.same || got.Different != tt.different {
			t.Errorf("%s: %+v, want %d equal and %d different repeats", tt.name, out, tt.same, tt.different)
		}
	}
	same(t, "at the end", b.read("a"), map[string][]series.Sample{metric("x").String(): {f(now-10, 3), h(now, 3), f(now+10, 1), h(now+20, 4)}})
}

// TestConflictsDoNotAccumulate checks that however often senders disagree or repeat
// samples, the head stores about one sample per timestamp.
func TestConflictsDoNotAccumulate(t *testing.T) {
	held := func(b *bench) (chunks, samples int) {
		for _, s := range b.ing.head("a", false).all() {
			s.eachChunk(func(c *series.Chunk) { chunks, samples = chunks+1, samples+c.Samples })
			if s.rare != nil {
				samples += s.rare.waiting()
			}
		}
		return chunks, samples
	}
	t.Run("one time", func(t *testing.T) {
		b := newBench(t)
		now := b.now.UnixMilli()
		for i := range 100 {
			e := entry(metric("m"))
			for k := range 1000 {
				e.Samples = append(e.Samples, f(now, float64(i*1000+k)))
			}
			b.push("a", e)
		}
		if chunks, samples := held(b); chunks != 1 || samples != 2 {
			t.Errorf("%d chunks and %d samples for 100,000 values at one timestamp, want 1 and 2", chunks, samples)
		}
		same(t, "at the end", b.read("a"), map[string][]series.Sample{metric("m").String(): {f(now, 99_999)}})
	})
	t.Run("the same timestamps with ever larger values", func(t *testing.T) {
		b := newBench(t)
		now := series.SubChunkStart(b.now.UnixMilli())
		const times = 1000
		for round := range 100 {
			e := entry(metric("m"))
			for k := range times {
				e.Samples = append(e.Samples, f(now+int64(k), float64(round)))
			}
			b.push("a", e)
			// The first values, one chunk of joined samples, and the chunks since then.
			if chunks, samples := held(b); chunks > maxLateChunks+1 || samples > 2*times+maxLateChunks*maxLate {
				t.Fatalf("%d chunks and %d samples after %d rounds", chunks, samples, round)
			}
		}
		for _, s := range b.read("a")[metric("m").String()] {
			if s.V != 99 {
				t.Fatalf("sample %v, want value 99", s)
			}
		}
	})
	t.Run("sent again", func(t *testing.T) {
		b := newBench(t)
		now := b.now.UnixMilli()
		for range 20 {
			floats, hists := entry(metric("m")), entry(metric("h"))
			for k := range int64(500) {
				floats.Samples = append(floats.Samples, f(now+k, float64(k)))
				hists.Samples = append(hists.Samples, series.Sample{T: now + k, H: wideHistogram(3, now+k)})
			}
			b.push("a", floats, hists)
		}
		if chunks, samples := held(b); samples != 1000 || chunks > 4 {
			t.Errorf("%d chunks and %d samples, want at most 4 chunks and the 1,000 samples that were sent twenty times", chunks, samples)
		}
	})
}

// TestLookupsCountNumbers checks that the cost of a search is the number of decoded
// numbers (a histogram has hundreds), and that a chunk that exceeds the limit is
// not searched.
func TestLookupsCountNumbers(t *testing.T) {
	const samples, buckets = 500, 640
	b := newBench(t)
	b.lim.MaxHistogramBuckets = 0
	now := series.SubChunkStart(b.now.UnixMilli())
	e := entry(metric("h"))
	for i := range int64(samples) {
		e.Samples = append(e.Samples, series.Sample{T: now + i, H: wideHistogram(buckets, 7)})
	}
	b.push("a", e)
	s := b.ing.head("a", false).all()[0]
	chunks := 0
	s.eachChunk(func(c *series.Chunk) {
		chunks++
		if n := lookupCost(c); n < c.Samples*buckets {
			t.Errorf("lookupCost of %d samples with %d buckets = %d", c.Samples, buckets, n)
		}
	})
	f := finder{left: samples * buckets / 2}
	if _, ok, err := f.find(s, now); chunks != 1 || ok || err != nil || f.left != samples*buckets/2 {
		t.Errorf("%d chunks; found %v, %v, %d left", chunks, ok, err, f.left)
	}
	f = newFinder()
	for i := range int64(samples) { // in order, so each is decoded once
		if _, ok, err := f.find(s, now+i); !ok || err != nil {
			t.Fatalf("sample %d: found %v, %v", i, ok, err)
		}
	}
	if used := maxLookups - f.left; used < samples*buckets || used > 20*samples*buckets {
		t.Errorf("%d numbers decoded, want %d to %d", used, samples*buckets, 20*samples*buckets)
	}
}
