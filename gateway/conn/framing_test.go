package conn

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/palliumhq/pallium/test/kit"
)

const (
	plain   = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
	length  = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 26\r\n\r\nTransfer-Encoding: chunked"
	chunked = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n013;x=y\r\nContent-Length: 5\r\n\r\n0\r\nT: x\r\n\r\n"
)

// framingRows are streams of requests, the number of requests that pass, and the status
// with which the next one is rejected: 0 for none, -1 for a malformed body.
var framingRows = []struct {
	name, stream string
	pass, status int
}{
	{"plain", plain + plain, 2, 0},
	{"a body that looks like a header", length + length + plain, 3, 0},
	{"a chunk that looks like a header", chunked + length + plain, 3, 0},
	{"empty lines between requests", length + "\r\n\r\n" + plain, 2, 0},
	{"HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", 1, 0},
	{"HTTP/1.0 with a body", "POST / HTTP/1.0\r\nContent-Length: 1\r\n\r\nx", 1, 0},
	{"a trailer", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n00\r\nA: b\r\nC: d\r\n\r\n" + plain, 2, 0},

	{"Transfer-Encoding and Content-Length", "POST / HTTP/1.1\r\nHost: x\r\ntransfer-encoding: chunked\r\nA: b\r\nCONTENT-LENGTH: 3\r\n\r\n0\r\n\r\n", 0, 400},
	{"Transfer-Encoding and Content-Length, later on the connection", plain + length + chunked + "POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", 3, 400},
	{"Transfer-Encoding and Content-Length, folded", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length:\r\n 5\r\n\r\n7\r\nquery=1\r\n0\r\n\r\n", 0, 400},
	{"a folded length", plain + "POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n 46\r\n\r\n" + plain, 1, 400},
	{"folded by a tab", "GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n\tc\r\n\r\n", 0, 400},
	{"folded after the request line", "GET / HTTP/1.1\r\n Host: x\r\n\r\n", 0, 400},
	{"two lengths", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 0, 400},
	{"two equal lengths", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\ncontent-length: 1\r\n\r\nx", 0, 400},
	{"a list of lengths", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\nx", 0, 400},
	{"a length with many spaces", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length:" + strings.Repeat(" ", 100) + "1\r\n\r\nx", 0, 400},
	{"a length with a digit after many spaces", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1" + strings.Repeat(" ", 100) + "1\r\n\r\nx", 0, 400},
	{"a length with a sign", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\nx", 0, 400},
	{"bare line feeds", "GET / HTTP/1.1\nHost: x\n\n", 0, 400},
	{"a bare line feed in a header", "GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", 0, 400},
	{"a bare line feed in a name", "GET / HTTP/1.1\r\nHost: x\r\nContent-Le\n\r\n", 0, 400},
	{"a bare line feed at the end", "GET / HTTP/1.1\r\nHost: x\r\n\n", 0, 400},
	{"a bare line feed between requests", length + "\n" + plain, 1, 400},
	{"a bare carriage return", "GET / HTTP/1.1\r\nHost: x\rA: b\r\n\r\n", 0, 400},
	{"HTTP/0.1, chunked", "POST / HTTP/0.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0, 505},
	{"HTTP/2.0", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, 505},
	{"HTTP/1.0, chunked", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0, 400},
	{"HTTP/1.0, Expect", "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx", 0, 400},
	{"HTTP/1.0, no length", "POST / HTTP/1.0\r\n\r\nx", 0, 400},
	{"a long request line", "GET /" + strings.Repeat("a", 2000) + " HTTP/1.1\r\nHost: x\r\n\r\n", 0, 414},
	{"a long value", "GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 2000) + "\r\n\r\n", 0, 431},
	{"a long name", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("a", 2000) + ": b\r\n\r\n", 0, 431},
	{"many lines", "GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("a:\r\n", 256) + "\r\n", 0, 431},
	{"many empty lines", strings.Repeat("\r\n", 1000), 0, 414},

	{"a chunk with a bare line feed", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n", 0, -1},
	{"an extension with a bare line feed", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nx\r\n0\r\n\r\n", 0, -1},
	{"a chunk that is too long", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n0\r\n\r\n", 0, -1},
	{"no size", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\r\nx\r\n0\r\n\r\n", 0, -1},
	{"a size that is not a number", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n", 0, -1},
	{"a size of 17 digits", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000001\r\nx\r\n0\r\n\r\n", 0, -1},
	{"a size that overflows", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx\r\n0\r\n\r\n", 0, -1},
	{"a folded trailer", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n a: b\r\n\r\n", 0, -1},
	{"a trailer with a bare line feed", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nT: x\n\r\n\r\n", 0, -1},
}

// parts is a connection from which each Read returns at most step bytes.
type parts struct {
	net.Conn
	data []byte
	step int
}

func (c *parts) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.step)], c.data)
	c.data = c.data[n:]
	return n, nil
}

type request struct{ method, uri, body string }

// requests reads requests like net/http until one cannot be read. It calls the function
// `after` after each request.
func requests(r io.Reader, after func(in *bufio.Reader)) (out []request, err error) {
	in := bufio.NewReader(r)
	for {
		req, err := http.ReadRequest(in)
		if err != nil {
			return out, err
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return out, err
		}
		out = append(out, request{req.Method, req.RequestURI, string(body)})
		after(in)
	}
}

func guarded(data string, step int) *guardConn {
	return &guardConn{Conn: &parts{data: []byte(data), step: step}, framing: framing{limit: 1500}, scratch: &sync.Pool{}, headerBudget: &headerBudget{limit: headerMemory}}
}

func TestFraming(t *testing.T) {
	for _, tt := range framingRows {
		t.Run(tt.name, func(t *testing.T) {
			for _, step := range []int{1, 2, 7, len(tt.stream)} {
				g := guarded(tt.stream, step)
				passed := 0
				_, err := requests(g, func(*bufio.Reader) {
					if g.rejected.Load() == nil {
						passed++
					}
				})
				status := 0
				if r := g.rejected.Load(); r != nil {
					status = r.Status
				} else if errors.Is(g.err, errChunk) || errors.Is(err, errChunk) {
					status = -1
				}
				if passed != tt.pass || status != tt.status {
					t.Errorf("read in steps of %d: %d requests, then status %d (%v); want %d, then %d", step, passed, status, err, tt.pass, tt.status)
				}
			}
		})
	}
}

// FuzzFraming compares the guard with net/http: if both accept a request, they must parse
// the same one, and it must end where the guard expects.
func FuzzFraming(f *testing.F) {
	for _, tt := range framingRows {
		f.Add([]byte(tt.stream), byte(3))
	}
	f.Fuzz(func(t *testing.T, data []byte, step byte) {
		alone, _ := requests(bytes.NewReader(data), func(*bufio.Reader) {})
		g := guarded(string(data), int(step)+1)
		accepted := 0
		through, _ := requests(g, func(in *bufio.Reader) {
			if g.rejected.Load() != nil {
				return
			}
			accepted++
			if g.framing.state != between || in.Buffered() != 0 || len(g.out) != 0 {
				t.Fatalf("request %d ended for net/http, but the guard is in state %d and %d bytes are left", accepted, g.framing.state, in.Buffered())
			}
		})
		for i, r := range through[:accepted] {
			if i < len(alone) && alone[i] != r {
				t.Fatalf("request %d is %+v with the guard, %+v without", i, r, alone[i])
			}
		}
		if len(g.framing.held) > maxName+1 || len(g.framing.value) > maxValue {
			t.Fatalf("%d bytes of a name and %d of a value are held", len(g.framing.held), len(g.framing.value))
		}
	})
}

// TestRejectionsOnTheWire checks on connections to a real server that requests before the
// rejected one are served, and that the client can read the whole rejection even if it
// continues to send.
func TestRejectionsOnTheWire(t *testing.T) {
	for _, tt := range framingRows {
		if tt.status <= 0 || tt.status == 505 { // net/http responds with 505 itself
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			addr := startServer(t, Options{HeaderBytes: 1500, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				_, _ = io.WriteString(w, "served")
			})})
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			go func() { _, _ = io.WriteString(c, tt.stream+strings.Repeat("x", 900<<10)) }()
			in := bufio.NewReader(c)
			for range tt.pass {
				if status, body := readAnswer(t, in); status != 200 || body != "served" {
					t.Fatalf("response to an earlier request = %d %q, want 200", status, body)
				}
			}
			if status, body := readAnswer(t, in); status != tt.status || body == "served" {
				t.Errorf("response = %d %q, want status %d", status, body, tt.status)
			}
			if more, err := io.ReadAll(in); err != nil || len(more) > 0 {
				t.Errorf("data after the rejection: %q, %v", more, err)
			}
		})
	}
}

// TestHeaderMemory checks that long headers reserve memory while they are read and served, and that a
// long header is rejected if no memory is left.
func TestHeaderMemory(t *testing.T) {
	r := &headerBudget{limit: 3 * budgetStep}
	request := func(size int) string { return "GET /" + strings.Repeat("a", size) + " HTTP/1.1\r\nHost: x\r\n\r\n" }
	open := func(stream string) *guardConn {
		return &guardConn{Conn: &halfOpen{parts{data: []byte(stream), step: 1000}}, framing: framing{limit: HeaderBytes}, scratch: &sync.Pool{}, headerBudget: r}
	}
	read := func(g *guardConn) {
		_, _ = io.Copy(io.Discard, g)
	}
	short, long, second := open(request(10_000)), open(request(40_000)), open(request(40_000)+request(10))
	read(short)
	read(long)
	if used := r.used.Load(); used != 2*budgetStep || short.rejected.Load() != nil || long.rejected.Load() != nil {
		t.Errorf("%d bytes of header memory are reserved, want %d; rejections %+v and %+v", used, 2*budgetStep, short.rejected.Load(), long.rejected.Load())
	}
	read(second)
	got := second.rejected.Load()
	if got == nil || got.Status != 503 {
		t.Fatalf("without free memory: rejection = %+v, want status 503", got)
	}
	w := httptest.NewRecorder()
	reject(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil), http.NotFoundHandler(), got)
	if w.Code != 503 || w.Header().Get("Retry-After") != "1" {
		t.Errorf("without free memory: %d %v, want Retry-After", w.Code, w.Header())
	}
	_ = long.Close()
	_ = second.Close()
	if used := r.used.Load(); used != 0 {
		t.Errorf("%d bytes of header memory are reserved after all connections were closed", used)
	}
	third := open(request(40_000) + request(10))
	read(third)
	if used := r.used.Load(); used != 0 || third.rejected.Load() != nil {
		t.Errorf("%d bytes of header memory are reserved after the next header, want none; rejection %+v", used, third.rejected.Load())
	}
}

// TestRejectionAppliesToItsRequest checks that a rejection does not affect the previous
// request. While the previous request is being served, net/http reads one byte of the next.
func TestRejectionAppliesToItsRequest(t *testing.T) {
	g := guarded(plain+"\n", 1000)
	if n, err := io.ReadFull(g, make([]byte, len(plain))); err != nil {
		t.Fatalf("read %d bytes of the first request: %v", n, err)
	}
	if n, err := g.Read(make([]byte, 1)); n != 1 || err != nil || g.rejected.Load() != nil {
		t.Errorf("read %d bytes (%v), rejected %+v", n, err, g.rejected.Load())
	}
	if _, err := io.Copy(io.Discard, g); err != nil || g.rejected.Load() == nil {
		t.Errorf("the second request was not rejected (%v)", err)
	}
}

// TestHeaderMemoryIsReleased checks that the memory of a header is released after the
// response, although the connection stays open.
func TestHeaderMemoryIsReleased(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	guard := Guard(l, HeaderBytes).(*guardListener)
	var held atomic.Int64
	srv := Server(Options{Logger: slog.New(slog.DiscardHandler), Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		held.Store(guard.headerBudget.used.Load())
	})})
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(guard) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(c, "GET /"+strings.Repeat("a", 100_000)+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if status, _ := readAnswer(t, bufio.NewReader(c)); status != 200 || held.Load() == 0 {
		t.Errorf("status %d, %d bytes of header memory were reserved while it was served", status, held.Load())
	}
	kit.Until(t, "the header memory is released after the response", func() bool { return guard.headerBudget.used.Load() == 0 })
}

// halfOpen is a parts that can be closed.
type halfOpen struct{ parts }

func (*halfOpen) Close() error { return nil }

func readAnswer(t *testing.T, in *bufio.Reader) (int, string) {
	t.Helper()
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}
