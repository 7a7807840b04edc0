package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
)

// old sends an HTTP/1.0 request and reads until the server closes the connection.
func (e *edge) old(t *testing.T, request string) (answer, error) {
	t.Helper()
	c, err := net.Dial("tcp", e.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return answer{}, err
	}
	if resp.ContentLength < 0 {
		t.Error("the response has no length")
	}
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
		t.Errorf("data after the response: %q, %v", rest, err)
	}
	return answer{resp.StatusCode, resp.Header, string(data)}, nil
}

// TestHTTP10Responses checks that every response to an HTTP/1.0 client has a length, is
// complete or an error, and is the last one on its connection, whatever the backend does.
func TestHTTP10Responses(t *testing.T) {
	write := func(parts int, flush bool) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			for range parts {
				if _, err := io.WriteString(w, strings.Repeat("x", 1000)); err != nil {
					return
				}
				if flush {
					_ = http.NewResponseController(w).Flush()
				}
			}
		}
	}
	tests := []struct {
		name   string
		answer func(http.ResponseWriter, *http.Request)
		status int
		size   int // of a response that is not an error
		says   string
	}{
		{"one write", write(1, false), 200, 1000, ""},
		{"flushed", write(100, true), 200, 100_000, ""},
		{"nothing", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }, 204, 0, ""},
		{"an error", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "bad", http.StatusConflict) }, 409, 4, ""},
		{"too long", write(300, true), 500, 0, "HTTP/1.1"},
		{"streamed", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse")
			write(10, true)(w, r)
		}, 505, 0, "HTTP/1.1"},
		{"broken", func(w http.ResponseWriter, r *http.Request) {
			write(10, true)(w, r)
			panic(http.ErrAbortHandler)
		}, 503, 0, "incomplete"},
	}
	for _, mode := range modes {
		for _, tt := range tests {
			t.Run(mode+"/"+tt.name, func(t *testing.T) {
				e := newEdge(t, mode, nil)
				e.gateway.wholeLimit = 200_000
				e.backend.answer = tt.answer
				a, err := e.old(t, "GET /prometheus/api/v1/query?query=up HTTP/1.0\r\nConnection: keep-alive\r\n"+e.fill("Authorization: Bearer $A")+"\r\n\r\n")
				if err != nil {
					t.Fatal(err)
				}
				if a.status != tt.status || !strings.Contains(a.body, tt.says) || a.header.Get("X-Request-Id") == "" {
					t.Errorf("response = %d %.100q, want %d with %q", a.status, a.body, tt.status, tt.says)
				}
				if tt.says == "" && len(a.body) != tt.size {
					t.Errorf("%d bytes, want %d", len(a.body), tt.size)
				}
			})
		}
	}
}

// account is a Memory of limited size.
type account struct {
	mu       sync.Mutex
	free     int64
	err      error // of Take when nothing is free
	holdings int
}

type holding struct {
	*account
	taken int64
}

func (a *account) Hold(tenant.ID, int64, bool) Held {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.holdings++
	return &holding{account: a}
}

func (h *holding) Take(n int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n > h.free {
		return fmt.Errorf("take %d bytes: %w", n, h.err)
	}
	h.free, h.taken = h.free-n, h.taken+n
	return nil
}

func (h *holding) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.holdings--
	h.free, h.taken = h.free+h.taken, 0
}

// is waits until the number of free bytes is `free` and no request holds memory.
func (a *account) is(t *testing.T, free int64) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		a.mu.Lock()
		ok := a.free == free && a.holdings == 0
		a.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes are free, want %d; %d requests hold memory", a.free, free, a.holdings)
		}
	}
}

// TestHTTP10MemoryAccount checks that the memory of a buffered response is reserved and
// released.
func TestHTTP10MemoryAccount(t *testing.T) {
	const free = 64 << 10
	m := &account{free: free, err: ErrNoMemory}
	e := newEdge(t, "direct", func(o *Options) { o.Memory = m })
	for _, tt := range []struct{ size, status int }{{10_000, 200}, {100_000, 503}, {60_000, 200}} {
		e.backend.answer = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, tt.size)) }
		a, err := e.old(t, "GET /prometheus/api/v1/query?query=up HTTP/1.0\r\n"+e.fill("Authorization: Bearer $A")+"\r\n\r\n")
		if err != nil || a.status != tt.status || a.status == 503 && a.header.Get("Retry-After") == "" {
			t.Errorf("%d bytes: %d %v %.100q (%v), want %d, and Retry-After if that is 503", tt.size, a.status, a.header, a.body, err, tt.status)
		}
		m.is(t, free)
	}
}

// TestHTTP10RejectionWithoutMemory checks that a rejection for lack of memory is sent
// even if the account is exhausted.
func TestHTTP10RejectionWithoutMemory(t *testing.T) {
	m := &account{free: 8 << 10, err: ErrNoMemory}
	e := newEdge(t, "direct", func(o *Options) { o.Memory = m })
	a := e.do(push+" HTTP/1.0", bearer("$A"), strings.Repeat("x", 100_000))
	if a.status != 503 || !strings.Contains(a.body, "memory") {
		t.Errorf("response = %d %q, want 503", a.status, a.body)
	}
}
