package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/rows/pebble"
	"github.com/palliumhq/pallium/policies/limits"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ctx = context.Background()

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// flaky is a store that fails where a test wants it to.
type flaky struct {
	rows.Store
	mu   sync.Mutex
	fail func(op, key string) error
}

func (f *flaky) set(fail func(op, key string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

func (f *flaky) check(op, key string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail == nil {
		return nil
	}
	return f.fail(op, key)
}

func (f *flaky) ReadRows(ctx context.Context, ranges []rows.Range, flt rows.Filter, visit func(rows.Row) bool) error {
	for _, r := range ranges {
		if err := f.check("read", r.Start); err != nil {
			return err
		}
	}
	return f.Store.ReadRows(ctx, ranges, flt, visit)
}

func (f *flaky) CheckAndMutate(ctx context.Context, key string, c rows.Condition, then, otherwise []rows.Mutation) (bool, error) {
	if err := f.check("write", key); err != nil {
		return false, err
	}
	return f.Store.CheckAndMutate(ctx, key, c, then, otherwise)
}

var errDown = errors.New("store is down")

func down(string, string) error { return errDown }

type world struct {
	t     *testing.T
	store *flaky
	clock *clock
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, err := pebble.Open("db", pebble.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &world{t: t, store: &flaky{Store: s}, clock: &clock{t: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}}
}

func pepper(t *testing.T, b byte) apikey.Pepper {
	t.Helper()
	p, err := apikey.NewPepper(bytes.Repeat([]byte{b}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// open is one process on the world's store.
func (w *world) open() *Control {
	w.t.Helper()
	c, err := Open(ctx, Options{Store: w.store, Pepper: pepper(w.t, 'p'), Now: w.clock.now})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// issue makes a tenant "team-a", if needed, and a key that reads and writes it.
func issue(t *testing.T, c *Control, id tenant.ID) (Token, apikey.Key) {
	t.Helper()
	if _, err := c.CreateTenant(ctx, Tenant{ID: id}); err != nil && !IsKind(err, Conflict) {
		t.Fatal(err)
	}
	tk, key, err := c.IssueToken(ctx, TokenRequest{Name: "test", Tenant: id, Scopes: []tenant.Scope{tenant.MetricsWrite, tenant.MetricsRead}})
	if err != nil {
		t.Fatal(err)
	}
	return tk, key
}

func wantKind(t *testing.T, what string, err error, k Kind) {
	t.Helper()
	if !IsKind(err, k) {
		t.Errorf("%s: got %v, want an error of kind %d", what, err, k)
	}
}

func usable(t *testing.T, c *Control, keyID string) bool {
	t.Helper()
	cred, err := c.Credential(ctx, keyID)
	if errors.Is(err, apikey.ErrNotFound) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	return !cred.Revoked && c.now().Before(cred.ExpiresAt)
}

func TestIssue(t *testing.T) {
	w := newWorld(t)
	c := w.open()
	tk, key := issue(t, c, "team-a")
	cred := must(c.Credential(ctx, key.ID()))(t)
	want := tenant.Identity{Credential: tk.ID, Name: "test", Tenants: []tenant.ID{"team-a"}, Scopes: []tenant.Scope{tenant.MetricsRead, tenant.MetricsWrite}}
	if fmt.Sprint(cred.Identity) != fmt.Sprint(want) {
		t.Errorf("identity %+v, want %+v", cred.Identity, want)
	}
	_, secret, err := pepper(t, 'p').Parse(key.Text())
	if err != nil || !pepper(t, 'p').Verify(cred.Hash, secret) {
		t.Errorf("the key does not verify: %v", err)
	}
	if !cred.ExpiresAt.Equal(w.clock.now().Add(DefaultExpiry)) {
		t.Errorf("expires at %s", cred.ExpiresAt)
	}
	// The secret is nowhere in the store.
	err = w.store.ReadRows(ctx, []rows.Range{{}}, rows.Filter{}, func(r rows.Row) bool {
		for _, cell := range r.Cells {
			if bytes.Contains(cell.Value, []byte(secret)) {
				t.Errorf("row %q has the secret", r.Key)
			}
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	// The same tenant and scopes share a policy; the order of scopes is nothing.
	tk2, _, err := c.IssueToken(ctx, TokenRequest{Name: "two", Tenant: "team-a", Scopes: []tenant.Scope{tenant.MetricsRead, tenant.MetricsWrite}})
	if err != nil || tk2.Policy != tk.Policy || tk.Policy != "team-a:metrics:read+metrics:write" {
		t.Errorf("policies %q and %q, %v", tk.Policy, tk2.Policy, err)
	}
	never, _, err := c.IssueToken(ctx, TokenRequest{Name: "never", Policy: tk.Policy, ExpiresAt: Never()})
	if err != nil || !never.ExpiresAt.Equal(Never()) {
		t.Errorf("expires %s, %v", never.ExpiresAt, err)
	}
}

func TestIssueRefuses(t *testing.T) {
	c := newWorld(t).open()
	issue(t, c, "team-a")
	read := []tenant.Scope{tenant.MetricsRead}
	for name, r := range map[string]TokenRequest{
		"no name":         {Tenant: "team-a", Scopes: read},
		"control in name": {Name: "a\nb", Tenant: "team-a", Scopes: read},
		"long name":       {Name: strings.Repeat("x", 201), Tenant: "team-a", Scopes: read},
		"nothing":         {Name: "n"},
		"both":            {Name: "n", Policy: "p", Tenant: "team-a"},
		"no scopes":       {Name: "n", Tenant: "team-a"},
		"no tenant":       {Name: "n", Scopes: read},
		"unknown scope":   {Name: "n", Tenant: "team-a", Scopes: []tenant.Scope{"admin"}},
		"unknown tenant":  {Name: "n", Tenant: "team-x", Scopes: read},
		"bad tenant":      {Name: "n", Tenant: "../x", Scopes: read},
		"unknown policy":  {Name: "n", Policy: "none"},
		"past":            {Name: "n", Tenant: "team-a", Scopes: read, ExpiresAt: c.now().Add(-time.Second)},
		"beyond never":    {Name: "n", Tenant: "team-a", Scopes: read, ExpiresAt: Never().Add(time.Hour)},
	} {
		_, _, err := c.IssueToken(ctx, r)
		wantKind(t, name, err, Invalid)
		var e *Error
		if errors.As(err, &e) && e.Field == "" {
			t.Errorf("%s: the error names no field: %v", name, err)
		}
	}
}

func TestRevoke(t *testing.T) {
	w := newWorld(t)
	a, b := w.open(), w.open()
	tk, key := issue(t, a, "team-a")
	if !usable(t, a, key.ID()) || !usable(t, b, key.ID()) {
		t.Fatal("a fresh key is not usable")
	}
	out := must(a.RevokeToken(ctx, tk.ID))(t)
	if out.Status(w.clock.now()) != "revoked" {
		t.Errorf("status %s", out.Status(w.clock.now()))
	}
	if usable(t, a, key.ID()) {
		t.Error("a revoked key is usable in the process that revoked it")
	}
	if !usable(t, b, key.ID()) {
		t.Error("the other process did not use its cache; the test shows nothing")
	}
	if err := b.Poll(ctx); err != nil {
		t.Fatal(err)
	}
	if usable(t, b, key.ID()) {
		t.Error("a revoked key is usable after a poll")
	}
	again := must(a.RevokeToken(ctx, tk.ID))(t)
	if !again.RevokedAt.Equal(out.RevokedAt) {
		t.Error("revoking again moved the time")
	}
	_, _, err := a.RotateToken(ctx, tk.ID, 0)
	wantKind(t, "rotate a revoked token", err, Conflict)
	_, err = a.RevokeToken(ctx, "tk_none")
	wantKind(t, "revoke nothing", err, NotFound)
}

func TestRotate(t *testing.T) {
	w := newWorld(t)
	a, b := w.open(), w.open()
	tk, first := issue(t, a, "team-a")
	usable(t, b, first.ID())
	rotated, second, err := a.RotateToken(ctx, tk.ID, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if rotated.ID != tk.ID || rotated.KeyID != second.ID() || rotated.PreviousKeyID != first.ID() || !rotated.PreviousValidUntil.Equal(w.clock.now().Add(time.Hour)) {
		t.Errorf("rotated: %+v", rotated)
	}
	if err := b.Poll(ctx); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Control{a, b} {
		if !usable(t, c, first.ID()) || !usable(t, c, second.ID()) {
			t.Error("within the grace not both keys are usable")
		}
	}
	w.clock.add(time.Hour)
	for _, c := range []*Control{a, b} {
		if usable(t, c, first.ID()) || !usable(t, c, second.ID()) {
			t.Error("after the grace not just the new key is usable")
		}
	}
	// Another rotation, without grace; the first key's ID leads nowhere now.
	_, third, err := a.RotateToken(ctx, tk.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	if usable(t, a, second.ID()) || !usable(t, a, third.ID()) || usable(t, a, first.ID()) {
		t.Error("rotation without grace")
	}
	if must(a.RevokeToken(ctx, tk.ID))(t); usable(t, a, third.ID()) {
		t.Error("a key of a revoked token is usable")
	}
	_, _, err = a.RotateToken(ctx, tk.ID, MaxGrace+time.Second)
	wantKind(t, "long grace", err, Invalid)
}

func TestExpiry(t *testing.T) {
	w := newWorld(t)
	c := w.open()
	issue(t, c, "team-a")
	tk, key, err := c.IssueToken(ctx, TokenRequest{Name: "n", Tenant: "team-a", Scopes: []tenant.Scope{tenant.MetricsRead}, ExpiresAt: w.clock.now().Add(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	rotated, _, err := c.RotateToken(ctx, tk.ID, time.Hour)
	if err != nil || !rotated.PreviousValidUntil.Equal(tk.ExpiresAt) {
		t.Errorf("grace goes to %s, beyond the expiry, %v", rotated.PreviousValidUntil, err)
	}
	if !usable(t, c, key.ID()) {
		t.Error("not usable before expiry")
	}
	w.clock.add(time.Minute)
	if usable(t, c, key.ID()) {
		t.Error("usable at its expiry")
	}
	if s := must(c.Token(ctx, tk.ID))(t).Status(w.clock.now()); s != "expired" {
		t.Errorf("status %s", s)
	}
	_, _, err = c.RotateToken(ctx, tk.ID, 0)
	wantKind(t, "rotate an expired token", err, Conflict)
}

func TestTenantLife(t *testing.T) {
	w := newWorld(t)
	a, b := w.open(), w.open()
	if _, err := b.Limits(ctx, "team-a"); !errors.Is(err, tenant.ErrUnknown) {
		t.Errorf("limits before creation: %v", err)
	}
	tk, key := issue(t, a, "team-a")
	usable(t, b, key.ID())
	if err := b.Poll(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Limits(ctx, "team-a"); err != nil {
		t.Errorf("limits after creation: %v", err)
	}
	_, err := a.CreateTenant(ctx, Tenant{ID: "team-a"})
	wantKind(t, "create twice", err, Conflict)

	have := must(a.Tenant(ctx, "team-a"))(t)
	wantKind(t, "delete with a stale ETag", a.DeleteTenant(ctx, "team-a", "x"), Stale)
	if err := a.DeleteTenant(ctx, "team-a", have.ETag); err != nil {
		t.Fatal(err)
	}
	if usable(t, a, key.ID()) {
		t.Error("a key of a deleted tenant is usable")
	}
	if err := b.Poll(ctx); err != nil {
		t.Fatal(err)
	}
	if usable(t, b, key.ID()) {
		t.Error("a key of a deleted tenant is usable elsewhere")
	}
	for _, c := range []*Control{a, b} {
		if _, err := c.Limits(ctx, "team-a"); !errors.Is(err, tenant.ErrUnknown) {
			t.Errorf("limits after deletion: %v", err)
		}
	}
	_, err = a.CreateTenant(ctx, Tenant{ID: "team-a"})
	wantKind(t, "create a deleted one", err, Conflict)
	_, err = a.UpdateTenant(ctx, have)
	wantKind(t, "update a deleted one", err, NotFound)
	wantKind(t, "delete a deleted one", a.DeleteTenant(ctx, "team-a", AnyETag), NotFound)
	wantKind(t, "delete Self", a.DeleteTenant(ctx, tenant.Self, AnyETag), Conflict)

	var all []string
	if err := a.AllTenants(ctx, func(t Tenant) bool { all = append(all, fmt.Sprint(t.ID, t.Deleted())); return true }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(all, []string{"palliumfalse", "team-atrue"}) {
		t.Errorf("all tenants: %v", all)
	}
	if got := must(a.Token(ctx, tk.ID))(t); got.Name != "test" {
		t.Errorf("token %+v", got)
	}
}

// TestPartOfRealm deletes one of two tenants of a key.
func TestPartOfRealm(t *testing.T) {
	c := newWorld(t).open()
	for _, id := range []tenant.ID{"b", "a"} {
		must(c.CreateTenant(ctx, Tenant{ID: id}))(t)
	}
	must(c.CreatePolicy(ctx, Policy{Name: "both", Scopes: []tenant.Scope{tenant.MetricsRead}, Tenants: []tenant.ID{"b", "a", "b"}}))(t)
	_, key, err := c.IssueToken(ctx, TokenRequest{Name: "n", Policy: "both"})
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
		t.Error("usable after its policy is gone")
	}
	// A new policy of the same name does not bring the key back.
	must(a.CreatePolicy(ctx, p))(t)
	if usable(t, a, key.ID()) || usable(t, w.open(), key.ID()) {
		t.Error("a new policy of the same name revived a key")
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
		t.Errorf("after the plan: %d, %d, %v", series(a), series(b), err)
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
	if err := a.SetDefaults(d); err != nil || series(a) != 3 {
		t.Errorf("new defaults: %d, %v", series(a), err)
	}
	_, err = a.UpdateTenant(ctx, tn)
	wantKind(t, "stale ETag", err, Stale)
}

// TestUnknownStoredLimit reads what a later version may have written.
func TestUnknownStoredLimit(t *testing.T) {
	w := newWorld(t)
	c := w.open()
	doc := `{"id":"a","overrides":{"max_of_the_future":1,"max_active_series":5},"createdAt":"2030-01-01T00:00:00Z","updatedAt":"2030-01-01T00:00:00Z"}`
	m := rows.RowMutation{Key: tenantKey("a"), Mutations: []rows.Mutation{set(cellData, []byte(doc)), set(cellETag, []byte("e"))}}
	if err := w.store.Mutate(ctx, m); err != nil {
		t.Fatal(err)
	}
	if l := must(c.Limits(ctx, "a"))(t); l.MaxActiveSeries != 5 {
		t.Errorf("limit %d", l.MaxActiveSeries)
	}
}

func TestPepperAndFormat(t *testing.T) {
	w := newWorld(t)
	w.open()
	if _, err := Open(ctx, Options{Store: w.store, Pepper: pepper(t, 'q')}); !errors.Is(err, ErrPepper) {
		t.Errorf("wrong pepper: %v", err)
	}
	w.open()
	m := rows.RowMutation{Key: keyMeta, Mutations: []rows.Mutation{set("format", []byte("9"))}}
	if err := w.store.Mutate(ctx, m); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(ctx, Options{Store: w.store, Pepper: pepper(t, 'p')}); err == nil || !strings.Contains(err.Error(), `"9"`) {
		t.Errorf("format of the future: %v", err)
	}
}
