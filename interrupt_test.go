package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// adminStub returns the URL of an admin API with the tenant a, which counts changes.
func adminStub(t *testing.T) (url string, changes *atomic.Int64) {
	t.Helper()
	changes = &atomic.Int64{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			changes.Add(1)
		}
		_, _ = io.WriteString(w, `{"name":"a","items":[]}`)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, changes
}

// TestInterruptedCommand checks that one signal ends a command that waits for a
// confirmation that nobody types.
func TestInterruptedCommand(t *testing.T) {
	url, changes := adminStub(t)
	for _, signal := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		stdin, typist, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		c := &child{t: t, done: make(chan struct{})}
		c.cmd = exec.CommandContext(t.Context(), os.Args[0], "tenant", "delete", "a", "-admin-url", url)
		c.cmd.Env = append(os.Environ(), "PALLIUM_TEST_PROCESS=1", "PALLIUM_ADMIN_TOKEN=x")
		c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = stdin, c, c
		if err := c.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { _ = c.cmd.Wait(); close(c.done) }()
		c.waitFor("Type a to continue: ")
		if err := c.cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if code := c.exit(); code != 130 || !strings.HasSuffix(c.text(), "\npallium tenant delete: interrupted: nothing was changed\n") {
			t.Errorf("%v: exit %d, %s", signal, code, c.text())
		}
		_, _ = stdin.Close(), typist.Close()
	}
	if changes.Load() != 0 {
		t.Error("the tenant was deleted")
	}
}

// TestOutputOfProcess checks standard outputs of a shell that accept no bytes or discard them.
func TestOutputOfProcess(t *testing.T) {
	url, changes := adminStub(t)
	for command, want := range map[string]string{
		"tenant list >/dev/full": "1 cannot write the output: write /dev/stdout: no space left on device",
		"help >/dev/full":        "1 cannot write the output: ",
		"version >/dev/full":     "1 cannot write the output: ",
		"config show >/dev/full": "1 cannot write the output: ",
		"token issue -tenant a -scopes metrics:read -name n >&-":        "1 since the new key would be lost: standard output is closed or /dev/null",
		"token issue -tenant a -scopes metrics:read -name n >/dev/null": "1 since the new key would be lost: standard output is closed or /dev/null",
		"tenant list >/dev/null":                                        "0 ",
	} {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", `"$0" `+command, os.Args[0])
		cmd.Env = append(os.Environ(), "PALLIUM_TEST_PROCESS=1", "PALLIUM_ADMIN_TOKEN=x", "PALLIUM_ADMIN_URL="+url)
		out, err := cmd.CombinedOutput()
		code, text, _ := strings.Cut(want, " ")
		if got := string(rune('0' + cmd.ProcessState.ExitCode())); got != code || !strings.Contains(string(out), text) {
			t.Errorf("pallium %s: %v, %s", command, err, out)
		}
	}
	if changes.Load() != 0 {
		t.Error("a key was issued")
	}
}
