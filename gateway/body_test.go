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
)

// deadlines is a ResponseWriter that notes the read deadlines it is given.
type deadlines struct {
	http.ResponseWriter
	mu  sync.Mutex
	set []time.Time
	cut chan struct{} // closed by a deadline in the past
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.set = append(d.set, t)
	if d.cut != nil && !t.IsZero() && t.Before(time.Unix(2, 0)) {
		close(d.cut)
		d.cut = nil
	}
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
	b := newBody(d, &http.Request{Body: io.NopCloser(strings.NewReader(strings.Repeat("x", size)))}, size)
	buf := make([]byte, deadlineStep)
	for _, want := range []time.Duration{conn.BodyGrace, conn.BodyGrace + deadlineStep/conn.BodyRate*time.Second} {
		if _, err := io.ReadFull(b, buf); err != nil {
			t.Fatal(err)
		}
		if got := d.last().Sub(b.start); got != want {
			t.Errorf("deadline after %s, want %s", got, want)
		}
	}
	if _, err := b.Read(buf); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if !d.last().IsZero() {
		t.Error("the deadline outlives the body: it would cancel the request")
	}
	n := len(d.set)
	_ = b.Close()
	if _, err := b.Read(buf); !errors.Is(err, http.ErrBodyReadAfterClose) || len(d.set) != n {
		t.Errorf("after Close: %v, %d deadlines more", err, len(d.set)-n)
	}
}

// failing is a body that ends in an error.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
func (f failing) Close() error             { return nil }

func TestBodyFailures(t *testing.T) {
	for err, status := range map[error]int{
		os.ErrDeadlineExceeded: 408, io.ErrUnexpectedEOF: 400, errors.New("connection reset"): 400,
	} {
		b := newBody(&deadlines{}, &http.Request{Body: failing{err}}, 10)
		if _, got := b.Read(make([]byte, 1)); !errors.Is(got, err) {
			t.Errorf("Read: %v, want %v", got, err)
		}
		if _, f := b.state(); f == nil || f.status != status {
			t.Errorf("%v became %+v, want status %d", err, f, status)
		}
	}
}

// stuck is a body of a client that sends nothing, until its deadline passes.
type stuck struct {
	reading chan struct{}
	cut     chan struct{}
}

func (s stuck) Read([]byte) (int, error) {
	close(s.reading)
	<-s.cut
	return 0, os.ErrDeadlineExceeded
}
func (s stuck) Close() error { return nil }

func TestCloseEndsAReadThatWaits(t *testing.T) {
	s := stuck{make(chan struct{}), make(chan struct{})}
	b := newBody(&deadlines{cut: s.cut}, &http.Request{Body: s}, 10)
	done := make(chan error)
	go func() {
		_, err := b.Read(make([]byte, 1))
		done <- err
	}()
	<-s.reading
	_ = b.Close()
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

// TestEveryBodyHasADeadline: also one that no handler reads, or that fails.
func TestEveryBodyHasADeadline(t *testing.T) {
	for name, tt := range map[string]struct {
		body    io.Reader
		handler http.HandlerFunc
		want    bool // a deadline at the end
	}{
		"unread":     {strings.NewReader("x"), func(http.ResponseWriter, *http.Request) {}, true},
		"half read":  {strings.NewReader("xx"), func(_ http.ResponseWriter, r *http.Request) { _, _ = r.Body.Read(make([]byte, 1)) }, true},
		"failed":     {failing{errors.New("reset")}, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.ReadAll(r.Body) }, true},
		"read":       {strings.NewReader("x"), func(_ http.ResponseWriter, r *http.Request) { _, _ = io.ReadAll(r.Body) }, false},
		"none":       {http.NoBody, func(http.ResponseWriter, *http.Request) {}, false},
		"cut by us":  {strings.NewReader("xx"), func(w http.ResponseWriter, r *http.Request) { _, _ = io.ReadAll(newBody(w, r, 1)) }, true},
		"read by us": {strings.NewReader("xx"), func(w http.ResponseWriter, r *http.Request) { _, _ = io.ReadAll(newBody(w, r, 9)) }, false},
	} {
		d := &deadlines{ResponseWriter: httptest.NewRecorder()}
		d.set = append(d.set, time.Time{})
		r := httptest.NewRequest("POST", "/", tt.body)
		conn.Server(conn.Options{Handler: tt.handler, Logger: slog.New(slog.DiscardHandler)}).Handler.ServeHTTP(d, r)
		if got := !d.last().IsZero(); got != tt.want {
			t.Errorf("%s: deadline %v", name, d.last())
		}
	}
}
