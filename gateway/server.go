package gateway

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
	writeTimeout   = 10 * time.Minute
	maxHeaderBytes = 32 << 10
)

// Server returns the HTTP server for an edge. Bodies have deadlines of their
// own (see body), so there is no ReadTimeout, which would cut off the clients
// of slow queries. Answers have them as well (see pace). Serve it on a
// GuardListener.
func Server(h http.Handler, log *slog.Logger) *http.Server { return newServer(h, log, answerPace()) }

func newServer(h http.Handler, log *slog.Logger, p pace) *http.Server {
	return &http.Server{
		Handler:           p.timeAnswers(timeBodies(h)),
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		WriteTimeout:      p.total,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnContext:       withGuard,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		// net/http would answer "OPTIONS *" itself, past the route table.
		DisableGeneralOptionsHandler: true,
	}
}

// timeBodies gives every request body a deadline, also one that no handler
// reads: net/http reads the rest itself, to keep the connection, and would wait
// for it for ever. The gateway's body moves the deadline as data comes.
func timeBodies(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 && r.Body != nil {
			rc := http.NewResponseController(w)
			_ = rc.SetReadDeadline(time.Now().Add(bodyGrace)) // not every connection has deadlines
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
