package conn

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// slowWriter is a ResponseWriter whose writes take time on its own clock. It records
// write deadlines.
type slowWriter struct {
	header   http.Header
	clock    time.Time
	takes    time.Duration
	deadline []time.Time
	largest  int
	flushed  int
}

func (w *slowWriter) Header() http.Header { return w.header }
func (w *slowWriter) WriteHeader(int)     { w.clock = w.clock.Add(w.takes) }
func (w *slowWriter) Flush()              { w.clock, w.flushed = w.clock.Add(w.takes), w.flushed+1 }
func (w *slowWriter) Write(p []byte) (int, error) {
	w.clock = w.clock.Add(w.takes)
	w.largest = max(w.largest, len(p))
	return len(p), nil
}

func (w *slowWriter) SetWriteDeadline(t time.Time) error {
	w.deadline = append(w.deadline, t)
	return nil
}

func (w *slowWriter) last() time.Time { return w.deadline[len(w.deadline)-1] }

// TestResponseDeadlines checks the deadline of each write, with a clock that only moves
// during writes or when the handler moves it.
func TestResponseDeadlines(t *testing.T) {
	w := &slowWriter{header: http.Header{}, clock: time.Unix(1_000_000, 0)}
	begun := w.clock
	p := answerPace()
	p.now = func() time.Time { return w.clock }
	is := func(what string, want time.Time) {
		t.Helper()
		if got := w.last(); !got.Equal(want) {
			t.Errorf("%s: deadline is %s after the start, want %s", what, got.Sub(begun), want.Sub(begun))
		}
	}
	p.timeAnswers(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		Patient(rw)
		w.clock = w.clock.Add(time.Minute) // the server does not wait for the client meanwhile
		rw.WriteHeader(200)
		is("the first write", w.clock.Add(15*time.Second))

		n := len(w.deadline)
		for range 1000 {
			fmt.Fprint(rw, "small")
		}
		if len(w.deadline) != n {
			t.Errorf("%d deadlines were set for writes that take no time", len(w.deadline)-n)
		}

		w.takes = 250 * time.Millisecond
		n = len(w.deadline)
		if written, err := rw.Write(make([]byte, 4<<20)); written != 4<<20 || err != nil {
			t.Errorf("wrote %d: %v", written, err)
		}
		if w.largest != 64<<10 || len(w.deadline) < n+63 {
			t.Errorf("a large write was split into parts of %d bytes with %d deadlines", w.largest, len(w.deadline)-n)
		}
		w.takes = 0
		w.clock = w.clock.Add(time.Minute)
		fmt.Fprint(rw, "more")
		// The server has waited for 16 seconds and sent 4 MiB and 5,000 bytes.
		is("after 4 MiB", w.clock.Add((15+256-16)*time.Second))

		w.takes = time.Second
		rw.(http.Flusher).Flush()
		if err := http.NewResponseController(rw).Flush(); err != nil || w.flushed != 2 {
			t.Errorf("flushed %d times: %v", w.flushed, err)
		}
		w.takes = 0
		w.clock = w.clock.Add(time.Minute)
		fmt.Fprint(rw, "more")
		is("after two flushes", w.clock.Add((15+256-18)*time.Second))

		w.clock = begun.Add(9*time.Minute + 50*time.Second)
		fmt.Fprint(rw, "more")
		is("near the end", begun.Add(10*time.Minute))
	})).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))

	// Data that is still buffered when the handler returns.
	w = &slowWriter{header: http.Header{}, clock: begun}
	p.timeAnswers(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { w.clock = w.clock.Add(time.Minute) })).
		ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	is("nothing written", w.clock.Add(5*time.Second))

	// A stream of HTTP/2 must not end while the handler works.
	w = &slowWriter{header: http.Header{}, clock: begun}
	p.timeAnswers(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		is("the beginning of a stream", begun.Add(10*time.Minute))
		Patient(rw)
		for _, write := range []func(){func() { rw.WriteHeader(200) }, func() { fmt.Fprint(rw, "x") }, func() { rw.(http.Flusher).Flush() }} {
			write()
			is("a stream", begun.Add(10*time.Minute))
			if got := w.deadline[len(w.deadline)-2]; !got.Equal(begun.Add(15 * time.Second)) {
				t.Errorf("during a write of a stream the deadline is %s after the start, want 15s", got.Sub(begun))
			}
		}
	})).ServeHTTP(w, &http.Request{ProtoMajor: 2})
	is("the end of a stream", begun.Add(15*time.Second))
}

func impatient() pace {
	p := answerPace()
	p.grace, p.hasty, p.rate = 250*time.Millisecond, 250*time.Millisecond, 64<<20
	return p
}

// serial is a server that serves one request at a time and reports the errors of the
// handler.
type serial struct {
	*httptest.Server
	results chan error
	done    sync.WaitGroup // includes the middleware around the handlers
}

func serve(t *testing.T, p pace, setup func(*httptest.Server), h func(http.ResponseWriter, *http.Request) error) *serial {
	t.Helper()
	pl := &serial{results: make(chan error, 100)}
	free := make(chan struct{}, 1)
	pl.Server = httptest.NewUnstartedServer(nil)
	pl.Config = Server(Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case free <- struct{}{}:
			defer func() { <-free }()
		case <-r.Context().Done():
			return
		}
		if r.URL.Path == "/small" {
			fmt.Fprint(w, "small")
			return
		}
		Patient(w)
		err := h(w, r)
		select {
		case pl.results <- err:
		default: // later results are dropped
		}
	}), Logger: slog.New(slog.DiscardHandler), pace: p, Hasty: true})
	inner := pl.Config.Handler
	pl.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		pl.done.Add(1)
		defer pl.done.Done()
		inner.ServeHTTP(w, r)
	})
	if setup != nil {
		setup(pl.Server)
	}
	if pl.TLS != nil {
		pl.StartTLS()
	} else {
		pl.Start()
	}
	t.Cleanup(pl.Close)
	return pl
}

func (pl *serial) result(t *testing.T) error {
	t.Helper()
	select {
	case err := <-pl.results:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("the handler is still waiting for a client that does not read")
		return nil
	}
}

func (pl *serial) isFree(t *testing.T) {
	t.Helper()
	resp, err := pl.Client().Get(pl.URL + "/small")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "small" {
		t.Errorf("response to another client = %q: %v", b, err)
	}
}

// large is more than the socket buffers of both sides can hold.
const large = 64 << 20

var writers = map[string]func(http.ResponseWriter, *http.Request) error{
	"one write": func(w http.ResponseWriter, _ *http.Request) error {
		_, err := w.Write(make([]byte, large))
		return err
	},
	"with a length": func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Content-Length", fmt.Sprint(large))
		_, err := w.Write(make([]byte, large))
		return err
	},
	"many writes": func(w http.ResponseWriter, _ *http.Request) error {
		part := bytes.Repeat([]byte("x"), 1000)
		for range large / len(part) {
			if _, err := w.Write(part); err != nil {
				return err
			}
		}
		return nil
	},
	"flushed": func(w http.ResponseWriter, _ *http.Request) error {
		part := make([]byte, 16<<10)
		for range large / len(part) {
			if _, err := w.Write(part); err != nil {
				return err
			}
			if err := http.NewResponseController(w).Flush(); err != nil {
				return err
			}
		}
		return nil
	},
	"copied": func(w http.ResponseWriter, _ *http.Request) error {
		_, err := io.Copy(w, io.LimitReader(zeros{}, large))
		return err
	},
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestUnreadResponses checks that a client that does not read a response does not block
// the server.
func TestUnreadResponses(t *testing.T) {
	for name, h := range writers {
		for _, request := range []string{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.0\r\n\r\n"} {
			for _, encrypted := range []bool{false, true} {
				if encrypted && name != "one write" {
					continue // closing a TLS connection that nobody reads takes five seconds
				}
				t.Run(fmt.Sprintf("%s/%.14s/%t", name, request, encrypted), func(t *testing.T) {
					pl := serve(t, impatient(), func(s *httptest.Server) {
						if encrypted {
							s.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
						}
					}, h)
					c := dialServer(t, pl.Server)
					fmt.Fprint(c, request)
					if err := pl.result(t); !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("error of the handler = %v, want os.ErrDeadlineExceeded", err)
					}
					pl.isFree(t)
				})
			}
		}
	}
}

func dialServer(t *testing.T, s *httptest.Server) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.TCPConn).SetReadBuffer(4096)
	t.Cleanup(func() { c.Close() })
	if s.TLS != nil {
		return tls.Client(c, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a test's own server
	}
	return c
}

// TestUnreadPipeline checks that the server closes the connection of a client that sends requests and
// reads no responses, even if each response fits into a buffer of the server. In some cases the
// handler writes nothing, and net/http writes the response.
func TestUnreadPipeline(t *testing.T) {
	for name, h := range map[string]func(http.ResponseWriter, *http.Request) error{
		"nothing":  func(http.ResponseWriter, *http.Request) error { return nil },
		"a status": func(w http.ResponseWriter, _ *http.Request) error { w.WriteHeader(404); return nil },
		"a little": func(w http.ResponseWriter, _ *http.Request) error { _, err := fmt.Fprint(w, "ok"); return err },
	} {
		t.Run(name, func(t *testing.T) {
			closed := make(chan struct{})
			var once sync.Once
			var first atomic.Value
			pl := serve(t, impatient(), func(s *httptest.Server) {
				s.Config.ConnState = func(c net.Conn, state http.ConnState) {
					if state == http.StateNew {
						first.CompareAndSwap(nil, c)
					}
					if state == http.StateClosed && first.Load() == c {
						once.Do(func() { close(closed) })
					}
				}
			}, h)
			c := dialServer(t, pl.Server)
			requests := strings.Repeat("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1000)
			go func() {
				for { // until the server closes the connection
					if _, err := io.WriteString(c, requests); err != nil {
						return
					}
				}
			}()
			select {
			case <-closed:
			case <-time.After(30 * time.Second):
				t.Fatal("the connection is still open")
			}
		})
	}
}

// TestSlowReaders checks that a client that reads steadily gets the whole response, even
// if that takes many times the grace.
func TestSlowReaders(t *testing.T) {
	p := impatient()
	p.rate = 1 << 20
	for _, name := range []string{"one write", "flushed"} {
		t.Run(name, func(t *testing.T) {
			pl := serve(t, p, nil, writers[name])
			c, err := net.Dial("tcp", pl.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			begun, total, buf := time.Now(), 0, make([]byte, 256<<10)
			for {
				n, err := io.ReadFull(resp.Body, buf)
				total += n
				if err != nil {
					if err != io.EOF && err != io.ErrUnexpectedEOF {
						t.Fatalf("after %d bytes: %v", total, err)
					}
					break
				}
				time.Sleep(time.Until(begun.Add(time.Duration(total) * time.Second / (32 << 20))))
			}
			if err := pl.result(t); total != large || err != nil {
				t.Errorf("read %d of %d bytes: %v", total, large, err)
			}
		})
	}
}

// TestSlowHandler checks that pauses of a handler do not count against the client, and that the client
// gets flushed data during a pause.
func TestSlowHandler(t *testing.T) {
	p := impatient()
	for _, http2 := range []bool{false, true} {
		goOn := make(chan struct{})
		pl := serve(t, p, func(s *httptest.Server) {
			if http2 {
				s.TLS, s.EnableHTTP2 = &tls.Config{MinVersion: tls.VersionTLS12}, true
			}
		}, func(w http.ResponseWriter, r *http.Request) error {
			if r.ProtoMajor == 2 != http2 {
				return fmt.Errorf("protocol = %s", r.Proto)
			}
			for range 2 {
				if _, err := io.WriteString(w, strings.Repeat("x", 1000)); err != nil {
					return err
				}
				w.(http.Flusher).Flush()
				<-goOn
				time.Sleep(p.grace * 3 / 2) // longer than the deadline
			}
			return nil
		})
		resp, err := pl.Client().Get(pl.URL)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := io.ReadFull(resp.Body, make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			goOn <- struct{}{}
		}
		if b, err := io.ReadAll(resp.Body); err != nil || len(b) > 0 {
			t.Errorf("%d more bytes than written: %v", len(b), err)
		}
		resp.Body.Close()
		if err := pl.result(t); err != nil {
			t.Error(err)
		}
	}
}

func TestStreams(t *testing.T) {
	for name, h := range writers {
		pl := serve(t, impatient(), func(s *httptest.Server) {
			s.TLS, s.EnableHTTP2 = &tls.Config{MinVersion: tls.VersionTLS12}, true
		}, h)
		resp, err := pl.Client().Get(pl.URL)
		if err != nil {
			t.Fatal(err)
		}
		if resp.ProtoMajor != 2 {
			t.Fatalf("protocol = %s, want HTTP/2", resp.Proto)
		}
		if err := pl.result(t); err == nil {
			t.Errorf("%s: writing a stream that nobody reads returned no error", name)
		}
		resp.Body.Close()
		pl.isFree(t)
	}
}

// TestHijack checks that no deadline is set on a hijacked connection.
func TestHijack(t *testing.T) {
	p := impatient()
	p.grace = time.Nanosecond
	for name, hijack := range map[string]func(http.ResponseWriter) (net.Conn, *bufio.ReadWriter, error){
		"controller": func(w http.ResponseWriter) (net.Conn, *bufio.ReadWriter, error) {
			return http.NewResponseController(w).Hijack()
		},
		"interface": func(w http.ResponseWriter) (net.Conn, *bufio.ReadWriter, error) { return w.(http.Hijacker).Hijack() },
	} {
		conns := make(chan net.Conn, 1)
		pl := serve(t, p, nil, func(w http.ResponseWriter, _ *http.Request) error {
			c, _, err := hijack(w)
			if err == nil {
				conns <- c
			}
			return err
		})
		c := dialServer(t, pl.Server)
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if err := pl.result(t); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		taken := <-conns
		pl.done.Wait() // the middleware has returned, too
		if _, err := io.WriteString(taken, "taken"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		taken.Close()
		if b, err := io.ReadAll(c); err != nil || string(b) != "taken" {
			t.Errorf("%s: read %q: %v", name, b, err)
		}
	}
}

// TestHasty checks that a write has a deadline of five seconds until the handler calls Patient,
// however much the response has sent.
func TestHasty(t *testing.T) {
	w := &slowWriter{header: http.Header{}, clock: time.Unix(1_000_000, 0)}
	p := answerPace()
	p.now = func() time.Time { return w.clock }
	p.timeAnswers(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = rw.Write(make([]byte, 1<<20))
		if got := w.last(); !got.Equal(w.clock.Add(5 * time.Second)) {
			t.Errorf("deadline is in %s, want 5s", got.Sub(w.clock))
		}
		Patient(rw)
		fmt.Fprint(rw, "x")
		if got := w.last(); !got.Equal(w.clock.Add((15 + 64) * time.Second)) {
			t.Errorf("deadline after Patient is in %s, want 79s", got.Sub(w.clock))
		}
	})).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
}
