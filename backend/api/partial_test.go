package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/cache/memory"
	"github.com/palliumhq/pallium/backend/frontend"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/limits"
)

// halfBroken is a source with one day that cannot be read.
type halfBroken struct{ broken }

func (b halfBroken) Select(_ context.Context, req series.Request) (*series.Selection, error) {
	if !req.Partial {
		return nil, b.err
	}
	chunks, err := series.Encode([]series.Sample{{T: 20_000 * series.DayMillis, V: 1}})
	return &series.Selection{Missing: []series.MissingDay{{Day: 19_999, Err: b.err}},
		Series: []series.WithChunks{{Labels: labels.FromStrings("__name__", "up"), Chunks: chunks}}}, err
}

// TestPartialResponse checks that queries leave out days that cannot be read only with
// partial_response=true, that the response says so, and that such a query does not use the results
// cache.
func TestPartialResponse(t *testing.T) {
	p := parser.NewParser(parser.Options{})
	engine := querier.NewEngine(switches.Only(p), slog.New(slog.DiscardHandler), nil)
	now := func() time.Time { return time.UnixMilli(20_002 * series.DayMillis) }
	looks := 0
	front := frontend.New(frontend.Options{Evaluator: engine, Parsers: switches.Only(p), Cache: memory.New(1<<20, nil), Now: now,
		Versions: func(context.Context, tenant.ID, int64, int64) (series.Versions, error) {
			looks++
			return series.Versions{}, errors.New("no versions")
		}})
	h := newAPI(Options{Queryable: querier.NewQueryable(halfBroken{broken{errors.New("file-7 is damaged")}}, now, nil), Parsers: switches.Only(p),
		Limits: func(tenant.ID) limits.Limits { return limits.Default() }, Lookback: querier.LookbackDelta, Engine: front})
	const whole = "query_range?query=up&start=1728000000&end=1728003600&step=60"
	const instant = "query?query=up&time=1728000000"
	for _, tt := range []struct {
		path, body string
		code       int
		contains   string
		looks      int
	}{
		{whole, "", http.StatusServiceUnavailable, "unavailable", 1},
		{whole + "&partial_response=false", "", http.StatusServiceUnavailable, "unavailable", 1},
		{whole + "&partial_response=", "", http.StatusServiceUnavailable, "unavailable", 1},
		{whole + "&partial_response=true", "", http.StatusOK, `"warnings":["partial response: samples of 2024-10-03 (UTC)`, 0},
		{"query_range", strings.TrimPrefix(whole, "query_range?") + "&partial_response=1", http.StatusOK, `2024-10-03`, 0},
		{whole + "&partial_response=yes", "", http.StatusBadRequest, "must be true or false", 0},
		{instant, "", http.StatusServiceUnavailable, "unavailable", 0},
		{instant + "&partial_response=true", "", http.StatusOK, `"warnings":["partial response: samples of 2024-10-03 (UTC)`, 0},
		{"series?match[]=up&partial_response=true", "", http.StatusServiceUnavailable, "unavailable", 0},
		{"query_exemplars?query=up&start=1&end=2&partial_response=true", "", http.StatusServiceUnavailable, "unavailable", 0},
	} {
		looks = 0
		method := http.MethodGet
		if tt.body != "" {
			method = http.MethodPost
		}
		r := httptest.NewRequest(method, "/prometheus/api/v1/"+tt.path, strings.NewReader(tt.body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r = r.WithContext(tenant.NewContext(r.Context(), tenant.Access{Tenant: "acme", Policy: tenant.Unrestricted()}))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.contains) || strings.Contains(w.Body.String(), "file-7") || (looks > 0) != (tt.looks > 0) {
			t.Errorf("%s %s: %d %s; versions were read %d times", tt.path, tt.body, w.Code, w.Body, looks)
		}
	}
}
