package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/limits"
)

const counted = "/prometheus/api/v1/cardinality/"

// TestCardinality checks the responses of cardinality/* byte for byte, in Mimir's form: names and
// order of fields, order and limits of lists.
func TestCardinality(t *testing.T) {
	b := newBackend(t)
	b.write("a", "up", 3)
	b.write("a", "down", 2)
	b.write("b", "up", 50)
	const up = `{"__name__":"up","i":"0","tenant":"a"},{"__name__":"up","i":"1","tenant":"a"},{"__name__":"up","i":"2","tenant":"a"}`
	for _, tt := range []struct {
		path   string
		params url.Values
		want   string
	}{
		{"label_names", nil, `{"label_values_count_total":6,"label_names_count":3,"cardinality":[` +
			`{"label_name":"i","label_values_count":3},{"label_name":"__name__","label_values_count":2},{"label_name":"tenant","label_values_count":1}]}`},
		{"label_names", url.Values{"selector": {"down"}, "limit": {"1"}}, `{"label_values_count_total":4,"label_names_count":3,"cardinality":[` +
			`{"label_name":"i","label_values_count":2}]}`},
		{"label_names", url.Values{"selector": {"nothing"}}, `{"label_values_count_total":0,"label_names_count":0,"cardinality":[]}`},
		{"label_names", url.Values{"limit": {"0"}}, `{"label_values_count_total":6,"label_names_count":3,"cardinality":[]}`},
		{"label_values", url.Values{"label_names[]": {"i", "nothing", "__name__", "i"}, "limit": {"2"}}, `{"series_count_total":5,"labels":[` +
			`{"label_name":"__name__","label_values_count":2,"series_count":5,"cardinality":[{"label_value":"up","series_count":3},{"label_value":"down","series_count":2}]},` +
			`{"label_name":"i","label_values_count":3,"series_count":5,"cardinality":[{"label_value":"0","series_count":2},{"label_value":"1","series_count":2}]},` +
			`{"label_name":"nothing","label_values_count":0,"series_count":0,"cardinality":[]}]}`},
		{"label_values", url.Values{"label_names[]": {"i"}, "selector": {`up{i="1"}`}, "count_method": {"active"}}, `{"series_count_total":1,"labels":[` +
			`{"label_name":"i","label_values_count":1,"series_count":1,"cardinality":[{"label_value":"1","series_count":1}]}]}`},
		{"active_series", url.Values{"selector": {"up"}}, `{"data":[` + up + `]}`},
		{"active_series", url.Values{"selector": {`{i="7"}`}}, `{"data":[]}`},
	} {
		if w := b.get("a", counted+tt.path, tt.params); w.Code != 200 || w.Body.String() != tt.want {
			t.Errorf("%s %v: %d\n%s, want\n%s", tt.path, tt.params, w.Code, w.Body, tt.want)
		}
		r := httptest.NewRequest(http.MethodPost, counted+tt.path, strings.NewReader(tt.params.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if w := do(b.h, as("a", r)); w.Code != 200 || w.Body.String() != tt.want {
			t.Errorf("POST %s %v: %d\n%s", tt.path, tt.params, w.Code, w.Body)
		}
	}
}

// TestBadParameters checks that the response to an invalid parameter is 400, and says which values are
// allowed.
func TestBadParameters(t *testing.T) {
	b := newBackend(t)
	const prefix = "/prometheus/api/v1/"
	for _, tt := range []struct {
		path   string
		params url.Values
		text   string
	}{
		{"status/tsdb", url.Values{"limit": {"x"}}, "limit must be a positive number"},
		{"status/tsdb", url.Values{"limit": {"0"}}, "limit must be a positive number"},
		{"status/tsdb", url.Values{"limit": {"10001"}}, "limit must not exceed 10000"},
		{"cardinality/label_names", url.Values{"limit": {"501"}}, `parameter limit must be a number from 0 to 500, not "501"`},
		{"cardinality/label_names", url.Values{"limit": {"-1"}}, "a number from 0 to 500"},
		{"cardinality/label_names", url.Values{"limit": {"ten"}}, "a number from 0 to 500"},
		{"cardinality/label_names", url.Values{"count_method": {"all"}}, `parameter count_method must be inmemory or active, not "all"`},
		{"cardinality/label_names", url.Values{"selector": {"up{"}}, "parameter selector: 1:4: parse error"},
		{"cardinality/label_names", url.Values{"selector": {"up", "down"}}, "parameter selector appears 2 times"},
		{"cardinality/label_values", nil, "parameter label_names[] is required"},
		{"cardinality/label_values", url.Values{"label_names[]": {""}}, `parameter label_names[]: "" is not a label name`},
		{"cardinality/label_values", url.Values{"label_names[]": {"\xff"}}, "is not a label name"},
		{"cardinality/active_series", nil, "parameter selector is required"},
		{"search/label_values", nil, "missing required parameter"},
		{"search/metric_names", url.Values{"limit": {"10001"}}, "limit 10001 exceeds the configured maximum (10000"},
		{"search/metric_names", url.Values{"fuzz_alg": {"magic"}}, "must be one of [subsequence jarowinkler]"},
		{"search/metric_names", url.Values{"include_metadata": {"maybe"}}, `invalid include_metadata "maybe": must be boolean`},
	} {
		w := b.get("a", prefix+tt.path, tt.params)
		var answer struct{ Status, ErrorType, Error string }
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != 400 || answer.ErrorType != "bad_data" || !strings.Contains(answer.Error, tt.text) {
			t.Errorf("%s %v: %d %s, want 400 and %q", tt.path, tt.params, w.Code, w.Body, tt.text)
		}
	}
}

// TestCountedWhen checks which series are counted. Active series have a sample within 30 minutes.
// Series in memory have a sample since the start of the oldest window that is not sealed.
func TestCountedWhen(t *testing.T) {
	b := newBackend(t)
	window := b.now.Truncate(2 * time.Hour).Add(-2 * time.Hour)
	at := window.Add(time.Hour) // time of the sample
	b.writeAt("a", "m", 1, at)
	p := parser.NewParser(parser.Options{})
	b.h = newAPI(Options{Queryable: querier.NewQueryable(recentOnly{b.ing}, time.Now, nil), Parsers: switches.Only(p), Engine: querier.NewEngine(switches.Only(p), slog.New(slog.DiscardHandler), nil),
		Limits: func(tenant.ID) limits.Limits { return limits.Default() }, Now: func() time.Time { return at },
		Head: func(_ context.Context, id tenant.ID) (series.HeadStats, error) { return b.ing.HeadStats(id), nil }})
	for _, tt := range []struct {
		at             time.Time
		active, memory int
	}{
		{at.Add(29 * time.Minute), 1, 1},
		{at.Add(31 * time.Minute), 0, 1},
		{window.Add(2*time.Hour + 14*time.Minute), 0, 1}, // the window has ended, but is not sealed
		{window.Add(2*time.Hour + 16*time.Minute), 0, 0},
	} {
		at = tt.at
		for method, want := range map[string]int{"active": tt.active, "inmemory": tt.memory, "": tt.memory} {
			w := b.get("a", counted+"label_values", url.Values{"label_names[]": {"i"}, "count_method": {method}})
			if !strings.HasPrefix(w.Body.String(), fmt.Sprintf(`{"series_count_total":%d,`, want)) {
				t.Errorf("%v after the window's start, count_method %q: %s, want %d", tt.at.Sub(window), method, w.Body, want)
			}
		}
		if w := b.get("a", counted+"active_series", url.Values{"selector": {"m"}}); strings.Count(w.Body.String(), `"m"`) != tt.active {
			t.Errorf("%v after the window's start: active series %s", tt.at.Sub(window), w.Body)
		}
		if w := b.get("a", "/prometheus/api/v1/status/tsdb", nil); !strings.Contains(w.Body.String(), fmt.Sprintf(`"numSeries":%d,`, tt.memory)) {
			t.Errorf("%v after the window's start: status %s", tt.at.Sub(window), w.Body)
		}
	}
}

// manyNames returns label names that no series has.
func manyNames(n int) []string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprint("a_label_that_no_series_has_", i))
	}
	return names
}

// TestHeadUnavailable checks that status/tsdb is 503 if the chunk counts of ingesters are
// unavailable, and search/metric_names if metadata is: never a response without them.
func TestHeadUnavailable(t *testing.T) {
	fails := fmt.Errorf("%w: file-7", peers.ErrTooFew)
	p := parser.NewParser(parser.Options{})
	h := newAPI(Options{Queryable: querier.NewQueryable(&fakeSource{}, time.Now, nil), Parsers: switches.Only(p), Engine: querier.NewEngine(switches.Only(p), slog.New(slog.DiscardHandler), nil),
		Limits:   func(tenant.ID) limits.Limits { return limits.Default() },
		Head:     func(context.Context, tenant.ID) (series.HeadStats, error) { return series.HeadStats{}, fails },
		Metadata: func(context.Context, tenant.ID) ([]series.MetricMetadata, error) { return nil, fails }})
	for _, path := range []string{"status/tsdb", "search/metric_names?include_metadata=true"} {
		w := do(h, as("a", httptest.NewRequest(http.MethodGet, "/prometheus/api/v1/"+path, nil)))
		if w.Code != 503 || !strings.Contains(w.Body.String(), "too few ingesters are available") || strings.Contains(w.Body.String(), "file-7") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

// TestSearchFailsInTheMiddle checks a search with two selectors whose second cannot be read: the
// response ends with an error line, or is 503 if the first selector has no results.
func TestSearchFailsInTheMiddle(t *testing.T) {
	b := newReading(t, 64<<20)
	params := url.Values{"match[]": {"m", "n"}, "limit": {"500"}, "include_metadata": {"true"}}.Encode()
	for _, route := range []string{"metric_names", "label_names", "label_values"} {
		for _, first := range []bool{true, false} { // whether the first selector has results
			calls := 0
			if route == "metric_names" {
				calls-- // metadata
			}
			b.source.set(func(context.Context) error {
				if calls++; calls == 2 || calls == 1 && !first {
					return fmt.Errorf("%w: file-7", peers.ErrTooFew)
				}
				return nil
			})
			w := do(b.h, as("acme", httptest.NewRequest(http.MethodGet, promAPI+"search/"+route+"?label=job&"+params, nil)))
			body := w.Body.String()
			lines := strings.Split(strings.TrimSuffix(body, "\n"), "\n")
			last := lines[len(lines)-1]
			if strings.Contains(body, "success") || strings.Contains(body, "file-7") || !strings.Contains(last, `"status":"error"`) {
				t.Errorf("%s: %d, last line %s", route, w.Code, last)
			}
			if !first {
				b.check(route, w, rejection{503, "too few ingesters are available"})
			} else if w.Code != 200 || len(lines) < 2 || !strings.HasPrefix(lines[0], `{"results":[{"`) {
				t.Errorf("%s: %d, first line %.100s", route, w.Code, lines[0])
			}
			b.clean(route)
		}
	}
}

// replica is an ingester as the querier calls it.
type replica struct{ *ingester.Ingester }

func (r replica) Labels(ctx context.Context, name string, req series.Request) ([]string, []ulid.ULID, error) {
	if name == "" {
		return r.LabelNames(ctx, req)
	}
	return r.LabelValues(ctx, name, req)
}
func (r replica) Metadata(_ context.Context, id tenant.ID) ([]series.MetricMetadata, error) {
	return r.Ingester.Metadata(id), nil
}
func (r replica) SeriesCount(_ context.Context, id tenant.ID) (int, error) {
	return r.Ingester.SeriesCount(id), nil
}
func (r replica) HeadStats(_ context.Context, id tenant.ID) (series.HeadStats, error) {
	return r.Ingester.HeadStats(id), nil
}
func (r replica) Version(_ context.Context, id tenant.ID) (series.IngesterVersion, error) {
	return r.Ingester.Version(id), nil
}

// ofIngesters is a source that reads only ingesters.
type ofIngesters struct{ *querier.Ingesters }

func (o ofIngesters) Select(ctx context.Context, req series.Request) (*series.Selection, error) {
	sel, _, err := o.Ingesters.Select(ctx, req)
	return sel, err
}
func (o ofIngesters) LabelNames(ctx context.Context, req series.Request) ([]string, error) {
	names, _, err := o.Ingesters.LabelNames(ctx, req)
	return names, err
}
func (o ofIngesters) LabelValues(ctx context.Context, name string, req series.Request) ([]string, error) {
	values, _, err := o.Ingesters.LabelValues(ctx, name, req)
	return values, err
}

// TestReplicasCountOnce checks that a series and its chunk count once although two or three
// ingesters have a copy.
func TestReplicasCountOnce(t *testing.T) {
	var list []querier.Peer
	var last *backend
	for i := range 3 {
		last = newBackend(t)
		for k := range 4 { // the series of m3 are on two ingesters, all others on three
			if k < 3 || i > 0 {
				last.write("a", fmt.Sprintf("m%d", k), 5)
			}
		}
		list = append(list, querier.Peer{ID: fmt.Sprint("i", i), Domain: fmt.Sprint("zone-", i), Client: replica{last.ing}})
	}
	p := parser.NewParser(parser.Options{})
	recent := querier.NewIngesters(querier.IngestersOptions{Tolerate: 1, Peers: func(context.Context) ([]querier.Peer, error) { return list, nil }})
	t.Cleanup(func() { _ = recent.Close() })
	h := newAPI(Options{Queryable: querier.NewQueryable(ofIngesters{recent}, time.Now, nil), Parsers: switches.Only(p), Engine: querier.NewEngine(switches.Only(p), slog.New(slog.DiscardHandler), nil),
		Limits: func(tenant.ID) limits.Limits { return limits.Default() }, Head: recent.HeadStats})
	for path, want := range map[string]string{
		"status/tsdb": `"numSeries":20,"numLabelPairs":10,"chunkCount":20,`,
		"cardinality/label_values?label_names[]=__name__": `{"series_count_total":20,"labels":[{"label_name":"__name__","label_values_count":4,"series_count":20,` +
			`"cardinality":[{"label_value":"m0","series_count":5},`,
		"cardinality/active_series?selector=m3": `{"data":[{"__name__":"m3","i":"0","tenant":"a"},{"__name__":"m3","i":"1","tenant":"a"},`,
	} {
		if w := do(h, as("a", httptest.NewRequest(http.MethodGet, promAPI+path, nil))); w.Code != 200 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s, want %s", path, w.Code, w.Body, want)
		}
	}
}

// TestCountFailureIsLoggedOnce checks that a failed read is logged once: by the querier, or by the
// API if the statistics of the head failed.
func TestCountFailureIsLoggedOnce(t *testing.T) {
	for _, tt := range []struct{ source, head error }{{errors.New("file-7"), nil}, {nil, errors.New("file-8")}} {
		var log bytes.Buffer
		logger := slog.New(slog.NewTextHandler(&log, nil))
		p := parser.NewParser(parser.Options{})
		source := &fakeSource{}
		source.set(func(context.Context) error { return tt.source })
		h := newAPI(Options{Queryable: querier.NewQueryable(source, time.Now, logger), Parsers: switches.Only(p), Engine: querier.NewEngine(switches.Only(p), logger, nil), Logger: logger,
			Limits: func(tenant.ID) limits.Limits { return limits.Default() },
			Head:   func(context.Context, tenant.ID) (series.HeadStats, error) { return series.NoHead(), tt.head }})
		w := do(h, as("a", httptest.NewRequest(http.MethodGet, promAPI+"status/tsdb", nil)))
		if n := strings.Count(log.String(), "level=ERROR"); w.Code != 503 || n != 1 || !strings.Contains(log.String(), "file-") {
			t.Errorf("%d, %d lines: %s", w.Code, n, log.String())
		}
	}
}
