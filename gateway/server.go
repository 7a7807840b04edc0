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
	maxHeaderBytes    = 32 << 10
)

// Server returns the HTTP server for an edge. Bodies have deadlines of their
// own (see body), so there is no ReadTimeout, which would cut off the clients
// of slow queries. Serve it on a GuardListener.
func Server(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnContext:       withGuard,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		// net/http would answer "OPTIONS *" itself, past the route table.
		DisableGeneralOptionsHandler: true,
	}
}
