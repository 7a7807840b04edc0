package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang/snappy"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/prompb"
	"go.uber.org/goleak"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/limits"
)

// noLeaks fails the test if it leaves goroutines behind. Prometheus' and glog's
// own that live as long as the process are there before.
func noLeaks(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
}

func testConfig(t *testing.T) Config {
	t.Helper()
	c := DefaultConfig()
	c.DataDir, c.Listen, c.AdminListen = filepath.Join(t.TempDir(), "data"), "127.0.0.1:0", "127.0.0.1:0"
	c.Self.Interval = model.Duration(time.Second)
	return c
}

// lockedBuffer is a log that a test reads while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func testOptions(role Role, env map[string]string, log io.Writer) Options {
	if log == nil {
		log = io.Discard
	}
	return Options{Role: role, Version: "1.2.3", Env: environment(env), Logger: slog.New(slog.NewTextHandler(log, nil))}
}

// process is an App that runs until stop.
type process struct {
	t           *testing.T
	app         *App
	edge, admin string
	token       string
	log         *lockedBuffer
	client      *http.Client
	cancel      context.CancelFunc
	ended       chan error
}

func start(t *testing.T, cfg Config, role Role, env map[string]string) *process {
	t.Helper()
	p := &process{t: t, log: &lockedBuffer{}, ended: make(chan error, 1), client: &http.Client{Transport: &http.Transport{}}}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	a, err := New(ctx, cfg, testOptions(role, env, p.log))
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	p.app = a
	type addrs struct{ edge, admin net.Addr }
	open := make(chan addrs, 1)
	go func() { p.ended <- a.Run(ctx, func(edge, admin net.Addr) { open <- addrs{edge, admin} }) }()
	select {
	case got := <-open:
		p.edge, p.admin = "http://"+got.edge.String(), "http://"+got.admin.String()
	case err := <-p.ended:
		cancel()
		t.Fatal(err)
	}
	p.token = env["PALLIUM_ADMIN_TOKEN"]
	if p.token == "" {
		data, err := os.ReadFile(filepath.Join(cfg.DataDir, "admin-token"))
		if err != nil {
			t.Fatal(err)
		}
		p.token = strings.TrimSpace(string(data))
	}
	t.Cleanup(p.stop)
	return p
}

func (p *process) stop() {
	p.t.Helper()
	if p.cancel == nil {
		return
	}
	p.cancel()
	p.cancel = nil
	p.client.CloseIdleConnections()
	if err := <-p.ended; err != nil {
		p.t.Errorf("ended with %v", err)
	}
	if log := p.log.String(); p.token != "" && strings.Contains(log, p.token) {
		p.t.Error("the admin token is in the log")
	}
}

func (p *process) do(method, target, bearer string, body io.Reader, header ...string) (int, string) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, target, body)
	if err != nil {
		p.t.Fatal(err)
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := p.client.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

// tenant makes a tenant unless it exists, and a key for it.
func (p *process) tenant(id string) string {
	p.t.Helper()
	asJSON := []string{"Content-Type", "application/json"}
	if id != string(tenant.Self) {
		if code, text := p.do(http.MethodPost, p.admin+"/admin/v1/tenants", p.token, strings.NewReader(fmt.Sprintf(`{"name":%q}`, id)), asJSON...); code/100 != 2 {
			p.t.Fatalf("tenant: %d %s", code, text)
		}
	}
	code, text := p.do(http.MethodPost, p.admin+"/admin/v1/tokens", p.token,
		strings.NewReader(fmt.Sprintf(`{"name":"test","tenant":%q,"scopes":["metrics:read","metrics:write"]}`, id)), asJSON...)
	var key struct{ Token string }
	if err := json.Unmarshal([]byte(text), &key); err != nil || code/100 != 2 {
		p.t.Fatalf("token: %d %s", code, text)
	}
	return key.Token
}

func (p *process) query(key, expr string) (int, string) {
	p.t.Helper()
	return p.do(http.MethodGet, p.edge+"/prometheus/api/v1/query?query="+url.QueryEscape(expr), key, nil)
}

func (p *process) write(key string) {
	p.t.Helper()
	data, err := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{
		Labels:  []prompb.Label{{Name: "__name__", Value: "up"}},
		Samples: []prompb.Sample{{Timestamp: time.Now().UnixMilli(), Value: 42}},
	}}}).Marshal()
	if err != nil {
		p.t.Fatal(err)
	}
	if code, text := p.do(http.MethodPost, p.edge+"/api/v1/push", key, bytes.NewReader(snappy.Encode(nil, data))); code != 204 {
		p.t.Fatalf("push: %d %s", code, text)
	}
}

// TestAll: one process from nothing: write, read, flush, stop, start, read.
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
	// It answered when the samples were in a pack.
	if s := p.app.ingester.Stats(); len(s.Packs) != 1 || s.Packs[0].Samples != 1 {
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

// TestSelfMonitoring: the process's own metrics are in the built-in tenant.
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
		t.Errorf("no metrics of our own: %s\n%s", text, p.log.String())
	}
	if code, text := p.do(http.MethodGet, p.edge+"/prometheus/api/v1/metadata?metric=pallium_build_info", key, nil); code != 200 || !strings.Contains(text, "gauge") {
		t.Errorf("metadata: %d %s", code, text)
	}
	p.stop()
}

// TestOperator: pages and profiles want the admin token; metrics and health are
// open to who can reach the listener.
func TestOperator(t *testing.T) {
	noLeaks(t)
	cfg := testConfig(t)
	cfg.Self.Disabled = true
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
	req, _ := http.NewRequestWithContext(context.Background(), http.MethodGet, p.admin+"/", nil)
	req.SetBasicAuth("anyone", p.token)
	resp, err := p.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 200 || !strings.Contains(resp.Header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("the page for a browser: %d %v", resp.StatusCode, resp.Header)
	}
	for _, path := range []string{"/", "/debug/pprof/", "/admin/v1/tenants", "/metrics"} { // nothing of it at the edge
		if code, _ := p.do(http.MethodGet, p.edge+path, p.token, nil); code != 404 {
			t.Errorf("%s at the edge: %d", path, code)
		}
	}
	p.stop()
}

// TestGatewayRole: a gateway before another backend stamps the tenant itself and
// passes on nothing of the client's own.
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
		{"strange ones", []string{"X-Forwarded-User", "root", "Cookie", "a=b", "x_scope_orgid", "other"}, 0},
	}
	for _, tt := range tests {
		code, text := p.do(http.MethodGet, p.edge+"/prometheus/api/v1/query?query=up", key, nil, tt.header...)
		if (tt.status != 0 && code != tt.status) || (tt.status == 0 && code >= 500) {
			t.Errorf("%s: %d %s", tt.name, code, text)
		}
		if code != 200 {
			if len(got) > 0 {
				t.Errorf("%s: refused, and passed on: %v", tt.name, <-got)
			}
			continue
		}
		h := <-got
		if v := h.Values(tenant.HeaderOrgID); len(v) != 1 || v[0] != "acme" {
			t.Errorf("%s: %s is %q", tt.name, tenant.HeaderOrgID, v)
		}
		for _, name := range []string{"Authorization", "Cookie", "X-Forwarded-User", "X_scope_orgid"} {
			if h.Get(name) != "" {
				t.Errorf("%s: %s is passed on", tt.name, name)
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

// TestDrain: a request under way when the process is told to stop is answered.
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
			t.Errorf("the request under way: %d %s", code, text)
		}
	}()
	<-entered
	p.cancel()
	for { // until nobody is let in any more
		c, err := net.Dial("tcp", strings.TrimPrefix(p.edge, "http://"))
		if err != nil {
			break
		}
		_ = c.Close()
	}
	close(leave)
	<-answered
	upstream.CloseClientConnections()
	p.stop()
}

// TestAddressTaken: a listener that cannot be opened is an error, and everything
// is closed.
func TestAddressTaken(t *testing.T) {
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
		a, err := New(context.Background(), cfg, testOptions(All, nil, nil))
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Run(context.Background(), nil); err == nil || !strings.HasPrefix(err.Error(), name+":") {
			t.Errorf("%s: %v", name, err)
		}
		// The store is free again.
		b, err := New(context.Background(), cfg, testOptions(All, nil, nil))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.close(); err != nil {
			t.Error(err)
		}
	}
}

// TestWrongPepper: a process with another pepper than its keys were made with
// does not start.
func TestWrongPepper(t *testing.T) {
	noLeaks(t)
	cfg := testConfig(t)
	a, err := New(context.Background(), cfg, testOptions(All, secrets(), nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.close(); err != nil {
		t.Fatal(err)
	}
	env := secrets()
	env["PALLIUM_KEY_PEPPER"] = long + "another"
	b, err := New(context.Background(), cfg, testOptions(All, env, nil))
	if err == nil {
		_ = b.close()
		t.Fatal("started")
	}
	if !strings.Contains(err.Error(), "pepper") || strings.Contains(err.Error(), "another") {
		t.Errorf("error %v", err)
	}
}

// TestLimitsOf: a store that does not answer must not make a tenant's data look
// older than its retention, which is what the defaults may do.
func TestLimitsOf(t *testing.T) {
	noLeaks(t)
	cfg := testConfig(t)
	week := limits.Duration(7 * 24 * time.Hour)
	if err := cfg.Limits.Set("retention", "7d"); err != nil {
		t.Fatal(err)
	}
	a, err := New(context.Background(), cfg, testOptions(All, nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	if got := a.limitsOf("unknown").Retention; got != week {
		t.Errorf("retention of a tenant that does not exist: %s", got)
	}
	if err := a.ingester.Close(); err != nil {
		t.Error(err)
	}
	a.control.Stop()
	if err := a.store.Close(); err != nil {
		t.Error(err)
	}
	if got := a.limitsOf("acme"); got.Retention != 0 || got.MaxActiveSeries != limits.Default().MaxActiveSeries {
		t.Errorf("with a store that is closed: retention %s", got.Retention)
	}
}

func TestEdgeURL(t *testing.T) {
	tests := []struct{ external, listen, cert, want string }{
		{"", ":9009", "", "http://localhost:9009"},
		{"", "0.0.0.0:80", "", "http://localhost:80"},
		{"", "[::]:80", "", "http://localhost:80"},
		{"", "10.0.0.1:443", "c", "https://10.0.0.1:443"},
		{"", "[fe80::1]:443", "c", "https://[fe80::1]:443"},
		{"", "nonsense", "", "http://localhost:9009"},
		{"https://metrics.example.com/", ":9009", "", "https://metrics.example.com"},
	}
	for _, tt := range tests {
		a := App{cfg: Config{ExternalURL: tt.external, Listen: tt.listen, TLS: TLS{CertFile: tt.cert}}}
		if got := a.edgeURL(); got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}

func TestMemoryBudget(t *testing.T) {
	if n := memoryBudget(); n < 1<<20 {
		t.Errorf("budget %d bytes", n)
	}
}

// TestSelfMonitorFails: a failure is logged, and the next one is tried.
func TestSelfMonitorFails(t *testing.T) {
	noLeaks(t)
	log := &lockedBuffer{}
	m := &selfMonitor{gatherer: failingGatherer{}, every: time.Millisecond, now: time.Now, logger: slog.New(slog.NewTextHandler(log, nil))}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); m.run(ctx) }()
	for strings.Count(log.String(), "gathering is out") < 2 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-done
}

var errGather = errors.New("gathering is out")

type failingGatherer struct{}

func (failingGatherer) Gather() ([]*dto.MetricFamily, error) { return nil, errGather }
