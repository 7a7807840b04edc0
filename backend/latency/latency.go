// Package latency estimates how long calls of one kind take, from the last ones that succeeded.
package latency

import (
	"slices"
	"sync"
	"time"
)

const (
	kept    = 512 // number of last durations from which the estimate is made
	atLeast = 100 // with fewer durations there is no estimate
	every   = 32  // the estimate is updated when the number of added durations is a multiple of this
)

// Recent has the last 512 durations of calls of one kind. The zero Recent is empty. It is safe
// for concurrent use.
type Recent struct {
	mu    sync.Mutex
	last  [kept]time.Duration
	added int
	p95   time.Duration // at the last update
}

// Add adds the duration of a call.
func (r *Recent) Add(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last[r.added%kept] = d
	r.added++
	if r.added == atLeast || r.added > atLeast && r.added%every == 0 {
		sorted := slices.Clone(r.last[:min(r.added, kept)])
		slices.Sort(sorted)
		r.p95 = sorted[(len(sorted)*95+99)/100-1]
	}
}

// P95 returns the duration that 95% of the recent calls did not exceed. ok is false while fewer
// than 100 calls were added.
func (r *Recent) P95() (d time.Duration, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.p95, r.added >= atLeast
}
