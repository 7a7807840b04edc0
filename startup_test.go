package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/test/kit"
)

// freeAddr returns an address with a free port.
func freeAddr(t *testing.T) string {
	t.Helper()
	port, err := kit.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", port)
}

// TestStartupText checks the texts on /ready and in the log during a start.
func TestStartupText(t *testing.T) {
	log := &kit.Buffer{}
	now := time.Unix(1000, 0)
	s := newStartup(&Options{Now: func() time.Time { return now }, Logger: slog.New(slog.NewTextHandler(log, nil))})
	check := func(want string) {
		t.Helper()
		if got := s.String(); got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
	s.step("opening the row store")
	now = now.Add(61*time.Second + time.Millisecond)
	check("starting: opening the row store, 1m1s so far")
	const total = 4_900_000_000
	s.replay(0, total)
	check("starting: replaying the write-ahead log: 0% (0.0 of 4.9 GB), 0s so far")
	for i := range 80 {
		now = now.Add(time.Second)
		s.replay(2_107_000_000/80*int64(i+1), total)
	}
	check("starting: replaying the write-ahead log: 43% (2.1 of 4.9 GB), 1m20s so far")
	if got := s.ending.waitsFor(); got != "the start: replaying the write-ahead log" {
		t.Errorf("waitsFor = %q", got)
	}
	if n := strings.Count(log.String(), `level=INFO msg="replaying the write-ahead log"`); n != 8 || !strings.Contains(log.String(), "done=2107000000 total=4900000000 percent=43") {
		t.Errorf("%d log lines in 80 seconds, want 8:\n%s", n, log)
	}
	s.replay(total, total)
	check("starting: replaying the write-ahead log: 100% (4.9 of 4.9 GB), 1m20s so far")
	s.step("opening the listeners")
	check("starting: opening the listeners, 0s so far")
	for _, tt := range []struct {
		done, total int64
		percent     int64
		text        string
	}{
		{0, 0, 100, "0 of 0 bytes"},
		{8, 999, 0, "8 of 999 bytes"},
		{999, 1000, 99, "1.0 of 1.0 kB"},
		{1_500_000, 3_000_000, 50, "1.5 of 3.0 MB"},
		{-1, 7_000_000_000_000, 0, "-0.0 of 7.0 TB"},
		{9, 8, 100, "9 of 8 bytes"},
	} {
		if p, text := percent(tt.done, tt.total), ofBytes(tt.done, tt.total); p != tt.percent || text != tt.text {
			t.Errorf("%d of %d: %d%%, %s", tt.done, tt.total, p, text)
		}
	}
}

// gatedRows is a row store whose reads wait until gate is closed.
type gatedRows struct {
	rows.Store
	entered, gate chan struct{}
}

func (g gatedRows) ReadRows(ctx context.Context, ranges []rows.Range, f rows.Filter, visit func(rows.Row) bool) error {
	select {
	case g.entered <- struct{}{}:
	default:
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-g.gate:
	}
	return g.Store.ReadRows(ctx, ranges, f, visit)
}

// ask sends a request to the admin listener and returns the response.
func ask(t *testing.T, client *http.Client, method, url string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data), resp.Header
}

// checkStarting checks the responses of a starting process to requests of an operator, a
// probe and Prometheus.
func checkStarting(t *testing.T, client *http.Client, base, doing string, metrics ...string) {
	t.Helper()
	if code, text, _ := ask(t, client, http.MethodGet, base+"/healthy"); code != 200 || text != "healthy\n" {
		t.Errorf("healthy: %d %s", code, text)
	}
	if code, text, _ := ask(t, client, http.MethodGet, base+"/ready"); code != 503 || !strings.HasPrefix(text, "starting: "+doing) || !strings.HasSuffix(text, "s so far\n") {
		t.Errorf("ready: %d %s", code, text)
	}
	_, text, _ := ask(t, client, http.MethodGet, base+"/metrics")
	for _, want := range append(metrics, `pallium_build_info{version="1.2.3"} 1`, "process_cpu_seconds_total", "go_goroutines") {
		if !strings.Contains(text, want+"\n") && !strings.Contains(text, want+" ") {
			t.Errorf("metrics lack %s:\n%s", want, text)
		}
	}
	for _, path := range []string{"GET /admin/v1/tenants", "POST /admin/v1/flush", "GET /", "GET /debug/pprof/", "POST /ready", "GET /nothing"} {
		method, path, _ := strings.Cut(path, " ")
		code, text, header := ask(t, client, method, base+path)
		var body struct {
			Code, Message, RequestID string
			Details                  []any
		}
		err := json.Unmarshal([]byte(text), &body)
		if code != 503 || err != nil || body.Code != "unavailable" || !strings.Contains(body.Message, "starting: "+doing) || body.Details == nil ||
			body.RequestID == "" || body.RequestID != header.Get("X-Request-Id") || header.Get("Retry-After") == "" || header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %d %s %v", method, path, code, text, header)
		}
	}
}

// TestAdminWhileStarting checks that the admin listener responds from the beginning while the
// edge refuses connections, and that both serve after the start.
func TestAdminWhileStarting(t *testing.T) {
	noLeaks(t)
	cfg := testConfig(t)
	cfg.Self.Disabled, cfg.Listen, cfg.AdminListen = true, freeAddr(t), freeAddr(t)
	o := testOptions(All, nil, nil)
	g := gatedRows{entered: make(chan struct{}, 1), gate: make(chan struct{})}
	o.wrapRows = func(s rows.Store) rows.Store { g.Store = s; return g }
	started := make(chan *running, 1)
	go func() { started <- startWith(t, cfg, o) }()
	kit.Receive(t, "the start", g.entered)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	base := "http://" + cfg.AdminListen
	checkStarting(t, client, base, "reading tenants, keys and policies, ")
	if c, err := net.Dial("tcp", cfg.Listen); err == nil {
		_ = c.Close()
		t.Error("the edge accepts connections during the start")
	}
	close(g.gate)
	p := <-started
	for path, want := range map[string]string{"/ready": "ready", "/healthy": "healthy", "/metrics": "pallium_ingester_head_bytes"} {
		if code, text := p.do(http.MethodGet, base+path, "", nil); code != 200 || !strings.Contains(text, want) {
			t.Errorf("%s after the start: %d %s", path, code, text)
		}
	}
	if code, text := p.do(http.MethodGet, base+"/admin/v1/tenants", p.token, nil); code != 200 {
		t.Errorf("admin API after the start: %d %s", code, text)
	}
	p.write(p.tenant("acme"))
	p.stop()
	if _, err := client.Get(base + "/healthy"); err == nil {
		t.Error("the admin listener is still open after stop")
	}
}

// TestAdminWhileReplaying checks the progress of a replay on /ready and in metrics.
func TestAdminWhileReplaying(t *testing.T) {
	noLeaks(t)
	o := testOptions(All, nil, nil)
	o.Now = time.Now
	a := newProcess(testConfig(t), o)
	if err := a.openAdmin(); err != nil {
		t.Fatal(err)
	}
	a.registerEarly(a.startup.collectors()...)
	a.startup.replay(430_000, 1_000_000)
	client := &http.Client{Transport: &http.Transport{}}
	checkStarting(t, client, "http://"+a.admin.Addr().String(), "replaying the write-ahead log: 43% (0.4 of 1.0 MB), ",
		"pallium_ingester_replay_bytes 430000", "pallium_ingester_replay_total_bytes 1e+06")
	client.CloseIdleConnections()
	if err := a.close(); err != nil {
		t.Error(err)
	}
}

// TestStopWhileStarting checks that a start that is stopped ends at once if the call that it
// waits for observes its context, and that a failed start closes everything.
func TestStopWhileStarting(t *testing.T) {
	for name, stop := range map[string]bool{"stopped": true, "fails": false} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			cfg := testConfig(t)
			cfg.ShutdownTimeout, cfg.AdminListen = model.Duration(time.Hour), freeAddr(t)
			o := testOptions(All, nil, nil)
			h := newHang(true)
			h.armed.Store(true)
			o.wrapRows = func(s rows.Store) rows.Store { return hangingRows{s, h, true} }
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			ended := make(chan error, 1)
			go func() { _, err := open(ctx, cfg, o); ended <- err }()
			kit.Receive(t, "the start", h.entered)
			if stop {
				cancel()
			} else {
				close(h.release)
			}
			if err := <-ended; err == nil || errors.Is(err, ErrNotStarted) != stop {
				t.Errorf("the start ended with %v, want ErrNotStarted: %v", err, stop)
			}
			if l, err := net.Listen("tcp", cfg.AdminListen); err != nil {
				t.Errorf("the admin listener is still open: %v", err)
			} else if err := l.Close(); err != nil {
				t.Error(err)
			}
			b, err := open(context.Background(), cfg, testOptions(All, nil, nil)) // the stores were closed, too
			if err != nil {
				t.Fatal(err)
			}
			if err := b.close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestStopBeforeServing checks that a process that is stopped between its start and serving
// does not serve and does not seal.
func TestStopBeforeServing(t *testing.T) {
	noLeaks(t)
	ctx, cancel := context.WithCancel(context.Background())
	log := &kit.Buffer{}
	a, err := open(ctx, testConfig(t), testOptions(All, nil, log))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	err = a.run(ctx, func(_, _ net.Addr) { t.Error("the process serves") })
	if !errors.Is(err, ErrNotStarted) || strings.Contains(log.String(), "sealing") {
		t.Errorf("run = %v\n%s", err, log)
	}
}

// TestNothingRunsBeforeServing checks that background work starts when a process serves, and
// not while it is built. The ingester's own work is the exception: it may have to seal
// windows during a replay.
func TestNothingRunsBeforeServing(t *testing.T) {
	noLeaks(t)
	background := []string{"control.(*Control).follow", "compactor.(*Compactor).Run", "distributor.(*HA).Run", "memory.(*Account).Watch"}
	stacks := func() string {
		all := make([]byte, 4<<20)
		return string(all[:runtime.Stack(all, true)])
	}
	a, err := open(t.Context(), testConfig(t), testOptions(All, nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range background {
		if strings.Contains(stacks(), name) {
			t.Errorf("%s runs before the process serves", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.run(ctx, nil) }()
	for _, name := range background {
		kit.Until(t, name+" runs", func() bool { return strings.Contains(stacks(), name) })
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestStopWhileWaitingForRedis checks that an ingester without tokens waits for Redis,
// reports that, and ends when it is stopped, whether Redis refuses connections or accepts
// them and never responds.
func TestStopWhileWaitingForRedis(t *testing.T) {
	hanging, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hanging.Close()
	for name, addr := range map[string]string{"refuses connections": freeAddr(t), "does not respond": hanging.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			cfg := testConfig(t)
			cfg.Cluster.Instance, cfg.Cluster.Advertise, cfg.Cluster.Redis.Addresses = "ingester-0", "127.0.0.1:1", []string{addr}
			env := secrets()
			env["PALLIUM_CLUSTER_SECRET"] = long + "cluster"
			o := testOptions(Backend, env, nil)
			o.Now, o.Targets = time.Now, Targets{TargetIngester: true}
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			a := newProcess(cfg, o)
			b := &backend{process: a}
			join := func() (err error) { b.cluster, err = a.joinRing(b); return err }
			for _, step := range []func() error{a.openAdmin, a.buildSecurity, a.openRedis, join} {
				if err := step(); err != nil {
					t.Fatal(err)
				}
			}
			ended := make(chan error, 1)
			go func() { ended <- b.buildIngester(ctx) }()
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			const doing = "waiting for Redis to join the ring, "
			for deadline := time.Now().Add(time.Minute); !strings.Contains(a.startup.String(), doing); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("startup step is %q", a.startup)
				}
			}
			checkStarting(t, client, "http://"+a.admin.Addr().String(), doing)
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("the start ended with %v, want context.Canceled", err)
			}
			client.CloseIdleConnections()
			if err := a.close(); err != nil {
				t.Error(err)
			}
		})
	}
}
