package compactor

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

func asideOf(ingester string, t tenant.ID, day int64, window int) store.AsideOf {
	return store.AsideOf{Ingester: ingester, Window: store.Window{Day: day, Number: window}, Tenant: t,
		Aside: schema.Aside{Since: 5, Zone: "z-" + ingester, Series: 1, Samples: 2, Bytes: 3, Reason: "as a test"}}
}

func (x *world) setAside(list ...store.AsideOf) {
	x.t.Helper()
	if err := x.store.SetAside(context.Background(), list); err != nil {
		x.t.Fatal(err)
	}
}

func (x *world) asides() []store.AsideOf {
	x.t.Helper()
	all, err := x.store.Asides(context.Background())
	if err != nil {
		x.t.Fatal(err)
	}
	return all
}

// TestAsideIsNotWaitedFor: a day is published and its packs are discharged while
// an ingester has something of it set aside; the record stays, and a day with
// nothing else is not compacted again and again.
func TestAsideIsNotWaitedFor(t *testing.T) {
	x := newWorld(t, wrap{})
	x.setAside(asideOf("i1", "a", testDay, 3), asideOf("i1", "a", testDay-5, 0))
	x.push(map[tenant.ID]data{"a": {"__name__=m": {{T: testDay * series.DayMillis, V: 1}}}, "b": {"__name__=m": {{T: testDay * series.DayMillis, V: 2}}}}, "i1")
	for round, published := range []int{2, 0} {
		if r := x.compact(Due); r.Published != published || r.Days != min(published, 1) {
			t.Errorf("round %d: %+v", round, r)
		}
	}
	work, err := x.store.Work(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range work {
		if !d.Idle() {
			t.Errorf("day %d is left with %d receipts", d.Day, len(d.Receipts))
		}
	}
	if n := len(x.asides()); n != 2 {
		t.Errorf("%d records are left", n)
	}
	x.check("compacted")
}

// TestAsideKeepsDeletions: deletions of series are not forgotten while a file that
// they may apply to exists.
func TestAsideKeepsDeletions(t *testing.T) {
	x := newWorld(t, wrap{})
	ctx := context.Background()
	x.expect(map[tenant.ID]data{"a": {}})
	ts, err := x.store.ReserveDeletion(ctx, "a", 0, math.MaxInt64, [][]*labels.Matcher{{labels.MustNewMatcher(labels.MatchEqual, "__name__", "m")}})
	if err == nil {
		err = x.store.ActivateDeletion(ctx, "a", ts)
	}
	if err != nil {
		t.Fatal(err)
	}
	x.setAside(asideOf("i1", "a", testDay, 3), asideOf("i1", "b", testDay, 3))
	known := func() int {
		n := 0
		if err := x.store.ActiveDeletions(ctx, []tenant.ID{"a"}, func(tenant.ID, schema.Tombstone) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	x.now = x.now.Add(60 * 24 * time.Hour)
	if err := x.comp.Sweep(ctx); err != nil || known() != 1 {
		t.Fatalf("with a record: %d deletions, %v", known(), err)
	}
	if _, err := x.store.DropAside(ctx, "i1", store.Window{Day: testDay, Number: 3}, "a"); err != nil {
		t.Fatal(err)
	}
	x.now = x.now.Add(24 * time.Hour) // a tenant is looked at once a day
	if err := x.comp.Sweep(ctx); err != nil || known() != 0 {
		t.Fatalf("with a dropped record: %d deletions, %v", known(), err)
	}
}

// TestAsideDrop: an operator gives up what he saw and nothing else. The ingester
// does the rest, unless it is lost.
func TestAsideDrop(t *testing.T) {
	x := newWorld(t, wrap{})
	ctx := context.Background()
	w := store.Window{Day: testDay, Number: 3}
	a := asideOf("i1", "a", testDay, 3)
	if _, err := x.store.DropAside(ctx, "i1", w, "a"); !errors.Is(err, store.ErrNoAside) {
		t.Errorf("without a record: %v", err)
	}
	x.setAside(a)
	if got, err := x.store.DropAside(ctx, "i1", w, "a"); err != nil || got != a {
		t.Fatalf("%+v, %v", got, err)
	}
	if all := x.asides(); len(all) != 1 || all[0].Dropped == 0 {
		t.Fatalf("a live ingester's: %+v", all)
	}
	if list, err := x.store.AsidesOf(ctx, "i1"); err != nil || len(list) != 0 {
		t.Errorf("AsidesOf has what was dropped: %v, %v", list, err)
	}
	a.Series++ // there is more now
	x.setAside(a)
	if list, err := x.store.AsidesOf(ctx, "i1"); err != nil || len(list) != 1 {
		t.Errorf("AsidesOf lacks what came later: %v, %v", list, err)
	}
	if _, err := x.store.DropAside(ctx, "i1", w, "a"); err != nil {
		t.Fatal(err)
	}
	x.setAside(asideOf("i1", "b", testDay, 3), asideOf("i2", "a", testDay, 3))
	if err := x.store.ForgetAsides(ctx, "i1"); err != nil {
		t.Fatal(err)
	}
	if all := x.asides(); len(all) != 2 {
		t.Errorf("after the ingester was forgotten: %+v", all)
	}
}

// TestAsideLost: what a lost ingester had set aside counts as lost, for its tenant
// alone, until it is dropped, accepted, or of no more use.
func TestAsideLost(t *testing.T) {
	for name, tc := range map[string]struct {
		end  func(x *world, lost string)
		left int
	}{
		"nothing": {func(*world, string) {}, 1},
		"dropped": {func(x *world, lost string) {
			x.must(x.store.DropAside(context.Background(), lost, store.Window{Day: testDay, Number: 3}, "a"))
		}, 0},
		"loss accepted": {func(x *world, _ string) { x.must(x.store.AcceptLoss(context.Background(), testDay)) }, 0},
		"other day":     {func(x *world, _ string) { x.must(x.store.AcceptLoss(context.Background(), testDay+1)) }, 1},
		"swept":         {func(x *world, _ string) { x.must(x.store.Sweep(context.Background())) }, 1},
		"beyond": {func(x *world, _ string) {
			x.keep = time.Hour
			x.now = x.now.Add(48 * time.Hour)
			x.must(x.store.Sweep(context.Background()))
		}, 0},
		"tenant deleted": {func(x *world, _ string) { x.deleted["a"] = true; x.must(x.store.Sweep(context.Background())) }, 0},
		"settled":        {func(x *world, _ string) { x.must(x.store.SettleLosses(context.Background(), math.MaxInt64)) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			x := newWorld(t, wrap{})
			ctx := context.Background()
			given := asideOf("i1", "c", testDay, 3)
			x.setAside(asideOf("i1", "a", testDay, 3), asideOf("i2", "a", testDay, 3), given)
			x.must(x.store.DropAside(ctx, "i1", given.Window, "c"))
			x.must(x.store.Lose(ctx, "i1", "inc", "z-i1", nil))
			x.must(x.store.Lose(ctx, "i1", "inc", "z-i1", nil)) // again
			lost, err := x.store.Losses(ctx)
			if err != nil || len(lost) != 1 || lost[0].Tenant != "a" || lost[0].Zone != "z-i1" || !lost[0].Overlaps(testDay*series.DayMillis+3*series.WindowMillis, math.MaxInt64) {
				t.Fatalf("losses %+v, %v", lost, err)
			}
			if n, err := x.store.LossesOf(ctx, "i1"); err != nil || n != 0 {
				t.Errorf("%d windows that others could upload, %v", n, err)
			}
			tc.end(x, lost[0].Ingester)
			if lost, err = x.store.Losses(ctx); err != nil || len(lost) != tc.left {
				t.Errorf("losses %+v, %v", lost, err)
			}
			if list, err := x.store.AsidesOf(ctx, "i1"); err != nil || len(list) != tc.left {
				t.Errorf("records of the instance %+v, %v", list, err)
			}
		})
	}
}

// must fails the test on an error; the value before it does not matter.
func (x *world) must(_ any, err error) {
	x.t.Helper()
	if err != nil {
		x.t.Fatal(err)
	}
}

// TestConsumedOfManyDays: a pack of more days than the row store takes ranges at
// once, as earlier versions sealed it, can be dropped in the end.
func TestConsumedOfManyDays(t *testing.T) {
	x := newWorld(t, wrap{})
	info := pack.Info{ID: ulid.Make()}
	for day := range int64(2*rows.MaxRanges + 1) {
		info.Sections = append(info.Sections, pack.SectionInfo{Tenant: "a", Day: day})
	}
	if ok, err := x.store.Consumed(context.Background(), info); err != nil || !ok {
		t.Fatalf("nothing uploaded: %v, %v", ok, err)
	}
	u := x.seal("i1", map[tenant.ID]data{"a": {"__name__=m": {{T: testDay * series.DayMillis}}}}, 0)
	if err := x.store.Upload(context.Background(), u); err != nil {
		t.Fatal(err)
	}
	info.ID = u.Info.ID
	info.Sections = append(info.Sections, u.Info.Sections...)
	if ok, err := x.store.Consumed(context.Background(), info); err != nil || ok {
		t.Fatalf("not compacted: %v, %v", ok, err)
	}
}
