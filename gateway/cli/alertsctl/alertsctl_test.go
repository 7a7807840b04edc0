package alertsctl

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/gateway/cli/command"
)

const (
	id    = "7d9b8c1e-0000-4000-8000-000000000001"
	other = "7d9b8c1e-0000-4000-8000-000000000002"
	ended = "7d9b8c1e-0000-4000-8000-000000000003"
)

func oneSilence(id, state string) string {
	return fmt.Sprintf(`{"id":%q,"status":{"state":%q},"startsAt":"2026-12-01T10:00:00Z","endsAt":"2026-12-01T11:00:00Z","createdBy":"ann","comment":"new\tdisk",`+
		`"annotations":{"t":"1"},"matchers":[{"name":"a","value":"b","isRegex":false,"isEqual":true},{"name":"c.d","value":"x|y","isRegex":true,"isEqual":false}]}`, id, state)
}

// answers are the responses of the server, by method and path: the status, and the body. A body that begins with < is plain text.
var answers = map[string]string{
	"POST /api/v1/alerts":   `201 {"status":"success","warnings":["route.matchers[0]: odd"]}`,
	"GET /api/v1/alerts":    "200 " + "template_files:\n  a.tmpl: text\nalertmanager_config: |\n  route: {receiver: r}\n  receivers: [{name: r}]\n",
	"DELETE /api/v1/alerts": "200 ",
	"GET /api/v1/alerts/receivers": `200 {"status":"success","warnings":["1 of 3 replicas"],"data":[` +
		`{"name":"r","active":true,"integrations":[{"name":"webhook","index":1,"lastNotifyAttempt":"2026-12-01T09:00:00.5Z","lastNotifyAttemptError":"no\u001bhook","failedNotifyAttempts":3},` +
		`{"name":"slack","index":0,"lastNotifyAttempt":"2026-12-01T09:01:00Z"},{"name":"email","index":0}]},{"name":"empty","active":true,"integrations":[]},` +
		`{"name":"spare","integrations":[{"name":"sns","index":0}]},{"name":"slow","active":true,"integrations":[{"name":"sns","index":0,"lastNotifyAttempt":"2026-12-01T09:02:00Z","lastNotifyAttemptError":"delayed for 3s"}]}]}`,
	"GET /api/v1/alerts/secrets":       `200 {"status":"success","data":["s1","s2"]}`,
	"PUT /api/v1/alerts/secrets/s1":    `200 {"status":"success"}`,
	"PUT /api/v1/alerts/secrets/off":   "501 <secrets of receivers are off: the operator must set PALLIUM_SECRET_KEY",
	"DELETE /api/v1/alerts/secrets/s1": `200 {"status":"success"}`,
	"GET /alertmanager/api/v2/status":  `200 {"config":{"original":"route: {}\n"},"uptime":"2026-12-01T00:00:00Z","versionInfo":{"version":"0.34.1"}}`,
	"GET /alertmanager/api/v2/alerts": `200 [{"labels":{"alertname":"A","b c":"1"},"fingerprint":"f1","startsAt":"2026-12-01T09:00:00Z","receivers":[{"name":"r"}],"status":{"state":"suppressed","silencedBy":["x"],"inhibitedBy":[],"mutedBy":[]}},` +
		`{"labels":{"alertname":"B"},"fingerprint":"f2","startsAt":"2026-12-01T09:00:00Z","receivers":[{"name":"r"}],"status":{"mutedBy":[]}},` +
		`{"labels":{"alertname":"C"},"fingerprint":"f3","startsAt":"2026-12-01T09:00:00Z","receivers":[{"name":"r"},{"name":"s"}],"status":{"mutedBy":[]}}]`,
	"GET /alertmanager/api/v2/alerts/groups": `200 [{"alerts":[{"fingerprint":"f1","status":{}},{"fingerprint":"f2","status":{"mutedBy":["nights"]}},{"fingerprint":"f3","status":{"mutedBy":["nights"]}}]},` +
		`{"alerts":[{"fingerprint":"f3","status":{"mutedBy":[]}}]}]`,
	"GET /alertmanager/api/v2/silences":            "200 [" + oneSilence(id, "active") + "]",
	"POST /alertmanager/api/v2/silences":           `200 {"silenceID":"` + id + `"}`,
	"GET /alertmanager/api/v2/silence/" + id:       "200 " + oneSilence(id, "active"),
	"GET /alertmanager/api/v2/silence/" + ended:    "200 " + oneSilence(ended, "expired"),
	"GET /alertmanager/api/v2/silence/" + other:    "404 ",
	"DELETE /alertmanager/api/v2/silence/" + id:    "200 ",
	"DELETE /alertmanager/api/v2/silence/" + other: "404 ",
}

// shell runs command lines against a server with fixed answers, which records requests.
type shell struct {
	dir, typed string
	env        map[string]string
	requests   []string
}

func newShell(t *testing.T) *shell {
	t.Helper()
	s := &shell{dir: t.TempDir()}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.requests = append(s.requests, strings.TrimSpace(r.Method+" "+r.RequestURI+" "+string(body)))
		if r.Header.Get("Authorization") != "Bearer key" {
			http.Error(w, `{"error":"wrong key"}`, http.StatusUnauthorized)
			return
		}
		answer := answers[r.Method+" "+r.URL.Path]
		code := 599
		_, _ = fmt.Sscan(answer, &code)
		_, answer, _ = strings.Cut(answer, " ")
		if text, ok := strings.CutPrefix(answer, "<"); ok {
			w.Header().Set("Content-Type", "text/plain")
			answer = text
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(srv.Close)
	s.env = map[string]string{"PALLIUM_TOKEN": "key", "PALLIUM_URL": srv.URL, "USER": "bob"}
	for name, text := range map[string]string{
		"am.yml": "global: {resolve_timeout: 5m}\ntemplates: [a.tmpl]\nroute:\n  receiver: r\n  group_by: [cluster]\n  routes:\n  - matchers: [severity=\"page\"]\n    receiver: pager\n    group_by: [alertname]\n" +
			"receivers:\n- name: r\n- name: pager\n  webhook_configs: [{url: \"secret://hook\"}]\n",
		"a.tmpl": `{{ define "x" }}{{ .CommonLabels.alertname }}{{ end }}`, "bad.tmpl": `{{ define "x" }`, "sub/a.tmpl": "",
		"plain.yml": "route: {receiver: r}\nreceivers: [{name: r}]\n", "calls.tmpl": `{{ define "y" }}{{ nosuch . }}{{ end }}`,
		"bad.yml": "route: {receiver: nobody}\nreceivers: [{name: r}]\n", "empty.yml": "\n", "value": "s3cret\n",
	} {
		path := filepath.Join(s.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// run runs a command line, split at spaces; FILE: is replaced by the directory of the test.
func (s *shell) run(line string) (code int, output string) {
	var out bytes.Buffer
	s.requests = nil
	args := strings.Fields(strings.ReplaceAll(line, "FILE:", s.dir+"/"))
	sh := command.Shell{In: strings.NewReader(s.typed), Out: &out, Err: &out, Env: func(k string) string { return s.env[k] }}
	now := func() time.Time { return time.Date(2026, 12, 1, 10, 30, 0, 0, time.UTC) }
	code = (&command.Table{Program: "pallium", Groups: []command.Group{Group(now)}}).Run(context.Background(), args, sh)
	return code, strings.ReplaceAll(out.String(), s.dir+"/", "FILE:")
}

// TestUsages runs correct and wrong command lines. The errors of wrong ones say what is wrong and what to do, and wrong
// ones change nothing on the server.
func TestUsages(t *testing.T) {
	for _, c := range []struct {
		line, typed string
		code        int
		want        string // parts of the output, separated by |; a part after ! must be absent
		request     string // a part of the last request; empty: no request is sent
	}{
		{"alertmanager load FILE:am.yml FILE:a.tmpl", "", 0, "warning: route.matchers[0]: odd|stored the configuration with 1 template file\n", "POST /api/v1/alerts \"template_files\":\n    \"a.tmpl\": "},
		{"alertmanager load", "", 2, "FILE is missing: name the file of the configuration, and then its template files", ""},
		{"alertmanager load FILE:none.yml", "", 1, "FILE:none.yml: no such file", ""},
		{"alertmanager load FILE:empty.yml", "", 1, "the file is empty: it must have the fields route and receivers", ""},
		{"alertmanager load FILE:am.yml FILE:a.tmpl FILE:sub/a.tmpl", "", 2, "have the same name, a.tmpl: rename one", ""},
		{"alertmanager load -url= FILE:am.yml", "", 2, "-url is empty: set a value, or leave the flag out", ""},
		{"alertmanager load -url ftp://x FILE:am.yml", "", 2, "must have the form http(s)://host[:port]", ""},
		{"alertmanager laod", "", 2, `did you mean "pallium alertmanager load"?`, ""},
		{"alertmanager delte", "", 2, "unknown command|alertmanager delete|!did you mean", ""},
		{"alertmanager", "", 2, "needs a command|alertmanager secret set NAME", ""},
		{"silence", "", 2, "needs a command|silence add MATCHER...", ""},
		{"alertmanager get", "", 0, "1 template file not printed: -dir writes all files|route: {receiver: r}\n", "GET /api/v1/alerts"},
		{"alertmanager get -overwrite", "", 2, "-overwrite needs -dir", ""},
		{"alertmanager get -dir FILE:new", "", 0, "wrote FILE:new/a.tmpl\nwrote FILE:new/alertmanager.yml\n", "GET /api/v1/alerts"},
		{"alertmanager get -dir FILE:sub", "", 1, "FILE:sub/a.tmpl exists with another content: nothing was written; -overwrite replaces it", "GET /api/v1/alerts"},
		{"alertmanager get -dir FILE:sub -overwrite", "", 0, "wrote FILE:sub/a.tmpl", "GET /api/v1/alerts"},
		{"alertmanager get x", "", 2, `unexpected argument "x"`, ""},
		{"alertmanager delete", "", 1, "a.tmpl|nothing was changed: no confirmation was typed; use -yes in scripts", "GET /api/v1/alerts"},
		{"alertmanager delete", "delete\n", 0, "deleted the configuration", "DELETE /api/v1/alerts"},
		{"alertmanager delete -yes", "", 0, "deleted the configuration", "DELETE /api/v1/alerts"},
		{"alertmanager verify FILE:am.yml FILE:a.tmpl", "", 0, "FILE:am.yml is valid: 2 receivers, 1 template file|must be stored first|hook\n", ""},
		{"alertmanager verify FILE:am.yml", "", 1, "FILE:am.yml is not valid:|templates[0]: there is no template file \"a.tmpl\"|name its file on the command line", ""},
		{"alertmanager verify FILE:bad.yml", "", 1, "FILE:bad.yml is not valid:\nroute.receiver: there is no receiver \"nobody\"", ""},
		{"alertmanager verify FILE:plain.yml FILE:bad.tmpl", "", 1, "FILE:plain.yml is not valid:\nbad.tmpl: 1: unexpected", ""},
		{"alertmanager verify FILE:plain.yml FILE:calls.tmpl", "", 1, "calls.tmpl: line 1: the function nosuch is not defined", ""},
		{"alertmanager verify", "", 2, "FILE is missing", ""},
		{"alertmanager test FILE:am.yml -label alertname=A -label severity=page", "", 0, "pager (1 webhook)|route.routes[0] {severity=\"page\"}|{alertname=\"A\"}", ""},
		{"alertmanager test FILE:am.yml -label alertname=A -label cluster=eu", "", 0, "r (notifies nobody)|route {}|{cluster=\"eu\"}", ""},
		{"alertmanager test -q - -label a=\"b\"", "route: {receiver: r}\nreceivers: [{name: r}]\n", 0, "r\n", ""},
		{"alertmanager test -q -stored -label a=b", "", 0, "r\n", "GET /api/v1/alerts"},
		{"alertmanager test FILE:am.yml -label severity=page -expect pager", "", 0, "pager", ""},
		{"alertmanager test FILE:am.yml -label severity=page -expect r", "", 1, "the alert goes to pager; -expect is r", ""},
		{"alertmanager test FILE:am.yml", "", 2, "-label is missing: set the labels of the alert, such as -label alertname=", ""},
		{"alertmanager test -label a=b", "", 2, "name one file (- for standard input) or set -stored", ""},
		{"alertmanager test FILE:am.yml -stored -label a=b", "", 2, "not both", ""},
		{"alertmanager test FILE:am.yml -label a", "", 2, "it has no =: write name=value", ""},
		{"alertmanager test FILE:am.yml -label a!=b", "", 2, "an alert has labels, not matchers", ""},
		{"alertmanager test FILE:am.yml -label a=b -label a=c", "", 2, "the label a appears twice: remove one", ""},
		{"alertmanager test FILE:bad.yml -label a=b", "", 1, "FILE:bad.yml is not valid:\nroute.receiver:", ""},
		{"alertmanager secret set s1", "s3cret\n", 0, "stored the secret s1; configurations use it as secret://s1\n", "PUT /api/v1/alerts/secrets/s1 s3cret"},
		{"alertmanager secret set s1 -value-file FILE:value", "", 0, "stored the secret s1", "PUT /api/v1/alerts/secrets/s1 s3cret"},
		{"alertmanager secret set s1 hunter2", "", 2, "the value of a secret is not an argument|-value-file", ""},
		{"alertmanager secret set s1", "", 1, "nothing was changed: the value is empty", ""},
		{"alertmanager secret set s1", strings.Repeat("x", 20000), 1, "more than 16384 bytes", ""},
		{"alertmanager secret set S/1", "x", 2, "is not the name of a secret: use up to 64 lower-case letters", ""},
		{"alertmanager secret set", "x", 2, "NAME is missing", ""},
		{"alertmanager secret set off", "x", 1, "the operator must set PALLIUM_SECRET_KEY", "PUT /api/v1/alerts/secrets/off x"},
		{"alertmanager secret list", "", 0, "s1\ns2\n", "GET /api/v1/alerts/secrets"},
		{"alertmanager secret delete s1", "s1\n", 0, "deleted the secret s1", "DELETE /api/v1/alerts/secrets/s1"},
		{"alertmanager secret delete s1", "y\n", 1, `nothing was changed: "y" was typed instead of "s1"`, "GET /api/v1/alerts/secrets"},
		{"alertmanager secret delete s9 -yes", "", 1, `secret "s9" does not exist; 'pallium alertmanager secret list'`, "GET /api/v1/alerts/secrets"},
		{"alertmanager status", "", 0, "0.34.1|2026-12-01T00:00:00Z|\nroute: {}\n", "GET /alertmanager/api/v2/status"},
		{"alertmanager status -o yaml", "", 2, "-o yaml is not supported: use text or json", ""},
		{"alertmanager receivers", "", 0, "warning: 1 of 3 replicas\nRECEIVER  INTEGRATION  LAST ATTEMPT          RESULT                ERROR\n" +
			"r         webhook[1]   2026-12-01T09:00:00Z  failed 3 times        \"no\\x1bhook\"\n|r         slack[0]     2026-12-01T09:01:00Z  sent |r         email[0]     -                     no attempt|" +
			"empty     -            -                     notifies nobody|spare     sns[0]       -                     no route leads to it|slow      sns[0]       2026-12-01T09:02:00Z  delayed               delayed for 3s\n",
			"GET /api/v1/alerts/receivers"},
		{"alertmanager receivers -o json", "", 0, `"failedNotifyAttempts": 3|1 of 3 replicas`, "GET /api/v1/alerts/receivers"},
		{"alertmanager receivers -o yaml", "", 2, "-o yaml is not supported: use text or json", ""},
		{"alertmanager receivers r", "", 2, `unexpected argument "r"`, ""},
		{"alertmanager receiver", "", 2, `did you mean "pallium alertmanager receivers"?`, ""},
		{"alertmanager alerts", "", 0, "silenced  2026-12-01T09:00:00Z  r          {alertname=\"A\", \"b c\"=\"1\"}|muted     2026-12-01T09:00:00Z  r          {alertname=\"B\"}|" +
			"active    2026-12-01T09:00:00Z  r,s        {alertname=\"C\"}", "GET /alertmanager/api/v2/alerts/groups?"},
		{"alertmanager alerts severity=page env=~a|b", "", 0, "alertname", "filter=severity%3D%22page%22&filter=env%3D~%22a%7Cb%22"},
		{"alertmanager alerts -active -o json", "", 0, `"fingerprint": "f1"`, "inhibited=false&"},
		{"alertmanager alerts -q", "", 0, "f1\n", "GET "},
		{"alertmanager alerts -q -o json", "", 2, "-q and -o json cannot be combined", ""},
		{"alertmanager alerts Foo", "", 2, `"Foo" is not a matcher: write alertname="Foo", name!=`, ""},
		{"alertmanager alerts a=~(", "", 2, `matcher "a=~("|error parsing regexp`, ""},
		{"silence add a=b c!~x -duration 2h -comment disk", "", 0, id + ": silenced until 2026-12-01T12:30:00Z: a=\"b\" c!~\"x\"\n",
			`"value":"x","isRegex":true,"isEqual":false}],"startsAt":"2026-12-01T10:30:00Z","endsAt":"2026-12-01T12:30:00Z","createdBy":"bob","comment":"disk"}`},
		{"silence add a=b -duration 1d -comment c -author ann -start 1h -q", "", 0, id + "\n", `"startsAt":"2026-12-01T11:30:00Z","endsAt":"2026-12-02T11:30:00Z","createdBy":"ann"`},
		{"silence add -duration 2h -comment c", "", 2, "MATCHER is missing: write at least one", ""},
		{"silence add a=b -comment c", "", 2, "-duration is missing|such as -duration 2h", ""},
		{"silence add a=b -duration 2h", "", 2, "-comment is missing: say why", ""},
		{"silence add a=b -duration 2 -comment c", "", 2, `-duration "2" must be a duration greater than 0`, ""},
		{"silence add a=b -duration 0s -comment c", "", 2, "greater than 0", ""},
		{"silence add a=b -duration 2h -comment c -start soon", "", 2, `-start "soon" must be a time such as`, ""},
		{"silence add a=b -duration 2h -comment c -start 2026-01-01T00:00:00Z", "", 2, "is in the past: set a later -start or a longer -duration", ""},
		{"silence add a=~.* -duration 2h -comment c", "", 2, "all matchers match alerts without these labels", ""},
		{"silence add {} -duration 2h -comment c", "", 2, "is not a matcher", ""},
		{"silence add a=b -duraton 2h", "", 2, "did you mean -duration?", ""},
		{"silence list", "", 0, id + `  active  2026-12-01T10:00:00Z|a="b" "c.d"!~"x|y"|"new\tdisk"`, "expired=false"},
		{"silence list -expired a=b -q", "", 0, id + "\n", "expired=true&filter=a%3D%22b%22"},
		{"silence show " + id, "", 0, "ends:      2026-12-01T11:00:00Z", "GET "},
		{"silence show x", "", 2, `"x" is not the ID of a silence; 'pallium silence list' shows the IDs`, ""},
		{"silence show " + other, "", 1, "silence " + other + " does not exist; 'pallium silence list -expired'", "GET "},
		{"silence update " + id + " -duration 3h", "", 0, "silenced until 2026-12-01T13:30:00Z", `{"id":"` + id + `"`},
		{"silence update " + id + " -comment more", "", 0, "until 2026-12-01T11:00:00Z", `"comment":"more","annotations":{"t":"1"}}`},
		{"silence update " + id, "", 2, "-duration is missing: set -duration, -comment or both", ""},
		{"silence update " + ended + " -duration 3h", "", 1, "has ended at 2026-12-01T11:00:00Z: add a new one with 'pallium silence add'", "GET "},
		{"silence expire " + id, "", 0, id + ": expired\n", "DELETE /alertmanager/api/v2/silence/" + id},
		{"silence expire -q " + other + " " + id, "", 1, id + "\n|silence " + other + " does not exist", "DELETE "},
		{"silence expire", "", 2, "ID... is missing", ""},
		{"silence expire ../x", "", 2, "is not the ID of a silence", ""},
		{"silence exipre", "", 2, "unknown command|silence expire|!did you mean", ""},
	} {
		s := newShell(t)
		s.typed = c.typed
		code, out := s.run(c.line)
		if code != c.code {
			t.Errorf("pallium %s: exit %d, want %d\n%s", c.line, code, c.code, out)
		}
		wanted := strings.ReplaceAll(c.want, "x|y", "x\x00y")
		for _, part := range strings.Split(wanted, "|") {
			part, absent := strings.CutPrefix(strings.ReplaceAll(part, "\x00", "|"), "!")
			if strings.Contains(out, part) == absent {
				t.Errorf("pallium %s:\n%s\nwant %q", c.line, out, part)
			}
		}
		last := ""
		if len(s.requests) > 0 {
			last = s.requests[len(s.requests)-1]
		}
		if !strings.Contains(last, c.request) || c.request == "" && last != "" {
			t.Errorf("pallium %s: the last request is %q, want %q", c.line, last, c.request)
		}
		if strings.Contains(out, "hunter2") || strings.Contains(out, "s3cret") {
			t.Errorf("pallium %s printed a secret:\n%s", c.line, out)
		}
	}
}

// TestKey checks the errors of commands that have no key or a wrong one.
func TestKey(t *testing.T) {
	s := newShell(t)
	for key, want := range map[string]string{"": "'pallium token issue -scopes alerts:read,alerts:write' creates a key", "wrong": "wrong key"} {
		s.env["PALLIUM_TOKEN"] = key
		if code, out := s.run("silence list"); code != 1 || !strings.Contains(out, want) {
			t.Errorf("key %q: exit %d, %s", key, code, out)
		}
	}
}

// FuzzMatchers checks that the parser does not panic, and returns either an error or at least one matcher.
func FuzzMatchers(f *testing.F) {
	for _, text := range []string{`a="b"`, "a=b,c=~d", `{"x y"!~"z"}`, "=", "{}"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		found, err := parseMatchers([]string{text})
		if (err == nil) == (len(found) == 0) {
			t.Errorf("%q: %v %v", text, found, err)
		}
	})
}
