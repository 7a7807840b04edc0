package ingester

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// changeLog counts, by tenant, the changes of what the ingester answers for samples
// before the bound. A cache of results is correct only if no change is missed; a change
// that is counted although the answers stay equal costs only a miss.
type changeLog struct {
	epoch uint64
	// bound is the start of the oldest window whose regular seal is still to come, recent
	// a time a few minutes ago. They never decrease: samples at or after recent are not
	// counted, and an answer for samples before it may have been kept since.
	bound, recent atomic.Int64

	mu      sync.RWMutex
	tenants map[tenant.ID]*changeCounts
}

// changeCounts are the changes of one tenant: of samples before the bound, and of those from
// there to the recent bound. A sender that is always late by minutes then changes only
// what is kept of the last hours.
type changeCounts struct{ settled, recent atomic.Uint64 }

// RecentDelay is the age of a sample that is counted as a change when it is pushed. The time
// is rounded down to recentStep, since answers that are kept grow with it.
const (
	RecentDelay = 5 * time.Minute
	recentStep  = 5 * time.Minute
)

func newChangeLog() *changeLog {
	c := &changeLog{epoch: rand.Uint64(), tenants: map[tenant.ID]*changeCounts{}}
	c.bound.Store(math.MinInt64)
	c.recent.Store(math.MinInt64)
	return c
}

// counts returns a tenant's counters.
func (c *changeLog) counts(id tenant.ID) *changeCounts {
	c.mu.RLock()
	n := c.tenants[id]
	c.mu.RUnlock()
	if n != nil {
		return n
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n = c.tenants[id]; n == nil {
		n = &changeCounts{}
		c.tenants[id] = n
	}
	return n
}

// pushed counts a push whose oldest sample is at t. It must be called after the samples
// were applied and before they are acknowledged: either the bound that it loads was
// raised by the version that a reader has, and the change is counted, or the reader got
// its version after the samples were applied, and reads them.
//
// An answer that was kept with the recent counter may be kept further without it, once the
// bound is above its samples. So a change that is counted as recent is counted again if the
// bound was raised above it meanwhile: whoever raised it may not have seen the recent one.
func (c *changeLog) pushed(id tenant.ID, t int64) {
	if t >= c.bound.Load() {
		if t >= c.recent.Load() {
			return
		}
		c.counts(id).recent.Add(1)
		if t >= c.bound.Load() {
			return
		}
	}
	c.changed(id)
}

// changed counts a change of any other kind, after it took effect and before it is
// acknowledged.
func (c *changeLog) changed(id tenant.ID) { c.counts(id).settled.Add(1) }

// raise raises a bound to at least b.
func raise(bound *atomic.Int64, b int64) {
	for {
		old := bound.Load()
		if old >= b || bound.CompareAndSwap(old, b) {
			return
		}
	}
}

// Version returns the version of what the ingester answers for a tenant's samples before
// the bounds. It raises the bounds first, see changeLog.pushed.
func (ing *Ingester) Version(id tenant.ID) series.IngesterVersion {
	now := ing.opts.Now()
	bound, recent := series.WindowStart(now.Add(-SealDelay).UnixMilli()), now.Add(-RecentDelay).Truncate(recentStep).UnixMilli()
	v := ing.changes.version(id, bound, recent)
	v.Instance = ing.opts.ID
	return v
}

// version raises the bounds and returns them with the counters.
func (c *changeLog) version(id tenant.ID, bound, recent int64) series.IngesterVersion {
	raise(&c.bound, bound)
	raise(&c.recent, recent)
	v := series.IngesterVersion{Epoch: c.epoch, Bound: c.bound.Load(), RecentBound: c.recent.Load()}
	counts := c.counts(id)
	v.Changes, v.Recent = counts.settled.Load(), counts.recent.Load()
	return v
}
