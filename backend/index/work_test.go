package index

import (
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// workOf returns the work of a day, which must be the only one.
func workOf(t *testing.T, ix *Index) DayWork {
	t.Helper()
	list, err := ix.Work.Days(t.Context())
	must(t, nil, err)
	if len(list) != 1 {
		t.Fatalf("%d days have work, want one", len(list))
	}
	return list[0]
}

// TestReceipts checks that AddReceipts clears intents, and that RemoveReceipt removes a receipt
// only if it is unchanged.
func TestReceipts(t *testing.T) {
	ix, id := open(t), ulid.ULID{1}
	must(t, nil, ix.Work.Intend(t.Context(), "i1", map[Window]schema.Intent{{testDay, 1}: {}, {testDay, 2}: {}}))
	receipt := func(attempt uint64) {
		t.Helper()
		must(t, nil, ix.Work.AddReceipts(t.Context(), id, []DayReceipt{{Day: testDay, Cleared: []int{1},
			Receipt: schema.Receipt{Object: "l0/x", Ingester: "i1", Attempt: attempt}}}))
	}
	receipt(1)
	before := workOf(t, ix)
	if len(before.Receipts) != 1 || len(before.Intents) != 1 || before.Intents[0].Window != 2 || before.Idle() {
		t.Fatalf("work %+v, want one receipt and the intent of window 2", before)
	}
	has := func() bool {
		t.Helper()
		ok, err := ix.Work.HasReceipt(t.Context(), id, []int64{testDay - 1, testDay})
		must(t, nil, err)
		return ok
	}
	receipt(2) // the upload is repeated
	must(t, nil, ix.Work.RemoveReceipt(t.Context(), testDay, before.Receipts[0]))
	if !has() {
		t.Error("RemoveReceipt removed a receipt that was rewritten after the read")
	}
	must(t, nil, ix.Work.RemoveReceipt(t.Context(), testDay, workOf(t, ix).Receipts[0]))
	if has() {
		t.Error("the receipt still exists after RemoveReceipt")
	}
	if left, err := ix.Work.Intents(t.Context(), "i1"); err != nil || len(left) != 1 {
		t.Errorf("intents %v, %v", left, err)
	}
	must(t, nil, ix.Work.ClearIntents(t.Context(), "i1", []Window{{testDay, 2}}))
	if list, err := ix.Work.Days(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("work %v, %v", list, err)
	}
}

// TestRewrites checks that a request for a rewrite is part of the work until it is removed.
func TestRewrites(t *testing.T) {
	ix := open(t)
	must(t, nil, ix.Work.RequestRewrites(t.Context(), "a", []int64{testDay}))
	if d := workOf(t, ix); len(d.Rewrites) != 1 || d.Rewrites[0] != "a" || d.Idle() {
		t.Errorf("work %+v, want a rewrite for tenant a", d)
	}
	must(t, nil, ix.Work.Rewritten(t.Context(), "a", testDay))
	if list, err := ix.Work.Days(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("work %v, %v", list, err)
	}
}

// TestCleans checks that a request for an immediate rewrite is removed only if it was
// not made again since it was read, and that it does not count as other work.
func TestCleans(t *testing.T) {
	ix := open(t)
	must(t, nil, ix.Work.RequestCleans(t.Context(), "a", []int64{testDay}, 1000))
	first := workOf(t, ix)
	if want := (CleanOf{Tenant: "a", Since: 1000}); len(first.Cleans) != 1 || first.Cleans[0] != want || !first.Idle() {
		t.Errorf("work %+v, want only the request %+v", first, want)
	}
	must(t, nil, ix.Work.RequestCleans(t.Context(), "a", []int64{testDay}, 2000))
	must(t, nil, ix.Work.Cleaned(t.Context(), testDay, first.Cleans[0]))
	if d := workOf(t, ix); len(d.Cleans) != 1 || d.Cleans[0].Since != 2000 {
		t.Errorf("a request that was made again: %+v", d)
	}
	must(t, nil, ix.Work.Cleaned(t.Context(), testDay, CleanOf{"a", 2000}))
	if list, err := ix.Work.Days(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("work %v, %v", list, err)
	}
}

// TestLosses checks that MarkLost moves the windows of a lost ingester to the name of the lost
// incarnation, that it is idempotent, and that the ingester's next incarnation has none of
// them.
func TestLosses(t *testing.T) {
	ix := open(t)
	w1, w2 := Window{testDay, 1}, Window{testDay, 2}
	must(t, nil, ix.Work.Intend(t.Context(), "i1", map[Window]schema.Intent{w1: {Zone: "a"}}))
	must(t, nil, ix.Work.Intend(t.Context(), "i10", map[Window]schema.Intent{w1: {Zone: "b"}}))
	setAside(t, ix, asideOf("i1", "x", testDay, 3))
	for range 2 {
		must(t, nil, func() error { _, err := ix.Work.MarkLost(t.Context(), "i1", "inc", "a", []Window{w2}); return err }())
	}
	must(t, nil, ix.Work.MarkDamaged(t.Context(), "i10", "inc", "b", []Window{w2}))
	list, err := ix.Work.Losses(t.Context())
	must(t, nil, err)
	if len(list) != 4 {
		t.Fatalf("losses %+v", list)
	}
	for _, l := range list {
		if !IsLost(l.Ingester) || l.Zone == "" || IsLostOf(l.Ingester, "i1") == IsLostOf(l.Ingester, "i10") {
			t.Errorf("loss %+v", l)
		}
	}
	for ingester, want := range map[string]int{"i1": 2, "i10": 1, "i": 0} {
		if n, err := ix.Work.LossesOf(t.Context(), ingester); err != nil || n != want {
			t.Errorf("LossesOf() = %d for %s, want %d; error %v", n, ingester, want, err)
		}
	}
	if own, err := ix.Work.Intents(t.Context(), "i1"); err != nil || len(own) != 0 {
		t.Errorf("intents of the next incarnation: %v, %v", own, err)
	}
	if n, err := ix.Work.AcceptLoss(t.Context(), testDay); err != nil || n != 4 {
		t.Errorf("AcceptLoss() = %d, %v; want 4", n, err)
	}
	if n, err := ix.Work.AcceptLoss(t.Context(), testDay); err != nil || n != 0 {
		t.Errorf("a second AcceptLoss() = %d, %v; want 0", n, err)
	}
	if own, err := ix.Work.Intents(t.Context(), "i10"); err != nil || len(own) != 1 {
		t.Errorf("intents of an ingester that is not lost: %v, %v", own, err)
	}
}

// TestForeignWork checks that a cell of a work row that cannot be decoded is an error, except in
// the row for days outside the valid range.
func TestForeignWork(t *testing.T) {
	for _, q := range []string{schema.IntentPrefix, schema.ReceiptPrefix + "short", schema.IntentQualifier(1, "i1"), schema.ReceiptQualifier(ulid.ULID{1}), schema.AsidePrefix} {
		ix := open(t)
		m := []rows.Mutation{rows.Set(rows.System, q, 0, []byte("x"))}
		must(t, nil, ix.rows.Mutate(t.Context(), rows.RowMutation{Key: schema.WorkKey(-1), Mutations: m}))
		if _, err := ix.Work.Days(t.Context()); err != nil {
			t.Errorf("cell %q of no day: %v", q, err)
		}
		must(t, nil, ix.rows.Mutate(t.Context(), rows.RowMutation{Key: schema.WorkKey(testDay), Mutations: m}))
		if list, err := ix.Work.Days(t.Context()); err == nil {
			t.Errorf("cell %q: %+v without an error", q, list)
		}
	}
}
