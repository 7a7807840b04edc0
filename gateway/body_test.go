package gateway

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/palliumhq/pallium/gateway/conn"
	"github.com/palliumhq/pallium/policies/limits"
)

// deadlines is a ResponseWriter that records read deadlines.
type deadlines struct {
	http.ResponseWriter
	mu  sync.Mutex
	set []time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.set = append(d.set, t)
	return nil
}

func (d *deadlines) last() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.set[len(d.set)-1]
}

func TestBodyDeadlines(t *testing.T) {
	d := &deadlines{}
	const size = 2 * deadlineStep
	b := newBody(d, &http.Request{Body: io.NopCloser(strings.NewReader(strings.Repeat("x", size)))}, size, nil)
	if f := b.receive(); f != nil {
		t.Fatal(f.text)
	}
	var got []time.Duration
	for _, at := range d.set[:len(d.set)-1] {
		got = append(got, at.Sub(b.start).Round(time.Second))
	}
	if len(got) != 3 || got[0] != conn.BodyGrace || got[1] < conn.BodyGrace+deadlineStep/conn.BodyRate*time.Second || got[2] < got[1]+deadlineStep/conn.BodyRate*time.Second {
		t.Errorf("deadlines at %v after the start", got)
	}
	if !d.last().IsZero() {
		t.Error("a deadline is still set after the body: it would cancel the request")
	}
	if all, err := io.ReadAll(b.buffer.Reader()); err != nil || len(all) != size || b.received() != size {
		t.Errorf("read %d bytes of %d: %v", len(all), size, err)
	}
}

// failing is a body that ends in an error.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestBodyFailures(t *testing.T) {
	take := func(int64) error { return nil }
	for _, tt := range []struct {
		name   string
		src    io.Reader
		take   func(int64) error
		status int
	}{
		{"slow", failing{os.ErrDeadlineExceeded}, take, 408},
		{"truncated", failing{io.ErrUnexpectedEOF}, take, 400},
		{"reset", failing{errors.New("connection reset")}, take, 400},
		{"too large", strings.NewReader("12345678901"), take, 413},
		{"no memory", strings.NewReader("1"), func(int64) error { return ErrNoMemory }, 503},
		{"never fits", strings.NewReader("1"), func(int64) error { return ErrNeverFits }, 413},
		{"tenant's own limit", strings.NewReader("1"), func(int64) error { return limits.MaxMemoryBytes.ExceededAt(1, 2) }, 422},
		{"valid", strings.NewReader("1234567890"), take, 0},
	} {
		f := newBody(&deadlines{}, &http.Request{Body: io.NopCloser(tt.src)}, 10, tt.take).receive()
		if got := f; got == nil && tt.status != 0 || got != nil && got.status != tt.status {
			t.Errorf("%s: %+v, want status %d", tt.name, got, tt.status)
		}
	}
}

// TestEveryBodyHasADeadline checks bodies that handlers read, read partially or do not
// read, and bodies that fail.
func TestEveryBodyHasADeadline(t *testing.T) {
	for name, tt := range map[string]struct {
		body    io.Reader
		handler http.HandlerFunc
		want    bool // a deadline at the end
	}{
		"unread":                    {strings.NewReader("x"), func(http.ResponseWriter, *http.Request) {}, true},
		"half read":                 {strings.NewReader("xx"), func(_ http.ResponseWriter, r *http.Request) { _, _ = r.Body.Read(make([]byte, 1)) }, true},
		"failed":                    {failing{errors.New("reset")}, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.ReadAll(r.Body) }, true},
		"read":                      {strings.NewReader("x"), func(_ http.ResponseWriter, r *http.Request) { _, _ = io.ReadAll(r.Body) }, false},
		"none":                      {http.NoBody, func(http.ResponseWriter, *http.Request) {}, false},
		"over the limit of newBody": {strings.NewReader("xx"), func(w http.ResponseWriter, r *http.Request) { newBody(w, r, 1, nil).receive() }, true},
		"read by newBody":           {strings.NewReader("xx"), func(w http.ResponseWriter, r *http.Request) { newBody(w, r, 9, nil).receive() }, false},
	} {
		d := &deadlines{ResponseWriter: httptest.NewRecorder()}
		d.set = append(d.set, time.Time{})
		r := httptest.NewRequest("POST", "/", tt.body)
		conn.Server(conn.Options{Handler: tt.handler, Logger: slog.New(slog.DiscardHandler)}).Handler.ServeHTTP(d, r)
		if got := !d.last().IsZero(); got != tt.want {
			t.Errorf("%s: last deadline = %v", name, d.last())
		}
	}
}
