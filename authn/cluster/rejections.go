package cluster

import (
	"log/slog"
	"sync"
	"time"
)

// rejectedEvery is how often the log says that connections are rejected.
const rejectedEvery = 10 * time.Second

// Rejections logs connections that were rejected, so that strangers do not fill the
// log. It is safe for concurrent use.
type Rejections struct {
	log *slog.Logger

	mu     sync.Mutex
	logged time.Time
	since  int // rejected since then and not logged
}

// NewRejections returns one that logs to a logger.
func NewRejections(logger *slog.Logger) *Rejections { return &Rejections{log: logger} }

// Add is told why a connection was rejected.
func (r *Rejections) Add(err error, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.logged.IsZero() && now.Sub(r.logged) < rejectedEvery {
		r.since++
		return
	}
	r.log.Warn("connection to internal_listen rejected", "err", err, "suppressed", r.since)
	r.logged, r.since = now, 0
}
