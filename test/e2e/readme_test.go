package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"

	"github.com/palliumhq/pallium/test/kit"
)

// readme is the setup of a reader of README.md: a fresh copy of the repository and the
// commands of the README's code blocks.
type readme struct {
	t    *testing.T
	dir  string
	text string
	env  []string
}

// copyTree copies the tracked files, and the untracked ones that are not ignored, with
// their current content.
func copyTree(t *testing.T, to string) {
	t.Helper()
	top, err := exec.Command("git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		t.Fatalf("find the repository: %v", err)
	}
	root := strings.TrimSpace(string(top))
	list, err := exec.Command("git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Fatalf("list the repository's files: %v", err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(list), "\x00"), "\x00") {
		from, dst := filepath.Join(root, name), filepath.Join(to, name)
		st, err := os.Lstat(from)
		if err != nil || !st.Mode().IsRegular() {
			continue // deleted, or a developer's link to a directory elsewhere
		}
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(dst), 0o755)
		}
		if err == nil {
			err = os.WriteFile(dst, data, st.Mode().Perm())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func newReadme(t *testing.T) *readme {
	t.Helper()
	r := &readme{t: t, dir: t.TempDir()}
	copyTree(t, r.dir)
	text, err := os.ReadFile(filepath.Join(r.dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	r.text = string(text)
	for _, e := range os.Environ() { // neither a home directory nor variables of make e2e
		name, _, _ := strings.Cut(e, "=")
		if name != "HOME" && !strings.HasPrefix(name, "XDG_") && !strings.HasPrefix(name, "PALLIUM") && !strings.HasPrefix(name, "MAKE") && name != "MFLAGS" {
			r.env = append(r.env, e)
		}
	}
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPATH"} { // go needs these if HOME is not set
		value, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatalf("go env %s: %v", name, err)
		}
		r.env = append(r.env, name+"="+strings.TrimSpace(string(value)))
	}
	return r
}

// block returns the shell code block that contains a text.
func (r *readme) block(has string) string {
	r.t.Helper()
	for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(r.text, -1) {
		if strings.Contains(m[1], has) {
			return m[1]
		}
	}
	r.t.Fatalf("README.md has no shell block with %q", has)
	return ""
}

// find returns the first submatch of a pattern in the README.
func (r *readme) find(pattern string) string {
	r.t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(r.text)
	if m == nil {
		r.t.Fatalf("README.md has no match of %s", pattern)
	}
	return m[1]
}

func (r *readme) command(ctx context.Context, script string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "bash", "-e", "-o", "pipefail", "-c", script)
	cmd.Dir, cmd.Env = r.dir, r.env
	return cmd
}

// shell runs a script in the copy and returns its output.
func (r *readme) shell(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := r.command(ctx, script).CombinedOutput()
	return string(out), err
}

// server is a running `make run`.
type server struct {
	r    *readme
	cmd  *exec.Cmd
	log  bytes.Buffer // read after done is closed
	done chan struct{}
}

// serve runs the README's first command and waits until the edge is ready.
func (r *readme) serve() *server {
	r.t.Helper()
	for _, addr := range []string{":9009", "127.0.0.1:9010"} {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			r.t.Fatalf("this test needs the default ports, but one is in use: %v", err)
		}
		_ = l.Close()
	}
	line := regexp.MustCompile(`(?m)^make run\b.*$`).FindString(r.block("make run"))
	s := &server{r: r, cmd: r.command(context.Background(), "exec "+line), done: make(chan struct{})}
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	go func() { _ = s.cmd.Wait(); close(s.done) }()
	r.t.Cleanup(func() {
		_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) // the process group of this test's command
		<-s.done
		if r.t.Failed() {
			r.t.Logf("%s printed:\n%s", line, s.log.String())
		}
	})
	kit.Eventually(r.t, 5*time.Minute, func() error { // the command builds first
		select {
		case <-s.done:
			r.t.Fatalf("%s ended:\n%s", line, s.log.String())
		default:
		}
		resp, err := http.Get("http://localhost:9009/ready")
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("ready: %s", resp.Status)
		}
		return nil
	})
	return s
}

// end sends a signal and waits for the end: either to make alone, which forwards it,
// or to all processes, as a terminal does.
func (s *server) end(sig syscall.Signal, all bool) {
	t := s.r.t
	t.Helper()
	pid := s.cmd.Process.Pid
	if all {
		pid = -pid
	}
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.done:
	case <-time.After(time.Minute):
		t.Fatalf("the process is still running a minute after %s", sig)
	}
	log := s.log.String()
	if !strings.Contains(log, "msg=stopping") || !strings.Contains(log, `msg="sealed samples into packs"`) {
		t.Errorf("after %s the process did not shut down cleanly", sig)
	}
	for _, bad := range []string{"level=ERROR", "level=WARN", "panic"} {
		if strings.Contains(log, bad) {
			t.Errorf("the log contains %s", bad)
		}
	}
}

// do sends a request and requires status 2xx; a hanging request ends after two
// minutes.
func (r *readme) do(method, target, token string, body io.Reader) string {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 {
		r.t.Fatalf("%s %s: %s %s %v", method, target, resp.Status, text, err)
	}
	return string(text)
}

// push writes one sample to the URL of the README's Prometheus configuration.
func (r *readme) push(key, metric string, value float64) {
	r.t.Helper()
	data, err := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{
		Labels:  []prompb.Label{{Name: "__name__", Value: metric}},
		Samples: []prompb.Sample{{Timestamp: time.Now().UnixMilli(), Value: value}},
	}}}).Marshal()
	if err != nil {
		r.t.Fatal(err)
	}
	r.do(http.MethodPost, r.find(`- url: (http://localhost:9009/\S+)`), key, bytes.NewReader(snappy.Encode(nil, data)))
}

// value queries a metric at the URL of the README's Grafana data source.
func (r *readme) value(key, metric string) string {
	r.t.Helper()
	form := url.Values{"query": {"last_over_time(" + metric + "[1h])"}}
	text := r.do(http.MethodGet, r.find(`url: (http://localhost:9009/prometheus)\b`)+"/api/v1/query?"+form.Encode(), key, nil)
	var a struct {
		Data struct{ Result []struct{ Value [2]any } }
	}
	if err := json.Unmarshal([]byte(text), &a); err != nil || len(a.Data.Result) != 1 {
		return text
	}
	return fmt.Sprint(a.Data.Result[0].Value[1])
}

// TestREADME follows README.md literally in a fresh copy of the repository: its
// commands, directory, ports and other defaults; through seal, upload, compaction,
// restart and both ways to stop the process.
func TestREADME(t *testing.T) {
	r := newReadme(t)
	s := r.serve()

	// "While `make run` is running, in a second shell"
	second := r.block("pallium tenant create")
	out, err := r.shell(second)
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, second, out)
	}
	key := regexp.MustCompile(`plm_[A-Za-z0-9_-]+`).FindString(out)
	if key == "" {
		t.Fatalf("no key was printed:\n%s", out)
	}
	if !strings.Contains(out, "http://localhost:9009") {
		t.Errorf("the printed configuration does not name the edge:\n%s", out)
	}
	r.push(key, "readme_metric", 1)

	// "Or query with curl": Pallium's own metrics arrive within seconds. curl does not
	// fail on an error status.
	path := regexp.MustCompile(`(?m)^export PATH=.*$`).FindString(second)
	curl := path + "\n" + r.block("curl -H")
	kit.Eventually(t, time.Minute, func() error {
		out, err := r.shell(curl)
		if err != nil || !strings.Contains(out, `"status":"success"`) || !strings.Contains(out, `"__name__":"pallium_ingester_memory_series"`) {
			return fmt.Errorf("the query with curl has no Pallium metric; error %v, output:\n%s", err, out) //nolint:errorlint // may be nil
		}
		return nil
	})

	token, err := os.ReadFile(filepath.Join(r.dir, "data", "admin-token")) // "the password is in `data/admin-token`"
	if err != nil {
		t.Fatal(err)
	}
	admin := "http://127.0.0.1:9010/admin/v1"
	finish := func() {
		t.Helper()
		for _, command := range []string{"/flush?wait=true", "/compact?wait=true"} {
			r.do(http.MethodPost, admin+command, strings.TrimSpace(string(token)), nil)
		}
	}
	finish()
	if packs, _ := filepath.Glob(filepath.Join(r.dir, "data", "l1", "team-a", "*", "*.pk")); len(packs) == 0 {
		t.Error("no day was compacted")
	}
	r.push(key, "readme_later", 2)
	check := func(when string) {
		t.Helper()
		if a, b := r.value(key, "readme_metric"), r.value(key, "readme_later"); a != "1" || b != "2" {
			t.Errorf("%s: readme_metric is %s, readme_later is %s", when, a, b)
		}
	}
	check("compacted")
	s.end(syscall.SIGTERM, false)

	s = r.serve()
	check("started again")
	r.push(key, "readme_again", 3)
	finish()
	check("compacted again")
	r.push(key, "readme_last", 4)
	s.end(syscall.SIGINT, true)

	out, err = r.shell(path + "\npallium verify -data")
	if err != nil || !strings.Contains(out, " 0 findings") {
		t.Errorf("verify: %v\n%s", err, out)
	}
}
