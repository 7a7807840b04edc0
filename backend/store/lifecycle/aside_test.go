package lifecycle_test

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/store/storetest"
)

// TestAsideLost checks that series set aside by a lost ingester count as a loss of their
// tenant only, until they are dropped, the loss is accepted, they have expired, or their
func TestAsideLost(t *testing.T) {
	for name, tc := range map[string]struct {
		end  func(x *storetest.World, lost string)
		left int
	}{
		"nothing": {func(*storetest.World, string) {}, 1},
		"dropped": {func(x *storetest.World, lost string) {
			x.Must(x.Store.DropAside(context.Background(), lost, store.Window{Day: storetest.Day, Number: 3}, "a"))
		}, 0},
		"loss accepted": {func(x *storetest.World, _ string) { x.Must(x.Store.AcceptLoss(context.Background(), storetest.Day)) }, 0},
		"other day":     {func(x *storetest.World, _ string) { x.Must(x.Store.AcceptLoss(context.Background(), storetest.Day+1)) }, 1},
		"swept":         {func(x *storetest.World, _ string) { x.Must(x.Lifecycle.Sweep(context.Background())) }, 1},
		"beyond retention": {func(x *storetest.World, _ string) {
			x.Keep = time.Hour
			x.Now = x.Now.Add(48 * time.Hour)
			x.Must(x.Lifecycle.Sweep(context.Background()))
		}, 0},
		"tenant deleted": {func(x *storetest.World, _ string) {
			x.Deleted["a"] = true
			x.Must(x.Lifecycle.Sweep(context.Background()))
		}, 0},
		"losses cleared": {func(x *storetest.World, _ string) { x.Must(x.Store.ClearLosses(context.Background(), math.MaxInt64)) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			x := storetest.New(t, storetest.Ports{})
			ctx := context.Background()
			given := asideOf("i1", "c", storetest.Day, 3)
			x.Must(nil, x.Store.SetAside(ctx, []store.AsideOf{asideOf("i1", "a", storetest.Day, 3), asideOf("i2", "a", storetest.Day, 3), given}))
			x.Must(x.Store.DropAside(ctx, "i1", given.Window, "c"))
			x.Must(x.Store.MarkLost(ctx, "i1", "inc", "z-i1", nil))
			x.Must(x.Store.MarkLost(ctx, "i1", "inc", "z-i1", nil)) // again
			lost, err := x.Store.Losses(ctx)
			if err != nil || len(lost) != 1 || lost[0].Tenant != "a" || lost[0].Zone != "z-i1" || !lost[0].Overlaps(storetest.Day*series.DayMillis+3*series.WindowMillis, math.MaxInt64) {
				t.Fatalf("losses %+v, %v", lost, err)
			}
			if n, err := x.Store.LossesOf(ctx, "i1"); err != nil || n != 0 {
				t.Errorf("LossesOf() = %d, %v; want 0", n, err)
			}
			tc.end(x, lost[0].Ingester)
			if lost, err = x.Store.Losses(ctx); err != nil || len(lost) != tc.left {
				t.Errorf("losses %+v, error %v; want %d", lost, err, tc.left)
			}
			if list, err := x.Store.AsidesOf(ctx, "i1"); err != nil || len(list) != tc.left {
				t.Errorf("AsidesOf() = %+v, %v; want %d records", list, err, tc.left)
			}
		})
	}
}

func asideOf(ingester string, t tenant.ID, day int64, window int) store.AsideOf {
	return store.AsideOf{Ingester: ingester, Window: store.Window{Day: day, Number: window}, Tenant: t,
		Aside: schema.Aside{Since: 5, Zone: "z-" + ingester, Series: 1, Samples: 2, Bytes: 3, Reason: "as a test"}}
}
