package lifecycle_test

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
	"github.com/palliumhq/pallium/backend/store/storetest"
)

// TestCleanDeletions checks for which days the removal of deleted series is requested: for
// days in the range of a deletion that have packs from before the deletion, or may still get
// such packs. The removal is not requested again for a day unless there is a newer deletion.
func TestCleanDeletions(t *testing.T) {
	x := storetest.New(t, storetest.Ports{})
	ctx := context.Background()
	const day = storetest.Day
	reserve := func(id tenant.ID, first, last int64) schema.Tombstone {
		t.Helper()
		d, err := x.Lifecycle.ReserveDeletion(ctx, id, first, last, [][]*labels.Matcher{{storetest.Metric("metric_0")}})
		x.Must(nil, err)
		return d
	}
	remove := func(first, last int64) {
		t.Helper()
		x.Must(nil, x.Lifecycle.ActivateDeletion(ctx, "a", reserve("a", first, last)))
	}
	asks := func(what string, want ...int64) {
		t.Helper()
		n, err := x.Lifecycle.CleanDeletions(ctx, "a")
		x.Must(nil, err)
		var got []int64
		days, err := x.Store.Days(ctx)
		x.Must(nil, err)
		for i := range days {
			for _, c := range days[i].Cleans {
				if c.Tenant == "a" && c.Since == x.Now.UnixMilli() {
					got = append(got, days[i].Day)
				}
			}
		}
		same := len(got) == len(want)
		for i := range want {
			same = same && got[i] == want[i]
		}
		if !same || n != len(want) {
			t.Errorf("%s: requested for %v (%d), want %v", what, got, n, want)
		}
		x.Now = x.Now.Add(time.Minute)
	}
	intent := func(of int64) {
		x.Must(nil, x.Store.Intend(ctx, "i1", map[store.Window]schema.Intent{{Day: of, Number: 1}: {}}))
	}
	for _, d := range []int64{day - 2, day - 1, day} {
		x.Push(map[tenant.ID]storetest.Data{"a": storetest.Window(storetest.Rand(), d, 1, 1, 1), "b": storetest.Window(storetest.Rand(), d, 1, 1, 1)}, "i1")
	}
	asks("no deletion")
	x.Must(nil, x.Lifecycle.ActivateDeletion(ctx, "b", reserve("b", 0, math.MaxInt64)))
	if n, err := x.Lifecycle.CleanDeletions(ctx, "b"); err != nil || n != 3 {
		t.Errorf("another tenant: %d days, error %v; want 3", n, err)
	}
	remove((day-1)*series.DayMillis, (day+1)*series.DayMillis-1)
	asks("two of three days are in the range", day-1, day)
	asks("again")
	reserve("a", 0, math.MaxInt64)
	asks("a deletion that is not active")
	remove(day*series.DayMillis, math.MaxInt64)
	asks("a newer deletion", day)
	intent(day + 1)
	asks("a pack may arrive", day+1)
	x.Now = x.Now.Add(2 * time.Hour)
	intent(day + 2)
	asks("packs sealed before the deletion can no longer arrive")
	remove(math.MinInt64, math.MaxInt64)
	asks("everything", day-2, day-1, day, day+1, day+2)
}
