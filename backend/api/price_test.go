package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/route"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/test/kit"
)

// Limits in the tests of costs, set as a tenant's limits and in Prometheus' configuration.
const (
	mostSeries  = 50
	mostSamples = 20_000
)

// pricedSamples returns 30 series of two metrics over two hours; some of them end early.
func pricedSamples(end time.Time) *prompb.WriteRequest {
	req := &prompb.WriteRequest{}
	for i := range 30 {
		metric := []string{"a", "b", "b"}[i%3]
		ts := prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: metric}, {Name: "i", Value: fmt.Sprint(100 + i)}, {Name: "job", Value: fmt.Sprint(i % 4)}}}
		for at := 2 * time.Hour; at >= time.Duration(i%5)*10*time.Minute; at -= 15 * time.Second {
			ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: end.Add(-at).UnixMilli(), Value: float64(i)})
		}
		req.Timeseries = append(req.Timeseries, ts)
	}
	return req
}

// push sends a write request of a tenant.
func push(t testing.TB, h http.Handler, id tenant.ID, req *prompb.WriteRequest) {
	t.Helper()
	data, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/api/v1/push", bytes.NewReader(snappy.Encode(nil, data)))
	if w := do(h, as(id, r)); w.Code != http.StatusNoContent {
		t.Fatalf("push: %d %s", w.Code, w.Body)
	}
}

// plainStorage hides the methods by which a TSDB counts samples for an estimate.
type plainStorage struct {
	storage.SampleAndChunkQueryable
}

// pricedReference returns Prometheus' own API with the feature query-cost, over a TSDB with the
// samples of a request.
func pricedReference(t *testing.T, req *prompb.WriteRequest) http.Handler {
	t.Helper()
	db := tsdbOf(t, req, nil)
	p := parser.NewParser(parser.Options{})
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1 << 30, Timeout: 2 * time.Minute, LookbackDelta: querier.LookbackDelta, Parser: p,
		EnableAtModifier: true, EnableNegativeOffset: true, EnableQueryCost: true, NoStepSubqueryIntervalFn: func(int64) int64 { return querier.SubqueryStep.Milliseconds() }})
	engine.SetQueryLimits(mostSeries, mostSamples, 0)
	global := config.GlobalConfig{ScrapeInterval: model.Duration(15 * time.Second), EvaluationInterval: model.Duration(querier.SubqueryStep),
		QueryMaxSeries: mostSeries, QueryMaxSamplesRead: mostSamples}
	api := v1.NewAPI(engine, plainStorage{db}, nil, nil, nil, nil, nil,
		func() config.Config { return config.Config{GlobalConfig: global} }, nil, v1.GlobalURLOptions{}, func(h http.HandlerFunc) http.HandlerFunc { return h },
		nil, "", false, true, 10000, slog.New(slog.DiscardHandler), nil, 1, 1, 1, false, nil, nil, &v1.PrometheusVersion{}, nil, nil, nil, nil, nil,
		false, nil, false, false, false, querier.LookbackDelta, false, false, nil, nil, v1.OpenAPIOptions{}, p, true, 2*time.Minute)
	router := route.New()
	api.Register(router)
	return http.StripPrefix("/prometheus/api/v1", router)
}

// priced is an answer to a query, or to an estimate.
type priced struct {
	Status, ErrorType, Error string
	Data                     struct {
		Cost     *v1.QueryCostComparison
		Estimate *v1.CostEstimate
	}
	Warnings []string
}

func pricedAnswer(t *testing.T, w *httptest.ResponseRecorder) priced {
	t.Helper()
	var a priced
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	return a
}

// TestCostLikePrometheus compares costs, estimates and errors with those of Prometheus' own API
// over the same samples, with the same limits.
func TestCostLikePrometheus(t *testing.T) {
	b := newBackend(t)
	b.lim.MaxQuerySeries, b.lim.MaxQuerySamples = mostSeries, mostSamples
	req := pricedSamples(b.now)
	push(t, b.h, "a", req)
	push(t, b.h, "b", pricedSamples(b.now.Add(-time.Minute))) // not read by queries of tenant a
	reference := pricedReference(t, req)

	at := func(d time.Duration) string { return fmt.Sprint(b.now.Add(-d).Unix()) }
	instant := func(more ...string) url.Values {
		return with(url.Values{"time": {at(time.Minute)}}, more...)
	}
	ranged := func(more ...string) url.Values {
		return with(url.Values{"start": {at(time.Hour)}, "end": {at(time.Minute)}, "step": {"60"}}, more...)
	}
	var all []url.Values
	for _, text := range []string{
		"a", "b", `{__name__=~"a|b"}`, "none", "1", "a + on(i) a", "sum(rate(a[5m]))", "sum by (job) (rate(b[1h])) / 2", "a offset 30m", "rate(a[5m] offset 90m)",
		"a @ end()", "max_over_time(sum(rate(a[5m]))[30m:1m])", "avg_over_time(a[20m:])", "count(b) or count(a)", "topk(2, a)", "a[10m]", "rate(a[5m]", "a(", `"text"`, "",
	} {
		all = append(all, url.Values{"query": {text}, "cost": {"true"}})
	}
	for _, ceiling := range []string{
		"max_series=9", "max_series=10", "max_series=50", "max_series=51", "max_series=0", "max_series=x", "max_series=-1", "max_series=99999999999999999999",
		"max_samples_read=1", "max_samples_read=599", "max_samples_read=600", "max_samples_read=2500", "max_samples_read=20000", "max_samples_read=20001", "max_samples_read=1.5",
		"max_query_duration=1m", "max_query_duration=2m", "max_query_duration=121", "max_query_duration=-1", "max_query_duration=soon", "max_query_duration=NaN", "max_query_duration=1e300",
		"max_query_duration=0", "max_series=10&max_samples_read=5", "max_series=5&max_samples_read=5000&max_query_duration=30s", "cost=maybe", "cost=false", "cost=", "cost=1",
		"cost=true&max_series=20", "cost=true&max_series=3", "cost=true&limit=1", "limit=x", "timeout=-1", "lookback_delta=1m&cost=1", "cost=1&stats=all",
	} {
		set, err := url.ParseQuery(ceiling)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"sum(a)", "sum(a) + sum(a)", "sum(rate(a[5m]))"} {
			q := url.Values{"query": {text}}
			for k, v := range set {
				q[k] = v
			}
			all = append(all, q)
		}
	}
	kinds := map[string]int{} // of answers
	for _, q := range all {
		for path, times := range map[string]url.Values{"query": instant(), "query_range": ranged(), "query_cost": instant(), "query_range_cost": ranged()} {
			target := "/prometheus/api/v1/" + path
			params := url.Values{}
			for _, from := range []url.Values{q, times} {
				for k, v := range from {
					params[k] = v
				}
			}
			ours, theirs := b.get("a", target, params), do(reference, as("a", httptest.NewRequest(http.MethodGet, target+"?"+params.Encode(), nil)))
			got, want := pricedAnswer(t, ours), pricedAnswer(t, theirs)
			if got.ErrorType == "cost_limit" { // Pallium's text says more
				if !strings.Contains(got.Error, "limit max_series of ") && !strings.Contains(got.Error, "limit max_samples_read of ") {
					t.Errorf("%s %v: %s", path, q, got.Error)
				}
				got.Error = want.Error
			}
			kinds[want.ErrorType]++
			if c := want.Data.Cost; c != nil && c.Actual.SamplesRead > 0 && c.Estimated.SeriesTouched > 0 && c.Actual.PeakSamples > 0 {
				kinds["cost"]++
			}
			if ours.Code != theirs.Code || !reflect.DeepEqual(got, want) {
				t.Errorf("%s %v: %d %s\nwant %d %s", path, q, ours.Code, ours.Body, theirs.Code, theirs.Body)
			}
		}
	}
	for _, kind := range []string{"", "bad_data", "cost_limit", "cost"} {
		if kinds[kind] < 10 {
			t.Errorf("only %d answers were of kind %q: %v", kinds[kind], kind, kinds)
		}
	}
}

// with returns parameters with more names and values.
func with(v url.Values, more ...string) url.Values {
	for i := 0; i < len(more); i += 2 {
		v.Add(more[i], more[i+1])
	}
	return v
}

// TestCeilingsOfTenants checks that ceilings are compared with the limits of the request's tenant,
// and that exceeding a limit is not reported as exceeding a ceiling.
func TestCeilingsOfTenants(t *testing.T) {
	b := newBackend(t)
	b.write("a", "up", 5)
	b.write("b", "up", 5)
	base := b.lim
	b.looked = func(id tenant.ID) {
		b.lim = base
		b.lim.MaxQuerySeries, b.lim.MaxQuerySamples, b.lim.QueryTimeout = 100, 1000, limits.Duration(time.Minute)
		if id == "b" {
			b.lim.MaxQuerySeries, b.lim.MaxQuerySamples, b.lim.QueryTimeout = 3, 0, 0
		}
	}
	for _, tt := range []struct {
		name   string
		tenant tenant.ID
		params url.Values
		code   int
		kind   string
		text   string
	}{
		{"within the limit", "a", url.Values{"max_series": {"100"}}, 200, "", ""},
		{"above the limit", "a", url.Values{"max_series": {"101"}}, 400, "bad_data", "requested max_series of 101 exceeds the server limit of 100"},
		{"above that of another tenant only", "a", url.Values{"max_series": {"5"}}, 200, "", ""},
		{"above the limit of b", "b", url.Values{"max_series": {"5"}}, 400, "bad_data", "requested max_series of 5 exceeds the server limit of 3"},
		{"limit of b, without a ceiling", "b", nil, 422, "execution", "limit max_query_series of 3 series exceeded"},
		{"limit of b, with cost", "b", url.Values{"cost": {"true"}}, 422, "execution", "limit max_query_series of 3 series exceeded"},
		{"limit of b, with a ceiling on samples", "b", url.Values{"max_samples_read": {"2000"}}, 422, "execution", "limit max_query_series of 3 series exceeded"},
		{"ceiling of b", "b", url.Values{"max_series": {"3"}}, 422, "cost_limit", "limit max_series of 3 series exceeded: the selectors of the query select more together; select fewer series, or request a higher ceiling"},
		{"no limit on samples", "b", url.Values{"max_samples_read": {"999999"}, "query": {`up{i="1"}`}}, 200, "", ""},
		{"samples above the limit", "a", url.Values{"max_samples_read": {"1001"}}, 400, "bad_data", "requested max_samples_read of 1001 exceeds the server limit of 1000"},
		{"samples", "a", url.Values{"max_samples_read": {"4"}}, 422, "cost_limit", "limit max_samples_read of 4 samples exceeded: the query reads more; select fewer series or a shorter range, or request a higher ceiling"},
		{"enough samples", "a", url.Values{"max_samples_read": {"5"}}, 200, "", ""},
		{"time", "a", url.Values{"max_query_duration": {"1m"}}, 200, "", ""},
		{"time above the limit", "a", url.Values{"max_query_duration": {"61"}}, 400, "bad_data", "requested max_query_duration of 1m1s exceeds the server limit of 1m0s"},
		{"no limit on time", "b", url.Values{"max_query_duration": {"90d"}, "query": {`up{i="1"}`}}, 200, "", ""},
		{"too little time", "a", url.Values{"max_query_duration": {"1e-9"}}, 503, "timeout", "limit query_timeout of 0s exceeded: the query took longer than max_query_duration of the request"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			params := with(url.Values{}, "start", "0", "end", "1", "step", "1")
			params.Set("query", "up")
			for k, v := range tt.params {
				params[k] = v
			}
			w := b.get(tt.tenant, "/prometheus/api/v1/query", params)
			a := pricedAnswer(t, w)
			if w.Code != tt.code || a.ErrorType != tt.kind || !strings.Contains(a.Error, tt.text) {
				t.Errorf("%d %s, want %d %s %q", w.Code, w.Body, tt.code, tt.kind, tt.text)
			}
			if tt.code != 400 {
				return
			}
			for _, path := range []string{"query_range", "query_cost", "query_range_cost"} {
				if w := b.get(tt.tenant, "/prometheus/api/v1/"+path, params); w.Code != 400 || !strings.Contains(w.Body.String(), tt.text) {
					t.Errorf("%s: %d %s", path, w.Code, w.Body)
				}
			}
		})
	}
	if w := b.get("b", "/prometheus/api/v1/query_cost", url.Values{"query": {"up"}}); w.Code != 422 || pricedAnswer(t, w).ErrorType != "execution" {
		t.Errorf("an estimate above the tenant's limit: %d %s", w.Code, w.Body)
	}
}

// asking is a source that records the selections.
type asking struct {
	recentOnly
	asked []series.Request
}

func (s *asking) Select(ctx context.Context, req series.Request) (*series.Selection, error) {
	s.asked = append(s.asked, req)
	return s.recentOnly.Select(ctx, req)
}

// TestEstimatesReadNoSamples checks that estimates select only labels, that a ceiling lowers the
// series limit of a query's selections, and that the tenant's limit applies to an estimate.
func TestEstimatesReadNoSamples(t *testing.T) {
	b := newBackend(t)
	b.write("a", "up", 5)
	source := &asking{recentOnly: recentOnly{b.ing}}
	p := switches.Only(parser.NewParser(parser.Options{}))
	account := memory.NewAccount(1<<30, nil)
	h := newAPI(Options{Queryable: querier.NewQueryable(source, func() time.Time { return b.now }, nil), Parsers: p, Memory: account,
		Engine: querier.NewEngine(p, slog.New(slog.DiscardHandler), nil), Limits: func(tenant.ID) limits.Limits { return b.lim }, Lookback: querier.LookbackDelta})
	for _, tt := range []struct {
		path, more string
		want       []series.Request // only what is compared
	}{
		{"query_cost", "", []series.Request{{LabelsOnly: true, MaxSeries: 500_000}}},
		{"query_cost", "&max_series=7", []series.Request{{LabelsOnly: true, MaxSeries: 500_000}}},
		{"query", "", []series.Request{{MaxSeries: 500_000}}},
		{"query", "&max_series=7", []series.Request{{MaxSeries: 7}}},
		{"query", "&cost=true", []series.Request{{LabelsOnly: true, MaxSeries: 500_000}, {MaxSeries: 500_000}}},
	} {
		source.asked = nil
		w := do(h, as("a", httptest.NewRequest(http.MethodGet, "/prometheus/api/v1/"+tt.path+"?query=up"+tt.more, nil)))
		var got []series.Request
		for _, r := range source.asked {
			if r.Tenant != "a" {
				t.Errorf("%+v", r)
			}
			got = append(got, series.Request{LabelsOnly: r.LabelsOnly, MaxSeries: r.MaxSeries})
		}
		if w.Code != http.StatusOK || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s%s: %d, selections %+v, want %+v", tt.path, tt.more, w.Code, got, tt.want)
		}
	}
	kit.Until(t, "all memory is released", func() bool { return account.Used() == 0 })
}

// TestCeilingOfTimeWhileWaiting checks that the time in the tenant's queue counts for
// max_query_duration.
func TestCeilingOfTimeWhileWaiting(t *testing.T) {
	b := newReading(t, 1<<30)
	b.lim.MaxConcurrentQueries, b.lim.QueryTimeout = 1, limits.Duration(5*time.Second)
	leave := b.occupy("a")
	defer leave()
	for _, path := range []string{"query", "query_range", "query_cost", "query_range_cost"} {
		params := url.Values{"query": {"m"}, "start": {"0"}, "end": {"1"}, "step": {"1"}, "max_query_duration": {"0.01"}}
		w := do(b.h, as("a", httptest.NewRequest(http.MethodGet, promAPI+path+"?"+params.Encode(), nil)))
		if a := pricedAnswer(t, w); w.Code != http.StatusServiceUnavailable || a.ErrorType != "timeout" || !strings.Contains(a.Error, "max_query_duration of the request") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

// TestBlockedQueries checks which requests of a tenant its list rejects.
func TestBlockedQueries(t *testing.T) {
	b := newBackend(t)
	b.write("a", "up", 3)
	b.write("b", "up", 3)
	base := b.lim
	list := "sum(up)\n~.*rate\\(.*"
	b.looked = func(id tenant.ID) {
		if b.lim = base; id == "a" {
			b.lim.BlockedQueries = list
		}
	}
	now := strconv.FormatInt(b.now.Unix(), 10)
	ask := func(method string, id tenant.ID, path, query string) *httptest.ResponseRecorder {
		params := url.Values{"query": {query}, "match[]": {"up"}, "start": {now}, "end": {now}, "step": {"1"}}
		r := httptest.NewRequest(method, "/prometheus/api/v1/"+path+"?"+params.Encode(), nil)
		if method == http.MethodPost {
			r = httptest.NewRequest(method, "/prometheus/api/v1/"+path, strings.NewReader(params.Encode()))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		return do(b.h, as(id, r))
	}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		for _, path := range []string{"query", "query_range", "query_exemplars", "query_cost", "query_range_cost"} {
			for query, line := range map[string]string{
				"sum(up)": "sum(up)", "\n sum(up) ": "sum(up)", "max(\n  rate(up[5m])\n)": `~.*rate\(.*`, "sum (up)": "", "up": "", "rated": "",
			} {
				w := ask(method, "a", path, query)
				if line == "" {
					if w.Code != http.StatusOK {
						t.Errorf("%s %s %q: %d %s", method, path, query, w.Code, w.Body)
					}
					continue
				}
				want := fmt.Sprintf("the query is blocked by the administrator: limit blocked_queries has %q; change the query, or ask the administrator", line)
				if a := pricedAnswer(t, w); w.Code != http.StatusUnprocessableEntity || a.ErrorType != "execution" || a.Error != want {
					t.Errorf("%s %s %q: %d %s, want %q", method, path, query, w.Code, w.Body, want)
				}
				if w := ask(method, "b", path, query); w.Code != http.StatusOK {
					t.Errorf("tenant b: %s %s %q: %d %s", method, path, query, w.Code, w.Body)
				}
			}
		}
		for _, path := range []string{"labels", "series", "format_query", "parse_query"} {
			if w := ask(method, "a", path, "sum(up)"); w.Code != http.StatusOK {
				t.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
			}
		}
	}
	if w := ask(http.MethodGet, "a", "query", "sum(up)&max_series=x"); w.Code == http.StatusUnprocessableEntity {
		t.Errorf("another query: %d %s", w.Code, w.Body)
	}
	for _, more := range []string{"max_series=1000", "cost=true", "max_query_duration=1m"} { // with a price
		if w := do(b.h, as("a", httptest.NewRequest(http.MethodGet, "/prometheus/api/v1/query?query=sum(up)&"+more, nil))); w.Code != http.StatusUnprocessableEntity {
			t.Errorf("with %s: %d %s", more, w.Code, w.Body)
		}
	}
	list = "up"
	if w := ask(http.MethodGet, "a", "query", "sum(up)"); w.Code != http.StatusOK {
		t.Errorf("after the list has changed: %d %s", w.Code, w.Body)
	}
	if w := ask(http.MethodGet, "a", "query", "up"); w.Code != http.StatusUnprocessableEntity {
		t.Errorf("new list: %d %s", w.Code, w.Body)
	}
	base.MaxQueryLength = 4
	list = "~.*"
	if w := ask(http.MethodGet, "a", "query", "sum(up)"); !strings.Contains(w.Body.String(), "limit max_query_length of 4 bytes exceeded") {
		t.Errorf("too long: %d %s", w.Code, w.Body)
	}
}
