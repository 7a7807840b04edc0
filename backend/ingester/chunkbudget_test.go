package ingester

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// counted makes a histogram of one bucket with a count.
func counted(t int64, n int64) series.Sample {
	return series.Sample{T: t, H: &histogram.Histogram{Count: uint64(n), Sum: float64(n), PositiveSpans: []histogram.Span{{Length: 1}}, PositiveBuckets: []int64{n}}}
}

// kept is what the outcome of a push says was written.
func kept(o series.Outcome) int { return o.Samples + o.Histograms }

// chunksOf counts the chunks of all series in all packs.
func chunksOf(b *bench) int {
	b.t.Helper()
	n := 0
	err := b.ing.packs.recent(0, func(r *pack.Reader) error {
		for _, s := range r.Info().Sections {
			n += s.Chunks
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

// TestChunksPerWindow pushes series that begin a chunk with every sample, in
// order and out of order: no more than MaxWindowChunks of a window are taken, the
// rest is rejected sample by sample, and the next window is free again. What the
// seal writes of it never has more chunks than were counted.
func TestChunksPerWindow(t *testing.T) {
	m := labels.FromStrings("__name__", "m")
	const base = int64(1_699_999_200_000) // start of a window
	rng := rand.New(rand.NewPCG(1, 2))
	h := func(t, n int64) series.Sample { return counted(t, n) }
	fh := func(t, n int64) series.Sample {
		s := counted(t, n)
		return series.Sample{T: t, FH: s.H.ToFloat(nil)}
	}
	for name, c := range map[string]struct {
		sample func(i int) series.Sample
		most   int // samples taken of a window
	}{
		"float and histogram": {func(i int) series.Sample {
			if i%2 == 0 {
				return f(base+int64(i), 1)
			}
			return h(base+int64(i), 1)
		}, series.MaxWindowChunks},
		"histogram and float histogram": {func(i int) series.Sample {
			if i%2 == 0 {
				return fh(base+int64(i), 1)
			}
			return h(base+int64(i), 1)
		}, series.MaxWindowChunks},
		"counter resets": {func(i int) series.Sample { return h(base+int64(i), int64(1_000_000-i)) }, series.MaxWindowChunks},
		"reset hints": {func(i int) series.Sample {
			s := h(base+int64(i), 1)
			s.H.CounterResetHint = histogram.CounterReset
			return s
		}, series.MaxWindowChunks},
		"zero thresholds": {func(i int) series.Sample {
			s := fh(base+int64(i), 1)
			s.FH.ZeroThreshold = float64(i+1) * 1e-9
			return s
		}, series.MaxWindowChunks},
		"out of order": {func(i int) series.Sample {
			if i == 0 {
				return f(base+7_000_000, 1)
			}
			if i%2 == 0 {
				return f(base+int64(i), 1)
			}
			return h(base+int64(rng.IntN(1_000_000)), int64(i%7))
		}, series.MaxWindowChunks/series.LateChunks + 2},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.lim = limits.Limits{}
			taken, rejected := 0, 0
			for i := 0; i < 3*series.MaxWindowChunks; {
				var batch []series.Sample
				for range 1 + rng.IntN(3000) {
					batch = append(batch, c.sample(i))
					i++
				}
				n := len(batch)
				out := b.push("t", entry(m, batch...), entry(labels.FromStrings("__name__", "other"), f(base+int64(i), 1)))
				taken += kept(out) - 1
				for _, r := range out.Rejections {
					if r.Reason != "too_many_sample_type_changes" {
						t.Fatalf("rejected for %+v", r)
					}
					rejected += r.Samples
				}
				if want := n + 1 - kept(out); want > 0 && len(out.Rejections) != 1 {
					t.Fatalf("%d samples are missing from the outcome, rejections %+v", want, out.Rejections)
				}
			}
			// More may be taken than begin a chunk: what is left of alternating samples
			// is of one kind.
			if taken > c.most*6/5 || taken < c.most*9/10 || rejected == 0 {
				t.Errorf("%d samples taken and %d rejected, want about %d taken", taken, rejected, c.most)
			}
			// The next window, also after a restart, which rejects nothing of the log.
			before := len(b.read("t")[m.String()])
			b.crash()
			if after := len(b.read("t")[m.String()]); after != before {
				t.Errorf("%d samples after a crash, %d before it", after, before)
			}
			var more []series.Sample
			for i := range int64(100) {
				more = append(more, h(base+7_100_000+i, 1000-i))
			}
			// The log has the floats of a request before its histograms, so a restart may
			// count fewer floats that came before any histogram of their window.
			if out := b.push("t", entry(m, more...)); kept(out) > 5 && name != "out of order" {
				t.Errorf("a restart forgot what was begun: %d of %d taken", kept(out), len(more))
			}
			if out := b.push("t", entry(m, h(base+series.WindowMillis, 1))); kept(out) != 1 {
				t.Errorf("the next window rejects: %+v", out)
			}
			if err := b.ing.Flush(); err != nil {
				t.Fatal(err)
			}
			if got := chunksOf(b); got > series.MaxWindowChunks+20 {
				t.Errorf("%d chunks in packs, counted were at most %d in the window", got, series.MaxWindowChunks)
			}
			if out := b.push("t", entry(m, h(base+1_500_001, 1))); kept(out) != 1 {
				t.Errorf("after a seal: %+v", out)
			}
			s := b.ing.head("t", false).all()
			for _, one := range s {
				if one.labels.Get("__name__") == "other" && one.budget.Load() != nil {
					t.Error("a series of floats counts chunks")
				}
			}
		})
	}
}

// TestOrdinaryHistograms: series that do nothing odd are never rejected, however
// many samples a request has of them, and their floats do not count anything.
func TestOrdinaryHistograms(t *testing.T) {
	b := newBench(t)
	b.lim = limits.Limits{}
	m := labels.FromStrings("__name__", "m")
	const n = 4 * series.MaxWindowChunks
	var batch []series.Sample
	for i := range n {
		batch = append(batch, series.Sample{T: int64(i), H: tsdbutil.GenerateTestHistogram(int64(i))})
	}
	if out := b.push("t", entry(m, batch...)); kept(out) != n {
		t.Errorf("%d of %d histograms taken: %v", kept(out), n, out.String())
	}
	batch = batch[:0]
	for i := range n {
		batch = append(batch, f(1_000_000-int64(i), 1)) // all out of order but one
	}
	other := labels.FromStrings("__name__", "other")
	if out := b.push("t", entry(other, batch...)); kept(out) != n {
		t.Errorf("%d of %d out-of-order floats taken: %v", kept(out), n, out.String())
	}
}

// TestChunksPerWindowAtOnce: requests at the same time do not pass the bound
// together, and give back what they reserved.
func TestChunksPerWindowAtOnce(t *testing.T) {
	b := newBench(t)
	b.lim = limits.Limits{}
	m := labels.FromStrings("__name__", "m")
	var mu sync.Mutex
	taken := 0
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for k := range 40 {
				var batch []series.Sample
				for i := range 100 {
					at := int64(k*1000 + g*100 + i)
					if i%2 == 0 {
						batch = append(batch, f(at, 1))
					} else {
						batch = append(batch, counted(at, 1))
					}
				}
				out := b.push("t", entry(m, batch...))
				mu.Lock()
				taken += kept(out)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if taken > series.MaxWindowChunks || taken < series.MaxWindowChunks/3 {
		t.Errorf("%d samples taken, of at most %d chunks", taken, series.MaxWindowChunks)
	}
	s := b.ing.head("t", false).all()[0]
	for _, w := range s.budget.Load().windows {
		// A sample that another request overtakes between the check and the head costs
		// more than was reserved; the formats have room for twice the bound.
		if w.reserved != 0 || w.begun > series.LateChunks*series.MaxWindowChunks {
			t.Errorf("window %d: %d begun, %d still reserved", w.start, w.begun, w.reserved)
		}
	}
	if err := b.ing.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := chunksOf(b); got > series.MaxWindowChunks {
		t.Errorf("%d chunks in the pack", got)
	}
}

// TestChunksOfRepeatedSeries: a series that is in a request several times, as
// Prometheus sends one sample an entry, is followed through all of them.
func TestChunksOfRepeatedSeries(t *testing.T) {
	m := labels.FromStrings("__name__", "m")
	const base, n = int64(1_699_999_200_000), 20_000
	var even, odd []series.Sample
	for i := range int64(n) {
		even, odd = append(even, counted(base+2*i, i+1)), append(odd, f(base+2*i+1, 1))
	}
	for name, entries := range map[string][]series.Entry{
		"histograms, then floats between them": {entry(m, even...), entry(m, odd...)},
		"floats, then histograms between them": {entry(m, odd...), entry(m, even...)},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.push("a", entry(m, f(base-1, 1)))
			out := b.push("a", entries...)
			if got := kept(out); got == 2*n || got < n {
				t.Errorf("%d of %d samples are taken", got, 2*n)
			}
			b.flush()
			if got := chunksOf(b); got > series.MaxWindowChunks+n/100 {
				t.Errorf("%d chunks were sealed", got)
			}
		})
	}
	t.Run("one sample an entry, in order", func(t *testing.T) {
		b := newBench(t)
		for at := int64(0); at < 7200; at += 400 {
			var entries []series.Entry
			for i := at; i < at+400; i++ {
				entries = append(entries, entry(m, counted(base+i*1000, i+1)))
			}
			if out := b.push("a", entries...); kept(out) != len(entries) {
				t.Fatalf("at %d: %+v", at, out)
			}
		}
	})
}
