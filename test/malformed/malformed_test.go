// Package malformed sends malformed input to the real binary: every response says what
// is wrong, and the process keeps serving as before.
package malformed

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/prompb"

	"github.com/palliumhq/pallium/test/kit/programs"
)

// tight contains low limits, which a test's request can exceed.
var tight = []string{
	"max_labels_per_series=5", "max_label_name_length=50", "max_label_value_length=100", "max_histogram_buckets=4",
	"max_body_bytes=50000", "max_decoded_bytes=200000", "max_active_series=8", "max_query_length=300",
	"max_query_steps=100", "max_query_series=3", "max_query_samples=40", "max_query_range=2d",
}

// bench is the server to which the requests of all rows are sent.
type bench struct {
	p                     *programs.Pallium
	team, tight, readOnly string // keys
	start                 time.Time
}

func newBench(t *testing.T) *bench {
	b := &bench{p: programs.StartPallium(t, ""), start: time.Now()}
	b.team = b.p.Tenant("team")
	b.tight = b.p.Tenant("tight", tight...)
	b.readOnly = b.p.Token("team", "metrics:read")
	b.push(t, b.team, body1(float("kept", b.start.UnixMilli(), 42)))
	var some []prompb.TimeSeries
	for i := range 6 {
		ts := float("some", b.start.UnixMilli(), 1, "i", fmt.Sprint(i))
		for j := range 10 {
			ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: b.start.UnixMilli() - int64(10-j)*1000, Value: 1})
		}
		some = append(some, ts)
	}
	b.push(t, b.tight, body1(some...))
	return b
}

func (b *bench) push(t *testing.T, key string, body []byte) {
	t.Helper()
	code, text := programs.Do(t, http.MethodPost, b.p.Edge+"/api/v1/push", key, "application/x-protobuf", bytes.NewReader(body))
	if code != http.StatusNoContent {
		t.Fatalf("push: %d %s", code, text)
	}
}

// unharmed checks that the process still returns an earlier sample, accepts a push, and logged no panic.
func (b *bench) unharmed(t *testing.T) {
	t.Helper()
	if code, text := programs.Do(t, http.MethodGet, b.p.Edge+"/-/healthy", "", "", nil); code != http.StatusOK {
		t.Errorf("healthy: %d %s", code, text)
	}
	data := programs.Query(t, b.p.Edge+"/prometheus", b.team, "query", url.Values{"query": {"kept"}, "time": {fmt.Sprint(b.start.Unix() + 1)}})
	if !strings.Contains(string(data), `"42"`) {
		t.Errorf("the sample from before: %s", data)
	}
	b.push(t, b.team, body1(float("kept", time.Now().UnixMilli(), 43)))
	for _, word := range []string{"panic", "fatal error", "runtime error"} {
		if strings.Contains(b.p.Log(), word) {
			t.Errorf("the log contains %q:\n%s", word, b.p.Log())
		}
	}
	if err := b.p.Wait(time.Millisecond); err == nil || !strings.Contains(err.Error(), "still running") {
		t.Errorf("the process ended: %v", err)
	}
}

// TestRequests checks the responses of one server to all malformed requests and commands, and that the server
// works as before.
func TestRequests(t *testing.T) {
	b := newBench(t)
	t.Run("push", func(t *testing.T) { b.run(t, pushRows(b)) })
	t.Run("query", func(t *testing.T) { b.run(t, queryRows(b)) })
	t.Run("edge", func(t *testing.T) { b.run(t, edgeRows(b)) })
	t.Run("admin", func(t *testing.T) { b.run(t, adminRows(b)) })
	t.Run("wire", func(t *testing.T) { wire(t, b) })
	t.Run("commands", func(t *testing.T) { commands(t, b) })
	b.unharmed(t)
}

// row is one malformed request and the expected response.
type row struct {
	name    string
	method  string // default: GET, or POST with a body
	url     string
	key     string
	headers string // "Name: value", separated by "|"
	body    []byte
	code    int
	says    string // words, separated by "|"
}

func (b *bench) run(t *testing.T, rows []row) {
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			code, text := r.send(t)
			if code != r.code {
				t.Errorf("status = %d, want %d: %s", code, r.code, text)
			}
			for _, word := range strings.Split(r.says, "|") {
				if !strings.Contains(strings.ToLower(text), strings.ToLower(word)) {
					t.Errorf("the response with status %d does not contain %q: %s", code, word, text)
				}
			}
			if len(text) > 4000 {
				t.Errorf("the response has %d bytes", len(text))
			}
		})
	}
}

func (r row) send(t *testing.T) (int, string) {
	t.Helper()
	method := r.method
	if method == "" {
		method = http.MethodGet
		if r.body != nil {
			method = http.MethodPost
		}
	}
	req, err := http.NewRequest(method, r.url, bytes.NewReader(r.body))
	if err != nil {
		t.Fatal(err)
	}
	if r.key != "" {
		req.Header.Set("Authorization", "Bearer "+r.key)
	}
	for _, h := range strings.Split(r.headers, "|") {
		if name, value, ok := strings.Cut(h, ": "); ok {
			req.Header.Add(name, value)
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// float returns a series with one sample; more contains names and values of additional
// labels.
func float(metric string, t int64, v float64, more ...string) prompb.TimeSeries {
	ts := prompb.TimeSeries{Samples: []prompb.Sample{{Timestamp: t, Value: v}}}
	if metric != "" {
		ts.Labels = append(ts.Labels, prompb.Label{Name: model.MetricNameLabel, Value: metric})
	}
	for i := 0; i < len(more); i += 2 {
		ts.Labels = append(ts.Labels, prompb.Label{Name: more[i], Value: more[i+1]})
	}
	return ts
}

// body1 encodes the body of a remote write 1.0 request.
func body1(series ...prompb.TimeSeries) []byte {
	raw, err := (&prompb.WriteRequest{Timeseries: series}).Marshal()
	if err != nil {
		panic(err)
	}
	return snappy.Encode(nil, raw)
}
