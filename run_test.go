package main

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/test/kit"
)

// TestAll checks that a single process returns what was written, before and after a flush and a restart.
func TestAll(t *testing.T) {
	noLeaks(t)
	cfg := testConfig(t)
	cfg.Self.Disabled = true
	p := start(t, cfg, All, nil)
	key := p.tenant("acme")
	p.write(key)
	if code, text := p.query(key, "up"); code != 200 || !strings.Contains(text, `"42"`) {
		t.Errorf("query: %d %s", code, text)
	}
	if code, text := p.do(http.MethodPost, p.admin+"/admin/v1/flush?wait=true", p.token, nil); code != 200 || !strings.Contains(text, "done") {
		t.Errorf("flush: %d %s", code, text)
	}
	// With wait=true, the response comes after the samples are in a pack.
	if s := p.app.backend.ingester.Stats(); len(s.Packs) != 1 || s.Packs[0].Samples != 1 {
		t.Errorf("packs after the flush: %+v", s.Packs)
	}
	if code, _ := p.do(http.MethodPost, p.admin+"/admin/v1/flush", p.token, nil); code != 202 {
		t.Errorf("flush without wait: %d", code)
	}
	if code, _ := p.do(http.MethodPost, p.admin+"/admin/v1/flush", "", nil); code != 401 {
		t.Errorf("flush without a token: %d", code)
	}
	p.stop()
	again := start(t, cfg, All, nil)
	if code, text := again.query(key, "up"); code != 200 || !strings.Contains(text, `"42"`) {
		t.Errorf("query after a restart: %d %s", code, text)
	}
	again.stop()
}

// TestSelfMonitoring checks that the process's own metrics are in the built-in tenant.
func TestSelfMonitoring(t *testing.T) {
	noLeaks(t)
	p := start(t, testConfig(t), All, nil)
	key := p.tenant(string(tenant.Self))
	var text string
	for range 600 {
		if _, text = p.query(key, `pallium_build_info{job="pallium",version="1.2.3"}`); strings.Contains(text, `"1"`) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if !strings.Contains(text, `"1"`) {
		t.Errorf("no metrics of the process itself: %s\n%s", text, p.log.String())
	}
	if code, text := p.do(http.MethodGet, p.edge+"/prometheus/api/v1/metadata?metric=pallium_build_info", key, nil); code != 200 || !strings.Contains(text, "gauge") {
		t.Errorf("metadata: %d %s", code, text)
	}
	p.stop()
}

// TestOperator checks that pages and profiles require the admin token, and that metrics and
// health do not.
func TestOperator(t *testing.T) {
	noLeaks(t)
	cfg := testConfig(t)
	cfg.Self.Disabled, cfg.AdminHosts = true, []string{"operator.example"}
	p := start(t, cfg, All, nil)
	p.write(p.tenant("acme"))
	for _, path := range []string{"/metrics", "/ready", "/healthy"} {
		if code, text := p.do(http.MethodGet, p.admin+path, "", nil); code != 200 || text == "" {
			t.Errorf("%s: %d", path, code)
		}
	}
	for path, want := range map[string]string{"/": "acme", "/debug/pprof/": "goroutine", "/debug/pprof/cmdline": "", "/debug/pprof/goroutine?debug=1": "goroutine profile", "/debug/pprof/symbol": "num_symbols"} {
		if code, text := p.do(http.MethodGet, p.admin+path, "", nil); code != 401 || strings.Contains(text, "acme") {
			t.Errorf("%s without a token: %d %s", path, code, text)
		}
		if code, _ := p.do(http.MethodGet, p.admin+path, "wrong", nil); code != 401 {
			t.Errorf("%s with a wrong token: %d", path, code)
		}
		if code, text := p.do(http.MethodGet, p.admin+path, p.token, nil); code != 200 || !strings.Contains(text, want) {
			t.Errorf("%s with the token: %d %s", path, code, text)
		}
	}
	if header := p.browse("/", http.StatusOK); !strings.Contains(header.Get("Content-Security-Policy"), "frame-ancestors 'none'") ||
		header.Get("X-Content-Type-Options") != "nosniff" || header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers of the page: %v", header)
	}
	for _, path := range []string{"/", "/debug/pprof/", "/debug/pprof/profile?seconds=1"} {
		p.browse(path, http.StatusForbidden, "Sec-Fetch-Site: cross-site")
		p.browse(path, http.StatusForbidden, "Origin: https://evil.example")
	}
	for _, path := range []string{"/", "/metrics", "/ready", "/admin/v1/tenants"} {
		p.browse(path, http.StatusMisdirectedRequest, "Host: evil.example")
	}
	p.browse("/metrics", http.StatusOK, "Host: operator.example:9010")
	for _, path := range []string{"/", "/debug/pprof/", "/admin/v1/tenants", "/metrics"} { // not served by the edge
		if code, _ := p.do(http.MethodGet, p.edge+path, p.token, nil); code != 404 {
			t.Errorf("%s at the edge: %d", path, code)
		}
	}
	p.stop()
}

// browse sends a request to the admin listener like a browser that has the password, checks
// the status, and returns the header of the response.
func (p *running) browse(path string, status int, headers ...string) http.Header {
	p.t.Helper()
	req, _ := http.NewRequestWithContext(context.Background(), http.MethodGet, p.admin+path, nil)
	req.SetBasicAuth("anyone", p.token)
	for _, h := range headers {
		name, v, _ := strings.Cut(h, ": ")
		if req.Header.Set(name, v); name == "Host" {
			req.Host = v
		}
	}
	resp, err := p.client.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != status {
		p.t.Errorf("%s with %q: %d, want %d", path, headers, resp.StatusCode, status)
	}
	return resp.Header
}

// TestGatewayRole checks that a gateway in front of another backend sets the tenant header
// itself and does not forward the client's identity headers.
func TestGatewayRole(t *testing.T) {
	noLeaks(t)
	got := make(chan http.Header, 10)
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header.Clone()
		_, _ = w.Write([]byte(`{"status":"success"}`))
	}))
	defer upstream.Close()
	cfg := testConfig(t)
	cfg.Upstream.URLs = []string{upstream.URL}
	p := start(t, cfg, Gateway, secrets())
	key := p.tenant("acme")
	tests := []struct {
		name   string
		header []string
		status int
	}{
		{"plain", nil, 200},
		{"its own tenant", []string{"X-Scope-OrgID", "acme"}, 200},
		{"another's tenant", []string{"X-Scope-OrgID", "other"}, 403},
		{"both", []string{"X-Scope-OrgID", "acme", "X-Scope-OrgID", "other"}, 0},
		{"hop by hop", []string{"Connection", "X-Scope-OrgID", "X-Pallium-Policy", "all"}, 200},
		{"other identity headers", []string{"X-Forwarded-User", "root", "Cookie", "a=b", "x_scope_orgid", "other"}, 0},
	}
	for _, tt := range tests {
		code, text := p.do(http.MethodGet, p.edge+"/prometheus/api/v1/query?query=up", key, nil, tt.header...)
		if (tt.status != 0 && code != tt.status) || (tt.status == 0 && code >= 500) {
			t.Errorf("%s: %d %s", tt.name, code, text)
		}
		if code != 200 {
			if len(got) > 0 {
				t.Errorf("%s: rejected, but forwarded: %v", tt.name, <-got)
			}
			continue
		}
		h := <-got
		if v := h.Values(tenant.HeaderOrgID); len(v) != 1 || v[0] != "acme" {
			t.Errorf("%s: %s is %q", tt.name, tenant.HeaderOrgID, v)
		}
		for _, name := range []string{"Authorization", "Cookie", "X-Forwarded-User", "X_scope_orgid"} {
			if h.Get(name) != "" {
				t.Errorf("%s: header %s is forwarded", tt.name, name)
			}
		}
		if v := h.Values(tenant.HeaderPolicy); len(v) != 1 || v[0] != "unrestricted" {
			t.Errorf("%s: policy %q", tt.name, v)
		}
	}
	if code, _ := p.do(http.MethodGet, p.edge+"/prometheus/api/v1/query?query=up", "", nil, "X-Scope-OrgID", "acme"); code != 401 || len(got) > 0 {
		t.Errorf("without a key: %d", code)
	}
	if code, _ := p.do(http.MethodPost, p.admin+"/admin/v1/flush", p.token, nil); code != 404 {
		t.Errorf("flush of a gateway: %d", code)
	}
	if code, text := p.do(http.MethodGet, p.admin+"/", p.token, nil); code != 200 || !strings.Contains(text, "Role gateway") {
		t.Errorf("page: %d %s", code, text)
	}
	upstream.CloseClientConnections()
	p.stop()
}

// TestDrain checks that a request in progress when the process is stopped gets its response.
func TestDrain(t *testing.T) {
	noLeaks(t)
	entered, leave := make(chan struct{}), make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(entered)
		<-leave
		_, _ = w.Write([]byte("answer"))
	}))
	defer upstream.Close()
	cfg := testConfig(t)
	cfg.Upstream.URLs = []string{upstream.URL}
	p := start(t, cfg, Gateway, secrets())
	key := p.tenant("acme")
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if code, text := p.query(key, "up"); code != 200 || text != "answer" {
			t.Errorf("response to the request in progress: %d %s", code, text)
		}
	}()
	kit.Receive(t, "a request is in progress", entered)
	p.cancel()
	untilRefused(t, p.edge)
	close(leave)
	kit.Receive(t, "the request in progress gets its response", answered)
	upstream.CloseClientConnections()
	p.stop()
}

// TestAddressInUse checks that an address in use is an error before anything is built, and
// that an address that is taken during the start is an error at its end.
func TestAddressInUse(t *testing.T) {
	noLeaks(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, set := range map[string]func(*Config){
		"listen":       func(c *Config) { c.Listen = l.Addr().String() },
		"admin_listen": func(c *Config) { c.AdminListen = l.Addr().String() },
	} {
		cfg := testConfig(t)
		set(&cfg)
		a, err := open(context.Background(), cfg, testOptions(All, nil, nil))
		if err == nil {
			_ = a.close()
		}
		if err == nil || !strings.HasPrefix(err.Error(), name+":") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(cfg.DataDir, "rows")); err == nil {
			t.Errorf("%s: the row store was opened first", name)
		}
	}
	cfg := testConfig(t)
	cfg.Listen = freeAddr(t)
	a, err := open(context.Background(), cfg, testOptions(All, nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("tcp", cfg.Listen) // the address is free during the start
	if err != nil {
		t.Fatal(err)
	}
	if err := a.run(context.Background(), nil); err == nil || !strings.HasPrefix(err.Error(), "listen:") {
		t.Errorf("taken during the start: %v", err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	// The store was closed and can be opened again.
	b, err := open(context.Background(), cfg, testOptions(All, nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.close(); err != nil {
		t.Error(err)
	}
}

// TestWrongPepper checks that a process does not start with another pepper than that of its
// keys.
func TestWrongPepper(t *testing.T) {
	noLeaks(t)
	cfg := testConfig(t)
	a, err := open(context.Background(), cfg, testOptions(All, secrets(), nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	env := secrets()
	env["PALLIUM_KEY_PEPPER"] = long + "another"
	b, err := open(context.Background(), cfg, testOptions(All, env, nil))
	if err == nil {
		_ = b.close()
		t.Fatal("the process started with another pepper")
	}
	if !strings.Contains(err.Error(), "pepper") || strings.Contains(err.Error(), "another") {
		t.Errorf("error %v", err)
	}
}

// TestEdgeFilesFirst checks that unreadable files of the edge are an error before the backend
// is opened, which may take long.
func TestEdgeFilesFirst(t *testing.T) {
	noLeaks(t)
	for name, set := range map[string]func(*Config){
		"keys.json": func(c *Config) {
			c.Auth.Issuers = []authn.IssuerConfig{{Issuer: "https://issuer", Audiences: []string{"pallium"}, Keys: authn.KeysConfig{JWKSFile: "keys.json"}}}
		},
		"cert.pem": func(c *Config) { c.TLS = TLS{CertFile: "cert.pem", KeyFile: "key.pem"} },
	} {
		cfg := testConfig(t)
		set(&cfg)
		p, err := open(context.Background(), cfg, testOptions(All, secrets(), nil))
		if err == nil {
			_ = p.close()
		}
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(cfg.DataDir, "ingester")); err == nil {
			t.Errorf("%s: the ingester was opened first", name)
		}
	}
}
