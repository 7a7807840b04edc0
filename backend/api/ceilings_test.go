package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/authn/tenant"
	cachememory "github.com/palliumhq/pallium/backend/cache/memory"
	"github.com/palliumhq/pallium/backend/frontend"
	"github.com/palliumhq/pallium/backend/frontend/dispatch"
	"github.com/palliumhq/pallium/backend/frontend/join"
	"github.com/palliumhq/pallium/backend/frontend/queue"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/limits"
)

// withFrontend returns an API over a backend's samples with all layers of a query frontend: equal
// queries are joined, ranges are divided, their results are cached, and parts wait for slots.
func withFrontend(t *testing.T, b *backend) (http.Handler, *prometheus.Registry) {
	t.Helper()
	reg, now := prometheus.NewRegistry(), func() time.Time { return b.now }
	p := switches.Only(parser.NewParser(parser.Options{}))
	engine := querier.NewEngine(p, slog.New(slog.DiscardHandler), nil)
	d := dispatch.New(dispatch.Options{Engine: engine, Queue: queue.New(queue.Options{MaxShare: 1, Now: now, Registerer: reg}), Timer: time.After, Now: now,
		Logger: slog.New(slog.DiscardHandler), Registerer: reg})
	for range 3 {
		go d.ServeHere(t.Context())
	}
	versions := func(context.Context, tenant.ID, int64, int64) (series.Versions, error) {
		return series.Versions{Domains: map[string]int{"i": 1}, Needed: 1,
			Ingesters: []series.IngesterVersion{{Instance: "i", Epoch: 1, Changes: 1, Bound: b.now.UnixMilli(), Domain: "i"}}}, nil
	}
	front := frontend.New(frontend.Options{Evaluator: d, Parsers: p, Now: now, Cache: cachememory.New(64<<20, prometheus.NewRegistry()), Versions: versions, Workers: 2,
		Engine: split.Options{Lookback: querier.LookbackDelta, SubqueryStep: querier.SubqueryStep}, Registerer: reg})
	top := join.New(join.Options{Engine: front, Request: engine.Request, Uncached: frontend.Uncached, Faults: querier.NoteFaults,
		Unreadable: engine.Unreadable, Interrupted: engine.Interrupted, Timer: time.After, Registerer: reg})
	return newAPI(Options{Queryable: querier.NewQueryable(recentOnly{b.ing}, now, nil), Parsers: p, Engine: top,
		Limits: func(tenant.ID) limits.Limits { return b.lim }, Lookback: querier.LookbackDelta}), reg
}

// TestCeilingsOfDividedQueries checks that ceilings and costs apply to the whole query, although a
// query without ceilings is answered in parts and from the cache.
func TestCeilingsOfDividedQueries(t *testing.T) {
	b := newBackend(t)
	end := b.now.Truncate(24 * time.Hour)
	for at := end.Add(-72 * time.Hour); at.Before(end); at = at.Add(10 * time.Minute) {
		b.writeAt("a", fmt.Sprint("day_", (end.Sub(at)-1)/(24*time.Hour)), 2, at) // two series of each day
	}
	h, reg := withFrontend(t, b)
	ask := func(more string) (int, priced) {
		params := url.Values{"query": {`sum({__name__=~"day_.*"})`}, "start": {fmt.Sprint(end.Add(-72 * time.Hour).Unix())}, "end": {fmt.Sprint(end.Add(-10 * time.Minute).Unix())}, "step": {"600"}}
		w := do(h, as("a", httptest.NewRequest(http.MethodGet, "/prometheus/api/v1/query_range?"+params.Encode()+more, nil)))
		return w.Code, pricedAnswer(t, w)
	}
	for range 2 {
		if code, a := ask(""); code != http.StatusOK {
			t.Fatalf("%d %+v", code, a)
		}
	}
	if n := counter(t, reg, "pallium_frontend_steps_total", "cache"); n < 200 {
		t.Fatalf("%g steps from the cache: the query is not answered in parts", n)
	}
	code, a := ask("&cost=true")
	const samples = 2 * 3 * 24 * 6
	if code != http.StatusOK || a.Data.Cost == nil || a.Data.Cost.Actual.SeriesTouched != 6 || a.Data.Cost.Actual.SamplesRead != samples {
		t.Errorf("cost: %d %+v %+v", code, a, a.Data.Cost)
	}
	for _, tt := range []struct {
		more, kind string
		code       int
	}{
		{"&max_series=6", "", 200}, {"&max_series=5", "cost_limit", 422}, {"&max_series=2", "cost_limit", 422}, // less than all days have, and enough for one day
		{fmt.Sprint("&max_samples_read=", samples), "", 200}, {fmt.Sprint("&max_samples_read=", samples-1), "cost_limit", 422},
		{"&max_series=6&max_samples_read=300", "cost_limit", 422}, {"&max_query_duration=1m", "", 200}, {"&max_series=500001", "bad_data", 400},
	} {
		if code, a := ask(tt.more); code != tt.code || a.ErrorType != tt.kind {
			t.Errorf("%s: %d %+v", tt.more, code, a)
		}
	}
}

// counter returns the value of the counter whose first label has the given value ("": any value),
// or 0 if there is none.
func counter(t *testing.T, reg *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// TestMemoryOfEstimates checks that an estimate uses less memory than a response with the labels of
// the same series.
func TestMemoryOfEstimates(t *testing.T) {
	b := newReading(t, 1<<30)
	b.lim.MaxMemoryBytes = 64 << 10
	for path, code := range map[string]int{"query_cost?query=m": http.StatusOK, "series?match[]=m": http.StatusUnprocessableEntity} {
		if w := do(b.h, as("a", httptest.NewRequest(http.MethodGet, promAPI+path, nil))); w.Code != code {
			t.Errorf("%s: %d %s, want %d", path, w.Code, w.Body, code)
		}
		b.clean(path)
	}
}
