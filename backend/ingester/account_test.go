package ingester

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// newStillBench returns a bench whose ingester runs no goroutines and does not sync
// its log with each push.
func newStillBench(t *testing.T) *bench {
	t.Helper()
	return newDiskBench(t, smallDisk{dir: t.TempDir()})
}

// counted checks the counted bytes of every tenant against the actual data. Nothing
// else may run.
func (ing *Ingester) counted(t *testing.T) {
	t.Helper()
	var total, established, reserved, held, tenants int64
	for _, th := range ing.heads() {
		want, beyond := tenantBytes, 0
		for _, s := range th.all() {
			size := s.size()
			want += size
			if s.established {
				established += size
				beyond++
			}
		}
		if index := th.indexSize(); index > th.indexBytes || th.dead == 0 && index != th.indexBytes {
			t.Errorf("tenant %s: counted index bytes = %d, want %d", th.id, th.indexBytes, index)
		}
		want += th.indexBytes
		for name, m := range th.metadata {
			want += metadataSize(&series.MetricMetadata{Metric: name, Metadata: m.Metadata})
		}
		want += exemplarBytes*int64(cap(th.exemplars.ring)) + seriesExemplarBytes*int64(len(th.exemplars.newest))
		for _, e := range th.exemplars.ring {
			want += allocated(e.Labels.ByteSize())
		}
		want += reservationBytes * int64(len(th.reserved))
		reserved += checkReserved(t, th)
		held += th.held.Load()
		if got := th.bytes.Load(); got != want {
			t.Errorf("tenant %s: counted bytes = %d, want %d", th.id, got, want)
		}
		if beyond != th.established {
			t.Errorf("tenant %s: counted established series = %d, want %d", th.id, th.established, beyond)
		}
		total += want
		if th.count > 0 {
			tenants++
		}
	}
	a := &ing.account
	if a.bytes.Load() != total || a.established.Load() != established || a.reserved.Load() != reserved || a.held.Load() != held || a.tenants.Load() != tenants {
		t.Errorf("counted: %d bytes, %d established bytes, %d reserved series, %d reserved bytes, %d tenants; want %d, %d, %d, %d, %d",
			a.bytes.Load(), a.established.Load(), a.reserved.Load(), a.held.Load(), a.tenants.Load(), total, established, reserved, held, tenants)
	}
}

// checkReserved checks a tenant's reserved series against their counts, and returns
// their number.
func checkReserved(t *testing.T, th *tenantHead) int64 {
	t.Helper()
	series, held := 0, int64(0)
	for hash, p := range th.reserved {
		if p.series == 0 {
			t.Errorf("hash %d is reserved for no series", hash)
		}
		series += int(p.series)
		held += p.bytes()
	}
	if th.reservedCount != series || th.held.Load() != held {
		t.Errorf("tenant %s: counted %d reserved series and %d bytes, want %d and %d", th.id, th.reservedCount, th.held.Load(), series, held)
	}
	return int64(series)
}

// indexSize returns the counted size of an index built now.
func (th *tenantHead) indexSize() int64 {
	if th.postings == nil {
		return 0
	}
	all := th.all()
	slices.SortFunc(all, func(a, b *memSeries) int { return cmp.Compare(a.ref, b.ref) })
	x := newSeriesIndex(len(all))
	x.add(all)
	return x.bytes
}

// wideHistogram returns a histogram with n buckets without gaps, whose count
// increases with t.
func wideHistogram(n int, t int64) *histogram.Histogram {
	h := &histogram.Histogram{Schema: 3, ZeroThreshold: 1e-9, Sum: float64(t), PositiveSpans: []histogram.Span{{Length: uint32(n)}}, PositiveBuckets: make([]int64, n)}
	h.PositiveBuckets[0] = t/1000%1_000_000 + 1
	h.Count = uint64(h.PositiveBuckets[0]) * uint64(n)
	return h
}

// randomSample returns a sample at about now or, rarely, hours earlier: for kind 1
// an integer histogram, for kind 2 a float histogram, for kind 3 an integer
// histogram or a float, and otherwise a float.
func randomSample(rng *rand.Rand, now int64, kind int) series.Sample {
	t := now + rng.Int64N(1000)
	if rng.IntN(8) == 0 {
		t -= rng.Int64N(3 * series.WindowMillis)
	}
	switch h := wideHistogram(1+rng.IntN(40), t); {
	case kind == 1 || kind == 3 && rng.IntN(2) == 0:
		return series.Sample{T: t, H: h}
	case kind == 2:
		return series.Sample{T: t, FH: h.ToFloat(nil)}
	}
	return series.Sample{T: t, V: rng.Float64()}
}

// randomPush pushes samples of some series of a tenant, with metadata and
// exemplars.
func (b *bench) randomPush(rng *rand.Rand, id tenant.ID, names int) {
	b.t.Helper()
	now, batch := b.clock.Load(), &series.Batch{Tenant: id, Established: rng.IntN(4) == 0}
	for range 1 + rng.IntN(30) {
		i := rng.IntN(names)
		e := entry(metric(fmt.Sprint("m", i%7), "i", fmt.Sprint(i), "long", strings.Repeat("x", i%50)))
		for range rng.IntN(4) {
			e.Samples = append(e.Samples, randomSample(rng, now, i%13))
		}
		if rng.IntN(10) == 0 {
			e.Exemplars = append(e.Exemplars, exemplar.Exemplar{Labels: labels.FromStrings("trace", strings.Repeat("t", rng.IntN(60))), Ts: now, HasTs: true, Value: rng.Float64()})
		}
		batch.Entries = append(batch.Entries, e)
	}
	for range rng.IntN(3) {
		batch.Metadata = append(batch.Metadata, series.MetricMetadata{Metric: fmt.Sprint("m", rng.IntN(50)),
			Metadata: metadata.Metadata{Type: "counter", Help: strings.Repeat("h", rng.IntN(100))}})
	}
	if _, err := b.ing.Push(context.Background(), batch); err != nil {
		b.t.Error(err)
	}
}

// TestCounted checks that after pushes of every kind, seals, removals, replays and
// rejected series the incremental counts are exact.
func TestCounted(t *testing.T) {
	b := newStillBench(t)
	b.lim.MaxExemplars = 40
	rng := rand.New(rand.NewPCG(3, 4))
	indexed := 0
	steps := []func(){
		func() {}, func() {}, func() {},
		func() {
			if !b.ing.filled(sharePercent) {
				b.churn("a", rng.IntN(3)*1000, 1500, b.now.UnixMilli())
			}
		},
		func() {
			if err := b.ing.Flush(); err != nil {
				t.Fatal(err)
			}
		},
		func() {
			if err := b.ing.sealDue(); err != nil {
				t.Fatal(err)
			}
		},
		func() { b.set(b.now.Add(pressedIdle + time.Minute)) },
		func() { b.set(b.now.Add(time.Hour)) },
		func() { b.ing.opts.MemoryBytes = b.ing.account.bytes.Load() * 100 / 84 },
		func() { b.ing.opts.MemoryBytes = b.ing.account.bytes.Load() * 100 / 70 },
		func() { b.ing.opts.MemoryBytes = 0 },
		func() { b.lim.MaxActiveSeries = rng.IntN(3) * 300 },
		func() { b.lim.MaxExemplars = rng.IntN(60) },
		func() {
			if rng.IntN(3) > 0 { // otherwise reserved series leave little memory for new ones
				_ = os.Remove(filepath.Join(b.dir, activeFile))
			}
			b.crash()
			b.still()
		},
	}
	for range 300 {
		for _, id := range []tenant.ID{"a", "b", "c"} {
			for range rng.IntN(5) {
				if !b.ing.filled(sharePercent) {
					b.randomPush(rng, id, map[tenant.ID]int{"a": 3000, "b": 300, "c": 10}[id])
				}
			}
		}
		b.ing.counted(t)
		steps[rng.IntN(len(steps))]()
		b.ing.counted(t)
		if t.Failed() {
			return
		}
		if th := b.ing.head("a", false); th != nil && th.postings != nil {
			indexed++
		}
		before := b.ing.account.bytes.Load()
		b.ing.sealMu.Lock()
		b.ing.recount()
		b.ing.sealMu.Unlock()
		if after := b.ing.account.bytes.Load(); after != before {
			t.Fatalf("counted %d bytes, after a recount %d", before, after)
		}
	}
	if indexed < 25 {
		t.Errorf("only %d of 300 rounds had an index", indexed)
	}
}

// TestCountedAfterFailedSeal checks that a failed seal does not change the counts.
func TestCountedAfterFailedSeal(t *testing.T) {
	b := newStillBench(t)
	rng := rand.New(rand.NewPCG(5, 6))
	for range 40 {
		b.randomPush(rng, "a", 500)
	}
	s, err := func() (*sealer, error) {
		s := &sealer{ing: b.ing, sealTimes: sealTimes{bound: endOfTime, far: endOfTime}, deletions: b.ing.deletions.number}
		return s, s.writeTenant(b.ing.head("a", true))
	}()
	if err != nil || len(s.taken) == 0 {
		t.Fatalf("%d series taken, error %v", len(s.taken), err)
	}
	b.ing.counted(t)
	if err := s.giveUp(); err != nil {
		t.Fatal(err)
	}
	b.ing.counted(t)
}

// TestCountedUnderRaces pushes, seals and removes series concurrently, with and
// without memory pressure, and checks the counts afterwards.
func TestCountedUnderRaces(t *testing.T) {
	b := newStillBench(t)
	b.lim.MaxExemplars, b.lim.MaxActiveSeries = 50, 1500
	for round := range 8 {
		var pushers sync.WaitGroup
		for g := range 4 {
			pushers.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(g), uint64(round)))
				for range 60 {
					b.randomPush(rng, []tenant.ID{"a", "a", "b", "c"}[g], 4000)
				}
			})
		}
		b.set(b.now.Add([]time.Duration{pressedIdle + time.Minute, time.Hour}[round%2]))
		if err := b.ing.seal(endOfTime); err != nil {
			t.Error(err)
		}
		now := b.now.UnixMilli()
		b.ing.sealMu.Lock()
		b.ing.dropIdle(idleTimes{now + 1, now - 1000*int64(round%3)})
		th := b.ing.head("a", true)
		th.mu.RLock()
		indexed := th.postings != nil // only then can it be indexed again
		th.mu.RUnlock()
		if indexed {
			th.reindex(b.ing.nextRef.Load)
		}
		b.ing.recount()
		b.ing.sealMu.Unlock()
		pushers.Wait()
		b.ing.counted(t)
		for _, th := range b.ing.heads() {
			th.consistent(t)
		}
	}
}

// TestMapsShrink checks that maps and postings are rebuilt after a burst of
// series, and that series with equal hashes stay chained.
func TestMapsShrink(t *testing.T) {
	th := newTenantHead("a", &account{})
	for i := range uint64(4 * indexFrom) {
		th.add(newMemSeries(labels.FromStrings("i", fmt.Sprint(i)), i/2, i^1+1)) // the first of a chain is not its newest
	}
	var gone []*memSeries
	for _, s := range th.all() {
		if s.ref > indexFrom {
			gone = append(gone, s)
		}
	}
	before, old := th.bytes.Load(), th.series
	th.remove(gone, idleTimes{})
	th.reindex(func() uint64 { return 4 * indexFrom })
	th.consistent(t)
	for i := range uint64(indexFrom) {
		if s := th.find(i/2, labels.FromStrings("i", fmt.Sprint(i))); s == nil || s.ref != i^1+1 {
			t.Fatalf("find(series %d) = %v", i, s)
		}
	}
	if after := th.bytes.Load(); after > before/2 || len(old) != len(th.series) || th.indexBytes != th.indexSize() {
		t.Errorf("%d bytes after the removal, %d before it, want at most half; maps of %d series before, %d after; %d bytes of the index, counted %d",
			after, before, len(old), len(th.series), th.indexSize(), th.indexBytes)
	}
	if freed := th.account.freed.Load(); freed != before-th.bytes.Load() {
		t.Errorf("freed = %d bytes, want %d", freed, before-th.bytes.Load())
	}
}
