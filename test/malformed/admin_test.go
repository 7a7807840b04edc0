package malformed

import (
	"net/http"
	"strings"
)

// adminRows returns requests to the admin API.
func adminRows(b *bench) []row {
	root := b.p.Admin + "/admin/v1"
	rows := []row{
		{name: "no token", key: "-", url: root + "/tenants", code: 401, says: "unauthorized|token"},
		{name: "wrong token", key: strings.Repeat("x", 43), url: root + "/tenants", code: 401, says: "unauthorized"},
		{name: "a tenant's key", key: b.team, url: root + "/tenants", code: 401, says: "unauthorized"},
		{name: "unknown path", url: root + "/nothing", code: 404, says: "not_found"},
		{name: "wrong method", method: http.MethodPatch, url: root + "/tenants", code: 405, says: "method_not_allowed"},

		{name: "no body", body: []byte{}, url: root + "/tenants", code: 400, says: "empty"},
		{name: "not JSON", body: []byte("hello"), url: root + "/tenants", code: 400, says: "not valid JSON"},
		{name: "truncated JSON", body: []byte(`{"name": "a"`), url: root + "/tenants", code: 400, says: "not valid JSON"},
		{name: "two JSON values", body: []byte(`{"name": "a"}{}`), url: root + "/tenants", code: 400, says: "after its JSON"},
		{name: "an array", body: []byte(`[]`), url: root + "/tenants", code: 400, says: "array"},
		{name: "null", body: []byte(`null`), url: root + "/tenants", code: 400, says: "name"},
		{name: "unknown field", body: []byte(`{"name": "a", "colour": "red"}`), url: root + "/tenants", code: 400, says: "colour"},
		{name: "wrong type", body: []byte(`{"name": 5}`), url: root + "/tenants", code: 400, says: "name|number"},
		{name: "plain text", headers: "Content-Type: text/plain", body: []byte(`{"name": "a"}`), url: root + "/tenants", code: 415, says: "application/json"},
		{name: "large body", body: []byte(`{"name": "` + strings.Repeat("a", 2<<20) + `"}`), url: root + "/tenants", code: 413, says: "1048576"},
		{name: "deep body", body: []byte(strings.Repeat("[", 100000)), url: root + "/tenants", code: 400, says: "json"},

		{name: "no name", body: []byte(`{}`), url: root + "/tenants", code: 400, says: "name"},
		{name: "name with a slash", body: []byte(`{"name": "a/b"}`), url: root + "/tenants", code: 400, says: "name"},
		{name: "name of only dots", body: []byte(`{"name": ".."}`), url: root + "/tenants", code: 400, says: "name"},
		{name: "long name", body: []byte(`{"name": "` + strings.Repeat("a", 151) + `"}`), url: root + "/tenants", code: 400, says: "150"},
		{name: "name with a zero", body: []byte("{\"name\": \"a\\u0000\"}"), url: root + "/tenants", code: 400, says: "name"},
		{name: "existing tenant", body: []byte(`{"name": "team"}`), url: root + "/tenants", code: 409, says: "team|exists"},
		{name: "unknown plan", body: []byte(`{"name": "a", "plan": "gold"}`), url: root + "/tenants", code: 400, says: "gold"},
		{name: "unknown limit", body: []byte(`{"name": "a", "limits": {"max_actve_series": 5}}`), url: root + "/tenants", code: 400, says: "max_actve_series|max_active_series"},
		{name: "negative limit", body: []byte(`{"name": "a", "limits": {"max_active_series": -5}}`), url: root + "/tenants", code: 400, says: "max_active_series|-5"},
		{name: "limit of a wrong type", body: []byte(`{"name": "a", "limits": {"max_active_series": "many"}}`), url: root + "/tenants", code: 400, says: "max_active_series|many"},
		{name: "limit with a bad duration", body: []byte(`{"name": "a", "limits": {"retention": "5 days"}}`), url: root + "/tenants", code: 400, says: "retention|5 days"},
		{name: "limit far too large", body: []byte(`{"name": "a", "limits": {"max_active_series": 99999999999999999}}`), url: root + "/tenants", code: 400, says: "max_active_series"},

		{name: "unknown tenant", url: root + "/tenants/nobody", code: 404, says: "nobody"},
		{name: "bad tenant", url: root + "/tenants/a%2Fb", code: 404, says: ""},
		{name: "If-Match missing", method: http.MethodPut, body: []byte(`{}`), url: root + "/tenants/team", code: 428, says: "If-Match|ETag"},
		{name: "If-Match stale", method: http.MethodPut, headers: `If-Match: "0123"`, body: []byte(`{}`), url: root + "/tenants/team", code: 412, says: "ETag"},
		{name: "If-Match without quotes", method: http.MethodPut, headers: `If-Match: 0123`, body: []byte(`{}`), url: root + "/tenants/team", code: 400, says: "quotes"},
		{name: "delete without If-Match", method: http.MethodDelete, url: root + "/tenants/team", code: 428, says: "If-Match"},
		{name: "delete the tenant pallium", method: http.MethodDelete, headers: `If-Match: *`, url: root + "/tenants/pallium", code: 409, says: "pallium"},
		{name: "bad cursor", url: root + "/tenants?pageCursor=nonsense", code: 400, says: "pageCursor"},
		{name: "bad page size", url: root + "/tenants?pageSize=many", code: 400, says: "pageSize|many"},
		{name: "large page size", url: root + "/tenants?pageSize=501", code: 400, says: "pageSize|500"},
		{name: "unknown parameter", url: root + "/tenants?sort=name", code: 400, says: "sort|pageSize"},
		{name: "bad flag", url: root + "/tenants?includeDeleted=maybe", code: 400, says: "includeDeleted|true or false"},

		{name: "key without scopes", body: []byte(`{"name": "k", "tenant": "team", "scopes": []}`), url: root + "/tokens", code: 400, says: "scopes"},
		{name: "key with a bad scope", body: []byte(`{"name": "k", "tenant": "team", "scopes": ["metrics:destroy"]}`), url: root + "/tokens", code: 400, says: "metrics:delete"},
		{name: "key of an unknown tenant", body: []byte(`{"name": "k", "tenant": "nobody", "scopes": ["metrics:read"]}`), url: root + "/tokens", code: 400, says: "nobody"},
		{name: "key with scopes and a policy", body: []byte(`{"name": "k", "tenant": "team", "scopes": ["metrics:read"], "accessPolicyId": "x"}`), url: root + "/tokens", code: 400, says: "accessPolicyId"},
		{name: "key that has expired", body: []byte(`{"name": "k", "tenant": "team", "scopes": ["metrics:read"], "expiresAt": "2001-01-01T00:00:00Z"}`), url: root + "/tokens", code: 400, says: "expiresAt"},
		{name: "key with a bad expiry", body: []byte(`{"name": "k", "tenant": "team", "scopes": ["metrics:read"], "expiresAt": "soon"}`), url: root + "/tokens", code: 400, says: "expiresAt|soon"},
		{name: "unknown key", url: root + "/tokens/tk_nothing", code: 404, says: "tk_nothing"},
		{name: "rotate for too long", body: []byte(`{"graceSeconds": 99999999}`), url: root + "/tokens/tk_nothing/rotate", code: 400, says: "graceSeconds"},
		{name: "policy without realms", body: []byte(`{"name": "p", "scopes": ["metrics:read"], "realms": []}`), url: root + "/access-policies", code: 400, says: "realms"},
		{name: "policy with a bad name", body: []byte(`{"name": "p p", "scopes": ["metrics:read"], "realms": [{"tenant": "team"}]}`), url: root + "/access-policies", code: 400, says: "name"},
		{name: "long Idempotency-Key", headers: "Idempotency-Key: " + strings.Repeat("k", 300), body: []byte(`{"name": "a"}`), url: root + "/tenants", code: 400, says: "Idempotency-Key|255"},
		{name: "flush by GET", url: root + "/flush", code: 405, says: ""},
	}
	token := b.p.AdminToken()
	for i := range rows {
		switch rows[i].key {
		case "":
			rows[i].key = token
		case "-":
			rows[i].key = ""
		}
		if rows[i].body != nil && !strings.Contains(rows[i].headers, "Content-Type") {
			rows[i].headers += "|Content-Type: application/json"
		}
	}
	return rows
}
