package tenantclient

import (
	"context"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/gateway/cli/command"
)

func newTestClient(t *testing.T, env map[string]string, args ...string) *Client {
	t.Helper()
	c := &Client{Scopes: "alerts:read", Shows: "'pallium show' shows it"}
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	c.Flags(fs)
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	c.Shell = &command.Shell{Env: func(k string) string { return env[k] }}
	return c
}

// TestRequest checks the request that is sent, and the precedence of the sources of the key.
func TestRequest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		env    map[string]string
		args   []string
		key    string
		tenant string
	}{
		{"a variable", map[string]string{"PALLIUM_TOKEN": "from-env"}, nil, "from-env", ""},
		{"a file in a variable", map[string]string{"PALLIUM_TOKEN_FILE": file}, nil, "from-file", ""},
		{"the variable before its file", map[string]string{"PALLIUM_TOKEN": "from-env", "PALLIUM_TOKEN_FILE": file}, nil, "from-env", ""},
		{"the flag before the variables", map[string]string{"PALLIUM_TOKEN": "from-env"}, []string{"-token-file", file, "-tenant", "b"}, "from-file", "b"},
	} {
		var got *http.Request
		var body []byte
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got = r
			body, _ = io.ReadAll(r.Body)
			_, _ = io.WriteString(w, "done")
		}))
		c := newTestClient(t, tt.env, append(tt.args, "-url", srv.URL+"/")...)
		if err := c.Prepare(); err != nil {
			t.Fatal(err)
		}
		out, err := c.Call(t.Context(), Request{Method: "PUT", Path: "/x?a=b", ContentType: "text/x", Body: []byte("body"), Header: http.Header{"X-A": {"1"}}})
		srv.Close()
		if err != nil || string(out) != "done" || got.Method != "PUT" || got.RequestURI != "/x?a=b" || string(body) != "body" {
			t.Fatalf("%s: %q %v; %s %s %s", tt.name, out, err, got.Method, got.RequestURI, body)
		}
		if h := got.Header; h.Get("Authorization") != "Bearer "+tt.key || h.Get("X-Scope-OrgID") != tt.tenant || h.Get("X-A") != "1" || h.Get("Content-Type") != "text/x" {
			t.Errorf("%s: %v", tt.name, h)
		}
	}
}

// TestWrongServers checks the errors of URLs and keys that cannot be used.
func TestWrongServers(t *testing.T) {
	key := map[string]string{"PALLIUM_TOKEN": "k"}
	for _, tt := range []struct {
		env  map[string]string
		args []string
		want string
	}{
		{nil, nil, "no key of the tenant: set PALLIUM_TOKEN, PALLIUM_TOKEN_FILE or -token-file; 'pallium token issue -scopes alerts:read' creates a key"},
		{map[string]string{"PALLIUM_TOKEN": "a b"}, nil, "must be one line of printable ASCII"},
		{key, []string{"-token-file", "/none"}, "read the key of the tenant: "},
		{key, []string{"-url", "localhost:9009"}, `-url (or PALLIUM_URL) "localhost:9009" must have the form http(s)://host[:port]`},
		{key, []string{"-url", "http://a:b@c"}, "without user and password"},
		{map[string]string{"PALLIUM_TOKEN": "k", "PALLIUM_URL": "ftp://x"}, nil, `"ftp://x" must have the form`},
	} {
		err := newTestClient(t, tt.env, tt.args...).Prepare()
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v %v: %v, want %s", tt.env, tt.args, err, tt.want)
		}
	}
	c := newTestClient(t, key, "-url", "http://127.0.0.1:1")
	if err := c.Prepare(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Call(t.Context(), Request{Method: "GET", Path: "/"}); err == nil || !strings.Contains(err.Error(), "the gateway cannot be reached") {
		t.Errorf("a server that does not listen: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Call(ctx, Request{Method: "GET", Path: "/"}); !errors.Is(err, command.ErrInterrupted) || !strings.Contains(err.Error(), c.Shows) {
		t.Errorf("an interrupt: %v", err)
	}
}

// TestErrorTexts checks that the errors of all APIs of a tenant are shown, and that the responses of other servers lead
// to a hint to check -url.
func TestErrorTexts(t *testing.T) {
	const other = "check that -url is a gateway of Pallium"
	for _, tt := range []struct{ contentType, body, want string }{
		{"application/json", `{"status":"error","errorType":"forbidden","error":"the key has no scope"}`, "the key has no scope"},
		{"application/json", `{"code":602,"message":"comment is required"}`, "comment is required"},
		{"application/json", `"no matchers"` + "\n", "no matchers"},
		{"text/plain; charset=utf-8", "the Alertmanager is not configured\n", "the Alertmanager is not configured"},
		{"text/plain", "404 page not found\n", other},
		{"text/plain", "", other},
		{"text/html", "<h1>nginx</h1>", other},
		{"application/json", `{"error":7}`, other},
		{"application/json", `[]`, other},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", tt.contentType)
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, tt.body)
		}))
		c := newTestClient(t, map[string]string{"PALLIUM_TOKEN": "k", "PALLIUM_URL": srv.URL})
		if err := c.Prepare(); err != nil {
			t.Fatal(err)
		}
		_, err := c.Call(t.Context(), Request{Method: "GET", Path: "/"})
		srv.Close()
		var e *Error
		if !errors.As(err, &e) || e.Code != 404 || !strings.HasSuffix(e.Text, tt.want) {
			t.Errorf("%s %s: %v, want %s", tt.contentType, tt.body, err, tt.want)
		}
	}
}

// FuzzErrorText checks that the texts of errors are valid UTF-8 and short, whatever the server sends.
func FuzzErrorText(f *testing.F) {
	f.Add("application/json", []byte(`{"error":"a"}`))
	f.Add("application/json", []byte(`"a"`))
	f.Add("text/plain", []byte("a\xff"))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		if got := errorText(contentType, body); len(got) > maxText+3 || strings.ToValidUTF8(got, "") != got {
			t.Errorf("%q", got)
		}
	})
}
