package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/route"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/tsdb"
	v1 "github.com/prometheus/prometheus/web/api/v1"
)

// statusDB is a TSDB as Prometheus' API needs it.
type statusDB struct{ *tsdb.DB }

func (d statusDB) Stats(name string, limit int) (*tsdb.Stats, error) {
	return d.Head().Stats(name, limit), nil
}
func (d statusDB) WALReplayStatus() (tsdb.WALReplayStatus, error) { return tsdb.WALReplayStatus{}, nil }
func (d statusDB) BlockMetas() ([]tsdb.BlockMeta, error)          { return nil, nil }
func (d statusDB) Delete(ctx context.Context, mint, maxt int64, ms ...*labels.Matcher) error {
	return d.DB.Delete(ctx, mint, maxt, ms...)
}

// oneTarget is a scraped target with metadata.
type oneTarget []scrape.MetricMetadata

func (o oneTarget) ListMetadata() []scrape.MetricMetadata { return o }
func (o oneTarget) SizeMetadata() int                     { return 0 }
func (o oneTarget) LengthMetadata() int                   { return len(o) }
func (o oneTarget) GetMetadata(string) (scrape.MetricMetadata, bool) {
	return scrape.MetricMetadata{}, false
}

func (o oneTarget) TargetsActive() map[string][]*scrape.Target {
	t := scrape.NewTarget(labels.FromStrings("job", "x"), &config.ScrapeConfig{}, nil, nil)
	t.SetMetadataStore(o)
	return map[string][]*scrape.Target{"x": {t}}
}
func (o oneTarget) TargetsDropped() map[string][]*scrape.Target           { return nil }
func (o oneTarget) TargetsDroppedCounts() map[string]int                  { return nil }
func (o oneTarget) ScrapePoolConfig(string) (*config.ScrapeConfig, error) { return nil, nil }

// newReference returns Prometheus' own API over a TSDB with the samples and metadata of a
// write request.
func newReference(t *testing.T, req *prompb.WriteRequest) http.Handler {
	t.Helper()
	reg := prometheus.NewRegistry()
	db := tsdbOf(t, req, reg)
	var target oneTarget
	for _, m := range req.Metadata {
		target = append(target, scrape.MetricMetadata{MetricFamily: m.MetricFamilyName, Type: model.MetricType(strings.ToLower(m.Type.String())), Help: m.Help, Unit: m.Unit})
	}
	api := v1.NewAPI(nil, db, nil, nil, nil, func(context.Context) v1.TargetRetriever { return target }, nil,
		func() config.Config { return config.Config{} }, nil, v1.GlobalURLOptions{}, func(h http.HandlerFunc) http.HandlerFunc { return h },
		statusDB{db}, "", false, true, 10000, slog.New(slog.DiscardHandler), nil, 1, 1, 1, false, nil, nil, &v1.PrometheusVersion{}, nil, nil, reg, nil, nil,
		false, nil, false, false, false, 0, false, false, nil, nil, v1.OpenAPIOptions{}, parser.NewParser(parser.Options{}), false, 0)
	router := route.New()
	api.Register(router)
	return http.StripPrefix("/prometheus/api/v1", router)
}

// asPrometheus returns a backend and Prometheus' own API with the same recent samples. metrics has
// the number of series of each metric.
func asPrometheus(t *testing.T, metrics map[string]int) (*backend, http.Handler) {
	t.Helper()
	b := newBackend(t)
	req := &prompb.WriteRequest{Metadata: []prompb.MetricMetadata{
		{MetricFamilyName: "http_requests", Type: prompb.MetricMetadata_COUNTER, Help: "Requests <ä>."},
		{MetricFamilyName: "http_seconds", Type: prompb.MetricMetadata_HISTOGRAM, Unit: "seconds"},
		{MetricFamilyName: "up", Type: prompb.MetricMetadata_GAUGE, Help: "Up."},
		{MetricFamilyName: "sizes", Type: prompb.MetricMetadata_SUMMARY, Help: "Sizes."},
		{MetricFamilyName: "build", Type: prompb.MetricMetadata_INFO, Help: "Build."},
		{MetricFamilyName: "gauges", Type: prompb.MetricMetadata_GAUGEHISTOGRAM, Help: "Gauges."},
		{MetricFamilyName: "x_total", Type: prompb.MetricMetadata_COUNTER, Help: "Not of x_total_total."},
	}}
	for metric, n := range metrics {
		for i := range n {
			ts := prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: metric}, {Name: "i", Value: fmt.Sprint(i * i)}, {Name: "Job", Value: fmt.Sprintf("Jöb-%d", i%3)}}}
			slices.SortFunc(ts.Labels, func(a, b prompb.Label) int { return cmp.Compare(a.Name, b.Name) })
			for k := range 5 {
				ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: b.now.UnixMilli() - int64(10*(5-k)+i), Value: float64(k)})
			}
			req.Timeseries = append(req.Timeseries, ts)
		}
	}
	data, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/api/v1/push", bytes.NewReader(snappy.Encode(nil, data)))
	if w := do(b.h, as("a", r)); w.Code != http.StatusNoContent {
		t.Fatalf("push: %d %s", w.Code, w.Body)
	}
	b.write("b", "up", 100) // no response to tenant a contains it
	b.write("b", "secret", 10)
	return b, newReference(t, req)
}

// TestStatusLikePrometheus compares status/tsdb with Prometheus' answer. Entries with the
// same count are in no particular order there.
func TestStatusLikePrometheus(t *testing.T) {
	b, reference := asPrometheus(t, map[string]int{"up": 40, "http_requests_total": 23, "http_seconds_bucket": 11, "sizes": 7, "lonely": 1})
	type answer struct {
		Status string
		Data   v1.TSDBStatus
	}
	for _, limit := range []string{"", "1", "3", "10000", "x", "0", "-1", "10001", "1.5"} {
		get := func(h http.Handler) (*httptest.ResponseRecorder, answer) {
			w := do(h, as("a", httptest.NewRequest(http.MethodGet, "/prometheus/api/v1/status/tsdb?limit="+limit, nil)))
			var a answer
			d := json.NewDecoder(w.Body)
			d.DisallowUnknownFields()
			if w.Code == 200 {
				if err := d.Decode(&a); err != nil {
					t.Fatal(err)
				}
			}
			return w, a
		}
		ours, got := get(b.h)
		theirs, want := get(reference)
		if ours.Code != theirs.Code {
			t.Errorf("limit %q: %d, want %d", limit, ours.Code, theirs.Code)
		}
		if theirs.Code != 200 {
			var got, want any
			if err := errors.Join(json.Unmarshal(ours.Body.Bytes(), &got), json.Unmarshal(theirs.Body.Bytes(), &want)); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("limit %q: %s, want %s", limit, ours.Body, theirs.Body)
			}
			continue
		}
		if got.Data.HeadStats != want.Data.HeadStats {
			t.Errorf("limit %q: head %+v, want %+v", limit, got.Data.HeadStats, want.Data.HeadStats)
		}
		for name, lists := range map[string][2][]v1.TSDBStat{
			"series by metric": {got.Data.SeriesCountByMetricName, want.Data.SeriesCountByMetricName},
			"values by name":   {got.Data.LabelValueCountByLabelName, want.Data.LabelValueCountByLabelName},
			"memory by name":   {got.Data.MemoryInBytesByLabelName, want.Data.MemoryInBytesByLabelName},
			"series by pair":   {got.Data.SeriesCountByLabelValuePair, want.Data.SeriesCountByLabelValuePair},
		} {
			if !sameStats(lists[0], lists[1], limit == "10000") {
				t.Errorf("limit %q: %s: %v, want %v", limit, name, lists[0], lists[1])
			}
		}
	}
}

// sameStats compares two lists: the counts in their order and, if the lists are whole, all
// entries.
func sameStats(got, want []v1.TSDBStat, whole bool) bool {
	values := func(list []v1.TSDBStat) []uint64 {
		out := []uint64{}
		for _, s := range list {
			out = append(out, s.Value)
		}
		return out
	}
	if !slices.Equal(values(got), values(want)) || len(got) == 0 {
		return false
	}
	sorted := func(list []v1.TSDBStat) []v1.TSDBStat {
		return slices.SortedFunc(slices.Values(list), func(a, b v1.TSDBStat) int { return cmp.Compare(a.Name, b.Name) })
	}
	return !whole || slices.Equal(sorted(got), sorted(want))
}

// TestSearchLikePrometheus compares search/* with Prometheus' answers: status, content type
// and every byte.
func TestSearchLikePrometheus(t *testing.T) {
	b, reference := asPrometheus(t, map[string]int{"up": 30, "http_requests_total": 8, "http_seconds_bucket": 3, "http_seconds_sum": 1, "sizes": 2, "sizes_count": 1,
		"x_total": 1, "x_total_total": 1, "up_total": 1, "sizes_bucket": 1, "http_seconds_gsum": 1, "build_info": 1, "gauges_gcount": 1, "up_info": 1, "UP": 1, "a_b_c": 1})
	values := func(list ...string) url.Values {
		v := url.Values{}
		for i := 0; i < len(list); i += 2 {
			v.Add(list[i], list[i+1])
		}
		return v
	}
	all := []url.Values{
		nil,
		values("search[]", "up"), values("search[]", "htt", "search[]", "up"), values("search[]", "p", "include_score", "true"), values("search[]", ""),
		values("search[]", "UP", "case_sensitive", "false", "sort_by", "score"), values("search[]", "hts", "fuzz_threshold", "50", "include_score", "true"),
		values("search[]", "http_request", "fuzz_alg", "jarowinkler", "fuzz_threshold", "80", "sort_by", "score", "include_score", "1"),
		values("sort_by", "alpha", "sort_dir", "dsc"), values("sort_by", "alpha", "sort_dir", "dsc", "limit", "3", "search[]", "o"),
		values("limit", "2"), values("limit", "7", "batch_size", "3"), values("batch_size", "1"), values("limit", "10000", "batch_size", "5000"),
		values("match[]", `{i="0"}`), values("match[]", "up", "match[]", `{__name__=~"http.*"}`, "limit", "3", "batch_size", "2"), values("match[]", "nothing"),
		values("include_metadata", "true"), values("include_metadata", "true", "include_score", "true", "search[]", "total", "batch_size", "2"),
		values("include_metadata", "false"), values("start", "1", "end", "2"), values("start", "1"),
		values("limit", "0"), values("limit", "10001"), values("limit", "x"), values("batch_size", "-1"), values("start", "x"), values("start", "3", "end", "2"),
		values("match[]", "up{"), values("match[]", `{a=~".*"}`), values("fuzz_threshold", "101"), values("fuzz_alg", "magic"), values("case_sensitive", "maybe"),
		values("include_score", "2"), values("sort_by", "size"), values("sort_dir", "asc"), values("sort_by", "score"), values("sort_by", "alpha", "sort_dir", "up"),
		values("include_metadata", "maybe"), {"search[]": slices.Repeat([]string{"a"}, 33)},
	}
	for _, path := range []string{"metric_names", "label_names", "label_values?label=i", "label_values?label=Job", "label_values?label=none", "label_values"} {
		for _, params := range all {
			target := "/prometheus/api/v1/search/" + path + map[bool]string{true: "&", false: "?"}[strings.Contains(path, "?")]
			want := do(reference, as("a", httptest.NewRequest(http.MethodGet, target+params.Encode(), nil)))
			post := httptest.NewRequest(http.MethodPost, target, strings.NewReader(params.Encode()))
			post.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			for _, r := range []*http.Request{httptest.NewRequest(http.MethodGet, target+params.Encode(), nil), post} {
				got := do(b.h, as("a", r))
				if got.Code != want.Code || got.Body.String() != want.Body.String() || got.Header().Get("Content-Type") != want.Header().Get("Content-Type") {
					t.Errorf("%s %s %s: %d %s\n%s, want %d\n%s", r.Method, path, params.Encode(), got.Code, got.Header().Get("Content-Type"), got.Body, want.Code, want.Body)
				}
			}
		}
	}
}

// tsdbOf returns a Prometheus database with the samples of a request.
func tsdbOf(t *testing.T, req *prompb.WriteRequest, reg prometheus.Registerer) *tsdb.DB {
	t.Helper()
	db, err := tsdb.Open(t.TempDir(), slog.New(slog.DiscardHandler), reg, tsdb.DefaultOptions(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	app := db.Appender(context.Background())
	var builder labels.ScratchBuilder
	for _, ts := range req.Timeseries {
		for _, s := range ts.Samples {
			if _, err := app.Append(0, ts.ToLabels(&builder, nil), s.Timestamp, s.Value); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := app.Commit(); err != nil {
		t.Fatal(err)
	}
	return db
}
