package rulesctl

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/api/rulesapi"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/querier"
	rowsmemory "github.com/palliumhq/pallium/backend/rows/memory"
	"github.com/palliumhq/pallium/gateway/cli/command"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/policies/routes"
)

// shell runs command lines against a server on which the key is the name of the tenant.
type shell struct {
	t     *testing.T
	url   string
	dir   string
	typed string // standard input
	env   map[string]string
}

func newShell(t *testing.T) *shell {
	t.Helper()
	mem, err := rowsmemory.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mem.Close() })
	ix, err := index.New(index.Options{Rows: mem})
	if err != nil {
		t.Fatal(err)
	}
	lim := limits.Default()
	lim.ProtectedRuleNamespaces = "protected"
	handlers := rulesapi.New(rulesapi.Options{Store: ix.Rules, Backfills: ix.Rules, Now: time.Now, Parsers: querier.NewParsers(querier.MaxOperators),
		Limits: func(tenant.ID) limits.Limits { return lim }})
	r := chi.NewRouter()
	table := routes.Table()
	for i := range table {
		if h := handlers[table[i].Name]; h != nil {
			for _, m := range table[i].Methods {
				r.Method(m, table[i].Upstream(), h)
			}
		}
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		id := tenant.ID(strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer "))
		r.ServeHTTP(w, req.WithContext(tenant.NewContext(req.Context(), tenant.Access{Tenant: id, Policy: tenant.Unrestricted()})))
	}))
	t.Cleanup(srv.Close)
	return &shell{t: t, url: srv.URL, dir: t.TempDir(), env: map[string]string{"PALLIUM_TOKEN": "team-a", "PALLIUM_URL": srv.URL}}
}

// file writes a file and returns its name.
func (s *shell) file(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// builtin are the rules of -builtin.
const builtin = "groups:\n- name: own\n  interval: 15s\n  rules: [{record: a:b, expr: up}]\n"

// run runs a command line, split at spaces; FILE: before a word is replaced by the folder of the test.
func (s *shell) run(line string) (code int, output string) {
	var out bytes.Buffer
	args := strings.Fields(strings.ReplaceAll(line, "FILE:", s.dir+"/"))
	sh := command.Shell{In: strings.NewReader(s.typed), Out: &out, Err: &out, Env: func(k string) string { return s.env[k] }}
	p := parser.NewParser(parser.Options{EnableExperimentalFunctions: true})
	code = (&command.Table{Program: "pallium", Groups: []command.Group{Group(p, []byte(builtin))}}).Run(context.Background(), args, sh)
	return code, strings.ReplaceAll(out.String(), s.dir+"/", "FILE:")
}

// TestScript checks commands that are run one after the other against one server.
func TestScript(t *testing.T) {
	s := newShell(t)
	s.file("node.rules.yaml", "groups:\n- name: g\n  interval: 1m\n  rules:\n  - record: a:b\n    expr: |\n      sum(up)\n- name: h\n  rules: [{record: c, expr: up}]\n")
	s.file("mimir.yaml", "namespace: a/b\ngroups:\n- name: g\n  rules: [{alert: A, expr: up == 0, for: 5m}]\n---\nnamespace: protected\ngroups:\n- name: p\n  rules: [{record: r, expr: '1'}]\n")
	s.file("bad.yaml", "groups:\n- name: g\n  rules: [{record: a, expr: sum(}]\n- name: h\n  rules: [{}]\n")
	s.file("field.yaml", "groups:\n- name: g\n  rulez: []\n")
	s.file("flags.yaml", "groups:\n- name: g\n  rules: [{record: a, expr: \"limitk(1, up)\"}]\n")
	s.file("empty.yaml", "")
	s.file("comment.yaml", "# no rules yet\n---\n")
	s.file("one.yaml", "groups: [{name: g, rules: [{record: a, expr: up}]}]\n")
	s.file("duration.yaml", "groups:\n- name: g\n  interval: soon\n  rules:\n  - {alert: a, expr: up, for: x}\n  - {record: b, expr: sum(}\n")
	s.file("key", "team-b\n")
	s.file("tests.yaml", "rule_files: [node.*.yaml]\ntests:\n- name: one\n  input_series: [{series: up, values: 1x5}]\n  promql_expr_test:\n"+
		"  - {expr: 'a:b', eval_time: 1m, exp_samples: [{labels: 'a:b', value: 1}]}\n")
	s.file("wrong.yaml", "rule_files: [node.rules.yaml]\ntests:\n- name: two\n  promql_expr_test:\n  - {expr: '1', eval_time: 1m, exp_samples: [{labels: '{}', value: 2}]}\n")
	s.file("norules.yaml", "rule_files: [x*.yaml]\ntests: [{name: x}]\n")
	for _, c := range []struct {
		line, typed string
		code        int
		want        string // the complete output, or a part of it after "..."
	}{
		{"rules check FILE:node.rules.yaml FILE:mimir.yaml", "", 0, "4 groups with 4 rules are valid\n"},
		{"rules check FILE:bad.yaml FILE:field.yaml FILE:none.yaml", "", 1, "...FILE:bad.yaml: namespace \"bad\": group \"g\": rule 1, \"a\": line 3: field expr could not be parsed"},
		{"rules check FILE:bad.yaml FILE:field.yaml FILE:none.yaml", "", 1, "...group \"h\": rule 1, \"\": field 'expr' must be set in rule"},
		{"rules check FILE:bad.yaml FILE:field.yaml FILE:none.yaml", "", 1, "...FILE:field.yaml: YAML: line 3: unknown field rulez"},
		{"rules check FILE:bad.yaml FILE:field.yaml FILE:none.yaml", "", 1, "...FILE:none.yaml: no such file"},
		{"rules check FILE:node.rules.yaml FILE:mimir.yaml -namespace a/b", "", 1, "...group \"g\" of namespace \"a/b\" is also in FILE:"},
		{"rules check FILE:empty.yaml FILE:comment.yaml FILE:node.rules.yaml", "", 1, "...FILE:empty.yaml: the file is empty: it must have the field groups"},
		{"rules check FILE:comment.yaml", "", 1, "...FILE:comment.yaml: the file is empty"},
		{"rules load FILE:empty.yaml", "", 1, "...nothing was changed: FILE:empty.yaml: the file is empty"},
		{"rules check FILE:one.yaml", "", 0, "1 group with 1 rule is valid\n"},
		{"rules check FILE:duration.yaml", "", 1, "pallium rules check: FILE:duration.yaml: namespace \"duration\": group \"g\": line 3: field interval: " +
			"not a valid duration string: \"soon\": use a duration such as 30s or 1h30m\n" +
			"group \"g\": rule 1, \"a\": line 5: field for: not a valid duration string: \"x\": use a duration such as 30s or 1h30m\n" +
			"group \"g\": rule 2, \"b\": line 6: field expr could not be parsed: 1:5: parse error: unclosed left parenthesis\n"},
		{"rules test FILE:tests.yaml", "", 0, "FILE:tests.yaml\n  ok    one\n"},
		{"rules test FILE:tests.yaml FILE:wrong.yaml", "", 1, "...FILE:wrong.yaml\n  FAIL  two\n        expression \"1\" at 1m:\n          expected: {} 2\n          got:      {} 1\n"},
		{"rules test FILE:norules.yaml", "", 1, "...rule_files: FILE:x*.yaml: no file matches"},
		{"rules test FILE:none.yaml", "", 1, "...FILE:none.yaml: no such file"},
		{"rules test FILE:node.rules.yaml", "", 1, "...unknown field groups"},
		{"rules list", "", 0, "there are no groups of rules\n"},
		{"rules load FILE:node.rules.yaml FILE:bad.yaml", "", 1, "...nothing was changed"},
		{"rules list", "", 0, "there are no groups of rules\n"},
		{"rules load FILE:node.rules.yaml", "", 0, "created: group \"g\" of namespace \"node.rules\"\ncreated: group \"h\" of namespace \"node.rules\"\n"},
		{"rules load FILE:node.rules.yaml", "", 0, "unchanged: group \"g\" of namespace \"node.rules\"\nunchanged: group \"h\" of namespace \"node.rules\"\n"},
		{"rules diff FILE:node.rules.yaml", "", 0, "2 groups are the same\n"},
		{"rules load FILE:mimir.yaml", "", 1, "...created: group \"g\" of namespace \"a/b\"\n"},
		{"rules load FILE:mimir.yaml", "", 1, "...namespace \"protected\" is protected"},
		{"rules load FILE:mimir.yaml -override-protection protected", "", 0, "unchanged: group \"g\" of namespace \"a/b\"\ncreated: group \"p\" of namespace \"protected\"\n"},
		{"rules load FILE:flags.yaml", "", 1, "...: namespace \"flags\": group \"g\": rule 1, \"a\": line 4: field expr"},
		{"rules list", "", 0, "NAMESPACE   GROUP  INTERVAL  RULES\na/b         g      default   1\nnode.rules  g      1m        1\nnode.rules  h      default   1\nprotected   p      default   1\n"},
		{"rules list -namespace a/b", "", 0, "NAMESPACE  GROUP  INTERVAL  RULES\na/b        g      default   1\n"},
		{"rules load", "", 2, "...name at least one file, or set -builtin"},
		{"rules diff", "", 2, "...name at least one file, or set -builtin"},
		{"rules load -builtin FILE:mimir.yaml", "", 2, "...name files or set -builtin, not both"},
		{"rules diff -builtin", "", 1, "...only in the files: group \"own\" of namespace \"pallium\"\n"},
		{"rules load -builtin", "", 0, "created: group \"own\" of namespace \"pallium\"\n"},
		{"rules load -builtin", "", 0, "unchanged: group \"own\" of namespace \"pallium\"\n"},
		{"rules diff -builtin", "", 0, "1 group is the same\n"},
		{"rules load -builtin -namespace own", "", 0, "created: group \"own\" of namespace \"own\"\n"},
		{"rules get own own", "", 0, "name: own\ninterval: 15s\nrules:\n    - record: a:b\n      expr: up\n"},
		{"rules delete own -yes", "", 0, "deleted group \"own\" of namespace \"own\" (1 rule)\n"},
		{"rules delete pallium -yes", "", 0, "deleted group \"own\" of namespace \"pallium\" (1 rule)\n"},
		{"rules list -token-file FILE:key", "", 0, "there are no groups of rules\n"},
		{"rules get a/b g", "", 0, "name: g\nrules:\n    - alert: A\n      expr: up == 0\n      for: 5m\n"},
		{"rules get a/b none", "", 1, "...group does not exist"},
		{"rules get a/b g -token-file FILE:key", "", 1, "...group does not exist"},
		{"rules diff FILE:node.rules.yaml -namespace a/b", "", 1, "...different: group \"g\" of namespace \"a/b\"\n  - rules:\n  -     - alert: A\n  -       expr: up == 0\n  -       for: 5m\n  + interval: 1m\n"},
		{"rules diff FILE:one.yaml -token-file FILE:key", "", 1, "...: 1 group differs\n"},
		{"rules diff FILE:mimir.yaml -token-file FILE:key", "", 1, "...only in the files: group \"g\" of namespace \"a/b\"\n"},
		{"rules diff FILE:flags.yaml -namespace node.rules", "", 1, "...only on the server: group \"h\" of namespace \"node.rules\"\n"},
		{"rules backfill node.rules g", "", 1, "...the group has no backfill"},
		{"rules backfill node.rules g -end 1h", "", 2, "...-end needs -start"},
		{"rules backfill node.rules g -stop -wait", "", 2, "...-stop cannot be combined"},
		{"rules backfill node.rules none -start 1h", "", 1, "...group does not exist"},
		{"rules backfill node.rules g -start 99w", "", 1, "...past_grace"},
		{"rules backfill node.rules g -start 1h", "", 0, "...: running, 0%, 0 samples\n"},
		{"rules backfill node.rules g -start 1h -end 30m", "", 1, "...is running: wait until it has ended"},
		{"rules backfill node.rules g", "", 0, "...group \"g\" of namespace \"node.rules\", "},
		{"rules backfill node.rules g -stop", "", 0, "stopped the backfill of group \"g\" of namespace \"node.rules\"\n"},
		{"rules backfill node.rules g", "", 1, "...the group has no backfill"},
		{"rules delete node.rules none -yes", "", 1, "...group \"none\" of namespace \"node.rules\" does not exist"},
		{"rules delete node.rules", "", 1, "...no confirmation was typed"},
		{"rules delete node.rules", "node\n", 1, "...nothing was changed: \"node\" was typed"},
		{"rules delete node.rules h", "h\n", 0, "...deleted group \"h\" of namespace \"node.rules\" (1 rule)\n"},
		{"rules delete a/b -yes", "", 0, "deleted group \"g\" of namespace \"a/b\" (1 rule)\n"},
		{"rules load FILE:node.rules.yaml -token-file FILE:none", "", 1, "...read the key of the tenant"},
		{"rules list -url ftp://x", "", 2, "...must have the form http(s)://host[:port]"},
		{"rules list -url http://a:b@x", "", 2, "...without user and password"},
		{"rules list -url http://127.0.0.1:1", "", 1, "...the gateway cannot be reached"},
	} {
		s.typed = c.typed
		code, out := s.run(c.line)
		part, isPart := strings.CutPrefix(c.want, "...")
		if code != c.code || !isPart && out != c.want || isPart && !strings.Contains(out, part) {
			t.Errorf("pallium %s: exit %d\n%s\nwant %d\n%s", c.line, code, out, c.code, c.want)
		}
	}
	delete(s.env, "PALLIUM_TOKEN")
	if code, out := s.run("rules list"); code != 1 || !strings.Contains(out, "no key of the tenant") {
		t.Errorf("without a key: %d %s", code, out)
	}
	// A server that is not Pallium.
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	if code, out := s.run("rules list -token-file FILE:key -url " + other.URL); code != 1 || !strings.Contains(out, "check that -url is a gateway of Pallium") {
		t.Errorf("another server: %d %s", code, out)
	}
}
