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
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/store"
)

// TestCrashes puts every kind of fault at every call of both ports, in uploads,
// in a first compaction, in a second one over late data, and in the sweep that
// follows. After each, with the fault gone, nothing that is read is wrong, and
// once everybody has done again what had failed, nothing is lost, nothing is
// there twice, the store is consistent and nothing is left over.
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

// crashRun is the story of TestCrashes with a fault at one call. It returns how
// many calls there were.
func crashRun(t *testing.T, at int, kind faults.Kind) int {
	t.Helper()
	in := &faults.Plan{}
	in.Fail(at, kind)
	w := faulty(in)
	w.bytes, w.atOnce = 1500, 1
	x := newWorld(t, w)
	rng := rand.New(rand.NewPCG(1, 1))
	var pending []store.Upload // what ingesters hold and have not uploaded
	do := func(fn func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if kind == faults.Hang {
			cancel()
			ctx, cancel = context.WithTimeout(context.Background(), 20*time.Millisecond)
		}
		defer cancel()
		return fn(ctx)
	}
	upload := func() {
		pending = slices.DeleteFunc(pending, func(u store.Upload) bool {
			return do(func(ctx context.Context) error { return x.store.Upload(ctx, u) }) == nil
		})
	}
	step := func(late bool) {
		d := map[tenant.ID]data{"a": window(rng, testDay, 3, 2, 2), "b": window(rng, testDay, 3, 1, 1)}
		if late {
			d = map[tenant.ID]data{"a": window(rng, testDay, 4, 2, 3)}
		}
		x.expect(d)
		for _, ing := range []string{"i1", "i2"} {
			pending = append(pending, x.seal(ing, d, 0))
		}
		upload()
		_ = do(func(ctx context.Context) error { _, err := x.comp.Compact(ctx, All); return err })
	}
	step(false)
	step(true)
	x.now = x.now.Add(8 * 24 * time.Hour)
	_ = do(x.comp.Sweep)
	names, where := in.Calls(), fmt.Sprintf("%s at call %d", kind, at)
	if at > 0 && at <= len(names) {
		where += " (" + names[at-1] + ")"
	}
	in.Heal()
	x.notWrong(where, pending)
	x.open(1500)
	for range 3 { // ingesters, compactor and sweep go on as they do
		upload()
		x.compact(All)
		x.now = x.now.Add(8 * 24 * time.Hour)
		if err := x.comp.Sweep(context.Background()); err != nil {
			t.Fatalf("%s: sweep: %v", where, err)
		}
	}
	if len(pending) > 0 {
		t.Fatalf("%s: %d uploads never end", where, len(pending))
	}
	x.check(where)
	x.nothingLeft(where)
	return len(names)
}

// notWrong checks that what is read is part of what was pushed, and has all of
// it that no ingester holds any more.
func (x *world) notWrong(where string, pending []store.Upload) {
	x.t.Helper()
	for t, want := range x.want {
		got := x.read(t, 0, math.MaxInt64)
		for s, samples := range got {
			for at, g := range samples {
				if w, ok := want[s][at]; !ok || len(pending) == 0 && !same(g, w) {
					x.t.Fatalf("%s: tenant %s, series %s: a sample at %d that nobody pushed", where, t, s, at)
				}
			}
		}
		if len(pending) == 0 {
			if err := differ(got, want); err != nil {
				x.t.Fatalf("%s: before recovery: tenant %s: %v", where, t, err)
			}
		}
	}
}

// nothingLeft checks that every object is named by a manifest or waits for its
// time in the garbage queue, and that the index has one generation of each day.
func (x *world) nothingLeft(where string) {
	x.t.Helper()
	ctx := context.Background()
	named := map[string]bool{}
	versions := map[string]schema.Version{}
	for t := range x.want {
		for day := int64(testDay - 3); day <= testDay+3; day++ {
			m := x.manifest(t, day)
			if m == nil {
				continue
			}
			versions[fmt.Sprint(t, day)] = m.Version
			for _, p := range m.Packs {
				named[p.Object] = true
			}
		}
	}
	err := x.objects.List(ctx, "", func(o objects.Object) bool {
		if !named[o.Name] {
			x.t.Errorf("%s: object %s is left over", where, o.Name)
		}
		return true
	})
	if err != nil {
		x.t.Fatal(err)
	}
	err = x.rows.ReadRows(ctx, []rows.Range{{}}, rows.Filter{}, func(r rows.Row) bool {
		for _, c := range r.Cells {
			v, _, _, _, ok := schema.ParseQualifier(c.Qualifier)
			if !ok {
				continue
			}
			t, day, known := schema.ParseNamesKey(r.Key)
			if !known {
				if t, _, day, known = schema.ParsePagesKey(r.Key); !known {
					if t, _, day, known = schema.ParseValuesKey(r.Key); !known {
						continue
					}
				}
			}
			if versions[fmt.Sprint(t, day)] != v {
				x.t.Errorf("%s: row %q has a cell of generation %s, which is not published", where, r.Key, v)
			}
		}
		return true
	})
	if err != nil {
		x.t.Fatal(err)
	}
	work, err := x.store.Work(ctx)
	if err != nil {
		x.t.Fatal(err)
	}
	for _, d := range work {
		if len(d.Receipts) > 0 {
			x.t.Errorf("%s: day %d has %d receipts left", where, d.Day, len(d.Receipts))
		}
	}
}
