package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestNothingArrives follows the advice of docs/alertmanager.md for a webhook on this machine, which is denied by
// default. The API and the page show the error to the tenant, and to no other tenant.
func TestNothingArrives(t *testing.T) {
	noLeaks(t)
	hook := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the denied webhook was called") }))
	defer hook.Close()
	p := start(t, testConfig(t), All, nil)
	defer p.stop()
	keys := map[string]string{}
	config := fmt.Sprintf("alertmanager_config: |\n  route: {receiver: hook, group_wait: 0s}\n"+
		"  receivers: [{name: hook, webhook_configs: [{url: %q}]}, {name: spare, webhook_configs: [{url: %[1]q}]}]\n", hook.URL)
	for _, id := range []string{"a", "b"} {
		p.tenant(id)
		keys[id] = p.ruleKey(id, `"alerts:read","alerts:write"`)
		if code, text := p.do(http.MethodPost, p.edge+"/api/v1/alerts", keys[id], strings.NewReader(config)); code != http.StatusCreated {
			t.Fatalf("a configuration: %d %s", code, text)
		}
	}
	if code, text := p.do(http.MethodPost, p.edge+"/alertmanager/api/v2/alerts", keys["a"], strings.NewReader(`[{"labels":{"alertname":"A"}}]`),
		"Content-Type", "application/json"); code != http.StatusOK {
		t.Fatalf("an alert: %d %s", code, text)
	}
	const denied = "egress is not allowed to this address: 127.0.0.1 is a loopback address; the operator can allow it with egress.allow"
	eventually(t, func() string {
		code, text := p.do(http.MethodGet, p.edge+"/api/v1/alerts/receivers", keys["a"], http.NoBody)
		if code == http.StatusOK && strings.Contains(text, `{"name":"hook","active":true`) && strings.Contains(text, denied) &&
			strings.Contains(text, `"failedNotifyAttempts":1`) && strings.Contains(text, `{"name":"spare","active":false`) {
			return ""
		}
		return fmt.Sprintf("receivers: %d %s", code, text)
	})
	if code, text := p.do(http.MethodGet, p.edge+"/alertmanager", keys["a"], http.NoBody); code != http.StatusOK || !strings.Contains(text, denied) {
		t.Errorf("page: %d %s", code, text)
	}
	for _, path := range []string{"/api/v1/alerts/receivers", "/alertmanager"} {
		if code, text := p.do(http.MethodGet, p.edge+path, keys["b"], http.NoBody); code != http.StatusOK || strings.Contains(text, "egress") {
			t.Errorf("%s of another tenant: %d %s", path, code, text)
		}
	}
	if code, text := p.do(http.MethodGet, p.edge+"/api/v1/alerts/receivers", p.tenant("c"), http.NoBody); code != http.StatusForbidden {
		t.Errorf("without the scope alerts:read: %d %s", code, text)
	}
	if code, text := p.do(http.MethodGet, p.edge+"/alertmanager/receivers", keys["a"], http.NoBody); code != http.StatusNotFound {
		t.Errorf("the path of replicas: %d %s", code, text)
	}
}
