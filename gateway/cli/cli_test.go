package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/go-chi/chi/v5"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/control"
	"github.com/palliumhq/pallium/backend/rows/pebble"
	"github.com/palliumhq/pallium/gateway/admin"
	"github.com/palliumhq/pallium/gateway/cli/command"
	"github.com/palliumhq/pallium/policies/limits"
)

const adminToken = "0123456789abcdef0123456789abcdef"

type shell struct {
	t     *testing.T
	url   string
	env   map[string]string
	typed string // on stdin
}

func newShell(t *testing.T) *shell { return newShellWith(t, nil) }

// newShellWith returns a shell with a server that has additional routes.
func newShellWith(t *testing.T, extra func(chi.Router)) *shell {
	t.Helper()
	store, err := pebble.Open("db", pebble.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	pepper, err := apikey.NewPepper(bytes.Repeat([]byte("p"), 32))
	if err != nil {
		t.Fatal(err)
	}
	defaults := limits.Default()
	defaults.MaxBodyBytes = 5
	c, err := control.Open(context.Background(), control.Options{Store: store, Pepper: pepper, Defaults: defaults})
	if err != nil {
		t.Fatal(err)
	}
	h, err := admin.New(admin.Options{Control: c, Token: adminToken, EdgeURL: "http://edge.example:9009", Extra: extra})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return &shell{t: t, url: srv.URL, env: map[string]string{"PALLIUM_ADMIN_TOKEN": adminToken}}
}

// run runs a command line, split at spaces.
func (s *shell) run(line string) (code int, stdout, stderr string) {
	return s.runArgs(strings.Fields(line)...)
}

// runArgs runs a command line.
func (s *shell) runArgs(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	args = append(args, "-admin-url", s.url)
	sh := command.Shell{In: strings.NewReader(s.typed), Out: &out, Err: &errs, Env: func(k string) string { return s.env[k] }}
	code = (&command.Table{Program: "pallium", Groups: Groups()}).Run(context.Background(), args, sh)
	return code, out.String(), errs.String()
}

// must runs a command that has to succeed and returns its output.
func (s *shell) must(line string) string {
	s.t.Helper()
	code, out, errs := s.run(line)
	if code != 0 || errs != "" {
		s.t.Fatalf("%s: exit %d, %s%s", line, code, out, errs)
	}
	return out
}

// TestScript checks the output of commands that are run in order against one server.
func TestScript(t *testing.T) {
	s := newShell(t)
	for _, c := range []struct {
		line string
		code int
		want string // part of the output: of stdout, or of stderr if the code is not 0
	}{
		{"tenant create team-a -display-name A -limit retention=30d", 0, "pallium token issue -tenant team-a"},
		{"tenant create team-a", 1, "pallium tenant create: tenant team-a already exists (request "},
		{"tenant create a/b", 1, "contains the character '/'"},
		{"tenant create", 2, "NAME is missing"},
		{"tenant create a b", 2, `unexpected argument "b" after NAME`},
		{"tenant create x -limit retention=5", 2, `limit retention: "5" is not allowed`},
		{"tenant create x -limit retentoin=5d", 2, `did you mean "retention"?`},
		{"tenant create -q team-b", 0, "team-b\n"},
		{"tenant list -q", 0, "pallium\nteam-a\nteam-b\n"},
		{"tenant list", 0, "retention=30d"},
		{"tenant show team-a", 0, "overrides:     retention=30d\n"},
		{"tenant show none", 1, `tenant "none" does not exist; 'pallium tenant list' shows all tenants (request`},
		{"tenant show team-a -o json", 0, `"displayName": "A"`},
		{"tenant show team-a -o yaml", 2, "use text or json"},
		{"tenant show team-a -q -o json", 2, "cannot be combined"},
		{"tenant creat team-a", 2, `did you mean "pallium tenant create"?`},
		{"tokn issue", 2, `did you mean "pallium token"?`},
		{"token", 2, `"pallium token" needs a command`},
		{"token issue -tenant team-a -scope x -name n", 2, "unknown flag -scope; did you mean -scopes?"},
		{"token issue -tenant team-a -scopes metrics:read", 2, "-name is missing"},
		{"token issue -scopes metrics:read -name n", 2, "-tenant is missing"},
		{"token issue -tenant team-a -name n", 2, "-scopes is missing"},
		{"token issue -tenant team-a -scopes metrics:read -policy p -name n", 2, "-policy cannot be combined with"},
		{"token issue -tenant team-a -scopes metrics:read -name n -expires soon", 2, `-expires "soon" must be`},
		{"token issue -tenant team-a -scopes metrics:reed -name n", 1, `unknown scope "metrics:reed"`},
		{"token issue -tenant team-x -scopes metrics:read -name n", 1, "-create-tenant"},
		{"token issue -tenant team-c -scopes metrics:read,metrics:write -name n -expires 90d -create-tenant", 0, "retry_on_http_429: true"},
		{"token issue -tenant team-a -scopes metrics:read -name n -expires never -create-tenant", 0, "expires never"},
		{"token issue -tenant team-a -scopes metrics:read -name n", 0, "url: http://edge.example:9009/prometheus"},
		{"token issue -policy none -name n", 1, `access policy "none" does not exist`},
		{"policy create both -tenants team-a,team-b -scopes metrics:read", 0, "created access policy both"},
		{"policy create both -tenants team-a", 2, "-scopes is missing"},
		{"policy create both -scopes metrics:read", 2, "-tenants is missing"},
		{"policy list -tenant team-b", 0, "team-a,team-b"},
		{"policy show both", 0, "scopes:   metrics:read\n"},
		{"token issue -policy both -name n -q", 0, "plm_"},
		{"policy delete both", 1, "delete them first; -cascade deletes them with the policy (request "},
		{"policy delete both -cascade", 1, "nothing was changed"},
		{"policy delete both -cascade -yes", 0, "deleted both"},
		{"policy show both", 1, "does not exist"},
		{"token list -tenant team-c", 0, "active"},
		{"token issue -tenant team-c -scopes metrics:read -name n -max-concurrent-requests -1", 1, ": -max-concurrent-requests is -1: it must be between 0 (no limit) and"},
		{"token set tk_none", 2, "nothing to change: set -max-concurrent-requests"},
		{"token set tk_none -max-concurrent-requests 3", 1, "does not exist (request "},
		{"token rotate tk_none", 1, "does not exist"},
		{"token rotate tk_none -grace long", 2, `-grace "long"`},
		{"token revoke tk_none", 1, "does not exist"},
		{"limits plans create gold -limit max_active_series=7", 0, "created plan gold"},
		{"limits plans set gold max_query_steps=5 max_active_series=8", 0, "max_active_series: 7 -> 8\nmax_query_steps: (none) -> 5\n"},
		{"limits plans set gold max_query_steps=", 0, "max_query_steps: 5 -> (none)\n"},
		{"limits plans set gold", 2, "KEY=VALUE... is missing"},
		{"limits plans show gold", 0, "max_active_series=8"},
		{"limits plans list -q", 0, "gold\n"},
		{"limits plans lst", 2, `did you mean "pallium limits plans list"?`},
		{"tenant create team-d -plan gold", 0, "created"},
		{"limits show team-d", 0, "gold"},
		{"limits show team-d -q", 0, "max_active_series=8\n"},
		{"limits set team-d max_active_series=9 retention=0s", 0, "max_active_series: 8 -> 9\n"},
		{"limits show team-d -q", 0, "max_active_series=9\n"},
		{"limits set team-d max_active_series=", 0, "max_active_series: 9 -> 8\n"},
		{"limits set team-d max_active_series=", 0, "tenant team-d is unchanged\n"},
		{"limits set team-d max_active_series=5 max_active_series=6", 2, "limit max_active_series appears twice"},
		{"limits set team-d max_active_series=5 max_active_series=", 2, "limit max_active_series appears twice"},
		{"tenant create x -limit retention=5d -limit retention=6d", 2, "limit retention appears twice"},
		{"limits set team-d max_active_series", 2, "must have the form key=value"},
		{"limits set team-d max_active_series=-1", 2, "-1 is not allowed"},
		{"limits set none max_active_series=1", 1, "does not exist"},
		{"limits plans delete gold -yes", 1, "in use, for example by tenant team-d"},
		{"token issue -create-tenant -tenant neu -scopes metrics:bogus -name n", 1, `unknown scope "metrics:bogus"`},
		{"token issue -create-tenant -tenant neu -scopes metrics:read -name n -expires 2001-01-01T00:00:00Z", 1, "must be in the future"},
		{"tenant show neu", 1, "does not exist"},
		{"token issue -create-tenant -tenant a/b -scopes metrics:read -name n", 1, "contains the character '/'"},
		{"tenant delete pallium", 1, "pallium tenant delete: tenant pallium holds Pallium's own metrics and cannot be deleted\n"},
		{"token issue -tenant team-d -scopes metrics:read -name n", 0, "issued"},
		{"tenant delete team-d -yes", 0, "deleted team-d"},
		{"token list -tenant team-d", 0, "tenant_deleted"},
		{"token issue -policy team-d:metrics:read -name n", 1, "all tenants of access policy team-d:metrics:read were deleted"},
		{"token issue -create-tenant -tenant team-d -scopes metrics:read -name n", 1, "was deleted on"},
		{"audit list", 0, "/admin/v1/tenants/team-d "},
		{"audit list -n 1 -o json", 0, `"action": "POST /admin/v1/tokens"`},
		{"audit list -n 501", 2, "-n 501 must be a number from 1 to 500"},
		{"tenant delete team-d", 1, "was deleted on"},
		{"limits plans delete gold -yes", 0, "deleted gold"},
		{"tenant list -deleted -o json", 0, `"deletedAt"`},
		{"limits describe", 0, "max_active_series"},
		{"limits describe -q", 0, "requests_per_second\n"},
		{"token issue -h", 0, "create the tenant if it does not exist"},
	} {
		code, out, errs := s.run(c.line)
		got := out
		if c.code != 0 {
			got = errs
		}
		if code != c.code || !strings.Contains(got, c.want) {
			t.Errorf("pallium %s\nexit %d, want %d\nstdout: %s\nstderr: %s\nwant: %s", c.line, code, c.code, out, errs, c.want)
		}
		if c.code != 0 && out != "" || c.code == 0 && errs != "" {
			t.Errorf("pallium %s: exit %d with stdout %q, stderr %q", c.line, code, out, errs)
		}
		if c.code == 2 && !strings.Contains(errs, "Usage:") && !strings.Contains(errs, "command") {
			t.Errorf("pallium %s: no usage: %s", c.line, errs)
		}
	}
}

func TestTokenLife(t *testing.T) {
	s := newShell(t)
	key := strings.TrimSpace(s.must("token issue -q -create-tenant -tenant a -scopes metrics:read -name n"))
	if _, err := apikey.Parse(key); err != nil {
		t.Fatalf("%q: %v", key, err)
	}
	id := strings.TrimSpace(s.must("token list -q"))
	next := strings.TrimSpace(s.must("token rotate -q -grace 2h " + id))
	if _, err := apikey.Parse(next); err != nil || next == key {
		t.Errorf("rotated to %q, %v", next, err)
	}
	if out := s.must("token rotate " + id); !strings.Contains(out, "The previous key is valid until") {
		t.Errorf("rotate: %s", out)
	}
	if out := s.must("token set -max-concurrent-requests 7 " + id); !strings.Contains(out, "unlimited") || !strings.Contains(out, "7") {
		t.Errorf("set: %s", out)
	}
	if out := s.must("token show " + id); !strings.Contains(out, "max concurrent requests") || !strings.Contains(out, "7") {
		t.Errorf("show: %s", out)
	}
	if out := s.must("token revoke -q -yes " + id); out != id+"\n" {
		t.Errorf("revoke: %q", out)
	}
	if out := s.must("token list"); !strings.Contains(out, "revoked") || strings.Contains(out, key) {
		t.Errorf("list: %s", out)
	}
	var all struct{ Items []map[string]any }
	if err := json.Unmarshal([]byte(s.must("token list -o json")), &all); err != nil || len(all.Items) != 1 {
		t.Errorf("list: %v, %v", all, err)
	}
	if out := s.must("policy list -o json -tenant none"); out != "{\n  \"items\": []\n}\n" {
		t.Errorf("empty list: %s", out)
	}
}

func TestAdminToken(t *testing.T) {
	s := newShell(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "admin-token")
	if err := os.WriteFile(file, []byte(adminToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		env   map[string]string
		flags string
		want  string // of stderr; "" = success
	}{
		{"environment", map[string]string{"PALLIUM_ADMIN_TOKEN": adminToken}, "", ""},
		{"file", map[string]string{"PALLIUM_ADMIN_TOKEN_FILE": file}, "", ""},
		{"data directory", nil, " -data-dir " + dir, ""},
		{"environment takes precedence", map[string]string{"PALLIUM_ADMIN_TOKEN": "wrong"}, " -data-dir " + dir, "the admin token from PALLIUM_ADMIN_TOKEN: use the token of this server"},
		{"none", nil, " -data-dir " + filepath.Join(dir, "none"), "no admin token: set PALLIUM_ADMIN_TOKEN"},
		{"empty", map[string]string{"PALLIUM_ADMIN_TOKEN_FILE": empty}, "", "is empty"},
	} {
		s.env = c.env
		code, _, errs := s.run("tenant list" + c.flags)
		if (code == 0) != (c.want == "") || !strings.Contains(errs, c.want) {
			t.Errorf("%s: exit %d, %s", c.name, code, errs)
		}
		if strings.Contains(errs, adminToken) {
			t.Errorf("%s: the token is printed", c.name)
		}
	}
}

func TestServers(t *testing.T) {
	s := newShell(t)
	var handler http.HandlerFunc
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler(w, r) }))
	defer srv.Close()
	for _, c := range []struct {
		name    string
		url     string
		handler http.HandlerFunc
		code    int
		want    string
	}{
		{"no server", "http://127.0.0.1:1", nil, 1, "check that Pallium is running and that -admin-url is right"},
		{"no URL", "127.0.0.1:9010", nil, 2, "must have the form http(s)://host[:port]"},
		{"another server", srv.URL, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "nginx", 404) }, 1, "404 Not Found: check that -admin-url is Pallium's admin listener"},
		{"not JSON", srv.URL, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) }, 1, "has the version of this command"},
		{"redirect", srv.URL, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, s.url, http.StatusFound) }, 1, "302 Found"},
		{"endless", srv.URL, func(w http.ResponseWriter, _ *http.Request) {
			for range 20 {
				_, _ = w.Write(bytes.Repeat([]byte(" "), 1<<20))
			}
		}, 1, "is larger than"},
	} {
		s.url, handler = c.url, c.handler
		if code, _, errs := s.run("tenant list"); code != c.code || !strings.Contains(errs, c.want) {
			t.Errorf("%s: exit %d, %s", c.name, code, errs)
		}
	}
}

// TestAdminURL checks that the flag takes precedence over the environment, and the environment over
// the default.
func TestAdminURL(t *testing.T) {
	for _, tt := range []struct{ flag, env, want string }{
		{"", "", "http://127.0.0.1:9010"}, {"", "http://env:1", "http://env:1"}, {"http://flag:1", "http://env:1", "http://flag:1"},
	} {
		s := &session{Shell: &command.Shell{Env: func(string) string { return tt.env }}, url: tt.flag}
		if s.findServer(); s.url != tt.want {
			t.Errorf("flag %q, environment %q: %q, want %q", tt.flag, tt.env, s.url, tt.want)
		}
	}
}
