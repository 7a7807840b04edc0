package api

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/distributor"
	"github.com/palliumhq/pallium/backend/election"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/test/kit"
)

// backend is the API of one process with a distributor, an ingester and an engine, but without the
// long-term store.
type backend struct {
	t   testing.TB
	now time.Time
	h   http.Handler
	lim limits.Limits
	ing *ingester.Ingester

	looked func(tenant.ID) // not nil: called when limits are looked up
}

func newBackend(t testing.TB) *backend {
	t.Helper()
	b := &backend{t: t, now: time.Now().Truncate(time.Second), lim: limits.Default()}
	lim := func(id tenant.ID) limits.Limits {
		if b.looked != nil {
			b.looked(id)
		}
		return b.lim
	}
	clock := func() time.Time { return b.now }
	ing, err := ingester.Open(context.Background(), ingester.Options{ID: "i", Dir: t.TempDir(), Limits: lim, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ing.Close() })
	b.ing = ing
	dist := distributor.New(distributor.Options{Local: ing, Now: clock, HA: distributor.NewHA(distributor.HAOptions{Store: election.NewMemory(clock), Now: clock})})
	p := parser.NewParser(parser.Options{})
	account := memory.NewAccount(1<<30, nil)
	t.Cleanup(func() { kit.Until(t, "all memory is released", func() bool { return account.Used() == 0 }) })
	engine := querier.NewEngine(switches.Only(p), slog.New(slog.DiscardHandler), nil)
	b.h = newAPI(Options{
		Memory: account, Features: engine.Features,
		Push: dist.Push, Queryable: querier.NewQueryable(recentOnly{ing}, clock, nil),
		Engine: engine, Parsers: switches.Only(p),
		Metadata: func(_ context.Context, id tenant.ID) ([]series.MetricMetadata, error) { return ing.Metadata(id), nil }, SeriesCount: func(_ context.Context, id tenant.ID) (int, error) { return ing.SeriesCount(id), nil }, Limits: lim,
		Head: func(_ context.Context, id tenant.ID) (series.HeadStats, error) { return ing.HeadStats(id), nil }, Now: clock,
		Lookback: querier.LookbackDelta, Registerer: prometheus.NewRegistry(),
	})
	return b
}

// recentOnly is a source that reads only the ingester.
type recentOnly struct{ *ingester.Ingester }

func (r recentOnly) Select(ctx context.Context, req series.Request) (*series.Selection, error) {
	sel, _, err := r.Ingester.Select(ctx, req)
	return sel, err
}

func (r recentOnly) LabelNames(ctx context.Context, req series.Request) ([]string, error) {
	names, _, err := r.Ingester.LabelNames(ctx, req)
	return names, err
}

func (r recentOnly) LabelValues(ctx context.Context, name string, req series.Request) ([]string, error) {
	values, _, err := r.Ingester.LabelValues(ctx, name, req)
	return values, err
}

func (r recentOnly) Exemplars(ctx context.Context, id tenant.ID, mint, maxt int64, sets [][]*labels.Matcher) ([]exemplar.QueryResult, error) {
	return r.Ingester.Exemplars(ctx, id, mint, maxt, sets)
}

// write pushes n series of a metric with one sample each.
func (b *backend) write(id tenant.ID, metric string, n int) {
	b.t.Helper()
	b.writeAt(id, metric, n, b.now)
}

// writeAt is write with samples of a given time.
func (b *backend) writeAt(id tenant.ID, metric string, n int, at time.Time) {
	b.t.Helper()
	req := &prompb.WriteRequest{Metadata: []prompb.MetricMetadata{{MetricFamilyName: metric, Type: prompb.MetricMetadata_GAUGE, Help: "Help of " + metric + "."}}}
	for i := range n {
		req.Timeseries = append(req.Timeseries, prompb.TimeSeries{
			Labels:  []prompb.Label{{Name: "__name__", Value: metric}, {Name: "i", Value: fmt.Sprint(i)}, {Name: "tenant", Value: string(id)}},
			Samples: []prompb.Sample{{Timestamp: at.UnixMilli(), Value: float64(i)}},
		})
	}
	data, err := req.Marshal()
	if err != nil {
		b.t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/api/v1/push", bytes.NewReader(snappy.Encode(nil, data)))
	if w := do(b.h, as(id, r)); w.Code != http.StatusNoContent {
		b.t.Fatalf("push: %d %s", w.Code, w.Body)
	}
}

func (b *backend) get(id tenant.ID, path string, params url.Values) *httptest.ResponseRecorder {
	return do(b.h, as(id, httptest.NewRequest(http.MethodGet, path+"?"+params.Encode(), nil)))
}

// TestQueryLimitsOverHTTP checks on endpoints that select series that the response to a query beyond
// a limit is 422, or 503 for query_timeout, with the limit's name and value.
func TestQueryLimitsOverHTTP(t *testing.T) {
	b := newBackend(t)
	b.write("a", "up", 5)
	base := b.lim
	tests := []struct {
		name   string
		set    func(*limits.Limits)
		path   string
		params url.Values
		text   string
	}{
		{"range", func(l *limits.Limits) { l.MaxQueryRange = limits.Duration(time.Hour) }, "query", url.Values{"query": {"up offset 2h"}}, "limit max_query_range of 1h exceeded: the query spans 2h"},
		{"range of a look-back", func(l *limits.Limits) { l.MaxQueryRange = limits.Duration(time.Hour) }, "query", url.Values{"query": {"up"}, "lookback_delta": {"2h"}}, "limit max_query_range of 1h exceeded: the query spans 2h"},
		{"range of a look-back and an offset", func(l *limits.Limits) { l.MaxQueryRange = limits.Duration(time.Hour) }, "query", url.Values{"query": {"rate(up[1m]) + up offset 30m"}, "lookback_delta": {"45m"}}, "limit max_query_range of 1h exceeded: the query spans 1h15m"},
		{"range of a look-back before a range", func(l *limits.Limits) { l.MaxQueryRange = limits.Duration(time.Hour) }, "query", url.Values{"query": {"rate(up[1h] anchored)"}, "lookback_delta": {"2h"}}, "limit max_query_range of 1h exceeded: the query spans 3h"},
		{"range with a negative look-back", func(l *limits.Limits) { l.MaxQueryRange = limits.Duration(time.Hour) }, "query", url.Values{"query": {"up offset 2h"}, "lookback_delta": {"-7200"}}, "limit max_query_range of 1h exceeded: the query spans 2h"},
		{"steps", func(l *limits.Limits) { l.MaxQuerySteps = 5 }, "query_range", url.Values{"query": {"up"}, "start": {"0"}, "end": {"60"}, "step": {"10"}}, "limit max_query_steps of 5 steps exceeded: the query has 6"},
		{"series", func(l *limits.Limits) { l.MaxQuerySeries = 4 }, "query", url.Values{"query": {"up"}}, "limit max_query_series of 4 series exceeded"},
		{"series of the series endpoint", func(l *limits.Limits) { l.MaxQuerySeries = 4 }, "series", url.Values{"match[]": {"up"}}, "limit max_query_series of 4 series exceeded"},
		{"samples", func(l *limits.Limits) { l.MaxQuerySamples = 4 }, "query", url.Values{"query": {"up"}}, "limit max_query_samples of 4 samples exceeded"},
		{"length", func(l *limits.Limits) { l.MaxQueryLength = 4 }, "query", url.Values{"query": {"up + 1"}}, "limit max_query_length of 4 bytes exceeded: the expressions and selectors of the request have 6"},
		{"series in memory", func(l *limits.Limits) { l.MaxQuerySeries = 4 }, "status/tsdb", nil, "limit max_query_series of 4 series exceeded"},
		{"series that are counted", func(l *limits.Limits) { l.MaxQuerySeries = 4 }, "cardinality/label_names", nil, "limit max_query_series of 4 series exceeded"},
		{"memory of counts", func(l *limits.Limits) { l.MaxMemoryBytes = 1000 }, "cardinality/label_values", url.Values{"label_names[]": {"i"}}, "limit max_memory_bytes of 1000 bytes exceeded"},
		{"memory of a response with many names", func(l *limits.Limits) { l.MaxMemoryBytes = 100_000 }, "cardinality/label_values",
			url.Values{"label_names[]": manyNames(300)}, "limit max_memory_bytes of 100000 bytes exceeded"},
		{"memory of a search", func(l *limits.Limits) { l.MaxMemoryBytes = 100 }, "search/label_values", url.Values{"label": {"i"}}, "limit max_memory_bytes of 100 bytes exceeded"},
		{"length of a selector", func(l *limits.Limits) { l.MaxQueryLength = 4 }, "cardinality/active_series", url.Values{"selector": {"up{}  "}}, "limit max_query_length of 4 bytes exceeded: the expressions and selectors of the request have 6"},
		{"length of search texts", func(l *limits.Limits) { l.MaxQueryLength = 4 }, "search/metric_names", url.Values{"search[]": {"abc", "de"}}, "limit max_query_length of 4 bytes exceeded: the expressions and selectors of the request have 5"},
		{"time", func(l *limits.Limits) { l.QueryTimeout = limits.Duration(1) }, "query", url.Values{"query": {"up"}}, "limit query_timeout of"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b.lim = base
			tt.set(&b.lim)
			w := b.get("a", "/prometheus/api/v1/"+tt.path, tt.params)
			var answer struct{ Status, ErrorType, Error string }
			if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
				t.Fatalf("%v: %s", err, w.Body)
			}
			code, kind := 422, "execution"
			if tt.name == "time" { // as in Prometheus
				code, kind = 503, "timeout"
			}
			if w.Code != code || answer.ErrorType != kind || !strings.Contains(answer.Error, tt.text) {
				t.Errorf("%d %+v, want %d, %s and %q", w.Code, answer, code, kind, tt.text)
			}
		})
	}
	b.lim = base
	if w := b.get("a", "/prometheus/api/v1/query", url.Values{"query": {"up +"}}); w.Code != 400 {
		t.Errorf("invalid query: %d %s", w.Code, w.Body)
	}
}

// TestTenantsApart checks that no endpoint returns data of another tenant with
// the same metric names.
func TestTenantsApart(t *testing.T) {
	b := newBackend(t)
	b.write("a", "common", 2)
	b.write("b", "common", 3)
	b.write("b", "secret_b", 1)
	paths := map[string]url.Values{
		"/prometheus/api/v1/query":       {"query": {`{__name__=~".+"}`}},
		"/prometheus/api/v1/query_range": {"query": {`{__name__=~".+"}`}, "start": {fmt.Sprint(b.now.Unix() - 60)}, "end": {fmt.Sprint(b.now.Unix())}, "step": {"15"}},
		"/prometheus/api/v1/series":      {"match[]": {`{__name__=~".+"}`}}, "/prometheus/api/v1/labels": {},
		"/prometheus/api/v1/label/__name__/values": {}, "/prometheus/api/v1/label/tenant/values": {},
		"/prometheus/api/v1/metadata": {}, "/prometheus/api/v1/query_exemplars": {"query": {"common"}},
		"/prometheus/federate": {"match[]": {`{__name__=~".+"}`}}, "/prometheus/api/v1/rules": {}, "/prometheus/api/v1/alerts": {},
		"/api/v1/user_stats": {},

		"/prometheus/api/v1/status/tsdb": {}, "/prometheus/api/v1/cardinality/label_names": {"limit": {"500"}},
		"/prometheus/api/v1/cardinality/label_values":  {"label_names[]": {"__name__", "tenant"}},
		"/prometheus/api/v1/cardinality/active_series": {"selector": {`{__name__=~".+"}`}},
		"/prometheus/api/v1/search/metric_names":       {"include_metadata": {"true"}},
		"/prometheus/api/v1/search/label_names":        {},
		"/prometheus/api/v1/search/label_values":       {"label": {"tenant"}},
	}
	for path, params := range paths {
		mine, other, none := b.get("a", path, params), b.get("b", path, params), b.get("c", path, params)
		if mine.Code != 200 || other.Code != 200 || none.Code != 200 {
			t.Errorf("%s: %d, %d, %d", path, mine.Code, other.Code, none.Code)
		}
		if s := mine.Body.String(); strings.Contains(s, "secret_b") || strings.Contains(s, `"b"`) {
			t.Errorf("%s: a sees b: %s", path, s)
		}
		if s := none.Body.String(); strings.Contains(s, "common") || strings.Contains(s, `"a"`) {
			t.Errorf("%s: c sees a: %s", path, s)
		}
	}
	if w := b.get("b", "/api/v1/user_stats", nil); !strings.Contains(w.Body.String(), `"numSeries":4`) {
		t.Errorf("stats of b: %s", w.Body)
	}
}

// TestNoAccess checks that routes require a tenant.Access in the context and do
// not read one from the headers of the request.
func TestNoAccess(t *testing.T) {
	b := newBackend(t)
	routes := []string{
		"POST /api/v1/push", "GET /prometheus/api/v1/query", "POST /prometheus/api/v1/query_range",
		"GET /prometheus/api/v1/labels", "GET /prometheus/api/v1/series", "GET /prometheus/api/v1/label/x/values", "GET /prometheus/api/v1/metadata",
		"POST /prometheus/api/v1/read", "GET /prometheus/api/v1/query_exemplars", "GET /api/v1/user_stats", "GET /nothing",
		"GET /prometheus/api/v1/status/tsdb", "GET /prometheus/api/v1/cardinality/label_names", "POST /prometheus/api/v1/cardinality/label_values",
		"GET /prometheus/api/v1/cardinality/active_series", "GET /prometheus/api/v1/search/metric_names", "POST /prometheus/api/v1/search/label_names",
		"GET /prometheus/api/v1/search/label_values",
		"GET /prometheus/federate?match[]=up", "GET /prometheus/api/v1/features", "GET /prometheus/api/v1/rules", "GET /prometheus/api/v1/alerts",
	}
	for _, route := range routes {
		method, path, _ := strings.Cut(route, " ")
		r := httptest.NewRequest(method, path, nil)
		r.Header.Set(tenant.HeaderOrgID, "a")
		r.Header.Set(tenant.HeaderPolicy, "unrestricted")
		if w := do(b.h, r); w.Code != 401 || !strings.Contains(w.Body.String(), "unauthorized") {
			t.Errorf("%s: %d %s", route, w.Code, w.Body)
		}
		denied := httptest.NewRequest(method, path, nil)
		denied = denied.WithContext(tenant.NewContext(denied.Context(), tenant.Access{Tenant: "a"})) // no policy
		if w := do(b.h, denied); w.Code != 401 {
			t.Errorf("%s without a policy: %d", route, w.Code)
		}
	}
}

// repeated returns a remote read body with the queries of body, repeated.
func repeated(t *testing.T, body []byte, times int) []byte {
	t.Helper()
	raw, err := snappy.Decode(nil, body)
	if err != nil {
		t.Fatal(err)
	}
	return snappy.Encode(nil, bytes.Repeat(raw, times))
}

// TestNotServed checks that routes of Prometheus' API that are not in the route table are not
// served.
func TestNotServed(t *testing.T) {
	b := newBackend(t)
	for _, path := range []string{"targets", "status/config", "status/flags", "status/tsdb/blocks", "admin/tsdb/snapshot", "write", "otlp/v1/metrics", "notifications"} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodOptions} {
			if w := do(b.h, as("a", httptest.NewRequest(method, "/prometheus/api/v1/"+path, nil))); w.Code != 404 && w.Code != 405 {
				t.Errorf("%s %s: %d", method, path, w.Code)
			}
		}
	}
}

func TestMetadata(t *testing.T) {
	b := newBackend(t)
	for _, m := range []string{"up", "down", "sideways"} {
		b.write("a", m, 1)
	}
	tests := []struct {
		params  url.Values
		status  int
		metrics int
	}{
		{url.Values{}, 200, 3},
		{url.Values{"limit": {"2"}}, 200, 2},
		{url.Values{"limit": {"0"}}, 200, 0}, // as Prometheus has it
		{url.Values{"limit": {"-1"}}, 200, 3},
		{url.Values{"metric": {"up"}}, 200, 1},
		{url.Values{"metric": {"up"}, "limit": {"1"}}, 200, 1},
		{url.Values{"metric": {"nothing"}}, 200, 0},
		{url.Values{"limit_per_metric": {"1"}}, 200, 3},
		{url.Values{"limit": {"x"}}, 400, 0},
		{url.Values{"limit_per_metric": {"x"}}, 400, 0},
	}
	for _, tt := range tests {
		w := b.get("a", "/prometheus/api/v1/metadata", tt.params)
		var answer struct {
			Status string
			Data   map[string][]metadataAnswer
		}
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != tt.status || len(answer.Data) != tt.metrics {
			t.Errorf("%v: %d %s", tt.params, w.Code, w.Body)
		}
		if m := answer.Data["up"]; len(m) > 0 && m[0] != (metadataAnswer{Type: "gauge", Help: "Help of up."}) {
			t.Errorf("%v: %v", tt.params, m)
		}
	}
}

func readBodyOf(t testing.TB, types []prompb.ReadRequest_ResponseType, b *backend) []byte {
	t.Helper()
	data, err := (&prompb.ReadRequest{AcceptedResponseTypes: types, Queries: []*prompb.Query{{
		StartTimestampMs: b.now.UnixMilli() - 1000, EndTimestampMs: b.now.UnixMilli(),
		Matchers: []*prompb.LabelMatcher{{Type: prompb.LabelMatcher_EQ, Name: "__name__", Value: "up"}},
	}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return snappy.Encode(nil, data)
}

func TestRemoteRead(t *testing.T) {
	b := newBackend(t)
	b.write("a", "up", 3)
	base := b.lim
	samples := readBodyOf(t, nil, b)
	stream := readBodyOf(t, []prompb.ReadRequest_ResponseType{prompb.ReadRequest_STREAMED_XOR_CHUNKS}, b)
	tests := []struct {
		name   string
		set    func(*limits.Limits)
		body   []byte
		status int
		text   string
	}{
		{"samples", func(*limits.Limits) {}, samples, 200, ""},
		{"streamed", func(*limits.Limits) {}, stream, 200, ""},
		{"series, samples", func(l *limits.Limits) { l.MaxQuerySeries = 2 }, samples, 422, "limit max_query_series of 2 series exceeded"},
		{"series, streamed", func(l *limits.Limits) { l.MaxQuerySeries = 2 }, stream, 422, "limit max_query_series of 2 series exceeded"},
		{"body too large", func(l *limits.Limits) { l.MaxBodyBytes = 5 }, samples, 413, "limit max_body_bytes of 5 bytes"},
		{"decoded too large", func(l *limits.Limits) { l.MaxDecodedBytes = 5 }, samples, 413, "limit max_decoded_bytes of 5 bytes"},
		{"claims too much", func(l *limits.Limits) { l.MaxDecodedBytes = 0 }, append(binary.AppendUvarint(nil, 1<<31), 0, 0, 0), 400, "is impossible"},
		{"not snappy", func(*limits.Limits) {}, []byte("\xff\xff\xff\xff\xff\xff"), 400, "snappy"},
		{"not protobuf", func(*limits.Limits) {}, snappy.Encode(nil, []byte("\x0a\xff")), 400, ""},
		{"many queries", func(*limits.Limits) {}, repeated(t, samples, 64), 200, ""},
		{"too many queries", func(*limits.Limits) {}, repeated(t, samples, 65), 400, "has 65 queries, the maximum is 64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b.lim = base
			tt.set(&b.lim)
			w := do(b.h, as("a", httptest.NewRequest(http.MethodPost, "/prometheus/api/v1/read", bytes.NewReader(tt.body))))
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.text) {
				t.Errorf("%d %q, want %d %q", w.Code, w.Body, tt.status, tt.text)
			}
			if tt.status != 200 && w.Header().Get("Content-Encoding") != "" {
				t.Errorf("error response has Content-Encoding %q", w.Header().Get("Content-Encoding"))
			}
		})
	}
	b.lim = base
	w := do(b.h, as("a", httptest.NewRequest(http.MethodPost, "/prometheus/api/v1/read", bytes.NewReader(samples))))
	plain, err := snappy.Decode(nil, w.Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	var answer prompb.ReadResponse
	if err := answer.Unmarshal(plain); err != nil || len(answer.Results) != 1 || len(answer.Results[0].Timeseries) != 3 {
		t.Errorf("response = %v, %v", answer.Results, err)
	}
}

// TestRemoteReadFunction checks that the name of a function, which a client may choose, does not
// change the samples of a response, even if the API itself uses that name.
func TestRemoteReadFunction(t *testing.T) {
	b := newBackend(t)
	b.write("a", "up", 3)
	for _, function := range []string{"", "rate", "pallium_count"} {
		q := &prompb.Query{StartTimestampMs: b.now.UnixMilli() - 1000, EndTimestampMs: b.now.UnixMilli(),
			Matchers: []*prompb.LabelMatcher{{Type: prompb.LabelMatcher_EQ, Name: "__name__", Value: "up"}},
			Hints:    &prompb.ReadHints{Func: function, StartMs: b.now.UnixMilli() - 1000, EndMs: b.now.UnixMilli()}}
		data, err := (&prompb.ReadRequest{Queries: []*prompb.Query{q}}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		w := do(b.h, as("a", httptest.NewRequest(http.MethodPost, "/prometheus/api/v1/read", bytes.NewReader(snappy.Encode(nil, data)))))
		plain, err := snappy.Decode(nil, w.Body.Bytes())
		if err != nil {
			t.Fatalf("%q: %d %s", function, w.Code, w.Body)
		}
		var answer prompb.ReadResponse
		if err := answer.Unmarshal(plain); err != nil || len(answer.Results) != 1 || len(answer.Results[0].Timeseries) != 3 {
			t.Fatalf("%q: response = %v, %v", function, answer.Results, err)
		}
		for _, s := range answer.Results[0].Timeseries {
			if len(s.Samples) != 1 {
				t.Errorf("%q: series %v has %d samples", function, s.Labels, len(s.Samples))
			}
		}
	}
}

// TestOrigin checks that a request with the header Origin does not panic in
// Prometheus' CORS code, which is not configured.
func TestOrigin(t *testing.T) {
	b := newBackend(t)
	r := httptest.NewRequest(http.MethodGet, "/prometheus/api/v1/query?query=1", nil)
	r.Header.Set("Origin", "https://example.com")
	if w := do(b.h, as("a", r)); w.Code != 200 || w.Header().Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

// TestPooledMemory checks that concurrent requests of different tenants and
// sizes, which share pooled buffers, do not corrupt each other's labels.
func TestPooledMemory(t *testing.T) {
	b := newBackend(t)
	var clients sync.WaitGroup
	for c := range 4 {
		clients.Go(func() {
			id := tenant.ID(fmt.Sprintf("tenant-%d", c))
			for round := range 20 {
				b.write(id, fmt.Sprintf("metric_%d_%02d", c, round), 1+(7*c+round)%13)
			}
		})
	}
	clients.Wait()
	for c := range 4 {
		id := tenant.ID(fmt.Sprintf("tenant-%d", c))
		w := b.get(id, "/prometheus/api/v1/query", url.Values{"query": {`{__name__=~".+"}`}, "time": {fmt.Sprint(b.now.Unix())}})
		var answer struct {
			Data struct {
				Result []struct {
					Metric map[string]string
					Value  [2]any
				}
			}
		}
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatal(err)
		}
		want := 0
		for round := range 20 {
			want += 1 + (7*c+round)%13
		}
		seen := map[string]bool{}
		for _, s := range answer.Data.Result {
			seen[s.Metric["__name__"]+s.Metric["i"]] = true
			if s.Metric["tenant"] != string(id) || !strings.HasPrefix(s.Metric["__name__"], fmt.Sprintf("metric_%d_", c)) || s.Value[1] != s.Metric["i"] {
				t.Errorf("tenant %s has %v = %v", id, s.Metric, s.Value)
			}
		}
		if len(seen) != want {
			t.Errorf("tenant %s has %d series, want %d", id, len(seen), want)
		}
		for round := range 20 {
			m := b.get(id, "/prometheus/api/v1/metadata", url.Values{"metric": {fmt.Sprintf("metric_%d_%02d", c, round)}})
			if want := fmt.Sprintf("Help of metric_%d_%02d.", c, round); !strings.Contains(m.Body.String(), want) {
				t.Errorf("metadata %s, want %q", m.Body, want)
			}
		}
	}
}
