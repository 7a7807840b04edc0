package api

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/test/kit"
)

// accounted is an API for pushes with a memory account. Its push function
// counts its calls.
type accounted struct {
	*pushing
	account *memory.Account
	pushed  int
}

func newAccounted(account int64, lim limits.Limits) *accounted {
	a := &accounted{account: memory.NewAccount(account, nil)}
	a.pushing = &pushing{lim: lim, push: func(context.Context, *series.Batch) (series.Outcome, error) {
		a.pushed++
		return series.Outcome{}, nil
	}}
	a.Handler = newAPI(Options{
		Push:   func(ctx context.Context, b *series.Batch) (series.Outcome, error) { return a.push(ctx, b) },
		Limits: func(tenant.ID) limits.Limits { return a.lim }, Memory: a.account,
	})
	return a
}

// bodies returns bodies with the given number of series in both versions, by
// content type.
func bodies(t testing.TB, n int) map[string][]byte {
	t.Helper()
	v1, v2, st := &prompb.WriteRequest{}, &writev2.Request{}, writev2.NewSymbolTable()
	for i := range n {
		name := fmt.Sprintf("instance-%06d", i)
		v1.Timeseries = append(v1.Timeseries, prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: "up"}, {Name: "instance", Value: name}},
			Samples: []prompb.Sample{{Timestamp: 1, Value: 1}}})
		v2.Timeseries = append(v2.Timeseries, writev2.TimeSeries{LabelsRefs: []uint32{st.Symbolize("__name__"), st.Symbolize("up"), st.Symbolize("instance"), st.Symbolize(name)},
			Samples: []writev2.Sample{{Timestamp: 1, Value: 1}}})
	}
	v2.Symbols = st.Symbols()
	one, err := v1.Marshal()
	two, err2 := v2.Marshal()
	if err = errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{typeV1: snappy.Encode(nil, one), typeV2: snappy.Encode(nil, two)}
}

// TestPushMemory checks the response to a push without enough memory: the status makes the sender
// retry if and only if a retry can succeed, and nothing is written.
func TestPushMemory(t *testing.T) {
	for kind, body := range bodies(t, 20_000) {
		for _, tt := range []struct {
			name    string
			account int64
			own     int64 // max_memory_bytes
			others  bool  // hold all of the account
			held    int64 // by another request of the tenant
			want    rejection
		}{
			{"enough memory", 256 << 20, 0, false, 0, rejection{204, ""}},
			{"too large for the account", 4 << 20, 0, false, 0, rejection{413, "the maximum is 1835008; send fewer samples per request"}},
			{"too large for the tenant", 256 << 20, 1 << 20, false, 0, rejection{413, "the maximum is 1048576"}},
			{"body too large for the tenant", 256 << 20, 32 << 10, false, 0, rejection{413, "the maximum is 32768"}},
			{"other tenants hold all memory", 64 << 20, 0, true, 0, rejection{503, "memory for requests is exhausted"}},
			{"other requests of the tenant hold too much", 256 << 20, 64 << 20, false, 64<<20 - 1000, rejection{503, "memory for requests is exhausted"}},
		} {
			a := newAccounted(tt.account, limits.Limits{MaxMemoryBytes: tt.own})
			release := func() {}
			if tt.others {
				release = exhaust(a.account)
			}
			other := a.account.Begin(memory.Request{Tenant: "a", Limit: tt.own})
			if err := other.Take(tt.held); err != nil {
				t.Fatal(err)
			}
			w := do(a, pushRequest("/api/v1/push", body, map[string]string{"Content-Type": kind}))
			(&reading{t: t}).check(tt.name+", "+kind, w, tt.want)
			if wrote := a.pushed > 0; wrote != (tt.want.code == 204) {
				t.Errorf("%s, %s: pushed: %v", tt.name, kind, wrote)
			}
			release()
			other.Close()
			if n := a.account.Used(); n != 0 {
				t.Errorf("%s, %s: %d bytes are not released", tt.name, kind, n)
			}
		}
	}
}

// TestPushReleasesMemory checks that a push that fails releases all its memory.
func TestPushReleasesMemory(t *testing.T) {
	panics := errors.New("panic")
	for kind, body := range bodies(t, 1000) {
		for _, tt := range []struct {
			name string
			body []byte
			err  error // of the push
			code int
		}{
			{"malformed", snappy.Encode(nil, bytes.Repeat([]byte("\x0a\xff"), 1000)), nil, 400},
			{"cut off", body[:len(body)/2], nil, 400},
			{"too large", append(binary.AppendUvarint(nil, 1<<30), body...), nil, 413},
			{"canceled by an ingester", body, context.Canceled, 503},
			{"full", body, ingester.ErrFull, 503},
			{"unknown", body, errors.New("broken"), 503},
			{"panic", body, panics, 200},
		} {
			a := newAccounted(256<<20, limits.Limits{MaxDecodedBytes: 8 << 20})
			during := int64(0)
			a.push = func(context.Context, *series.Batch) (series.Outcome, error) {
				if during = a.account.Used(); errors.Is(tt.err, panics) {
					panic(panics)
				}
				return series.Outcome{}, tt.err
			}
			w := httptest.NewRecorder()
			func() {
				defer func() { _ = recover() }()
				a.ServeHTTP(w, pushRequest("/api/v1/push", tt.body, map[string]string{"Content-Type": kind}))
			}()
			if w.Code != tt.code {
				t.Errorf("%s, %s: %d %s", tt.name, kind, w.Code, w.Body)
			}
			if tt.err != nil && during < 3*int64(len(body)) {
				t.Errorf("%s, %s: held %d bytes for a body of %d bytes", tt.name, kind, during, len(body))
			}
			if n := a.account.Used(); n != 0 {
				t.Errorf("%s, %s: %d bytes are not released", tt.name, kind, n)
			}
		}
	}
}

// stalledBody returns some bytes and then blocks until it is released.
type stalledBody struct {
	data  io.Reader
	came  chan struct{} // closed when data has been read completely
	goOn  chan struct{}
	once  sync.Once
	cause error
}

func (s *stalledBody) Read(p []byte) (int, error) {
	if n, err := s.data.Read(p); err == nil {
		return n, nil
	}
	s.once.Do(func() { close(s.came) })
	<-s.goOn
	return 0, s.cause
}

func (s *stalledBody) Close() error { return nil }

// TestStalledBody checks that memory is charged for the received part of a body, not for its
// Content-Length.
func TestStalledBody(t *testing.T) {
	a := newAccounted(1<<30, limits.Default())
	for _, tt := range []struct {
		came, least, most int64
	}{
		{10, 10, 128 << 10},
		{100 << 10, 100 << 10, 256 << 10},
		{1 << 20, 1 << 20, 3 << 20},
	} {
		for _, path := range []string{"/api/v1/push", promAPI + "read", promAPI + "query"} {
			h := a.Handler
			account := a.account
			if path != "/api/v1/push" {
				b := newReading(t, 1<<30)
				h, account = b.h, b.account
			}
			s := &stalledBody{data: strings.NewReader(strings.Repeat("x", int(tt.came))), came: make(chan struct{}), goOn: make(chan struct{}), cause: io.ErrUnexpectedEOF}
			r := pushRequest(path, nil, nil)
			r.Body, r.ContentLength = s, 16<<20
			var all sync.WaitGroup
			all.Go(func() {
				if w := do(h, r); w.Code != 400 {
					t.Errorf("%s: %d %s", path, w.Code, w.Body)
				}
			})
			kit.Receive(t, "a part of the body came", s.came)
			if n := account.Used(); n < tt.least || n > tt.most {
				t.Errorf("%s: held %d bytes after %d were received, want %d to %d", path, n, tt.came, tt.least, tt.most)
			}
			close(s.goOn)
			all.Wait()
			if n := account.Used(); n != 0 {
				t.Errorf("%s: %d bytes are held", path, n)
			}
		}
	}
}

// TestUsedBuffer checks that the capacity of a reused buffer is charged, and
// that the buffer is dropped if there is no memory for it.
func TestUsedBuffer(t *testing.T) {
	account := memory.NewAccount(64<<20, nil)
	for _, tt := range []struct {
		own   int64
		room  int // of the buffer afterwards, at most
		least int64
	}{
		{0, 4 << 20, 4 << 20},
		{1 << 20, 1 << 20, 1000},
	} {
		h := account.Begin(memory.Request{Tenant: "a", Limit: tt.own, Write: true})
		buf := bytes.NewBuffer(make([]byte, 0, 4<<20))
		data := strings.Repeat("y", 1000)
		if err := readAll(buf, strings.NewReader(data), 2000, h); err != nil || buf.String() != data {
			t.Errorf("limit %d: %d bytes, %v", tt.own, buf.Len(), err)
		}
		if n := h.Used(); buf.Cap() > tt.room || n < tt.least || n < int64(buf.Cap())/2 {
			t.Errorf("limit %d: held %d bytes for a buffer of %d", tt.own, n, buf.Cap())
		}
		h.Close()
	}
}
