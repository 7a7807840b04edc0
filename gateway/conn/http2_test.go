package conn

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/palliumhq/pallium/test/kit"
)

// startTLS is startServer with TLS.
func startTLS(t *testing.T, o Options) (addr string) {
	t.Helper()
	borrowed := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	borrowed.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.Logger, o.HeaderBytes = slog.New(slog.DiscardHandler), 32<<10
	srv, two := Server(o), ServerOfHTTP2(o)
	done := make(chan error)
	config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: borrowed.TLS.Certificates}
	go func() { done <- Serve(srv, two, Limit(l, Limits{100, 100, 100}, nil, nil), config, o.HeaderBytes) }()
	t.Cleanup(func() {
		_ = srv.Close()
		_ = two.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

func dialTLS(t *testing.T, addr string, protocols ...string) *tls.Conn {
	t.Helper()
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.(*net.TCPConn).SetReadBuffer(4096)
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: protocols}) //nolint:gosec // a test's own server
	t.Cleanup(func() { raw.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestGuardOverTLS checks that the guard protects HTTP/1 over TLS, with and without ALPN.
func TestGuardOverTLS(t *testing.T) {
	addr := startTLS(t, Options{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})})
	for _, protocols := range [][]string{nil, {"http/1.1"}} {
		for stream, want := range map[string]string{
			plain:                "HTTP/1.1 200",
			"GET / HTTP/1.0\n\n": "HTTP/1.0 400",
			"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx": "HTTP/1.1 400",
			"POST / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n":                              "HTTP/1.1 400",
		} {
			c := dialTLS(t, addr, protocols...)
			if _, err := io.WriteString(c, stream); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
				t.Errorf("%q: %q (%v), want %q", stream, got, err, want)
			}
		}
	}
}

// client2 is an HTTP/2 client that sends individual frames.
type client2 struct {
	*http2.Framer
	t      *testing.T
	conn   net.Conn
	header bytes.Buffer
	hpack  *hpack.Encoder
	ended  chan struct{} // closed after the server has closed the connection
	reset  atomic.Int64  // streams that the server reset
	status chan string   // of responses
	away   atomic.Int64  // GOAWAY frames
	limits chan []http2.Setting
}

func dial2(t *testing.T, addr string, settings ...http2.Setting) *client2 {
	t.Helper()
	c := dialTLS(t, addr, "h2")
	if p := c.ConnectionState().NegotiatedProtocol; p != "h2" {
		t.Fatalf("negotiated protocol = %q, want h2", p)
	}
	out := &client2{Framer: http2.NewFramer(c, c), t: t, conn: c, ended: make(chan struct{}), limits: make(chan []http2.Setting, 1), status: make(chan string, 100)}
	out.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	out.hpack = hpack.NewEncoder(&out.header)
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := out.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	go out.read()
	return out
}

func (c *client2) read() {
	defer close(c.ended)
	for {
		f, err := c.ReadFrame()
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *http2.RSTStreamFrame:
			c.reset.Add(1)
		case *http2.MetaHeadersFrame:
			c.status <- f.PseudoValue("status")
		case *http2.GoAwayFrame:
			c.away.Add(1)
		case *http2.SettingsFrame:
			if f.IsAck() {
				continue
			}
			var all []http2.Setting
			_ = f.ForeachSetting(func(s http2.Setting) error { all = append(all, s); return nil })
			select {
			case c.limits <- all:
			default:
			}
		}
	}
}

func (c *client2) headers(method string) []byte {
	c.header.Reset()
	for _, f := range [][2]string{{":method", method}, {":scheme", "https"}, {":authority", "x"}, {":path", "/"}} {
		_ = c.hpack.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	return c.header.Bytes()
}

// open starts a stream. Its error is that of the connection.
func (c *client2) open(id uint32, method string) error {
	return c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.headers(method), EndHeaders: true, EndStream: method == "GET"})
}

func (c *client2) waitEnd(what string) {
	c.t.Helper()
	select {
	case <-c.ended:
	case <-time.After(time.Minute):
		c.t.Errorf("%s: the connection is still open", what)
	}
}

func TestHTTP2(t *testing.T) {
	addr := startTLS(t, Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) })})
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // a test's own server
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); string(b) != "HTTP/2.0" || err != nil {
		t.Errorf("protocol of the request = %q: %v", b, err)
	}
	want := map[http2.SettingID]uint32{http2.SettingMaxConcurrentStreams: 64, http2.SettingHeaderTableSize: 4096,
		http2.SettingMaxFrameSize: 16 << 10, http2.SettingInitialWindowSize: 256 << 10}
	got := map[http2.SettingID]uint32{http2.SettingHeaderTableSize: 4096, http2.SettingMaxFrameSize: 16 << 10} // defaults of the protocol
	for _, s := range <-dial2(t, addr).limits {
		got[s.ID] = s.Val
	}
	for id, v := range want {
		if got[id] != v {
			t.Errorf("setting %v = %d, want %d", id, got[id], v)
		}
	}
	if v := got[http2.SettingMaxHeaderListSize]; v == 0 || v > 64<<10 {
		t.Errorf("maximum header list size = %d, want 1 to 65536", v)
	}
}

// stuck is a handler that blocks until release is closed, and counts concurrent calls.
type stuck struct {
	now, most atomic.Int64
	release   chan struct{}
}

func (s *stuck) ServeHTTP(http.ResponseWriter, *http.Request) {
	n := s.now.Add(1)
	for m := s.most.Load(); n > m && !s.most.CompareAndSwap(m, n); m = s.most.Load() {
	}
	<-s.release
	s.now.Add(-1)
}

// TestRapidReset checks that streams that are opened and reset immediately do not run
// more handlers concurrently than streams are allowed, and that the connection is closed.
func TestRapidReset(t *testing.T) {
	s := &stuck{release: make(chan struct{})}
	addr := startTLS(t, Options{Handler: s})
	t.Cleanup(func() { close(s.release) })
	c := dial2(t, addr)
	for id := uint32(1); id < 20_000; id += 2 {
		if c.open(id, "GET") != nil || c.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
			break // closed
		}
	}
	c.waitEnd("rapid reset")
	if s.most.Load() > 64 {
		t.Errorf("%d concurrent handlers, want at most 64", s.most.Load())
	}
}

// TestManyStreams checks that streams beyond the limit are rejected.
func TestManyStreams(t *testing.T) {
	s := &stuck{release: make(chan struct{})}
	addr := startTLS(t, Options{Handler: s})
	t.Cleanup(func() { close(s.release) })
	c := dial2(t, addr)
	kit.Receive(t, "the server sends its settings", c.limits)
	_ = c.WriteSettingsAck()
	for id := uint32(1); id < 2*100; id += 2 {
		if c.open(id, "GET") != nil {
			break
		}
	}
	kit.Until(t, "36 of 100 streams are rejected", func() bool { return c.reset.Load() >= 36 || c.away.Load() != 0 })
	if s.most.Load() > 64 {
		t.Errorf("%d concurrent handlers, want at most 64", s.most.Load())
	}
}

// TestEndlessHeader checks that endless CONTINUATION frames, and header fields that are
// small on the wire and large when decoded, close the connection or get 431.
func TestEndlessHeader(t *testing.T) {
	served := make(chan struct{}, 1)
	addr := startTLS(t, Options{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served <- struct{}{} })})
	c := dial2(t, addr)
	if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.headers("GET")}); err != nil {
		t.Fatal(err)
	}
	c.header.Reset()
	_ = c.hpack.WriteField(hpack.HeaderField{Name: "a", Value: strings.Repeat("a", 3000), Sensitive: true})
	sent := 0
	for ; sent < 64<<20; sent += c.header.Len() {
		if c.WriteContinuation(1, false, c.header.Bytes()) != nil {
			break
		}
	}
	if sent >= 64<<20 {
		t.Error("the server accepted 64 MiB of a header")
	}
	c.waitEnd("CONTINUATION flood")

	c = dial2(t, addr)
	c.headers("GET")
	_ = c.hpack.WriteField(hpack.HeaderField{Name: "a", Value: strings.Repeat("a", 3000)}) // into the table
	for range 5000 {
		_ = c.hpack.WriteField(hpack.HeaderField{Name: "a", Value: strings.Repeat("a", 3000)}) // a byte each
	}
	if c.header.Len() > 10_000 {
		t.Fatalf("the encoded header has %d bytes, want a small one", c.header.Len())
	}
	if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.header.Bytes(), EndHeaders: true, EndStream: true}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-served:
		t.Error("a header of 15 MB was served")
	case status := <-c.status:
		if status != "431" {
			t.Errorf("response to a header of 15 MB = %s, want 431", status)
		}
	case <-c.ended:
	case <-time.After(time.Minute):
		t.Error("no response to a header of 15 MB")
	}
}

// TestManyHeaderLines checks that HTTP/2 has the same limit of header lines as HTTP/1.
func TestManyHeaderLines(t *testing.T) {
	served := make(chan *http.Request, 2)
	addr := startTLS(t, Options{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { served <- r })})
	for lines, want := range map[int]string{maxHeaderLines - 10: "200", maxHeaderLines + 10: "431"} {
		c := dial2(t, addr)
		c.headers("GET")
		for range lines {
			_ = c.hpack.WriteField(hpack.HeaderField{Name: "a", Value: "b"})
		}
		if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.header.Bytes(), EndHeaders: true, EndStream: true}); err != nil {
			t.Fatal(err)
		}
		select {
		case status := <-c.status:
			if status != want {
				t.Errorf("%d lines: status %s, want %s", lines, status, want)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%d lines: no response", lines)
		}
	}
	if len(served) != 1 {
		t.Errorf("%d requests were served, want 1", len(served))
	}
}

// TestUnfinishedHeader checks that an HTTP/2 header that is never completed, even if
// frames of it arrive, does not keep a connection open, and that a client that only waits
// keeps its connection.
func TestUnfinishedHeader(t *testing.T) {
	release := make(chan struct{})
	addr := startTLS(t, Options{readHeaderTimeout: 500 * time.Millisecond, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release })})
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // a test's own server
	defer client.CloseIdleConnections()
	waited := make(chan error, 1)
	go func() {
		resp, err := client.Get("https://" + addr)
		if err == nil {
			err = resp.Body.Close()
		}
		waited <- err
	}()
	c := dial2(t, addr)
	if err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.headers("GET")}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); c.WriteContinuation(1, false, nil) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) { // before any other timeout ends it
			t.Error("the connection is still open")
			break
		}
	}
	close(release)
	if err := <-waited; err != nil {
		t.Errorf("request of the waiting client: %v", err)
	}
}

// TestClosedWindows checks that neither a client that opens no window for a response nor
// one that does not send its body blocks the handler.
func TestClosedWindows(t *testing.T) {
	results := make(chan error, 10)
	addr := startTLS(t, Options{pace: impatient(), Hasty: true, bodyGrace: 250 * time.Millisecond, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			_, err := io.Copy(io.Discard, r.Body)
			results <- err
			return
		}
		_, err := w.Write(make([]byte, 1<<20))
		results <- err
	})})
	c := dial2(t, addr, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	for i, method := range []string{"GET", "POST"} {
		if err := c.open(uint32(2*i+1), method); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-results:
			if err == nil {
				t.Errorf("%s: the handler got no error", method)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s: the handler is still blocked", method)
		}
	}
}
