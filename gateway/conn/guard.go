package conn

import (
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Guard wraps a listener of plain HTTP/1, or of TLS that negotiates nothing else,
// so that a request whose end is not certain is rejected. net/http alone lets
// some of them pass, and a proxy in front may have split them otherwise.
// headerBytes bounds a header. Serve it with Server.
func Guard(l net.Listener, headerBytes int) net.Listener {
	out := &guardListener{Listener: l, headerBytes: headerBytes}
	out.room.limit = headerRoom
	return out
}

type guardListener struct {
	net.Listener
	headerBytes int
	scratch     sync.Pool // of *[]byte, for what passes through a Read
	room        room      // of long headers
}

// Accept implements net.Listener.
func (l *guardListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &guardConn{Conn: c, framing: framing{limit: l.headerBytes}, scratch: &l.scratch, room: &l.room}, nil
}

// guardConn follows the framing of what is read through it. Read is for one
// goroutine at a time, as net/http has it.
type guardConn struct {
	net.Conn
	framing  framing
	scratch  *sync.Pool
	in       []byte                    // was read and not looked at
	out      []byte                    // is to be passed on
	err      error                     // after that
	pending  *Rejection                // of the request whose header is being passed on
	rejected atomic.Pointer[Rejection] // that one, when all of its header was

	room     *room
	reserved atomic.Int64 // of the room
	closed   atomic.Bool
}

// Read passes on what is read as far as its framing is right. Behind a rejection
// and behind a broken chunk nothing is read any more.
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

// follow replaces the n bytes in p by what is to be passed on of them, and keeps
// the rest. It returns how many bytes p has then.
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
		rejection, out = noRoom(), c.framing.close(out)
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

// tell has the next request answered with its rejection. Not before its whole header is
// passed on: net/http reads the first byte of it while the request before is served.
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

// Write resets the connection when it fails: what was not sent is dropped at once,
// and the client cannot take a part of an answer for all of it.
func (c *guardConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		resetOnClose(c.Conn)
	}
	return n, err
}

// resetOnClose has a connection reset when it is closed, below TLS too.
func resetOnClose(c net.Conn) {
	if over, ok := c.(interface{ NetConn() net.Conn }); ok { // of TLS
		c = over.NetConn()
	}
	if tcp, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = tcp.SetLinger(0)
	}
}

// CloseWrite ends the server's half of the connection. net/http looks for it, to
// let a client read the answer to what it is still sending.
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

// linger reads what the client still sends of a rejected request, so that the
// answer is not lost: closing a connection of which not all was read resets it.
func (c *guardConn) linger() {
	_ = c.CloseWrite()
	_ = c.SetReadDeadline(time.Now().Add(lingerTime))
	_, _ = io.CopyN(io.Discard, c.Conn, lingerBytes)
}

type guardKey struct{}

// withGuard is for http.Server.ConnContext.
func withGuard(ctx context.Context, c net.Conn) context.Context {
	if g, ok := c.(*guardConn); ok {
		return context.WithValue(ctx, guardKey{}, g)
	}
	return ctx
}

// Rejecter is a handler that answers rejected requests itself.
type Rejecter interface {
	Reject(http.ResponseWriter, *http.Request, *Rejection)
}

// rejectRequests answers what the guard rejected, by own if that is a Rejecter.
func rejectRequests(h, own http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g, ok := r.Context().Value(guardKey{}).(*guardConn)
		if !ok {
			h.ServeHTTP(w, r)
			return
		}
		// Nothing of the next header has been read by then but its first byte.
		defer g.release()
		rejection := g.rejected.Load()
		if rejection == nil {
			h.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Connection", "close") // where the next request begins is not certain
		reject(w, r, own, rejection)
		_ = http.NewResponseController(w).Flush()
		g.linger()
	})
}

// reject answers a request that is not served.
func reject(w http.ResponseWriter, r *http.Request, own http.Handler, why *Rejection) {
	if own, ok := own.(Rejecter); ok {
		own.Reject(w, r, why)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(why.Text)+1))
	w.WriteHeader(why.Status)
	_, _ = io.WriteString(w, why.Text+"\n")
}
