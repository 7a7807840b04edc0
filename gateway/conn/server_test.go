package conn

import (
	"log/slog"
	"net"
	"testing"
)

// startServer serves on a guarded listener of the loopback interface until the
// test ends.
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
