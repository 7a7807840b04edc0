package gateway

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
)

// GuardListener wraps a listener of plain HTTP/1.1 (or of TLS that negotiates
// HTTP/1.1) so that requests with both Transfer-Encoding and Content-Length are
// noticed. net/http lets them pass and removes the Content-Length before any
// handler can see it, while a proxy in front may have believed that one.
func GuardListener(l net.Listener) net.Listener { return guardListener{l} }

type guardListener struct{ net.Listener }

func (l guardListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &guardConn{Conn: c}, nil
}

// guardConn follows the framing of what is read through it.
type guardConn struct {
	net.Conn
	framing framing
	both    atomic.Bool
}

func (c *guardConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && !c.both.Load() && c.framing.scan(p[:n]) {
		c.both.Store(true)
	}
	return n, err
}

type guardKey struct{}

// withGuard is for http.Server.ConnContext.
func withGuard(ctx context.Context, c net.Conn) context.Context {
	if g, ok := c.(*guardConn); ok {
		return context.WithValue(ctx, guardKey{}, g)
	}
	return ctx
}

// bothLengths reports whether the connection carried a request with both
// framings. It stays so: nothing after such a request can be trusted.
func bothLengths(r *http.Request) bool {
	if g, ok := r.Context().Value(guardKey{}).(*guardConn); ok {
		return g.both.Load()
	}
	return false
}

// framing reads a stream of HTTP/1.1 requests just well enough to know where
// headers are. What it cannot read, net/http refuses on its own.
type framing struct {
	state   framingState
	line    []byte // of the current line, its first bytes
	skip    int64  // bytes of body left
	began   bool   // the request line was seen
	chunked bool
	hasLen  bool
	length  int64
}

type framingState int

const (
	inHeader framingState = iota
	inBody
	inChunkSize
	inChunk
	inTrailer
)

const maxLine = 64 // bytes of a line that matter

// scan reports whether a header with both framings ended within data.
func (f *framing) scan(data []byte) bool {
	for len(data) > 0 {
		if f.state == inBody || f.state == inChunk {
			n := min(f.skip, int64(len(data)))
			data, f.skip = data[n:], f.skip-n
			if f.skip == 0 {
				f.state = map[framingState]framingState{inBody: inHeader, inChunk: inChunkSize}[f.state]
			}
			continue
		}
		i := bytes.IndexByte(data, '\n')
		part := data
		if i >= 0 {
			part = data[:i]
		}
		if room := maxLine - len(f.line); room > 0 {
			f.line = append(f.line, part[:min(room, len(part))]...)
		}
		if i < 0 {
			return false
		}
		data = data[i+1:]
		both := f.endLine(bytes.TrimSuffix(f.line, []byte("\r")))
		f.line = f.line[:0]
		if both {
			return true
		}
	}
	return false
}

func (f *framing) endLine(line []byte) bool {
	switch f.state {
	case inHeader:
		return f.headerLine(line)
	case inChunkSize:
		if len(line) == 0 {
			return false // the line break behind a chunk
		}
		size, _, _ := bytes.Cut(line, []byte(";"))
		n, err := strconv.ParseInt(string(bytes.TrimSpace(size)), 16, 64)
		switch {
		case err != nil || n < 0 || n == 0:
			f.state = inTrailer
		default:
			f.state, f.skip = inChunk, n
		}
	case inTrailer:
		if len(line) == 0 {
			f.state = inHeader
		}
	}
	return false
}

func (f *framing) headerLine(line []byte) bool {
	if !f.began {
		f.began = len(line) > 0 // blank lines before a request are allowed
		return false
	}
	if len(line) > 0 {
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			f.chunked = true
		case bytes.EqualFold(name, []byte("Content-Length")):
			f.hasLen = true
			// Too many blanks for us to see the number: where the body ends
			// is not certain, so the request is treated as one with both.
			f.chunked = f.chunked || len(line) >= maxLine
			f.length, _ = strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
		}
		return false
	}
	both := f.chunked && f.hasLen
	switch {
	case f.chunked:
		f.state = inChunkSize
	case f.length > 0:
		f.state, f.skip = inBody, f.length
	}
	f.began, f.chunked, f.hasLen, f.length = false, false, false, 0
	return both
}
