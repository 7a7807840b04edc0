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

// twoDays is samples of two tenants, each of testDay and the day before.
func twoDays() map[tenant.ID]storetest.Data {
	out := map[tenant.ID]storetest.Data{}
	for _, t := range []tenant.ID{"a", "b"} {
		out[t] = storetest.Data{"__name__=m": {{T: (storetest.Day - 1) * series.DayMillis, V: 1}, {T: storetest.Day * series.DayMillis, V: 1}}}
	}
	return out
}

// TestUploadSeesMark: an upload does not end while a sweep is about to delete its
// object; the sweep finishes what another one began.
func TestUploadSeesMark(t *testing.T) {
	x := storetest.New(t, storetest.Ports{})
	u := x.Seal("i1", twoDays(), 0)
	x.Must(nil, x.Index.Garbage.Mark(t.Context(), u.Object))
	if err := x.Store.Upload(t.Context(), u); !errors.Is(err, store.ErrBeingDeleted) {
		t.Errorf("the upload ends with %v", err)
	}
	if report, err := x.Lifecycle.Sweep(t.Context()); err != nil || report.Kept != 1 || report.Objects != 0 {
		t.Errorf("sweep: %+v, %v; want one kept", report, err)
	}
	if err := x.Store.Upload(t.Context(), u); err != nil {
		t.Error(err)
	}
}

// TestCellWithoutReceipt: a sweep keeps an L0 pack that a catalog names and no
// work row, and puts it into the work rows again: compaction would not find it.
func TestCellWithoutReceipt(t *testing.T) {
	x := storetest.New(t, storetest.Ports{})
	x.Must(nil, x.Store.Upload(t.Context(), x.Seal("i1", twoDays(), 0)))
	work, err := x.Store.Days(t.Context())
	if err != nil || len(work) == 0 {
		t.Fatalf("%v, %v", work, err)
	}
	for _, d := range work { // as if the upload had ended between cells and receipts
		x.Must(nil, x.Store.Discharge(t.Context(), d.Day, d.Receipts[0]))
	}
	x.Now = x.Now.Add(store.L0Delay)
	if report, err := x.Lifecycle.Sweep(t.Context()); err != nil || report.Kept != 1 || report.Objects != 0 {
		t.Errorf("collected: %+v, %v; want it kept", report, err)
	}
	if again, err := x.Store.Days(t.Context()); err != nil || len(again) != len(work) || len(again[0].Receipts) != 1 {
		t.Errorf("%d days have work, want %d, %v", len(again), len(work), err)
	}
}

// TestAdoption: an object whose ingester was lost between F2 and F3 is entered
// into the index; one that is too old is not.
func TestAdoption(t *testing.T) {
	x := storetest.New(t, storetest.Ports{})
	in := &faults.Plan{}
	in.Fail(3, faults.Killed) // the journal, the object, and no further
	f := storetest.Faulty(in)
	x.Rows, x.Objects = f.Rows(x.Rows), f.Objects(x.Objects)
	x.Open(0)
	d := map[tenant.ID]storetest.Data{"a": storetest.Window(storetest.Rand(), storetest.Day, 1, 2, 2)}
	x.Expect(d)
	u := x.Seal("i1", d, 0)
	u.Sealed = int64(u.Info.ID.Time())
	if err := x.Store.Upload(t.Context(), u); err == nil {
		t.Fatal("the upload should have failed")
	}
	in.Heal()
	x.Now = time.UnixMilli(u.Sealed).Add(47 * time.Hour)
	x.Must(x.Lifecycle.Sweep(t.Context()))
	if got := x.Read("a", 0, math.MaxInt64); len(got) > 0 {
		t.Fatal("adopted too early")
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
		t.Fatalf("a pack of three weeks: %v", err)
	}
	x.Check("not adopted")
}
