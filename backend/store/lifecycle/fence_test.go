package lifecycle_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/column"
	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/store/lifecycle"
	"github.com/palliumhq/pallium/backend/store/storetest"
)

// TestFenceOutlivesExpiry checks that an attempt that started on an empty day cannot
// publish after the day was published and expired, although the day has no manifest
// again.
func TestFenceOutlivesExpiry(t *testing.T) {
	x := storetest.New(t, storetest.Ports{})
	x.Keep = 10 * 24 * time.Hour
	x.Push(map[tenant.ID]storetest.Data{"a": storetest.Window(storetest.Rand(), storetest.Day, 1, 2, 2)}, "i1")
	g := x.Attempt("a", storetest.Day)
	x.Merge(storetest.Day)
	ahead := lifecycle.New(x.Other(x.Rows, x.Objects, "ahead", 20*24*time.Hour))
	if n, err := ahead.Expire(t.Context(), "a", lifecycle.Expiry{Now: x.Now.Add(20 * 24 * time.Hour)}); n.Days != 1 || err != nil {
		t.Fatalf("%+v expired, error %v; want one day", n, err)
	}
	// The next expiry keeps the fence number: the attempt may still be running.
	x.Must(ahead.Expire(t.Context(), "a", lifecycle.Expiry{Now: x.Now.Add(20 * 24 * time.Hour)}))
	if _, err := g.Publish(t.Context()); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("Publish of an attempt from before the expiry: %v, want ErrConflict", err)
	}
	// When no such attempt can be running, expiry deletes the fence number.
	x.Now = x.Now.Add(40 * 24 * time.Hour)
	if n, err := x.Lifecycle.Expire(t.Context(), "a", lifecycle.Expiry{Now: x.Now}); n.Days != 0 || err != nil {
		t.Fatalf("%+v expired again, error %v; want no day", n, err)
	}
	err := x.Rows.ReadRows(t.Context(), []rows.Range{{}}, rows.Filter{Families: []rows.Family{rows.Data}}, func(r rows.Row) bool {
		for _, c := range r.Cells {
			if c.Qualifier == "g" {
				t.Errorf("row %q still has a version cell", r.Key)
			}
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestFenceIsKept checks that every write of the version cell keeps or raises the fence
// number, and that an attempt that read the cell before it was raised cannot publish.
func TestFenceIsKept(t *testing.T) {
	x := storetest.New(t, storetest.Ports{})
	x.Keep = 10 * 24 * time.Hour
	x.Push(map[tenant.ID]storetest.Data{"a": storetest.Window(storetest.Rand(), storetest.Day, 1, 2, 2)}, "i1")
	ahead := lifecycle.New(x.Other(x.Rows, x.Objects, "ahead", 49*time.Hour))
	attempt := func() *store.Generation {
		g := x.Attempt("a", storetest.Day)
		return g
	}
	fence := func(what string, want int) {
		t.Helper()
		var cell []byte
		err := x.Rows.ReadRows(t.Context(), []rows.Range{{}}, rows.Filter{Families: []rows.Family{rows.Data}, Qualifiers: []string{"g"}}, func(r rows.Row) bool {
			cell = r.Cells[0].Value
			return true
		})
		if err != nil || len(cell) < 8 || int(cell[len(cell)-1]) != want {
			t.Fatalf("%s: version cell %x, %v; want fence number %d", what, cell, err, want)
		}
	}
	sweep := func() {
		if _, err := ahead.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	g := attempt()
	sweep()
	fence("swept before the first generation", 1)
	if _, err := g.Publish(t.Context()); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("Publish after a sweep before the first generation: %v, want ErrConflict", err)
	}
	x.Merge(storetest.Day)
	fence("published", 1)
	g = attempt()
	sweep()
	fence("swept before the second generation", 2)
	if _, err := g.Publish(t.Context()); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("Publish after a sweep before the second generation: %v, want ErrConflict", err)
	}
	x.Keep = 200 * 24 * time.Hour
	if _, err := x.Lifecycle.Restamp(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	fence("restamped for a longer retention", 2)
	x.Check("fenced twice")
	x.Verify()
}

// TestPackEntriesWithoutVersion checks that the sweep raises the fence before it deletes
// a pack whose garbage entry has no version, as older versions of Pallium wrote them.
func TestPackEntriesWithoutVersion(t *testing.T) {
	x := storetest.New(t, storetest.Ports{})
	x.Push(map[tenant.ID]storetest.Data{"a": storetest.Window(storetest.Rand(), storetest.Day, 1, 2, 2)}, "i1")
	x.Merge(storetest.Day)
	g := x.Attempt("a", storetest.Day)
	if err := g.Add(t.Context(), labels.FromStrings("__name__", "m"), &column.Series{T: []int64{storetest.Day * series.DayMillis}, V: []float64{1}}); err != nil {
		t.Fatal(err)
	}
	var ms []rows.RowMutation
	start, end := schema.GarbageRange(math.MaxInt64)
	err := x.Rows.ReadRows(t.Context(), []rows.Range{{Start: start, End: end}}, rows.Filter{}, func(r rows.Row) bool {
		e, err := schema.DecodeGarbage(r.Cells[0].Value)
		if err != nil {
			t.Fatal(err)
		}
		m := rows.RowMutation{Key: r.Key, Mutations: []rows.Mutation{rows.DeleteRow()}}
		if e.Version = (schema.Version{}); e.Kind == "pack" {
			m.Mutations = []rows.Mutation{rows.Set(rows.System, schema.GarbageQualifier, 0, e.Encode())}
		}
		ms = append(ms, m)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(x.Rows.MutateRows(t.Context(), ms)...); err != nil {
		t.Fatal(err)
	}
	if r, err := lifecycle.New(x.Other(x.Rows, x.Objects, "ahead", 49*time.Hour)).Sweep(t.Context()); err != nil || r.Objects != 1 || r.Kept != 1 {
		t.Fatalf("sweep: %+v, error %v; want one object deleted and one kept", r, err)
	}
	if _, err := g.Publish(t.Context()); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("Publish after the pack was swept: %v, want ErrConflict", err)
	}
	x.Check("swept by an old entry")
	x.Verify()
}

// TestFenceRace checks that a sweep reads the day again, and deletes nothing, when an
// attempt publishes after the sweep has read the day and before it raises the fence.
func TestFenceRace(t *testing.T) {
	x := storetest.New(t, storetest.Ports{})
	x.Push(map[tenant.ID]storetest.Data{"a": {"__name__=m": {{T: storetest.Day * series.DayMillis, V: 1}}}}, "i1")
	c, err := x.Store.Catalog(t.Context(), "a", storetest.Day)
	x.Must(nil, err)
	g, err := x.Store.NewGeneration(t.Context(), c, 0, nil)
	x.Must(nil, err)
	one := &column.Series{T: []int64{storetest.Day * series.DayMillis}, V: []float64{1}}
	x.Must(nil, g.Add(t.Context(), labels.FromStrings("__name__", "m"), one))
	plan, published := &faults.Plan{}, false
	ports := storetest.Faulty(plan)
	sweeper := lifecycle.New(x.Other(ports.Rows(x.Rows), x.Objects, "ahead", 49*time.Hour))
	plan.Before(func(_ int, name string) {
		if name == "CheckAndMutate" && !published {
			published = true
			x.Must(g.Publish(t.Context()))
		}
	})
	report, err := sweeper.Sweep(t.Context())
	if err != nil || !published || report.Kept != 2 || report.Objects != 0 || report.Generations != 0 {
		t.Errorf("%+v, published %t, %v; want the rows and the pack kept", report, published, err)
	}
	x.Check("published before the fence")
	x.Verify()
}
