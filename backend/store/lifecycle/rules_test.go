package lifecycle_test

import (
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/store/storetest"
)

// TestEraseRules checks that the rules of a deleted tenant are erased, and those of others are not;
// and that verify and a rebuild of the index leave rules as they are.
func TestEraseRules(t *testing.T) {
	x := storetest.New(t, storetest.Ports{})
	ctx := t.Context()
	groups := func(id tenant.ID) int {
		t.Helper()
		set, err := x.Index.Rules.List(ctx, id)
		x.Must(nil, err)
		return len(set.Groups)
	}
	for _, id := range []tenant.ID{"a", "b"} {
		x.Must(nil, x.Index.Rules.Put(ctx, id, index.RuleGroup{Namespace: "n", Name: "g"}, func(index.RuleSet) error { return nil }))
	}
	x.Verify()
	_, err := x.Fsck.RebuildIndex(ctx, []tenant.ID{"a", "b"}, nil)
	x.Must(nil, err)
	if groups("a") != 1 || groups("b") != 1 {
		t.Error("rules were lost when the index was rebuilt")
	}
	x.Deleted["b"] = true
	e, err := x.Lifecycle.Erase(ctx, "b")
	x.Must(nil, err)
	tenants, err := x.Index.Rules.Tenants(ctx)
	x.Must(nil, err)
	if !e.Rows || groups("a") != 1 || groups("b") != 0 || len(tenants) != 1 || tenants[0] != "a" {
		t.Errorf("erased %+v; %d and %d groups are left, of tenants %v", e, groups("a"), groups("b"), tenants)
	}
}
