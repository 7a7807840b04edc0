package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/palliumhq/pallium/authn/apikey"
)

// TestRequests checks the responses of a server that has the objects of seed.
func TestRequests(t *testing.T) {
	s, tk := seed(t)
	big := `{"name":"` + strings.Repeat("x", 1<<20) + `"}`
	for _, c := range []struct {
		request string // method, path below /admin/v1, body
		headers []string
		status  int
		want    string // part of the body
	}{
		{"GET /whoami", nil, 200, `"actor":"admin"`},
		{"GET /tenants", nil, 200, `"name":"a"`},
		{"GET /tenants?pageSize=1", nil, 200, `"nextPageCursor"`},
		{"GET /tenants?pageSize=0", nil, 400, `"field":"pageSize"`},
		{"GET /tenants?pageSize=501", nil, 400, `pageSize is \"501\"`},
		{"GET /tenants?pageSize=x", nil, 400, `"field":"pageSize"`},
		{"GET /tenants?pagesize=1", nil, 400, `unknown query parameter \"pagesize\"`},
		{"GET /tenants?pageSize=1&pageSize=2", nil, 400, `appears 2 times`},
		{"GET /tenants?pageCursor=forged", nil, 400, `"field":"pageCursor"`},
		{"GET /tenants?includeDeleted=maybe", nil, 400, `includeDeleted must be true or false`},
		{"GET /tenants?a=%zz", nil, 400, `query string is malformed`},
		{"GET /tenants/a", nil, 200, `"displayName":"A","plan":"gold","limits":{"retention":"30d"}`},
		{"GET /tenants/none", nil, 404, `pallium tenant create none`},
		{"GET /tenants/%2e%2e", nil, 404, `does not exist`},
		{"GET /tenants/a/limits", nil, 200, `"max_active_series":7`},
		{"GET /tenants/a/limits", nil, 200, `"defaults":{"requests_per_second":1000,`},
		{"GET /tenants/none", nil, 404, `"message":"tenant \"none\" does not exist; create it with: pallium tenant create none"`},
		{"GET /tenants/none", nil, 404, `"details":[{"field":"tenant","reason":"tenant \"none\" does not exist"}]`},
		{`POST /tenants {"name":"c","displayName":"  "}`, nil, 400, `displayName has only white space`},
		{`POST /tenants {"name":"c","displayName":"\u202ex"}`, nil, 400, `contains the control character`},
		{`POST /tenants {"name":"c","displayName":"\u2028"}`, nil, 400, `contains the control character`},
		{`POST /tokens {"name":" ","tenant":"a","scopes":["metrics:read"]}`, nil, 400, `name has only white space`},
		{`DELETE /access-policies/a:metrics:read+metrics:write`, []string{`If-Match: *`}, 409, `; ?cascade=true deletes them with the policy"`},
		{`DELETE /access-policies/a:metrics:read+metrics:write`, []string{`If-Match: *`}, 409, `: delete them first"}]`},
		{"GET /nothing", nil, 404, `"details":[{"field":"path",`},
		{"GET /tenants/none/limits", nil, 404, `not_found`},
		{"POST /tenants", nil, 400, `the body is empty`},
		{"POST /tenants {", nil, 400, `not valid JSON`},
		{"POST /tenants []", nil, 400, `must be a JSON object, but is of type array`},
		{`POST /tenants {"name":"c"} {}`, nil, 400, `data after its JSON object`},
		{`POST /tenants {"name":"c","color":"red"}`, nil, 400, `unknown field \"color\"`},
		{`POST /tenants {"name":5}`, nil, 400, `field \"name\" must not be of type number`},
		{`POST /tenants {"name":""}`, nil, 400, `tenant ID is empty`},
		{`POST /tenants {"name":"a/b"}`, nil, 400, `contains the character '/'`},
		{`POST /tenants {"name":"a"}`, nil, 409, `tenant a already exists`},
		{`POST /tenants {"name":"c","plan":"tin"}`, nil, 400, `plan \"tin\" does not exist`},
		{`POST /tenants {"name":"c","limits":{"max_activ_series":1}}`, nil, 400, `did you mean \"max_active_series\"?`},
		{`POST /tenants {"name":"c","limits":{"retention":30}}`, nil, 400, `"field":"retention"`},
		{`POST /tenants {"name":"c"}`, []string{"Content-Type: text/plain"}, 415, `send application/json`},
		{`POST /tenants {"name":"c"}`, []string{"Content-Type: ;"}, 415, `unsupported_media_type`},
		{"POST /tenants " + big, nil, 413, `too_large`},
		{`PUT /tenants/a {}`, nil, 428, `"code":"precondition_required"`},
		{`PUT /tenants/a {}`, []string{`If-Match: "stale"`}, 412, `"code":"precondition_failed"`},
		{`PUT /tenants/a {}`, []string{`If-Match: ""`}, 412, `precondition_failed`},
		{`PUT /tenants/a {}`, []string{`If-Match: stale`}, 400, `"field":"If-Match"`},
		{`PUT /tenants/a {}`, []string{`If-Match: W/"x"`}, 400, `"field":"If-Match"`},
		{`PUT /tenants/a {"name":"b"}`, []string{`If-Match: *`}, 400, `names cannot be changed`},
		{`PUT /tenants/none {}`, []string{`If-Match: *`}, 404, `not_found`},
		{`PUT /tenants/a/limits {}`, []string{`If-Match: *`}, 400, `overrides is missing`},
		{`PUT /tenants/a/limits {"overrides":{"x":1}}`, []string{`If-Match: *`}, 400, `unknown limit \"x\"`},
		{`PUT /tenants/a/limits {"overrides":{}}`, []string{`If-Match: "stale"`}, 412, `precondition_failed`},
		{`DELETE /tenants/a`, nil, 428, `If-Match`},
		{`DELETE /tenants/pallium`, []string{`If-Match: *`}, 409, `cannot be deleted`},
		{`PATCH /tenants/a`, nil, 405, `use GET, PUT, DELETE`},
		{`DELETE /tenants`, nil, 405, `use GET, POST`},
		{"GET /tenant", nil, 404, `"code":"not_found"`},
		{"GET /tenants/", nil, 404, `"code":"not_found"`},
		{"GET /tenants/a/b/c", nil, 404, `"code":"not_found"`},
		{"GET /plans", nil, 200, `"name":"gold"`},
		{"GET /plans/gold", nil, 200, `"limits":{"max_active_series":7}`},
		{"GET /plans/tin", nil, 404, `not_found`},
		{`POST /plans {"name":"gold"}`, nil, 409, `already exists`},
		{`POST /plans {"name":"a b"}`, nil, 400, `"field":"name"`},
		{`PUT /plans/gold {"limits":{"max_active_series":-1}}`, []string{`If-Match: *`}, 400, `-1 is not allowed`},
		{`DELETE /plans/gold`, []string{`If-Match: *`}, 409, `in use, for example by tenant a`},
		{"GET /access-policies", nil, 200, `"id":"pol"`},
		{"GET /access-policies?tenant=b", nil, 200, `"realms":[{"tenant":"a"},{"tenant":"b"}]`},
		{"GET /access-policies/pol", nil, 200, `"scopes":["metrics:read"]`},
		{"GET /access-policies/a:metrics:read+metrics:write", nil, 200, `"derived":true`},
		{"GET /access-policies/a%3Ametrics:read%2Bmetrics:write", nil, 200, `"derived":true`},
		{"GET /access-policies/none", nil, 404, `not_found`},
		{`POST /access-policies {"name":"p","scopes":["admin:*"],"realms":[{"tenant":"a"}]}`, nil, 400, `use metrics:read`},
		{`POST /access-policies {"name":"p","scopes":["metrics:read"],"realms":[{"tenant":"x"}]}`, nil, 400, `\"x\" does not exist`},
		{`POST /access-policies {"name":"p","scopes":["metrics:read"],"realms":[]}`, nil, 400, `"field":"realms"`},
		{`POST /access-policies {"name":"p","scopes":["metrics:read"],"realms":[{"tenant":"a","labelPolicies":[{"selector":"{}"}]}]}`, nil, 400, `label policies are not supported yet`},
		{`POST /access-policies {"name":"p","scopes":["metrics:read"],"realms":[{"tenant":"a","writePolicy":{}}]}`, nil, 400, `write policies are not supported yet`},
		{`POST /access-policies {"name":"p","scopes":["metrics:read"],"realms":[{"tenant":"a"}],"conditions":{}}`, nil, 400, `"field":"conditions"`},
		{`POST /access-policies/simulate {"accessPolicyId":"pol","tenant":"a","scope":"metrics:read"}`, nil, 200, `{"allowed":true,"reason":"allowed","tenant":"a","labelPolicy":"unrestricted"}`},
		{`POST /access-policies/simulate {"accessPolicyId":"pol","tenant":"a","scope":"metrics:write"}`, nil, 200, `{"allowed":false,"reason":"missing_scope"}`},
		{`POST /access-policies/simulate {"accessPolicyId":"pol","scope":"metrics:read"}`, nil, 200, `"reason":"selector_required"`},
		{`POST /access-policies/simulate {"tokenId":"TK","scope":"metrics:write"}`, nil, 200, `"allowed":true`},
		{`POST /access-policies/simulate {"tokenId":"TK","tenant":"b","scope":"metrics:write"}`, nil, 200, `"reason":"tenant_not_allowed"`},
		{`POST /access-policies/simulate {"tokenId":"TK","accessPolicyId":"pol","scope":"metrics:write"}`, nil, 400, `set exactly one of`},
		{`POST /access-policies/simulate {"tokenId":"TK","scope":"x"}`, nil, 400, `"field":"scope"`},
		{"GET /tokens", nil, 200, `"status":"active"`},
		{"GET /tokens?tenant=b", nil, 200, `{"items":[]}`},
		{"GET /tokens/TK", nil, 200, `"tenants":["a"],"scopes":["metrics:read","metrics:write"]`},
		{"GET /tokens/tk_none", nil, 404, `not_found`},
		{`POST /tokens {"tenant":"a","scopes":["metrics:read"]}`, nil, 400, `"field":"name"`},
		{`POST /tokens {"name":"n"}`, nil, 400, `"field":"accessPolicyId"`},
		{`POST /tokens {"name":"n","tenant":"x","scopes":["metrics:read"]}`, nil, 400, `pallium tenant create x`},
		{`POST /tokens {"name":"n","accessPolicyId":"none"}`, nil, 400, `access policy \"none\" does not exist`},
		{`POST /tokens {"name":"n","accessPolicyId":"pol","expiresAt":"tomorrow"}`, nil, 400, `"field":"expiresAt"`},
		{`POST /tokens {"name":"n","accessPolicyId":"pol","expiresAt":"2029-01-01T00:00:00Z"}`, nil, 400, `must be in the future`},
		{`POST /tokens/TK/rotate {"graceSeconds":-1}`, nil, 400, `"field":"graceSeconds"`},
		{`POST /tokens/TK/rotate {"graceSeconds":9223372036854775807}`, nil, 400, `"field":"graceSeconds"`},
		{`POST /tokens/tk_none/rotate`, nil, 404, `not_found`},
		{`POST /tokens {"name":"n","accessPolicyId":"pol","maxConcurrentRequests":-1}`, nil, 400, `"field":"maxConcurrentRequests"`},
		{`POST /tokens {"name":"n","accessPolicyId":"pol","maxConcurrentRequests":7}`, nil, 201, `"maxConcurrentRequests":7`},
		{`PUT /tokens/TK {"maxConcurrentRequests":5}`, nil, 428, `If-Match`},
		{`PUT /tokens/TK {"maxConcurrentRequests":5}`, []string{"If-Match: \"old\""}, 412, `precondition_failed`},
		{`PUT /tokens/TK {"maxConcurrentRequests":1000001}`, []string{"If-Match: *"}, 400, `between 0 (no limit) and 1000000`},
		{`PUT /tokens/TK {"name":"other"}`, []string{"If-Match: *"}, 400, `unknown field \"name\"`},
		{`PUT /tokens/tk_none {"maxConcurrentRequests":5}`, []string{"If-Match: *"}, 404, `not_found`},
		{`PUT /tokens/TK {"maxConcurrentRequests":5}`, []string{"If-Match: *"}, 200, `"maxConcurrentRequests":5`},
		{`PUT /tokens/TK {}`, []string{"If-Match: *"}, 400, `"field":"maxConcurrentRequests"`},
		{`PUT /tokens/TK {"maxConcurrentRequests":null}`, []string{"If-Match: *"}, 400, `0 removes the limit`},
		{`PUT /tokens/TK {"maxConcurrentRequests":0}`, []string{"If-Match: *"}, 200, `"maxConcurrentRequests":0`},
		{`POST /tokens/TK/revoke {"why":"x"}`, nil, 400, `unknown field \"why\"`},
		{`DELETE /tokens/TK`, nil, 428, `If-Match`},
		{"GET /audit-events?pageSize=1", nil, 200, `"nextPageCursor"`},
		{"GET /panic", nil, 500, `internal error; search the server's log`},
	} {
		method, rest, _ := strings.Cut(strings.ReplaceAll(c.request, "TK", tk), " ")
		path, body, _ := strings.Cut(rest, " ")
		a := s.do(method, "/admin/v1"+path, body, c.headers...)
		if a.status != c.status || !strings.Contains(a.body, c.want) {
			t.Errorf("%.100s %v: got %d %s\nwant %d with %s", c.request, c.headers, a.status, a.body, c.status, c.want)
		}
		if a.header.Get("Content-Type") != "application/json" || a.header.Get("X-Request-Id") == "" {
			t.Errorf("%.100s: headers %v", c.request, a.header)
		}
		if a.status >= 400 && (a.text("code") == "" || a.text("message") == "" || a.text("requestId") != a.header.Get("X-Request-Id")) {
			t.Errorf("%.100s: not an error body: %s", c.request, a.body)
		}
	}
}

func TestTenantLife(t *testing.T) {
	s := newServer(t)
	a := s.must("POST", "/tenants", `{"name":"team-a"}`)
	if a.status != 201 || a.header.Get("Location") != "/admin/v1/tenants/team-a" || a.header.Get("ETag") == "" {
		t.Errorf("created: %d %v", a.status, a.header)
	}
	etag := "If-Match: " + a.header.Get("ETag")
	b := s.must("PUT", "/tenants/team-a", `{"displayName":"Team A","limits":{"max_exemplars":5}}`, etag)
	if b.header.Get("ETag") == a.header.Get("ETag") || b.text("displayName") != "Team A" {
		t.Errorf("updated: %v %s", b.header, b.body)
	}
	if got := s.do("PUT", "/admin/v1/tenants/team-a", `{}`, etag); got.status != 412 {
		t.Errorf("second update with the same ETag: status %d, want 412", got.status)
	}
	l := s.must("PUT", "/tenants/team-a/limits", `{"overrides":{"retention":"7d"}}`, "If-Match: "+b.header.Get("ETag"))
	if l.field("effective", "retention") != "1w" || l.field("effective", "max_exemplars") == 5.0 || fmt.Sprint(l.field("overrides")) != "map[retention:1w]" {
		t.Errorf("limits: %s", l.body)
	}
	if got := s.must("GET", "/tenants/team-a", ""); got.text("displayName") != "Team A" || got.header.Get("ETag") != l.header.Get("ETag") {
		t.Errorf("after the limits: %s", got.body)
	}
	if got := s.must("DELETE", "/tenants/team-a", "", "If-Match: "+l.header.Get("ETag")); got.status != 204 || got.body != "" {
		t.Errorf("deleted: %d %s", got.status, got.body)
	}
	if got := s.do("POST", "/admin/v1/tenants", `{"name":"team-a"}`); got.status != 409 || !strings.Contains(got.body, "cannot be reused") {
		t.Errorf("created again: %d %s", got.status, got.body)
	}
	if got := s.must("GET", "/tenants?includeDeleted=true", ""); !strings.Contains(got.body, `"deletedAt":"2030-01-01T00:00:00Z"`) {
		t.Errorf("list: %s", got.body)
	}
}

func TestTokenLife(t *testing.T) {
	s, _ := seed(t)
	a := s.must("POST", "/tokens", `{"name":"k","tenant":"a","scopes":["metrics:read","metrics:write"],"expiresAt":"never"}`)
	key := a.text("token")
	if _, err := apikey.Parse(key); err != nil || a.status != 201 || a.text("expiresAt") != "never" {
		t.Fatalf("issued: %d %s, %v", a.status, a.body, err)
	}
	var prom struct {
		RemoteWrite []struct {
			URL           string
			Authorization struct{ Credentials string }
			QueueConfig   struct {
				Retry bool `yaml:"retry_on_http_429"`
			} `yaml:"queue_config"`
			Headers map[string]string
		} `yaml:"remote_write"`
	}
	if err := yaml.Unmarshal([]byte(a.text("prometheus")), &prom); err != nil || len(prom.RemoteWrite) != 1 {
		t.Fatalf("prometheus: %s, %v", a.text("prometheus"), err)
	}
	if rw := prom.RemoteWrite[0]; rw.URL != "https://edge.example/api/v1/push" || rw.Authorization.Credentials != key || !rw.QueueConfig.Retry || rw.Headers != nil {
		t.Errorf("prometheus: %s", a.text("prometheus"))
	}
	for _, want := range []string{"url: https://edge.example/prometheus\n", "httpHeaderName1: Authorization\n", "httpHeaderValue1: Bearer " + key + "\n", "apiVersion: 1\n"} {
		if !strings.Contains(a.text("grafana"), want) {
			t.Errorf("Grafana snippet does not contain %q: %s", want, a.text("grafana"))
		}
	}
	path := "/tokens/" + a.text("id")
	if got := s.must("GET", path, ""); strings.Contains(got.body, key) {
		t.Error("the token shows its key a second time")
	}
	rot := s.must("POST", path+"/rotate", "")
	if rot.text("token") == key || rot.text("id") != a.text("id") || rot.text("previousValidUntil") != "2030-01-02T00:00:00Z" {
		t.Errorf("rotated: %s", rot.body)
	}
	if got := s.must("POST", path+"/revoke", ""); got.text("status") != "revoked" {
		t.Errorf("revoked: %s", got.body)
	}
	if got := s.do("POST", "/admin/v1"+path+"/rotate", ""); got.status != 409 {
		t.Errorf("rotation of a revoked token: %d %s", got.status, got.body)
	}
	if got := s.must("POST", "/access-policies/simulate", `{"tokenId":"`+a.text("id")+`","scope":"metrics:read"}`); !strings.Contains(got.body, "token_revoked") {
		t.Errorf("simulate: %s", got.body)
	}
	etag := s.must("GET", path, "").header.Get("ETag")
	s.must("DELETE", path, "", "If-Match: "+etag)
	if got := s.do("GET", "/admin/v1"+path, ""); got.status != 404 {
		t.Errorf("deleted: %d", got.status)
	}
	two := s.must("POST", "/tokens", `{"name":"two","accessPolicyId":"pol"}`)
	if two.field("prometheus") != nil || !strings.Contains(two.text("grafana"), "httpHeaderName2: X-Scope-OrgID") {
		t.Errorf("read key of two tenants: %s", two.body)
	}
	if got := s.do("DELETE", "/admin/v1/access-policies/pol", "", "If-Match: *"); got.status != 409 {
		t.Errorf("delete policy in use: %d %s", got.status, got.body)
	}
	s.must("DELETE", "/access-policies/pol?cascade=true", "", "If-Match: *")
	if got := s.do("GET", "/admin/v1/tokens/"+two.text("id"), ""); got.status != 404 {
		t.Errorf("token of a policy deleted with cascade: status %d, want 404", got.status)
	}
}

func TestIdempotencyKey(t *testing.T) {
	s, _ := seed(t)
	body := `{"name":"k","tenant":"a","scopes":["metrics:read"]}`
	a := s.must("POST", "/tokens", body, "Idempotency-Key: one")
	b := s.must("POST", "/tokens", body, "Idempotency-Key: one")
	if a.body != b.body || b.status != 201 || b.header.Get("ETag") != a.header.Get("ETag") || b.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("replayed: %d %v %s", b.status, b.header, b.body)
	}
	if got := s.do("POST", "/admin/v1/tokens", `{"name":"other","tenant":"a","scopes":["metrics:read"]}`, "Idempotency-Key: one"); got.status != 409 || !strings.Contains(got.body, "Idempotency-Key") {
		t.Errorf("other request: %d %s", got.status, got.body)
	}
	if got := s.do("POST", "/admin/v1/plans", body, "Idempotency-Key: "+strings.Repeat("x", 256)); got.status != 400 {
		t.Errorf("long key: %d %s", got.status, got.body)
	}
	// A request that was rejected may be corrected and sent again.
	if got := s.do("POST", "/admin/v1/tenants", `{"name":"c","plan":"tin"}`, "Idempotency-Key: two"); got.status != 400 {
		t.Errorf("rejected: %d", got.status)
	}
	s.must("POST", "/tenants", `{"name":"c"}`, "Idempotency-Key: two")
	if got := s.do("POST", "/admin/v1/tenants", strings.Repeat(" ", maxBody+1), "Idempotency-Key: three"); got.status != 413 {
		t.Errorf("large: %d %s", got.status, got.body)
	}
}

// disconnecting is a body whose client disconnects while it is read.
type disconnecting struct {
	io.Reader
	cancel context.CancelFunc
}

func (h disconnecting) Read(b []byte) (int, error) {
	h.cancel()
	return h.Reader.Read(b)
}

func TestClientDisconnects(t *testing.T) {
	s := newServer(t)
	ctx, cancel := context.WithCancel(context.Background())
	r := httptest.NewRequestWithContext(ctx, "POST", "/admin/v1/tenants", disconnecting{strings.NewReader(`{"name":"a"}`), cancel})
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	if ctx.Err() == nil || w.Code != 201 {
		t.Errorf("response: %d %s", w.Code, w.Body)
	}
	if got := s.must("GET", "/audit-events", ""); !strings.Contains(got.body, `"status":201`) {
		t.Errorf("audit: %s", got.body)
	}
}

func TestAudit(t *testing.T) {
	s := newServer(t)
	s.must("POST", "/tenants", `{"name":"a"}`)
	s.do("DELETE", "/admin/v1/tenants/a", "", `If-Match: "stale"`)
	s.must("POST", "/flush", "")
	s.do("POST", "/admin/v1/nowhere", "")
	s.must("GET", "/tenants", "")
	if s.extra != 1 {
		t.Errorf("extra route was called %d times, want 1", s.extra)
	}
	var list struct{ Items []map[string]any }
	if err := json.Unmarshal([]byte(s.must("GET", "/audit-events", "").body), &list); err != nil || len(list.Items) != 3 {
		t.Fatalf("events %v, %v", list, err)
	}
	for i, want := range []string{
		"admin POST /admin/v1/flush /admin/v1/flush 204 <nil>",
		"admin DELETE /admin/v1/tenants/{tenant} /admin/v1/tenants/a 412 <nil>",
		"admin POST /admin/v1/tenants /admin/v1/tenants 201 /admin/v1/tenants/a",
	} {
		e := list.Items[i]
		if got := fmt.Sprint(e["actor"], " ", e["action"], " ", e["path"], " ", e["status"], " ", e["target"]); got != want {
			t.Errorf("event %d: %s, want %s", i, got, want)
		}
		if e["source"] != "192.0.2.1" || e["requestId"] == "" || e["id"] == "" {
			t.Errorf("event %d: %v", i, e)
		}
	}
}

// TestAuditCompleteAndRedacted checks that changes of a policy with the name of a route
// are audited, and that a key sent in place of an ID is redacted.
func TestAuditCompleteAndRedacted(t *testing.T) {
	s, _ := seed(t)
	pol := s.must("POST", "/access-policies", `{"name":"simulate","scopes":["metrics:read"],"realms":[{"tenant":"a"}]}`)
	s.must("PUT", "/access-policies/simulate", `{"scopes":["metrics:write"],"realms":[{"tenant":"a"}]}`, "If-Match: "+pol.header.Get("ETag"))
	s.must("DELETE", "/access-policies/simulate", "", "If-Match: *")
	events := s.must("GET", "/audit-events", "").body
	for _, want := range []string{"PUT /admin/v1/access-policies/{policy}", "DELETE /admin/v1/access-policies/{policy}"} {
		if !strings.Contains(events, want) {
			t.Errorf("no event for %s in %s", want, events)
		}
	}
	key := s.must("POST", "/tokens", `{"name":"n","tenant":"a","scopes":["metrics:read"]}`).text("token")
	secret := strings.Split(key, "_")[2]
	if a := s.do("POST", "/admin/v1/tokens/"+key+"/revoke", ""); a.status != 404 || strings.Contains(a.body, secret) {
		t.Errorf("revoked by key: %d %s", a.status, a.body)
	}
	if events := s.must("GET", "/audit-events", "").body; strings.Contains(events, secret) || !strings.Contains(events, "_REDACTED/revoke") {
		t.Errorf("events: %s", events)
	}
}
