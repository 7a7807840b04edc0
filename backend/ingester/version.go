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

// changeLog counts, by tenant, the changes of data that can change the ingester's responses for
// times before the bounds. The results cache is correct only if no such change is missed. Counting
// a change that leaves the responses equal costs only a cache miss.
type changeLog struct {
	epoch uint64
	// bound is the start of the oldest window whose regular seal is not due yet; recent is a time a
	// few minutes ago. Samples at or after recent are not counted. Neither bound ever decreases,
	// because results for times before it may have been cached since it was raised.
	bound, recent atomic.Int64

	mu      sync.RWMutex
	tenants map[tenant.ID]*changeCounts
}

// changeCounts counts the changes of one tenant. recent counts pushes of samples between bound and
// the recent bound, settled all other changes. A sender that is always late by minutes therefore
// invalidates only cached results of the last hours.
type changeCounts struct{ settled, recent atomic.Uint64 }

// RecentDelay is the age from which a sample is counted as a change when it is pushed. The
// resulting time is rounded down to a multiple of recentStep, because cached results are extended
// whenever that time advances.
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

// pushed counts a push whose oldest sample is at t. It must be called after the samples were
// applied and before they are acknowledged. If a reader's call of version raised the bounds before
// pushed loads them, the change is counted. Otherwise the reader got its version after the samples
// were applied, and reads them.
//
// A result that was cached with the recent counter may later be used without it, once bound is
// above its samples. A change that was counted as recent is therefore also counted as settled if
// bound was raised above it in the meantime: the reader that raised bound may not have seen the
// recent count.
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

// changed counts a change of any other kind. It is called after the change took effect and before
// it is acknowledged.
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

// Version returns the version of a tenant's samples before the bounds on this ingester. It raises
// the bounds first; see changeLog.pushed.
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
