package admin

import (
	"strings"
	"testing"
)

// TestChangeRejectedWithoutAudit checks that every change is rejected, and reads still
// work, while the audit log cannot be written.
func TestChangeRejectedWithoutAudit(t *testing.T) {
	s, tokenID := seed(t)
	changes := []struct{ method, path, body string }{
		{"POST", "/tenants", `{"name":"c"}`},
		{"PUT", "/tenants/a", `{"displayName":"B"}`},
		{"DELETE", "/tenants/a", ""},
		{"PUT", "/tenants/a/limits", `{"limits":{"retention":"1d"}}`},
		{"POST", "/plans", `{"name":"silver","limits":{}}`},
		{"PUT", "/plans/gold", `{"limits":{}}`},
		{"DELETE", "/plans/gold", ""},
		{"POST", "/access-policies", `{"name":"q","scopes":["metrics:read"],"realms":[{"tenant":"a"}]}`},
		{"PUT", "/access-policies/pol", `{"scopes":["metrics:read"],"realms":[{"tenant":"a"}]}`},
		{"DELETE", "/access-policies/pol", ""},
		{"POST", "/tokens", `{"name":"l","tenant":"a","scopes":["metrics:read"]}`},
		{"PUT", "/tokens/" + tokenID, `{"maxConcurrentRequests":1}`},
		{"DELETE", "/tokens/" + tokenID, ""},
		{"POST", "/tokens/" + tokenID + "/rotate", `{}`},
		{"POST", "/tokens/" + tokenID + "/revoke", ""},
		{"POST", "/flush", ""},
	}
	s.store.down = true
	before := s.store.changes
	for _, c := range changes {
		a := s.do(c.method, Root+c.path, c.body, "If-Match: *", "Idempotency-Key: k")
		if a.status != 503 || strings.Contains(a.body, "space left") {
			t.Errorf("%s %s: %d %s", c.method, c.path, a.status, a.body)
		}
	}
	if s.store.changes != before || s.extra != 0 {
		t.Errorf("%d changes and %d extra actions were executed without audit, want none", s.store.changes-before, s.extra)
	}
	s.must("GET", "/tenants/a", "")
	s.must("POST", "/access-policies/simulate", `{"tokenId":"`+tokenID+`","scope":"metrics:read"}`)
	s.store.down = false
	s.must("POST", "/tenants", `{"name":"c"}`)
	s.must("POST", "/flush", "")
	if s.store.changes == before || s.extra != 1 {
		t.Errorf("%d changes and %d extra actions were executed after the audit log was available again, want some and 1", s.store.changes-before, s.extra)
	}
}
