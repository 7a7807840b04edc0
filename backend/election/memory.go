package election

import (
	"context"
	"sync"
	"time"
)

// Memory is the Store of a process that is the only one. It is safe for
// concurrent use.
type Memory struct {
	now func() time.Time

	mu       sync.Mutex
	of       map[Cluster]held
	sweepsAt int // how many elections are held when the idle ones are looked for
}

type held struct {
	replica  string
	received time.Time
	until    time.Time
}

// sweepAt is the least number of elections at which idle ones are looked for.
const sweepAt = 1024

// NewMemory returns an empty Store. now is the clock; nil is the system's.
func NewMemory(now func() time.Time) *Memory {
	if now == nil {
		now = time.Now
	}
	return &Memory{now: now, of: map[Cluster]held{}, sweepsAt: sweepAt}
}

// Claim implements Store. It never fails.
func (m *Memory) Claim(_ context.Context, c Cluster, seen []Sighting, r Rules) (Sighting, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	var standing *Sighting
	if h, ok := m.of[c]; ok && now.Before(h.until) {
		standing = &Sighting{h.replica, now.Sub(h.received)}
	}
	s := Decide(standing, seen, r.Failover)
	if s.Replica == "" {
		return s, nil
	}
	if len(m.of) >= m.sweepsAt {
		m.sweep(now)
	}
	received := now.Add(-s.Age)
	m.of[c] = held{s.Replica, received, received.Add(r.Idle)}
	return s, nil
}

// sweep forgets idle elections, and waits for twice as many as are left.
func (m *Memory) sweep(now time.Time) {
	for c, h := range m.of {
		if !now.Before(h.until) {
			delete(m.of, c)
		}
	}
	m.sweepsAt = max(sweepAt, 2*len(m.of))
}
