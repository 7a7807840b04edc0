package store_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/column"
	"github.com/palliumhq/pallium/backend/objects"
	objectscounted "github.com/palliumhq/pallium/backend/objects/counted"
	"github.com/palliumhq/pallium/backend/objects/memory"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/rows"
	rowscounted "github.com/palliumhq/pallium/backend/rows/counted"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/store/storetest"
)

// TestManifestDecides checks that rows and packs of a generation that is not published are
// never read, even if they are newer or belong to an attempt that lost a race.
func TestManifestDecides(t *testing.T) {
	x := storetest.New(t, storetest.Ports{})
	x.Push(map[tenant.ID]storetest.Data{"a": storetest.Window(storetest.Rand(), storetest.Day, 1, 3, 2)}, "i1")
	before, err := x.Store.Catalog(t.Context(), "a", storetest.Day)
	if err != nil {
		t.Fatal(err)
	}
	unpublished := func(c store.Catalog) *store.Generation {
		g, err := x.Store.NewGeneration(t.Context(), c, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 12 { // more cells than a first read takes
			ls := labels.FromStrings("__name__", "metric_0", "wrong", fmt.Sprintf("%02d", i))
			if err := g.Add(t.Context(), ls, &column.Series{T: []int64{storetest.Day * series.DayMillis}, V: []float64{666}}); err != nil {
				t.Fatal(err)
			}
		}
		return g
	}
	loser := unpublished(before)
	x.Merge(storetest.Day)
	if _, err := loser.Publish(t.Context()); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("Publish of an attempt that lost a race: %v, want ErrConflict", err)
	}
	x.Check("after the loser")
	now, err := x.Store.Catalog(t.Context(), "a", storetest.Day)
	if err != nil {
		t.Fatal(err)
	}
	for range 9 { // newer generations fill the first cells of the rows
		stale := before // cannot publish: the version cell has changed
		stale.Manifest = now.Manifest
		g := unpublished(stale)
		now.Manifest.Version.Generation++ // the next attempt has a higher generation
		if _, err := g.Publish(t.Context()); !errors.Is(err, store.ErrConflict) {
			t.Fatalf("Publish of an attempt that lost a race: %v, want ErrConflict", err)
		}
	}
	x.Check("next to rows of newer generations")
	for _, m := range []*labels.Matcher{storetest.Metric("metric_0"), labels.MustNewMatcher(labels.MatchRegexp, "__name__", "metric_.*")} {
		got := x.Read("a", 0, math.MaxInt64, m)
		for s := range got {
			if strings.Contains(s, "wrong") {
				t.Errorf("series %s is of a generation that is not published", s)
			}
		}
		if len(got) == 0 {
			t.Errorf("matcher %s finds nothing", m)
		}
	}
}

// TestDamage checks that a read of a damaged or missing object returns an error that names
// the object, and never an incomplete result.
func TestDamage(t *testing.T) {
	x := storetest.New(t, storetest.Ports{})
	x.Push(map[tenant.ID]storetest.Data{"a": storetest.Window(storetest.Rand(), storetest.Day, 1, 3, 5)}, "i1")
	x.Merge(storetest.Day)
	mem := x.Objects.(*memory.Store)
	name := x.Manifest("a", storetest.Day).Packs[0].Object
	whole := mem.Bytes(name)
	read := func() error {
		x.Open(0) // without caches
		sel, err := x.Store.Select(t.Context(), series.Request{Tenant: "a", MaxTime: math.MaxInt64, Matchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, "__name__", "metric_.*")}}, nil)
		if err == nil {
			sel.Release()
		}
		return err
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	r, err := x.Store.OpenPack(t.Context(), ulid.ULID{}, name, int64(len(whole)))
	if err != nil {
		t.Fatal(err)
	}
	for i := int64(40); i < r.IndexPlace(0).Offset; i += 13 {
		b := append([]byte(nil), whole...)
		b[i] ^= 4
		mem.Replace(name, b)
		if err := read(); !errors.Is(err, pack.ErrCorrupt) || !strings.Contains(err.Error(), name) {
			t.Fatalf("read with byte %d changed: %v, want ErrCorrupt with the object's name", i, err)
		}
	}
	mem.Replace(name, whole[:len(whole)/3])
	if err := read(); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("read of a truncated object: %v, want an error with the object's name", err)
	}
	x.Must(nil, mem.Delete(t.Context(), name))
	if err := read(); !errors.Is(err, store.ErrMissing) || !strings.Contains(err.Error(), name) {
		t.Errorf("read of a missing object: %v, want ErrMissing with the object's name", err)
	}
}

// TestLargeMetric checks that a metric with more pages than a first read requests, in one
// pack and in several, is read completely, and that a query for one series of one pack reads
// only a few cells, because the summaries exclude the other pages.
func TestLargeMetric(t *testing.T) {
	for _, packBytes := range []int64{0, 1_000_000} {
		var readRows *rowscounted.Store
		var readObjects *objectscounted.Store
		x := storetest.New(t, storetest.Ports{Bytes: packBytes,
			Rows:    func(r rows.Store) rows.Store { readRows = rowscounted.New(r); return readRows },
			Objects: func(o objects.Store) objects.Store { readObjects = objectscounted.New(o); return readObjects }})
		d := storetest.Data{}
		random := storetest.Rand()
		long := func() string {
			var b strings.Builder
			for range 62 {
				fmt.Fprintf(&b, "%016x", random.Uint64())
			}
			return b.String()
		}
		for i := range 9_000 {
			text := fmt.Sprintf("__name__=large,id=%05d,long=%s", i, long())
			d[text] = []series.Sample{{T: storetest.Day*series.DayMillis + 1000, V: float64(i)}}
		}
		d["__name__=a"] = []series.Sample{{T: storetest.Day * series.DayMillis, V: 1}}
		d["__name__=z"] = d["__name__=a"]
		x.Push(map[tenant.ID]storetest.Data{"a": d}, "i1")
		x.Merge(storetest.Day)
		if packs := len(x.Manifest("a", storetest.Day).Packs); (packs > 1) != (packBytes > 0) {
			t.Fatalf("packs of %d bytes: %d packs", packBytes, packs)
		}
		x.Check("large metric")
		x.Open(packBytes)
		readRows.Reads.Store(0)
		readRows.Cells.Store(0)
		readObjects.Gets.Store(0)
		got := x.Read("a", 0, math.MaxInt64, storetest.Metric("large"), labels.MustNewMatcher(labels.MatchEqual, "id", "00777"))
		if len(got) != 1 {
			t.Fatalf("%d series, want 1", len(got))
		}
		t.Logf("packs of %d bytes: %d reads of rows with %d cells, %d of objects", packBytes, readRows.Reads.Load(), readRows.Cells.Load(), readObjects.Gets.Load())
		if packBytes == 0 && readRows.Cells.Load() > 20 {
			t.Errorf("a query of one series reads %d cells of rows, want at most 20", readRows.Cells.Load())
		}
		if got := x.Read("a", 0, math.MaxInt64, storetest.Metric("large"), labels.MustNewMatcher(labels.MatchEqual, "id", "none")); len(got) != 0 {
			t.Fatalf("%d series for an id that does not exist, want none", len(got))
		}
		if got := x.Read("a", 0, math.MaxInt64, storetest.Metric("large"), labels.MustNewMatcher(labels.MatchRegexp, "id", "0.*7|nothing")); len(got) != 900 {
			t.Fatalf("%d series by a regular expression, want 900", len(got))
		}
	}
}
