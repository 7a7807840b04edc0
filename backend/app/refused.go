package app

import (
	"log/slog"
	"sync"
	"time"
)

// refusedEvery is how often the log says that connections are refused.
const refusedEvery = 10 * time.Second

// refusals logs connections that were refused, so that strangers do not fill the
// log.
type refusals struct {
	log *slog.Logger

	mu     sync.Mutex
	logged time.Time
	since  int // refused since then and not logged
}

// add is told why a connection was refused.
func (r *refusals) add(err error, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.logged.IsZero() && now.Sub(r.logged) < refusedEvery {
		r.since++
		return
	}
	r.log.Warn("a connection to internal_listen was refused", "err", err, "more_since_the_last_line", r.since)
	r.logged, r.since = now, 0
}
