package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/api"
	"github.com/palliumhq/pallium/backend/distributor"
	"github.com/palliumhq/pallium/backend/election"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/limits"
)

// recentOnly is a source that reads only an ingester.
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

// backendWith returns the API over n series of the last hours, and the time of the last sample.
func backendWith(t *testing.T, n int, hours time.Duration) (http.Handler, time.Time) {
	t.Helper()
	end := time.Now().Truncate(time.Minute)
	clock := func() time.Time { return end }
	lim := limits.Default()
	lim.SamplesPerSecond = 0
	of := func(tenant.ID) limits.Limits { return lim }
	ing, err := ingester.Open(context.Background(), ingester.Options{ID: "i", Dir: t.TempDir(), Limits: of, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ing.Close() })
	dist := distributor.New(distributor.Options{Local: ing, Now: clock, HA: distributor.NewHA(distributor.HAOptions{Store: election.NewMemory(clock), Now: clock})})
	p := switches.Only(parser.NewParser(parser.Options{}))
	h, err := api.New(api.Options{Push: dist.Push, Queryable: querier.NewQueryable(recentOnly{ing}, clock, nil), Parsers: p, Limits: of, Lookback: querier.LookbackDelta,
		Engine: querier.NewEngine(p, slog.New(slog.DiscardHandler), nil), Now: clock,
		Metadata:    func(_ context.Context, id tenant.ID) ([]series.MetricMetadata, error) { return ing.Metadata(id), nil },
		SeriesCount: func(_ context.Context, id tenant.ID) (int, error) { return ing.SeriesCount(id), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	g := newGenerator(n, 15*time.Second, end.Add(-hours))
	for g.next.Before(end) {
		bodies, err := g.bodies(perSeries)
		if err != nil {
			t.Fatal(err)
		}
		for _, body := range bodies {
			r := request(http.MethodPost, "/api/v1/push", bytes.NewReader(body))
			w := httptest.NewRecorder()
			if h.ServeHTTP(w, r); w.Code/100 != 2 {
				t.Fatalf("push: %d %s", w.Code, w.Body)
			}
		}
	}
	return h, end
}

func request(method, target string, body *bytes.Reader) *http.Request {
	r := httptest.NewRequest(method, target, body)
	return r.WithContext(tenant.NewContext(r.Context(), tenant.Access{Tenant: "load", Policy: tenant.Unrestricted()}))
}

// TestEstimates compares the estimated cost of typical queries with the actual cost, and logs a
// table. The numbers of series must be equal, the numbers of float samples within a factor of two.
func TestEstimates(t *testing.T) {
	h, end := backendWith(t, 400, 26*time.Hour)
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "series, estimated\tused\tsamples, estimated\tused\tratio\tquery")
	for _, p := range panels(time.Hour) {
		q := p.at(end)
		params := url.Values{"query": {q.text}, "start": {fmt.Sprint(q.start.Unix())}, "end": {fmt.Sprint(q.end.Unix())}, "step": {fmt.Sprint(q.step.Seconds())}, "cost": {"true"}}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, request(http.MethodGet, "/prometheus/api/v1/query_range?"+params.Encode(), bytes.NewReader(nil)))
		var a struct {
			Data struct{ Cost *v1.QueryCostComparison }
		}
		if err := json.Unmarshal(rec.Body.Bytes(), &a); err != nil || a.Data.Cost == nil {
			t.Fatalf("%s: %d %.300s", q.text, rec.Code, rec.Body)
		}
		want, got := a.Data.Cost.Estimated, a.Data.Cost.Actual
		ratio := float64(want.SamplesRead) / float64(got.SamplesRead)
		fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%.2f\t%s\n", want.SeriesTouched, got.SeriesTouched, want.SamplesRead, got.SamplesRead, ratio, q.text)
		if want.SeriesTouched != got.SeriesTouched {
			t.Errorf("%s: %d series estimated, %d used", q.text, want.SeriesTouched, got.SeriesTouched)
		}
		histograms := strings.Contains(q.text, "rpc_duration_seconds")
		if got.SamplesRead > 0 && !histograms && (ratio < 0.5 || ratio > 2) {
			t.Errorf("%s: %d samples estimated, %d used", q.text, want.SamplesRead, got.SamplesRead)
		}
	}
	_ = w.Flush()
	t.Log("\n" + table.String())
}
