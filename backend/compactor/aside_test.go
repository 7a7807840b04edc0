package compactor

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

func asideOf(ingester string, t tenant.ID, day int64, window int) store.AsideOf {
	return store.AsideOf{Ingester: ingester, Window: store.Window{Day: day, Number: window}, Tenant: t,
		Aside: schema.Aside{Since: 5, Zone: "z-" + ingester, Series: 1, Samples: 2, Bytes: 3, Reason: "as a test"}}
}

func (x *world) setAside(list ...store.AsideOf) {
	x.T.Helper()
	if err := x.Store.SetAside(context.Background(), list); err != nil {
		x.T.Fatal(err)
	}
}

func (x *world) asides() []store.AsideOf {
	x.T.Helper()
	all, err := x.Store.Asides(context.Background())
	if err != nil {
		x.T.Fatal(err)
	}
	return all
}

// TestAsideIsNotWaitedFor checks that a day is published and its packs are consumed although
// an ingester has series of it set aside, that the record stays, and that a day with nothing
// else is not compacted again.
func TestAsideIsNotWaitedFor(t *testing.T) {
	x := newWorld(t, wrap{})
	x.setAside(asideOf("i1", "a", testDay, 3), asideOf("i1", "a", testDay-5, 0))
	x.Push(map[tenant.ID]data{"a": {"__name__=m": {{T: testDay * series.DayMillis, V: 1}}}, "b": {"__name__=m": {{T: testDay * series.DayMillis, V: 2}}}}, "i1")
	for round, published := range []int{2, 0} {
		if r := x.compact(Due); r.Published != published || r.Days != min(published, 1) {
			t.Errorf("round %d: %+v", round, r)
		}
	}
	work, err := x.Store.Days(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range work {
		if !d.Idle() {
			t.Errorf("day %d is left with %d receipts", d.Day, len(d.Receipts))
		}
	}
	if n := len(x.asides()); n != 2 {
		t.Errorf("%d records are left, want 2", n)
	}
	x.Check("compacted")
}

// TestAsideKeepsDeletions checks that deletions of series are not forgotten while the tenant
// has series set aside to which they may apply.
func TestAsideKeepsDeletions(t *testing.T) {
	x := newWorld(t, wrap{})
	ctx := context.Background()
	x.Expect(map[tenant.ID]data{"a": {}})
	ts, err := x.Lifecycle.ReserveDeletion(ctx, "a", 0, math.MaxInt64, [][]*labels.Matcher{{labels.MustNewMatcher(labels.MatchEqual, "__name__", "m")}})
	if err == nil {
		err = x.Lifecycle.ActivateDeletion(ctx, "a", ts)
	}
	if err != nil {
		t.Fatal(err)
	}
	x.setAside(asideOf("i1", "a", testDay, 3), asideOf("i1", "b", testDay, 3))
	known := func() int {
		n := 0
		if err := x.Store.ActiveDeletions(ctx, []tenant.ID{"a"}, func(tenant.ID, schema.Tombstone) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	x.Now = x.Now.Add(60 * 24 * time.Hour)
	if err := x.comp.Sweep(ctx); err != nil || known() != 1 {
		t.Fatalf("%d deletions while series are set aside, error %v", known(), err)
	}
	if _, err := x.Store.DropAside(ctx, "i1", store.Window{Day: testDay, Number: 3}, "a"); err != nil {
		t.Fatal(err)
	}
	x.Now = x.Now.Add(24 * time.Hour) // a tenant is visited once a day
	if err := x.comp.Sweep(ctx); err != nil || known() != 0 {
		t.Fatalf("%d deletions after the record was dropped, error %v", known(), err)
	}
}
