package malformed

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
)

// queryRows returns requests to the query API and to remote read.
func queryRows(b *bench) []row {
	q := func(endpoint string, params ...string) string {
		v := url.Values{}
		for i := 0; i < len(params); i += 2 {
			v.Add(params[i], params[i+1])
		}
		return b.p.Edge + "/prometheus/api/v1/" + endpoint + "?" + v.Encode()
	}
	long := strings.Repeat("some+", 80) + "some"
	rows := []row{
		{name: "no query", url: q("query"), code: 400, says: "bad_data"},
		{name: "broken expression", url: q("query", "query", "sum(("), code: 400, says: "bad_data|parse error"},
		{name: "unknown function", url: q("query", "query", "frobnicate(x)"), code: 400, says: "frobnicate"},
		{name: "no selector", url: q("query", "query", "{}"), code: 400, says: "matcher"},
		{name: "bad regular expression", url: q("query", "query", `{a=~"("}`), code: 400, says: "missing closing"},
		{name: "bad time", url: q("query", "query", "up", "time", "yesterday"), code: 400, says: "yesterday"},
		{name: "bad timeout", url: q("query", "query", "up", "timeout", "soon"), code: 400, says: "soon"},
		{name: "bad limit", url: q("query", "query", "up", "limit", "-1"), code: 400, says: "limit"},
		{name: "range without times", url: q("query_range", "query", "up"), code: 400, says: "start"},
		{name: "range with a bad step", url: q("query_range", "query", "up", "start", "1", "end", "2", "step", "x"), code: 400, says: "step"},
		{name: "range with step zero", url: q("query_range", "query", "up", "start", "1", "end", "2", "step", "0"), code: 400, says: "step"},
		{name: "range that ends before it begins", url: q("query_range", "query", "up", "start", "9", "end", "2", "step", "1"), code: 400, says: "end"},
		{name: "range of a range vector", url: q("query_range", "query", "up[1m]", "start", "1", "end", "2", "step", "1"), code: 400, says: "range vector"},
		{name: "series without a selector", url: q("series"), code: 400, says: "match[]"},
		{name: "series with a bad selector", url: q("series", "match[]", "{"), code: 400, says: "match"},
		{name: "labels with a bad time", url: q("labels", "start", "noon"), code: 400, says: "noon"},
		{name: "values of a bad name", url: b.p.Edge + "/prometheus/api/v1/label/a%FFb/values", code: 400, says: ""},
		{name: "exemplars without a query", url: q("query_exemplars", "start", "1", "end", "2"), code: 400, says: "bad_data"},
		{name: "format nothing", url: q("format_query"), code: 400, says: "bad_data"},
		{name: "parse nonsense", url: q("parse_query", "query", "1 +"), code: 400, says: "parse error"},
		{name: "metadata with a bad limit", url: q("metadata", "limit", "many"), code: 400, says: "limit"},

		{name: "long expression", key: b.tight, url: q("query", "query", long), code: 422, says: "max_query_length|300"},
		{name: "too many steps", key: b.tight, url: q("query_range", "query", "some", "start", "1", "end", "1000", "step", "1"), code: 422, says: "max_query_steps|100|999"},
		{name: "too long a range", key: b.tight, url: q("query_range", "query", "some", "start", "1", "end", "864000", "step", "86400"), code: 422, says: "max_query_range|2d"},
		{name: "too long a lookback", key: b.tight, url: q("query", "query", "some[3d]"), code: 422, says: "max_query_range|2d"},
		{name: "too many series", key: b.tight, url: q("query", "query", "some"), code: 422, says: "max_query_series|3"},
		{name: "too many samples", key: b.tight, url: q("query_range", "query", `some{i=~"[01]"}[5m:1s]`, "start", "1", "end", "2", "step", "1"), code: 400, says: "range vector"},
		{name: "more steps than samples allowed", key: b.tight, url: q("query", "query", `sum_over_time(vector(1)[10m:1s])`), code: 422, says: "max_query_samples|40"},

		{name: "remote read of nothing", url: q("read"), body: []byte{}, code: 400, says: "snappy"},
		{name: "remote read of text", url: q("read"), body: []byte("hello"), code: 400, says: "snappy"},
		{name: "remote read of garbage", url: q("read"), body: snappy.Encode(nil, []byte("\xff\xff\xff garbage")), code: 400, says: ""},
		{name: "remote read of a bomb", key: b.tight, url: q("read"), body: snappy.Encode(nil, make([]byte, 1<<20)), code: 413, says: "max_decoded_bytes"},
		{name: "remote read of a bad matcher", url: q("read"), body: read(&prompb.LabelMatcher{Type: 9, Name: "a", Value: "b"}), code: 400, says: "matcher"},
		{name: "remote read of a bad expression", url: q("read"), body: read(&prompb.LabelMatcher{Type: prompb.LabelMatcher_RE, Name: "a", Value: "("}), code: 400, says: "missing closing"},
		{name: "remote read of too many series", key: b.tight, url: q("read"), body: read(&prompb.LabelMatcher{Name: "__name__", Value: "some"}), code: 422, says: "max_query_series"},
		{name: "remote read by GET", method: http.MethodGet, url: q("read"), code: 405, says: "POST"},
	}
	for i := range rows {
		if rows[i].key == "" {
			rows[i].key = b.team
		}
	}
	return rows
}

func read(m *prompb.LabelMatcher) []byte {
	raw, err := (&prompb.ReadRequest{Queries: []*prompb.Query{{StartTimestampMs: 0, EndTimestampMs: 1 << 50, Matchers: []*prompb.LabelMatcher{m}}}}).Marshal()
	if err != nil {
		panic(err)
	}
	return snappy.Encode(nil, raw)
}

// edgeRows returns requests that the gateway rejects.
func edgeRows(b *bench) []row {
	e, ok := b.p.Edge, "/prometheus/api/v1/query?query=kept"
	many := ok + strings.Repeat("&a=b", 1001)
	return []row{
		{name: "no credential", url: e + ok, code: 401, says: "unauthorized"},
		{name: "unknown key", key: "plm_nonsense", url: e + ok, code: 401, says: "unauthorized"},
		{name: "half a key", key: b.team[:20], url: e + ok, code: 401, says: "unauthorized"},
		{name: "key with an invalid last character", key: b.team[:len(b.team)-1] + "!", url: e + ok, code: 401, says: "unauthorized"},
		{name: "a malformed JWT", key: "a.b.c", url: e + ok, code: 401, says: "unauthorized"},
		{name: "digest", headers: `Authorization: Digest username="team"`, url: e + ok, code: 401, says: ""},
		{name: "basic without base64", headers: "Authorization: Basic %%%", url: e + ok, code: 401, says: ""},
		{name: "scope missing", key: b.readOnly, url: e + "/api/v1/push", body: body1(float("m", 1, 1)), code: 403, says: "metrics:write"},
		{name: "another tenant", key: b.team, headers: "X-Scope-OrgID: tight", url: e + ok, code: 403, says: ""},
		{name: "an unknown tenant", key: b.team, headers: "X-Scope-OrgID: nobody", url: e + ok, code: 403, says: ""},
		{name: "a bad tenant", key: b.team, headers: "X-Scope-OrgID: a/b", url: e + ok, code: 400, says: "X-Scope-OrgID"},
		{name: "several tenants", key: b.team, headers: "X-Scope-OrgID: team|X-Scope-OrgID: tight", url: e + ok, code: 400, says: "X-Scope-Orgid|repeated"},
		{name: "tenant twice in one", key: b.team, headers: "X-Scope-OrgID: team;tight", url: e + ok, code: 400, says: ""},
		{name: "unknown path", key: b.team, url: e + "/prometheus/api/v1/nothing", code: 404, says: "nothing at this path"},
		{name: "rules without the scope", key: b.readOnly, url: e + "/prometheus/config/v1/rules", code: 403, says: "rules:read"},
		{name: "the admin API at the edge", key: b.team, url: e + "/admin/v1/tenants", code: 404, says: "on the admin listener"},
		{name: "double slash", key: b.team, url: e + "//prometheus/api/v1/query", code: 400, says: "canonical"},
		{name: "encoded slash", key: b.team, url: e + "/prometheus%2fapi/v1/query", code: 400, says: "canonical"},
		{name: "dots", key: b.team, url: e + "/prometheus/../admin", code: 400, says: "canonical"},
		{name: "wrong method", key: b.team, method: "BREW", url: e + ok, code: 405, says: "GET, POST"},
		{name: "OPTIONS", key: b.team, method: http.MethodOptions, url: e + ok, code: 405, says: "GET, POST"},
		{name: "broken escape", key: b.team, url: e + "/prometheus/api/v1/query?query=%zz", code: 400, says: "% escapes"},
		{name: "semicolon", key: b.team, url: e + ok + ";a=b", code: 400, says: "%3B"},
		{name: "many parameters", key: b.team, url: e + many, code: 400, says: "1000"},
		{name: "key in the query", url: e + ok + "&access_token=" + b.team, code: 400, says: "headers"},
		{name: "upgrade", key: b.team, headers: "Upgrade: websocket|Connection: Upgrade", url: e + ok, code: 400, says: "upgrade"},
	}
}
