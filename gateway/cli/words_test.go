package cli

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWords checks that errors use the words of the command line, and never change a
// name that looks like a word of the API.
func TestWords(t *testing.T) {
	s := newShell(t)
	s.must("tenant create displayName")
	s.must("tenant create realms")
	s.must("tenant create a")
	s.must("policy create displayName -tenants a -scopes metrics:read")
	s.must("token issue -policy displayName -name expiresAt")
	long := strings.Repeat("x", 300)
	for line, want := range map[string]string{
		"tenant create displayName":                                                        "tenant displayName already exists (request",
		"tenant show nope-expiresAt":                                                       `tenant "nope-expiresAt" does not exist; 'pallium tenant list' shows all tenants (request`,
		"tenant delete nope":                                                               `tenant "nope" does not exist; 'pallium tenant list' shows all tenants (request`,
		"policy delete displayName":                                                        "access policy displayName has API keys (1)",
		"tenant set a -display-name " + long:                                               "-display-name has 300 bytes; the limit is 200 bytes",
		"tenant create x -display-name " + long:                                            "-display-name has 300 bytes; the limit is 200 bytes",
		"tenant set a -display-name \u202ex":                                               "-display-name contains the control character",
		"policy set displayName -tenants ,":                                                "-tenants is empty: name at least one tenant",
		"policy set displayName -scopes ,":                                                 "-scopes is empty: name at least one of metrics:read",
		"policy set displayName -tenants b":                                                `tenant "b" does not exist; 'pallium tenant create' creates it (request`,
		"policy create p -tenants realms,b -scopes metrics:read":                           `tenant "b" does not exist; 'pallium tenant create' creates it (request`,
		"token issue -tenant b -scopes metrics:read -name n":                               `tenant "b" does not exist; -create-tenant creates it (request`,
		"token issue -tenant a -scopes metrics:read -name n -expires 2001-01-01T00:00:00Z": "-expires is 2001-01-01T00:00:00Z: it must be in the future",
		"token issue -policy none -name n":                                                 `access policy "none" does not exist (request`,
		"tenant create a/b":                                                                `tenant name "a/b" contains the character '/'`,
		"policy create p -tenants a/b -scopes metrics:read":                                `tenant name "a/b" contains the character '/'`,
		"status": "this server does not have this command",
	} {
		code, _, errs := s.run(line)
		if code != 1 || !strings.Contains(errs, want) {
			t.Errorf("pallium %s\nexit %d, %s\nwant %s", line, code, errs, want)
		}
		for _, api := range []string{"?cascade", "cascade=true", "ETag", "If-Match", "docs/admin-api", "is empty: name at least one tenant;"} {
			if strings.Contains(errs, api) {
				t.Errorf("pallium %s has a word of the API, %q: %s", line, api, errs)
			}
		}
	}
}

// TestStrangeServers checks the errors for responses that the admin API of this version does not
// send.
func TestStrangeServers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		body   string
		want   string
	}{
		{"other types", 200, `{"items":[7],"nextPageCursor":""}`, "cannot be decoded: check that -admin-url"},
		{"an array", 200, `[]`, "has the version of this command"},
		{"wrong token", 401, `{"code":"unauthorized","message":"no or wrong admin token: send it as Authorization: Bearer <token>"}`,
			"the server rejected the admin token from "},
		{"no such path", 404, `{"message":"m","requestId":"r-17","details":[{"field":"path","reason":"m"}]}`, "this server does not have this command"},
		{"no such method", 405, `{"message":"m","requestId":"r-17"}`, "this server does not have this command"},
		{"changed meanwhile", 412, `{"message":"m","requestId":"r-17","details":[{"field":"If-Match","reason":"read it with the new ETag"}]}`,
			"changed by another request in the meantime: repeat the command (request r-17)"},
		{"old server", 409, `{"message":"tenant a exists","requestId":"r-17","details":[]}`, "tenant a exists (request r-17)"},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(tt.status)
			_, _ = w.Write([]byte(tt.body))
		}))
		file := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, []byte(adminToken), 0o600); err != nil {
			t.Fatal(err)
		}
		s := &shell{t: t, url: srv.URL, env: map[string]string{"PALLIUM_ADMIN_TOKEN_FILE": file}}
		code, _, errs := s.run("tenant list")
		if code != 1 || !strings.Contains(errs, tt.want) || strings.Contains(errs, "Go ") || strings.Contains(errs, "json:") {
			t.Errorf("%s: exit %d, %s", tt.name, code, errs)
		}
		if tt.status == 401 && (!strings.Contains(errs, file) || strings.Contains(errs, "Bearer")) {
			t.Errorf("%s: %s", tt.name, errs)
		}
		srv.Close()
	}
}

// TestSecrets checks that passwords of the admin URL and a malformed token are not shown.
func TestSecrets(t *testing.T) {
	s := newShell(t)
	for _, url := range []string{"http://u:S3CRET@h:1", "u:S3CRET@h:1", "http://u:S3C/RET@h", "ftp://u:S3CRET@h", "http://u:S3CRET%zz@h"} {
		s.url = url
		if code, _, errs := s.run("tenant list"); code != 2 || strings.Contains(errs, "S3C") || !strings.Contains(errs, "must have the form http(s)://host[:port]") {
			t.Errorf("%s: exit %d, %s", url, code, errs)
		}
	}
	for _, url := range []string{"http://h:1?a=b", "http://h:1#a", "h:1", "http://"} {
		s.url = url
		if code, _, errs := s.run("tenant list"); code != 2 || !strings.Contains(errs, "must have the form") {
			t.Errorf("%s: exit %d, %s", url, code, errs)
		}
	}
	s.url = "http://127.0.0.1:1"
	for _, token := range []string{"S3CRET\nS3CRET", "S3CRET S3CRET", "S3CRET\x00", "S3CRETé"} {
		s.env = map[string]string{"PALLIUM_ADMIN_TOKEN": token}
		if code, _, errs := s.run("tenant list"); code != 1 || strings.Contains(errs, "S3C") || !strings.Contains(errs, "in PALLIUM_ADMIN_TOKEN must be one line") {
			t.Errorf("%q: exit %d, %s", token, code, errs)
		}
	}
}

// TestEmptyFlags checks that a flag with an empty value, for example from an unset variable, is
// rejected. It must not mean the default: one year, all tenants, all ingesters, or this machine.
func TestEmptyFlags(t *testing.T) {
	s := newShell(t)
	s.must("tenant create a")
	s.must("tenant create b -display-name= -plan=")
	for _, line := range []string{
		"token issue -tenant a -scopes metrics:read -name n -expires=", "token list -tenant=", "token list -policy=", "token list -name=",
		"policy list -tenant=", "flush -instance=", "compact -instance=", "tenant list -data-dir=", "policy set p -tenants=", "policy set p -scopes=",
		"token rotate tk_a -grace=",
	} {
		words := strings.Fields(line)
		name := strings.TrimSuffix(words[len(words)-1], "=")
		if code, _, errs := s.run(line); code != 2 || !strings.Contains(errs, name+" is empty: set a value, or leave the flag out") {
			t.Errorf("%s: exit %d, %s", line, code, errs)
		}
	}
	if out := s.must("token list -q"); out != "" {
		t.Errorf("a token was issued: %s", out)
	}
}
