// Package conn handles the connections of the edge: how requests are split from them, and
// how fast clients must send and read.
package conn

import (
	"io"
	"log/slog"
	"net/http"
	"time"
)

// The limits of a connection at the edge.
const (
	readHeaderTimeout = 5 * time.Second
	idleTimeout       = 60 * time.Second
	// answerTimeout is the maximum time from the header to the end of the response. It is longer
	// than the default of the tenants' query_timeout. Clients that do not read have less time (see
	// pace).
	answerTimeout = 10 * time.Minute
	// hastyGrace applies to responses of the edge itself, which are small: a client
	// that does not read them is disconnected early.
	hastyGrace = 5 * time.Second

	// BodyGrace is the time within which a body must arrive, plus one second for every
	// BodyRate bytes that were received so far.
	BodyGrace = 15 * time.Second
	BodyRate  = 16 << 10

	// HeaderBytes is the default limit of a header.
	HeaderBytes = 256 << 10
)

// Options are the options of Server. Handler and Logger must be set.
type Options struct {
	// Handler serves the requests. If it is a Rejecter, it also responds to those that
	// the guard rejects.
	Handler http.Handler
	Logger  *slog.Logger
	// HeaderBytes bounds a header; 0 selects the default. Use the same value for Guard.
	HeaderBytes int

	// IdleTimeout is how long an idle connection stays open; 0 selects the default.
	IdleTimeout time.Duration

	// Hasty gives clients only a few seconds to read a response, until the handler
	// calls Patient.
	Hasty bool

	pace              pace          // of responses; zero: answerPace
	readHeaderTimeout time.Duration // 0: the default
	bodyGrace         time.Duration // 0: BodyGrace
}

// Server returns the HTTP server of an edge. Bodies have deadlines of their own (see
// BodyGrace), so there is no ReadTimeout, which would disconnect the clients of slow
// queries. Responses have deadlines, too (see pace). Serve it with Serve, or on a Guard.
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
		WriteTimeout:      o.pace.grace,         // for responses of net/http itself; those of handlers have other deadlines
		MaxHeaderBytes:    o.HeaderBytes + 4096, // above the limit of the guard, which therefore responds
		ConnContext:       withGuard,
		HTTP2:             limitsOfHTTP2(o.readHeaderTimeout),
		ErrorLog:          slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
		// Otherwise net/http would respond to "OPTIONS *" itself, without the route table.
		DisableGeneralOptionsHandler: true,
	}
}

// http2HeaderBytes bounds a header of HTTP/2. net/http decodes it to many times the size
// on the wire before any handler can check it, and holds it even if it is never
// completed.
const http2HeaderBytes = 64 << 10

// ServerOfHTTP2 is Server for HTTP/2, with a lower limit for headers.
func ServerOfHTTP2(o Options) *http.Server {
	if o.HeaderBytes == 0 || o.HeaderBytes > http2HeaderBytes {
		o.HeaderBytes = http2HeaderBytes
	}
	return Server(o)
}

// timeBodies gives every request body a deadline, including bodies that no handler reads:
// net/http reads the rest of a body to reuse the connection, and would wait for it
// forever. The gateway moves the deadline as data arrives.
func timeBodies(h http.Handler, grace time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 && r.Body != nil {
			rc := http.NewResponseController(w)
			_ = rc.SetReadDeadline(time.Now().Add(grace)) // ignored: connections of tests may not support deadlines
			// Change a copy: the server checks the body of its own request to determine
			// whether it was read completely. If it finds another type, it takes the rest
			// of the body for the next request.
			timed := *r
			timed.Body = &timedBody{ReadCloser: r.Body, rc: rc}
			r = &timed
		}
		h.ServeHTTP(w, r)
	})
}

// timedBody removes the deadline at the end of the body, because net/http then reads only
// to detect that the client has disconnected.
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
