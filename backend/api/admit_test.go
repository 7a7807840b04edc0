package api

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/golang/snappy"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/active"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/policies/routes"
	"github.com/palliumhq/pallium/test/kit"
)

// fakeSource returns the same series to every tenant. before, if set, is called
// at the start of every method.
type fakeSource struct {
	list []series.WithChunks
	text []string // label names and values, label values of exemplars, and metrics of metadata

	mu     sync.Mutex
	before func(context.Context) error
	held   int // selections that were not released
}

func (f *fakeSource) asked(ctx context.Context) error {
	f.mu.Lock()
	before := f.before
	f.mu.Unlock()
	if before == nil {
		return nil
	}
	return before(ctx)
}

func (f *fakeSource) set(before func(context.Context) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before = before
}

func (f *fakeSource) holding() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held
}

func (f *fakeSource) Select(ctx context.Context, _ series.Request) (*series.Selection, error) {
	if err := f.asked(ctx); err != nil {
		return nil, fmt.Errorf("select: %w", err)
	}
	sel := &series.Selection{Series: slices.Clone(f.list)}
	f.mu.Lock()
	f.held++
	f.mu.Unlock()
	sel.Hold(func() {
		f.mu.Lock()
		f.held--
		f.mu.Unlock()
	})
	return sel, nil
}

func (f *fakeSource) LabelNames(ctx context.Context, _ series.Request) ([]string, error) {
	return f.text, f.asked(ctx)
}

func (f *fakeSource) LabelValues(ctx context.Context, _ string, _ series.Request) ([]string, error) {
	return f.text, f.asked(ctx)
}

func (f *fakeSource) Exemplars(ctx context.Context, _ tenant.ID, _, _ int64, _ [][]*labels.Matcher) ([]exemplar.QueryResult, error) {
	var out []exemplar.QueryResult
	for _, s := range f.text {
		out = append(out, exemplar.QueryResult{SeriesLabels: labels.FromStrings("a", s)})
	}
	return out, f.asked(ctx)
}

func (f *fakeSource) metadata(ctx context.Context, _ tenant.ID) ([]series.MetricMetadata, error) {
	var out []series.MetricMetadata
	for _, s := range f.text {
		out = append(out, series.MetricMetadata{Metric: s})
	}
	return out, f.asked(ctx)
}

// reading is an API of a fakeSource, with an account and a gate that tests can
// inspect. Creating one is slow, so its limits can be changed.
type reading struct {
	log     kit.Buffer
	t       testing.TB
	h       http.Handler
	source  *fakeSource
	lim     limits.Limits
	now     time.Time
	account *memory.Account
	gate    *querier.Gate
	running *active.Registry
	reg     *prometheus.Registry

	held     func(context.Context) error // called by Hold; may be nil
	holding  int                         // number of slots that Hold has returned
	released int
	instant  bool       // argument of the last call of Hold
	mu       sync.Mutex // guards released

	looked func(tenant.ID) // not nil: called when limits are looked up
}

func newReading(t testing.TB, account int64) *reading {
	t.Helper()
	b := &reading{t: t, source: &fakeSource{}, lim: limits.Default(), now: time.Now().Truncate(time.Minute), reg: prometheus.NewRegistry()}
	lim := func(id tenant.ID) limits.Limits {
		if b.looked != nil {
			b.looked(id)
		}
		return b.lim
	}
	b.account, b.gate = memory.NewAccount(account, nil), querier.NewGate(b.reg)
	p := querier.NewParser(parser.Options{}, querier.MaxOperators)
	engine := querier.NewEngine(switches.Only(p), slog.New(slog.DiscardHandler), nil)
	logger := slog.New(slog.NewTextHandler(&b.log, nil))
	b.running = active.New(active.Options{Slow: time.Minute, Now: func() time.Time { return b.now }, Logger: logger})
	b.h = newAPI(Options{
		Queryable: querier.NewQueryable(b.source, func() time.Time { return b.now }, logger), Now: func() time.Time { return b.now },
		Engine: engine, Parsers: switches.Only(p), Features: engine.Features, Logger: logger,
		Metadata: b.source.metadata, Delete: func(ctx context.Context, _ Deletion) error { return b.source.asked(ctx) },
		Head:   func(context.Context, tenant.ID) (series.HeadStats, error) { return series.NoHead(), nil },
		Limits: lim, Memory: b.account, Gate: b.gate, Active: b.running, Lookback: querier.LookbackDelta,
		Hold: func(ctx context.Context, _ tenant.ID, instant bool) (func(), error) {
			b.instant = instant
			if b.held != nil {
				if err := b.held(ctx); err != nil {
					return nil, err
				}
			}
			b.holding++
			return func() {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.released++
			}, nil
		},
	})
	for i := range 500 {
		b.source.text = append(b.source.text, fmt.Sprintf("a_text_of_some_length_%03d", i))
	}
	b.fill(500, 60, 15*time.Second)
	return b
}

// fill replaces the series of the source by n series with samples up to now.
func (b *reading) fill(n, samples int, every time.Duration) {
	b.t.Helper()
	list := make([]series.Sample, 0, samples)
	for i := range samples {
		list = append(list, series.Sample{T: b.now.Add(-time.Duration(samples-1-i) * every).UnixMilli(), V: float64(i) * 1.25})
	}
	chunks, err := series.Encode(list)
	if err != nil {
		b.t.Fatal(err)
	}
	b.source.list = nil
	for i := range n {
		ls := labels.FromStrings("__name__", "m", "job", fmt.Sprintf("job-%d", i%5), "instance", fmt.Sprintf("host-%04d", i))
		b.source.list = append(b.source.list, series.WithChunks{Labels: ls, Chunks: chunks})
	}
}

// clean fails the test unless all memory, selections and slots of a request are
// released and the request is no longer listed.
func (b *reading) clean(what string) {
	b.t.Helper()
	if n := b.source.holding(); n != 0 {
		b.t.Errorf("%s: %d selections are not released", what, n)
	}
	if n := b.account.Used(); n != 0 {
		b.t.Errorf("%s: %d bytes are not released", what, n)
	}
	one := limits.Limits{MaxConcurrentQueries: 1}
	if list := b.running.List(); len(list) > 0 {
		b.t.Errorf("%s: still listed as running: %+v", what, list)
	}
	for _, id := range []tenant.ID{"a", "acme", "b"} { // the tenants of tests
		leave, err := b.gate.Enter(context.Background(), id, &one)
		if err != nil {
			b.t.Errorf("%s: the slot of %s is not released: %v", what, id, err)
			continue
		}
		leave()
	}
}

// waiting returns the number of reads that wait for a slot.
func (b *reading) waiting() float64 {
	b.t.Helper()
	families, err := b.reg.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "pallium_querier_waiting_queries" {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	b.t.Fatal("metric pallium_querier_waiting_queries not found")
	return 0
}

// readRoute is a route that reads data or parses expressions.
type readRoute struct {
	method, pattern string
	streamed        bool // remote read
	noText          bool // it has no expression or selector
	onlyParses      bool // it parses its parameters but reads no data
}

const promAPI = "/prometheus/api/v1/"

// allReadRoutes returns every route of the table that takes a slot of the gate;
// TestReadRoutes checks that it is complete.
func allReadRoutes() []readRoute {
	list := []readRoute{
		{method: "GET", pattern: "label/{name}/values"},
		{method: "GET", pattern: "metadata", noText: true},
		{method: "GET", pattern: "status/tsdb", noText: true},
		{method: "GET", pattern: "../../federate"},
		{method: "GET", pattern: "features", noText: true, onlyParses: true},
		{method: "POST", pattern: "features", noText: true, onlyParses: true},
		{method: "POST", pattern: "read"},
		{method: "POST", pattern: "read", streamed: true},
		{method: "POST", pattern: "admin/tsdb/delete_series", onlyParses: true},
		{method: "PUT", pattern: "admin/tsdb/delete_series", onlyParses: true},
	}
	for _, method := range []string{"GET", "POST"} {
		for _, pattern := range []string{"query", "query_range", "query_cost", "query_range_cost", "query_exemplars", "labels", "series", "cardinality/label_names", "cardinality/label_values",
			"cardinality/active_series", "search/metric_names", "search/label_names", "search/label_values"} {
			list = append(list, readRoute{method: method, pattern: pattern})
		}
		for _, pattern := range []string{"format_query", "parse_query"} {
			list = append(list, readRoute{method: method, pattern: pattern, onlyParses: true})
		}
	}
	return list
}

// path returns the route's path with its parameter.
func (c readRoute) path() string { return path.Join(promAPI, c.pattern) }

func (c readRoute) String() string {
	if c.streamed {
		return c.method + " " + c.pattern + ", streamed"
	}
	return c.method + " " + c.pattern
}

// deletes reports whether the route deletes series. If a deletion is interrupted, it is unknown
// whether it took effect.
func (c readRoute) deletes() bool { return strings.HasSuffix(c.pattern, "delete_series") }

// request returns a request of the route for the series of m whose label a matches a pattern or,
// without a pattern, for all series of m.
func (c readRoute) request(b *reading, pattern string) *http.Request {
	b.t.Helper()
	if c.pattern == "read" {
		return c.readRequest(b, pattern)
	}
	text := "m"
	if pattern != "" {
		text = fmt.Sprintf("m{a=~%q}", pattern)
	}
	start, end := fmt.Sprint(b.now.Add(-time.Hour).Unix()), fmt.Sprint(b.now.Unix())
	params := url.Values{"start": {start}, "end": {end}, "step": {"15"}, "time": {end}}
	params.Set("label_names[]", "job")
	params.Set("label", "job")
	if strings.HasPrefix(c.pattern, "search/") {
		params.Set("limit", "500") // all
	}
	switch {
	case c.noText:
	case strings.HasPrefix(c.pattern, "cardinality/"):
		params.Set("selector", text)
	case strings.Contains(c.pattern, "query"):
		params.Set("query", text)
	default:
		params.Set("match[]", text)
	}
	at := strings.ReplaceAll(c.path(), "{name}", "job")
	if c.method == "GET" {
		return httptest.NewRequest(c.method, at+"?"+params.Encode(), nil)
	}
	r := httptest.NewRequest(c.method, at, strings.NewReader(params.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r
}

func (c readRoute) readRequest(b *reading, pattern string) *http.Request {
	b.t.Helper()
	q := &prompb.Query{StartTimestampMs: b.now.Add(-time.Hour).UnixMilli(), EndTimestampMs: b.now.UnixMilli(),
		Matchers: []*prompb.LabelMatcher{{Type: prompb.LabelMatcher_EQ, Name: "__name__", Value: "m"}}}
	if pattern != "" {
		q.Matchers = append(q.Matchers, &prompb.LabelMatcher{Type: prompb.LabelMatcher_RE, Name: "a", Value: pattern})
	}
	req := &prompb.ReadRequest{Queries: []*prompb.Query{q}}
	if c.streamed {
		req.AcceptedResponseTypes = []prompb.ReadRequest_ResponseType{prompb.ReadRequest_STREAMED_XOR_CHUNKS}
	}
	data, err := req.Marshal()
	if err != nil {
		b.t.Fatal(err)
	}
	return httptest.NewRequest(c.method, promAPI+"read", bytes.NewReader(snappy.Encode(nil, data)))
}

// TestReadRoutes checks that allReadRoutes has all routes whose cost in the route table is Query,
// and that each responds.
func TestReadRoutes(t *testing.T) {
	b := newReading(t, 64<<20)
	var want, queries []string
	others := map[string]bool{} // routes with another cost
	for _, rt := range routes.Table() {
		for _, method := range rt.Methods {
			if rt.Cost == routes.Query {
				queries = append(queries, method+" "+rt.Upstream())
				continue
			}
			others[method+" "+rt.Upstream()] = true
		}
	}
	err := chi.Walk(b.h.(chi.Routes), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if !others[method+" "+route] {
			want = append(want, method+" "+route)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range allReadRoutes() {
		got = append(got, c.method+" "+c.path())
		for _, pattern := range []string{"", "x|y"} {
			if w := do(b.h, as("a", c.request(b, pattern))); w.Code/100 != 2 {
				t.Errorf("%s: %d %s", c, w.Code, w.Body)
			}
		}
		b.clean(c.String())
	}
	slices.Sort(want)
	slices.Sort(got)
	if got = slices.Compact(got); !slices.Equal(got, want) {
		t.Errorf("allReadRoutes has %v, the API serves %v", got, want)
	}
	if slices.Sort(queries); !slices.Equal(got, queries) {
		t.Errorf("routes tested as queries = %v, the route table has %v", got, queries)
	}
}

// rejection is an expected error response.
type rejection struct {
	code int
	text string
}

// check checks an error response and its headers.
func (b *reading) check(what string, w *httptest.ResponseRecorder, want rejection) {
	b.t.Helper()
	if w.Code != want.code || !strings.Contains(w.Body.String(), want.text) {
		b.t.Errorf("%s: %d %.300s, want %d with %q", what, w.Code, w.Body, want.code, want.text)
	}
	again := want.code == http.StatusServiceUnavailable || want.code == http.StatusTooManyRequests
	if got := w.Header().Get("Retry-After") != ""; got != again {
		b.t.Errorf("%s: status %d has Retry-After: %v", what, w.Code, got)
	}
	if strings.Contains(w.Body.String(), "acme") {
		b.t.Errorf("%s: the response names another tenant: %s", what, w.Body)
	}
}
