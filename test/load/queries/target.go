package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// target is one of the measured processes.
type target struct {
	name   string
	path   string // of the binary
	dir    string
	args   []string
	ready  string // URL
	push   string // URL
	query  string // URL before /api/v1
	admin  string // URL of Pallium's admin listener, empty for Prometheus
	token  string
	cmd    *exec.Cmd
	client *http.Client
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 512}}
}

// palliumConfig has no limit that a measurement would reach, and no background work that
// would be measured: no metrics of its own, no compaction that was not asked for.
const palliumConfig = `
log: {level: warn}
self_monitoring: {disabled: true}
compactor: {interval: 24h}
limits: {requests_per_second: 0, samples_per_second: 0, bytes_per_second: 0, max_query_samples: 0, past_grace: 0s,
  max_concurrent_requests: 2000, max_concurrent_queries: 1000, max_queued_queries: 1000, query_timeout: 1h}
`

// newPallium returns a Pallium that is not yet started, with a data directory in dir.
func newPallium(name, path, dir, more string) (*target, error) {
	edge, err := freeAddr()
	if err != nil {
		return nil, err
	}
	admin, err := freeAddr()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "pallium.yaml")
	return &target{name: name, path: path, dir: dir, client: newClient(), ready: "http://" + edge + "/ready",
		push: "http://" + edge + "/api/v1/push", query: "http://" + edge + "/prometheus", admin: "http://" + admin,
		args: []string{"all", "-config", config, "-data-dir", filepath.Join(dir, "data"), "-listen", edge, "-admin-listen", admin},
	}, os.WriteFile(config, []byte(palliumConfig+more), 0o600)
}

// newPrometheus returns a Prometheus that is not yet started.
func newPrometheus(path, dir string) (*target, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "prometheus.yml")
	return &target{name: "prometheus", path: path, dir: dir, client: newClient(), ready: "http://" + addr + "/-/ready",
		push: "http://" + addr + "/api/v1/write", query: "http://" + addr,
		args: []string{"--config.file=" + config, "--storage.tsdb.path=" + filepath.Join(dir, "data"), "--web.listen-address=" + addr,
			"--web.enable-remote-write-receiver", "--query.max-samples=1000000000", "--storage.tsdb.retention.time=10y"},
	}, os.WriteFile(config, []byte("global: {scrape_interval: 1h}\n"), 0o600)
}

// start starts the process and waits until it is ready.
func (t *target) start() error {
	t.cmd = exec.Command(t.path, t.args...)
	log, err := os.OpenFile(filepath.Join(t.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	t.cmd.Stdout, t.cmd.Stderr = log, log
	if err := t.cmd.Start(); err != nil {
		return err
	}
	for range 600 {
		resp, err := t.client.Get(t.ready)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	text, _ := os.ReadFile(filepath.Join(t.dir, "log"))
	return fmt.Errorf("%s did not become ready; its log:\n%s", t.name, text)
}

func (t *target) stop(signal os.Signal) {
	if t.cmd == nil {
		return
	}
	_ = t.cmd.Process.Signal(signal)
	_ = t.cmd.Wait()
	t.cmd = nil
}

// adminCall sends a request to the admin API.
func (t *target) adminCall(method, path, body string) ([]byte, error) {
	token, err := os.ReadFile(filepath.Join(t.dir, "data", "admin-token"))
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest(method, t.admin+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Content-Type", "application/json")
	resp, err := t.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s: %s: %.300s", t.name, path, resp.Status, out)
	}
	return out, err
}

// tenant creates a tenant and returns a token for it.
func (t *target) tenant(name string) (string, error) {
	if _, err := t.adminCall(http.MethodPost, "/admin/v1/tenants", fmt.Sprintf(`{"name":%q}`, name)); err != nil {
		return "", err
	}
	out, err := t.adminCall(http.MethodPost, "/admin/v1/tokens",
		fmt.Sprintf(`{"name":%q,"tenant":%q,"scopes":["metrics:read","metrics:write"]}`, name, name))
	if err != nil {
		return "", err
	}
	var answer struct{ Token string }
	return answer.Token, json.Unmarshal(out, &answer)
}

// flush seals everything that Pallium has in memory.
func (t *target) flush() error {
	if t.admin == "" {
		return nil
	}
	_, err := t.adminCall(http.MethodPost, "/admin/v1/flush?wait=true", "")
	return err
}

// compact seals everything that Pallium has in memory, and compacts all sealed data.
func (t *target) compact() error {
	if err := t.flush(); err != nil {
		return err
	}
	_, err := t.adminCall(http.MethodPost, "/admin/v1/compact?wait=true", "")
	return err
}

// cpu returns the CPU time that the process has used, with a resolution of nanoseconds.
func (t *target) cpu() time.Duration {
	var ts unix.Timespec
	// The id of another process' CPU clock: see clock_getcpuclockid(3) and posix-timers.h of Linux.
	if err := unix.ClockGettime(int32(^t.cmd.Process.Pid<<3|2), &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// settle waits until the process has no background work, at most for the duration `settled`.
func (t *target) settle(ctx context.Context) {
	for deadline := time.Now().Add(settled); time.Now().Before(deadline) && ctx.Err() == nil; {
		before := t.cpu()
		time.Sleep(2 * time.Second)
		if t.cpu()-before < 60*time.Millisecond {
			return
		}
	}
}

// rangeQuery is a range query.
type rangeQuery struct {
	text       string
	start, end time.Time
	step       time.Duration
	noStore    bool // evaluate the query without the results cache
}

// cost is the CPU time and the latency of a query.
type cost struct{ cpu, wall time.Duration }

// ask sends a range query with a token and returns the body of the answer.
func (t *target) ask(ctx context.Context, token string, q rangeQuery) ([]byte, time.Duration, error) {
	form := url.Values{"query": {q.text}, "start": {fmt.Sprint(q.start.Unix())}, "end": {fmt.Sprint(q.end.Unix())},
		"step": {fmt.Sprint(q.step.Seconds())}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.query+"/api/v1/query_range", strings.NewReader(form.Encode()))
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if q.noStore {
		req.Header.Set("Cache-Control", "no-store")
	}
	begin := time.Now()
	resp, err := t.client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s: %.300s", t.name, q.text, resp.Status, out)
		if resp.StatusCode == http.StatusUnprocessableEntity {
			err = fmt.Errorf("%w: %w", errRejected, err)
		}
	}
	return out, time.Since(begin), err
}

// errRejected is wrapped by the error of a query that exceeds a limit or the memory of a process.
var errRejected = errors.New("rejected")

// measure is ask that also returns the CPU time that the process used meanwhile.
func (t *target) measure(ctx context.Context, q rangeQuery) ([]byte, cost, error) {
	before := t.cpu()
	out, wall, err := t.ask(ctx, t.token, q)
	return out, cost{t.cpu() - before, wall}, err
}

// profile starts a CPU profile of Pallium and returns a function that waits for it.
func (t *target) profile(dir, name string, seconds int) func() {
	if dir == "" || t.admin == "" {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		data, err := t.adminCall(http.MethodGet, fmt.Sprintf("/debug/pprof/profile?seconds=%d", seconds), "")
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name+".pprof"), data, 0o600)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "profile:", err)
		}
	}()
	return func() { <-done }
}
