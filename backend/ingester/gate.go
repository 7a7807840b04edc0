package ingester

import (
	"sync"
	"time"
)

// pushGate is held for reading while a request is logged and applied, and for
// writing by operations that must not run concurrently with requests. It records
// how long pushes waited for it.
type pushGate struct {
	sync.RWMutex
	waits recentMax
}

// enter acquires the gate for a push.
func (g *pushGate) enter(now func() time.Time) {
	if g.TryRLock() {
		return
	}
	start := now()
	g.RLock()
	end := now()
	g.waits.note(end, end.Sub(start))
}

// recentMax is the largest duration of the last one to two minutes.
type recentMax struct {
	mu                sync.Mutex
	minute            int64 // Unix time / 60 of current
	current, previous time.Duration
}

func (r *recentMax) note(now time.Time, d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn(now)
	r.current = max(r.current, d)
}

func (r *recentMax) value(now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn(now)
	return max(r.current, r.previous)
}

// turn drops durations older than the previous minute.
func (r *recentMax) turn(now time.Time) {
	switch minute := now.Unix() / 60; minute {
	case r.minute:
		return
	case r.minute + 1:
		r.previous, r.current, r.minute = r.current, 0, minute
	default:
		r.previous, r.current, r.minute = 0, 0, minute
	}
}
