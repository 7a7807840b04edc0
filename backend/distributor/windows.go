package distributor

import (
	"sync"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// maxRequestWindows is how many windows of two hours one request may have samples
// of: every window is a row of work, a section of a pack, and a part of a
// compaction.
const maxRequestWindows = 1024

// requestWindows counts the windows of a request's samples.
type requestWindows struct {
	any    bool
	window int64 // start of the last sample's window
	seen   map[int64]struct{}
}

// admit reports whether a sample at t is within the bound.
func (r *requestWindows) admit(t int64) bool {
	if r.any && t >= r.window && t-r.window < series.WindowMillis {
		return true
	}
	w := series.WindowStart(t)
	if _, ok := r.seen[w]; !ok {
		if len(r.seen) >= maxRequestWindows {
			return false
		}
		if r.seen == nil {
			r.seen = map[int64]struct{}{}
		}
		r.seen[w] = struct{}{}
	}
	r.any, r.window = true, w
	return true
}

const (
	// dayCharge is what a UTC day that a tenant had no samples of lately costs, in
	// samples: it is compacted again, which takes about as long as writing these.
	dayCharge = 50_000
	// daysKept is how long a day is remembered as paid for.
	daysKept = time.Hour
)

// paidDays remembers which days tenants have sent samples of, but for the days
// around the present one, which cost nothing.
type paidDays struct {
	mu    sync.Mutex
	since time.Time
	days  map[tenant.ID]map[int64]struct{}
}

// charge returns what a request costs beside its samples.
func (p *paidDays) charge(id tenant.ID, now time.Time, windows *requestWindows) int {
	today := series.Day(now.UnixMilli())
	cost := 0
	for w := range windows.seen {
		if day := series.Day(w); day < today-1 || day > today+1 {
			cost += p.pay(id, now, day)
		}
	}
	return cost
}

func (p *paidDays) pay(id tenant.ID, now time.Time, day int64) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.days == nil || now.Sub(p.since) >= daysKept || now.Before(p.since) {
		p.since, p.days = now, map[tenant.ID]map[int64]struct{}{}
	}
	if p.days[id] == nil {
		p.days[id] = map[int64]struct{}{}
	}
	if _, ok := p.days[id][day]; ok {
		return 0
	}
	p.days[id][day] = struct{}{}
	return dayCharge
}
