package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
)

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
	if !cred.ExpiresAt.Equal(w.clock.Now().Add(DefaultExpiry)) {
		t.Errorf("expires at %s", cred.ExpiresAt)
	}
	// The store does not contain the secret.
	err = w.store.ReadRows(ctx, []rows.Range{{}}, rows.Filter{}, func(r rows.Row) bool {
		for _, cell := range r.Cells {
			if bytes.Contains(cell.Value, []byte(secret)) {
				t.Errorf("row %q contains the secret", r.Key)
			}
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	// Keys with the same tenant and scopes share a policy, regardless of the order of scopes.
	tk2, _, err := c.IssueToken(ctx, TokenRequest{Name: "two", Tenant: "team-a", Scopes: []tenant.Scope{tenant.MetricsRead, tenant.MetricsWrite}})
	if err != nil || tk2.Policy != tk.Policy || tk.Policy != "team-a:metrics:read+metrics:write" {
		t.Errorf("policies %q and %q, %v", tk.Policy, tk2.Policy, err)
	}
	never, _, err := c.IssueToken(ctx, TokenRequest{Name: "never", Policy: tk.Policy, ExpiresAt: Never()})
	if err != nil || !never.ExpiresAt.Equal(Never()) {
		t.Errorf("expires %s, %v", never.ExpiresAt, err)
	}
}

func TestIssueRejects(t *testing.T) {
	c := newWorld(t).open()
	issue(t, c, "team-a")
	read := []tenant.Scope{tenant.MetricsRead}
	for name, r := range map[string]TokenRequest{
		"no name":             {Tenant: "team-a", Scopes: read},
		"control in name":     {Name: "a\nb", Tenant: "team-a", Scopes: read},
		"long name":           {Name: strings.Repeat("x", 201), Tenant: "team-a", Scopes: read},
		"no policy or tenant": {Name: "n"},
		"policy and tenant":   {Name: "n", Policy: "p", Tenant: "team-a"},
		"no scopes":           {Name: "n", Tenant: "team-a"},
		"no tenant":           {Name: "n", Scopes: read},
		"unknown scope":       {Name: "n", Tenant: "team-a", Scopes: []tenant.Scope{"admin"}},
		"unknown tenant":      {Name: "n", Tenant: "team-x", Scopes: read},
		"bad tenant":          {Name: "n", Tenant: "../x", Scopes: read},
		"unknown policy":      {Name: "n", Policy: "none"},
		"past":                {Name: "n", Tenant: "team-a", Scopes: read, ExpiresAt: c.now().Add(-time.Second)},
		"beyond never":        {Name: "n", Tenant: "team-a", Scopes: read, ExpiresAt: Never().Add(time.Hour)},
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
		t.Fatal("a new key is not usable")
	}
	out := must(a.RevokeToken(ctx, tk.ID))(t)
	if out.Status(w.clock.Now()) != "revoked" {
		t.Errorf("status %s", out.Status(w.clock.Now()))
	}
	if usable(t, a, key.ID()) {
		t.Error("a revoked key is usable in the process that revoked it")
	}
	if !usable(t, b, key.ID()) {
		t.Error("the other process did not use its cache: the test has no meaning")
	}
	if err := b.Poll(ctx); err != nil {
		t.Fatal(err)
	}
	if usable(t, b, key.ID()) {
		t.Error("a revoked key is usable after a poll")
	}
	again := must(a.RevokeToken(ctx, tk.ID))(t)
	if !again.RevokedAt.Equal(out.RevokedAt) {
		t.Errorf("revoking again changed the time from %s to %s", out.RevokedAt, again.RevokedAt)
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
	if rotated.ID != tk.ID || rotated.KeyID != second.ID() || rotated.PreviousKeyID != first.ID() || !rotated.PreviousValidUntil.Equal(w.clock.Now().Add(time.Hour)) {
		t.Errorf("rotated: %+v", rotated)
	}
	if err := b.Poll(ctx); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Control{a, b} {
		if !usable(t, c, first.ID()) || !usable(t, c, second.ID()) {
			t.Error("within the grace period, want both keys to be usable")
		}
	}
	w.clock.Advance(time.Hour)
	for _, c := range []*Control{a, b} {
		if usable(t, c, first.ID()) || !usable(t, c, second.ID()) {
			t.Error("after the grace period, want only the new key to be usable")
		}
	}
	// Another rotation, without grace; it also deletes the index row of the first key.
	_, third, err := a.RotateToken(ctx, tk.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	if usable(t, a, second.ID()) || !usable(t, a, third.ID()) || usable(t, a, first.ID()) {
		t.Error("after a rotation without grace, want only the third key to be usable")
	}
	if must(a.RevokeToken(ctx, tk.ID))(t); usable(t, a, third.ID()) {
		t.Error("a key of a revoked token is usable")
	}
	_, _, err = a.RotateToken(ctx, tk.ID, MaxGrace+time.Second)
	wantKind(t, "long grace", err, Invalid)
}

// TestTokenConcurrency checks that the limit of a token's requests in progress applies to all of the
// token's keys, in every process, and remains when the token is rotated.
func TestTokenConcurrency(t *testing.T) {
	w := newWorld(t)
	a, b := w.open(), w.open()
	tk, first := issue(t, a, "team-a")
	limitOf := func(c *Control, keyID string) int {
		t.Helper()
		return must(c.Credential(ctx, keyID))(t).Identity.MaxConcurrentRequests
	}
	if tk.MaxConcurrentRequests != 0 || limitOf(b, first.ID()) != 0 {
		t.Errorf("a new token has the limit %d, and %d in the other process, want 0", tk.MaxConcurrentRequests, limitOf(b, first.ID()))
	}
	out, err := a.UpdateToken(ctx, tk.ID, tk.ETag, 5)
	if err != nil || out.MaxConcurrentRequests != 5 || out.ETag == tk.ETag {
		t.Fatalf("%+v, %v", out, err)
	}
	_, second, err := a.RotateToken(ctx, tk.ID, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Poll(ctx); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Control{a, b} {
		for _, key := range []string{first.ID(), second.ID()} {
			if n := limitOf(c, key); n != 5 {
				t.Errorf("limit %d, want 5", n)
			}
		}
	}
	_, err = a.UpdateToken(ctx, tk.ID, tk.ETag, 6)
	wantKind(t, "an old ETag", err, Stale)
	_, err = a.UpdateToken(ctx, tk.ID, AnyETag, -1)
	wantKind(t, "below 0", err, Invalid)
	_, err = a.UpdateToken(ctx, "tk_none", AnyETag, 1)
	wantKind(t, "no such token", err, NotFound)
	_, _, err = a.IssueToken(ctx, TokenRequest{Name: "n", Policy: tk.Policy, MaxConcurrentRequests: mostConcurrency + 1})
	wantKind(t, "issued with too many", err, Invalid)
	issued, _, err := a.IssueToken(ctx, TokenRequest{Name: "n", Policy: tk.Policy, MaxConcurrentRequests: 9})
	if err != nil || issued.MaxConcurrentRequests != 9 {
		t.Errorf("issued: %+v, %v", issued, err)
	}
}

func TestExpiry(t *testing.T) {
	w := newWorld(t)
	c := w.open()
	issue(t, c, "team-a")
	tk, key, err := c.IssueToken(ctx, TokenRequest{Name: "n", Tenant: "team-a", Scopes: []tenant.Scope{tenant.MetricsRead}, ExpiresAt: w.clock.Now().Add(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	rotated, _, err := c.RotateToken(ctx, tk.ID, time.Hour)
	if err != nil || !rotated.PreviousValidUntil.Equal(tk.ExpiresAt) {
		t.Errorf("PreviousValidUntil = %s (%v), want the expiry of the token", rotated.PreviousValidUntil, err)
	}
	if !usable(t, c, key.ID()) {
		t.Error("not usable before expiry")
	}
	w.clock.Advance(time.Minute)
	if usable(t, c, key.ID()) {
		t.Error("usable at its expiry")
	}
	if s := must(c.Token(ctx, tk.ID))(t).Status(w.clock.Now()); s != "expired" {
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
		t.Error("a key of a deleted tenant is usable in another process")
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
		t.Errorf("unsupported format: %v", err)
	}
}

// TestPepperVersion checks that a hash made with another version of the hashing scheme is
// never compared: its key counts as nonexistent, whether it is current or rotated.
func TestPepperVersion(t *testing.T) {
	w := newWorld(t)
	c := w.open()
	tk, old := issue(t, c, "team-a")
	_, current, err := c.RotateToken(ctx, tk.ID, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name                 string
		current, old         int // version of the hashing scheme
		wantCurrent, wantOld bool
	}{
		{"as issued", c.pepper.Version(), c.pepper.Version(), true, true},
		{"later scheme for the current key", c.pepper.Version() + 1, c.pepper.Version(), false, true},
		{"earlier scheme for the old key", c.pepper.Version(), 0, true, false},
	} {
		var stored token
		if err := c.load(ctx, prefToken+tk.ID, &stored); err != nil {
			t.Fatal(err)
		}
		stored.Key.Pepper, stored.Previous.Pepper = tt.current, tt.old
		data, err := json.Marshal(stored)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.store.Mutate(ctx, rows.RowMutation{Key: prefToken + tk.ID, Mutations: []rows.Mutation{set(cellData, data)}}); err != nil {
			t.Fatal(err)
		}
		fresh := w.open() // nothing cached
		if got := usable(t, fresh, current.ID()); got != tt.wantCurrent {
			t.Errorf("%s: usable(current key) = %v", tt.name, got)
		}
		if got := usable(t, fresh, old.ID()); got != tt.wantOld {
			t.Errorf("%s: usable(old key) = %v", tt.name, got)
		}
	}
}
