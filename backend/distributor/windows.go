package distributor

import (
	"sync"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// maxRequestWindows is the maximum number of two-hour windows that the samples of one
// request may be in: every window costs an intent, and every day a work row, a section
// of a pack and a part of a compaction.
const maxRequestWindows = 1024

// requestWindows counts the windows of a request's samples.
type requestWindows struct {
	any    bool
	window int64 // start of the window of the previous admitted sample
	seen   map[int64]struct{}
}

// admit reports whether a sample at t (Unix milliseconds) is within the limit.
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
	// dayCharge is the number of samples charged for a past or future UTC day for which
	// the tenant sent no samples recently. The day is compacted again, which costs
	// about as much as writing that many samples.
	dayCharge = 50_000
	// daysKept is the interval at which the charged days of all tenants are forgotten,
	// so that a day is charged at most once per interval.
	daysKept = time.Hour
)

// paidDays records the days that tenants were charged for. Yesterday, today and
// tomorrow are free.
type paidDays struct {
	mu    sync.Mutex
	since time.Time
	days  map[tenant.ID]map[int64]struct{}
}

// charge returns the number of samples to charge for a request's days, in addition
// to its own samples.
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
