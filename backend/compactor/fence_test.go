package compactor

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/objects"
	objectsfaulty "github.com/palliumhq/pallium/backend/objects/faulty"
	"github.com/palliumhq/pallium/backend/rows"
	rowsfaulty "github.com/palliumhq/pallium/backend/rows/faulty"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/store/lifecycle"
	"github.com/palliumhq/pallium/backend/store/storetest"
)

// TestSweepOfRunningAttempt runs a sweep with a clock that is 49 hours ahead before one call of a
// compaction, or before that call and all later ones, for every call, and for the first generation
// and the second.
// The compaction must either start over or publish a complete generation.
func TestSweepOfRunningAttempt(t *testing.T) {
	for _, late := range []bool{false, true} {
		for _, always := range []bool{false, true} {
			t.Run(fmt.Sprintf("late=%t,always=%t", late, always), func(t *testing.T) {
				t.Parallel()
				total := sweptAttempt(t, 0, late, always)
				if total < 15 {
					t.Fatalf("a compaction makes only %d calls of the ports", total)
				}
				for at := 1; at <= total; at++ {
					sweptAttempt(t, at, late, always)
				}
			})
		}
	}
}

// sweptAttempt compacts with a sweep before a call, counted from 1, and returns the number of calls.
func sweptAttempt(t *testing.T, at int, late, always bool) int {
	t.Helper()
	in := &faults.Plan{}
	var rawRows rows.Store
	var rawObjects objects.Store
	x := newWorld(t, wrap{bytes: 1500,
		rows:    func(r rows.Store) rows.Store { rawRows = r; return rowsfaulty.Store{Store: r, Plan: in} },
		objects: func(o objects.Store) objects.Store { rawObjects = o; return objectsfaulty.Store{Store: o, Plan: in} }})
	sweeper := lifecycle.New(x.Other(rawRows, rawObjects, "sweeper", 49*time.Hour))
	rng := rand.New(rand.NewPCG(1, 1))
	x.Push(map[tenant.ID]data{"a": storetest.Window(rng, testDay, 3, 3, 2)}, "i1", "i2")
	if late {
		x.compact(All)
		x.Push(map[tenant.ID]data{"a": storetest.Window(rng, testDay, 4, 2, 3)}, "i1", "i2")
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
	x.Check(where)
	x.Verify()
	x.compact(All)
	x.Check(where + ", compacted again")
	for range 2 {
		x.Now = x.Now.Add(8 * 24 * time.Hour)
		if err := x.comp.Sweep(ctx); err != nil {
			t.Fatalf("%s: sweep: %v", where, err)
		}
	}
	x.Check(where + ", swept in time")
	x.Verify()
	if !late { // the garbage entries of the replaced generation may be processed before they are due
		x.NothingLeft(where)
	}
	return calls
}

// TestOldAttempt checks that an attempt that took more than a day is not published, and that the
// compaction starts over.
func TestOldAttempt(t *testing.T) {
	in := &faults.Plan{}
	x := newWorld(t, faulty(in))
	x.Push(map[tenant.ID]data{"a": storetest.Window(rng(), testDay, 1, 2, 2)}, "i1")
	puts := 0
	in.Before(func(_ int, name string) {
		if name == "Put" {
			if puts++; puts == 1 {
				x.Now = x.Now.Add(25 * time.Hour)
			}
		}
	})
	x.compact(All)
	in.Heal()
	if x.Manifest("a", testDay) == nil || puts != 2 {
		t.Errorf("manifest %v after %d packs, want one after 2", x.Manifest("a", testDay), puts)
	}
	x.Check("old attempt")
	x.Now = x.Now.Add(8 * 24 * time.Hour)
	x.sweep()
	x.NothingLeft("old attempt")
}

// TestStandbyDoesNotSweep checks that a compactor without the lease deletes nothing.
func TestStandbyDoesNotSweep(t *testing.T) {
	x := newWorld(t, wrap{})
	x.Keep = 10 * 24 * time.Hour
	x.Push(map[tenant.ID]data{"a": storetest.Window(rng(), testDay, 1, 2, 2)}, "i1")
	x.Now = x.Now.Add(3 * 24 * time.Hour)
	x.compact(Due) // acquires the lease
	x.Now = x.Now.Add(14 * time.Minute)
	x.Keep = time.Hour // the day is beyond retention
	standby := New(Options{ID: "c2", Store: x.Store, Lifecycle: x.Lifecycle, Retention: x.comp.opts.Retention, Tenants: x.comp.opts.Tenants, KeepDeletions: x.comp.opts.KeepDeletions, Now: x.comp.opts.Now})
	if err := standby.sweepDue(ctx); err != nil {
		t.Fatal(err)
	}
	x.Check("swept by a standby")
	x.Now = x.Now.Add(2 * time.Minute) // the lease has expired
	if err := standby.sweepDue(ctx); err != nil {
		t.Fatal(err)
	}
	if x.Manifest("a", testDay) != nil {
		t.Error("the compactor that has the lease did not sweep")
	}
}
