package conn

import (
	"context"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Guard wraps a listener of plain HTTP/1, or of TLS that negotiates nothing else, so that
// requests whose end is ambiguous are rejected. net/http alone accepts some of them, and
// a proxy in front may have split them differently. headerBytes bounds a header. Use it
// with Server.
func Guard(l net.Listener, headerBytes int) net.Listener {
	out := &guardListener{Listener: l, headerBytes: headerBytes}
	out.headerBudget.limit = headerMemory
	return out
}

type guardListener struct {
	net.Listener
	headerBytes  int
	scratch      sync.Pool    // of *[]byte, for the output of a Read
	headerBudget headerBudget // memory for long headers
}

// Accept implements net.Listener.
func (l *guardListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &guardConn{Conn: c, framing: framing{limit: l.headerBytes}, scratch: &l.scratch, headerBudget: &l.headerBudget}, nil
}

// guardConn follows the framing of the data that is read through it. Read must not be
// called concurrently, as in net/http.
type guardConn struct {
	net.Conn
	framing  framing
	scratch  *sync.Pool
	in       []byte                    // read and not processed
	out      []byte                    // to be passed on
	err      error                     // returned after out
	pending  *Rejection                // rejection of the request whose header is being passed on
	rejected atomic.Pointer[Rejection] // pending, after the whole header was passed on

	headerBudget *headerBudget
	reserved     atomic.Int64 // bytes reserved in headerBudget
	closed       atomic.Bool
}

// Read returns data whose framing is valid. After a rejection or a malformed chunk,
// nothing more is read.
func (c *guardConn) Read(p []byte) (int, error) {
	for len(p) > 0 {
		if len(c.out) > 0 {
			n := copy(p, c.out)
			if c.out = c.out[n:]; len(c.out) == 0 {
				c.tell()
			}
			return n, nil
		}
		c.out = nil
		if c.err != nil {
			return 0, c.err
		}
		if len(c.in) > 0 {
			n := copy(p, c.in)
			if c.in = c.in[n:]; len(c.in) == 0 {
				c.in = nil
			}
			if n = c.follow(p, n); n > 0 {
				return n, nil
			}
			continue
		}
		part := p
		opaque := c.framing.opaque()
		if opaque > 0 {
			part = p[:min(int64(len(p)), opaque)]
		}
		n, err := c.Conn.Read(part)
		if n > 0 {
			if opaque > 0 {
				c.framing.passed(int64(n))
			} else {
				n = c.follow(p, n)
			}
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	return 0, nil
}

// follow replaces the n bytes in p by the bytes to pass on, and stores the rest. It
// returns the number of bytes in p.
func (c *guardConn) follow(p []byte, n int) int {
	buf, _ := c.scratch.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	if c.framing.state == between {
		c.release()
	}
	taken, out, rejection, err := c.framing.step(p[:n], (*buf)[:0])
	if rejection == nil && c.framing.state < inBody && !c.reserve(int64(c.framing.size)) {
		rejection, out = noHeaderMemory(), c.framing.close(out)
	}
	if taken < n {
		c.in = append(append([]byte(nil), p[taken:n]...), c.in...)
	}
	c.err = err
	if rejection != nil {
		c.pending = rejection
		c.in, c.err = nil, io.EOF
	}
	passed := copy(p, out)
	if passed < len(out) {
		c.out = append([]byte(nil), out[passed:]...)
	} else {
		c.tell()
	}
	if cap(out) <= 64<<10 {
		*buf = out
		c.scratch.Put(buf)
	}
	return passed
}

// tell makes the handler of the rejected request respond with the rejection. It must not be called
// before the whole header was passed on: net/http reads the first byte of a header while the
// previous request is still being served.
func (c *guardConn) tell() {
	if c.pending != nil {
		c.rejected.Store(c.pending)
	}
}

// Close implements net.Conn.
func (c *guardConn) Close() error {
	c.closed.Store(true)
	c.release()
	return c.Conn.Close()
}

// Write resets the connection if it fails: unsent data is dropped at once, and the client
// cannot mistake a partial response for a complete one.
func (c *guardConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		resetOnClose(c.Conn)
	}
	return n, err
}

// resetOnClose makes a connection send a reset when it is closed, also below TLS.
func resetOnClose(c net.Conn) {
	if over, ok := c.(interface{ NetConn() net.Conn }); ok { // a TLS connection
		c = over.NetConn()
	}
	if tcp, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = tcp.SetLinger(0)
	}
}

// CloseWrite closes the server's half of the connection. net/http calls it so that a
// client can read the response to a request that it is still sending.
func (c *guardConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

const (
	lingerBytes = 1 << 20
	lingerTime  = 2 * time.Second
)

// linger reads what the client still sends of a rejected request, so that the response is
// not lost: closing a connection with unread data resets it.
func (c *guardConn) linger() {
	_ = c.CloseWrite()
	_ = c.SetReadDeadline(time.Now().Add(lingerTime))
	_, _ = io.CopyN(io.Discard, c.Conn, lingerBytes)
}

type guardKey struct{}

// withGuard implements http.Server.ConnContext.
func withGuard(ctx context.Context, c net.Conn) context.Context {
	if g, ok := c.(*guardConn); ok {
		return context.WithValue(ctx, guardKey{}, g)
	}
	return ctx
}

// Rejecter is a handler that responds to rejected requests itself.
type Rejecter interface {
	Reject(http.ResponseWriter, *http.Request, *Rejection)
}

// rejectRequests responds to requests that the guard rejected, with `own` if that is a
// Rejecter.
func rejectRequests(h, own http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g, ok := r.Context().Value(guardKey{}).(*guardConn)
		if !ok {
			h.ServeHTTP(w, r)
			return
		}
		// When this handler returns, at most the first byte of the next header has been read.
		defer g.release()
		rejection := g.rejected.Load()
		if rejection == nil {
			h.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Connection", "close") // it is uncertain where the next request begins
		reject(w, r, own, rejection)
		_ = http.NewResponseController(w).Flush()
		g.linger()
	})
}

// reject responds to a request that is not served.
func reject(w http.ResponseWriter, r *http.Request, own http.Handler, why *Rejection) {
	if own, ok := own.(Rejecter); ok {
		own.Reject(w, r, why)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(why.Text)+1))
	if why.Retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(why.Retry.Seconds()))))
	}
	w.WriteHeader(why.Status)
	_, _ = io.WriteString(w, why.Text+"\n")
}
