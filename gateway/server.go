package gateway

import (
	"log/slog"
	"net/http"
	"time"
)

// The bounds of a connection at the edge.
const (
	readHeaderTimeout = 5 * time.Second
	idleTimeout       = 60 * time.Second
	// From the header to the last byte of the answer: longer than any query
	// may take, and an end to clients that do not read their answer.
	writeTimeout   = 10 * time.Minute
	maxHeaderBytes = 32 << 10
)

// Server returns the HTTP server for an edge. Bodies have deadlines of their
// own (see body), so there is no ReadTimeout, which would cut off the clients
// of slow queries. Serve it on a GuardListener.
func Server(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		WriteTimeout:      writeTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnContext:       withGuard,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		// net/http would answer "OPTIONS *" itself, past the route table.
		DisableGeneralOptionsHandler: true,
	}
}
