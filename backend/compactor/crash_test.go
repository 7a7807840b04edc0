package compactor

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/store/storetest"
)

// TestCrashes injects every kind of fault at every call of both ports, in uploads, in a first
// compaction, in a second one with late samples, and in the following sweep. Directly after each
// fault no read may return a wrong result. After all failed operations were repeated, no sample
// is lost or duplicated, the store is consistent, and no leftovers exist.
func TestCrashes(t *testing.T) {
	total := crashRun(t, 0, faults.None)
	t.Logf("%d calls of the ports, %d kinds of fault", total, len(faults.Kinds()))
	for _, kind := range faults.Kinds() {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			for at := 1; at <= total; at++ {
				crashRun(t, at, kind)
			}
		})
	}
}

// crashRun runs the operations of TestCrashes with a fault at one call, and returns the number of
// calls.
func crashRun(t *testing.T, at int, kind faults.Kind) int {
	t.Helper()
	in := &faults.Plan{}
	in.Fail(at, kind)
	w := faulty(in)
	w.bytes, w.atOnce = 1500, 1
	x := newWorld(t, w)
	rng := rand.New(rand.NewPCG(1, 1))
	var pending []store.Upload // packs that are not uploaded yet
	healed := false
	do := func(fn func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if kind == faults.Hang && !healed { // on a busy machine, this timeout may also end operations that do not hang
			cancel()
			ctx, cancel = context.WithTimeout(context.Background(), 20*time.Millisecond)
		}
		defer cancel()
		return fn(ctx)
	}
	upload := func() {
		pending = slices.DeleteFunc(pending, func(u store.Upload) bool {
			return do(func(ctx context.Context) error { return x.Store.Upload(ctx, u) }) == nil
		})
	}
	step := func(late bool) {
		d := map[tenant.ID]data{"a": storetest.Window(rng, testDay, 3, 2, 2), "b": storetest.Window(rng, testDay, 3, 1, 1)}
		if late {
			d = map[tenant.ID]data{"a": storetest.Window(rng, testDay, 4, 2, 3)}
		}
		x.Expect(d)
		for _, ing := range []string{"i1", "i2"} {
			pending = append(pending, x.Seal(ing, d, 0))
		}
		upload()
		_ = do(func(ctx context.Context) error { _, err := x.comp.Compact(ctx, All); return err })
	}
	step(false)
	step(true)
	x.Now = x.Now.Add(8 * 24 * time.Hour)
	_ = do(x.comp.Sweep)
	names, where := in.Calls(), fmt.Sprintf("%s at call %d", kind, at)
	if at > 0 && at <= len(names) {
		where += " (" + names[at-1] + ")"
	}
	in.Heal()
	healed = true
	x.notWrong(where, pending)
	x.open(1500)
	for range 3 { // ingesters, compactor and sweep retry
		upload()
		x.compact(All)
		x.Now = x.Now.Add(8 * 24 * time.Hour)
		if err := x.comp.Sweep(context.Background()); err != nil {
			t.Fatalf("%s: sweep: %v", where, err)
		}
	}
	if len(pending) > 0 {
		t.Fatalf("%s: %d uploads still fail", where, len(pending))
	}
	x.Check(where)
	x.NothingLeft(where)
	return len(names)
}

// notWrong checks that all samples read were pushed and, if no upload is pending, that all
// pushed samples are read.
func (x *world) notWrong(where string, pending []store.Upload) {
	x.T.Helper()
	for t, want := range x.Want {
		got := x.Read(t, 0, math.MaxInt64)
		for s, samples := range got {
			for at, g := range samples {
				if w, ok := want[s][at]; !ok || len(pending) == 0 && !storetest.Same(g, w) {
					x.T.Fatalf("%s: tenant %s, series %s: sample at %d was never pushed, or with another value", where, t, s, at)
				}
			}
		}
		if len(pending) == 0 {
			if err := storetest.Differ(got, want); err != nil {
				x.T.Fatalf("%s: before recovery: tenant %s: %v", where, t, err)
			}
		}
	}
}
