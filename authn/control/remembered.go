package control

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/background"
	"github.com/palliumhq/pallium/policies/limits"
)

const (
	// limitsAge is the age from which cached limits are refreshed in the background, so that a
	// tenant with continuous traffic waits for the row store only if refreshes are slow.
	limitsAge = time.Second
	// idleAge is the age from which a caller waits for the refresh. A tenant that was
	// idle must not start with limits that are an hour old: a query would show samples
	// that a shorter retention has deleted.
	idleAge = 5 * time.Second
	// firstWait bounds the wait for a refresh, or for the first read of a tenant's limits. After
	// it, the tenant's last known limits are used, or else the result of fallback.
	firstWait          = 2 * time.Second
	maxRemembered      = 200_000
	maxConcurrentReads = 16
)

// Remembered caches the last known limits of tenants. A process of a cluster continues to
// use them while the row store is unavailable.
type Remembered struct {
	ask      func(context.Context, tenant.ID) (limits.Limits, error)
	fallback func(error) limits.Limits
	now      func() time.Time
	slots    chan struct{}
	asking   *background.Group

	mu   sync.Mutex
	byID map[tenant.ID]*knownLimits
}

type knownLimits struct {
	limits limits.Limits
	at     time.Time
	// asked is non-nil from the start of a refresh until any read of this tenant ends, which closes it.
	asked chan struct{}
}

// NewRemembered returns a cache that reads limits with ask. Refreshes run in the group, and end
// with it. fallback gets the error of a read, and returns the limits to use if the tenant does not
// exist or its limits were never read.
func NewRemembered(
	asking *background.Group, ask func(context.Context, tenant.ID) (limits.Limits, error), fallback func(error) limits.Limits,
	now func() time.Time,
) *Remembered {
	return &Remembered{ask: ask, fallback: fallback, now: now, asking: asking,
		slots: make(chan struct{}, maxConcurrentReads), byID: map[tenant.ID]*knownLimits{}}
}

// Limits returns the tenant's limits.
func (r *Remembered) Limits(id tenant.ID) limits.Limits {
	r.mu.Lock()
	k := r.byID[id]
	if k == nil {
		r.mu.Unlock()
		return r.readNow(id)
	}
	lim, age := k.limits, r.now().Sub(k.at)
	if age > limitsAge && k.asked == nil {
		r.refresh(id, k)
	}
	asked := k.asked
	r.mu.Unlock()
	switch {
	case age <= idleAge:
		return lim
	case asked == nil:
		return r.readNow(id)
	}
	wait := time.NewTimer(firstWait)
	defer wait.Stop()
	select {
	case <-asked:
	case <-wait.C:
	case <-r.asking.Context().Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return k.limits
}

// Known returns the tenant's last known limits at once, and refreshes them in the background. The limits of a tenant that was idle
// may be old. It waits, like Limits, if the tenant's limits were never read. It is for work that must go on while the row store
// does not respond, where the wait of every single call would add up.
func (r *Remembered) Known(id tenant.ID) limits.Limits {
	r.mu.Lock()
	k := r.byID[id]
	if k == nil {
		r.mu.Unlock()
		return r.readNow(id)
	}
	defer r.mu.Unlock()
	if k.asked == nil && r.now().Sub(k.at) > limitsAge {
		r.refresh(id, k)
	}
	return k.limits
}

// readNow reads the limits while the caller waits.
func (r *Remembered) readNow(id tenant.ID) limits.Limits {
	ctx, cancel := context.WithTimeout(r.asking.Context(), firstWait)
	defer cancel()
	lim, err := r.ask(ctx, id)
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.put(id, lim, err)
}

// refresh reads the limits in the background, unless maxConcurrentReads refreshes are in progress or
// the process ends. The caller holds the lock.
func (r *Remembered) refresh(id tenant.ID, k *knownLimits) {
	if r.asking.Context().Err() != nil {
		return
	}
	select {
	case r.slots <- struct{}{}:
	default:
		return
	}
	k.asked = make(chan struct{})
	r.asking.Go(func(ctx context.Context) {
		defer func() { <-r.slots }()
		lim, err := r.ask(ctx, id)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.byID[id] == nil { // k was evicted during the refresh
			r.insert(id, k)
		}
		lim = r.put(id, lim, err)
		if r.byID[id] != k { // k was evicted and the limits were read again: its callers may still wait
			k.limits = lim
			if k.asked != nil { // otherwise another read has ended before k was evicted
				close(k.asked)
				k.asked = nil
			}
		}
	})
}

// insert adds an entry, after evicting others if there are too many. The caller holds the lock.
func (r *Remembered) insert(id tenant.ID, k *knownLimits) {
	for other := range r.byID { // evict any: it is read again when needed
		if len(r.byID) < maxRemembered {
			break
		}
		delete(r.byID, other)
	}
	r.byID[id] = k
}

// put stores the result of a read and returns the limits to use. After an error, it returns the last
// known limits; if there are none, or the tenant does not exist, it returns the result of fallback.
// The caller holds the lock.
func (r *Remembered) put(id tenant.ID, lim limits.Limits, err error) limits.Limits {
	k := r.byID[id]
	if k == nil {
		k = &knownLimits{limits: lim}
		if err != nil {
			k.limits = r.fallback(err)
		}
		r.insert(id, k)
	}
	k.at = r.now()
	if k.asked != nil {
		defer close(k.asked)
		k.asked = nil
	}
	switch {
	case err == nil:
		k.limits = lim
	case errors.Is(err, tenant.ErrUnknown):
		k.limits = r.fallback(err)
	}
	return k.limits
}
