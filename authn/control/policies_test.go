package control

import (
	"slices"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/policies/limits"
)

// TestOneTenantDeleted checks that a key of two tenants is valid only for the remaining tenant after
// the other one was deleted.
func TestOneTenantDeleted(t *testing.T) {
	c := newWorld(t).open()
	for _, id := range []tenant.ID{"b", "a"} {
		must(c.CreateTenant(ctx, Tenant{ID: id}))(t)
	}
	must(c.CreatePolicy(ctx, Policy{Name: "a-and-b", Scopes: []tenant.Scope{tenant.MetricsRead}, Tenants: []tenant.ID{"b", "a", "b"}}))(t)
	_, key, err := c.IssueToken(ctx, TokenRequest{Name: "n", Policy: "a-and-b"})
	if err != nil {
		t.Fatal(err)
	}
	if got := must(c.Credential(ctx, key.ID()))(t).Identity.Tenants; !slices.Equal(got, []tenant.ID{"a", "b"}) {
		t.Errorf("realm %v", got)
	}
	if err := c.DeleteTenant(ctx, "a", AnyETag); err != nil {
		t.Fatal(err)
	}
	if got := must(c.Credential(ctx, key.ID()))(t).Identity.Tenants; !slices.Equal(got, []tenant.ID{"b"}) {
		t.Errorf("realm %v", got)
	}
}

// TestPolicyWithDeletedTenants checks policies and keys whose tenants were deleted: the policy can still be
// changed. If it has no other tenant, its keys have the status TokenTenantDeleted and no new key is
// issued.
func TestPolicyWithDeletedTenants(t *testing.T) {
	c := newWorld(t).open()
	for _, id := range []tenant.ID{"a", "b"} {
		must(c.CreateTenant(ctx, Tenant{ID: id}))(t)
	}
	scopes := []tenant.Scope{tenant.MetricsRead}
	must(c.CreatePolicy(ctx, Policy{Name: "both", Scopes: scopes, Tenants: []tenant.ID{"a", "b"}}))(t)
	must(c.CreatePolicy(ctx, Policy{Name: "one", Scopes: scopes, Tenants: []tenant.ID{"a"}}))(t)
	ids := map[string]string{}
	for _, name := range []string{"both", "one"} {
		token, _, err := c.IssueToken(ctx, TokenRequest{Name: "n", Policy: name})
		if err != nil {
			t.Fatal(err)
		}
		ids[name] = token.ID
	}
	if err := c.DeleteTenant(ctx, "a", AnyETag); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"both": TokenActive, "one": TokenTenantDeleted} {
		if got := must(c.Token(ctx, ids[name]))(t).Status(c.now()); got != want {
			t.Errorf("the status of a key of %s is %s, want %s", name, got, want)
		}
	}
	if list, _, err := c.Tokens(ctx, TokenQuery{Policy: "one"}); err != nil || len(list) != 1 || list[0].Status(c.now()) != TokenTenantDeleted {
		t.Errorf("list: %v, %v", list, err)
	}
	p := must(c.UpdatePolicy(ctx, Policy{Name: "both", DisplayName: "x", Scopes: scopes, Tenants: []tenant.ID{"a", "b"}, ETag: AnyETag}))(t)
	if p.DisplayName != "x" || !slices.Equal(p.Tenants, []tenant.ID{"a", "b"}) {
		t.Errorf("updated to %+v", p)
	}
	must(c.UpdatePolicy(ctx, Policy{Name: "both", Scopes: scopes, Tenants: []tenant.ID{"b"}, ETag: AnyETag}))(t)
	for what, err := range map[string]error{
		"add a deleted tenant": second(c.UpdatePolicy(ctx, Policy{Name: "both", Scopes: scopes, Tenants: []tenant.ID{"a", "b"}, ETag: AnyETag})),
		"create with one":      second(c.CreatePolicy(ctx, Policy{Name: "new", Scopes: scopes, Tenants: []tenant.ID{"a"}})),
	} {
		wantKind(t, what, err, Invalid)
		if err == nil || !strings.Contains(err.Error(), `tenant "a" was deleted on `) || strings.Contains(err.Error(), "create") {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, _, err := c.IssueToken(ctx, TokenRequest{Name: "n", Policy: "one"})
	wantKind(t, "issue a key that cannot work", err, Invalid)
	if _, _, err := c.IssueToken(ctx, TokenRequest{Name: "n", Policy: "both"}); err != nil {
		t.Error(err)
	}
	if _, _, err := c.RotateToken(ctx, ids["one"], 0); err != nil {
		t.Error(err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestPolicies(t *testing.T) {
	w := newWorld(t)
	a, b := w.open(), w.open()
	must(a.CreateTenant(ctx, Tenant{ID: "a"}))(t)
	scopes := []tenant.Scope{tenant.MetricsRead}
	p := must(a.CreatePolicy(ctx, Policy{Name: "p", Scopes: scopes, Tenants: []tenant.ID{"a"}}))(t)
	for name, bad := range map[string]Policy{
		"name":   {Name: "a b", Scopes: scopes, Tenants: []tenant.ID{"a"}},
		"colon":  {Name: "a:metrics:read", Scopes: scopes, Tenants: []tenant.ID{"a"}},
		"scopes": {Name: "q", Tenants: []tenant.ID{"a"}},
		"scope":  {Name: "q", Scopes: []tenant.Scope{"x"}, Tenants: []tenant.ID{"a"}},
		"realm":  {Name: "q", Scopes: scopes},
		"tenant": {Name: "q", Scopes: scopes, Tenants: []tenant.ID{"none"}},
	} {
		_, err := a.CreatePolicy(ctx, bad)
		wantKind(t, name, err, Invalid)
	}
	_, err := a.CreatePolicy(ctx, p)
	wantKind(t, "create twice", err, Conflict)
	_, key, err := a.IssueToken(ctx, TokenRequest{Name: "n", Policy: "p"})
	if err != nil {
		t.Fatal(err)
	}
	usable(t, b, key.ID())
	p.Scopes = []tenant.Scope{tenant.RulesRead}
	must(a.UpdatePolicy(ctx, p))(t)
	if err := b.Poll(ctx); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Control{a, b} {
		if got := must(c.Credential(ctx, key.ID()))(t).Identity.Scopes; !slices.Equal(got, p.Scopes) {
			t.Errorf("scopes %v after the update", got)
		}
	}
	wantKind(t, "delete with keys", a.DeletePolicy(ctx, "p", AnyETag, false), Conflict)
	if err := a.DeletePolicy(ctx, "p", AnyETag, true); err != nil {
		t.Fatal(err)
	}
	if usable(t, a, key.ID()) {
		t.Error("a key is usable after its policy was deleted")
	}
	// A new policy of the same name does not make the key valid again.
	must(a.CreatePolicy(ctx, p))(t)
	if usable(t, a, key.ID()) || usable(t, w.open(), key.ID()) {
		t.Error("a new policy of the same name made a key valid again")
	}
	derived, _ := issue(t, a, "a")
	d := must(a.Policy(ctx, derived.Policy))(t)
	_, err = a.UpdatePolicy(ctx, d)
	wantKind(t, "change a derived policy", err, Conflict)
}

func TestLimits(t *testing.T) {
	w := newWorld(t)
	a, b := w.open(), w.open()
	var gold limits.Partial
	if err := gold.Set("max_active_series", "7"); err != nil {
		t.Fatal(err)
	}
	_, err := a.CreateTenant(ctx, Tenant{ID: "a", Plan: "gold"})
	wantKind(t, "unknown plan", err, Invalid)
	plan := must(a.CreatePlan(ctx, Plan{Name: "gold", Limits: gold}))(t)
	tn := must(a.CreateTenant(ctx, Tenant{ID: "a", Plan: "gold"}))(t)
	series := func(c *Control) int { return must(c.Limits(ctx, "a"))(t).MaxActiveSeries }
	if series(a) != 7 || series(b) != 7 {
		t.Errorf("series %d, %d", series(a), series(b))
	}
	if err := plan.Limits.Set("max_active_series", "8"); err != nil {
		t.Fatal(err)
	}
	must(a.UpdatePlan(ctx, plan))(t)
	if err := b.Poll(ctx); err != nil || series(a) != 8 || series(b) != 8 {
		t.Errorf("after the change of the plan: %d, %d, %v", series(a), series(b), err)
	}
	tn.Overrides = gold
	tn = must(a.UpdateTenant(ctx, tn))(t)
	if err := b.Poll(ctx); err != nil || series(a) != 7 || series(b) != 7 {
		t.Errorf("after the override: %d, %d, %v", series(a), series(b), err)
	}
	wantKind(t, "delete a plan in use", a.DeletePlan(ctx, "gold", AnyETag), Conflict)
	tn.Plan, tn.Overrides = "", limits.Partial{}
	must(a.UpdateTenant(ctx, tn))(t)
	if err := a.DeletePlan(ctx, "gold", AnyETag); err != nil {
		t.Error(err)
	}
	if series(a) != limits.Default().MaxActiveSeries {
		t.Errorf("defaults: %d", series(a))
	}
	d := limits.Default()
	d.MaxActiveSeries = 3
	if c := must(Open(ctx, Options{Store: w.store, Pepper: pepper(t, 'p'), Now: w.clock.Now, Defaults: d}))(t); series(c) != 3 {
		t.Errorf("defaults of the configuration: %d", series(c))
	}
	_, err = a.UpdateTenant(ctx, tn)
	wantKind(t, "stale ETag", err, Stale)
}

// TestUnknownStoredLimit checks that a limit which only a later version knows is ignored in a stored record.
func TestUnknownStoredLimit(t *testing.T) {
	w := newWorld(t)
	c := w.open()
	doc := `{"id":"a","overrides":{"max_of_the_future":1,"max_active_series":5},"createdAt":"2030-01-01T00:00:00Z","updatedAt":"2030-01-01T00:00:00Z"}`
	m := rows.RowMutation{Key: tenantKey("a"), Mutations: []rows.Mutation{set(cellData, []byte(doc)), set(cellETag, []byte("e"))}}
	if err := w.store.Mutate(ctx, m); err != nil {
		t.Fatal(err)
	}
	if l := must(c.Limits(ctx, "a"))(t); l.MaxActiveSeries != 5 {
		t.Errorf("limit %d, want 5", l.MaxActiveSeries)
	}
}

// TestKeyUsableAfterPolicyUpdate checks that a key that was rejected because its policy
// had no tenant left is usable as soon as the policy has one.
func TestKeyUsableAfterPolicyUpdate(t *testing.T) {
	w := newWorld(t)
	c := w.open()
	for _, id := range []tenant.ID{"old", "new"} {
		must(c.CreateTenant(ctx, Tenant{ID: id}))(t)
	}
	p := must(c.CreatePolicy(ctx, Policy{Name: "p", Scopes: []tenant.Scope{tenant.MetricsRead}, Tenants: []tenant.ID{"old"}}))(t)
	_, key, err := c.IssueToken(ctx, TokenRequest{Name: "n", Policy: "p"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteTenant(ctx, "old", AnyETag); err != nil {
		t.Fatal(err)
	}
	if usable(t, c, key.ID()) {
		t.Fatal("a key is usable although its policy has no tenant")
	}
	p.Tenants = []tenant.ID{"new"}
	must(c.UpdatePolicy(ctx, p))(t)
	if !usable(t, c, key.ID()) {
		t.Error("a key is not usable after its policy got a tenant")
	}
}
