package app

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/limits"
)

// limitsOf returns a tenant's limits for the backend. The edge has let the
// tenant in, so when the store cannot tell, the last ones known hold, or the
// defaults; but for retention, since a tenant that has a longer one would lose
// data by it.
func (a *App) limitsOf(id tenant.ID) limits.Limits {
	if a.remembered != nil {
		return a.remembered.get(id)
	}
	lim, err := a.control.Limits(context.Background(), id)
	if err != nil {
		return a.limitsWithout(err)
	}
	return lim
}

func (a *App) limitsWithout(err error) limits.Limits {
	lim := limits.Merge(limits.Default(), a.cfg.Limits)
	if !errors.Is(err, tenant.ErrUnknown) {
		lim.Retention = 0
	}
	return lim
}

const (
	// limitsAge is how old remembered limits may be before they are asked for
	// again, beside the work: no write waits for the row store.
	limitsAge = time.Second
	// firstWait is how long the first question about a tenant may take.
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
	asked  bool // an answer is on its way
}

func newRememberedLimits(ctx context.Context, ask func(context.Context, tenant.ID) (limits.Limits, error), without func(error) limits.Limits, now func() time.Time) *rememberedLimits {
	return &rememberedLimits{ask: ask, without: without, now: now, running: ctx,
		slots: make(chan struct{}, maxAskedAtOnce), byID: map[tenant.ID]*knownLimits{}}
}

func (r *rememberedLimits) get(id tenant.ID) limits.Limits {
	now := r.now()
	r.mu.Lock()
	k := r.byID[id]
	if k != nil {
		lim := k.limits
		if now.Sub(k.at) > limitsAge && !k.asked {
			k.asked = r.refresh(id)
		}
		r.mu.Unlock()
		return lim
	}
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(r.running, firstWait)
	defer cancel()
	lim, err := r.ask(ctx, id)
	if err != nil {
		lim = r.without(err)
	}
	r.put(id, lim, err)
	return lim
}

// refresh asks beside the caller's work, unless too many questions are under way.
func (r *rememberedLimits) refresh(id tenant.ID) bool {
	select {
	case r.slots <- struct{}{}:
	default:
		return false
	}
	r.asking.Go(func() {
		defer func() { <-r.slots }()
		lim, err := r.ask(r.running, id)
		r.put(id, lim, err)
	})
	return true
}

func (r *rememberedLimits) put(id tenant.ID, lim limits.Limits, err error) {
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
		r.byID[id] = k
	}
	k.asked, k.at = false, r.now()
	switch {
	case err == nil:
		k.limits = lim
	case errors.Is(err, tenant.ErrUnknown):
		k.limits = r.without(err)
	}
}

// close waits for questions under way; r.running has ended.
func (r *rememberedLimits) close() error {
	r.asking.Wait()
	return nil
}
