package api

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/test/kit"
)

// send pushes a series with samples; labels are names and values.
func (b *backend) send(id tenant.ID, labels []string, samples []prompb.Sample, histograms ...prompb.Histogram) {
	b.t.Helper()
	ts := prompb.TimeSeries{Samples: samples, Histograms: histograms}
	for i := 0; i < len(labels); i += 2 {
		ts.Labels = append(ts.Labels, prompb.Label{Name: labels[i], Value: labels[i+1]})
	}
	data, err := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{ts}}).Marshal()
	if err != nil {
		b.t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/api/v1/push", bytes.NewReader(snappy.Encode(nil, data)))
	if w := do(b.h, as(id, r)); w.Code != http.StatusNoContent {
		b.t.Fatalf("push: %d %s", w.Code, w.Body)
	}
}

// ago returns a sample that is as old as the duration.
func (b *backend) ago(d time.Duration, v float64) []prompb.Sample {
	return []prompb.Sample{{Timestamp: b.now.Add(-d).UnixMilli(), Value: v}}
}

func (b *backend) federate(id tenant.ID, accept string, match ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, "/prometheus/federate?"+url.Values{"match[]": match}.Encode(), nil)
	r.Header.Set("Accept", accept)
	return do(b.h, as(id, r))
}

// TestFederate checks which samples are in the response: the newest sample of each series within
// the look-back, unless it is a staleness marker.
func TestFederate(t *testing.T) {
	b := newBackend(t)
	stale := math.Float64frombits(value.StaleNaN)
	b.send("a", []string{"__name__", "up", "job", "x"}, append(b.ago(time.Minute, 1), b.ago(time.Second, 2)...))
	b.send("a", []string{"__name__", "up", "instance", "i:1", "job", "y"}, b.ago(0, 3))
	b.send("a", []string{"__name__", "oldest"}, b.ago(5*time.Minute, 4))
	b.send("a", []string{"__name__", "too_old"}, b.ago(5*time.Minute+time.Millisecond, 5))
	b.send("a", []string{"__name__", "future"}, b.ago(-time.Millisecond, 6))
	b.send("a", []string{"__name__", "gone"}, append(b.ago(time.Minute, 1), b.ago(time.Second, stale)...))
	b.send("a", []string{"__name__", "back"}, append(b.ago(time.Minute, stale), b.ago(time.Second, 7)...))
	b.send("a", []string{"A", "before the name", "__name__", "zz"}, b.ago(0, math.NaN()))
	b.send("a", []string{"__name__", "späť", "ünï", "q\"\n\\"}, b.ago(0, math.Inf(1)))
	b.send("b", []string{"__name__", "up", "job", "of b"}, b.ago(0, 9))
	at := func(d time.Duration) string { return fmt.Sprint(b.now.Add(-d).UnixMilli()) }
	up := "# TYPE up untyped\n" + `up{instance="i:1",job="y"} 3 ` + at(0) + "\n" + `up{job="x",instance=""} 2 ` + at(time.Second) + "\n"
	for _, tt := range []struct {
		id     tenant.ID
		match  []string
		answer string
	}{
		{"a", []string{"up"}, up},
		{"a", []string{`up{job="x"}`, "up"}, up},
		{"a", []string{`up{job="y"}`, `up{job="x"}`, "nothing"}, up},
		{"a", []string{"nothing"}, ""},
		{"a", []string{`{__name__=~"oldest|too_old|future|gone|back"}`}, "# TYPE back untyped\nback{instance=\"\"} 7 " + at(time.Second) +
			"\n# TYPE oldest untyped\noldest{instance=\"\"} 4 " + at(5*time.Minute) + "\n"},
		{"a", []string{"zz", "back"}, "# TYPE back untyped\nback{instance=\"\"} 7 " + at(time.Second) +
			"\n# TYPE zz untyped\nzz{A=\"before the name\",instance=\"\"} NaN " + at(0) + "\n"},
		{"a", []string{`{"späť"}`}, "# TYPE \"späť\" untyped\n{\"späť\",\"ünï\"=\"q\\\"\\n\\\\\",instance=\"\"} +Inf " + at(0) + "\n"},
		{"b", []string{`{__name__=~".+"}`}, "# TYPE up untyped\nup{job=\"of b\",instance=\"\"} 9 " + at(0) + "\n"},
		{"c", []string{`{__name__=~".+"}`}, ""},
	} {
		w := b.federate(tt.id, "text/plain;version=0.0.4;escaping=allow-utf-8", tt.match...)
		if w.Code != http.StatusOK || w.Body.String() != tt.answer {
			t.Errorf("%s %q: %d\n%s\nwant\n%s", tt.id, tt.match, w.Code, w.Body, tt.answer)
		}
		if got := w.Header().Get("Content-Type"); got != "text/plain; version=0.0.4; charset=utf-8; escaping=allow-utf-8" {
			t.Errorf("Content-Type %s", got)
		}
	}
}

// TestFederateHistograms checks that only protobuf responses have native histograms, in a family
// for each type, and that histograms with custom buckets become classic ones.
func TestFederateHistograms(t *testing.T) {
	b := newBackend(t)
	at := b.now.UnixMilli()
	h := &histogram.Histogram{Schema: 1, Count: 6, Sum: 5, ZeroThreshold: 0.001, ZeroCount: 1,
		PositiveSpans: []histogram.Span{{Offset: -1, Length: 2}, {Offset: 3, Length: 1}}, PositiveBuckets: []int64{1, 1, -1},
		NegativeSpans: []histogram.Span{{Offset: 0, Length: 1}}, NegativeBuckets: []int64{1}}
	gauge := h.Copy()
	gauge.CounterResetHint = histogram.GaugeType
	gone := &histogram.Histogram{Sum: math.Float64frombits(value.StaleNaN)}
	b.send("a", []string{"__name__", "h", "k", "1"}, nil, prompb.FromIntHistogram(at-1000, h), prompb.FromFloatHistogram(at-1, h.ToFloat(nil)))
	b.send("a", []string{"__name__", "h", "k", "2"}, nil, prompb.FromIntHistogram(at, gauge))
	b.send("a", []string{"__name__", "h", "k", "3"}, b.ago(0, 1))
	b.send("a", []string{"__name__", "h", "k", "4"}, nil, prompb.FromIntHistogram(at-1, h), prompb.FromIntHistogram(at, gone))
	custom := &histogram.FloatHistogram{Schema: histogram.CustomBucketsSchema, Count: 7, Sum: 8, CustomValues: []float64{1, 2, 3},
		PositiveSpans: []histogram.Span{{Offset: 0, Length: 1}, {Offset: 1, Length: 2}}, PositiveBuckets: []float64{1, 2, 4}}
	b.send("a", []string{"__name__", "nhcb"}, nil, prompb.FromFloatHistogram(at, custom))

	w := b.federate("a", string(expfmt.NewFormat(expfmt.TypeProtoDelim)), `{__name__=~".+"}`)
	dec := expfmt.NewDecoder(w.Body, expfmt.NewFormat(expfmt.TypeProtoDelim))
	var families []*dto.MetricFamily
	for {
		f := &dto.MetricFamily{}
		if err := dec.Decode(f); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		families = append(families, f)
	}
	kinds := ""
	for _, f := range families {
		kinds += fmt.Sprintf("%s %s %d; ", f.GetName(), f.GetType(), len(f.Metric))
	}
	if kinds != "h HISTOGRAM 1; h GAUGE_HISTOGRAM 1; h UNTYPED 1; nhcb HISTOGRAM 1; " {
		t.Fatalf("families: %s", kinds)
	}
	got := families[0].Metric[0]
	spans := ""
	for _, s := range got.Histogram.PositiveSpan {
		spans += fmt.Sprintf("%d+%d ", s.GetOffset(), s.GetLength())
	}
	if got.GetTimestampMs() != at-1 || spans != "-1+2 3+1 " || !slices.Equal(got.Histogram.PositiveCount, []float64{1, 2, 1}) || got.Histogram.GetZeroCountFloat() != 1 || got.Histogram.GetSampleCountFloat() != 6 {
		t.Errorf("histogram: %v", got)
	}
	w = b.federate("a", "", `{__name__=~".+"}`)
	ts := fmt.Sprintf(" %d\n", at)
	want := "# TYPE h untyped\nh{k=\"3\",instance=\"\"} 1" + ts + "# TYPE nhcb histogram\n" +
		"nhcb_bucket{instance=\"\",le=\"1\"} 1" + ts + "nhcb_bucket{instance=\"\",le=\"2\"} 1" + ts + "nhcb_bucket{instance=\"\",le=\"3\"} 3" + ts +
		"nhcb_bucket{instance=\"\",le=\"+Inf\"} 7" + ts + "nhcb_sum{instance=\"\"} 8" + ts + "nhcb_count{instance=\"\"} 7" + ts
	if w.Body.String() != want {
		t.Errorf("text:\n%s\nwant\n%s", w.Body, want)
	}
}

// TestFederateErrors checks the status of requests that cannot be answered completely.
func TestFederateErrors(t *testing.T) {
	b := newBackend(t)
	b.write("a", "up", 5)
	base := b.lim
	for _, tt := range []struct {
		name  string
		set   func(*limits.Limits)
		match []string
		code  int
		text  string
	}{
		{"no selector", nil, nil, 400, "at least one parameter match[] is required"},
		{"empty selector", nil, []string{""}, 400, "bad_data"},
		{"selector without a matcher", nil, []string{"up", "{}"}, 400, "the selector {} has no matcher"},
		{"expression", nil, []string{"up + 1"}, 400, "parameter match[]"},
		{"one bad selector", nil, []string{"up", "up{"}, 400, "parameter match[]"},
		{"series", func(l *limits.Limits) { l.MaxQuerySeries = 4 }, []string{"up"}, 422, "limit max_query_series of 4 series exceeded"},
		{"length", func(l *limits.Limits) { l.MaxQueryLength = 3 }, []string{"up", "up"}, 422, "limit max_query_length"},
		{"memory", func(l *limits.Limits) { l.MaxMemoryBytes = 1000 }, []string{"up"}, 422, "limit max_memory_bytes"},
		{"time", func(l *limits.Limits) { l.QueryTimeout = 1 }, []string{"up"}, 503, "limit query_timeout"},
	} {
		b.lim = base
		if tt.set != nil {
			tt.set(&b.lim)
		}
		if w := b.federate("a", "", tt.match...); w.Code != tt.code || !strings.Contains(w.Body.String(), tt.text) ||
			strings.Contains(w.Body.String(), "# TYPE") || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %v %s, want %d %q", tt.name, w.Code, w.Header(), w.Body, tt.code, tt.text)
		}
	}
}

// TestFederateUnreadable checks that the response is 503 if the source fails, and that the error is
// logged once but its text is not returned.
func TestFederateUnreadable(t *testing.T) {
	var log kit.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	p := parser.NewParser(parser.Options{})
	h := newAPI(Options{Queryable: querier.NewQueryable(broken{fmt.Errorf("file-7: %w", peers.ErrTooFew)}, time.Now, logger), Parsers: switches.Only(p),
		Limits: func(tenant.ID) limits.Limits { return limits.Default() }, Lookback: querier.LookbackDelta, Logger: logger})
	w := do(h, as("a", httptest.NewRequest(http.MethodGet, "/prometheus/federate?match[]=up", nil)))
	if w.Code != 503 || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "too few ingesters") || strings.Contains(w.Body.String(), "file-7") {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	if n := strings.Count(log.String(), "file-7"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log.String())
	}
}

// failingWriter fails after some bytes.
type failingWriter struct {
	http.ResponseWriter
	left int
}

func (w *failingWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		return 0, errors.New("connection failed")
	}
	w.left -= len(p)
	return w.ResponseWriter.Write(p)
}

// TestFederateInterrupted checks that a client detects a response that ends in the middle, even if
// it is compressed.
func TestFederateInterrupted(t *testing.T) {
	b := newBackend(t)
	b.write("a", "up", 3000)
	b.write("a", "down", 3000)
	left := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.h.ServeHTTP(&failingWriter{w, left}, as("a", r))
	}))
	defer srv.Close()
	get := func(encoding string) ([]byte, error) {
		r, err := http.NewRequest(http.MethodGet, srv.URL+"/prometheus/federate?match[]=up&match[]=down", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept-Encoding", encoding)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		body := io.Reader(resp.Body)
		if encoding == "gzip" {
			if resp.Header.Get("Content-Encoding") != "gzip" {
				t.Fatal("not compressed")
			}
			if body, err = gzip.NewReader(body); err != nil {
				return nil, err
			}
		}
		return io.ReadAll(body)
	}
	for _, encoding := range []string{"identity", "gzip"} {
		left = 1 << 30
		whole, err := get(encoding)
		if err != nil || bytes.Count(whole, []byte("\n")) != 6002 {
			t.Fatalf("%s: %v, %d bytes", encoding, err, len(whole))
		}
		for _, left = range []int{0, 20_000} {
			if part, err := get(encoding); err == nil {
				t.Errorf("%s: a response of %d bytes of %d looks complete", encoding, len(part), len(whole))
			}
		}
	}
}
