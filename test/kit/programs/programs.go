// Package programs runs the real binaries for tests: Pallium, Prometheus, Redis and
// the emulators of Google's stores, each as a process with ports and directories of
// its own, which is stopped when the test ends. It imports nothing of the project but
// kit.
package programs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startTimeout limits how long a process may take to become ready. It is long because
// test machines are busy.
const startTimeout = 2 * time.Minute

// Binary returns the path in the environment variable, which the Makefile sets.
func Binary(t testing.TB, variable string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		t.Fatalf("%s is not set: run the tests with `make e2e`", variable)
	}
	return path
}

// Process is a running program.
type Process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	log  *logBuffer
	done chan struct{}
	err  error // result of Wait; read after done
}

// logBuffer stores the end of a process's output: at most 1 MiB and one more write.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.buf.Len() > 1<<20 {
		l.buf.Reset()
	}
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Start runs a program until the test ends. Its output is logged if the test fails.
func Start(t testing.TB, path string, args ...string) *Process {
	t.Helper()
	return startIn(t, "", path, args...)
}

// startIn is Start in the working directory dir; if dir is empty, in the test's working directory.
func startIn(t testing.TB, dir, path string, args ...string) *Process {
	t.Helper()
	p := &Process{t: t, name: filepath.Base(path), cmd: exec.Command(path, args...), log: &logBuffer{}, done: make(chan struct{})}
	p.cmd.Dir = dir
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", p.name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%s printed:\n%s", p.name, tail(p.log.String(), 8000))
		}
	})
	return p
}

func tail(s string, n int) string {
	if len(s) > n {
		return "..." + s[len(s)-n:]
	}
	return s
}

// Log returns the process's output so far.
func (p *Process) Log() string { return p.log.String() }

// Pid returns the process ID.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Kill ends the process with SIGKILL and waits for it.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Signal sends a signal.
func (p *Process) Signal(s os.Signal) { _ = p.cmd.Process.Signal(s) }

// Stop sends SIGTERM, waits, and fails the test if the process ends with an error.
func (p *Process) Stop() {
	p.t.Helper()
	p.Signal(syscall.SIGTERM)
	if err := p.Wait(startTimeout); err != nil {
		p.t.Errorf("%s after SIGTERM: %v\n%s", p.name, err, tail(p.log.String(), 4000))
	}
}

// Wait waits for the process to end and returns its error.
func (p *Process) Wait(timeout time.Duration) error {
	select {
	case <-p.done:
		return p.err
	case <-time.After(timeout):
		return fmt.Errorf("still running after %s", timeout)
	}
}

// WaitReady waits until the URL returns status 200.
func (p *Process) WaitReady(url string) {
	p.t.Helper()
	for deadline := time.Now().Add(startTimeout); ; {
		select {
		case <-p.done:
			p.t.Fatalf("%s ended: %v\n%s", p.name, p.err, tail(p.log.String(), 4000))
		default:
		}
		resp, err := http.Get(url)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s is not ready: %v\n%s", p.name, err, tail(p.log.String(), 4000))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Pallium is a running `pallium all`.
type Pallium struct {
	*Process
	Edge, Admin string // URLs
	DataDir     string
	Config      string // path of the configuration file

	t      testing.TB
	binary string
	dir    string // working directory; if empty, the test's
	args   []string
}

// StartPallium runs Pallium with the configuration (YAML, may be empty) in a
// directory of its own.
func StartPallium(t testing.TB, config string) *Pallium {
	t.Helper()
	return StartPalliumIn(t, filepath.Join(t.TempDir(), "data"), config)
}

// Begin starts the process again and does not wait until it is ready.
func (p *Pallium) Begin() {
	p.t.Helper()
	p.Process = startIn(p.t, p.dir, p.binary, p.args...)
}

// Restart starts the process again after it was stopped or killed, and waits until it
// is ready.
func (p *Pallium) Restart() {
	p.t.Helper()
	p.Begin()
	p.WaitReady(p.Edge + "/ready")
}

// CLI runs an admin command and returns its trimmed output.
func (p *Pallium) CLI(args ...string) (string, error) {
	var out, errOut bytes.Buffer
	cmd := exec.Command(p.binary, append(args, "-admin-url", p.Admin, "-data-dir", p.DataDir)...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("pallium %s: %w: %s", strings.Join(args, " "), err, errOut.String())
	}
	return strings.TrimSpace(out.String()), err
}

// AdminAPI sends a request to the admin API, with body encoded as JSON unless it is
// nil, and decodes a 2xx response into answer unless that is nil.
func (p *Pallium) AdminAPI(method, path string, body, answer any) error {
	p.t.Helper()
	var in io.Reader
	contentType := ""
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("%s %s: encode: %w", method, path, err)
		}
		in, contentType = bytes.NewReader(data), "application/json"
	}
	code, text := Do(p.t, method, p.Admin+"/admin/v1"+path, p.AdminToken(), contentType, in)
	if code/100 != 2 {
		return fmt.Errorf("%s %s: %d %s", method, path, code, text)
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal([]byte(text), answer); err != nil {
		return fmt.Errorf("%s %s: decode: %w", method, path, err)
	}
	return nil
}

// Tenant creates a tenant, with limits given as key=value, and returns a key with the
// scopes to read and write its metrics.
func (p *Pallium) Tenant(id string, limits ...string) string {
	p.t.Helper()
	set := map[string]any{}
	for _, limit := range limits {
		name, value, _ := strings.Cut(limit, "=")
		if _, err := strconv.ParseFloat(value, 64); err == nil {
			set[name] = json.Number(value)
		} else if value == "true" || value == "false" {
			set[name] = value == "true"
		} else {
			set[name] = value
		}
	}
	if err := p.AdminAPI(http.MethodPost, "/tenants", map[string]any{"name": id, "limits": set}, nil); err != nil {
		p.t.Fatal(err)
	}
	return p.Token(id, "metrics:read,metrics:write")
}

// Token issues a key for a tenant; scopes are separated by commas.
func (p *Pallium) Token(id, scopes string) string {
	p.t.Helper()
	var key struct{ Token string }
	if err := p.AdminAPI(http.MethodPost, "/tokens",
		map[string]any{"name": "test", "tenant": id, "scopes": strings.Split(scopes, ",")}, &key); err != nil {
		p.t.Fatal(err)
	}
	return key.Token
}

// AdminToken returns the admin token that the process generated.
func (p *Pallium) AdminToken() string {
	p.t.Helper()
	data, err := os.ReadFile(filepath.Join(p.DataDir, "admin-token"))
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// Flush seals and uploads everything in the head.
func (p *Pallium) Flush() {
	p.t.Helper()
	code, body := Do(p.t, http.MethodPost, p.Admin+"/admin/v1/flush?wait=true", p.AdminToken(), "", nil)
	if code != http.StatusOK {
		p.t.Fatalf("flush: %d %s", code, body)
	}
}

// Do sends a request with a bearer token and returns the status and body of the
// response.
func Do(t testing.TB, method, url, token, contentType string, body io.Reader) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	r := Send(t, req)
	return r.Code, r.Body
}

// Answer is the response to a request.
type Answer struct {
	Code   int
	Header http.Header
	Body   string
}

// Send sends the request and reads the whole response.
func Send(t testing.TB, req *http.Request) Answer {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	return Answer{Code: resp.StatusCode, Header: resp.Header, Body: string(data)}
}

// Query sends a request to a Prometheus API (base is the URL before /api/v1) and
// returns the data of the response.
func Query(t testing.TB, base, token, endpoint string, params url.Values) json.RawMessage {
	t.Helper()
	code, body := Do(t, http.MethodPost, base+"/api/v1/"+endpoint, token, "application/x-www-form-urlencoded",
		strings.NewReader(params.Encode()))
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.Status != "success" {
		t.Fatalf("%s %v: %d %s", endpoint, params, code, tail(body, 2000))
	}
	return answer.Data
}

// Metric returns the value of one of the process's own series, given by name and
// labels as in the text format; 0 if the series does not exist.
func (p *Pallium) Metric(name string) float64 {
	p.t.Helper()
	code, body := Do(p.t, http.MethodGet, p.Admin+"/metrics", "", "", nil)
	if code != http.StatusOK {
		p.t.Fatalf("metrics: %d", code)
	}
	v, _ := MetricIn(p.t, body, name)
	return v
}

// MetricIn finds a series by its name and labels in the text format of metrics.
func MetricIn(t testing.TB, text, name string) (v float64, ok bool) {
	t.Helper()
	for line := range strings.Lines(text) {
		rest, found := strings.CutPrefix(line, name+" ")
		if !found {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
		if err != nil {
			t.Fatal(err)
		}
		return v, true
	}
	return 0, false
}
