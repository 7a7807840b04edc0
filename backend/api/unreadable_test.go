package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/frontend/dispatch"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/limits"
)

// broken is a source whose methods fail.
type broken struct{ err error }

func (b broken) Select(context.Context, series.Request) (*series.Selection, error) { return nil, b.err }
func (b broken) LabelNames(context.Context, series.Request) ([]string, error)      { return nil, b.err }
func (b broken) LabelValues(context.Context, string, series.Request) ([]string, error) {
	return nil, b.err
}
func (b broken) Exemplars(context.Context, tenant.ID, int64, int64, [][]*labels.Matcher) ([]exemplar.QueryResult, error) {
	return nil, b.err
}

// TestUnreadable checks on routes that select series that the response to a read error is 503, and
// to an exceeded limit 422.
func TestUnreadable(t *testing.T) {
	lim := func(tenant.ID) limits.Limits { return limits.Default() }
	for name, tc := range map[string]struct {
		err  error
		code int
		text string // of the answer
	}{
		"unreadable": {errors.New("file-7 is damaged"), http.StatusServiceUnavailable, ""},
		"limit":      {limits.MaxQuerySeries.ExceededAt(1, 2), http.StatusUnprocessableEntity, "max_query_series"},
		"lost":       {fmt.Errorf("%w: file-7", series.ErrLost), http.StatusServiceUnavailable, "pallium loss accept"},
	} {
		p := parser.NewParser(parser.Options{})
		h := newAPI(Options{Queryable: querier.NewQueryable(broken{tc.err}, time.Now, nil), Parsers: switches.Only(p), Limits: lim, Lookback: querier.LookbackDelta,
			Head:   func(context.Context, tenant.ID) (series.HeadStats, error) { return series.NoHead(), nil },
			Engine: querier.NewEngine(switches.Only(p), slog.New(slog.DiscardHandler), nil)})
		for _, path := range []string{"query?query=up", "query_range?query=up&start=1&end=2&step=1", "series?match[]=up", "labels", "label/job/values",
			"query_exemplars?query=up&start=1&end=2", "status/tsdb", "cardinality/label_names", "cardinality/label_values?label_names[]=i",
			"cardinality/active_series?selector=up", "search/metric_names", "search/label_names", "search/label_values?label=i"} {
			r := httptest.NewRequest(http.MethodGet, "/prometheus/api/v1/"+path, nil)
			r = r.WithContext(tenant.NewContext(r.Context(), tenant.Access{Tenant: "acme", Policy: tenant.Unrestricted()}))
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != tc.code || strings.Contains(w.Body.String(), "file-7") || !strings.Contains(w.Body.String(), tc.text) {
				t.Errorf("%s: %s: %d %s", name, path, w.Code, w.Body)
			}
		}
	}
}

// TestOneBody checks that the response to a temporary error is 503 with the same text on every read
// route, without internal details.
func TestOneBody(t *testing.T) {
	for _, tt := range []struct {
		err  error
		text string
	}{
		{errors.New("file-7 is damaged"), "internal error; send the request again"},
		{fmt.Errorf("%w: zone file-7", peers.ErrTooFew), "too few ingesters are available; send the request again"},
		{fmt.Errorf("read: %w: file-7", ring.ErrTooFew), "too few ingesters are available; send the request again"},
		{fmt.Errorf("%w: %w: file-7", peers.ErrTooFew, peers.ErrLost), "samples of this time range were lost with ingesters of several zones; " +
			"queries outside the range work; to query it without the lost samples, an operator runs: pallium loss accept DAY"},
		{fmt.Errorf("%w: file-7", dispatch.ErrNoQuerier), "no querier is connected to the query frontend; send the request again"},
		{fmt.Errorf("%w: file-7", series.ErrLost), series.ErrLost.Error()},
		{fmt.Errorf("%w: file-7", memory.ErrFull), memory.ErrFull.Error() + "; send the request again"},
	} {
		b := newReading(t, 1<<30)
		b.source.set(func(context.Context) error { return tt.err })
		for _, c := range allReadRoutes() {
			if strings.HasSuffix(c.pattern, "_query") || c.pattern == "features" {
				continue // they read nothing
			}
			w := do(b.h, as("acme", c.request(b, "")))
			text := strings.TrimSuffix(w.Body.String(), "\n")
			if c.pattern != "read" { // Prometheus' remote read answers with text
				var body struct{ Status, ErrorType, Error string }
				if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || body.Status != "error" || body.ErrorType != "unavailable" {
					t.Errorf("%s: %s", c, w.Body)
				}
				text = body.Error
			}
			if w.Code != http.StatusServiceUnavailable || text != tt.text || w.Header().Get("Retry-After") == "" {
				t.Errorf("%v: %s: %d %q, want %q", tt.err, c, w.Code, text, tt.text)
			}
		}
	}
}
