package gateway

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/palliumhq/pallium/policies/limits"
)

// TestSlowBodies checks that requests whose bodies do not arrive do not count as concurrent requests
// of their tenant or the gateway, and use no connection to a backend.
func TestSlowBodies(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			m := &account{free: 10 << 20, err: ErrNoMemory}
			e := newEdge(t, mode, func(o *Options) { o.Memory, o.Config.MaxInFlight, o.Config.MaxQueued = m, 2, 1 })
			e.tenants.set("a", limits.Limits{MaxConcurrentRequests: 2})
			const slow = 20
			var conns []net.Conn
			for range slow {
				c, err := net.Dial("tcp", e.addr)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(time.Minute))
				fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: x\r\n%s\r\nContent-Length: 900000\r\n\r\nabc", push, e.fill("Authorization: Bearer $A"))
				conns = append(conns, c)
			}
			m.holds(t, slow)
			for range 5 {
				if a := e.do(query, bearer("$A"), ""); a.status != 200 {
					t.Errorf("a query during slow bodies: %d %s", a.status, a.body)
				}
			}
			if got := e.backend.take(); len(got) != 5 {
				t.Errorf("the backend got %d requests, want 5", len(got))
			}
			if used := (10 << 20) - m.left(); used > slow*8<<10 {
				t.Errorf("%d bytes of memory are reserved for %d received bytes", used, slow*3)
			}
			// One body is completed, and its request is served.
			if _, err := io.WriteString(conns[0], fmt.Sprintf("%0*d", 900000-3, 0)); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 12)
			if _, err := io.ReadFull(conns[0], buf); err != nil || string(buf) != "HTTP/1.1 200" {
				t.Errorf("response = %q: %v", buf, err)
			}
			for _, c := range conns {
				c.Close()
			}
			m.is(t, 10<<20)
		})
	}
}

// TestBodiesTakeMemory checks that a body for which no memory is free gets 503, and that
// its memory is released.
func TestBodiesTakeMemory(t *testing.T) {
	const free = 64 << 10
	m := &account{free: free, err: ErrNoMemory}
	e := newEdge(t, "proxy", func(o *Options) { o.Memory = m })
	for _, tt := range []struct{ size, status int }{{10_000, 200}, {100_000, 503}, {30_000, 200}} {
		a := e.do(push, bearer("$A"), fmt.Sprintf("%0*d", tt.size, 0))
		if a.status != tt.status || a.status == 503 && a.header.Get("Retry-After") == "" {
			t.Errorf("%d bytes: %d %v %s, want %d, and Retry-After if that is 503", tt.size, a.status, a.header, a.body, tt.status)
		}
		m.is(t, free)
	}
}

func (a *account) left() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.free
}

// holds waits until n requests hold memory.
func (a *account) holds(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		a.mu.Lock()
		got := a.holdings
		a.mu.Unlock()
		if got == n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d requests hold memory, want %d", got, n)
		}
	}
}
