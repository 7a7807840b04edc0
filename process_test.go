package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/palliumhq/pallium/test/kit"
)

// patience is the timeout for everything that a test waits for; machines may be busy.
const patience = time.Minute

// child is a process that runs pallium.
type child struct {
	t    *testing.T
	cmd  *exec.Cmd
	mu   sync.Mutex
	log  strings.Builder
	done chan struct{}
}

func (c *child) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.Write(p)
}

func (c *child) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.String()
}

// startIn starts pallium in a working directory with an environment.
func startIn(t *testing.T, dir string, env []string, args ...string) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, cmd: exec.Command(self, args...), done: make(chan struct{})}
	c.cmd.Dir, c.cmd.Env, c.cmd.Stdout, c.cmd.Stderr = dir, append(env, "PALLIUM_TEST_PROCESS=1"), c, c
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = c.cmd.Wait(); close(c.done) }()
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		<-c.done
		if t.Failed() {
			t.Logf("pallium %s printed:\n%s", strings.Join(args, " "), c.text())
		}
	})
	return c
}

// waitFor waits for a line of the log and returns the submatches.
func (c *child) waitFor(pattern string) []string {
	c.t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if m := re.FindStringSubmatch(c.text()); m != nil {
			return m
		}
	}
	c.t.Fatalf("pallium did not print %s:\n%s", pattern, c.text())
	return nil
}

// ended waits up to wait for the process to end, and reports whether it did.
func (c *child) ended(wait time.Duration) bool {
	select {
	case <-c.done:
		return true
	case <-time.After(wait):
		return false
	}
}

// exit waits for the process to end and returns the exit code.
func (c *child) exit() int {
	c.t.Helper()
	select {
	case <-c.done:
		return c.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		c.t.Fatalf("pallium did not end:\n%s", c.text())
		return -1
	}
}

// serving waits until the process serves and returns the URLs of the edge and of the admin
// listener.
func (c *child) serving() (edge, admin string) {
	c.t.Helper()
	m := c.waitFor(`msg=serving edge=(\S+) admin=(\S+)`)
	return "http://" + m[1], "http://" + m[2]
}

// get requests a URL until the response is 200.
func (c *child) get(url string) {
	c.t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var resp *http.Response
		if resp, err = http.Get(url); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
			err = fmt.Errorf("%s", resp.Status)
		}
	}
	c.t.Fatalf("%s: %v", url, err)
}

const anywhere = "-listen 127.0.0.1:0 -admin-listen 127.0.0.1:0"

func fields(s string) []string { return strings.Fields(s) }

// TestEnvironments starts the binary with unusual environments, directories and addresses,
// and checks that it serves, has its data in the configured directory, and ends.
func TestEnvironments(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	if err := os.Symlink(elsewhere, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	config := "data_dir: from-config\nlisten: '127.0.0.1:0'\nadmin_listen: '127.0.0.1:0'\n"
	if err := os.WriteFile(filepath.Join(dir, "pallium.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, args string
		env        []string
		data       string // where the data must be
	}{
		{"no HOME, no configuration, default directory", anywhere, nil, "data"},
		{"HOME that does not exist", anywhere, []string{"HOME=/nowhere", "PATH="}, "data"},
		{"relative -config", "-config pallium.yaml", nil, "from-config"},
		{"relative -config with a dot", "all -config ./pallium.yaml -data-dir other/", nil, "other"},
		{"-data-dir elsewhere", anywhere + " -data-dir " + elsewhere + "/data", nil, elsewhere + "/data"},
		{"-data-dir above", anywhere + " -data-dir ../" + filepath.Base(dir) + "/x/../y/.", nil, "y"},
		{"-data-dir is a symbolic link", anywhere + " -data-dir link", nil, elsewhere},
		{"IPv6", "-listen [::1]:0 -admin-listen [::1]:0", nil, "data"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := startIn(t, dir, tt.env, fields(tt.args)...)
			edge, admin := c.serving()
			c.get(edge + "/ready")
			c.get(admin + "/ready")
			if tt.name == "IPv6" && (!strings.HasPrefix(edge, "http://[::1]:") || !strings.HasPrefix(admin, "http://[::1]:")) {
				t.Errorf("logged addresses %s and %s are not IPv6 URLs", edge, admin)
			}
			_ = c.cmd.Process.Signal(syscall.SIGTERM)
			if code := c.exit(); code != 0 {
				t.Errorf("exit code = %d, want 0", code)
			}
			at := tt.data
			if !filepath.IsAbs(at) {
				at = filepath.Join(dir, at)
			}
			if _, err := os.Stat(filepath.Join(at, "admin-token")); err != nil {
				t.Errorf("the data is not in %s: %v", at, err)
			}
		})
	}
}

// TestSecondStart checks that a second process with a port or data directory in use reports
// that and exits with 1, and that the first one continues.
func TestSecondStart(t *testing.T) {
	dir := t.TempDir()
	first := startIn(t, dir, nil, fields(anywhere)...)
	edge, admin := first.serving()
	first.get(edge + "/ready")
	tests := []struct{ name, args, says string }{
		{"edge", "-data-dir x -admin-listen 127.0.0.1:0 -listen " + strings.TrimPrefix(edge, "http://"), "listen: listen tcp .*address already in use"},
		{"admin", "-data-dir x -listen 127.0.0.1:0 -admin-listen " + strings.TrimPrefix(admin, "http://"), "admin_listen: listen tcp .*address already in use"},
		{"data directory", anywhere, regexp.QuoteMeta(dir) + "/data.* in use"},
		{"data directory in another form", anywhere + " -data-dir ./data/.", regexp.QuoteMeta(dir) + "/data.* in use"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := startIn(t, dir, nil, fields(tt.args)...)
			if code := c.exit(); code != 1 || !regexp.MustCompile(tt.says).MatchString(c.text()) {
				t.Errorf("exit code %d, want 1 and output that matches %s\n%s", code, tt.says, c.text())
			}
			first.get(edge + "/ready")
		})
	}
	_ = first.cmd.Process.Signal(os.Interrupt)
	if code := first.exit(); code != 0 {
		t.Errorf("exit code of the first = %d, want 0", code)
	}
}

// TestSecondIngester checks that a second ingester of a cluster with the same data directory exits
// with 1 before it touches the files there, even while the first one is starting. After the first
// one has ended in any way, the directory can be used. Other roles may share the directory.
func TestSecondIngester(t *testing.T) {
	dir := t.TempDir()
	// begin starts a backend that waits for its Bigtable during the start. on is closed when it
	// waits, which is after it has taken the lock.
	begin := func(name, target string) (c *child, on <-chan struct{}) {
		bigtable, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = bigtable.Close() })
		asked := make(chan struct{})
		go func() {
			if c, err := bigtable.Accept(); err == nil {
				defer c.Close()
				close(asked)
				_, _ = bigtable.Accept() // never responds
			}
		}()
		config := fmt.Sprintf("store: {bigtable: {project: p, instance: i, emulator: '%s'}, gcs: {bucket: b}}\n", bigtable.Addr()) +
			"cluster: {instance: " + name + ", advertise: '127.0.0.1:1', redis: {addresses: ['127.0.0.1:1']}}\n" +
			"admin_listen: '127.0.0.1:0'\ninternal_listen: '127.0.0.1:0'\nrpc_listen: '127.0.0.1:0'\n"
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		return startIn(t, dir, []string{"PALLIUM_CLUSTER_SECRET=" + long + "cluster"},
			"backend", "-target="+target, "-config", name+".yaml", "-data-dir", "data"), asked
	}
	first, on := begin("first", "ingester")
	kit.Receive(t, "the first continues its start", on)
	second, on := begin("second", "ingester,querier")
	if code := second.exit(); code != 1 || !strings.Contains(second.text(), "/data is in use by another pallium process with an ingester") {
		t.Errorf("the second ended with %d\n%s", code, second.text())
	}
	select {
	case <-on:
		t.Error("the second process continued its start")
	default:
	}
	_, on = begin("other", "querier")
	kit.Receive(t, "a querier continues its start", on)
	_ = first.cmd.Process.Kill()
	first.exit()
	_, on = begin("third", "ingester")
	kit.Receive(t, "the next ingester continues its start", on)
}

// TestSignals checks that the first signal drains requests within shutdown_timeout, and that
// a second one ends the process at once.
func TestSignals(t *testing.T) {
	const secret = "0123456789abcdef0123456789abcdef"
	env := []string{"PALLIUM_ADMIN_TOKEN=" + secret, "PALLIUM_KEY_PEPPER=" + secret}
	tests := []struct {
		name, timeout string
		signals       []syscall.Signal
		says          string
	}{
		{"one", "2s", []syscall.Signal{syscall.SIGTERM}, "requests were canceled"},
		{"two", "1h", []syscall.Signal{syscall.SIGTERM, syscall.SIGTERM}, "received a second signal to stop"},
		{"two of different kinds", "1h", []syscall.Signal{syscall.SIGINT, syscall.SIGTERM}, "received a second signal to stop"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			entered := make(chan struct{}, 10)
			upstream := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				entered <- struct{}{}
				<-r.Context().Done()
			}))
			defer upstream.Close()
			dir := t.TempDir()
			config := fmt.Sprintf("shutdown_timeout: %s\nupstream: {urls: [%q]}\n", tt.timeout, upstream.URL)
			if err := os.WriteFile(filepath.Join(dir, "p.yaml"), []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			c := startIn(t, dir, env, fields("gateway -config p.yaml "+anywhere)...)
			edge, admin := c.serving()
			key := issue(t, admin, secret)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			go func() {
				req, _ := http.NewRequestWithContext(ctx, http.MethodGet, edge+"/prometheus/api/v1/query?query=up", nil)
				req.Header.Set("Authorization", "Bearer "+key)
				if resp, err := http.DefaultClient.Do(req); err == nil {
					_ = resp.Body.Close()
				}
			}()
			select {
			case <-entered:
			case <-time.After(patience):
				t.Fatal("the request does not reach the upstream")
			}
			_ = c.cmd.Process.Signal(tt.signals[0])
			c.waitFor("msg=stopping")
			untilRefused(t, edge)
			for again := tt.signals[1:]; len(again) > 0 && !c.ended(sameSignal/5); {
				_ = c.cmd.Process.Signal(again[0]) // a signal right after the first counts as the same
			}
			if code := c.exit(); code != 1 || strings.Count(c.text(), tt.says) != 1 {
				t.Errorf("exit code %d, want 1 and one line with %q\n%s", code, tt.says, c.text())
			}
		})
	}
}

// untilRefused waits until a listener is closed.
func untilRefused(t *testing.T, url string) {
	t.Helper()
	kit.UntilSlow(t, patience, "the listener is closed", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
}

// issue creates a tenant with the command line and returns a key of it.
func issue(t *testing.T, admin, token string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for _, args := range []string{"tenant create acme", "token issue -tenant acme -scopes metrics:read -name test -q"} {
		cmd := exec.Command(self, fields(args+" -admin-url "+admin)...)
		cmd.Env = []string{"PALLIUM_TEST_PROCESS=1", "PALLIUM_ADMIN_TOKEN=" + token}
		if out, err = cmd.Output(); err != nil {
			t.Fatalf("pallium %s: %v", args, err)
		}
	}
	return strings.TrimSpace(string(out))
}
