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
	// limitsAge is how old remembered limits may be before they are asked for
	// again, beside the work: what goes on all the time does not wait for the row
	// store.
	limitsAge = time.Second
	// idleAge is how old they may be to be used before there is an answer. A tenant
	// that was idle must not begin with limits of an hour ago: a query would show
	// what a shorter retention has deleted.
	idleAge = 5 * time.Second
	// firstWait is how long that answer, or the first about a tenant, may take.
	// Without it the last ones known hold.
	firstWait      = 2 * time.Second
	maxRemembered  = 200_000
	maxAskedAtOnce = 16
)

// Remembered keeps the last known limits of tenants. A process of a
// cluster goes on with them while the row store does not answer.
type Remembered struct {
	ask     func(context.Context, tenant.ID) (limits.Limits, error)
	without func(error) limits.Limits
	now     func() time.Time
	slots   chan struct{}
	asking  *background.Group

	mu   sync.Mutex
	byID map[tenant.ID]*knownLimits
}

type knownLimits struct {
	limits limits.Limits
	at     time.Time
	asked  chan struct{} // closed when the answer that is on its way is there; nil without
}

// NewRemembered returns one that asks beside its callers in a group of theirs, and
// asks no more when that has ended. without has the limits of a tenant of which
// nothing is known, by the error of asking.
func NewRemembered(
	asking *background.Group, ask func(context.Context, tenant.ID) (limits.Limits, error), without func(error) limits.Limits,
	now func() time.Time,
) *Remembered {
	return &Remembered{ask: ask, without: without, now: now, asking: asking,
		slots: make(chan struct{}, maxAskedAtOnce), byID: map[tenant.ID]*knownLimits{}}
}

// Limits returns the tenant's limits.
func (r *Remembered) Limits(id tenant.ID) limits.Limits {
	r.mu.Lock()
	k := r.byID[id]
	if k == nil {
		r.mu.Unlock()
		return r.askNow(id)
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
		return r.askNow(id)
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

// askNow asks while the caller waits.
func (r *Remembered) askNow(id tenant.ID) limits.Limits {
	ctx, cancel := context.WithTimeout(r.asking.Context(), firstWait)
	defer cancel()
	lim, err := r.ask(ctx, id)
	return r.put(id, lim, err)
}

// refresh asks beside the caller's work, unless too many questions are under way or
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
		r.put(id, lim, err)
	})
}

// put remembers an answer, and returns what holds now: without an answer the last
// limits known, or those of without.
func (r *Remembered) put(id tenant.ID, lim limits.Limits, err error) limits.Limits {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.byID[id]
	if k == nil {
		for other := range r.byID { // any: it is asked for again
			if len(r.byID) < maxRemembered {
				break
			}
			delete(r.byID, other)
		}
		k = &knownLimits{limits: lim}
		if err != nil {
			k.limits = r.without(err)
		}
		r.byID[id] = k
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
		k.limits = r.without(err)
	}
	return k.limits
}
