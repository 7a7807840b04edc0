// Package conn has the connections of the edge: which requests are split off them,
// and how long clients may take to send and to read.
package conn

import (
	"io"
	"log/slog"
	"net/http"
	"time"
)

// The bounds of a connection at the edge.
const (
	readHeaderTimeout = 5 * time.Second
	idleTimeout       = 60 * time.Second
	// From the header to the last byte of the answer: longer than any query
	// may take. Clients that do not read have less time (see pace).
	answerTimeout = 10 * time.Minute
	// What the edge answers itself is small: a client that does not take it is not
	// waited for.
	hastyGrace = 5 * time.Second

	// BodyGrace is within which a body must arrive, with a second more for every
	// BodyRate bytes that came so far.
	BodyGrace = 15 * time.Second
	BodyRate  = 16 << 10

	// HeaderBytes bounds a header by default.
	HeaderBytes = 256 << 10
)

// Options of a Server. Handler must be set.
type Options struct {
	// Handler serves the requests. If it is a Rejecter it answers those that the
	// guard rejects.
	Handler http.Handler
	Logger  *slog.Logger
	// HeaderBytes bounds a header; 0 is the default. That of a Guard is the same.
	HeaderBytes int

	// IdleTimeout is how long a connection without a request stays open; 0 is the
	// default.
	IdleTimeout time.Duration

	// Hasty gives clients a few seconds for an answer, until the handler calls Patient.
	Hasty bool

	pace              pace          // of answers; zero: answerPace
	readHeaderTimeout time.Duration // 0: the default
	bodyGrace         time.Duration // 0: BodyGrace
}

// Server returns the HTTP server of an edge. Bodies have deadlines of their
// own (see BodyGrace), so there is no ReadTimeout, which would cut off the clients
// of slow queries. Answers have them as well (see pace). Serve it with Serve, or on a Guard.
func Server(o Options) *http.Server {
	if o.HeaderBytes == 0 {
		o.HeaderBytes = HeaderBytes
	}
	if o.pace.now == nil {
		o.pace = answerPace()
	}
	if !o.Hasty {
		o.pace.hasty = 0
	}
	if o.readHeaderTimeout == 0 {
		o.readHeaderTimeout = readHeaderTimeout
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = idleTimeout
	}
	if o.bodyGrace == 0 {
		o.bodyGrace = BodyGrace
	}
	return &http.Server{
		Handler:           o.pace.timeAnswers(boundHeaders(rejectRequests(timeBodies(o.Handler, o.bodyGrace), o.Handler), o.Handler)),
		ReadHeaderTimeout: o.readHeaderTimeout,
		IdleTimeout:       o.IdleTimeout,
		WriteTimeout:      o.pace.grace,         // of what net/http answers itself; answers of handlers have deadlines of their own
		MaxHeaderBytes:    o.HeaderBytes + 4096, // the guard is first
		ConnContext:       withGuard,
		HTTP2:             limitsOfHTTP2(o.readHeaderTimeout),
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
		// net/http would answer "OPTIONS *" itself, past the route table.
		DisableGeneralOptionsHandler: true,
	}
}

// http2HeaderBytes bounds a header of HTTP/2, which net/http decodes to many times
// what was sent before anybody can look at it, and keeps although it is never ended.
const http2HeaderBytes = 64 << 10

// ServerOfHTTP2 is Server for HTTP/2, with shorter headers.
func ServerOfHTTP2(o Options) *http.Server {
	if o.HeaderBytes == 0 || o.HeaderBytes > http2HeaderBytes {
		o.HeaderBytes = http2HeaderBytes
	}
	return Server(o)
}

// timeBodies gives every request body a deadline, also one that no handler
// reads: net/http reads the rest itself, to keep the connection, and would wait
// for it for ever. The gateway moves the deadline as data comes.
func timeBodies(h http.Handler, grace time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 && r.Body != nil {
			rc := http.NewResponseController(w)
			_ = rc.SetReadDeadline(time.Now().Add(grace)) // not every connection has deadlines
			// In a copy: the server looks at the body of its own request to learn whether
			// all of it was read. If it cannot, it takes the rest for the next request.
			timed := *r
			timed.Body = &timedBody{ReadCloser: r.Body, rc: rc}
			r = &timed
		}
		h.ServeHTTP(w, r)
	})
}

// timedBody takes the deadline away at its end, from when on the connection is
// only watched for the client's going away.
type timedBody struct {
	io.ReadCloser
	rc *http.ResponseController
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		_ = b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}
