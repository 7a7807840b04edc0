package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/limits"
)

// askLimits returns a tenant's limits for the backend. The edge has let the
// tenant in, so when the store cannot tell, the last ones known hold, or the
// defaults; but for retention, since a tenant that has a longer one would lose
// data by it.
func (p *process) askLimits(id tenant.ID) limits.Limits {
	lim, err := p.control.Limits(context.Background(), id)
	if err != nil {
		return p.limitsWithout(err)
	}
	return lim
}

func (p *process) limitsWithout(err error) limits.Limits {
	lim := limits.Merge(limits.Default(), p.cfg.Limits)
	if !errors.Is(err, tenant.ErrUnknown) {
		lim.Retention = 0
	}
	return lim
}

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

// rememberedLimits keeps the last known limits of tenants. A process of a
// cluster goes on with them while the row store does not answer.
type rememberedLimits struct {
	ask     func(context.Context, tenant.ID) (limits.Limits, error)
	without func(error) limits.Limits
	now     func() time.Time
	running context.Context
	slots   chan struct{}
	asking  sync.WaitGroup

	mu   sync.Mutex
	byID map[tenant.ID]*knownLimits
}

type knownLimits struct {
	limits limits.Limits
	at     time.Time
	asked  chan struct{} // closed when the answer that is on its way is there; nil without
}

func newRememberedLimits(
	ctx context.Context, ask func(context.Context, tenant.ID) (limits.Limits, error), without func(error) limits.Limits, now func() time.Time,
) *rememberedLimits {
	return &rememberedLimits{ask: ask, without: without, now: now, running: ctx,
		slots: make(chan struct{}, maxAskedAtOnce), byID: map[tenant.ID]*knownLimits{}}
}

func (r *rememberedLimits) get(id tenant.ID) limits.Limits {
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
	case <-r.running.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return k.limits
}

// askNow asks while the caller waits.
func (r *rememberedLimits) askNow(id tenant.ID) limits.Limits {
	ctx, cancel := context.WithTimeout(r.running, firstWait)
	defer cancel()
	lim, err := r.ask(ctx, id)
	return r.put(id, lim, err)
}

// refresh asks beside the caller's work, unless too many questions are under way.
// The caller holds the lock.
func (r *rememberedLimits) refresh(id tenant.ID, k *knownLimits) {
	select {
	case r.slots <- struct{}{}:
	default:
		return
	}
	k.asked = make(chan struct{})
	r.asking.Go(func() {
		defer func() { <-r.slots }()
		lim, err := r.ask(r.running, id)
		r.put(id, lim, err)
	})
}

// put remembers an answer, and returns what holds now: without an answer the last
// limits known, or those of without.
func (r *rememberedLimits) put(id tenant.ID, lim limits.Limits, err error) limits.Limits {
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

// close waits for questions under way; r.running has ended.
func (r *rememberedLimits) close() error {
	r.asking.Wait()
	return nil
}
