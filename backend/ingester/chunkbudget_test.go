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

// counted returns a sample at t with a histogram of one bucket and the count n.
func counted(t int64, n int64) series.Sample {
	return series.Sample{T: t, H: &histogram.Histogram{Count: uint64(n), Sum: float64(n), PositiveSpans: []histogram.Span{{Length: 1}}, PositiveBuckets: []int64{n}}}
}

// kept returns the number of samples written according to an outcome.
func kept(o series.Outcome) int { return o.Samples + o.Histograms }

// chunksOf returns the number of chunks in all packs.
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

// TestChunksPerWindow pushes series that begin a chunk with almost every sample, in
// order and out of order: samples of a window that need more than MaxWindowChunks
// chunks are rejected one by one, the next window is independent, and the packs
// have hardly more chunks than the limit.
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
		most   int // samples accepted in a window
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
			// More samples may be accepted than chunks: the remainder of alternating
			// samples has only one kind.
			if taken > c.most*6/5 || taken < c.most*9/10 || rejected == 0 {
				t.Errorf("%d samples accepted and %d rejected, want about %d accepted", taken, rejected, c.most)
			}
			// A restart replays all accepted samples and restores the count of chunks of the
			// window. The next window is independent.
			before := len(b.read("t")[m.String()])
			b.crash()
			if after := len(b.read("t")[m.String()]); after != before {
				t.Errorf("%d samples after a crash, %d before it", after, before)
			}
			var more []series.Sample
			for i := range int64(100) {
				more = append(more, h(base+7_100_000+i, 1000-i))
			}
			// Floats before the first histogram of their window are not counted. The log
			// has the floats of a request before its histograms, so that more floats are
			// in this position after a restart, and fewer are counted.
			if out := b.push("t", entry(m, more...)); kept(out) > 5 && name != "out of order" {
				t.Errorf("a restart lost the count of chunks: %d of %d samples accepted", kept(out), len(more))
			}
			if out := b.push("t", entry(m, h(base+series.WindowMillis, 1))); kept(out) != 1 {
				t.Errorf("rejected in the next window: %+v", out)
			}
			if err := b.ing.Flush(); err != nil {
				t.Fatal(err)
			}
			if got := chunksOf(b); got > series.MaxWindowChunks+20 {
				t.Errorf("%d chunks in packs, want about %d at most", got, series.MaxWindowChunks)
			}
			if out := b.push("t", entry(m, h(base+1_500_001, 1))); kept(out) != 1 {
				t.Errorf("rejected after a seal: %+v", out)
			}
			s := b.ing.head("t", false).all()
			for _, one := range s {
				if one.labels.Get("__name__") == "other" && one.budget.Load() != nil {
					t.Error("a series of floats has a chunk budget")
				}
			}
		})
	}
}

// TestOrdinaryHistograms checks that ordinary series are never rejected, however
// many of their samples a request has, and that their floats do not count.
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
		t.Errorf("%d of %d histograms accepted: %v", kept(out), n, out.String())
	}
	batch = batch[:0]
	for i := range n {
		batch = append(batch, f(1_000_000-int64(i), 1)) // all out of order except one
	}
	other := labels.FromStrings("__name__", "other")
	if out := b.push("t", entry(other, batch...)); kept(out) != n {
		t.Errorf("%d of %d out-of-order floats accepted: %v", kept(out), n, out.String())
	}
}

// TestChunksPerWindowConcurrently checks that concurrent requests cannot exceed the limit
// together, and that they release their reservations.
func TestChunksPerWindowConcurrently(t *testing.T) {
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
	// A sample that another request overtakes between the check and the append may
	// begin more chunks than reserved; the formats allow twice the limit.
	const most = series.LateChunks * series.MaxWindowChunks
	if taken > most || taken < series.MaxWindowChunks/3 {
		t.Errorf("%d samples accepted, want %d to %d", taken, series.MaxWindowChunks/3, most)
	}
	s := b.ing.head("t", false).all()[0]
	for _, w := range s.budget.Load().windows {
		if w.reserved != 0 || w.begun > most {
			t.Errorf("window %d: %d begun, %d still reserved", w.start, w.begun, w.reserved)
		}
	}
	if err := b.ing.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := chunksOf(b); got > most {
		t.Errorf("%d chunks in the pack, want at most %d", got, most)
	}
}

// TestChunksOfRepeatedSeries checks a series that is in a request several times, as
// in requests of Prometheus, which have one sample per entry.
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
				t.Errorf("%d of %d samples accepted, want at least half and not all", got, 2*n)
			}
			b.flush()
			if got := chunksOf(b); got > series.MaxWindowChunks+n/100 {
				t.Errorf("%d chunks were sealed, want at most %d", got, series.MaxWindowChunks+n/100)
			}
		})
	}
	t.Run("one sample per entry, in order", func(t *testing.T) {
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
