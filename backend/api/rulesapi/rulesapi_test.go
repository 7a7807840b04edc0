package rulesapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/rows"
	rowsmemory "github.com/palliumhq/pallium/backend/rows/memory"
	"github.com/palliumhq/pallium/backend/rulestate"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/policies/routes"
)

const root = "/prometheus/config/v1/rules"

// bench is the API with rows in memory, behind the routes of the backend.
type bench struct {
	t       *testing.T
	handler http.Handler
	limits  map[tenant.ID]limits.Limits
	changed []tenant.ID
	broken  error // error of every read of rows, with which changes begin, too
	failing error // error of every conditional write of rows
	lost    bool  // whether these writes have an effect
	rules   *index.Rules
	states  []rulestate.Group // groups that rulers report for tenant a
	started int               // number of started backfills
	now     time.Time
}

// breakable is a row store that fails on demand.
type breakable struct {
	rows.Store
	b *bench
}

func (s breakable) ReadRows(ctx context.Context, r []rows.Range, f rows.Filter, visit func(rows.Row) bool) error {
	if s.b.broken != nil {
		return s.b.broken
	}
	return s.Store.ReadRows(ctx, r, f, visit)
}

func (s breakable) CheckAndMutate(ctx context.Context, key string, c rows.Condition, then, otherwise []rows.Mutation) (bool, error) {
	if s.b.failing == nil {
		return s.Store.CheckAndMutate(ctx, key, c, then, otherwise)
	}
	if s.b.lost {
		if _, err := s.Store.CheckAndMutate(ctx, key, c, then, otherwise); err != nil {
			return false, err
		}
	}
	return false, s.b.failing
}

func newBench(t *testing.T) *bench {
	t.Helper()
	mem, err := rowsmemory.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mem.Close() })
	b := &bench{t: t, limits: map[tenant.ID]limits.Limits{}}
	ix, err := index.New(index.Options{Rows: breakable{mem, b}, Now: func() time.Time { return b.now }})
	if err != nil {
		t.Fatal(err)
	}
	b.rules, b.now = ix.Rules, time.Now()
	handlers := New(Options{Store: ix.Rules, Backfills: ix.Rules, BackfillStarted: func() { b.started++ }, Now: func() time.Time { return b.now },
		States: func(_ context.Context, id tenant.ID) ([]rulestate.Group, error) {
			if id != "a" {
				return nil, nil
			}
			return b.states, nil
		}, Parsers: querier.NewParsers(querier.MaxPrettyOperators), Limits: func(id tenant.ID) limits.Limits {
			if l, ok := b.limits[id]; ok {
				return l
			}
			return limits.Default()
		}, Memory: memory.NewAccount(1<<30, prometheus.NewRegistry()), Changed: func(id tenant.ID) { b.changed = append(b.changed, id) }})
	r := chi.NewRouter()
	table := routes.Table()
	for i := range table {
		if h := handlers[table[i].Name]; h != nil {
			for _, m := range table[i].Methods {
				r.Method(m, table[i].Upstream(), h)
			}
			delete(handlers, table[i].Name)
		}
	}
	if len(handlers) > 0 {
		t.Fatalf("handlers without a route: %v", handlers)
	}
	b.handler = r
	return b
}

// do sends a request as a tenant, and returns the status and the body. Headers are "Name: value".
func (b *bench) do(id tenant.ID, method, path, body string, headers ...string) (int, string) {
	b.t.Helper()
	r := httptest.NewRequestWithContext(b.t.Context(), method, path, strings.NewReader(body))
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	r = r.WithContext(tenant.NewContext(r.Context(), tenant.Access{Tenant: id, Policy: tenant.Unrestricted()}))
	w := httptest.NewRecorder()
	b.handler.ServeHTTP(w, r)
	data, _ := io.ReadAll(w.Result().Body)
	return w.Code, string(data)
}

// want sends a request and compares the status and the body.
func (b *bench) want(id tenant.ID, method, path, body string, code int, want string, headers ...string) {
	b.t.Helper()
	if got, text := b.do(id, method, path, body, headers...); got != code || text != want {
		b.t.Errorf("%s %s of %s: %d %s\nwant %d %s", method, path, id, got, text, code, want)
	}
}

const (
	done    = `{"status":"success","data":null,"errorType":"","error":""}`
	noGroup = `{"error":"group does not exist","errorType":"not_found","status":"error"}`
)

func group(name, expr string) string {
	return "name: " + name + "\nrules:\n    - record: r\n      expr: " + expr + "\n"
}

// TestConfiguration checks all requests of the configuration API with two tenants that do not see each other's rules.
func TestConfiguration(t *testing.T) {
	b := newBench(t)
	b.want("a", "GET", root, "", 200, "{}\n")
	b.want("a", "GET", root+"/n", "", 200, "{}\n")
	b.want("a", "GET", root+"/n/g", "", 404, noGroup)
	b.want("a", "DELETE", root+"/n/g", "", 404, noGroup)
	b.want("a", "DELETE", root+"/n", "", 404, `{"error":"namespace does not exist","errorType":"not_found","status":"error"}`)
	b.want("a", "POST", root+"/n", group("g", "up"), 202, done)
	b.want("a", "POST", root+"/n", group("g", "down"), 202, done)
	b.want("a", "POST", root+"/n", group("f", "up"), 202, done)
	b.want("a", "POST", root+"/m", group("g", "1"), 202, done)
	b.want("b", "POST", root+"/n", group("g", "2"), 202, done)
	b.want("a", "GET", root+"/n/g", "", 200, group("g", "down"))
	b.want("a", "GET", root, "", 200, "m:\n    - name: g\n      rules:\n          - record: r\n            expr: \"1\"\n"+
		"n:\n    - name: f\n      rules:\n          - record: r\n            expr: up\n    - name: g\n      rules:\n          - record: r\n            expr: down\n")
	b.want("a", "GET", root+"/m", "", 200, "m:\n    - name: g\n      rules:\n          - record: r\n            expr: \"1\"\n")

	// The other tenant sees and changes only its own rules.
	b.want("b", "GET", root, "", 200, "n:\n    - name: g\n      rules:\n          - record: r\n            expr: \"2\"\n")
	b.want("b", "GET", root+"/m/g", "", 404, noGroup)
	b.want("b", "DELETE", root+"/m", "", 404, `{"error":"namespace does not exist","errorType":"not_found","status":"error"}`)
	b.want("b", "DELETE", root+"/n", "", 202, done)
	b.want("b", "GET", root, "", 200, "{}\n")

	b.want("a", "DELETE", root+"/n/g", "", 202, done)
	b.want("a", "GET", root+"/n/g", "", 404, noGroup)
	b.want("a", "DELETE", root+"/n", "", 202, done)
	b.want("a", "GET", root, "", 200, "m:\n    - name: g\n      rules:\n          - record: r\n            expr: \"1\"\n")
	if got := fmt.Sprint(b.changed); got != "[a a a a b b a a]" {
		t.Errorf("changes of tenants %s", got)
	}
}

// TestNamesInPaths checks that names with special characters can be used in paths, and that invalid names are rejected.
func TestNamesInPaths(t *testing.T) {
	b := newBench(t)
	for encoded, name := range map[string]string{"a%2Fb": "a/b", "a%20b": "a b", "100%25": "100%", "%252F": "%2F", "%C3%A4%2F%c3%b6": "ä/ö", "a%3Bb": "a;b",
		"a%3Fb": "a?b", "a%23b": "a#b", "+": "+", "a%252Fb": "a%2Fb", "%7E": "~", "a:b@c": "a:b@c"} {
		b.want("a", "POST", root+"/"+encoded, group(`"`+name+`"`, "up"), 202, done)
		if code, text := b.do("a", "GET", root+"/"+encoded+"/"+encoded, ""); code != 200 || !strings.Contains(text, "expr: up") {
			t.Errorf("%s: %d %s", encoded, code, text)
		}
		if code, text := b.do("a", "GET", root+"/"+encoded, ""); code != 200 || !strings.Contains(text, name) {
			t.Errorf("%s: %d %s, want a listing of %s", encoded, code, text, name)
		}
		b.want("a", "DELETE", root+"/"+encoded+"/"+encoded, "", 202, done)
	}
	// Different encodings of a name mean the same group.
	b.want("a", "POST", root+"/%61%2f%62", group("g", "up"), 202, done)
	b.want("a", "DELETE", root+"/a%2Fb/%67", "", 202, done)
	for _, bad := range []string{"%2e", "%2E%2e", "%2e%2e%2f%2e%2e", "a%00b", "%FF", "a%0Ab", strings.Repeat("a", 257)} {
		if code, text := b.do("a", "POST", root+"/"+bad, group("g", "up")); code != 400 {
			t.Errorf("%s: %d %s", bad, code, text)
		}
	}
	b.want("a", "GET", root, "", 200, "{}\n")
}

// TestRejected checks that a request with an invalid group changes neither the rules nor the ruler, for every invalid group in
// the test data of package rules.
func TestRejected(t *testing.T) {
	b := newBench(t)
	lim := limits.Default()
	lim.MaxRulesPerGroup, lim.MaxRegexInstructions, lim.MaxQueryLength = 5, 2000, 1000
	b.limits["team"] = lim
	b.want("team", "POST", root+"/n", group("g", "up"), 202, done)
	_, before := b.do("team", "GET", root, "")
	b.changed = nil
	script, err := os.ReadFile("../../rules/testdata/bad.txt")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, part := range strings.Split("\n"+string(script), "\n-- ")[1:] {
		name, rest, _ := strings.Cut(part, " --\n")
		text, want, _ := strings.Cut(rest, "->\n")
		if strings.TrimSpace(want) == "ok" {
			continue
		}
		n++
		if code, answer := b.do("team", "POST", root+"/n", text); code != 400 || !strings.Contains(answer, `"errorType":"bad_data"`) {
			t.Errorf("%s: %d %s", name, code, answer)
		}
	}
	if n < 40 {
		t.Errorf("only %d cases", n)
	}
	b.want("team", "GET", root, "", 200, before)
	if b.changed != nil {
		t.Errorf("changes of %v", b.changed)
	}
}

// TestLimits checks the limits of a tenant's groups, and that a tenant above a lowered limit can still change them.
func TestLimits(t *testing.T) {
	b := newBench(t)
	lim := limits.Default()
	lim.MaxRuleGroups = 2
	b.limits["a"] = lim
	b.want("a", "POST", root+"/n", group("g", "up"), 202, done)
	b.want("a", "POST", root+"/m", group("g", "up"), 202, done)
	exceeded := `{"error":"limit max_rule_groups of 2 groups exceeded: the tenant would have 3 groups; delete groups that are not needed, ` +
		`or put their rules into fewer groups","errorType":"bad_data","status":"error"}`
	b.want("a", "POST", root+"/n", group("h", "up"), 400, exceeded)
	lim.MaxRuleGroups = 1
	b.limits["a"] = lim
	b.want("a", "POST", root+"/n", group("g", "down"), 202, done)
	b.want("a", "POST", root+"/n", group("g", "up"), 415, `{"error":"content encoding \"gzip\" is not supported: send the YAML uncompressed",`+
		`"errorType":"bad_data","status":"error"}`, "Content-Encoding: gzip")
	large := group("g", "up # "+strings.Repeat("x", 1<<20))
	if code, text := b.do("a", "POST", root+"/n", large); code != 400 || !strings.Contains(text, "the limit is 1048576") {
		t.Errorf("large group: %d %s", code, text)
	}
}

// TestProtected checks that a protected namespace changes only with the header.
func TestProtected(t *testing.T) {
	b := newBench(t)
	lim := limits.Default()
	lim.ProtectedRuleNamespaces = "p\nq, r\n"
	b.limits["a"] = lim
	const text = `{"error":"namespace \"p\" is protected (limit protected_rule_namespaces): send the header ` + HeaderOverride +
		` with the namespace to change it","errorType":"forbidden","status":"error"}`
	b.want("a", "POST", root+"/p", group("g", "up"), 403, text)
	b.want("a", "POST", root+"/p", group("g", "up"), 403, text, HeaderOverride+": other, pp")
	b.want("a", "POST", root+"/p", group("g", "up"), 202, done, HeaderOverride+": other, p")
	b.want("a", "POST", root+"/q,%20r", group("g", "up"), 202, done, HeaderOverride+": q, r")
	b.want("a", "DELETE", root+"/p/g", "", 403, text)
	b.want("a", "DELETE", root+"/p", "", 403, text)
	b.want("a", "DELETE", root+"/p", "", 202, done, HeaderOverride+": p")
	b.want("a", "POST", root+"/n", group("g", "up"), 202, done)
	b.want("b", "POST", root+"/p", group("g", "up"), 202, done)
}

// TestUnavailable checks the responses while the row store fails.
func TestUnavailable(t *testing.T) {
	b := newBench(t)
	b.want("a", "POST", root+"/n", group("g", "up"), 202, done)
	b.broken = errors.New("the row store is down")
	const text = `{"error":"the rules could not be read or written; send the request again","errorType":"unavailable","status":"error"}`
	for _, r := range []string{"GET " + root, "GET " + root + "/n", "GET " + root + "/n/g", "POST " + root + "/n", "DELETE " + root + "/n", "DELETE " + root + "/n/g"} {
		method, path, _ := strings.Cut(r, " ")
		b.want("a", method, path, group("g", "down"), 503, text)
	}
	b.broken = nil
	b.want("a", "GET", root+"/n/g", "", 200, group("g", "up"))
}

// TestFailingWrites checks that a change whose writes fail is reported to rulers, because it may have been made nevertheless. If
// a later attempt finds that it was made, the request succeeds.
func TestFailingWrites(t *testing.T) {
	for _, lost := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			b.want("a", "POST", root+"/n", group("g", "up"), 202, done)
			b.changed, b.failing, b.lost = nil, errors.New("the row store is down"), lost
			code, text := 503, `{"error":"the rules could not be read or written; send the request again","errorType":"unavailable","status":"error"}`
			if lost {
				code, text = 202, done
			}
			b.want("a", "POST", root+"/n", group("h", "up"), code, text)
			if !slices.Equal(b.changed, []tenant.ID{"a"}) {
				t.Errorf("the changes of %v were reported, want that of a", b.changed)
			}
			b.failing = nil
			if code, _ := b.do("a", "GET", root+"/n/h", ""); (code == 200) != lost {
				t.Errorf("lost %t: the group is read with status %d", lost, code)
			}
		})
	}
}
