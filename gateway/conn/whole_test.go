package conn

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/palliumhq/pallium/test/kit"
)

// TestTruncatedResponseIsReset checks that the connection of an HTTP/1.0 client that does
// not read is reset, so that the client cannot mistake a truncated response for a
// complete one.
func TestTruncatedResponseIsReset(t *testing.T) {
	gaveUp := make(chan struct{})
	addr := startServer(t, Options{pace: impatient(), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		whole := NewWhole(w, 64<<20)
		_, _ = whole.Write(make([]byte, 32<<20))
		whole.Send()
		close(gaveUp)
	})})
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.(*net.TCPConn).SetReadBuffer(4096)
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	kit.Receive(t, "the handler gives up", gaveUp)
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	var timeout net.Error
	if _, err := io.Copy(io.Discard, c); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("the connection was not reset after the truncated response: %v", err)
	}
}

func TestBuffer(t *testing.T) {
	data := []byte(strings.Repeat("0123456789", 300_000))
	taken := int64(0)
	b := &Buffer{Take: func(n int64) error { taken += n; return nil }}
	if n, err := b.Write(data[:1000]); n != 1000 || err != nil {
		t.Fatalf("Write of 1000 bytes = %d, %v", n, err)
	}
	if n, err := b.ReadFrom(iotest.HalfReader(bytes.NewReader(data[1000:]))); n != int64(len(data)-1000) || err != nil {
		t.Fatalf("ReadFrom of %d bytes = %d, %v", len(data)-1000, n, err)
	}
	for _, read := range []func(io.Reader) ([]byte, error){io.ReadAll, func(r io.Reader) ([]byte, error) {
		var out bytes.Buffer
		_, err := io.Copy(&out, r)
		return out.Bytes(), err
	}} {
		if got, err := read(b.Reader()); err != nil || !bytes.Equal(got, data) {
			t.Errorf("read %d bytes of %d: %v", len(got), len(data), err)
		}
	}
	if b.Len() != int64(len(data)) || taken < b.Len() || taken > 2*b.Len() {
		t.Errorf("Len() = %d with %d bytes of memory, want %d with at least as much memory and at most twice as much", b.Len(), taken, len(data))
	}
	if err := iotest.TestReader(b.Reader(), data); err != nil {
		t.Error(err)
	}
	full := errors.New("full")
	b = &Buffer{Take: func(n int64) error { return full }}
	if n, err := b.Write(data[:10]); n != 0 || !errors.Is(err, full) {
		t.Errorf("Write to a full buffer = %d, %v; want 0, %v", n, err, full)
	}
	if _, err := b.ReadFrom(bytes.NewReader(data)); !errors.Is(err, full) {
		t.Errorf("ReadFrom to a full buffer = %v, want %v", err, full)
	}
}
