package compactor

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/column"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/objects/counted"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/store/lifecycle"
	"github.com/palliumhq/pallium/backend/store/storetest"
)

// Tests of the rules in docs/format/store.md that involve a compaction. Rules of a single package
// are tested there: in backend/store, backend/store/lifecycle, backend/store/fsck and
// backend/index.

// TestPublishedIsNotComplete checks that late samples of a published day are read before they are
// compacted, unless an ingester covers their pack.
func TestPublishedIsNotComplete(t *testing.T) {
	x := newWorld(t, wrap{})
	x.Push(map[tenant.ID]data{"a": storetest.Window(rng(), testDay, 1, 2, 2)}, "i1")
	x.compact(Due)
	late := map[tenant.ID]data{"a": {"__name__=late": {{T: testDay * series.DayMillis, V: 5}}}}
	x.Push(late, "i1")
	x.Check("late data of a published day")
	asked := 0
	sel, err := x.Store.Select(ctx, series.Request{Tenant: "a", MaxTime: math.MaxInt64, Matchers: []*labels.Matcher{metric("late")}}, func(ulid.ULID) bool { asked++; return true })
	if err != nil || len(sel.Series) != 0 || asked != 1 {
		t.Errorf("a pack that an ingester covers was read: %d series, asked about %d packs, %v", len(sel.Series), asked, err)
	}
	// A published day gets a new generation at most every six hours.
	x.compact(Due)
	if g := x.Manifest("a", testDay).Version.Generation; g != 1 {
		t.Errorf("generation %d right after the first", g)
	}
	x.Now = x.Now.Add(lateSpacing)
	x.compact(Due)
	if g := x.Manifest("a", testDay).Version.Generation; g != 2 {
		t.Errorf("generation %d six hours later", g)
	}
	x.Check("second generation")
}

// TestRetention checks that a shorter retention expires days, and that a longer one keeps days that
// were written under the shorter one.
func TestRetention(t *testing.T) {
	x := newWorld(t, wrap{})
	x.Keep = 10 * 24 * time.Hour
	x.Push(map[tenant.ID]data{"a": storetest.Window(rng(), testDay, 1, 2, 2)}, "i1")
	x.compact(Due)
	x.Keep = 200 * 24 * time.Hour
	x.sweep()
	x.Now = x.Now.Add(100 * 24 * time.Hour) // far beyond the retention of 10 days and the 30 days after which cells expire
	x.sweep()
	x.Check("retention was made longer")
	x.Verify()
	x.Keep = 50 * 24 * time.Hour
	x.sweep()
	x.Want["a"] = nil
	x.Check("retention was made shorter")
	x.Now = x.Now.Add(24 * time.Hour)
	x.sweep()
	x.NothingLeft("retention was made shorter")
	// Samples uploaded for a day beyond retention expire with it.
	x.Push(map[tenant.ID]data{"a": {"__name__=old": {{T: testDay * series.DayMillis, V: 1}}}}, "i1")
	x.compact(Due)
	x.Want["a"] = nil
	x.Now = x.Now.Add(24 * time.Hour)
	x.sweep()
	x.Check("samples beyond retention")
}

// TestRetentionForever checks that retention 0 keeps days forever.
func TestRetentionForever(t *testing.T) {
	x := newWorld(t, wrap{})
	x.Push(map[tenant.ID]data{"a": storetest.Window(rng(), testDay, 1, 1, 1)}, "i1")
	x.compact(Due)
	x.Now = x.Now.Add(3000 * 24 * time.Hour)
	x.sweep()
	x.Check("eight years later")
}

// TestWhenToPublish checks that a day is compacted when it has ended and no ingester has pending
// uploads, except lost ingesters of one zone and late intents.
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
		{"pending", ended, []store.IntentOf{intent("i1", false)}, "i1 has not uploaded"},
		{"late", ended, []store.IntentOf{intent("i1", true)}, ""},
		{"one lost", ended, []store.IntentOf{intent("lost1", false)}, ""},
		{"one lost, one pending", ended, []store.IntentOf{intent("lost1", false), intent("i1", false)}, "i1 has not uploaded"},
		{"two lost of one zone", ended, []store.IntentOf{intent("lost1", false), intent("lost1b", false)}, ""},
		{"two lost of two zones", ended, []store.IntentOf{intent("lost1", false), intent("lost2", false)}, "pallium loss accept " + series.DateOf(testDay)},
		{"one lost twice, without zones", ended, []store.IntentOf{intent("lostx", false), intent("lostx again", false)}, ""},
		{"three losses of two ingesters", ended, []store.IntentOf{intent("lostx", false), intent("lostx again", false), intent("losty", false)},
			"2 ingesters of different failure domains"},
		{"two lost without zones", ended, []store.IntentOf{intent("lostx", false), intent("losty", false)}, "pallium loss accept"},
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
			case "lostx again":
				in.Ingester = "lostx~lost-2"
			}
		}
		if got := comp.mustWait(&store.DayWork{Day: testDay, Intents: c.intents}); (got == "") != (c.wait == "") || !strings.Contains(got, c.wait) {
			t.Errorf("%s: mustWait() = %q, want %q", c.name, got, c.wait)
		}
	}
	x := newWorld(t, wrap{})
	x.Push(map[tenant.ID]data{"a": storetest.Window(rng(), testDay, 1, 2, 2)}, "i1")
	if err := x.Store.Intend(ctx, "i2", map[store.Window]schema.Intent{{Day: testDay, Number: 1}: {}}); err != nil {
		t.Fatal(err)
	}
	x.compact(Due)
	if x.Manifest("a", testDay) != nil {
		t.Fatal("published although i2 has a pending window")
	}
	if w := x.comp.Status().Waiting; len(w) != 1 || w[0].Day != testDay {
		t.Errorf("Status().Waiting = %v, want the day", w)
	}
	// i2 is not lost: it will upload.
	if n, err := x.Store.AcceptLoss(ctx, testDay); n != 0 || err != nil {
		t.Fatalf("AcceptLoss without a loss = %d, %v", n, err)
	}
	x.compact(Due)
	if x.Manifest("a", testDay) != nil {
		t.Fatal("published although i2, which is not lost, has a pending window")
	}
	if _, err := x.Store.MarkLost(ctx, "i2", "y", "", nil); err != nil {
		t.Fatal(err)
	}
	if n, err := x.Store.AcceptLoss(ctx, testDay); n != 1 || err != nil {
		t.Fatalf("AcceptLoss of one window = %d, %v", n, err)
	}
	x.compact(Due)
	if x.Manifest("a", testDay) == nil {
		t.Fatal("not published after the loss was accepted")
	}
	x.Check("loss accepted")
}

// TestStalledCompactor checks that an L0 pack is not deleted before all days and tenants in it are
// compacted, however long that takes.
func TestStalledCompactor(t *testing.T) {
	x := newWorld(t, wrap{})
	d := storetest.Window(rng(), testDay, 11, 2, 2)
	for s, list := range storetest.Window(rng(), testDay+1, 0, 2, 2) {
		d[s] = append(d[s], list...)
	}
	x.Push(map[tenant.ID]data{"a": d, "b": storetest.Window(rng(), testDay, 11, 1, 1)}, "i1")
	if !x.Now.Before(time.UnixMilli((testDay + 2) * series.DayMillis)) {
		t.Fatal("the second day must still be open")
	}
	x.compact(Due) // only the first day
	if x.Manifest("a", testDay) == nil || x.Manifest("a", testDay+1) != nil {
		t.Fatal("want only the first day published")
	}
	for range 3 {
		x.Now = x.Now.Add(8 * 24 * time.Hour)
		x.sweep()
		x.Check("stalled compactor")
	}
	x.compact(Due)
	x.Now = x.Now.Add(l0Kept)
	x.sweep()
	x.Check("compactor works again")
	x.NothingLeft("compactor works again")
}

const l0Kept = 8 * 24 * time.Hour

// TestDeletedSeries checks that deleted samples do not reappear from packs uploaded later, from a
// repeated upload, or after compaction, and that samples pushed after the deletion are kept.
func TestDeletedSeries(t *testing.T) {
	x := newWorld(t, wrap{bytes: 3000})
	old := map[tenant.ID]data{"a": storetest.Window(rng(), testDay, 1, 3, 3)}
	x.Push(old, "i1")
	x.compact(Due)
	onItsWay := x.Seal("i2", old, 0)
	x.Push(map[tenant.ID]data{"a": storetest.Window(rng(), testDay, 2, 3, 3)}, "i1")
	d, err := x.Lifecycle.ReserveDeletion(ctx, "a", math.MinInt64, math.MaxInt64, [][]*labels.Matcher{{metric("metric_0")}})
	if err != nil {
		t.Fatal(err)
	}
	x.Check("a reserved deletion is not applied")
	if err := x.Lifecycle.ActivateDeletion(ctx, "a", d); err != nil {
		t.Fatal(err)
	}
	for s := range x.Want["a"] {
		if strings.Contains(s, "metric_0") {
			delete(x.Want["a"], s)
		}
	}
	x.Check("deleted")
	if err := x.Store.Upload(ctx, onItsWay); err != nil {
		t.Fatal(err)
	}
	x.Check("a pack from before the deletion arrives")
	names := func(what string) {
		t.Helper()
		got, err := x.Store.LabelValues(ctx, "__name__", series.Request{Tenant: "a", MaxTime: math.MaxInt64}, nil)
		if err != nil || len(got) != 2 || got[0] != "metric_1" {
			t.Errorf("%s: metrics %v, %v", what, got, err)
		}
	}
	names("before compaction")
	x.compact(All)
	x.Check("compacted")
	names("compacted")
	// Pushed after the deletion, for the same series and time.
	again := map[tenant.ID]data{"a": {"__name__=metric_0,instance=host000,job=test": {{T: testDay*series.DayMillis + 2*series.WindowMillis, V: 77}}}}
	x.Expect(again)
	if err := x.Store.Upload(ctx, x.Seal("i1", again, d.Number)); err != nil {
		t.Fatal(err)
	}
	x.Check("pushed again")
	x.compact(All)
	x.Check("pushed again and compacted")
	// Another deletion, of a part of the time range.
	mid := testDay*series.DayMillis + series.WindowMillis + 1_000_000
	if d, err = x.Lifecycle.ReserveDeletion(ctx, "a", 0, mid, [][]*labels.Matcher{{metric("metric_1")}, {metric("metric_2")}}); err != nil {
		t.Fatal(err)
	}
	if err := x.Lifecycle.ActivateDeletion(ctx, "a", d); err != nil {
		t.Fatal(err)
	}
	for s, samples := range x.Want["a"] {
		for at := range samples {
			if at <= mid && !strings.Contains(s, "metric_0") {
				delete(samples, at)
			}
		}
	}
	x.Check("a part deleted")
	x.compact(Due) // requested by the deletion
	if m := x.Manifest("a", testDay); m.Tombstone != d.Number {
		t.Errorf("the deletion was not applied: %d", m.Tombstone)
	}
	x.Check("a part deleted and compacted")
	x.Now = x.Now.Add(60 * 24 * time.Hour)
	x.sweep()
	_, deletions, err := x.Store.Day(ctx, "a", testDay)
	if last, _ := deletions.Last(); err != nil || last != 0 {
		t.Errorf("a deletion that is applied to all packs is not forgotten: %d, %v", last, err)
	}
	x.Check("forgotten")
}

// TestPendingDeletion checks that a pending deletion prevents compaction, and is canceled if it is
// not activated in time.
func TestPendingDeletion(t *testing.T) {
	x := newWorld(t, wrap{})
	x.Push(map[tenant.ID]data{"a": storetest.Window(rng(), testDay, 1, 1, 1)}, "i1")
	d, err := x.Lifecycle.ReserveDeletion(ctx, "a", 0, math.MaxInt64, [][]*labels.Matcher{{metric("metric_0")}})
	if err != nil {
		t.Fatal(err)
	}
	x.compact(All)
	if x.Manifest("a", testDay) != nil {
		t.Fatal("compacted while a deletion was pending")
	}
	x.Now = x.Now.Add(time.Hour)
	x.compact(All)
	x.compact(All)
	if x.Manifest("a", testDay) == nil {
		t.Fatal("an overdue pending deletion still prevents compaction")
	}
	if err := x.Lifecycle.ActivateDeletion(ctx, "a", d); !errors.Is(err, lifecycle.ErrPendingGone) {
		t.Fatalf("activated after it was canceled: %v", err)
	}
	x.Check("canceled")
}

// TestDeletedTenant checks that all data of a deleted tenant is erased, and that none of it reappears
// by upload, publication or adoption.
func TestDeletedTenant(t *testing.T) {
	x := newWorld(t, wrap{})
	both := map[tenant.ID]data{"a": storetest.Window(rng(), testDay, 1, 2, 2), "b": storetest.Window(rng(), testDay, 1, 2, 2)}
	x.Push(both, "i1")
	x.compact(Due)
	x.Push(both, "i2")
	onItsWay := x.Seal("i3", both, 0)
	c, err := x.Store.Catalog(ctx, "a", testDay)
	if err != nil {
		t.Fatal(err)
	}
	g, err := x.Store.NewGeneration(ctx, c, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Add(ctx, labels.FromStrings("__name__", "back"), &column.Series{T: []int64{testDay * series.DayMillis}, V: []float64{1}}); err != nil {
		t.Fatal(err)
	}
	x.Deleted["a"] = true
	if _, err := g.Publish(ctx); !errors.Is(err, store.ErrDeleted) {
		t.Fatalf("published for a deleted tenant: %v", err)
	}
	x.sweep()
	if err := x.Store.Upload(ctx, onItsWay); err != nil {
		t.Fatal(err)
	}
	x.compact(All)
	x.Check("deleted")
	if e, err := x.Lifecycle.Erasure(ctx, "a"); err != nil || e.Objects == 0 || e.Bytes == 0 || !e.Rows || e.Last == 0 {
		t.Errorf("Erasure() = %+v, %v", e, err)
	}
	left := 0
	if err := x.Objects.List(ctx, "l1/a/", func(objects.Object) bool { left++; return true }); err != nil || left > 0 {
		t.Errorf("%d objects of the deleted tenant, %v", left, err)
	}
	for range 2 {
		x.Now = x.Now.Add(l0Kept)
		x.sweep()
	}
	x.Check("a week later")
	x.NothingLeft("a week later")
}

// TestSmallTenants checks that a pack with many small tenants is not read again for each of them.
func TestSmallTenants(t *testing.T) {
	var counting *counted.Store
	x := newWorld(t, wrap{objects: func(o objects.Store) objects.Store { counting = counted.New(o); return counting }})
	all := map[tenant.ID]data{}
	for i := range 300 {
		all[tenant.ID(fmt.Sprintf("tenant-%03d", i))] = storetest.Window(rng(), testDay, 1, 2, 1)
	}
	x.Push(all, "i1", "i2")
	counting.Gets.Store(0)
	if _, err := x.comp.Compact(ctx, Due); err != nil {
		t.Fatal(err)
	}
	if n := counting.Gets.Load(); n > 20 {
		t.Errorf("%d reads of two packs for 300 tenants, want at most 20", n)
	}
	x.Check("small tenants")
}

// TestLosses checks that the pending windows of a lost ingester are listed as losses until the
// replicas have uploaded these windows, and that they prevent publication only if an ingester of
// another zone lost the same window.
func TestLosses(t *testing.T) {
	x := newWorld(t, wrap{})
	w1, w2 := store.Window{Day: testDay, Number: 1}, store.Window{Day: testDay, Number: 2}
	intend := func(i, zone string, ws ...store.Window) {
		t.Helper()
		m := map[store.Window]schema.Intent{}
		for _, w := range ws {
			m[w] = schema.Intent{Zone: zone, Since: x.Now.Add(-time.Hour).UnixMilli()}
		}
		if err := x.Store.Intend(ctx, i, m); err != nil {
			t.Fatal(err)
		}
	}
	losses := func() (out []string) {
		t.Helper()
		list, err := x.Store.Losses(ctx)
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
		if _, err := x.Store.ClearLosses(ctx, x.Now.UnixMilli()); err != nil {
			t.Fatal(err)
		}
	}
	intend("i1", "a", w1, w2)
	intend("i2", "b", w1)
	for range 2 { // MarkLost is idempotent
		if _, err := x.Store.MarkLost(ctx, "i1", "x", "a", []store.Window{w2, {Day: testDay, Number: 3}}); err != nil {
			t.Fatal(err)
		}
	}
	if got := fmt.Sprint(losses()); got != "[i1~lost-x a 1 i1~lost-x a 2 i1~lost-x a 3]" {
		t.Errorf("losses %s", got)
	}
	if left, _ := x.Store.Intents(ctx, "i1"); len(left) != 0 {
		t.Errorf("intents of its next incarnation: %v", left)
	}
	settle() // window 1 is pending on i2; the intent of window 3 may be too young
	if got := fmt.Sprint(losses()); !strings.HasPrefix(got, "[i1~lost-x a 1") {
		t.Errorf("losses %s", got)
	}
	if _, err := x.Store.MarkLost(ctx, "i2", "y", "b", nil); err != nil {
		t.Fatal(err)
	}
	settle() // ingesters of two zones lost window 1
	if got := fmt.Sprint(losses()); got != "[i1~lost-x a 1 i2~lost-y b 1]" {
		t.Errorf("losses %s", got)
	}
	x.Push(map[tenant.ID]data{"a": storetest.Window(rng(), testDay, 1, 2, 2)}, "i3")
	x.compact(Due)
	if x.Manifest("a", testDay) != nil {
		t.Error("published although acknowledged samples may be lost")
	}
	if _, err := x.Store.AcceptLoss(ctx, testDay); err != nil {
		t.Fatal(err)
	}
	x.compact(Due)
	if x.Manifest("a", testDay) == nil || len(losses()) != 0 {
		t.Errorf("after AcceptLoss: manifest %+v, losses %v; want the day published and no losses", x.Manifest("a", testDay), losses())
	}
}
