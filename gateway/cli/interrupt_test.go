package cli

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/palliumhq/pallium/gateway/cli/command"
)

// signalled is an output that calls the function `end` once it contains the text `when`.
type signalled struct {
	bytes.Buffer
	when string
	end  context.CancelFunc
}

func (s *signalled) Write(b []byte) (int, error) {
	n, err := s.Buffer.Write(b)
	if strings.Contains(s.String(), s.when) {
		s.end()
	}
	return n, err
}

// TestInterruptedQuestion checks that an interrupt ends a command that waits for a
// confirmation, at once and without a change.
func TestInterruptedQuestion(t *testing.T) {
	s := newShell(t)
	s.must("token issue -create-tenant -tenant a -scopes metrics:read -name n")
	id := strings.TrimSpace(s.must("token list -q"))
	for _, line := range []string{"tenant delete a", "token revoke " + id, "limits set a retention=1d"} {
		silent, typist := io.Pipe() // nobody types
		ctx, cancel := context.WithCancel(t.Context())
		errs := &signalled{when: "a", end: cancel}
		var out bytes.Buffer
		sh := command.Shell{In: silent, Out: &out, Err: errs, Env: func(k string) string { return s.env[k] }}
		code := (&command.Table{Program: "pallium", Groups: Groups()}).Run(ctx, append(strings.Fields(line), "-admin-url", s.url), sh)
		if code != command.ExitInterrupted || out.Len() > 0 || !strings.HasSuffix(errs.String(), ": interrupted: nothing was changed\n") {
			t.Errorf("%s: exit %d, %s%s", line, code, &out, errs)
		}
		_ = typist.Close()
	}
	if out := s.must("token list"); !strings.Contains(out, "active") || !strings.Contains(s.must("limits show a"), "0s (forever)") {
		t.Errorf("something was changed: %s", out)
	}
}

// TestInterruptedRequest checks what the error of an interrupted command says about the server.
func TestInterruptedRequest(t *testing.T) {
	for line, want := range map[string]string{
		"tenant list":                 "interrupted: nothing was changed\n",
		"flush":                       "interrupted: the server may still carry out the command; 'pallium status' shows whether it did\n",
		"ring leave i":                "interrupted: the server may still carry out the command; 'pallium ring list' shows whether it did\n",
		"tenant create a":             "interrupted: the server may still carry out the command; 'pallium tenant list' shows whether it did\n",
		"token rotate tk_a":           "interrupted: the server may still carry out the command; 'pallium token list' shows whether it did\n",
		"loss accept 2024-01-01 -yes": "interrupted: the server may still carry out the command; 'pallium loss list' shows whether it did\n",
		"policy create p -tenants a -scopes metrics:read": "interrupted: the server may still carry out the command; 'pallium policy list' shows whether it did\n",
	} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			if r.URL.Path == "/admin/v1/losses" { // of 2024-01-01
				_, _ = io.WriteString(w, `{"items":[{"ingester":"i","day":19723,"window":1}]}`)
				return
			}
			cancel()
			<-ended
		}))
		var out, errs bytes.Buffer
		sh := command.Shell{In: strings.NewReader(""), Out: &out, Err: &errs, Env: func(string) string { return adminToken }}
		code := (&command.Table{Program: "pallium", Groups: Groups()}).Run(ctx, append(strings.Fields(line), "-admin-url", srv.URL), sh)
		if code != command.ExitInterrupted || !strings.HasSuffix(errs.String(), want) {
			t.Errorf("%s: exit %d, %s", line, code, &errs)
		}
		close(ended)
		srv.Close()
	}
}

// TestInterruptedToken checks that an interrupt ends a command whose token comes from a
// pipe that nobody writes to.
func TestInterruptedToken(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "token")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs bytes.Buffer
	env := map[string]string{"PALLIUM_ADMIN_TOKEN_FILE": pipe}
	sh := command.Shell{In: strings.NewReader(""), Out: &out, Err: &errs, Env: func(k string) string { return env[k] }}
	code := (&command.Table{Program: "pallium", Groups: Groups()}).Run(ctx, []string{"tenant", "list"}, sh)
	if code != command.ExitInterrupted || !strings.Contains(errs.String(), "interrupted while reading the admin token from "+pipe) {
		t.Errorf("exit %d, %s", code, &errs)
	}
}

// TestBrokenConnection checks that the error says so if the outcome of a change is unknown.
func TestBrokenConnection(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer srv.Close()
	s := &shell{t: t, url: srv.URL, env: map[string]string{"PALLIUM_ADMIN_TOKEN": adminToken}}
	for line, want := range map[string]string{
		"tenant create a": "the server may still carry out the command; 'pallium tenant list' shows whether it did",
		"tenant list":     "the admin API cannot be reached or sent no usable response",
	} {
		if code, _, errs := s.run(line); code != 1 || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, %s", line, code, errs)
		}
	}
	s.url = "http://127.0.0.1:1"
	if code, _, errs := s.run("tenant create a"); code != 1 || strings.Contains(errs, "may still") {
		t.Errorf("exit %d, %s", code, errs)
	}
}
