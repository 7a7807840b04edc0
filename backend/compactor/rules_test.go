package compactor

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/column"
	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/objects/counted"
	objectsfaulty "github.com/palliumhq/pallium/backend/objects/faulty"
	"github.com/palliumhq/pallium/backend/objects/memory"
	"github.com/palliumhq/pallium/backend/pack"
	rowsfaulty "github.com/palliumhq/pallium/backend/rows/faulty"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

// The rules that docs/format/store.md names, each with a test that fails when
// it is broken.

var ctx = context.Background()

func rng() *rand.Rand { return rand.New(rand.NewPCG(11, 12)) }

func metric(name string) *labels.Matcher {
	return labels.MustNewMatcher(labels.MatchEqual, "__name__", name)
}

// TestPublishedIsNotComplete: samples that come late for a published day are in
// answers before they are compacted, unless an ingester covers their pack.
func TestPublishedIsNotComplete(t *testing.T) {
	x := newWorld(t, wrap{})
	x.push(map[tenant.ID]data{"a": window(rng(), testDay, 1, 2, 2)}, "i1")
	x.compact(Due)
	late := map[tenant.ID]data{"a": {"__name__=late": {{T: testDay * series.DayMillis, V: 5}}}}
	x.push(late, "i1")
	x.check("late data of a published day")
	asked := 0
	sel, err := x.store.Select(ctx, series.Request{Tenant: "a", MaxTime: math.MaxInt64, Matchers: []*labels.Matcher{metric("late")}}, func(ulid.ULID) bool { asked++; return true })
	if err != nil || len(sel.Series) != 0 || asked != 1 {
		t.Errorf("a pack that an ingester covers was read: %d series, %d questions, %v", len(sel.Series), asked, err)
	}
	// A generation comes at most every six hours.
	x.compact(Due)
	if g := x.manifest("a", testDay).Version.Generation; g != 1 {
		t.Errorf("generation %d right after the first", g)
	}
	x.now = x.now.Add(lateSpacing)
	x.compact(Due)
	if g := x.manifest("a", testDay).Version.Generation; g != 2 {
		t.Errorf("generation %d six hours later", g)
	}
	x.check("second generation")
}

// TestManifestDecides: rows and packs of a generation that is not published are
// never seen, though they are newer; and one that lost the race stays unseen.
func TestManifestDecides(t *testing.T) {
	x := newWorld(t, wrap{})
	x.push(map[tenant.ID]data{"a": window(rng(), testDay, 1, 3, 2)}, "i1")
	before, err := x.store.Catalog(ctx, "a", testDay)
	if err != nil {
		t.Fatal(err)
	}
	unpublished := func(c store.Catalog) *store.Generation {
		g, err := x.store.NewGeneration(ctx, c, 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 12 { // more cells than a first read takes
			ls := labels.FromStrings("__name__", "metric_0", "wrong", fmt.Sprintf("%02d", i))
			if err := g.Add(ctx, ls, &column.Series{T: []int64{testDay * series.DayMillis}, V: []float64{666}}); err != nil {
				t.Fatal(err)
			}
		}
		return g
	}
	loser := unpublished(before)
	x.compact(Due)
	if _, err := loser.Publish(ctx); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("the loser of a race: %v", err)
	}
	x.check("after the loser")
	now, err := x.store.Catalog(ctx, "a", testDay)
	if err != nil {
		t.Fatal(err)
	}
	for range 9 { // newer generations hide the published one in the first cells
		stale := before // it loses: the version cell is another one by now
		stale.Manifest = now.Manifest
		g := unpublished(stale)
		now.Manifest.Version.Generation++ // the next looks newer still
		if _, err := g.Publish(ctx); !errors.Is(err, store.ErrConflict) {
			t.Fatal(err)
		}
	}
	x.check("beside newer generations")
	for _, m := range []*labels.Matcher{metric("metric_0"), labels.MustNewMatcher(labels.MatchRegexp, "__name__", "metric_.*")} {
		got := x.read("a", 0, math.MaxInt64, m)
		for s := range got {
			if strings.Contains(s, "wrong") {
				t.Errorf("series %s of a generation that is not published", s)
			}
		}
		if len(got) == 0 {
			t.Errorf("matcher %s finds nothing", m)
		}
	}
}

// TestRetention: a shorter retention lets days go, a longer one keeps them
// though they were written under the shorter.
func TestRetention(t *testing.T) {
	x := newWorld(t, wrap{})
	x.keep = 10 * 24 * time.Hour
	x.push(map[tenant.ID]data{"a": window(rng(), testDay, 1, 2, 2)}, "i1")
	x.compact(Due)
	x.keep = 200 * 24 * time.Hour
	x.sweep()
	x.now = x.now.Add(100 * 24 * time.Hour) // far beyond 10 days and the 30 that cells outlive them
	x.sweep()
	x.check("retention was made longer")
	x.verify()
	x.keep = 50 * 24 * time.Hour
	x.sweep()
	x.want["a"] = nil
	x.check("retention was made shorter")
	x.now = x.now.Add(24 * time.Hour)
	x.sweep()
	x.nothingLeft("retention was made shorter")
	// What comes for a day beyond retention goes with it.
	x.push(map[tenant.ID]data{"a": {"__name__=old": {{T: testDay * series.DayMillis, V: 1}}}}, "i1")
	x.compact(Due)
	x.want["a"] = nil
	x.now = x.now.Add(24 * time.Hour)
	x.sweep()
	x.check("samples beyond retention")
}

// TestRetentionForever: 0 keeps for ever.
func TestRetentionForever(t *testing.T) {
	x := newWorld(t, wrap{})
	x.push(map[tenant.ID]data{"a": window(rng(), testDay, 1, 1, 1)}, "i1")
	x.compact(Due)
	x.now = x.now.Add(3000 * 24 * time.Hour)
	x.sweep()
	x.check("eight years later")
}

// TestWhenToPublish: a day is compacted when it has ended and nobody owes
// samples, but lost ingesters of one zone; late samples are not waited for.
func TestWhenToPublish(t *testing.T) {
	ended := time.UnixMilli((testDay+1)*series.DayMillis + settleTime.Milliseconds())
	intent := func(ingester string, late bool) store.IntentOf {
		return store.IntentOf{Ingester: ingester, Window: 3, Intent: schema.Intent{Late: late}}
	}
	for _, c := range []struct {
		name    string
		now     time.Time
		intents []store.IntentOf
		wait    string
	}{
		{"not ended", ended.Add(-time.Second), nil, "not ended"},
		{"ended", ended, nil, ""},
		{"owed", ended, []store.IntentOf{intent("i1", false)}, "i1 has not uploaded"},
		{"late", ended, []store.IntentOf{intent("i1", true)}, ""},
		{"one lost", ended, []store.IntentOf{intent("lost1", false)}, ""},
		{"one lost, one owes", ended, []store.IntentOf{intent("lost1", false), intent("i1", false)}, "i1 has not uploaded"},
		{"two lost of one zone", ended, []store.IntentOf{intent("lost1", false), intent("lost1b", false)}, ""},
		{"two lost of two zones", ended, []store.IntentOf{intent("lost1", false), intent("lost2", false)}, "accept-loss"},
		{"two lost without zones", ended, []store.IntentOf{intent("lostx", false), intent("losty", false)}, "accept-loss"},
	} {
		comp := New(Options{Now: func() time.Time { return c.now }})
		for i := range c.intents {
			switch in := &c.intents[i]; in.Ingester {
			case "lost1", "lost1b":
				in.Ingester, in.Zone = in.Ingester+"~lost-1", "z1"
			case "lost2":
				in.Ingester, in.Zone = in.Ingester+"~lost-1", "z2"
			case "lostx", "losty":
				in.Ingester += "~lost-1"
			}
		}
		if got := comp.mustWait(&store.DayWork{Day: testDay, Intents: c.intents}); (got == "") != (c.wait == "") || !strings.Contains(got, c.wait) {
			t.Errorf("%s: %q", c.name, got)
		}
	}
	x := newWorld(t, wrap{})
	x.push(map[tenant.ID]data{"a": window(rng(), testDay, 1, 2, 2)}, "i1")
	if err := x.store.Intend(ctx, "i2", map[store.Window]schema.Intent{{Day: testDay, Number: 1}: {}}); err != nil {
		t.Fatal(err)
	}
	x.compact(Due)
	if x.manifest("a", testDay) != nil {
		t.Fatal("published though i2 owes samples")
	}
	if w := x.comp.Status().Waiting; len(w) != 1 || w[0].Day != testDay {
		t.Errorf("nobody is told that the day waits: %v", w)
	}
	if n, err := x.store.AcceptLoss(ctx, testDay); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	x.compact(Due)
	if x.manifest("a", testDay) == nil {
		t.Fatal("not published though the loss was accepted")
	}
	x.check("loss accepted")
}

// TestIntentsEnd: an upload settles the intents it is told to and no others, and
// does so only together with its receipt.
func TestIntentsEnd(t *testing.T) {
	x := newWorld(t, wrap{})
	w := store.Window{Day: testDay, Number: 1}
	for _, i := range []string{"i1", "i2"} {
		if err := x.store.Intend(ctx, i, map[store.Window]schema.Intent{w: {}, {Day: testDay, Number: 2}: {}}); err != nil {
			t.Fatal(err)
		}
	}
	u := x.seal("i1", map[tenant.ID]data{"a": window(rng(), testDay, 1, 1, 1)}, 0)
	if err := x.store.Upload(ctx, u); err != nil {
		t.Fatal(err)
	}
	if left, err := x.store.Intents(ctx, "i1"); err != nil || len(left) != 1 || left[0].Number != 2 {
		t.Errorf("i1 owes %v, %v", left, err)
	}
	if left, err := x.store.Intents(ctx, "i2"); err != nil || len(left) != 2 {
		t.Errorf("i2 owes %v, %v", left, err)
	}
}

// TestStalledCompactor: nothing of an L0 pack goes before all days and tenants
// in it are compacted, however long that takes.
func TestStalledCompactor(t *testing.T) {
	x := newWorld(t, wrap{})
	d := window(rng(), testDay, 11, 2, 2)
	for s, list := range window(rng(), testDay+1, 0, 2, 2) {
		d[s] = append(d[s], list...)
	}
	x.push(map[tenant.ID]data{"a": d, "b": window(rng(), testDay, 11, 1, 1)}, "i1")
	if !x.now.Before(time.UnixMilli((testDay + 2) * series.DayMillis)) {
		t.Fatal("the second day must still be open")
	}
	x.compact(Due) // only the first day
	if x.manifest("a", testDay) == nil || x.manifest("a", testDay+1) != nil {
		t.Fatal("the first day should be published, and only that")
	}
	for range 3 {
		x.now = x.now.Add(8 * 24 * time.Hour)
		x.sweep()
		x.check("stalled compactor")
	}
	x.compact(Due)
	x.now = x.now.Add(l0Kept)
	x.sweep()
	x.check("compactor works again")
	x.nothingLeft("compactor works again")
}

const l0Kept = 8 * 24 * time.Hour

// TestDeletedSeries: what was there when series were deleted does not come back,
// from packs that were on their way, from a repeated upload, or after
// compaction; what is pushed afterwards stays.
func TestDeletedSeries(t *testing.T) {
	x := newWorld(t, wrap{bytes: 3000})
	old := map[tenant.ID]data{"a": window(rng(), testDay, 1, 3, 3)}
	x.push(old, "i1")
	x.compact(Due)
	onItsWay := x.seal("i2", old, 0)
	x.push(map[tenant.ID]data{"a": window(rng(), testDay, 2, 3, 3)}, "i1")
	d, err := x.store.ReserveDeletion(ctx, "a", math.MinInt64, math.MaxInt64, [][]*labels.Matcher{{metric("metric_0")}})
	if err != nil {
		t.Fatal(err)
	}
	x.check("a reserved deletion holds for nobody")
	if err := x.store.ActivateDeletion(ctx, "a", d); err != nil {
		t.Fatal(err)
	}
	for s := range x.want["a"] {
		if strings.Contains(s, "metric_0") {
			delete(x.want["a"], s)
		}
	}
	x.check("deleted")
	if err := x.store.Upload(ctx, onItsWay); err != nil {
		t.Fatal(err)
	}
	x.check("a pack from before arrives")
	names := func(what string) {
		t.Helper()
		got, err := x.store.LabelValues(ctx, "__name__", series.Request{Tenant: "a", MaxTime: math.MaxInt64}, nil)
		if err != nil || len(got) != 2 || got[0] != "metric_1" {
			t.Errorf("%s: metrics %v, %v", what, got, err)
		}
	}
	names("before compaction")
	x.compact(All)
	x.check("compacted")
	names("compacted")
	// Pushed after the deletion, for the same series and time.
	again := map[tenant.ID]data{"a": {"__name__=metric_0,instance=host000,job=test": {{T: testDay*series.DayMillis + 2*series.WindowMillis, V: 77}}}}
	x.expect(again)
	if err := x.store.Upload(ctx, x.seal("i1", again, d.Number)); err != nil {
		t.Fatal(err)
	}
	x.check("pushed again")
	x.compact(All)
	x.check("pushed again and compacted")
	// Another one, of a part of the time.
	mid := testDay*series.DayMillis + series.WindowMillis + 1_000_000
	if d, err = x.store.ReserveDeletion(ctx, "a", 0, mid, [][]*labels.Matcher{{metric("metric_1")}, {metric("metric_2")}}); err != nil {
		t.Fatal(err)
	}
	if err := x.store.ActivateDeletion(ctx, "a", d); err != nil {
		t.Fatal(err)
	}
	for s, samples := range x.want["a"] {
		for at := range samples {
			if at <= mid && !strings.Contains(s, "metric_0") {
				delete(samples, at)
			}
		}
	}
	x.check("a part deleted")
	x.compact(Due) // asked for by the deletion itself
	if m := x.manifest("a", testDay); m.Tombstone != d.Number {
		t.Errorf("the deletion was not applied: %d", m.Tombstone)
	}
	x.check("a part deleted and compacted")
	x.now = x.now.Add(60 * 24 * time.Hour)
	x.sweep()
	_, deletions, err := x.store.Day(ctx, "a", testDay)
	if last, _ := deletions.Last(); err != nil || last != 0 {
		t.Errorf("a deletion that all packs have applied is still remembered: %d, %v", last, err)
	}
	x.check("forgotten")
}

// TestPendingDeletion: one that is under way keeps compaction off, and is
// cancelled when nobody goes on with it.
func TestPendingDeletion(t *testing.T) {
	x := newWorld(t, wrap{})
	x.push(map[tenant.ID]data{"a": window(rng(), testDay, 1, 1, 1)}, "i1")
	d, err := x.store.ReserveDeletion(ctx, "a", 0, math.MaxInt64, [][]*labels.Matcher{{metric("metric_0")}})
	if err != nil {
		t.Fatal(err)
	}
	x.compact(All)
	if x.manifest("a", testDay) != nil {
		t.Fatal("compacted while a deletion was under way")
	}
	x.now = x.now.Add(time.Hour)
	x.compact(All)
	x.compact(All)
	if x.manifest("a", testDay) == nil {
		t.Fatal("a deletion that was given up blocks compaction")
	}
	if err := x.store.ActivateDeletion(ctx, "a", d); !errors.Is(err, store.ErrPendingGone) {
		t.Fatalf("activated after it was cancelled: %v", err)
	}
	x.check("cancelled")
}

// TestDeletedTenant: nothing of a deleted tenant is there, and nothing of it can
// come back by upload, publication or adoption.
func TestDeletedTenant(t *testing.T) {
	x := newWorld(t, wrap{})
	both := map[tenant.ID]data{"a": window(rng(), testDay, 1, 2, 2), "b": window(rng(), testDay, 1, 2, 2)}
	x.push(both, "i1")
	x.compact(Due)
	x.push(both, "i2")
	onItsWay := x.seal("i3", both, 0)
	c, err := x.store.Catalog(ctx, "a", testDay)
	if err != nil {
		t.Fatal(err)
	}
	g, err := x.store.NewGeneration(ctx, c, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Add(ctx, labels.FromStrings("__name__", "back"), &column.Series{T: []int64{testDay * series.DayMillis}, V: []float64{1}}); err != nil {
		t.Fatal(err)
	}
	x.deleted["a"] = true
	if _, err := g.Publish(ctx); !errors.Is(err, store.ErrDeleted) {
		t.Fatalf("published for a deleted tenant: %v", err)
	}
	x.sweep()
	if err := x.store.Upload(ctx, onItsWay); err != nil {
		t.Fatal(err)
	}
	x.compact(All)
	x.check("deleted")
	if e, err := x.store.Erasure(ctx, "a"); err != nil || e.Objects == 0 || e.Bytes == 0 || !e.Rows || e.Last == 0 {
		t.Errorf("the report of the deletion says %+v, %v", e, err)
	}
	left := 0
	if err := x.objects.List(ctx, "l1/a/", func(objects.Object) bool { left++; return true }); err != nil || left > 0 {
		t.Errorf("%d objects of the deleted tenant, %v", left, err)
	}
	for range 2 {
		x.now = x.now.Add(l0Kept)
		x.sweep()
	}
	x.check("a week later")
	x.nothingLeft("a week later")
}

// TestAdoption: an object whose ingester was lost between F2 and F3 is entered
// into the index; one that is too old is not.
func TestAdoption(t *testing.T) {
	x := newWorld(t, wrap{})
	in := &faults.Plan{}
	in.Fail(3, faults.Killed) // the journal, the object, and no further
	x.rows, x.objects = rowsfaulty.Store{Store: x.rows, Plan: in}, objectsfaulty.Store{Store: x.objects, Plan: in}
	x.open(0)
	d := map[tenant.ID]data{"a": window(rng(), testDay, 1, 2, 2)}
	x.expect(d)
	u := x.seal("i1", d, 0)
	u.Sealed = int64(u.Info.ID.Time())
	if err := x.store.Upload(ctx, u); err == nil {
		t.Fatal("the upload should have failed")
	}
	in.Heal()
	x.now = time.UnixMilli(u.Sealed).Add(47 * time.Hour)
	x.sweep()
	if got := x.read("a", 0, math.MaxInt64); len(got) > 0 {
		t.Fatal("adopted too early")
	}
	x.now = x.now.Add(2 * time.Hour)
	x.sweep()
	x.check("adopted")
	x.compact(All)
	x.check("adopted and compacted")

	x = newWorld(t, wrap{})
	u = x.seal("i1", d, 0)
	u.Sealed = int64(u.Info.ID.Time())
	in = &faults.Plan{}
	in.Fail(3, faults.Killed)
	x.rows, x.objects = rowsfaulty.Store{Store: x.rows, Plan: in}, objectsfaulty.Store{Store: x.objects, Plan: in}
	x.want["a"] = nil
	x.open(0)
	_ = x.store.Upload(ctx, u)
	in.Heal()
	x.now = time.UnixMilli(u.Sealed).Add(20 * 24 * time.Hour)
	if err := x.comp.Sweep(ctx); err == nil || !strings.Contains(err.Error(), "too old") {
		t.Fatalf("a pack of three weeks: %v", err)
	}
	x.check("not adopted")
}

// TestSmallTenants: a pack with many small tenants is read once for all of them.
func TestSmallTenants(t *testing.T) {
	var counting *counted.Store
	x := newWorld(t, wrap{objects: func(o objects.Store) objects.Store { counting = counted.New(o); return counting }})
	all := map[tenant.ID]data{}
	for i := range 300 {
		all[tenant.ID(fmt.Sprintf("tenant-%03d", i))] = window(rng(), testDay, 1, 2, 1)
	}
	x.push(all, "i1", "i2")
	counting.Gets.Store(0)
	if _, err := x.comp.Compact(ctx, Due); err != nil {
		t.Fatal(err)
	}
	if n := counting.Gets.Load(); n > 20 {
		t.Errorf("%d reads of two packs for 300 tenants", n)
	}
	x.check("small tenants")
}

// TestDamage: a damaged or missing object is an error that names it, never a
// shorter answer.
func TestDamage(t *testing.T) {
	x := newWorld(t, wrap{})
	x.push(map[tenant.ID]data{"a": window(rng(), testDay, 1, 3, 5)}, "i1")
	x.compact(Due)
	mem := x.objects.(*memory.Store)
	name := x.manifest("a", testDay).Packs[0].Object
	whole := mem.Bytes(name)
	read := func() error {
		x.open(0) // without caches
		sel, err := x.store.Select(ctx, series.Request{Tenant: "a", MaxTime: math.MaxInt64, Matchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, "__name__", "metric_.*")}}, nil)
		if err == nil {
			sel.Release()
		}
		return err
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	r, err := x.store.OpenPack(ctx, ulid.ULID{}, name, int64(len(whole)))
	if err != nil {
		t.Fatal(err)
	}
	for i := int64(40); i < r.IndexPlace(0).Offset; i += 13 {
		b := append([]byte(nil), whole...)
		b[i] ^= 4
		mem.Replace(name, b)
		if err := read(); !errors.Is(err, pack.ErrCorrupt) || !strings.Contains(err.Error(), name) {
			t.Fatalf("byte %d was changed: %v", i, err)
		}
	}
	mem.Replace(name, whole[:len(whole)/3])
	if err := read(); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("object cut short: %v", err)
	}
	x.must(nil, mem.Delete(ctx, name))
	if err := read(); !errors.Is(err, store.ErrMissing) || !strings.Contains(err.Error(), name) {
		t.Errorf("object missing: %v", err)
	}
}

// TestRebuildIndex: the rows of the index, deleted, come back from the packs as
// they were.
func TestRebuildIndex(t *testing.T) {
	x := newWorld(t, wrap{bytes: 5000})
	for w := range 4 {
		x.push(map[tenant.ID]data{"a": window(rng(), testDay, w, 5, 40), "b": window(rng(), testDay, w, 2, 2)}, "i1")
	}
	x.compact(Due)
	for _, tn := range []tenant.ID{"a", "b"} {
		for _, kind := range []string{"D", "M", "V"} {
			if err := x.rows.DeletePrefix(ctx, schema.TenantPrefix(tn)+kind); err != nil {
				t.Fatal(err)
			}
		}
	}
	findings := 0
	if _, err := x.store.Verify(ctx, []tenant.ID{"a", "b"}, store.VerifyOptions{Finding: func(string, error) { findings++ }}); err != nil || findings == 0 {
		t.Fatalf("%d findings without an index, %v", findings, err)
	}
	report, err := x.store.RebuildIndex(ctx, []tenant.ID{"a", "b"})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", report)
	x.verify()
	x.check("rebuilt")
	// The catalogs too, with L0 packs that were not compacted.
	x.push(map[tenant.ID]data{"a": window(rng(), testDay, 7, 2, 2)}, "i1")
	if err := x.rows.DeletePrefix(ctx, schema.TenantPrefix("a")); err != nil {
		t.Fatal(err)
	}
	start, end := schema.WorkRange()
	if err := x.rows.DeletePrefix(ctx, start); err != nil || end <= start {
		t.Fatal(err)
	}
	if got := x.read("a", 0, math.MaxInt64); len(got) > 0 {
		t.Fatal("the index is there still")
	}
	found, err := x.store.Tenants(ctx)
	if err != nil || len(found) != 2 {
		t.Fatalf("tenants %v, %v", found, err)
	}
	if report, err = x.store.RebuildIndex(ctx, found); err != nil || report.Recovered != 1 {
		t.Fatalf("%+v, %v", report, err)
	}
	x.check("recovered")
	x.verify()
	x.compact(All)
	x.check("recovered and compacted")
}

// TestLosses: what an ingester owed that was lost is known until the others have
// uploaded their part of the window, and keeps a day from being published only
// together with a loss elsewhere.
func TestLosses(t *testing.T) {
	x := newWorld(t, wrap{})
	w1, w2 := store.Window{Day: testDay, Number: 1}, store.Window{Day: testDay, Number: 2}
	intend := func(i, zone string, ws ...store.Window) {
		t.Helper()
		m := map[store.Window]schema.Intent{}
		for _, w := range ws {
			m[w] = schema.Intent{Zone: zone, Since: x.now.Add(-time.Hour).UnixMilli()}
		}
		if err := x.store.Intend(ctx, i, m); err != nil {
			t.Fatal(err)
		}
	}
	losses := func() (out []string) {
		t.Helper()
		list, err := x.store.Losses(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range list {
			out = append(out, fmt.Sprintf("%s %s %d", l.Ingester, l.Zone, l.Window.Number))
		}
		return out
	}
	settle := func() {
		t.Helper()
		if _, err := x.store.SettleLosses(ctx, x.now.UnixMilli()); err != nil {
			t.Fatal(err)
		}
	}
	intend("i1", "a", w1, w2)
	intend("i2", "b", w1)
	for range 2 { // again is as good as once
		if _, err := x.store.Lose(ctx, "i1", "x", "a", []store.Window{w2, {Day: testDay, Number: 3}}); err != nil {
			t.Fatal(err)
		}
	}
	if got := fmt.Sprint(losses()); got != "[i1~lost-x a 1 i1~lost-x a 2 i1~lost-x a 3]" {
		t.Errorf("losses %s", got)
	}
	if left, _ := x.store.Intents(ctx, "i1"); len(left) != 0 {
		t.Errorf("its successor would settle %v", left)
	}
	settle() // window 1 is owed by i2; of 3 the intent is too young when it was made now
	if got := fmt.Sprint(losses()); !strings.HasPrefix(got, "[i1~lost-x a 1") {
		t.Errorf("losses %s", got)
	}
	if _, err := x.store.Lose(ctx, "i2", "y", "b", nil); err != nil {
		t.Fatal(err)
	}
	settle() // two zones were lost with window 1
	if got := fmt.Sprint(losses()); got != "[i1~lost-x a 1 i2~lost-y b 1]" {
		t.Errorf("losses %s", got)
	}
	x.push(map[tenant.ID]data{"a": window(rng(), testDay, 1, 2, 2)}, "i3")
	x.compact(Due)
	if x.manifest("a", testDay) != nil {
		t.Error("published although samples may be lost")
	}
	if _, err := x.store.AcceptLoss(ctx, testDay); err != nil {
		t.Fatal(err)
	}
	x.compact(Due)
	if x.manifest("a", testDay) == nil || len(losses()) != 0 {
		t.Errorf("accepted, and %v", losses())
	}
}

// TestDamagedLog: windows that an ingester lost samples of with a damaged log are
// lost in its zone, until the others have uploaded theirs. The ingester lives on:
// its pending uploads stay its own.
func TestDamagedLog(t *testing.T) {
	x := newWorld(t, wrap{})
	w1, w2 := store.Window{Day: testDay, Number: 1}, store.Window{Day: testDay, Number: 2}
	for _, i := range []string{"i1", "i2"} {
		x.must(nil, x.store.Intend(ctx, i, map[store.Window]schema.Intent{w1: {Zone: "z-" + i, Since: x.now.Add(-time.Hour).UnixMilli()}}))
	}
	for range 2 { // again is as good as once
		x.must(nil, x.store.Damaged(ctx, "i1", "inc", "z-i1", []store.Window{w1, w2}))
	}
	list, err := x.store.Losses(ctx)
	x.must(nil, err)
	if len(list) != 2 || list[0].Zone != "z-i1" || !store.IsLost(list[0].Ingester) || list[0].Tenant != "" {
		t.Errorf("losses %+v", list)
	}
	if own, _ := x.store.Intents(ctx, "i1"); len(own) != 1 {
		t.Errorf("pending uploads of the ingester: %v", own)
	}
	if n, err := x.store.LossesOf(ctx, "i1"); err != nil || n != 2 {
		t.Errorf("%d losses of the ingester, %v", n, err)
	}
	// All have uploaded what they had, says the caller; none of another zone was lost.
	if left, err := x.store.SettleLoss(ctx, "i1"); err != nil || left != 0 {
		t.Errorf("%d losses are left, %v", left, err)
	}
	x.must(nil, x.store.Damaged(ctx, "i1", "inc", "z-i1", []store.Window{w1}))
	x.must(nil, x.store.Damaged(ctx, "i2", "inc2", "z-i2", []store.Window{w1}))
	if left, err := x.store.SettleLoss(ctx, "i1"); err != nil || left != 1 {
		t.Errorf("with damage in two zones %d losses are left, %v", left, err)
	}
}
