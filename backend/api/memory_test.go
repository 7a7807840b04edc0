package api

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"

	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/series"
)

// ranged returns the response to a range query for the last hour.
func (b *reading) ranged(text string, step int) *httptest.ResponseRecorder {
	b.t.Helper()
	params := url.Values{"query": {text}, "start": {fmt.Sprint(b.now.Add(-time.Hour).Unix())}, "end": {fmt.Sprint(b.now.Unix())}, "step": {fmt.Sprint(step)}}
	return do(b.h, as("acme", httptest.NewRequest("GET", promAPI+"query_range?"+params.Encode(), nil)))
}

// peakWriter records the used memory of an account while a response is written, when a read uses
// most.
type peakWriter struct {
	*httptest.ResponseRecorder
	account *memory.Account
	peak    int64
}

func (w *peakWriter) Write(p []byte) (int, error) {
	w.peak = max(w.peak, w.account.Used())
	return w.ResponseRecorder.Write(p)
}

// peak returns the maximum memory that a request holds while its response is written, and the
// response.
func (b *reading) peak(r *http.Request) (int64, *httptest.ResponseRecorder) {
	w := &peakWriter{ResponseRecorder: httptest.NewRecorder(), account: b.account}
	b.h.ServeHTTP(w, as("acme", r))
	return w.peak, w.ResponseRecorder
}

// TestQueryBombs checks that short queries with huge results are rejected with
// 422 before the memory is allocated.
func TestQueryBombs(t *testing.T) {
	b := newReading(t, 64<<20)
	b.lim.MaxQueryRange, b.lim.MaxQuerySamples = 0, 50_000_000
	b.fill(200, 240, 15*time.Second)
	join := "m"
	for range 6 {
		join = `label_join(` + join + `, "x", ",", "x", "x", "x", "x", "x", "x", "x", "x", "instance")`
	}
	replace := "m"
	for range 20 {
		replace = `label_replace(` + replace + `, "job", "$1$1$1", "job", "(.*)")`
	}
	deep := "time()"
	for range 100 {
		deep = "(time() + " + deep + ")"
	}
	for _, tt := range []struct{ name, text string }{
		{"label_join", join},
		{"label_replace", replace},
		{"count_values", `count_values("v", m * on () group_left () m{instance="none"})`},
		{"count_values of an expression", `count_values("v", m * time())`},
		{"group_left", `label_join(m, "x", ",", "instance", "instance", "instance") * on (job) group_left (x) ` + join},
		{"steps of a subquery", `max_over_time(m[1h:1s])`},
		{"steps of a subquery of a constant", `max_over_time(vector(1)[50d:1s])`},
		{"steps of a subquery of the time", `max_over_time(vector(time())[50d:1s])`},
		{"steps of a subquery at a time", `max_over_time(vector(1)[50d:1s] @ start())`},
		{"steps of a subquery of a subquery", `max_over_time(max_over_time(vector(1)[1m:1s])[50d:1s])`},
		{"depth", "max_over_time(vector(" + deep + ")[3h:1s])"},
		{"a matrix", `m[1h] @ end()`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b.t = t
			if tt.name == "a matrix" { // only of an instant
				b.lim.MaxMemoryBytes = 400_000
				defer func() { b.lim.MaxMemoryBytes = 0 }()
				w := do(b.h, as("acme", httptest.NewRequest("GET", promAPI+"query?"+url.Values{"query": {tt.text}, "time": {fmt.Sprint(b.now.Unix())}}.Encode(), nil)))
				b.check(tt.name, w, rejection{422, "limit max_memory_bytes of"})
				return
			}
			before := allocated()
			b.check(tt.name, b.ranged(tt.text, 1), rejection{422, "limit max_memory_bytes of 29360128 bytes (the limit of this process) exceeded"})
			if n := allocated() - before; n > 128<<20 {
				t.Errorf("%d bytes were allocated", n)
			}
			b.clean(tt.name)
		})
	}
}

// TestLabelBombs checks that labels that a query creates are charged when series are selected. (An
// instant query has so few points that they alone would not exceed the limit.) With fewer labels
// the same functions succeed.
func TestLabelBombs(t *testing.T) {
	b := newReading(t, 64<<20)
	b.fill(200, 10, 15*time.Second)
	nested := func(times int, text, wrap string) string {
		for range times {
			text = fmt.Sprintf(wrap, text)
		}
		return text
	}
	const (
		join    = `label_join(%s, "x", ",", "x", "x", "x", "x", "x", "x", "x", "x", "instance")`
		replace = `label_replace(%s, "x", "$1$1$1$1$1$1$1$1", "x", "(.*)")`
		seed    = `label_replace(m, "x", "$1", "instance", "(.*)")`
	)
	for _, tt := range []struct {
		name string
		text func(times int) string
	}{
		{"label_join", func(times int) string { return nested(times, "m", join) }},
		{"label_replace", func(times int) string { return nested(times, seed, replace) }},
		{"label_replace and label_join", func(times int) string { return nested(times/2, nested(times-times/2, seed, replace), join) }},
		{"count_values", func(times int) string { return nested(times, `count_values("x", m)`, replace) }},
		{"group_left", func(times int) string {
			one := `label_replace(sum by (job) (m), "x", "$1", "job", "(.*)")`
			return nested(times, "m * on (job) group_left (x) "+one, replace)
		}},
	} {
		b.t = t
		ask := func(times int) *httptest.ResponseRecorder {
			params := url.Values{"query": {tt.text(times)}, "time": {fmt.Sprint(b.now.Unix())}}
			return do(b.h, as("acme", httptest.NewRequest("GET", promAPI+"query?"+params.Encode(), nil)))
		}
		if w := ask(2); w.Code != 200 {
			t.Errorf("%s with few labels: %d %s", tt.name, w.Code, w.Body)
		}
		before := allocated()
		b.check(tt.name, ask(6), rejection{422, "limit max_memory_bytes of 29360128 bytes (the limit of this process) exceeded"})
		if n := allocated() - before; n > 16<<20 {
			t.Errorf("%s: allocated %d bytes", tt.name, n)
		}
		b.clean(tt.name)
	}
}

// histograms replaces the series of the source by n series of native histograms with the given
// numbers of samples and buckets. It returns the memory of one histogram in bytes.
func (b *reading) histograms(n, samples, buckets int) (each int64) {
	b.t.Helper()
	h := &histogram.Histogram{Schema: 3, ZeroThreshold: 0.001, Count: uint64(buckets), Sum: 1,
		PositiveSpans: []histogram.Span{{Length: uint32(buckets)}}, PositiveBuckets: make([]int64, buckets)}
	h.PositiveBuckets[0] = 1 // deltas: each bucket has one
	var list []series.Sample
	for i := range samples {
		list = append(list, series.Sample{T: b.now.Add(-time.Duration(samples-1-i) * 15 * time.Second).UnixMilli(), H: h})
	}
	chunks, err := series.Encode(list)
	if err != nil {
		b.t.Fatal(err)
	}
	b.source.list = nil
	for i := range n {
		b.source.list = append(b.source.list, series.WithChunks{Labels: labels.FromStrings("__name__", "m", "i", fmt.Sprint(i)), Chunks: chunks})
	}
	return int64(buckets) * 8
}

// TestOrdinaryQueries checks that the memory charged for ordinary queries is at least the memory
// that they hold, and at most four times as much.
func TestOrdinaryQueries(t *testing.T) {
	b := newReading(t, 4<<30)
	b.lim.MaxQueryRange = 0
	const n, steps = 500, 241
	b.fill(n, 300, 15*time.Second)
	matrix := int64(n * steps * 16)
	for _, tt := range []struct {
		text string
		held int64 // by the engine, without labels and answer
	}{
		{"m", matrix},
		{"rate(m[5m])", matrix},
		{"m + 0", 2 * matrix},
		{"abs(m)", 2 * matrix},
		{"m > 10", 2 * matrix},
		{"-m", matrix},
		{"sum(m)", matrix},
		{"sum by (job) (rate(m[1m]))", matrix},
		{"avg without (instance) (m)", matrix},
		{"topk(5, m)", matrix},
		{"m * on (instance) group_left () m", 3 * matrix},
		{"m / ignoring (x) m", 3 * matrix},
		{"max_over_time(rate(m[1m])[5m:15s])", 2 * matrix},
		{"quantile(0.9, m)", matrix},
		{"m offset 1m", matrix},
		{"label_replace(m, \"x\", \"$1\", \"instance\", \"(.*)\")", 2 * matrix},
	} {
		start, end := fmt.Sprint(b.now.Add(-time.Hour).Unix()), fmt.Sprint(b.now.Unix())
		params := url.Values{"query": {tt.text}, "start": {start}, "end": {end}, "step": {"15"}}
		peak, w := b.peak(httptest.NewRequest("GET", promAPI+"query_range?"+params.Encode(), nil))
		// The text is held while its buffer grows and while it is written.
		real := tt.held + n*200 + 2*int64(w.Body.Len())
		if w.Code != 200 || peak < real || peak > 4*real {
			t.Errorf("%s: status %d: charged %d bytes, but it holds %d (%.1f times)", tt.text, w.Code, peak, real, float64(peak)/float64(real))
		}
		b.clean(tt.text)
	}
}

// TestHistogramMemory checks that native histograms are charged by size: in
// ranges, in results and in a remote read.
func TestHistogramMemory(t *testing.T) {
	b := newReading(t, 4<<30)
	const n, samples = 20, 100
	size := b.histograms(n, samples, 600) * n * samples
	read := readRoute{method: "POST", pattern: "read"}
	ranged := readRoute{method: "GET", pattern: "query_range"}
	for _, c := range []readRoute{read, ranged} {
		peak, w := b.peak(c.request(b, ""))
		real := size + 2*int64(w.Body.Len())
		if c == read { // structs, the message, and its compressed form
			real = 2 * size
		}
		if w.Code != 200 || peak < real || peak > 5*real {
			t.Errorf("%s: status %d: charged %d bytes, but it holds about %d (%.1f times)", c, w.Code, peak, real, float64(peak)/float64(real))
		}
		b.clean(c.String())
		b.lim.MaxMemoryBytes = size / 2
		b.check(c.String(), do(b.h, as("acme", c.request(b, ""))), rejection{422, "limit max_memory_bytes of"})
		b.clean(c.String())
		b.lim.MaxMemoryBytes = 0
	}
}

// TestTextsTakeMemory checks that the parameters of a read are charged as received and as decoded,
// before data is read: a form with at least three times its size, and a remote read, whose matchers
// become structs, with at least 34 times its size.
func TestTextsTakeMemory(t *testing.T) {
	b := newReading(t, 1<<30)
	b.lim.MaxQueryLength = 0
	const n = 1<<20 - 1000 // a buffer of a megabyte
	form := func(pad string) *http.Request {
		r := httptest.NewRequest("POST", promAPI+"query", strings.NewReader(url.Values{"query": {"m"}, "pad": {pad}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return r
	}
	read := func(pad string) *http.Request {
		q := &prompb.Query{EndTimestampMs: b.now.UnixMilli(), Matchers: []*prompb.LabelMatcher{{Type: prompb.LabelMatcher_NEQ, Name: "a", Value: pad}}}
		data, err := (&prompb.ReadRequest{Queries: []*prompb.Query{q}}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return httptest.NewRequest("POST", promAPI+"read", bytes.NewReader(snappy.Encode(nil, data)))
	}
	for _, tt := range []struct {
		name    string
		request func(pad string) *http.Request
		times   int64
	}{{"form", form, 3}, {"remote read", read, 34}} {
		small, w := b.peak(tt.request("x"))
		large, w2 := b.peak(tt.request(strings.Repeat("x", n)))
		if w.Code != 200 || w2.Code != 200 || large-small < tt.times*n || large-small > 2*tt.times*n {
			t.Errorf("%s of %d bytes: %d, %d; it takes %d bytes more than a small one", tt.name, n, w.Code, w2.Code, large-small)
		}
		b.lim.MaxMemoryBytes = small + (tt.times-1)*n
		b.check(tt.name, do(b.h, as("acme", tt.request(strings.Repeat("x", n)))), rejection{422, "limit max_memory_bytes of"})
		b.lim.MaxMemoryBytes = 0
		b.clean(tt.name)
	}
}

// TestReadOfManyQueries checks that all queries of a remote read are charged to the memory of one
// request.
func TestReadOfManyQueries(t *testing.T) {
	b := newReading(t, 1<<30)
	ask := func(times int) *http.Request {
		r := readRoute{method: "POST", pattern: "read"}.request(b, "")
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return httptest.NewRequest(r.Method, r.URL.String(), bytes.NewReader(repeated(t, body, times)))
	}
	one, w := b.peak(ask(1))
	if w.Code != 200 {
		t.Fatal(w.Code, w.Body)
	}
	if many, w := b.peak(ask(20)); w.Code != 200 || many < 19*one {
		t.Errorf("%d: one query takes %d bytes, 20 take %d", w.Code, one, many)
	}
	b.lim.MaxMemoryBytes = 10 * one
	b.check("20 queries", do(b.h, as("acme", ask(20))), rejection{422, "limit max_memory_bytes of"})
	b.clean("20 queries")
}

// TestNearTheLimit checks with many memory limits that a response is either
// complete or an error.
func TestNearTheLimit(t *testing.T) {
	b := newReading(t, 1<<30)
	for _, tt := range []struct {
		name string
		fill func()
	}{
		{"floats", func() { b.fill(40, 240, 15*time.Second) }},
		{"histograms", func() { b.histograms(4, 240, 100) }},
	} {
		tt.fill()
		for _, c := range []readRoute{
			{method: "GET", pattern: "query_range"}, {method: "POST", pattern: "read"}, {method: "POST", pattern: "read", streamed: true},
			{method: "GET", pattern: "query"}, {method: "GET", pattern: "series"}, {method: "GET", pattern: "labels"},
		} {
			b.lim.MaxMemoryBytes = 0
			enough, whole := b.peak(c.request(b, ""))
			answered := 0
			for i := range int64(64) {
				b.lim.MaxMemoryBytes = 1000 + i*(enough+4000)/62
				switch w := do(b.h, as("acme", c.request(b, ""))); {
				case w.Code == http.StatusOK && w.Body.String() == whole.Body.String():
					answered++
				case w.Code != 422:
					t.Fatalf("%s, %s with %d bytes: %d, %d bytes of %d", tt.name, c, b.lim.MaxMemoryBytes, w.Code, w.Body.Len(), whole.Body.Len())
				}
			}
			if answered == 0 || answered == 64 {
				t.Errorf("%s, %s: %d of 64 requests succeeded", tt.name, c, answered)
			}
			b.clean(c.String())
		}
	}
}
