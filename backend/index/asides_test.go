package index

import (
	"errors"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/schema"
)

// TestAsideDrop checks that DropAside marks the existing record, that a record written later is
// not marked, and that ForgetAsides deletes only marked ones.
func TestAsideDrop(t *testing.T) {
	ix, ctx := open(t), t.Context()
	w := Window{Day: testDay, Number: 3}
	a := asideOf("i1", "a", testDay, 3)
	if _, err := ix.Work.DropAside(ctx, "i1", w, "a"); !errors.Is(err, ErrNoAside) {
		t.Errorf("DropAside without a record: %v, want ErrNoAside", err)
	}
	setAside(t, ix, a)
	if got, err := ix.Work.DropAside(ctx, "i1", w, "a"); err != nil || got != a {
		t.Fatalf("DropAside() = %+v, %v; want %+v", got, err, a)
	}
	if all := asides(t, ix); len(all) != 1 || all[0].Dropped == 0 {
		t.Fatalf("records after DropAside: %+v; want one that is marked", all)
	}
	if list, err := ix.Work.AsidesOf(ctx, "i1"); err != nil || len(list) != 0 {
		t.Errorf("AsidesOf returns a dropped record: %v, %v", list, err)
	}
	a.Series++ // the ingester has set more series aside
	setAside(t, ix, a)
	if list, err := ix.Work.AsidesOf(ctx, "i1"); err != nil || len(list) != 1 {
		t.Errorf("AsidesOf lacks a record written after the drop: %v, %v", list, err)
	}
	if _, err := ix.Work.DropAside(ctx, "i1", w, "a"); err != nil {
		t.Fatal(err)
	}
	setAside(t, ix, asideOf("i1", "b", testDay, 3), asideOf("i2", "a", testDay, 3))
	if err := ix.Work.ForgetAsides(ctx, "i1"); err != nil {
		t.Fatal(err)
	}
	if all := asides(t, ix); len(all) != 2 {
		t.Errorf("records after ForgetAsides: %+v", all)
	}
}

func asideOf(ingester string, t tenant.ID, day int64, window int) AsideOf {
	return AsideOf{Ingester: ingester, Window: Window{Day: day, Number: window}, Tenant: t,
		Aside: schema.Aside{Since: 5, Zone: "z-" + ingester, Series: 1, Samples: 2, Bytes: 3, Reason: "as a test"}}
}

func setAside(t *testing.T, ix *Index, list ...AsideOf) {
	t.Helper()
	if err := ix.Work.SetAside(t.Context(), list); err != nil {
		t.Fatal(err)
	}
}

func asides(t *testing.T, ix *Index) []AsideOf {
	t.Helper()
	all, err := ix.Work.Asides(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all
}
