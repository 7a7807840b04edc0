package gateway

import (
	"errors"
	"strings"
	"testing"
)

// row is one request and its expected response. If tenant is "", the backend must not be
// reached.
type row struct {
	name    string
	line    string
	headers []string
	body    string
	status  int
	tenant  string
	says    string // part of the response body
}

const (
	push  = "POST /api/v1/push"
	query = "GET /prometheus/api/v1/query?query=up"
)

func bearer(cred string, more ...string) []string {
	return append([]string{"Authorization: Bearer " + cred}, more...)
}

func TestStories(t *testing.T) {
	tables := map[string][]row{
		"routes": routeRows, "credentials": credentialRows, "tenants": tenantRows,
		"headers": headerRows, "paths": pathRows, "queries": queryRows, "framing": framingRows,
	}
	for _, mode := range modes {
		for name, rows := range tables {
			t.Run(mode+"/"+name, func(t *testing.T) {
				e := newEdge(t, mode, nil)
				for _, r := range rows {
					t.Run(r.name, func(t *testing.T) { e.check(t, r) })
				}
				for name, secret := range e.cred {
					if strings.Contains(e.logs.String(), secret) {
						t.Errorf("the log contains the credential %s", name)
					}
				}
			})
		}
	}
}

func (e *edge) check(t *testing.T, r row) {
	t.Helper()
	e.backend.take()
	a := e.do(r.line, r.headers, r.body)
	got := e.backend.take()
	if a.status != r.status {
		t.Fatalf("status %d, want %d; body %q", a.status, r.status, a.body)
	}
	if !strings.Contains(a.body, r.says) {
		t.Errorf("body %q does not contain %q", a.body, r.says)
	}
	if r.tenant == "" && len(got) != 0 {
		t.Fatalf("the backend was reached: %+v", got)
	}
	if r.tenant != "" && (len(got) != 1 || got[0].tenant != r.tenant) {
		t.Fatalf("the backend got %+v, want tenant %q", got, r.tenant)
	}
	for _, s := range got {
		for _, name := range []string{"Authorization", "Connection", "X-Prom-Label-Policy", "Cookie", "X-Mimir-Skiplabelnamevalidation"} {
			if _, ok := s.header[name]; ok {
				t.Errorf("the backend got the header %s", name)
			}
		}
	}
	if a.status == 401 && len(a.header["Www-Authenticate"]) == 0 {
		t.Error("401 without WWW-Authenticate")
	}
	if a.status >= 400 && a.status != 505 && a.header.Get("X-Request-Id") == "" && a.header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Error("error without X-Request-Id")
	}
}

var routeRows = []row{
	{"push", push, bearer("$A"), "x", 200, "a", "backend of a"},
	{"push, path of promtool", "POST /api/v1/write", bearer("$A"), "x", 200, "a", ""},
	{"push, old path of Cortex", "POST /api/prom/push", bearer("$A"), "x", 200, "a", ""},
	{"push, with the prefix of queries", "POST /prometheus/api/v1/push", bearer("$A"), "x", 200, "a", ""},
	{"push, as Grafana derives it", "POST /prometheus/api/v1/write", bearer("$A"), "x", 200, "a", ""},
	{"push, as Grafana derives it, of Cortex", "POST /api/prom/api/v1/write", bearer("$A"), "x", 200, "a", ""},
	{"push, with the old prefix of queries", "POST /api/prom/api/v1/push", bearer("$B"), "x", 200, "b", ""},
	{"push with the prefix of queries needs the scope", "POST /prometheus/api/v1/write", bearer("$READ"), "x", 403, "", "metrics:write"},
	{"federate", "GET /prometheus/federate?match[]=up", bearer("$A"), "", 200, "a", ""},
	{"federate, old path of Cortex", "GET /api/prom/federate?match[]=up", bearer("$B"), "", 200, "b", ""},
	{"federate by POST", "POST /prometheus/federate", bearer("$A"), "", 405, "", ""},
	{"federate without a credential", "GET /prometheus/federate?match[]=up", nil, "", 401, "", ""},
	{"federate at the root", "GET /federate?match[]=up", bearer("$A"), "", 404, "", "below /prometheus"},
	{"features", "GET /prometheus/api/v1/features", bearer("$READ"), "", 200, "a", ""},
	{"features need the scope", "GET /prometheus/api/v1/features", bearer("$WRITE"), "", 403, "", "metrics:read"},
	{"federate needs the scope", "GET /prometheus/federate?match[]=up", bearer("$WRITE"), "", 403, "", "metrics:read"},
	{"rules need the scope", "GET /prometheus/api/v1/rules", bearer("$WRITE"), "", 403, "", "metrics:read"},
	{"alerts need the scope", "GET /prometheus/api/v1/alerts", bearer("$WRITE"), "", 403, "", "metrics:read"},
	{"openapi needs the scope", "GET /api/prom/api/v1/openapi.yaml", bearer("$WRITE"), "", 403, "", "metrics:read"},
	{"features by POST", "POST /api/prom/api/v1/features", bearer("$READ"), "", 200, "a", ""},
	{"rules", "GET /prometheus/api/v1/rules", bearer("$READ"), "", 200, "a", ""},
	{"rules by POST", "POST /prometheus/api/v1/rules", bearer("$READ"), "", 405, "", ""},
	{"alerts", "GET /api/prom/api/v1/alerts", bearer("$READ"), "", 200, "a", ""},
	{"Alertmanager configuration by PUT", "PUT /api/v1/alerts", bearer("$READ"), "", 405, "", "use GET, POST, DELETE"},
	{"Alertmanager configuration needs its scope", "GET /api/v1/alerts", bearer("$READ"), "", 403, "", "alerts:read"},
	{"openapi", "GET /prometheus/api/v1/openapi.yaml", bearer("$READ"), "", 200, "", "openapi: 3.1.0"},
	{"openapi needs a credential", "GET /prometheus/api/v1/openapi.yaml", nil, "", 401, "", ""},
	{"query", query, bearer("$A"), "", 200, "a", ""},
	{"query by POST", "POST /prometheus/api/v1/query", bearer("$A"), "query=up", 200, "a", ""},
	{"query, old path of Cortex", "GET /api/prom/api/v1/query_range?query=up", bearer("$A"), "", 200, "a", ""},
	{"remote read", "POST /prometheus/api/v1/read", bearer("$A"), "x", 200, "a", ""},
	{"label values", "GET /prometheus/api/v1/label/job/values", bearer("$A"), "", 200, "a", ""},
	{"label values, escaped name", "GET /prometheus/api/v1/label/U__le_2e_x/values", bearer("$A"), "", 200, "a", ""},
	{"label values, UTF-8 name", "GET /prometheus/api/v1/label/%C3%A9t%C3%A9/values", bearer("$A"), "", 200, "a", ""},
	{"label values, no name", "GET /prometheus/api/v1/label//values", bearer("$A"), "", 400, "", ""},
	{"user stats", "GET /api/v1/user_stats", bearer("$A"), "", 200, "a", ""},
	{"user limits", "GET /api/v1/user_limits", bearer("$A"), "", 200, "", `"requests_per_second":1000`},
	{"user limits need a credential", "GET /api/v1/user_limits", nil, "", 401, "", ""},
	{"ready", "GET /ready", nil, "", 200, "", "ready"},
	{"ready as Prometheus", "GET /-/ready", nil, "", 200, "", "ready"},
	{"healthy by HEAD", "HEAD /-/healthy", nil, "", 200, "", ""},
	{"buildinfo", "GET /prometheus/api/v1/status/buildinfo", nil, "", 200, "", `"application":"Pallium"`},
	{"unknown", "GET /nothing", bearer("$A"), "", 404, "", `"errorType":"not_found"`},
	{"OTLP is not supported", "POST /otlp/v1/metrics", bearer("$A"), "x", 404, "", ""},
	{"no catch-all", "GET /prometheus/api/v1/query/x", bearer("$A"), "", 404, "", ""},
	{"trailing slash", "GET /prometheus/api/v1/query/?query=up", bearer("$A"), "", 404, "", ""},
	{"other tenants' stats", "GET /all_user_stats", bearer("$A"), "", 404, "", ""},
	{"metrics are on the admin listener", "GET /metrics", bearer("$A"), "", 404, "", ""},
	{"push by GET", "GET /api/v1/push", bearer("$A"), "", 405, "", ""},
	{"query by HEAD", "HEAD /prometheus/api/v1/query?query=up", bearer("$A"), "", 405, "", ""},
	{"OPTIONS", "OPTIONS /prometheus/api/v1/query", bearer("$A"), "", 405, "", ""},
	{"DELETE", "DELETE /prometheus/api/v1/series", bearer("$A"), "", 405, "", ""},
	{"unknown method", "BREW /api/v1/push", bearer("$A"), "", 405, "", ""},
	{"OPTIONS *", "OPTIONS *", nil, "", 400, "", ""},
}

var credentialRows = []row{
	{"none", push, nil, "x", 401, "", "send a valid API key or JWT"},
	{"empty", push, []string{"Authorization:"}, "x", 401, "", ""},
	{"Bearer without token", push, []string{"Authorization: Bearer"}, "x", 401, "", ""},
	{"other scheme", push, []string{"Authorization: Digest $A"}, "x", 401, "", ""},
	{"scheme in other case", push, []string{"Authorization: bEARER $A"}, "x", 200, "a", ""},
	{"two tokens", push, []string{"Authorization: Bearer $A, Bearer x"}, "x", 401, "", ""},
	{"Basic", push, []string{"Authorization: Basic basic(a,$A)"}, "x", 200, "a", ""},
	{"Basic with a JWT", query, []string{"Authorization: Basic basic(a,$JA)"}, "", 200, "a", ""},
	{"Basic as the other tenant", push, []string{"Authorization: Basic basic(b,$A)"}, "x", 403, "", "not valid for this tenant"},
	{"Basic as a tenant that does not exist", push, []string{"Authorization: Basic basic(zzz,$A)"}, "x", 403, "", "not valid for this tenant"},
	{"Basic selects", push, []string{"Authorization: Basic basic(b,$AB)"}, "x", 200, "b", ""},
	{"Basic, key in the user", push, []string{"Authorization: Basic basic($A,)"}, "x", 401, "", ""},
	{"Basic, not base64", push, []string{"Authorization: Basic ???"}, "x", 401, "", ""},
	{"Basic, key sent as it is", push, []string{"Authorization: Basic $A"}, "x", 401, "", ""},
	{"Bearer of Basic", push, []string{"Authorization: Bearer basic(a,$A)"}, "x", 401, "", ""},
	{"JWT", query, bearer("$JA"), "", 200, "a", ""},
	{"JWT, expired", query, bearer("$JX"), "", 401, "", ""},
	{"JWT without tenant", query, bearer("$JNONE"), "", 403, "", ""},
	{"unknown key", push, bearer("$UNKNOWN"), "x", 401, "", ""},
	{"revoked key", push, bearer("$REVOKED"), "x", 401, "", ""},
	{"expired key", push, bearer("$EXPIRED"), "x", 401, "", ""},
	{"scope missing", push, bearer("$READ"), "x", 403, "", "metrics:write"},
	{"scope there", query, bearer("$READ"), "", 200, "a", ""},
	{"valid for no tenant", query, bearer("$NOBODY"), "", 403, "", ""},
	{"tenant deleted", query, bearer("$GONE"), "", 403, "", "not valid for this tenant"},
	{"in the query string", "GET /prometheus/api/v1/query?query=up&access_token=x", nil, "", 400, "", "headers"},
	{"in the query string, with another", "GET /prometheus/api/v1/query?query=up&Api_Key=x", bearer("$A"), "", 400, "", ""},
	{"in a cookie", query, []string{"Cookie: Authorization=$A"}, "", 401, "", ""},
	{"in Proxy-Authorization", query, []string{"Proxy-Authorization: Bearer $A"}, "", 401, "", ""},
}

var tenantRows = []row{
	{"selects its own", query, bearer("$A", "X-Scope-OrgID: a"), "", 200, "a", ""},
	{"selects the other", query, bearer("$A", "X-Scope-OrgID: b"), "", 403, "", "not valid for this tenant"},
	{"selects one that does not exist", query, bearer("$A", "X-Scope-OrgID: nobody"), "", 403, "", "not valid for this tenant"},
	{"selects both", query, bearer("$A", "X-Scope-OrgID: a|b"), "", 400, "", "several tenants"},
	{"selects both of its own", query, bearer("$AB", "X-Scope-OrgID: a|b"), "", 400, "", "several tenants"},
	{"selects a list", query, bearer("$A", "X-Scope-OrgID: a,b"), "", 400, "", ""},
	{"selects encoded", query, bearer("$A", "X-Scope-OrgID: %62"), "", 400, "", ""},
	{"selects a path", query, bearer("$A", "X-Scope-OrgID: ../b"), "", 400, "", ""},
	{"selects ..", query, bearer("$A", "X-Scope-OrgID: .."), "", 400, "", ""},
	{"selects in other case", query, bearer("$A", "X-Scope-OrgID: A"), "", 403, "", ""},
	{"selects nothing", query, bearer("$A", "X-Scope-OrgID:"), "", 200, "a", ""},
	{"two tenants, none selected", query, bearer("$AB"), "", 400, "", "select one"},
	{"two tenants, one selected", query, bearer("$AB", "X-Scope-OrgID: b"), "", 200, "b", ""},
	{"two tenants, third selected", query, bearer("$AB", "X-Scope-OrgID: c"), "", 403, "", ""},
	{"Basic and selector agree", query, []string{"Authorization: Basic basic(b,$AB)", "X-Scope-OrgID: b"}, "", 200, "b", ""},
	{"Basic and selector disagree", query, []string{"Authorization: Basic basic(a,$AB)", "X-Scope-OrgID: b"}, "", 403, "", "different tenants"},
	{"JWT of the other", query, bearer("$JA", "X-Scope-OrgID: b"), "", 403, "", ""},
	{"tenant in the query string", "GET /prometheus/api/v1/query?query=up&X-Scope-OrgID=b", bearer("$A"), "", 400, "", ""},
}

var headerRows = []row{
	{"Connection names the tenant", query, bearer("$A", "Connection: X-Scope-OrgID"), "", 200, "a", ""},
	{"Connection names the policy", query, bearer("$A", "Connection: close, X-Pallium-Policy"), "", 200, "a", ""},
	{"Connection names the bound", push, bearer("$A", "Connection: X-Pallium-Max-Decoded-Bytes"), "x", 200, "a", ""},
	{"Connection names the request id", query, bearer("$A", "Connection: X-Request-Id"), "", 200, "a", ""},
	{"Connection names the credential", query, bearer("$A", "Connection: Authorization"), "", 200, "a", ""},
	{"the client sends a policy", query, bearer("$A", "X-Pallium-Policy: none"), "", 200, "a", ""},
	{"the client sends two policies", query, bearer("$A", "X-Pallium-Policy: x", "X-Pallium-Policy: unrestricted"), "", 200, "a", ""},
	{"underscores", query, bearer("$A", "X_Scope_OrgID: b"), "", 200, "a", ""},
	{"dots", query, bearer("$A", "X.Scope.OrgID: b"), "", 200, "a", ""},
	{"mixed", query, bearer("$A", "x-scope_orgid: b", "X_PALLIUM-POLICY: none"), "", 200, "a", ""},
	{"Mimir's policy and switches", query, bearer("$A", "X-Prom-Label-Policy: a:{}", "X-Mimir-SkipLabelNameValidation: true"), "", 200, "a", ""},
	{"two tenants in two lines", query, bearer("$A", "X-Scope-OrgID: a", "X-Scope-OrgID: b"), "", 400, "", "repeated"},
	{"twice the same tenant", query, bearer("$A", "X-Scope-OrgID: a", "x-scope-orgid: a"), "", 400, "", "repeated"},
	{"two credentials", query, bearer("$A", "Authorization: Bearer $B"), "", 400, "", "repeated"},
	{"two encodings", push, bearer("$A", "Content-Encoding: snappy", "Content-Encoding: gzip"), "x", 400, "", "repeated"},
	{"upgrade", query, bearer("$A", "Connection: Upgrade", "Upgrade: websocket"), "", 400, "", "upgrades"},
	{"upgrade to h2c", query, bearer("$A", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"), "", 400, "", ""},
	{"cookie", query, bearer("$A", "Cookie: a=b"), "", 200, "a", ""},
	{"Grafana's headers", query, bearer("$A", "X-Dashboard-Uid: x", "X-Grafana-User: y"), "", 200, "a", ""},
	{"forwarded", query, bearer("$A", "X-Forwarded-For: 1.2.3.4", "Forwarded: for=1.2.3.4"), "", 200, "a", ""},
}

var pathRows = []row{
	{"encoded dots", "GET /prometheus/%2e%2e/api/v1/push", bearer("$A"), "", 400, "", "canonical"},
	{"dots", "GET /prometheus/../api/v1/user_stats", bearer("$A"), "", 400, "", "canonical"},
	{"dot", "GET /prometheus/./api/v1/query", bearer("$A"), "", 400, "", ""},
	{"dots at the end", "GET /prometheus/api/v1/query/..", bearer("$A"), "", 400, "", ""},
	{"double slash", "GET //prometheus/api/v1/query", bearer("$A"), "", 400, "", ""},
	{"double slash inside", "POST /api//v1/push", bearer("$A"), "x", 400, "", ""},
	{"encoded slash", "GET /prometheus/api/v1/label/a%2fb/values", bearer("$A"), "", 400, "", ""},
	{"encoded slash between segments", "GET /prometheus%2Fapi/v1/query", bearer("$A"), "", 400, "", ""},
	{"encoded backslash", "GET /prometheus/api/v1/label/a%5cb/values", bearer("$A"), "", 400, "", ""},
	{"encoded letter", "GET /prometheus/api/v1/quer%79", bearer("$A"), "", 400, "", ""},
	{"double encoding", "GET /prometheus/api/v1/label/%252e%252e/values", bearer("$A"), "", 400, "", ""},
	{"path parameter", "GET /prometheus/api/v1/query;x=y", bearer("$A"), "", 400, "", ""},
	{"control byte", "GET /prometheus/api/v1/label/a%00b/values", bearer("$A"), "", 400, "", ""},
	{"not UTF-8", "GET /prometheus/api/v1/label/%ff/values", bearer("$A"), "", 400, "", ""},
	{"whole URL", "GET http://edge/prometheus/api/v1/query?query=up", bearer("$A"), "", 400, "", ""},
}

var queryRows = []row{
	{"semicolon", "GET /prometheus/api/v1/query?query=up;match[]=x", bearer("$A"), "", 400, "", "query string"},
	{"encoded semicolon", "GET /prometheus/api/v1/query?query=up%3B", bearer("$A"), "", 200, "a", ""},
	{"broken escape", "GET /prometheus/api/v1/query?query=%zz", bearer("$A"), "", 400, "", "query string"},
	{"repeated", "GET /prometheus/api/v1/series?match[]=a&match[]=b", bearer("$A"), "", 200, "a", ""},
	{"1000 parameters", "GET /prometheus/api/v1/series?" + strings.Repeat("m=x&", 999) + "m=x", bearer("$A"), "", 200, "a", ""},
	{"1001 parameters", "GET /prometheus/api/v1/series?" + strings.Repeat("m=x&", 1000) + "m=x", bearer("$A"), "", 400, "", "1000"},
	{"form in the body", "POST /prometheus/api/v1/query?stats=all", bearer("$A", "Content-Type: application/x-www-form-urlencoded"), "query=up", 200, "a", ""},
}

var framingRows = []row{
	{"chunked", push, bearer("$A", "Transfer-Encoding: chunked"), "1\r\nx\r\n0\r\n\r\n", 200, "a", ""},
	{"Transfer-Encoding and Content-Length", push, bearer("$A", "Transfer-Encoding: chunked", "Content-Length: 4"), "1\r\nx\r\n0\r\n\r\n", 400, "", "Transfer-Encoding"},
	{"Content-Length and Transfer-Encoding", push, bearer("$A", "content-length: 4", "transfer-encoding: Chunked"), "1\r\nx\r\n0\r\n\r\n", 400, "", "Transfer-Encoding"},
	{"two lengths", push, bearer("$A", "Content-Length: 1", "Content-Length: 2"), "xx", 400, "", ""},
	{"two equal lengths", push, bearer("$A", "Content-Length: 1", "content-length: 1"), "x", 400, "", "Content-Length must not be repeated"},
	{"folded length", query, bearer("$A", "Content-Length:\r\n 3"), "abc", 400, "", ""},
	{"folded line", query, bearer("$A", "X-A: b\r\n\tc"), "", 400, "", "folded"},
	{"Transfer-Encoding and Content-Length, after a folded line", push, bearer("$A", "Transfer-Encoding: chunked", "X-A: b\r\n c", "Content-Length: 4"), "1\r\nx\r\n0\r\n\r\n", 400, "", "folded"},
	{"bare line feed in a chunk", push, bearer("$A", "Transfer-Encoding: chunked"), "1\nx\r\n0\r\n\r\n", 400, "", ""},
	{"bare line feed", query, bearer("$A", "X-A: b\nX-B: c"), "", 400, "", "CRLF"},
	{"unknown encoding", push, bearer("$A", "Transfer-Encoding: gzip"), "x", 501, "", ""},
	{"two encodings", push, bearer("$A", "Transfer-Encoding: chunked", "Transfer-Encoding: identity"), "0\r\n\r\n", 501, "", ""},
	{"HTTP/1.0", "GET /ready HTTP/1.0", nil, "", 200, "", "ready"},
	{"HTTP/1.0, HEAD", "HEAD /ready HTTP/1.0", nil, "", 200, "", ""},
	{"HTTP/1.0, push", push + " HTTP/1.0", bearer("$A"), "x", 200, "a", "backend of a"},
	{"HTTP/1.0, query", query + " HTTP/1.0", bearer("$A", "Connection: close"), "", 200, "a", ""},
	{"HTTP/1.0, rejected", query + " HTTP/1.0", nil, "", 401, "", "credential"},
	{"HTTP/1.0, chunked", push + " HTTP/1.0", bearer("$A", "Transfer-Encoding: chunked"), "1\r\nx\r\n0\r\n\r\n", 400, "", "HTTP/1.0"},
	{"HTTP/1.0, Expect", push + " HTTP/1.0", bearer("$A", "Content-Length: 1", "Expect: 100-continue"), "x", 400, "", "HTTP/1.0"},
	{"HTTP/1.0, another Expect", push + " HTTP/1.0", bearer("$A", "Content-Length: 1", "Expect: x"), "x", 400, "", "HTTP/1.0"},
	{"CONNECT", "CONNECT edge:80", nil, "", 400, "", ""},
}

func TestStoreFailuresAre503(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			e := newEdge(t, mode, nil)
			down := errors.New("store at 10.0.0.7 is down")
			rows := []struct {
				name       string
				keys, lims error
				want       int
			}{
				{"keys", down, nil, 503},
				{"limits", nil, down, 503},
				{"both available again", nil, nil, 200},
			}
			for _, r := range rows {
				e.keys.Fail(r.keys)
				e.tenants.mu.Lock()
				e.tenants.broken = r.lims
				e.tenants.mu.Unlock()
				a := e.do(push, bearer("$A"), "x")
				if a.status != r.want || strings.Contains(a.body, "10.0.0.7") {
					t.Errorf("%s: status %d, want %d; body %q", r.name, a.status, r.want, a.body)
				}
				if a.status == 503 && a.header.Get("Retry-After") == "" {
					t.Errorf("%s: 503 without Retry-After", r.name)
				}
			}
			if !strings.Contains(e.logs.String(), "10.0.0.7") {
				t.Error("the log does not contain the cause")
			}
		})
	}
}
