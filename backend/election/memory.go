package election

import (
	"context"
	"sync"
	"time"
)

// Memory is the Store of a process with the only distributor. It is safe for
// concurrent use.
type Memory struct {
	now func() time.Time

	mu       sync.Mutex
	of       map[Cluster]held
	sweepsAt int // number of elections at which Claim deletes idle ones
}

type held struct {
	replica  string
	received time.Time
	until    time.Time
}

// minSweepAt is the lowest value of sweepsAt.
const minSweepAt = 1024

// NewMemory returns an empty Store. now is the clock; nil means time.Now.
func NewMemory(now func() time.Time) *Memory {
	if now == nil {
		now = time.Now
	}
	return &Memory{now: now, of: map[Cluster]held{}, sweepsAt: minSweepAt}
}

// Claim implements Store. It never fails.
func (m *Memory) Claim(_ context.Context, c Cluster, seen []Sighting, r Rules) (Sighting, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	var current *Sighting
	if h, ok := m.of[c]; ok && now.Before(h.until) {
		current = &Sighting{h.replica, now.Sub(h.received)}
	}
	s := Decide(current, seen, r.Failover)
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

// sweep deletes idle elections. The next sweep is due when the number of elections
// has doubled.
func (m *Memory) sweep(now time.Time) {
	for c, h := range m.of {
		if !now.Before(h.until) {
			delete(m.of, c)
		}
	}
	m.sweepsAt = max(minSweepAt, 2*len(m.of))
}
