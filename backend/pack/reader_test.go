package pack

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

func testMatchers() [][]*labels.Matcher {
	ne := func(n, v string) *labels.Matcher { return labels.MustNewMatcher(labels.MatchNotEqual, n, v) }
	re := func(n, v string) *labels.Matcher { return labels.MustNewMatcher(labels.MatchRegexp, n, v) }
	nre := func(n, v string) *labels.Matcher { return labels.MustNewMatcher(labels.MatchNotRegexp, n, v) }
	return [][]*labels.Matcher{
		nil,
		{eq("__name__", "up")},
		{eq("__name__", "")},
		{eq("__name__", "absent")},
		{ne("__name__", "up")},
		{re("__name__", "up|zz")},
		{nre("__name__", "r.*")},
		{eq("job", "api")},
		{eq("job", "")},
		{ne("job", "api")},
		{ne("instance", "")},
		{re("instance", "a.*")},
		{re("instance", ".*")},
		{re("instance", ".+")},
		{nre("instance", ".+")},
		{eq("nowhere", "")},
		{ne("nowhere", "")},
		{eq("__name__", "up"), re("job", "api|db"), ne("instance", "b:1")},
		{eq("__name__", "up"), eq("__name__", "zz")},
	}
}

func checkAll(t testing.TB, r *Reader, parts []part) {
	t.Helper()
	start := testDay * series.DayMillis
	ranges := [][2]int64{{math.MinInt64, math.MaxInt64}, {start, start + 3600000}, {start + 7200000, start + series.DayMillis},
		{start + series.DayMillis, math.MaxInt64}, {start + 10, start}, {0, 1}}
	for _, id := range []tenant.ID{"acme", "zeta", "nobody"} {
		for _, ms := range testMatchers() {
			for _, rg := range ranges {
				want := expect(parts, id, rg[0], rg[1], ms)
				sameSeries(t, readSelect(t, r, id, rg[0], rg[1], ms...), want)
				checkLabels(t, r, id, rg, ms, want)
			}
		}
	}
}

func checkLabels(t testing.TB, r *Reader, id tenant.ID, rg [2]int64, ms []*labels.Matcher, want []series.WithChunks) {
	t.Helper()
	names, jobs := map[string]struct{}{}, map[string]struct{}{}
	for _, s := range want {
		s.Labels.Range(func(l labels.Label) { names[l.Name] = struct{}{} })
		if j := s.Labels.Get("job"); j != "" {
			jobs[j] = struct{}{}
		}
	}
	gotNames, err := r.LabelNames(context.Background(), id, rg[0], rg[1], ms...)
	if err != nil {
		t.Fatal(err)
	}
	gotJobs, err := r.LabelValues(context.Background(), id, "job", rg[0], rg[1], ms...)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(gotNames, sortedKeys(names)) || !slices.Equal(gotJobs, sortedKeys(jobs)) {
		t.Fatalf("matchers %v: names %v, want %v; jobs %v, want %v", ms, gotNames, sortedKeys(names), gotJobs, sortedKeys(jobs))
	}
}

func TestSmallPack(t *testing.T) {
	parts := smallParts(t)
	path := filepath.Join(t.TempDir(), "a", "b", "small.pk")
	info := writeParts(t, path, Options{ID: testID, Source: "ingester-1"}, parts)
	cache := NewPageCache(1 << 20)
	r := openPath(t, path, WithPageCache(cache))
	if got := r.Info(); fmt.Sprint(got) != fmt.Sprint(info) || got.ID != testID || got.Source != "ingester-1" || len(got.Sections) != 3 {
		t.Fatalf("Info = %+v, Close returned %+v", got, info)
	}
	first := info.Sections[0]
	if first.Series != 5 || first.Samples != 30+480+480+5+1 || first.MinTime != testDay*series.DayMillis {
		t.Fatalf("first section = %+v", first)
	}
	for range 2 { // cold and warm
		checkAll(t, r, parts)
	}
	if err := r.Verify(); err != nil {
		t.Fatal(err)
	}
	if cache.Bytes() == 0 {
		t.Fatal("no page is cached after a read")
	}
	if err := r.Release(); err != nil {
		t.Fatal(err)
	}
	if cache.Bytes() != 0 {
		t.Fatalf("cache has %d bytes after the pack was closed, want 0", cache.Bytes())
	}
}

func TestMetadata(t *testing.T) {
	path := filepath.Join(t.TempDir(), "small.pk")
	writeParts(t, path, Options{ID: testID}, smallParts(t))
	r := openPath(t, path)
	got, err := r.Metadata("acme")
	if err != nil {
		t.Fatal(err)
	}
	want := []series.MetricMetadata{
		{Metric: "rpc_seconds", Metadata: metadata.Metadata{Type: "histogram", Unit: "seconds"}},
		{Metric: "up", Metadata: metadata.Metadata{Type: "gauge", Help: "Newer text."}},
	}
	if !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for _, id := range []tenant.ID{"zeta", "nobody"} {
		if got, err := r.Metadata(id); err != nil || len(got) != 0 {
			t.Fatalf("Metadata(%s) = %v, %v", id, got, err)
		}
	}
}

// TestRandomPacks writes random series, compressed or not, and reads them back
// with page caches of random sizes.
func TestRandomPacks(t *testing.T) {
	for seed := range uint64(25) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		parts := randomParts(t, rnd)
		path := filepath.Join(t.TempDir(), "random.pk")
		writeParts(t, path, Options{ID: testID, plain: seed%2 == 0}, parts)
		r := openPath(t, path, WithPageCache(NewPageCache(int64(rnd.IntN(1<<16)))))
		checkAll(t, r, parts)
		if err := r.Verify(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func randomParts(t testing.TB, rnd *rand.Rand) []part {
	var parts []part
	for _, id := range []tenant.ID{"acme", "zeta"} {
		for day := testDay; day < testDay+3; day++ {
			if rnd.IntN(3) == 0 {
				continue
			}
			p := part{tenant: id, day: day}
			seen := map[string]bool{}
			for range 1 + rnd.IntN(120) {
				ls := randomLabels(rnd)
				if seen[ls.String()] {
					continue
				}
				seen[ls.String()] = true
				start := day*series.DayMillis + rnd.Int64N(series.DayMillis-4*series.SubChunkMillis)
				chunks := floats(t, start, 1+rnd.Int64N(15000), 1+rnd.IntN(400), func(int) float64 { return rnd.NormFloat64() })
				if rnd.IntN(5) == 0 {
					chunks = mixed(t, start)
				}
				p.series = append(p.series, series.WithChunks{Labels: ls, Chunks: chunks})
			}
			sortSeries(p.series)
			parts = append(parts, p)
		}
	}
	return parts
}

func randomLabels(rnd *rand.Rand) labels.Labels {
	b := labels.NewBuilder(labels.EmptyLabels())
	b.Set("id", fmt.Sprint(rnd.IntN(1000)))
	if rnd.IntN(20) > 0 {
		b.Set("__name__", []string{"up", "zz", "rpc_seconds", "ünïcode", "a"}[rnd.IntN(5)])
	}
	for _, n := range []string{"job", "instance", "Zone", "le", "\xff"} {
		if rnd.IntN(2) == 0 {
			b.Set(n, []string{"api", "db", "a:1", "b:1", strings.Repeat("x", 300), "\x00", "\xfe\xff"}[rnd.IntN(7)])
		}
	}
	return b.Labels()
}

func TestReferences(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.pk")
	parts := smallParts(t)
	writeParts(t, path, Options{ID: testID}, parts)
	r := openPath(t, path)
	if !r.Retain() {
		t.Fatal("Retain of an open reader failed")
	}
	if err := errors.Join(os.Remove(path), r.Release()); err != nil {
		t.Fatal(err)
	}
	checkAll(t, r, parts) // a query that holds a reference can continue
	if err := r.Release(); err != nil {
		t.Fatal(err)
	}
	if r.Retain() {
		t.Fatal("Retain of a closed reader succeeded")
	}
	if err := r.Release(); !errors.Is(err, ErrClosed) {
		t.Fatalf("Release of a closed reader = %v", err)
	}
	if _, err := r.Select(context.Background(), "acme", 0, math.MaxInt64); !errors.Is(err, ErrClosed) {
		t.Fatalf("Select of a closed reader = %v", err)
	}
}

func TestSelectStopsWithContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.pk")
	writeParts(t, path, Options{ID: testID}, smallParts(t))
	r := openPath(t, path)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := r.Select(ctx, "acme", 0, math.MaxInt64); !errors.Is(err, context.Canceled) {
		t.Fatalf("Select with a canceled context: error %v, want Canceled", err)
	}
}

// TestSharedReader reads one pack from many goroutines with a cache for only a
// few of its pages.
func TestSharedReader(t *testing.T) {
	parts := smallParts(t)
	path := filepath.Join(t.TempDir(), "x.pk")
	writeParts(t, path, Options{ID: testID}, parts)
	cache := NewPageCache(2500)
	r := openPath(t, path, WithPageCache(cache))
	other := openPath(t, path, WithPageCache(cache))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 50 {
				for _, r := range []*Reader{r, other} {
					if !r.Retain() {
						t.Error("Retain of an open reader failed")
						return
					}
					if err := errors.Join(useAll(r), r.Release()); err != nil {
						t.Errorf("reader %d: %v", i, err)
					}
				}
			}
		})
	}
	wg.Wait()
	if n := cache.Bytes(); n > 2500 || n == 0 {
		t.Fatalf("cache has %d bytes, want 1 to 2500", n)
	}
}
