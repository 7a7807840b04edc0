package conn

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"
)

// startServer serves on a guarded loopback listener until the test ends.
func startServer(t *testing.T, o Options) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.HeaderBytes == 0 {
		o.HeaderBytes = HeaderBytes
	}
	srv := Server(o)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(Guard(l, o.HeaderBytes)) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return l.Addr().String()
}

// TestReadHeaderTimeout checks that connections are closed on which no header or only a
// part of one arrives.
func TestReadHeaderTimeout(t *testing.T) {
	addr := startServer(t, Options{readHeaderTimeout: 300 * time.Millisecond, Handler: http.NotFoundHandler()})
	const whole = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, send := range map[string]string{
		"nothing": "", "a byte": "G", "half": "GET / HTTP/1.1\r\nHost: x\r\nA: b", "a second half": whole + "GET / HTTP/1.1\r\nHo",
	} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second)) // shorter than the idle timeout
		if _, err := io.WriteString(c, send); err != nil {
			t.Fatal(err)
		}
		var timeout net.Error
		if _, err := io.Copy(io.Discard, c); errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%s: the connection is still open", name)
		}
	}
}

// TestHeadersOfHTTP2 checks that the header limit of HTTP/2 is lower, unless the
// configured one is lower still.
func TestHeadersOfHTTP2(t *testing.T) {
	for set, want := range map[int]int{0: http2HeaderBytes, HeaderBytes: http2HeaderBytes, 8 << 10: 8 << 10} {
		o := Options{Handler: http.NotFoundHandler(), Logger: slog.New(slog.DiscardHandler), HeaderBytes: set}
		if got := ServerOfHTTP2(o).MaxHeaderBytes; got != want+4096 {
			t.Errorf("HeaderBytes %d: MaxHeaderBytes = %d, want %d", set, got, want)
		}
	}
}

// TestIdleTimeout checks the default and the configured idle timeout.
func TestIdleTimeout(t *testing.T) {
	for _, c := range []struct {
		set, want time.Duration
	}{{0, idleTimeout}, {620 * time.Second, 620 * time.Second}} {
		if srv := Server(Options{Handler: http.NotFoundHandler(), Logger: slog.New(slog.DiscardHandler), IdleTimeout: c.set}); srv.IdleTimeout != c.want {
			t.Errorf("IdleTimeout %v: server has %v, want %v", c.set, srv.IdleTimeout, c.want)
		}
	}
}
