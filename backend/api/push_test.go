package api

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/distributor"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/remotewrite"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

const (
	typeV1 = "application/x-protobuf"
	typeV2 = "application/x-protobuf;proto=io.prometheus.write.v2.Request"
)

func bodyV1(t testing.TB) []byte {
	t.Helper()
	data, err := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{
		Labels:  []prompb.Label{{Name: "__name__", Value: "up"}},
		Samples: []prompb.Sample{{Timestamp: 1, Value: 1}, {Timestamp: 2, Value: 2}},
	}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return snappy.Encode(nil, data)
}

func bodyV2(t testing.TB) []byte {
	t.Helper()
	st := writev2.NewSymbolTable()
	refs := st.SymbolizeLabels(labels.FromStrings("__name__", "up"), nil)
	data, err := (&writev2.Request{Symbols: st.Symbols(), Timeseries: []writev2.TimeSeries{{
		LabelsRefs: refs, Samples: []writev2.Sample{{Timestamp: 1, Value: 1}, {Timestamp: 2, Value: 2}},
	}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return snappy.Encode(nil, data)
}

// pushing is an API whose limits and push function can be changed, because
// creating one is slow.
type pushing struct {
	http.Handler
	lim  limits.Limits
	push func(context.Context, *series.Batch) (series.Outcome, error)
}

// newAPI calls New with valid options.
func newAPI(o Options) http.Handler {
	h, err := New(o)
	if err != nil {
		panic(err)
	}
	return h
}

// pushAPI returns an API that has only write routes. If push is nil, it counts all samples as
// written.
func pushAPI(lim limits.Limits, push func(context.Context, *series.Batch) (series.Outcome, error)) *pushing {
	if push == nil {
		push = func(_ context.Context, b *series.Batch) (series.Outcome, error) {
			var out series.Outcome
			for _, e := range b.Entries {
				out.Samples += len(e.Samples)
			}
			return out, nil
		}
	}
	p := &pushing{lim: lim, push: push}
	p.Handler = newAPI(Options{
		Push:   func(ctx context.Context, b *series.Batch) (series.Outcome, error) { return p.push(ctx, b) },
		Limits: func(tenant.ID) limits.Limits { return p.lim },
	})
	return p
}

func as(id tenant.ID, r *http.Request) *http.Request {
	return r.WithContext(tenant.NewContext(r.Context(), tenant.Access{Tenant: id, Policy: tenant.Unrestricted()}))
}

func do(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func pushRequest(path string, body []byte, header map[string]string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
	for k, v := range header {
		r.Header.Set(k, v)
	}
	return as("a", r)
}

func TestPush(t *testing.T) {
	v1, v2 := bodyV1(t), bodyV2(t)
	long := append(binary.AppendUvarint(nil, 1<<30), make([]byte, 1<<10)...)
	tests := []struct {
		name   string
		header map[string]string
		body   []byte
		lim    limits.Limits
		status int
		text   string // part of the answer
	}{
		{"1.0", map[string]string{"Content-Type": typeV1, "Content-Encoding": "snappy"}, v1, limits.Limits{}, 204, ""},
		{"1.0 with its message", map[string]string{"Content-Type": "application/x-protobuf; proto=prometheus.WriteRequest", "Content-Encoding": "Snappy"}, v1, limits.Limits{}, 204, ""},
		{"2.0", map[string]string{"Content-Type": typeV2, "Content-Encoding": "snappy"}, v2, limits.Limits{}, 204, ""},
		{"2.0, written otherwise", map[string]string{"Content-Type": `Application/X-Protobuf; Proto="io.prometheus.write.v2.Request"`}, v2, limits.Limits{}, 204, ""},
		{"no headers", nil, v1, limits.Limits{}, 204, ""},
		{"JSON", map[string]string{"Content-Type": "application/json"}, []byte("{}"), limits.Limits{}, 415, `"application/json" is not remote write`},
		{"other message", map[string]string{"Content-Type": typeV1 + ";proto=io.prometheus.write.v3.Request"}, v1, limits.Limits{}, 415, "supported are"},
		{"broken type", map[string]string{"Content-Type": "a/b; ="}, v1, limits.Limits{}, 415, "cannot be parsed"},
		{"gzip", map[string]string{"Content-Encoding": "gzip"}, v1, limits.Limits{}, 415, `"gzip" is not supported; send snappy`},
		{"zstd", map[string]string{"Content-Encoding": "zstd", "Content-Type": typeV2}, v2, limits.Limits{}, 415, "snappy"},
		{"1.0 as 2.0", map[string]string{"Content-Type": typeV2}, snappy.Encode(nil, []byte("\x20\x01")), limits.Limits{}, 400, "malformed"},
		{"not compressed", map[string]string{"Content-Type": typeV1}, []byte("hello"), limits.Limits{}, 400, "snappy"},
		{"empty", map[string]string{"Content-Type": typeV1}, nil, limits.Limits{}, 400, "snappy"},
		{"not protobuf", map[string]string{"Content-Type": typeV1}, snappy.Encode(nil, []byte("\x0a\xff")), limits.Limits{}, 400, "malformed"},
		{"no series", map[string]string{"Content-Type": typeV1}, snappy.Encode(nil, nil), limits.Limits{}, 204, ""},
		{"body at the limit", nil, v1, limits.Limits{MaxBodyBytes: int64(len(v1))}, 204, ""},
		{"body too large", nil, v1, limits.Limits{MaxBodyBytes: int64(len(v1)) - 1}, 413, fmt.Sprintf("limit max_body_bytes of %d bytes exceeded: the request body has %d bytes", len(v1)-1, len(v1))},
		{"decoded too large", nil, v1, limits.Limits{MaxDecodedBytes: 10}, 413, "limit max_decoded_bytes of 10 bytes"},
		{"decoded too large for 2.0", map[string]string{"Content-Type": typeV2}, v2, limits.Limits{MaxDecodedBytes: 10}, 413, "limit max_decoded_bytes of 10 bytes"},
		{"claims too much", nil, long, limits.Limits{}, 400, "cannot decompress"},
		{"claims more than the limit", nil, long, limits.Limits{MaxDecodedBytes: 1 << 20}, 413, "limit max_decoded_bytes of 1048576 bytes"},
	}
	h := pushAPI(limits.Limits{}, nil)
	for _, tt := range tests {
		h.lim = tt.lim
		t.Run(tt.name, func(t *testing.T) {
			w := do(h, pushRequest("/api/v1/push", tt.body, tt.header))
			if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.text) {
				t.Errorf("%d %q, want %d and %q", w.Code, w.Body, tt.status, tt.text)
			}
			if tt.status == http.StatusNoContent && w.Header().Get(headerSamples) == "" {
				t.Error("the response has no headers with counts")
			}
		})
	}
}

// TestChunkedBody checks that the limit also applies to a body without
// Content-Length.
func TestChunkedBody(t *testing.T) {
	r := pushRequest("/api/v1/push", nil, nil)
	r.Body, r.ContentLength = http.NoBody, -1
	r.Body = readCloser{bytes.NewReader(make([]byte, 1<<20))}
	w := do(pushAPI(limits.Limits{MaxBodyBytes: 1000}, nil), r)
	if w.Code != 413 || !strings.Contains(w.Body.String(), "limit max_body_bytes of 1000 bytes exceeded: the request body has more") {
		t.Errorf("%d %q", w.Code, w.Body)
	}
}

// TestBombs checks that a body with a huge claimed size, or with a high
// compression ratio, allocates no more than the limit of its decompressed size
// in addition to buffers for the body itself.
func TestBombs(t *testing.T) {
	const limit = 1 << 20
	claims := append(binary.AppendUvarint(nil, 1<<32-1), make([]byte, 1<<16)...)
	zeros := snappy.Encode(nil, make([]byte, 64<<20)) // 3 MiB
	h := pushAPI(limits.Limits{MaxDecodedBytes: limit}, nil)
	for name, body := range map[string][]byte{"claims": claims, "zeros": zeros} {
		r := pushRequest("/api/v1/push", body, nil)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		w := do(h, r)
		runtime.ReadMemStats(&after)
		if w.Code != 413 {
			t.Errorf("%s: status %d", name, w.Code)
		}
		// The body itself is read into a buffer that grows by doubling; with
		// the race detector each step allocates twice.
		if n := after.TotalAlloc - before.TotalAlloc; n > uint64(6*len(body)+limit) {
			t.Errorf("%s: %d bytes allocated for a body of %d", name, n, len(body))
		}
	}
}

// TestCounts checks that the headers with written samples are set in both
// versions, also if a part was rejected, and that they are 0 if the request
// failed.
func TestCounts(t *testing.T) {
	rejected := series.Outcome{Samples: 7, Histograms: 2, Exemplars: 1}
	rejected.Reject("max_active_series", "limit max_active_series of 3 reached", 5, func() string { return `{__name__="x"}` })
	tests := []struct {
		name   string
		out    series.Outcome
		err    error
		status int
		counts [3]string
		text   string
	}{
		{"all accepted", series.Outcome{Samples: 7, Histograms: 2, Exemplars: 1}, nil, 204, [3]string{"7", "2", "1"}, ""},
		{"partly rejected", rejected, nil, 400, [3]string{"7", "2", "1"}, `limit max_active_series of 3 reached (max_active_series): 5 samples rejected, first: {__name__="x"}`},
		{"failed", series.Outcome{Samples: 7}, ingester.ErrFull, 503, [3]string{"0", "0", "0"}, "memory is full"},
	}
	h := pushAPI(limits.Limits{}, nil)
	for _, tt := range tests {
		for ct, body := range map[string][]byte{typeV1: bodyV1(t), typeV2: bodyV2(t)} {
			h.push = func(_ context.Context, b *series.Batch) (series.Outcome, error) {
				if b.Tenant != "a" {
					t.Errorf("batch of tenant %q", b.Tenant)
				}
				return tt.out, tt.err
			}
			w := do(h, pushRequest("/api/v1/push", body, map[string]string{"Content-Type": ct}))
			got := [3]string{w.Header().Get(headerSamples), w.Header().Get(headerHistograms), w.Header().Get(headerExemplars)}
			if w.Code != tt.status || got != tt.counts || !strings.Contains(w.Body.String(), tt.text) {
				t.Errorf("%s: %d %v %q, want %d %v %q", tt.name, w.Code, got, w.Body, tt.status, tt.counts, tt.text)
			}
		}
	}
}

// TestErrors checks the response for every known error of the backend. The text
// of unknown errors is not returned.
func TestErrors(t *testing.T) {
	secret := errors.New("open /srv/data/wal/00000001: no space left on device")
	wrap := func(err error) error { return fmt.Errorf("ingester-1: %w: %w", err, secret) }
	tests := []struct {
		err    error
		status int
		text   string
	}{
		{wrap(ingester.ErrFull), 503, "ingester's memory is full; send the request again"},
		{wrap(ingester.ErrDiskFull), 503, "ingester's disk is nearly full; send the request again: writes are accepted again automatically once there is free space"},
		{wrap(ingester.ErrLog), 503, "the write-ahead log could not be written; send the request again"},
		{wrap(ingester.ErrStopped), 503, "ingester is stopping; send the request again"},
		{wrap(ring.ErrTooFew), 503, "too few ingesters are available; send the request again"},
		{wrap(peers.ErrTooFew), 503, "too few ingesters are available; send the request again"},
		{wrap(distributor.ErrUnavailable), 503, "too few ingesters are available; send the request again"},
		{wrap(context.DeadlineExceeded), 503, "request took too long; send it again"},
		{wrap(context.Canceled), 503, "request was canceled by a process that stops; send it again"},
		{secret, 503, "internal error; send the request again"},
		{wrap(limits.MaxQuerySeries.ExceededAt(3, 4)), 422, "limit max_query_series of 3 series exceeded: the query selects 4 series; select fewer series with more specific matchers, or a shorter range"},
		{wrap(limits.MaxDecodedBytes.ExceededAt(4, 5)), 413, "limit max_decoded_bytes of 4 bytes exceeded: the request body has 5 bytes after decompression; send smaller requests"},
		{fmt.Errorf("%w: bad", remotewrite.ErrMalformed), 400, "remote write body is malformed: bad"},
		{badRequest{errors.New("no")}, 400, "no"},
		{unsupported("no"), 415, "no"},
		{limits.MaxBodyBytes.ExceededAt(4, limits.More), 413, "limit max_body_bytes of 4 bytes exceeded: the request body has more; send smaller requests"},
	}
	h := pushAPI(limits.Limits{}, nil)
	for _, tt := range tests {
		h.push = func(context.Context, *series.Batch) (series.Outcome, error) { return series.Outcome{}, tt.err }
		w := do(h, pushRequest("/api/v1/push", bodyV1(t), nil))
		if w.Code != tt.status || w.Body.String() != tt.text+"\n" {
			t.Errorf("%v: %d %q, want %d %q", tt.err, w.Code, w.Body, tt.status, tt.text)
		}
		if retry := w.Header().Get("Retry-After") != ""; retry != (tt.status == 503) {
			t.Errorf("%v: Retry-After is set: %v", tt.err, retry)
		}
	}
}

func BenchmarkPush(b *testing.B) {
	h := pushAPI(limits.Default(), nil)
	body := bodyV1(b)
	b.ReportAllocs()
	for b.Loop() {
		if w := do(h, pushRequest("/api/v1/push", body, nil)); w.Code != http.StatusNoContent {
			b.Fatal(w.Code)
		}
	}
}

// TestHAReplicas checks that samples of one of two HA replicas are accepted, and that the other one
// gets a success response.
func TestHAReplicas(t *testing.T) {
	b := newBackend(t)
	b.lim.AcceptHASamples = true
	push := func(replica string) int {
		t.Helper()
		req := &prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{
			Labels:  []prompb.Label{{Name: "__name__", Value: "up"}, {Name: "__replica__", Value: replica}, {Name: "cluster", Value: "c"}},
			Samples: []prompb.Sample{{Timestamp: b.now.UnixMilli(), Value: 1}},
		}}}
		data, err := req.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodPost, "/api/v1/push", bytes.NewReader(snappy.Encode(nil, data)))
		r = r.WithContext(tenant.NewContext(r.Context(), tenant.Access{Tenant: "a", Policy: tenant.Unrestricted()}))
		w := httptest.NewRecorder()
		b.h.ServeHTTP(w, r)
		if n := w.Header().Get(headerSamples); n != "1" {
			t.Errorf("replica %s: header says that %s samples were written", replica, n)
		}
		return w.Code
	}
	if got := []int{push("0"), push("1"), push("0")}; got[0] != 204 || got[1] != 202 || got[2] != 204 {
		t.Errorf("responses = %v", got)
	}
}
