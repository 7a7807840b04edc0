package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// target is one of the measured systems.
type target struct {
	name    string
	cmd     *exec.Cmd
	push    string // URL
	query   string // URL before /api/v1
	admin   string // URL of Pallium's admin listener
	dataDir string
	token   string
	since   time.Duration // CPU time at the beginning of the measurement
	busy    time.Duration // wall-clock time spent in this target's requests
	mu      sync.Mutex
}

func freeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (t *target) start(ready string, path string, args ...string) error {
	t.cmd = exec.Command(path, args...)
	log, err := os.Create(filepath.Join(os.TempDir(), "load-"+t.name+".log"))
	if err != nil {
		return err
	}
	t.cmd.Stdout, t.cmd.Stderr = log, log
	if err := t.cmd.Start(); err != nil {
		return err
	}
	for range 600 {
		resp, err := http.Get(ready)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return errors.New(t.name + " did not become ready")
}

func (t *target) stop() {
	_ = t.cmd.Process.Signal(syscall.SIGTERM)
	_ = t.cmd.Wait()
}

const palliumConfig = `
self_monitoring: {interval: 1h}
limits: {requests_per_second: 0, samples_per_second: 0, bytes_per_second: 0, max_query_samples: 0}
`

func startPallium(path, dir string) (*target, error) {
	edge, admin := freeAddr(), freeAddr()
	t := &target{
		name:    "pallium",
		push:    "http://" + edge + "/api/v1/push",
		query:   "http://" + edge + "/prometheus",
		admin:   "http://" + admin,
		dataDir: filepath.Join(dir, "data"),
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "pallium.yaml")
	if err := os.WriteFile(config, []byte(palliumConfig), 0o600); err != nil {
		return nil, err
	}
	err := t.start("http://"+edge+"/ready", path,
		"all", "-config", config, "-data-dir", filepath.Join(dir, "data"), "-listen", edge, "-admin-listen", admin)
	if err != nil {
		return nil, err
	}
	out, err := t.adminCall(dir, "tenants", `{"name":"load"}`)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	out, err = t.adminCall(dir, "tokens", `{"name":"load","tenant":"load","scopes":["metrics:read","metrics:write"]}`)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	var answer struct{ Token string }
	if err := json.Unmarshal(out, &answer); err != nil {
		return nil, err
	}
	t.token = answer.Token
	return t, nil
}

func (t *target) adminCall(dir, path, body string) ([]byte, error) {
	token, err := os.ReadFile(filepath.Join(dir, "data", "admin-token"))
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequest(http.MethodPost, t.admin+"/admin/v1/"+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s", path, resp.Status)
	}
	return out, err
}

func startPrometheus(path, dir string) (*target, error) {
	addr := freeAddr()
	t := &target{name: "prometheus", push: "http://" + addr + "/api/v1/write", query: "http://" + addr, dataDir: filepath.Join(dir, "data")}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(config, []byte("global: {scrape_interval: 1h}\n"), 0o600); err != nil {
		return nil, err
	}
	return t, t.start("http://"+addr+"/-/ready", path, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+addr, "--web.enable-remote-write-receiver", "--query.max-samples=1000000000")
}

// cpu returns the user and system CPU time of the process.
func (t *target) cpu() time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", t.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+2:]))
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	sys, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+sys) * 10 * time.Millisecond // USER_HZ is 100 on Linux
}

func (t *target) rss() int64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", t.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(data), "\n") {
		var kb int64
		if n, _ := fmt.Sscanf(line, "RssAnon: %d kB", &kb); n == 1 {
			return kb << 10
		}
	}
	return 0
}

// do sends a request and reads the whole response.
func (t *target) do(ctx context.Context, method, url, contentType string, body []byte, headers ...string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if t.token != "" {
		req.Header.Set("Authorization", "Bearer "+t.token)
	}
	req.Header.Set("Content-Type", contentType)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	begin := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	t.mu.Lock()
	t.busy += time.Since(begin)
	t.mu.Unlock()
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s: %.300s", t.name, resp.Status, out)
	}
	return out, err
}

// flush seals everything that Pallium has in memory.
func (t *target) flush(context.Context) error {
	out, err := t.adminCall(filepath.Dir(t.dataDir), "flush?wait=true", "")
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// profile starts a CPU profile of Pallium and returns a function that waits for it.
func (t *target) profile(dir, name string, seconds int) func() {
	if dir == "" {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		token, _ := os.ReadFile(filepath.Join(t.dataDir, "admin-token"))
		req, _ := http.NewRequest(http.MethodGet, fmt.Sprintf("%s/debug/pprof/profile?seconds=%d", t.admin, seconds), nil)
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return
		}
		defer resp.Body.Close()
		data, _ := io.ReadAll(resp.Body)
		_ = os.WriteFile(filepath.Join(dir, name+".pprof"), data, 0o600)
	}()
	return func() { <-done }
}
