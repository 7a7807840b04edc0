package index

import (
	"errors"
	"testing"

	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/rows/faulty"
	rowsmemory "github.com/palliumhq/pallium/backend/rows/memory"
	"github.com/palliumhq/pallium/backend/schema"
)

// TestBackfills checks that a group has at most one unfinished backfill, that a change that is based on an outdated copy is
// rejected, and that backfills do not appear among the groups.
func TestBackfills(t *testing.T) {
	ix, ctx := open(t), t.Context()
	b := Backfill{Tenant: "a", Namespace: "n", Group: "g", Backfill: schema.Backfill{Start: 1, End: 9}}
	must(t, nil, ix.Rules.StartBackfill(ctx, &b))
	again := b
	if err := ix.Rules.StartBackfill(ctx, &again); !errors.Is(err, ErrBackfillRuns) {
		t.Errorf("%v, want ErrBackfillRuns", err)
	}
	other := Backfill{Tenant: "a", Namespace: "n", Group: "h"}
	must(t, nil, ix.Rules.StartBackfill(ctx, &other))
	old := b.Backfill
	b.Done = 5
	must(t, nil, ix.Rules.UpdateBackfill(ctx, &b, old))
	late := b
	late.Done = 4
	if err := ix.Rules.UpdateBackfill(ctx, &late, old); !errors.Is(err, ErrBackfillChanged) {
		t.Errorf("%v, want ErrBackfillChanged", err)
	}
	if list, err := ix.Rules.Backfills(ctx, "b", "a"); err != nil || len(list) != 2 || list[0] != b || list[1] != other {
		t.Errorf("Backfills = %+v, %v", list, err)
	}
	if list, err := ix.Rules.Backfills(ctx, "b"); err != nil || len(list) != 0 {
		t.Errorf("Backfills of another tenant = %+v, %v", list, err)
	}
	old = b.Backfill
	b.State = schema.BackfillDone
	must(t, nil, ix.Rules.UpdateBackfill(ctx, &b, old))
	next := Backfill{Tenant: "a", Namespace: "n", Group: "g", Backfill: schema.Backfill{Start: 1, End: 9}}
	must(t, nil, ix.Rules.StartBackfill(ctx, &next))
	if got, ok, err := ix.Rules.Backfill(ctx, "a", "n", "g"); err != nil || !ok || got != next || got.Created == b.Created {
		t.Errorf("Backfill = %+v, %v, %v; want %+v with another creation than %d", got, ok, err, next, b.Created)
	}
	if got := names(t, ix, "a"); got != "0" {
		t.Errorf("the rules are %s", got)
	}
	must(t, nil, ix.Rules.Put(ctx, "a", RuleGroup{Namespace: "n", Name: "h"}, accept))
	if ok, err := ix.Rules.Delete(ctx, "a", "n", "h"); err != nil || !ok {
		t.Errorf("Delete = %v, %v", ok, err)
	}
	if _, ok, err := ix.Rules.Backfill(ctx, "a", "n", "h"); err != nil || ok {
		t.Errorf("the backfill of a deleted group exists: %v, %v", ok, err)
	}
	for _, want := range []bool{true, false} {
		if ok, err := ix.Rules.DeleteBackfill(ctx, "a", "n", "g"); err != nil || ok != want {
			t.Errorf("DeleteBackfill = %v, %v, want %v", ok, err, want)
		}
	}
	if err := ix.Rules.UpdateBackfill(ctx, &next, next.Backfill); !errors.Is(err, ErrBackfillChanged) {
		t.Errorf("%v, want ErrBackfillChanged", err)
	}
}

// TestBackfillOutcome checks that a backfill exists after StartBackfill succeeded, whichever call of the row store
// fails and how; that StartBackfill succeeds if its write succeeded and only the answer was lost; and that a damaged
// backfill does not hide the others and can be deleted.
func TestBackfillOutcome(t *testing.T) {
	ctx := t.Context()
	for _, kind := range []faults.Kind{faults.Rejected, faults.Lost, faults.Killed, faults.KilledAfter} {
		for nth := 1; nth <= 3; nth++ {
			mem, err := rowsmemory.Open()
			must(t, nil, err)
			plan := &faults.Plan{}
			plan.Fail(nth, kind)
			b := Backfill{Tenant: "a", Namespace: "n", Group: "g"}
			err = over(t, faulty.Store{Store: mem, Plan: plan}).Rules.StartBackfill(ctx, &b)
			got, ok, readErr := over(t, mem).Rules.Backfill(ctx, "a", "n", "g")
			if readErr != nil || err == nil && (!ok || got != b) || kind == faults.Lost && nth == 2 && err != nil {
				t.Errorf("call %d %s: StartBackfill returned %v; the backfill is %+v, %v, %v", nth, kind, err, got, ok, readErr)
			}
			_ = mem.Close()
		}
	}
	mem, err := rowsmemory.Open()
	must(t, nil, err)
	defer mem.Close()
	ix := over(t, mem)
	b := Backfill{Tenant: "a", Namespace: "n", Group: "g"}
	must(t, nil, ix.Rules.StartBackfill(ctx, &b))
	must(t, nil, mem.Mutate(ctx, rows.RowMutation{Key: schema.RulesKey("a"),
		Mutations: []rows.Mutation{rows.Set(rows.System, schema.BackfillQualifier("n", "bad"), 0, []byte("x"))}}))
	if list, err := ix.Rules.Backfills(ctx, "a"); !errors.Is(err, schema.ErrCorrupt) || len(list) != 1 || list[0] != b {
		t.Errorf("Backfills = %+v, %v", list, err)
	}
	if ok, err := ix.Rules.DeleteBackfill(ctx, "a", "n", "bad"); !ok || err != nil {
		t.Errorf("DeleteBackfill of a damaged one = %v, %v", ok, err)
	}
}
