package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// ruleKey returns a new key of an existing tenant with scopes.
func (p *running) ruleKey(id, scopes string) string {
	p.t.Helper()
	code, text := p.do(http.MethodPost, p.admin+"/admin/v1/tokens", p.token,
		strings.NewReader(fmt.Sprintf(`{"name":"rules-%d","tenant":%q,"scopes":[%s]}`, len(scopes), id, scopes)), "Content-Type", "application/json")
	var key struct{ Token string }
	if err := json.Unmarshal([]byte(text), &key); err != nil || code/100 != 2 {
		p.t.Fatalf("token: %d %s", code, text)
	}
	return key.Token
}

// TestRuleConfiguration checks that a tenant can configure rules through the edge, that another tenant neither sees nor
// deletes them, and that they exist after a restart.
func TestRuleConfiguration(t *testing.T) {
	noLeaks(t)
	cfg := testConfig(t)
	cfg.Self.Disabled = true
	p := start(t, cfg, All, nil)
	metrics := p.tenant("a")
	p.tenant("b")
	a, b, reader := p.ruleKey("a", `"rules:read","rules:write"`), p.ruleKey("b", `"rules:read","rules:write"`), p.ruleKey("a", `"rules:read"`)
	const root, group = "/prometheus/config/v1/rules", "name: g/1\nrules:\n    - record: r\n      expr: up\n"
	for _, tt := range []struct {
		key, line, body string
		code            int
		want            string
	}{
		{a, "POST /api/v1/rules/team%2Fx", group, 202, `"status":"success"`},
		{a, "GET " + root + "/team%2fx/g%2F1", "", 200, group},
		{b, "GET " + root, "", 200, "{}\n"},
		{b, "GET /api/prom/rules/team%2Fx/g%2F1", "", 404, "group does not exist"},
		{b, "DELETE " + root + "/team%2Fx", "", 404, "namespace does not exist"},
		{metrics, "GET " + root, "", 403, "rules:read"},
		{reader, "GET " + root, "", 200, "team/x:"},
		{reader, "DELETE " + root + "/team%2Fx", "", 403, "rules:write"},
		{a, "POST " + root + "/n", "name: g\nrules:\n- record: r\n  expr: sum(\n", 400, "line 4: field expr could not be parsed"},
		{a, "POST " + root + "/n", "name: g\nrules:\n- record: r\n  expr: sort_by_label(up)\n", 400, "is not enabled"},
		{"", "GET /prometheus/api/v1/status/buildinfo", "", 200, `"ruler_config_api":"true"`},
		{metrics, "GET /prometheus/api/v1/features", "", 200, `"ruler_config_api":true`},
	} {
		method, path, _ := strings.Cut(tt.line, " ")
		if code, text := p.do(method, p.edge+path, tt.key, strings.NewReader(tt.body)); code != tt.code || !strings.Contains(text, tt.want) {
			t.Errorf("%s: %d %s, want %d %s", tt.line, code, text, tt.code, tt.want)
		}
	}
	p.stop()
	again := start(t, cfg, All, nil)
	if code, text := again.do(http.MethodGet, again.edge+root+"/team%2Fx/g%2F1", a, nil); code != 200 || text != group {
		t.Errorf("after a restart: %d %s", code, text)
	}
	again.stop()
}
