package compactor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/objects"
	objectsfaulty "github.com/palliumhq/pallium/backend/objects/faulty"
	"github.com/palliumhq/pallium/backend/rows"
	rowsfaulty "github.com/palliumhq/pallium/backend/rows/faulty"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/store/storetest"
)

// repetition is an upload that is repeated while the compactor compacts and sweeps.
type repetition struct {
	at   int  // the call of the compactor before which the upload is repeated
	kill int  // call of the upload at which its process is killed; 0: none
	lost bool // the ingester never returns
}

func (r repetition) String() string {
	return fmt.Sprintf("repeated at call %d, killed at %d, lost %t", r.at, r.kill, r.lost)
}

// TestUploadRepeatedMeanwhile repeats an upload at every call of a compaction and of the sweep one
// week later, completely or killed at each of its steps, by an ingester that returns or does not.
// No sample may be lost, no row may name a missing object, and no leftovers may exist in the end.
func TestUploadRepeatedMeanwhile(t *testing.T) {
	calls, steps := repeatRun(t, repetition{at: 1})
	if calls < 20 || steps < 7 {
		t.Fatalf("%d calls of the compactor, %d of the upload: too few to be all", calls, steps)
	}
	t.Logf("%d calls of the compactor, %d of the upload", calls, steps)
	for kill := range steps + 1 {
		t.Run(fmt.Sprint("killed at ", kill), func(t *testing.T) {
			t.Parallel()
			for at := 1; at <= calls+1; at++ {
				repeatRun(t, repetition{at: at, kill: kill})
				if kill > 0 {
					repeatRun(t, repetition{at: at, kill: kill, lost: true})
				}
			}
		})
	}
}

// TestUploadSplitOverCompaction runs the first calls of a repeated upload at one call of the
// compactor and the others at a later one.
func TestUploadSplitOverCompaction(t *testing.T) {
	calls, steps := repeatRun(t, repetition{at: 1})
	for pause := 1; pause <= steps; pause++ {
		t.Run(fmt.Sprint("pauses before its call ", pause), func(t *testing.T) {
			t.Parallel()
			for at := 1; at <= calls; at += 2 {
				for _, behind := range []int{3, calls} {
					splitRun(t, at, at+behind, pause)
				}
			}
		})
	}
}

// repeated is a world with an uploaded pack, and a second process that repeats the upload to the
// same stores.
type repeated struct {
	*world
	comp, again *faults.Plan // faults of the compactor and of the repeated upload
	uploader    *store.Store
	up          store.Upload
	done        bool // the repeated upload succeeded
}

func newRepeated(t *testing.T) *repeated {
	t.Helper()
	r := &repeated{comp: &faults.Plan{}, again: &faults.Plan{}}
	var bareRows rows.Store
	var bareObjects objects.Store
	r.world = newWorld(t, wrap{bytes: 3000,
		rows: func(s rows.Store) rows.Store { bareRows = s; return rowsfaulty.Store{Store: s, Plan: r.comp} },
		objects: func(o objects.Store) objects.Store {
			bareObjects = o
			return objectsfaulty.Store{Store: o, Plan: r.comp}
		}})
	r.uploader = r.Other(rowsfaulty.Store{Store: bareRows, Plan: r.again}, objectsfaulty.Store{Store: bareObjects, Plan: r.again}, "again", 0)
	// Two days and two tenants.
	d := map[tenant.ID]data{"a": storetest.Window(rng(), testDay, 3, 1, 2), "b": storetest.Window(rng(), testDay-1, 5, 1, 1)}
	r.Expect(d)
	r.up = r.Seal("i1", d, 0)
	if err := r.Store.Upload(ctx, r.up); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *repeated) repeat() error {
	err := r.uploader.Upload(context.Background(), r.up)
	r.done = err == nil
	return err
}

// story runs a compaction and, one week later, a sweep. It returns the number of calls.
func (r *repeated) story(where string, hook func(call int)) int {
	r.T.Helper()
	call := 0
	r.comp.Before(func(int, string) { call++; hook(call) })
	if _, err := r.world.comp.Compact(ctx, All); err != nil {
		r.T.Fatalf("%s: compact: %v", where, err)
	}
	r.Now = r.Now.Add(8 * 24 * time.Hour)
	if err := r.world.comp.Sweep(ctx); err != nil {
		r.T.Fatalf("%s: sweep: %v", where, err)
	}
	r.comp.Heal()
	return call
}

// finish continues with compactions and sweeps without faults. It checks after each step that all
// samples are read and that the store is consistent, and in the end that no leftovers exist.
func (r *repeated) finish(where string) {
	r.T.Helper()
	r.again.Heal()
	r.Check(where)
	r.Verify()
	// The first sweep is only ten minutes later, so that it processes the entries of the
	// previous sweep before their pack is too old to be adopted.
	for _, later := range []time.Duration{10 * time.Minute, 8 * 24 * time.Hour, 8 * 24 * time.Hour, 8 * 24 * time.Hour} {
		r.compact(All)
		r.Check(where)
		r.Now = r.Now.Add(later)
		if err := r.world.comp.Sweep(ctx); err != nil {
			r.T.Fatalf("%s: sweep: %v", where, err)
		}
		r.Check(where)
		r.Verify()
	}
	for _, t := range slices.Sorted(maps.Keys(r.Want)) {
		for day := int64(testDay - 1); day <= testDay; day++ {
			c, err := r.Store.Catalog(ctx, t, day)
			if err != nil || len(c.L0) > 0 {
				r.T.Fatalf("%s: tenant %s, day %d: L0 cells are left: %v, %v", where, t, day, c.L0, err)
			}
		}
	}
	start, end := schema.GarbageRange(r.Now.Add(365 * 24 * time.Hour).UnixMilli())
	if err := r.Rows.ReadRows(ctx, []rows.Range{{Start: start, End: end}}, rows.Filter{}, func(row rows.Row) bool {
		r.T.Errorf("%s: the garbage queue has %q", where, row.Key)
		return true
	}); err != nil {
		r.T.Fatal(err)
	}
	r.NothingLeft(where)
	if r.T.Failed() {
		r.T.Fatalf("%s: see above", where)
	}
}

// repeatRun runs story with one repetition. It returns the number of calls of the compactor and of
// the repetition.
func repeatRun(t *testing.T, p repetition) (calls, steps int) {
	t.Helper()
	r := newRepeated(t)
	r.again.Fail(p.kill, faults.Killed)
	calls = r.story(p.String(), func(call int) {
		if call == p.at {
			_ = r.repeat()
		}
	})
	steps = len(r.again.Calls())
	r.again.Heal()
	if !p.lost && !r.done {
		// The ingester still has the pack, and serves its samples until the upload
		// succeeds.
		if err := r.repeat(); err != nil {
			t.Fatalf("%s: the repeated upload fails: %v", p, err)
		}
	}
	r.finish(p.String())
	return calls, steps
}

// splitRun runs story with a repetition that starts before one call of the compactor, pauses before
// one of its own calls, and continues before a later call of the compactor.
func splitRun(t *testing.T, from, to, pause int) {
	t.Helper()
	where := fmt.Sprintf("repeated at call %d, paused before its call %d until call %d", from, pause, to)
	r := newRepeated(t)
	paused, goOn, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	calls := 0
	r.again.Before(func(int, string) {
		if calls++; calls == pause {
			close(paused)
			<-goOn
		}
	})
	finish := func() {
		close(goOn)
		<-ended
	}
	finished := false
	r.story(where, func(call int) {
		switch call {
		case from:
			go func() { defer close(ended); _ = r.repeat() }()
			select {
			case <-paused:
			case <-ended: // the upload failed: its object was marked as being deleted
			}
		case to:
			finished = true
			finish()
		}
	})
	if !finished {
		finish()
	}
	r.again.Heal()
	if !r.done {
		if err := r.repeat(); err != nil {
			t.Fatalf("%s: the repeated upload fails: %v", where, err)
		}
	}
	r.finish(where)
}
