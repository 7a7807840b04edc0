package gateway

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"time"
)

// TestBothModesSendTheSame compares the requests that a backend gets directly and through
// the proxy.
func TestBothModesSendTheSame(t *testing.T) {
	headers := bearer("$A", "Content-Type: application/x-protobuf", "Content-Encoding: snappy", "User-Agent: Prometheus/3",
		"Accept-Encoding: gzip", "X-Prometheus-Remote-Write-Version: 0.1.0", "X-Custom: 1", "Cookie: c=d", "Te: trailers")
	want := []string{"Accept-Encoding", "Content-Encoding", "Content-Type", "User-Agent", "X-Pallium-Max-Decoded-Bytes",
		"X-Pallium-Policy", "X-Prometheus-Remote-Write-Version", "X-Request-Id", "X-Scope-Orgid"}
	for _, mode := range modes {
		e := newEdge(t, mode, nil)
		a := e.do("POST /api/prom/push?b=2&a=1", headers, "body")
		got := e.backend.take()
		if a.status != 200 || len(got) != 1 {
			t.Fatalf("%s: status %d, %d requests", mode, a.status, len(got))
		}
		s := got[0]
		s.header.Del("Content-Length") // added by HTTP
		if names := slices.Sorted(maps.Keys(s.header)); !slices.Equal(names, want) {
			t.Errorf("%s: headers %v, want %v", mode, names, want)
		}
		if s.path != "/api/v1/push" || s.query != "a=1&b=2" || s.body != "body" || s.method != "POST" {
			t.Errorf("%s: the backend got %+v", mode, s)
		}
		if id := s.header.Get(HeaderRequestID); id == "" || id != a.header.Get(HeaderRequestID) {
			t.Errorf("%s: request ID = %q, in the response = %q", mode, id, a.header.Get(HeaderRequestID))
		}
	}
}

func TestSource(t *testing.T) {
	c := Config{TrustedProxies: []string{"10.0.0.0/8", "fd00::/8"}}
	nets, err := c.Trusted()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ remote, forwarded, want string }{
		{"192.0.2.1:80", "", "192.0.2.1"},
		{"192.0.2.1:80", "198.51.100.1", "192.0.2.1"},
		{"10.1.1.1:80", "198.51.100.1", "198.51.100.1"},
		{"10.1.1.1:80", "203.0.113.9, 198.51.100.1", "198.51.100.1"},
		{"10.1.1.1:80", "203.0.113.9, 198.51.100.1, 10.2.2.2", "198.51.100.1"},
		{"10.1.1.1:80", "198.51.100.1, junk", "10.1.1.1"},
		{"10.1.1.1:80", "", "10.1.1.1"},
		{"[::ffff:10.1.1.1]:80", "198.51.100.1", "198.51.100.1"},
		{"junk", "198.51.100.1", "invalid IP"},
	}
	for _, tt := range tests {
		r := &http.Request{RemoteAddr: tt.remote, Header: http.Header{}}
		if tt.forwarded != "" {
			r.Header.Set("X-Forwarded-For", tt.forwarded)
		}
		if got := source(r, nets).String(); got != tt.want {
			t.Errorf("source(%s, %q) = %s, want %s", tt.remote, tt.forwarded, got, tt.want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for _, d := range []time.Duration{time.Nanosecond, time.Second, 90 * time.Second, 1e6 * time.Hour} {
		n, err := strconv.Atoi(retryAfter(d))
		least := int(min(d, time.Hour)/time.Second) + map[bool]int{true: 1}[d < time.Second]
		if err != nil || n < least || n > least+least/4+2 {
			t.Errorf("retryAfter(%s) = %d (%v), want %d to %d", d, n, err, least, least+least/4+2)
		}
	}
}
