package lifecycle_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/store/storetest"
)

// twoDays returns samples of two tenants in storetest.Day and the day before.
func twoDays() map[tenant.ID]storetest.Data {
	out := map[tenant.ID]storetest.Data{}
	for _, t := range []tenant.ID{"a", "b"} {
		out[t] = storetest.Data{"__name__=m": {{T: (storetest.Day - 1) * series.DayMillis, V: 1}, {T: storetest.Day * series.DayMillis, V: 1}}}
	}
	return out
}

// TestUploadSeesMark checks that an upload fails while its object is marked for
// deletion, and that the next sweep removes a mark left by an interrupted one.
func TestUploadSeesMark(t *testing.T) {
	x := storetest.New(t, storetest.Ports{})
	u := x.Seal("i1", twoDays(), 0)
	x.Must(nil, x.Index.Garbage.Mark(t.Context(), u.Object))
	if err := x.Store.Upload(t.Context(), u); !errors.Is(err, store.ErrBeingDeleted) {
		t.Errorf("Upload of a marked object: %v, want ErrBeingDeleted", err)
	}
	if report, err := x.Lifecycle.Sweep(t.Context()); err != nil || report.Kept != 1 || report.Objects != 0 {
		t.Errorf("sweep: %+v, %v; want one kept", report, err)
	}
	if err := x.Store.Upload(t.Context(), u); err != nil {
		t.Error(err)
	}
}

// TestCellWithoutReceipt checks that a sweep keeps an L0 pack that has catalog cells but
// no receipt, and writes its receipts, so that the pack is compacted.
func TestCellWithoutReceipt(t *testing.T) {
	x := storetest.New(t, storetest.Ports{})
	x.Must(nil, x.Store.Upload(t.Context(), x.Seal("i1", twoDays(), 0)))
	work, err := x.Store.Days(t.Context())
	if err != nil || len(work) == 0 {
		t.Fatalf("work after the upload: %v, error %v; want some", work, err)
	}
	for _, d := range work { // as if the upload had crashed between cells and receipts
		x.Must(nil, x.Store.MarkConsumed(t.Context(), d.Day, d.Receipts[0]))
	}
	x.Now = x.Now.Add(store.L0Delay)
	if report, err := x.Lifecycle.Sweep(t.Context()); err != nil || report.Kept != 1 || report.Objects != 0 {
		t.Errorf("Sweep() = %+v, %v; want the pack kept", report, err)
	}
	if again, err := x.Store.Days(t.Context()); err != nil || len(again) != len(work) || len(again[0].Receipts) != 1 {
		t.Errorf("%d days have work, want %d, %v", len(again), len(work), err)
	}
}

// TestAdoption checks that if an ingester is lost after it stored an object and before it
// wrote the catalog cells, the sweep enters the object into the index, unless the pack is
// too old.
func TestAdoption(t *testing.T) {
	x := storetest.New(t, storetest.Ports{})
	in := &faults.Plan{}
	in.Fail(3, faults.Killed) // after the garbage entry and the object
	f := storetest.Faulty(in)
	x.Rows, x.Objects = f.Rows(x.Rows), f.Objects(x.Objects)
	x.Open(0)
	d := map[tenant.ID]storetest.Data{"a": storetest.Window(storetest.Rand(), storetest.Day, 1, 2, 2)}
	x.Expect(d)
	u := x.Seal("i1", d, 0)
	u.Sealed = int64(u.Info.ID.Time())
	if err := x.Store.Upload(t.Context(), u); err == nil {
		t.Fatal("Upload succeeded, want an injected error")
	}
	in.Heal()
	x.Now = time.UnixMilli(u.Sealed).Add(47 * time.Hour)
	x.Must(x.Lifecycle.Sweep(t.Context()))
	if got := x.Read("a", 0, math.MaxInt64); len(got) > 0 {
		t.Fatal("the L0 pack was adopted before 48 hours had passed")
	}
	x.Now = x.Now.Add(2 * time.Hour)
	x.Must(x.Lifecycle.Sweep(t.Context()))
	x.Check("adopted")
	x.Merge(storetest.Day)
	x.Check("adopted and compacted")

	x = storetest.New(t, storetest.Ports{})
	u = x.Seal("i1", d, 0)
	u.Sealed = int64(u.Info.ID.Time())
	in = &faults.Plan{}
	in.Fail(3, faults.Killed)
	f = storetest.Faulty(in)
	x.Rows, x.Objects = f.Rows(x.Rows), f.Objects(x.Objects)
	x.Want["a"] = nil
	x.Open(0)
	_ = x.Store.Upload(t.Context(), u)
	in.Heal()
	x.Now = time.UnixMilli(u.Sealed).Add(20 * 24 * time.Hour)
	if _, err := x.Lifecycle.Sweep(t.Context()); err == nil || !strings.Contains(err.Error(), "too old") {
		t.Fatalf("sweep of a pack 20 days old: %v, want an error with \"too old\"", err)
	}
	x.Check("not adopted")
}
