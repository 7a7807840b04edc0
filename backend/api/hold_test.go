package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/policies/limits"
)

// TestHold checks that only remote read, metadata and exemplar requests hold a slot of a querier.
func TestHold(t *testing.T) {
	b := newReading(t, 64<<20)
	for _, c := range allReadRoutes() {
		b.holding, b.released = 0, 0
		w := httptest.NewRecorder()
		b.h.ServeHTTP(w, as("acme", c.request(b, "")))
		want := 0
		switch c.pattern {
		case "read", "metadata", "query_exemplars":
			want = 1
		}
		if w.Code/100 != 2 || b.holding != want || b.released != want {
			t.Errorf("%s: %d, %d slots held and %d released, want %d", c, w.Code, b.holding, b.released, want)
		}
		if want == 1 && b.instant != (c.pattern != "read") {
			t.Errorf("%s: waits as an instant query: %t", c, b.instant)
		}
		b.clean(c.String())
	}
}

// TestHoldFails checks the responses while no slot is free, and that nothing stays held.
func TestHoldFails(t *testing.T) {
	for _, c := range []readRoute{{method: "GET", pattern: "metadata", noText: true}, {method: "POST", pattern: "read"},
		{method: "POST", pattern: "query_exemplars"}} {
		b := newReading(t, 64<<20)
		b.lim.QueryTimeout = limits.Duration(20 * time.Millisecond)
		b.held = func(ctx context.Context) error {
			<-ctx.Done()
			return context.Cause(ctx)
		}
		w := httptest.NewRecorder()
		b.h.ServeHTTP(w, as("acme", c.request(b, "")))
		if json := strings.Contains(w.Body.String(), `"errorType":"timeout"`); w.Code != http.StatusServiceUnavailable || json == (c.pattern == "read") {
			t.Errorf("%s: %d %s", c, w.Code, w.Body)
		}
		b.clean(c.String())
	}
}

// slowClient is a client that does not read the response before the slot of its read is released.
// Small pieces of the response are buffered until they are flushed.
type slowClient struct {
	*httptest.ResponseRecorder
	b        *reading
	buffered bool
}

func (c slowClient) Write(p []byte) (int, error) {
	if !c.buffered {
		c.wait()
	}
	return c.ResponseRecorder.Write(p)
}

func (c slowClient) Flush() {
	c.wait()
	c.ResponseRecorder.Flush()
}

func (c slowClient) wait() {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c.b.mu.Lock()
		n := c.b.released
		c.b.mu.Unlock()
		if n > 0 || time.Now().After(end) {
			break
		}
	}
}

// TestHoldSlowClient checks that a read releases its slot if the client does not read the response.
func TestHoldSlowClient(t *testing.T) {
	for _, tt := range []struct {
		route    readRoute
		buffered bool
	}{
		{readRoute{method: "POST", pattern: "read"}, false},
		{readRoute{method: "POST", pattern: "read", streamed: true}, false},
		{readRoute{method: "POST", pattern: "read", streamed: true}, true},
		{readRoute{method: "GET", pattern: "metadata", noText: true}, false},
		{readRoute{method: "POST", pattern: "query_exemplars"}, false},
	} {
		b := newReading(t, 64<<20)
		w := slowClient{httptest.NewRecorder(), b, tt.buffered}
		b.h.ServeHTTP(w, as("acme", tt.route.request(b, "")))
		if w.Code != http.StatusOK || b.released < 2 { // during a write, and at the end
			t.Errorf("%s, buffered %t: %d, released %d times", tt.route, tt.buffered, w.Code, b.released)
		}
		b.clean(tt.route.String())
	}
}

// TestHoldTiming checks that the time until a slot is held, or until the read's timeout, is reported
// as queue_time.
func TestHoldTiming(t *testing.T) {
	for _, fails := range []bool{false, true} {
		for _, c := range []readRoute{{method: "GET", pattern: "metadata", noText: true}, {method: "POST", pattern: "read"}} {
			b := newReading(t, 64<<20)
			b.held = func(context.Context) error {
				b.now = b.now.Add(1500 * time.Millisecond)
				if fails {
					return context.DeadlineExceeded
				}
				return nil
			}
			w := httptest.NewRecorder()
			b.h.ServeHTTP(w, as("acme", c.request(b, "")))
			if got := w.Header().Get("Server-Timing"); !strings.Contains(got, "queue_time;dur=1500,") {
				t.Errorf("%s, fails %t: %d, Server-Timing %q", c, fails, w.Code, got)
			}
			b.clean(c.String())
		}
	}
}
