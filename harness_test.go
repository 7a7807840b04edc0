package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/prompb"
	"go.uber.org/goleak"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/test/kit"
)

// noLeaks fails the test if goroutines are still running at its end, except those that were
// running before, such as those of Prometheus and glog that never end.
func noLeaks(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		deadline := time.Now().Add(10 * time.Second)
		for {
			// A client may have opened a second connection that it did not need. On a busy machine,
			// the connection may become idle only now.
			http.DefaultClient.CloseIdleConnections()
			err := goleak.Find(before) // waits, for less than a second
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Error(err)
				return
			}
		}
	})
}

func testConfig(t *testing.T) Config {
	t.Helper()
	c := DefaultConfig()
	c.DataDir, c.Listen, c.AdminListen = filepath.Join(t.TempDir(), "data"), "127.0.0.1:0", "127.0.0.1:0"
	c.Self.Interval = model.Duration(time.Second)
	return c
}

func testOptions(role Role, env map[string]string, log io.Writer) Options {
	if log == nil {
		log = io.Discard
	}
	return Options{Role: role, Version: "1.2.3", Env: environment(env), Logger: slog.New(slog.NewTextHandler(log, nil))}
}

// running is a process that runs until stop.
type running struct {
	t           *testing.T
	app         *process
	edge, admin string
	token       string
	log         *kit.Buffer
	client      *http.Client
	cancel      context.CancelFunc
	ended       chan error
}

func start(t *testing.T, cfg Config, role Role, env map[string]string) *running {
	t.Helper()
	return startWith(t, cfg, testOptions(role, env, nil))
}

// startWith starts a process with options and sets their logger.
func startWith(t *testing.T, cfg Config, o Options) *running {
	t.Helper()
	p := &running{t: t, log: &kit.Buffer{}, ended: make(chan error, 1), client: &http.Client{Transport: &http.Transport{}}}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	o.Logger = slog.New(slog.NewTextHandler(p.log, nil))
	a, err := open(ctx, cfg, o)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	p.app = a
	type addrs struct{ edge, admin net.Addr }
	open := make(chan addrs, 1)
	go func() { p.ended <- a.run(ctx, func(edge, admin net.Addr) { open <- addrs{edge, admin} }) }()
	select {
	case got := <-open:
		p.edge, p.admin = "http://"+got.edge.String(), "http://"+got.admin.String()
	case err := <-p.ended:
		cancel()
		t.Fatal(err)
	}
	if p.token, _ = o.Env("PALLIUM_ADMIN_TOKEN"); p.token == "" {
		data, err := os.ReadFile(filepath.Join(cfg.DataDir, "admin-token"))
		if err != nil {
			t.Fatal(err)
		}
		p.token = strings.TrimSpace(string(data))
	}
	t.Cleanup(p.stop)
	return p
}

func (p *running) stop() {
	p.t.Helper()
	if p.cancel == nil {
		return
	}
	p.cancel()
	p.cancel = nil
	p.client.CloseIdleConnections()
	if err := <-p.ended; err != nil {
		p.t.Errorf("run = %v", err)
	}
	if log := p.log.String(); p.token != "" && strings.Contains(log, p.token) {
		p.t.Error("the admin token is in the log")
	}
}

func (p *running) do(method, target, bearer string, body io.Reader, header ...string) (int, string) {
	p.t.Helper()
	status, _, text := p.exchange(method, target, bearer, body, header...)
	return status, text
}

// exchange sends a request, and returns status, media type and body of the response.
func (p *running) exchange(method, target, bearer string, body io.Reader, header ...string) (status int, mediaType, text string) {
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
	mediaType, _, _ = mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return resp.StatusCode, mediaType, string(data)
}

// tenant creates a tenant, except the built-in one, and returns a new key of it.
func (p *running) tenant(id string) string {
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

func (p *running) query(key, expr string) (int, string) {
	p.t.Helper()
	return p.do(http.MethodGet, p.edge+"/prometheus/api/v1/query?query="+url.QueryEscape(expr), key, nil)
}

func (p *running) write(key string) {
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
