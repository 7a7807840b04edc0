package ingester

import (
	"context"
	"fmt"
	"math"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wal"
	"github.com/palliumhq/pallium/policies/limits"
)

// bench is an ingester in a directory, with a clock that the test sets.
type bench struct {
	t   *testing.T
	dir string
	lim limits.Limits
	now time.Time // changed only by set
	ing *Ingester

	longTerm LongTerm                        // nil: none
	diskFree func(dir string) (int64, error) // nil: statfs
	registry prometheus.Registerer           // nil: none
	replicas int                             // if more than one, pushes are not synced
	memory   int64                           // budget of the head; 0: none
	logDisk  wal.Disk                        // nil: the file system
	damaged  func(context.Context, []int64) error

	clock atomic.Int64 // now in Unix milliseconds, for the ingester's goroutines
}

func (b *bench) set(now time.Time) {
	b.now = now
	b.clock.Store(now.UnixMilli())
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), lim: limits.Default()}
	b.set(time.UnixMilli(1_700_000_000_000))
	b.open()
	t.Cleanup(func() { _ = b.ing.Close() })
	return b
}

func (b *bench) options() Options {
	return Options{ID: "ingester-1", Dir: b.dir, Replication: b.replicas, Limits: func(tenant.ID) limits.Limits { return b.lim }, LongTerm: b.longTerm, MemoryBytes: b.memory, DiskFree: b.diskFree, logDisk: b.logDisk, MarkDamaged: b.damaged, Registerer: b.registry, Now: func() time.Time { return time.UnixMilli(b.clock.Load()) }}
}

func (b *bench) open() {
	b.t.Helper()
	ing, err := Open(context.Background(), b.options())
	if err != nil {
		b.t.Fatalf("open: %v", err)
	}
	b.ing = ing
}

// crash abandons the ingester as a killed process would, without flushing it or
// closing the log, and opens its directory again.
func (b *bench) crash() {
	b.t.Helper()
	old := b.ing
	old.background.Stop()
	b.open()
	_ = old.packs.close()
}

func entry(ls labels.Labels, samples ...series.Sample) series.Entry {
	return series.Entry{Labels: ls, Hash: ls.Hash(), Samples: samples}
}

func f(t int64, v float64) series.Sample { return series.Sample{T: t, V: v} }

func (b *bench) push(id tenant.ID, entries ...series.Entry) series.Outcome {
	b.t.Helper()
	out, err := b.ing.Push(context.Background(), &series.Batch{Tenant: id, Entries: entries})
	if err != nil {
		b.t.Fatalf("push: %v", err)
	}
	return out
}

// read returns all samples of the tenant by series.
func (b *bench) read(id tenant.ID) map[string][]series.Sample {
	b.t.Helper()
	return readAll(b.t, b.ing, series.Request{Tenant: id, MinTime: math.MinInt64, MaxTime: math.MaxInt64})
}

func readAll(t *testing.T, ing *Ingester, req series.Request) map[string][]series.Sample {
	t.Helper()
	sel, _, err := ing.Select(context.Background(), req)
	if err != nil {
		t.Fatalf("select: %v", err)
	}
	defer sel.Release()
	if !slices.IsSortedFunc(sel.Series, func(a, b series.WithChunks) int { return labels.Compare(a.Labels, b.Labels) }) {
		t.Error("series are not sorted by their labels")
	}
	out := map[string][]series.Sample{}
	for _, s := range sel.Series {
		key := s.Labels.String()
		if _, twice := out[key]; twice {
			t.Errorf("series %s appears twice in the result", key)
		}
		it := series.Iterator(s.Chunks, nil)
		for vt := it.Next(); vt != chunkenc.ValNone; vt = it.Next() {
			smp := series.Sample{T: it.AtT()}
			switch vt {
			case chunkenc.ValHistogram:
				_, smp.H = it.AtHistogram(nil)
			case chunkenc.ValFloatHistogram:
				_, smp.FH = it.AtFloatHistogram(nil)
			default:
				_, smp.V = it.At()
			}
			out[key] = append(out[key], smp)
		}
		if it.Err() != nil {
			t.Fatalf("series %s: %v", key, it.Err())
		}
	}
	return out
}

// same compares the samples read with the samples written.
func same(t *testing.T, what string, got, want map[string][]series.Sample) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d series, want %d", what, len(got), len(want))
	}
	for key, w := range want {
		g := got[key]
		if len(g) != len(w) {
			t.Fatalf("%s: series %s has %d samples, want %d", what, key, len(g), len(w))
		}
		for i := range w {
			if g[i].T != w[i].T || !equalValue(&g[i], &w[i]) {
				t.Fatalf("%s: series %s sample %d is %v, want %v", what, key, i, g[i], w[i])
			}
		}
	}
}

// equalValue compares samples without the counter reset hint of histograms, which
// describes how a sample was stored and not its value.
func equalValue(a, b *series.Sample) bool {
	if a.H != nil && b.H != nil {
		x, y := a.H.Copy(), b.H.Copy()
		x.CounterResetHint, y.CounterResetHint = histogram.UnknownCounterReset, histogram.UnknownCounterReset
		return x.Compact(0).Equals(y.Compact(0))
	}
	return series.Compare(a, b) == 0
}

func metric(name string, more ...string) labels.Labels {
	return labels.FromStrings(append([]string{"__name__", name}, more...)...)
}

func TestEverythingSurvives(t *testing.T) {
	for seed := range int64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewSource(seed))
			b := newBench(t)
			want := map[tenant.ID]map[string][]series.Sample{"a": {}, "b": {}}
			written := map[string]bool{}
			base := b.now.UnixMilli() - 6*series.WindowMillis
			for round := range 30 {
				for range 20 {
					id := tenant.ID([]string{"a", "b"}[r.Intn(2)])
					ls := metric(fmt.Sprintf("m%d", r.Intn(3)), "i", fmt.Sprint(r.Intn(15)))
					smp := series.Sample{T: base + int64(r.Intn(7*int(series.WindowMillis)/15_000))*15_000, V: float64(r.Intn(100)) / 10}
					if r.Intn(2) == 0 { // most samples in practice are new
						smp.T = b.now.UnixMilli() + int64(round)*15_000
					}
					key := fmt.Sprint(id, ls, smp.T)
					if written[key] {
						continue
					}
					written[key] = true
					if strings.HasPrefix(ls.Get("__name__"), "m2") {
						smp.H = tsdbutil.GenerateTestHistogram(int64(r.Intn(30)))
					}
					keep := smp
					if smp.H != nil {
						keep.H = smp.H.Copy()
						keep.V = 0
					}
					b.push(id, entry(ls, smp))
					want[id][ls.String()] = append(want[id][ls.String()], keep)
				}
				switch r.Intn(6) {
				case 0:
					b.crash()
				case 1:
					if err := b.ing.Flush(); err != nil {
						t.Fatal(err)
					}
				case 2:
					if err := b.ing.seal(series.WindowStart(b.now.UnixMilli())); err != nil {
						t.Fatal(err)
					}
				}
			}
			for id := range want {
				for _, samples := range want[id] {
					slices.SortFunc(samples, func(x, y series.Sample) int { return int(x.T - y.T) })
				}
			}
			for _, step := range []string{"as written", "after a crash", "after a flush", "after another crash", "after a second flush"} {
				switch {
				case strings.Contains(step, "crash"):
					b.crash()
				case strings.Contains(step, "flush"):
					if err := b.ing.Flush(); err != nil {
						t.Fatal(err)
					}
				}
				for id := range want {
					same(t, step+", tenant "+string(id), b.read(id), want[id])
				}
			}
		})
	}
}

func TestSealedSegmentsAreDeletedAndNotReplayed(t *testing.T) {
	b := newBench(t)
	b.push("a", entry(metric("up"), f(b.now.UnixMilli(), 1)))
	if err := b.ing.Flush(); err != nil {
		t.Fatal(err)
	}
	if n := segments(t, b.dir); n != 1 {
		t.Errorf("%d segments after a flush, want 1", n)
	}
	b.crash()
	if got := b.ing.seriesCount(); got != 0 {
		t.Errorf("%d sealed series are in the head again, want 0", got)
	}
	same(t, "after a crash", b.read("a"), map[string][]series.Sample{metric("up").String(): {f(b.now.UnixMilli(), 1)}})
	packs := b.ing.packCount()
	if err := b.ing.Flush(); err != nil {
		t.Fatal(err)
	}
	if b.ing.packCount() != packs {
		t.Error("a flush of an empty head wrote a pack")
	}
}

func segments(t *testing.T, dir string) int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "wal", "*.wal"))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

func TestLosingTheSealLogLosesNothing(t *testing.T) {
	b := newBench(t)
	now := b.now.UnixMilli()
	b.push("a", entry(metric("up"), f(now-series.WindowMillis, 1), f(now, 2)))
	if err := b.ing.seal(series.WindowStart(now)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(b.dir, "sealed.json")); err != nil {
		t.Fatal(err)
	}
	b.crash()
	want := map[string][]series.Sample{metric("up").String(): {f(now-series.WindowMillis, 1), f(now, 2)}}
	same(t, "after a crash without the list of seals", b.read("a"), want)
}

func TestWindowsAreSealedWhenDue(t *testing.T) {
	b := newBench(t)
	window := series.WindowStart(b.now.UnixMilli())
	b.set(time.UnixMilli(window + series.WindowMillis + 14*60_000))
	if err := b.ing.sealDue(); err != nil { // seal earlier windows
		t.Fatal(err)
	}
	b.push("a", entry(metric("up"), f(window, 1), f(window+series.WindowMillis+1, 2)))
	if err := b.ing.sealDue(); err != nil {
		t.Fatal(err)
	}
	if n := b.ing.packCount(); n != 0 {
		t.Fatalf("sealed %d packs before the window was due", n)
	}
	b.set(b.now.Add(time.Minute))
	if err := b.ing.sealDue(); err != nil {
		t.Fatal(err)
	}
	stats := b.ing.Stats()
	if len(stats.Packs) != 1 || stats.Packs[0].MinTime != window || stats.Packs[0].MaxTime != window {
		t.Fatalf("packs %+v, want one with the sample of the first window", stats.Packs)
	}
	// A sample of the sealed window is buffered for an hour.
	b.push("a", entry(metric("up"), f(window+1, 3)))
	if err := b.ing.sealDue(); err != nil {
		t.Fatal(err)
	}
	if n := b.ing.packCount(); n != 1 {
		t.Fatal("a late sample was sealed at once")
	}
	b.set(b.now.Add(time.Hour))
	if err := b.ing.sealDue(); err != nil {
		t.Fatal(err)
	}
	if n := b.ing.packCount(); n != 2 {
		t.Fatalf("%d packs after an hour, want 2", n)
	}
	want := map[string][]series.Sample{metric("up").String(): {f(window, 1), f(window+1, 3), f(window+series.WindowMillis+1, 2)}}
	same(t, "at the end", b.read("a"), want)
}

func TestSeriesLimit(t *testing.T) {
	b := newBench(t)
	b.lim.MaxActiveSeries = 2
	now := b.now.UnixMilli()
	out := b.push("a", entry(metric("x", "i", "1"), f(now, 1)), entry(metric("x", "i", "2"), f(now, 1)), entry(metric("x", "i", "3"), f(now, 1)))
	if out.Samples != 2 || len(out.Rejections) != 1 || out.Rejections[0].Reason != "max_active_series" {
		t.Fatalf("outcome %+v, want two samples accepted and one rejected by max_active_series", out)
	}
	for _, want := range []string{"max_active_series", "2", `i="3"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q does not contain %s", out.String(), want)
		}
	}
	if out := b.push("a", entry(metric("x", "i", "1"), f(now+1, 2))); out.Samples != 1 {
		t.Error("an existing series was rejected")
	}
	if out := b.push("b", entry(metric("x", "i", "3"), f(now, 1))); out.Samples != 1 {
		t.Error("the limit applied to another tenant")
	}
}

func TestDuplicates(t *testing.T) {
	b := newBench(t)
	now := b.now.UnixMilli()
	b.push("a", entry(metric("x"), f(now, 1)))
	if out := b.push("a", entry(metric("x"), f(now, 1))); out.Samples != 1 || len(out.Rejections) != 0 {
		t.Errorf("repeated sample: %+v", out)
	}
	if out := b.push("a", entry(metric("x"), f(now, 2))); out.Samples != 1 || len(out.Rejections) != 0 {
		t.Errorf("conflicting sample: %+v", out)
	}
	same(t, "at the end", b.read("a"), map[string][]series.Sample{metric("x").String(): {f(now, 2)}})
}

func TestTenantsDoNotMix(t *testing.T) {
	b := newBench(t)
	now := b.now.UnixMilli()
	for range 2 {
		b.push("a", entry(metric("secret"), f(now, 1)))
		b.push("ab", entry(metric("other"), f(now, 2)))
		for _, id := range []tenant.ID{"b", "", "A"} {
			if got := b.read(id); len(got) != 0 {
				t.Errorf("tenant %q reads %v", id, got)
			}
		}
		same(t, "a", b.read("a"), map[string][]series.Sample{metric("secret").String(): {f(now, 1)}})
		if err := b.ing.Flush(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMatchersAndLabels(t *testing.T) {
	for _, n := range []int{20, 2 * indexFrom} { // without and with an index
		for _, sealed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d series, sealed %v", n, sealed), func(t *testing.T) {
				b := newBench(t)
				now := b.now.UnixMilli()
				var entries []series.Entry
				for i := range n {
					ls := metric("m", "i", fmt.Sprint(i), "even", fmt.Sprint(i%2 == 0))
					if i%5 == 0 {
						ls = metric("m", "i", fmt.Sprint(i))
					}
					entries = append(entries, entry(ls, f(now, float64(i))))
				}
				b.push("a", entries...)
				if sealed {
					if err := b.ing.Flush(); err != nil {
						t.Fatal(err)
					}
				}
				checkMatchers(t, b, n)
			})
		}
	}
}

func checkMatchers(t *testing.T, b *bench, n int) {
	t.Helper()
	tests := []struct {
		matchers []*labels.Matcher
		want     func(i int, even string) bool
	}{
		{nil, func(int, string) bool { return true }},
		{[]*labels.Matcher{{Type: labels.MatchEqual, Name: "i", Value: "7"}}, func(i int, _ string) bool { return i == 7 }},
		{[]*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, "i", "1.")}, func(i int, _ string) bool { return i >= 10 && i < 20 }},
		{[]*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, "i", "3|4|nope")}, func(i int, _ string) bool { return i == 3 || i == 4 }},
		{[]*labels.Matcher{labels.MustNewMatcher(labels.MatchNotEqual, "even", "true")}, func(_ int, e string) bool { return e != "true" }},
		{[]*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "even", "")}, func(_ int, e string) bool { return e == "" }},
		{[]*labels.Matcher{labels.MustNewMatcher(labels.MatchNotEqual, "even", "")}, func(_ int, e string) bool { return e != "" }},
		{[]*labels.Matcher{labels.MustNewMatcher(labels.MatchNotRegexp, "even", "|true")}, func(_ int, e string) bool { return e == "false" }},
		{[]*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, "even", "|true")}, func(_ int, e string) bool { return e == "" || e == "true" }},
		{[]*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "nope", "x")}, func(int, string) bool { return false }},
		{[]*labels.Matcher{labels.MustNewMatcher(labels.MatchNotEqual, "nope", "x"), labels.MustNewMatcher(labels.MatchEqual, "even", "true")}, func(_ int, e string) bool { return e == "true" }},
	}
	for _, tt := range tests {
		req := series.Request{Tenant: "a", MinTime: 0, MaxTime: math.MaxInt64, Matchers: tt.matchers}
		want := 0
		for i := range n {
			even := fmt.Sprint(i%2 == 0)
			if i%5 == 0 {
				even = ""
			}
			if tt.want(i, even) {
				want++
			}
		}
		if got := len(readAll(t, b.ing, req)); got != want {
			t.Errorf("%v: %d series, want %d", tt.matchers, got, want)
		}
		values, _, err := b.ing.LabelValues(context.Background(), "i", req)
		if err != nil {
			t.Fatal(err)
		}
		if len(values) != want || !slices.IsSorted(values) {
			t.Errorf("%v: %d label values, want %d", tt.matchers, len(values), want)
		}
		req.MaxSeries = 10
		if _, _, err := b.ing.Select(context.Background(), req); (err != nil) != (want > 10) {
			t.Errorf("%v: limit of 10 series: err = %v", tt.matchers, err)
		}
	}
	names, _, err := b.ing.LabelNames(context.Background(), series.Request{Tenant: "a", MaxTime: math.MaxInt64})
	if err != nil || strings.Join(names, ",") != "__name__,even,i" {
		t.Errorf("label names %v, %v", names, err)
	}
	if names, _, _ := b.ing.LabelNames(context.Background(), series.Request{Tenant: "a", MinTime: 0, MaxTime: 1000}); len(names) != 0 {
		t.Errorf("label names outside the data's time range: %v", names)
	}
}

func TestExemplarsAndMetadata(t *testing.T) {
	b := newBench(t)
	now := b.now.UnixMilli()
	e := entry(metric("requests_total"), f(now, 1))
	e.Exemplars = []exemplar.Exemplar{{Labels: labels.FromStrings("trace", "1"), Value: 2, Ts: now, HasTs: true}}
	md := series.MetricMetadata{Metric: "requests_total", Metadata: metadata.Metadata{Type: "counter", Help: "Requests."}}
	for range 2 { // a repeated request
		out, err := b.ing.Push(context.Background(), &series.Batch{Tenant: "a", Entries: []series.Entry{e}, Metadata: []series.MetricMetadata{md}})
		if err != nil || out.Exemplars != 1 {
			t.Fatalf("push with one exemplar: %+v, error %v", out, err)
		}
	}
	all := [][]*labels.Matcher{{labels.MustNewMatcher(labels.MatchEqual, "__name__", "requests_total")}}
	if got, _ := b.ing.Exemplars(context.Background(), "a", 0, math.MaxInt64, all); len(got) != 1 || len(got[0].Exemplars) != 1 {
		t.Errorf("exemplars %v, want one", got)
	}
	if got, _ := b.ing.Exemplars(context.Background(), "b", 0, math.MaxInt64, all); len(got) != 0 {
		t.Errorf("exemplars of another tenant: %v, want none", got)
	}
	for _, step := range []func(){b.crash, func() { _ = b.ing.Flush() }, b.crash} {
		if got := b.ing.Metadata("a"); len(got) != 1 || got[0] != md {
			t.Fatalf("metadata %v, want %v", got, md)
		}
		step()
	}
	if got := b.ing.Metadata("a"); len(got) != 1 || got[0] != md {
		t.Errorf("metadata after a flush and a crash: %v", got)
	}
}

func TestExemplarRing(t *testing.T) {
	var r exemplarRing
	ls := metric("x")
	all := [][]*labels.Matcher{{}}
	newest := func(limit int, want ...int64) {
		t.Helper()
		got, _ := r.query(context.Background(), 0, math.MaxInt64, all)
		if len(got) != 1 || len(got[0].Exemplars) != len(want) {
			t.Fatalf("limit %d: %v", limit, got)
		}
		for i, e := range got[0].Exemplars {
			if e.Ts != want[i] {
				t.Errorf("limit %d: timestamp of exemplar %d = %d, want %d", limit, i, e.Ts, want[i])
			}
		}
	}
	for ts := range int64(7) {
		for range 2 { // each is sent twice
			if there, _ := r.add(ls, exemplar.Exemplar{Ts: ts, HasTs: true, Value: 1}, 5); !there {
				t.Fatal("exemplar was dropped")
			}
		}
	}
	newest(5, 2, 3, 4, 5, 6)
	r.add(ls, exemplar.Exemplar{Ts: 7, HasTs: true, Value: 1}, 3)
	newest(3, 5, 6, 7)
	r.add(ls, exemplar.Exemplar{Ts: 8, HasTs: true, Value: 1}, 4)
	newest(4, 5, 6, 7, 8)
	if there, _ := r.add(ls, exemplar.Exemplar{Ts: 9, HasTs: true}, 0); there {
		t.Error("an exemplar was stored with a limit of 0")
	}
}

func TestRetentionDeletesPacks(t *testing.T) {
	b := newBench(t)
	now := b.now.UnixMilli()
	b.push("a", entry(metric("x"), f(now, 1)))
	if err := b.ing.Flush(); err != nil {
		t.Fatal(err)
	}
	b.lim.Retention = limits.Duration(24 * time.Hour)
	b.set(b.now.Add(23 * time.Hour))
	if err := b.ing.Sweep(); err != nil || b.ing.packCount() != 1 {
		t.Fatalf("%d packs before the retention ends, want 1; error %v", b.ing.packCount(), err)
	}
	sel, _, err := b.ing.Select(context.Background(), series.Request{Tenant: "a", MaxTime: math.MaxInt64})
	if err != nil {
		t.Fatal(err)
	}
	b.set(b.now.Add(2 * time.Hour))
	if err := b.ing.Sweep(); err != nil || b.ing.packCount() != 0 {
		t.Fatalf("%d packs after the retention, want 0; error %v", b.ing.packCount(), err)
	}
	it := series.Iterator(sel.Series[0].Chunks, nil) // a query in progress continues
	if it.Next() != chunkenc.ValFloat {
		t.Error("a query in progress cannot read its pack")
	}
	sel.Release()
	if got := b.read("a"); len(got) != 0 {
		t.Errorf("samples older than the retention: %v, want none", got)
	}
}

func TestConcurrentPushSealAndSelect(t *testing.T) {
	b := newBench(t)
	now := b.now.UnixMilli()
	const perWriter, rounds = 50, 60
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range rounds {
				var entries []series.Entry
				for s := range perWriter {
					entries = append(entries, entry(metric("m", "g", fmt.Sprint(g), "s", fmt.Sprint(s)), f(now+int64(i)*1000, float64(i))))
				}
				if _, err := b.ing.Push(context.Background(), &series.Batch{Tenant: "a", Entries: entries}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		for range 10 {
			if err := b.ing.Flush(); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Go(func() {
		longest := map[string]int{}
		for range 30 {
			for key, samples := range b.read("a") {
				if len(samples) < longest[key] {
					t.Errorf("series %s had %d samples and now has %d", key, longest[key], len(samples))
				}
				longest[key] = len(samples)
			}
		}
	})
	wg.Wait()
	got := b.read("a")
	if len(got) != 4*perWriter {
		t.Fatalf("%d series, want 200", len(got))
	}
	for key, samples := range got {
		if len(samples) != rounds {
			t.Errorf("series %s has %d samples, want %d", key, len(samples), rounds)
		}
	}
}
