package querier

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

var everything = labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+")

func TestNoTenantNoAnswer(t *testing.T) {
	b := newBed(t)
	limited := WithLimits(context.Background(), &limits.Limits{})
	contexts := map[string]context.Context{
		"none":      limited,
		"no policy": tenant.NewContext(limited, tenant.Access{Tenant: "a"}),
		"no name":   tenant.NewContext(limited, tenant.Access{Policy: tenant.Unrestricted()}),
		"bad name":  b.as(".."),
		"no limits": tenant.NewContext(context.Background(), tenant.Access{Tenant: "a", Policy: tenant.Unrestricted()}),
	}
	for name, ctx := range contexts {
		t.Run(name, func(t *testing.T) {
			q, _ := b.q.Querier(start, start+series.DayMillis)
			cq, _ := b.q.ChunkQuerier(start, start+series.DayMillis)
			set := q.Select(ctx, false, nil, everything)
			if set.Next() || set.Err() == nil {
				t.Error("Select without a tenant succeeded")
			}
			cset := cq.Select(ctx, false, nil, everything)
			if cset.Next() || cset.Err() == nil {
				t.Error("Select of the chunk querier without a tenant succeeded")
			}
			for _, lq := range []storage.LabelQuerier{q, cq} {
				if names, _, err := lq.LabelNames(ctx, nil); err == nil || len(names) > 0 {
					t.Error("LabelNames without a tenant succeeded")
				}
				if values, _, err := lq.LabelValues(ctx, "i", nil); err == nil || len(values) > 0 {
					t.Error("LabelValues without a tenant succeeded")
				}
			}
			if _, err := b.q.ExemplarQuerier(ctx); err == nil {
				t.Error("ExemplarQuerier without a tenant succeeded")
			}
		})
	}
	if len(b.source.requests) != 0 {
		t.Errorf("the source was called without a tenant: %v", b.source.requests)
	}
}

func TestTenantsApart(t *testing.T) {
	b := newBed(t)
	q, _ := b.q.Querier(start, start+series.DayMillis)
	defer q.Close()
	for id, want := range map[tenant.ID][]string{"a": {"up"}, "b": {"secret"}, "c": nil} {
		got, _, err := q.LabelValues(b.as(id), "__name__", nil)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("tenant %s: metrics = %v, %v; want %v", id, got, err, want)
		}
		set := q.Select(b.as(id), true, nil, everything)
		for set.Next() {
			if name := set.At().Labels().Get("__name__"); !slices.Contains(want, name) {
				t.Errorf("tenant %s sees %s", id, name)
			}
		}
		if set.Err() != nil {
			t.Error(set.Err())
		}
	}
	eq, err := b.q.ExemplarQuerier(b.as("b"))
	if err != nil {
		t.Fatal(err)
	}
	if found, err := eq.Select(0, 1); err != nil || found[0].SeriesLabels.Get("tenant") != "b" {
		t.Errorf("exemplars %v, %v", found, err)
	}
}

// TestRetention checks that no method requests or returns samples older than
// the retention.
func TestRetention(t *testing.T) {
	b := newBed(t)
	b.lim.Retention = limits.Duration(time.Hour)
	from, now := b.now.Add(-time.Hour).UnixMilli(), b.now.UnixMilli()
	q, _ := b.q.Querier(start, now)
	cq, _ := b.q.ChunkQuerier(start, now)
	ways := map[string]func(){
		"select": func() { q.Select(b.as("a"), false, nil, everything) },
		"hints":  func() { q.Select(b.as("a"), false, &storage.SelectHints{Start: start, End: now}, everything) },
		"series": func() {
			q.Select(b.as("a"), false, &storage.SelectHints{Start: start, End: now, Func: "series"}, everything)
		},
		"chunks":       func() { cq.Select(b.as("a"), false, nil, everything) },
		"label names":  func() { _, _, _ = q.LabelNames(b.as("a"), nil) },
		"label values": func() { _, _, _ = q.LabelValues(b.as("a"), "i", nil) },
	}
	for name, ask := range ways {
		ask()
		if req := b.source.last(); req.MinTime != from || req.MaxTime != now || req.Tenant != "a" {
			t.Errorf("%s: requested [%d, %d] of %s, want [%d, %d]", name, req.MinTime, req.MaxTime, req.Tenant, from, now)
		}
	}
	eq, err := b.q.ExemplarQuerier(b.as("a"))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = eq.Select(start, now)
	if b.source.exStart != from {
		t.Errorf("exemplars requested from %d, want %d", b.source.exStart, from)
	}
	// Older samples of a chunk that overlaps the retention are omitted, too.
	set := q.Select(b.as("a"), false, nil, everything)
	for set.Next() {
		if it := set.At().Iterator(nil); it.Next() == chunkenc.ValNone || it.AtT() != from {
			t.Errorf("first sample at %d, want %d", it.AtT(), from)
		}
	}
	// A range that ends before the retention is empty; the source is not called.
	asked := len(b.source.requests)
	old, _ := b.q.Querier(start, start+1000)
	if set := old.Select(b.as("a"), false, nil, everything); set.Next() || set.Err() != nil {
		t.Errorf("got samples older than the retention: %v", set.Err())
	}
	if names, _, err := old.LabelNames(b.as("a"), nil); len(names) > 0 || err != nil {
		t.Errorf("label names older than the retention: %v, %v", names, err)
	}
	if len(b.source.requests) != asked {
		t.Error("the source was called for a range older than the retention")
	}
}

// TestTrimming checks that Next and Seek return only samples in the range, for
// ranges that start and end anywhere in a chunk, with new and with reused
// iterators.
func TestTrimming(t *testing.T) {
	b := newBed(t)
	ranges := [][2]int64{
		{start, start + series.DayMillis}, {start + 1, start + 59_999}, {start + 15_000, start + 15_000}, {start + 1, start + 2},
		{start + 20*60_000, start + 40*60_000}, {start + series.WindowMillis - 15_000, start + series.WindowMillis},
		{start - 1000, start - 1}, {start + series.DayMillis, start + 2*series.DayMillis},
	}
	var reuse chunkenc.Iterator
	for _, r := range ranges {
		var want []int64
		for ts := start; ts < start+series.DayMillis; ts += 15_000 {
			if ts >= r[0] && ts <= r[1] {
				want = append(want, ts)
			}
		}
		q, _ := b.q.Querier(r[0], r[1])
		set := q.Select(b.as("a"), false, nil, everything)
		for set.Next() {
			s := set.At()
			for range 2 { // a series may be read again
				reuse = s.Iterator(reuse)
				var got []int64
				for reuse.Next() != chunkenc.ValNone {
					got = append(got, reuse.AtT())
				}
				if !slices.Equal(got, want) {
					t.Errorf("[%d, %d]: %d samples with Next, want %d", r[0], r[1], len(got), len(want))
				}
			}
			reuse = s.Iterator(reuse)
			var got []int64
			for next := r[0] - 10; reuse.Seek(next) != chunkenc.ValNone; next = reuse.AtT() + 1 {
				got = append(got, reuse.AtT())
			}
			if !slices.Equal(got, want) {
				t.Errorf("[%d, %d]: %d samples with Seek, want %d", r[0], r[1], len(got), len(want))
			}
		}
		if set.Err() != nil {
			t.Error(set.Err())
		}
		_ = q.Close()
	}
}

// TestCopiesReadTwice checks that duplicate chunks, which occur while a window
// is sealed, are read once, even if the series is read repeatedly.
func TestCopiesReadTwice(t *testing.T) {
	b := newBed(t)
	one := b.source.data["a"][0]
	one.Chunks = append(slices.Clone(one.Chunks), one.Chunks...)
	b.source.data["a"] = []series.WithChunks{one}
	q, _ := b.q.Querier(start, start+series.DayMillis)
	cq, _ := b.q.ChunkQuerier(start, start+series.DayMillis)
	set, cset := q.Select(b.as("a"), false, nil, everything), cq.Select(b.as("a"), false, nil, everything)
	set.Next()
	cset.Next()
	s, cs := set.At(), cset.At()
	for range 3 {
		n, it := 0, s.Iterator(nil)
		for it.Next() != chunkenc.ValNone {
			n++
		}
		if n != 5760 || it.Err() != nil {
			t.Errorf("%d samples, %v; want 5760", n, it.Err())
		}
		if metas, err := storage.ExpandChunks(cs.Iterator(nil)); len(metas) != 48 || err != nil {
			t.Errorf("%d chunks, %v; want 48", len(metas), err)
		}
	}
}

func chunksOf(t *testing.T, b *bed, mint, maxt int64) []chunks.Meta {
	t.Helper()
	q, _ := b.q.ChunkQuerier(mint, maxt)
	set := q.Select(b.as("a"), true, nil, labels.MustNewMatcher(labels.MatchEqual, "i", "0"))
	if !set.Next() {
		t.Fatalf("no series: %v", set.Err())
	}
	metas, err := storage.ExpandChunks(set.At().Iterator(nil))
	if err != nil {
		t.Fatal(err)
	}
	return metas
}

// TestChunks checks that chunks within the range are returned byte for byte as
// stored, and that the first and last are trimmed to the range.
func TestChunks(t *testing.T) {
	b := newBed(t)
	stored := b.source.data["a"][0].Chunks
	mint, maxt := start+10*60_000, start+100*60_000-1 // 4 chunks: 20, 30, 30 and 10 minutes
	got := chunksOf(t, b, mint, maxt)
	if len(got) != 4 {
		t.Fatalf("%d chunks, want 4", len(got))
	}
	for i, m := range got {
		whole := i == 1 || i == 2
		if same := bytes.Equal(m.Chunk.Bytes(), stored[i].Data); same != whole {
			t.Errorf("chunk %d equals the stored one: %v, want %v", i, same, whole)
		}
		it, n := m.Chunk.Iterator(nil), 0
		var first, last int64
		for it.Next() != chunkenc.ValNone {
			if n == 0 {
				first = it.AtT()
			}
			last = it.AtT()
			n++
		}
		if first != m.MinTime || last != m.MaxTime || n != m.Chunk.NumSamples() || first < mint || last > maxt {
			t.Errorf("chunk %d has %d samples in [%d, %d], its meta says %d in [%d, %d]", i, n, first, last, m.Chunk.NumSamples(), m.MinTime, m.MaxTime)
		}
	}
	if got[0].MinTime != mint || got[3].MaxTime != start+100*60_000-15_000 {
		t.Errorf("chunks are from %d to %d", got[0].MinTime, got[3].MaxTime)
	}
}

// TestOverlappingChunks checks that overlapping chunks are merged into chunks
// that do not overlap.
func TestOverlappingChunks(t *testing.T) {
	b := newBed(t)
	late, err := series.Encode([]series.Sample{{T: start + 1, V: 1}, {T: start + 20_000, V: 2}})
	if err != nil {
		t.Fatal(err)
	}
	b.source.data["a"][0].Chunks = append(slices.Clone(b.source.data["a"][0].Chunks), late...)
	n, last := 0, int64(0)
	for _, m := range chunksOf(t, b, start, start+series.DayMillis) {
		for it := m.Chunk.Iterator(nil); it.Next() != chunkenc.ValNone; n++ {
			if it.AtT() <= last {
				t.Fatalf("sample at %d comes after one at %d", it.AtT(), last)
			}
			last = it.AtT()
		}
	}
	if n != 5762 {
		t.Errorf("%d samples, want 5762", n)
	}
}

// TestDamagedChunk checks that an unreadable chunk is an error, not an
// incomplete result.
func TestDamagedChunk(t *testing.T) {
	b := newBed(t)
	bad := slices.Clone(b.source.data["a"][0].Chunks)
	bad[0].Encoding = 99
	b.source.data["a"][0].Chunks = bad
	q, _ := b.q.Querier(start, start+series.DayMillis)
	set := q.Select(b.as("a"), false, nil, labels.MustNewMatcher(labels.MatchEqual, "i", "0"))
	set.Next()
	it := set.At().Iterator(nil)
	for it.Next() != chunkenc.ValNone {
		t.Fatal("a damaged chunk returned a sample")
	}
	if it.Err() == nil {
		t.Error("iterator of a damaged chunk has no error")
	}
	cq, _ := b.q.ChunkQuerier(start, start+series.DayMillis)
	cset := cq.Select(b.as("a"), false, nil, labels.MustNewMatcher(labels.MatchEqual, "i", "0"))
	cset.Next()
	if _, err := storage.ExpandChunks(cset.At().Iterator(nil)); err == nil {
		t.Error("chunk iterator of a damaged chunk has no error")
	}
}

// TestRelease checks that closing a querier releases its selections, once.
func TestRelease(t *testing.T) {
	b := newBed(t)
	q, _ := b.q.Querier(start, start+series.DayMillis)
	cq, _ := b.q.ChunkQuerier(start, start+series.DayMillis)
	for range 3 {
		q.Select(b.as("a"), false, nil, everything)
		cq.Select(b.as("a"), false, nil, everything)
	}
	if n := b.source.holding(); n != 6 {
		t.Fatalf("%d selections are not released before Close, want 6", n)
	}
	for range 2 {
		_, _ = q.Close(), cq.Close()
		if n := b.source.holding(); n != 0 {
			t.Errorf("%d selections are not released after Close", n)
		}
	}
	if res := b.instant(b.as("a"), t, "sum(rate(up[5m])) / count(up)"); res.Err != nil {
		t.Error(res.Err)
	}
	if n := b.source.holding(); n != 0 {
		t.Errorf("%d selections are not released after a query", n)
	}
}

func TestSelectHints(t *testing.T) {
	b := newBed(t)
	q, _ := b.q.Querier(start, start+10_000)
	q.Select(b.as("a"), false, &storage.SelectHints{Start: start - 5000, End: start + 5000, Func: "series"}, everything)
	req := b.source.last()
	if !req.LabelsOnly || req.MinTime != start || req.MaxTime != start+5000 {
		t.Errorf("request %+v", req)
	}
	set := q.Select(b.as("a"), true, nil, everything)
	var last labels.Labels
	for set.Next() {
		if labels.Compare(set.At().Labels(), last) <= 0 {
			t.Errorf("%s after %s", set.At().Labels(), last)
		}
		last = set.At().Labels()
	}
	if got, _, err := q.LabelValues(b.as("a"), "i", &storage.LabelHints{Limit: 2}); err != nil || len(got) != 2 {
		t.Errorf("values %v, %v", got, err)
	}
	b.source.err = errors.New("disk")
	if _, _, err := q.LabelNames(b.as("a"), nil); err == nil {
		t.Error("an error of the source was not returned")
	}
}
