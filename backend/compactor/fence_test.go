package compactor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/column"
	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/objects"
	objectsfaulty "github.com/palliumhq/pallium/backend/objects/faulty"
	"github.com/palliumhq/pallium/backend/rows"
	rowsfaulty "github.com/palliumhq/pallium/backend/rows/faulty"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

// otherStore is the store of another process over the same ports, without faults,
// whose clock is ahead by some time.
func (x *world) otherStore(r rows.Store, o objects.Store, name string, ahead time.Duration) *store.Store {
	x.t.Helper()
	s, err := store.Open(store.Options{Rows: r, Objects: o, Scratch: filepath.Join(x.dir, "scratch-"+name),
		Retention: func(context.Context, tenant.ID) (time.Duration, error) { return x.keep, nil },
		Deleted:   func(_ context.Context, t tenant.ID) (bool, error) { return x.deleted[t], nil },
		Now:       func() time.Time { return x.now.Add(ahead) }})
	if err != nil {
		x.t.Fatal(err)
	}
	return s
}

// TestSweepOfRunningAttempt lets a sweep, whose clock is 49 hours ahead, run before
// every call of a compaction, once and before all calls from there on, of the first
// generation and of later ones. The compaction either begins again or everything
// that it publishes is there.
func TestSweepOfRunningAttempt(t *testing.T) {
	for _, late := range []bool{false, true} {
		for _, always := range []bool{false, true} {
			t.Run(fmt.Sprintf("late=%t,always=%t", late, always), func(t *testing.T) {
				t.Parallel()
				total := sweptAttempt(t, 0, late, always)
				if total < 15 {
					t.Fatalf("a compaction is only %d calls of the ports", total)
				}
				for at := 1; at <= total; at++ {
					sweptAttempt(t, at, late, always)
				}
			})
		}
	}
}

// sweptAttempt compacts with a sweep before a call, counted from 1, and returns how
// many calls there were.
func sweptAttempt(t *testing.T, at int, late, always bool) int {
	t.Helper()
	in := &faults.Plan{}
	var rawRows rows.Store
	var rawObjects objects.Store
	x := newWorld(t, wrap{bytes: 1500,
		rows:    func(r rows.Store) rows.Store { rawRows = r; return rowsfaulty.Store{Store: r, Plan: in} },
		objects: func(o objects.Store) objects.Store { rawObjects = o; return objectsfaulty.Store{Store: o, Plan: in} }})
	sweeper := x.otherStore(rawRows, rawObjects, "sweeper", 49*time.Hour)
	rng := rand.New(rand.NewPCG(1, 1))
	x.push(map[tenant.ID]data{"a": window(rng, testDay, 3, 3, 2)}, "i1", "i2")
	if late {
		x.compact(All)
		x.push(map[tenant.ID]data{"a": window(rng, testDay, 4, 2, 3)}, "i1", "i2")
	}
	first := len(in.Calls())
	in.Before(func(nth int, name string) {
		if call := nth - first; at > 0 && (call == at || always && call > at) {
			if _, err := sweeper.Sweep(ctx); err != nil {
				t.Errorf("sweep before call %d (%s): %v", call, name, err)
			}
		}
	})
	_, err := x.comp.Compact(ctx, All)
	names := in.Calls()
	calls, where := len(names)-first, fmt.Sprintf("sweep before call %d (%s)", at, names[min(max(first+at-1, 0), len(names)-1)])
	in.Heal()
	if err != nil && (!always || !errors.Is(err, store.ErrConflict)) {
		t.Fatalf("%s: %v", where, err)
	}
	x.check(where)
	x.verify()
	x.compact(All)
	x.check(where + ", compacted again")
	for range 2 {
		x.now = x.now.Add(8 * 24 * time.Hour)
		if err := x.comp.Sweep(ctx); err != nil {
			t.Fatalf("%s: %v", where, err)
		}
	}
	x.check(where + ", swept in time")
	x.verify()
	if !late { // the entries of what it replaced may be worked off before their time
		x.nothingLeft(where)
	}
	return calls
}

// TestFenceOutlivesExpiry: an attempt on a day that was empty when it began does not
// publish after the day was published, swept and expired, though there is no version
// again.
func TestFenceOutlivesExpiry(t *testing.T) {
	x := newWorld(t, wrap{})
	x.keep = 10 * 24 * time.Hour
	x.push(map[tenant.ID]data{"a": window(rng(), testDay, 1, 2, 2)}, "i1")
	before, err := x.store.Catalog(ctx, "a", testDay)
	if err != nil {
		t.Fatal(err)
	}
	g, err := x.store.NewGeneration(ctx, before, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	x.compact(Due)
	ahead := x.otherStore(x.rows, x.objects, "ahead", 20*24*time.Hour)
	if n, err := ahead.Expire(ctx, "a", store.Expiry{Now: x.now.Add(20 * 24 * time.Hour)}); n.Days != 1 || err != nil {
		t.Fatalf("%+v expired, %v", n, err)
	}
	if _, err := g.Publish(ctx); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("an attempt of before was published: %v", err)
	}
	// Once no such attempt can be under way, nothing of the day is left.
	x.now = x.now.Add(40 * 24 * time.Hour)
	if n, err := x.store.Expire(ctx, "a", store.Expiry{Now: x.now}); n.Days != 0 || err != nil {
		t.Fatalf("%+v expired again, %v", n, err)
	}
	err = x.rows.ReadRows(ctx, []rows.Range{{}}, rows.Filter{Families: []rows.Family{rows.Data}}, func(r rows.Row) bool {
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

// TestFenceIsKept: every write of the version cell keeps the fence number or raises
// it, and an attempt that read the cell before the number was raised loses.
func TestFenceIsKept(t *testing.T) {
	x := newWorld(t, wrap{})
	x.keep = 10 * 24 * time.Hour
	x.push(map[tenant.ID]data{"a": window(rng(), testDay, 1, 2, 2)}, "i1")
	ahead := x.otherStore(x.rows, x.objects, "ahead", 49*time.Hour)
	attempt := func() *store.Generation {
		c, err := x.store.Catalog(ctx, "a", testDay)
		if err != nil {
			t.Fatal(err)
		}
		g, err := x.store.NewGeneration(ctx, c, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	fence := func(what string, want int) {
		t.Helper()
		var cell []byte
		err := x.rows.ReadRows(ctx, []rows.Range{{}}, rows.Filter{Families: []rows.Family{rows.Data}, Qualifiers: []string{"g"}}, func(r rows.Row) bool {
			cell = r.Cells[0].Value
			return true
		})
		if err != nil || len(cell) < 8 || int(cell[len(cell)-1]) != want {
			t.Fatalf("%s: version cell %x, %v; want fence number %d", what, cell, err, want)
		}
	}
	sweep := func() {
		if _, err := ahead.Sweep(ctx); err != nil {
			t.Fatal(err)
		}
	}
	g := attempt()
	sweep()
	fence("swept before the first generation", 1)
	if _, err := g.Publish(ctx); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("swept before the first generation: %v", err)
	}
	x.compact(Due)
	fence("published", 1)
	g = attempt()
	sweep()
	fence("swept before the second generation", 2)
	if _, err := g.Publish(ctx); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("swept before the second generation: %v", err)
	}
	x.keep = 200 * 24 * time.Hour
	if _, err := x.store.Restamp(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	fence("stamped for a longer retention", 2)
	x.check("fenced twice")
	x.verify()
}

// TestOldAttempt: an attempt of more than a day is not published, whatever became of
// its rows, and begins again.
func TestOldAttempt(t *testing.T) {
	in := &faults.Plan{}
	x := newWorld(t, faulty(in))
	x.push(map[tenant.ID]data{"a": window(rng(), testDay, 1, 2, 2)}, "i1")
	puts := 0
	in.Before(func(_ int, name string) {
		if name == "Put" {
			if puts++; puts == 1 {
				x.now = x.now.Add(25 * time.Hour)
			}
		}
	})
	x.compact(All)
	in.Heal()
	if x.manifest("a", testDay) == nil || puts != 2 {
		t.Errorf("manifest %v after %d packs, want one after 2", x.manifest("a", testDay), puts)
	}
	x.check("old attempt")
	x.now = x.now.Add(8 * 24 * time.Hour)
	x.sweep()
	x.nothingLeft("old attempt")
}

// TestRecoveryFences: an attempt of before a manifest was recovered does not publish,
// though the version is the same again.
func TestRecoveryFences(t *testing.T) {
	x := newWorld(t, wrap{})
	x.push(map[tenant.ID]data{"a": window(rng(), testDay, 1, 2, 2)}, "i1")
	x.compact(Due)
	c, err := x.store.Catalog(ctx, "a", testDay)
	if err != nil {
		t.Fatal(err)
	}
	g, err := x.store.NewGeneration(ctx, c, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	// The catalog row is lost and made again, with the same version.
	lost := []rows.Mutation{rows.DeleteColumn(rows.Data, "m"), rows.DeleteColumn(rows.Data, "g")}
	key := ""
	if err := x.rows.ReadRows(ctx, []rows.Range{{}}, rows.Filter{Qualifiers: []string{"m"}}, func(r rows.Row) bool { key = r.Key; return true }); err != nil {
		t.Fatal(err)
	}
	if err := x.rows.Mutate(ctx, rows.RowMutation{Key: key, Mutations: lost}); err != nil {
		t.Fatal(err)
	}
	if r, err := x.store.RebuildIndex(ctx, slices.Collect(maps.Keys(x.want))); err != nil || r.Recovered != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := g.Publish(ctx); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("an attempt of before the recovery was published: %v", err)
	}
	x.check("recovered")
	x.verify()
}

// TestPackEntriesWithoutVersion: entries for packs that older versions wrote do not
// say whose the packs are, so the day is fenced in any case.
func TestPackEntriesWithoutVersion(t *testing.T) {
	x := newWorld(t, wrap{})
	x.push(map[tenant.ID]data{"a": window(rng(), testDay, 1, 2, 2)}, "i1")
	x.compact(Due)
	c, err := x.store.Catalog(ctx, "a", testDay)
	if err != nil {
		t.Fatal(err)
	}
	g, err := x.store.NewGeneration(ctx, c, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Add(ctx, labels.FromStrings("__name__", "m"), &column.Series{T: []int64{testDay * series.DayMillis}, V: []float64{1}}); err != nil {
		t.Fatal(err)
	}
	var ms []rows.RowMutation
	start, end := schema.GarbageRange(math.MaxInt64)
	err = x.rows.ReadRows(ctx, []rows.Range{{Start: start, End: end}}, rows.Filter{}, func(r rows.Row) bool {
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
	if err := errors.Join(x.rows.MutateRows(ctx, ms)...); err != nil {
		t.Fatal(err)
	}
	if r, err := x.otherStore(x.rows, x.objects, "ahead", 49*time.Hour).Sweep(ctx); err != nil || r.Objects != 1 || r.Kept != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := g.Publish(ctx); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("published after its pack was swept: %v", err)
	}
	x.check("swept by an old entry")
	x.verify()
}

// TestStandbyDoesNotSweep: a compactor without the lease deletes nothing.
func TestStandbyDoesNotSweep(t *testing.T) {
	x := newWorld(t, wrap{})
	x.keep = 10 * 24 * time.Hour
	x.push(map[tenant.ID]data{"a": window(rng(), testDay, 1, 2, 2)}, "i1")
	x.now = x.now.Add(3 * 24 * time.Hour)
	x.compact(Due) // takes the lease
	x.now = x.now.Add(14 * time.Minute)
	x.keep = time.Hour // the day is beyond it
	standby := New(Options{ID: "c2", Store: x.store, Retention: x.comp.opts.Retention, Tenants: x.comp.opts.Tenants, KeepDeletions: x.comp.opts.KeepDeletions, Now: x.comp.opts.Now})
	if err := standby.sweepDue(ctx); err != nil {
		t.Fatal(err)
	}
	x.check("swept by a standby")
	x.now = x.now.Add(2 * time.Minute) // the lease has ended
	if err := standby.sweepDue(ctx); err != nil {
		t.Fatal(err)
	}
	if x.manifest("a", testDay) != nil {
		t.Error("the compactor that has the lease did not sweep")
	}
}
