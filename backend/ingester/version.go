package ingester

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// changeLog counts, by tenant, the changes of what the ingester answers for samples
// before the bound. A cache of results is correct only if no change is missed; a change
// that is counted although the answers stay equal costs only a miss.
type changeLog struct {
	epoch uint64
	// bound is the start of the oldest window whose regular seal is still to come. It
	// never decreases: samples at or after it are not counted, and an answer for samples
	// before it may have been kept since.
	bound atomic.Int64

	mu      sync.RWMutex
	tenants map[tenant.ID]*atomic.Uint64
}

func newChangeLog() *changeLog {
	c := &changeLog{epoch: rand.Uint64(), tenants: map[tenant.ID]*atomic.Uint64{}}
	c.bound.Store(math.MinInt64)
	return c
}

// counter returns a tenant's counter.
func (c *changeLog) counter(id tenant.ID) *atomic.Uint64 {
	c.mu.RLock()
	n := c.tenants[id]
	c.mu.RUnlock()
	if n != nil {
		return n
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n = c.tenants[id]; n == nil {
		n = new(atomic.Uint64)
		c.tenants[id] = n
	}
	return n
}

// pushed counts a push whose oldest sample is at t. It must be called after the samples
// were applied and before they are acknowledged: either the bound that it loads was
// raised by the version that a reader has, and the change is counted, or the reader got
// its version after the samples were applied, and reads them.
func (c *changeLog) pushed(id tenant.ID, t int64) {
	if t < c.bound.Load() {
		c.changed(id)
	}
}

// changed counts a change of any other kind, after it took effect and before it is
// acknowledged.
func (c *changeLog) changed(id tenant.ID) { c.counter(id).Add(1) }

// raise raises the bound to at least b.
func (c *changeLog) raise(b int64) {
	for {
		old := c.bound.Load()
		if old >= b || c.bound.CompareAndSwap(old, b) {
			return
		}
	}
}

// Version returns the version of what the ingester answers for a tenant's samples before
// the bound. It raises the bound first, see changeLog.pushed.
func (ing *Ingester) Version(id tenant.ID) series.IngesterVersion {
	c := ing.changes
	c.raise(series.WindowStart(ing.opts.Now().Add(-SealDelay).UnixMilli()))
	v := series.IngesterVersion{Instance: ing.opts.ID, Epoch: c.epoch, Bound: c.bound.Load()}
	v.Changes = c.counter(id).Load()
	return v
}
