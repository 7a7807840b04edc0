package ingester

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// churn pushes one sample of each of n series of a tenant, numbered from first.
func (b *bench) churn(id tenant.ID, first, n int, t int64) {
	b.t.Helper()
	var entries []series.Entry
	for i := first; i < first+n; i++ {
		entries = append(entries, entry(metric("m", "i", fmt.Sprint(i), "mod", fmt.Sprint(i%7), "job", "x"), f(t, float64(i))))
	}
	b.push(id, entries...)
}

// selected returns the number of series with data that a matcher selects.
func (b *bench) selected(id tenant.ID, name, value string) int {
	b.t.Helper()
	return len(readAll(b.t, b.ing, series.Request{Tenant: id, MinTime: math.MinInt64, MaxTime: math.MaxInt64,
		Matchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, name, value)}}))
}

// consistent checks the tenant's maps and postings against each other.
func (th *tenantHead) consistent(t *testing.T) {
	t.Helper()
	all := th.all()
	th.mu.RLock()
	defer th.mu.RUnlock()
	seen := map[string]bool{}
	for _, s := range all {
		if key := s.labels.String(); seen[key] {
			t.Errorf("series %s exists twice", key)
		} else {
			seen[key] = true
		}
		if th.postings != nil && th.byRef[seriesRef(s)] != s {
			t.Errorf("series %s is missing in byRef", s.labels)
		}
	}
	if th.count != len(all) {
		t.Errorf("count = %d, want %d", th.count, len(all))
	}
	if th.postings == nil {
		return
	}
	if len(th.byRef) != len(all) {
		t.Errorf("byRef has %d references for %d series", len(th.byRef), len(all))
	}
	listed := 0
	for p := th.postings.All(); p.Next(); {
		listed++
	}
	if listed != th.count+th.dead || th.reindexing || len(th.added) > 0 {
		t.Errorf("postings have %d references for %d series and %d removed ones; reindexing %v", listed, th.count, th.dead, th.reindexing)
	}
}

// TestDropIdleSlices checks that idle series are removed in slices, that series with
// recent samples stay, and that the postings are rebuilt once they have
// enough references of removed series.
func TestDropIdleSlices(t *testing.T) {
	for _, c := range []struct{ idle, live, dead int }{
		{0, 10, 0}, {10, 0, 0}, // without an index
		{3*sliceSeries + 1, 0, 0}, {5*sliceSeries + 500, 2500, 0}, {1200, 10_000, 1200}, {900, 200, 900},
	} {
		t.Run(fmt.Sprint(c.idle, " of ", c.idle+c.live), func(t *testing.T) {
			b := newBench(t)
			b.churn("a", 0, c.idle, b.now.UnixMilli())
			if err := b.ing.Flush(); err != nil {
				t.Fatal(err)
			}
			b.set(b.now.Add(2 * idleSeries))
			b.churn("a", c.idle, c.live, b.now.UnixMilli())
			before := b.ing.account.bytes.Load()
			if err := b.ing.Flush(); err != nil { // the series pushed just now are not idle
				t.Fatal(err)
			}
			th := b.ing.head("a", true)
			th.consistent(t)
			if n := th.seriesCount(); n != c.live || th.dead != c.dead {
				t.Errorf("%d series and %d removed ones, want %d and %d", n, th.dead, c.live, c.dead)
			}
			if n := b.ing.largestSlice.Load(); n > sliceSeries || c.idle > 0 && n == 0 {
				t.Errorf("at most %d series were removed under one lock, want 1 to %d", n, sliceSeries)
			}
			if c.idle > 0 && b.ing.account.bytes.Load() >= before {
				t.Errorf("the head has %d bytes, want fewer than before the removal: %d", b.ing.account.bytes.Load(), before)
			}
			b.set(b.now.Add(time.Minute))
			b.churn("a", 0, c.idle/2, b.now.UnixMilli()) // some series receive samples again
			th.consistent(t)
			if n := b.selected("a", "job", "x"); n != c.idle+c.live {
				t.Errorf("a query returned %d series, want %d", n, c.idle+c.live)
			}
			if n := b.selected("a", "i", "5"); n != 1 {
				t.Errorf("a query for one series returned %d series", n)
			}
		})
	}
}

// TestSeriesOfOneHash checks that removal keeps the other series with the same
// hash, for every position in the chain.
func TestSeriesOfOneHash(t *testing.T) {
	for mask := range 8 {
		th := newTenantHead("a", &account{})
		var list, gone []*memSeries
		for i := range 3 {
			s := newMemSeries(labels.FromStrings("i", fmt.Sprint(i)), 7, uint64(i+1))
			th.add(s)
			list = append(list, s)
			if mask>>i&1 == 1 {
				gone = append(gone, s)
			}
		}
		if n := th.remove(append(gone, gone...), idleTimes{}); n != len(gone) {
			t.Errorf("mask %d: %d removed, want %d", mask, n, len(gone))
		}
		for i, s := range list {
			if found := th.find(7, s.labels) == s; found == slices.Contains(gone, s) {
				t.Errorf("mask %d: series %d found: %v", mask, i, found)
			}
		}
		th.consistent(t)
	}
}

// TestDropIdleUnderPushes pushes the series that are being removed, and new ones,
// concurrently with the removal: no sample may be lost, no series may exist twice,
// and queries by postings must find all series.
func TestDropIdleUnderPushes(t *testing.T) {
	b := newDiskBench(t, smallDisk{dir: t.TempDir()}) // no fsync per push
	const n, rounds = 6000, 4
	b.churn("a", 0, n, b.now.UnixMilli())
	pushed := int64(n)
	for round := range rounds {
		if err := b.ing.Flush(); err != nil {
			t.Fatal(err)
		}
		b.set(b.now.Add(2 * idleSeries))
		now := b.now.UnixMilli()
		var samples atomic.Int64
		var wg sync.WaitGroup
		stop := make(chan struct{})
		for g := range 3 {
			wg.Go(func() {
				for i := g * 50; ; i = (i + 150) % n {
					select {
					case <-stop:
						return
					default:
					}
					var entries []series.Entry
					for k := i; k < min(i+50, n); k++ {
						entries = append(entries, entry(metric("m", "i", fmt.Sprint(k), "mod", fmt.Sprint(k%7), "job", "x"), f(now+samples.Add(1), 1)))
					}
					if _, err := b.ing.Push(context.Background(), &series.Batch{Tenant: "a", Entries: entries}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Go(func() {
			for k := 0; ; k++ {
				select {
				case <-stop:
					return
				default:
				}
				e := entry(metric("new", "i", fmt.Sprint(round, "-", k), "job", "x"), f(now, 1))
				if _, err := b.ing.Push(context.Background(), &series.Batch{Tenant: "a", Entries: []series.Entry{e}}); err != nil {
					t.Error(err)
				}
				samples.Add(1)
			}
		})
		b.ing.sealMu.Lock()
		b.ing.dropIdle(idleTimes{now - 1, now - 1})
		b.ing.head("a", true).reindex(b.ing.nextRef.Load)
		b.ing.sealMu.Unlock()
		close(stop)
		wg.Wait()
		pushed += samples.Load()
		b.ing.head("a", true).consistent(t)
		total := int64(0)
		for _, list := range b.read("a") {
			total += int64(len(list))
		}
		if total != pushed {
			t.Fatalf("round %d: %d samples, want %d", round, total, pushed)
		}
		if got := b.selected("a", "__name__", "m"); got != n {
			t.Errorf("round %d: a query by postings returned %d series, want %d", round, got, n)
		}
	}
	if b.ing.largestSlice.Load() > sliceSeries {
		t.Errorf("%d series were removed under one lock, want at most %d", b.ing.largestSlice.Load(), sliceSeries)
	}
}

// TestReindexIncludesAddedSeries checks that series that are added while postings are
// rebuilt are in the new ones, in order and once.
func TestReindexIncludesAddedSeries(t *testing.T) {
	th := newTenantHead("a", &account{})
	ref := uint64(0)
	add := func(n int) {
		for range n {
			ref++
			th.add(newMemSeries(labels.FromStrings("i", fmt.Sprint(ref), "job", "x"), ref, ref))
		}
	}
	add(2 * indexFrom)
	late := 3*sliceSeries + 7
	th.reindex(func() uint64 {
		last := ref
		add(late) // the caller holds th.mu
		return last
	})
	th.consistent(t)
	var refs []uint64
	for p := th.postings.Postings(context.Background(), "job", "x"); p.Next(); {
		refs = append(refs, uint64(p.At()))
	}
	if len(refs) != 2*indexFrom+late || !slices.IsSorted(refs) || len(slices.Compact(refs)) != 2*indexFrom+late {
		t.Errorf("%d references, want %d in order, each once", len(refs), 2*indexFrom+late)
	}
}

// TestPushWait checks that the metric is the longest wait of the last one to two
// minutes.
func TestPushWait(t *testing.T) {
	var r recentMax
	at := func(s int64) time.Time { return time.Unix(600_000+s, 0) }
	for _, c := range []struct {
		at         int64
		note, want time.Duration
	}{{0, 3, 3}, {10, 2, 3}, {59, 0, 3}, {60, 1, 3}, {119, 0, 3}, {120, 0, 1}, {179, 0, 1}, {180, 0, 0}, {200, 9, 9}, {500, 0, 0}, {510, 5, 5}, {100, 0, 0}} {
		if c.note > 0 {
			r.note(at(c.at), c.note)
		}
		if got := r.value(at(c.at)); got != c.want {
			t.Errorf("value after %d s = %d, want %d", c.at, got, c.want)
		}
	}
	b := newBench(t)
	if b.push("a", entry(metric("m"), f(b.now.UnixMilli(), 1))); b.ing.gate.waits.value(b.now) != 0 {
		t.Error("a push waited although the gate was free")
	}
	deadline := time.Now().Add(20 * time.Second)
	for b.ing.gate.waits.value(time.UnixMilli(b.clock.Load())) == 0 {
		if time.Now().After(deadline) {
			t.Fatal("no wait was recorded")
		}
		b.ing.gate.Lock()
		done := make(chan error, 1)
		go func() {
			_, err := b.ing.Push(context.Background(), &series.Batch{Tenant: "a", Entries: []series.Entry{entry(metric("m"), f(1, 1))}})
			done <- err
		}()
		for range 100 { // the push waits during this loop
			b.clock.Add(1)
			time.Sleep(100 * time.Microsecond)
		}
		b.ing.gate.Unlock()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkDropIdle removes idle series of one tenant while another tenant pushes,
// and reports the longest duration of a push of each.
func BenchmarkDropIdle(b *testing.B) {
	for _, n := range []int{200_000, 1_000_000} {
		for _, share := range []int{100, 50} {
			b.Run(fmt.Sprintf("series=%d/idle=%d%%", n, share), func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					ing, since := headOf(b, n, share)
					stop, longest := pusher(ing)
					b.StartTimer()
					ing.sealMu.Lock()
					ing.dropIdle(idleTimes{since, since})
					ing.sealMu.Unlock()
					b.StopTimer()
					b.ReportMetric(stop().Seconds()*1000, "other-push-ms-max")
					b.ReportMetric(longest().Seconds()*1000, "own-push-ms-max")
					if err := ing.Close(); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			})
		}
	}
}

// headOf returns an ingester with n series of tenant a. share percent of them have
// their last sample before the returned time, the others after it.
func headOf(b *testing.B, n, share int) (*Ingester, int64) {
	b.Helper()
	tb := &bench{dir: b.TempDir()}
	tb.set(time.UnixMilli(1_700_000_000_000))
	o := tb.options()
	o.Replication = 3 // no fsync per push
	o.Limits = defaultLimits
	ing, err := Open(context.Background(), o)
	if err != nil {
		b.Fatal(err)
	}
	ing.background.Stop() // no other work
	th := ing.head("a", true)
	th.mu.Lock()
	defer th.mu.Unlock()
	now := tb.now.UnixMilli()
	for i := range n {
		ls := labels.FromStrings("__name__", fmt.Sprint("metric_", i%200), "cluster", "c1", "instance", fmt.Sprint("host-", i/200), "job", "node",
			"namespace", fmt.Sprint("ns-", i%50), "pod", fmt.Sprint("pod-", i), "region", "r1", "shard", fmt.Sprint(i%10), "zone", fmt.Sprint(i%3))
		s := ing.newSeries(th, newSeries{labels: ls, hash: ls.Hash(), ref: ing.nextRef.Add(1)})
		if s.lastT = now - 1; i%100 >= share {
			s.lastT = now + 1
		}
	}
	return ing, now
}

// pusher pushes samples of up to 5,000 series each of the tenants b and a until
// `stop` is called. `stop` returns the duration of the longest push of b, and `own` that of
// the longest push of a. Call `own` after `stop`.
func pusher(ing *Ingester) (stop, own func() time.Duration) {
	end := make(chan struct{})
	var wg sync.WaitGroup
	var longest [2]time.Duration
	for i, id := range []tenant.ID{"b", "a"} {
		wg.Go(func() {
			for k := 0; ; k++ {
				select {
				case <-end:
					return
				case <-time.After(time.Millisecond):
				}
				e := entry(metric("pushed", "i", fmt.Sprint(k%5000)), f(1_700_000_000_000+int64(k), 1))
				start := time.Now()
				_, _ = ing.Push(context.Background(), &series.Batch{Tenant: id, Entries: []series.Entry{e}})
				longest[i] = max(longest[i], time.Since(start))
			}
		})
	}
	return func() time.Duration { close(end); wg.Wait(); return longest[0] }, func() time.Duration { return longest[1] }
}

func defaultLimits(tenant.ID) limits.Limits { return limits.Default() }

func seriesRef(s *memSeries) storage.SeriesRef { return storage.SeriesRef(s.ref) }
