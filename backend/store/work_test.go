package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/store/storetest"
)

// TestIntentsEnd checks that an upload clears the intents of its ingester in Cleared and no
// others.
func TestIntentsEnd(t *testing.T) {
	x := storetest.New(t, storetest.Ports{})
	w := store.Window{Day: storetest.Day, Number: 1}
	for _, i := range []string{"i1", "i2"} {
		if err := x.Store.Intend(t.Context(), i, map[store.Window]schema.Intent{w: {}, {Day: storetest.Day, Number: 2}: {}}); err != nil {
			t.Fatal(err)
		}
	}
	u := x.Seal("i1", map[tenant.ID]storetest.Data{"a": storetest.Window(storetest.Rand(), storetest.Day, 1, 1, 1)}, 0)
	if err := x.Store.Upload(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	if left, err := x.Store.Intents(t.Context(), "i1"); err != nil || len(left) != 1 || left[0].Number != 2 {
		t.Errorf("intents of i1: %v, error %v; want only that of window 2", left, err)
	}
	if left, err := x.Store.Intents(t.Context(), "i2"); err != nil || len(left) != 2 {
		t.Errorf("intents of i2: %v, error %v; want two", left, err)
	}
}

// TestDamagedLog checks that windows for which an ingester lost samples, because its log is
// damaged, are lost windows of its zone until the replicas have uploaded them. The ingester
// keeps its own intents.
func TestDamagedLog(t *testing.T) {
	x := storetest.New(t, storetest.Ports{})
	w1, w2 := store.Window{Day: storetest.Day, Number: 1}, store.Window{Day: storetest.Day, Number: 2}
	for _, i := range []string{"i1", "i2"} {
		x.Must(nil, x.Store.Intend(t.Context(), i, map[store.Window]schema.Intent{w1: {Zone: "z-" + i, Since: x.Now.Add(-time.Hour).UnixMilli()}}))
	}
	for range 2 { // MarkDamaged is idempotent
		x.Must(nil, x.Store.MarkDamaged(t.Context(), "i1", "inc", "z-i1", []store.Window{w1, w2}))
	}
	list, err := x.Store.Losses(t.Context())
	x.Must(nil, err)
	if len(list) != 2 || list[0].Zone != "z-i1" || !store.IsLost(list[0].Ingester) || list[0].Tenant != "" {
		t.Errorf("losses %+v, want two of zone z-i1", list)
	}
	if own, _ := x.Store.Intents(t.Context(), "i1"); len(own) != 1 {
		t.Errorf("intents of the ingester: %v, want one", own)
	}
	if n, err := x.Store.LossesOf(t.Context(), "i1"); err != nil || n != 2 {
		t.Errorf("LossesOf() = %d, %v; want 2", n, err)
	}
	// All ingesters have uploaded, and none of another zone was lost.
	if left, err := x.Store.ClearLoss(t.Context(), "i1"); err != nil || left != 0 {
		t.Errorf("ClearLoss() = %d, %v; want 0", left, err)
	}
	x.Must(nil, x.Store.MarkDamaged(t.Context(), "i1", "inc", "z-i1", []store.Window{w1}))
	x.Must(nil, x.Store.MarkDamaged(t.Context(), "i2", "inc2", "z-i2", []store.Window{w1}))
	if left, err := x.Store.ClearLoss(t.Context(), "i1"); err != nil || left != 1 {
		t.Errorf("ClearLoss() with damage in two zones = %d, %v; want 1", left, err)
	}
}

// TestLostTwice checks that the loss of an ingester without a zone is cleared although it
// was lost with the same window before, and that it is not cleared if another ingester
// was lost too.
func TestLostTwice(t *testing.T) {
	x := storetest.New(t, storetest.Ports{})
	w := store.Window{Day: storetest.Day, Number: 1}
	for _, incarnation := range []string{"1", "2"} {
		x.Must(nil, x.Store.MarkDamaged(t.Context(), "i1", incarnation, "", []store.Window{w}))
	}
	if left, err := x.Store.ClearLoss(t.Context(), "i1"); err != nil || left != 0 {
		t.Errorf("ClearLoss() of an ingester lost twice = %d, %v; want 0", left, err)
	}
	for _, ingester := range []string{"i1", "i2"} {
		x.Must(nil, x.Store.MarkDamaged(t.Context(), ingester, "3", "", []store.Window{w}))
	}
	if left, err := x.Store.ClearLoss(t.Context(), "i1"); err != nil || left != 1 {
		t.Errorf("ClearLoss() with two lost ingesters = %d, %v; want 1", left, err)
	}
}

// TestConsumedOfManyDays checks that Consumed works for a pack with more days than the row
// store accepts ranges per call. Earlier versions sealed such packs.
func TestConsumedOfManyDays(t *testing.T) {
	x := storetest.New(t, storetest.Ports{})
	info := pack.Info{ID: ulid.Make()}
	for day := range int64(2*rows.MaxRanges + 1) {
		info.Sections = append(info.Sections, pack.SectionInfo{Tenant: "a", Day: day})
	}
	if ok, err := x.Store.Consumed(context.Background(), info); err != nil || !ok {
		t.Fatalf("Consumed() with nothing uploaded = %v, %v; want true", ok, err)
	}
	u := x.Seal("i1", map[tenant.ID]storetest.Data{"a": {"__name__=m": {{T: storetest.Day * series.DayMillis}}}}, 0)
	if err := x.Store.Upload(context.Background(), u); err != nil {
		t.Fatal(err)
	}
	info.ID = u.Info.ID
	info.Sections = append(info.Sections, u.Info.Sections...)
	if ok, err := x.Store.Consumed(context.Background(), info); err != nil || ok {
		t.Fatalf("Consumed() of a pack that is not compacted = %v, %v; want false", ok, err)
	}
}
