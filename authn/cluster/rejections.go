package cluster

import (
	"log/slog"
	"sync"
	"time"
)

// logInterval is the minimum time between two log lines about rejected connections.
const logInterval = 10 * time.Second

// Rejections logs rejected connections at a limited rate, so that unauthenticated peers
// cannot fill the log. It is safe for concurrent use.
type Rejections struct {
	log *slog.Logger

	mu     sync.Mutex
	logged time.Time
	since  int // rejected since then without a log line
}

// NewRejections returns a Rejections that writes to the logger.
func NewRejections(logger *slog.Logger) *Rejections { return &Rejections{log: logger} }

// Add records a connection that was rejected with an error.
func (r *Rejections) Add(err error, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.logged.IsZero() && now.Sub(r.logged) < logInterval {
		r.since++
		return
	}
	r.log.Warn("rejected connection to internal_listen", "err", err, "suppressed", r.since)
	r.logged, r.since = now, 0
}
