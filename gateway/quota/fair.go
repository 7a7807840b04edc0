package quota

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
)

// ErrBusy is returned for a request whose tenant's queue is full, or which has waited too long.
var ErrBusy = errors.New("too many requests are queued")

// Gate bounds the concurrent requests of the whole gateway. When it is full, requests
// wait in one queue per tenant, and the queues are served round robin: a tenant that
// sends ten times as many requests as others delays only itself.
type Gate struct {
	max       int           // concurrent requests
	maxQueued int           // queued requests of one tenant
	timeout   time.Duration // longest wait

	mu       sync.Mutex
	inflight int
	queues   map[tenant.ID]*gateQueue
	turns    []*gateQueue // non-empty queues in the order in which they are served
}

type gateQueue struct {
	id      tenant.ID
	waiting []chan struct{}
}

// NewGate returns a gate for max concurrent requests. When it is full, up to maxQueued
// requests of each tenant may wait for up to timeout.
func NewGate(max, maxQueued int, timeout time.Duration) *Gate {
	return &Gate{max: max, maxQueued: maxQueued, timeout: timeout, queues: make(map[tenant.ID]*gateQueue)}
}

// Enter waits until the request may continue. If it returns nil, Leave must be called afterwards.
// It returns ErrBusy if the tenant's queue is full or the wait times out, and the context's error
// if the context ends first.
func (g *Gate) Enter(ctx context.Context, id tenant.ID) error {
	g.mu.Lock()
	if g.inflight < g.max {
		g.inflight++
		g.mu.Unlock()
		return nil
	}
	q := g.queues[id]
	if q == nil {
		q = &gateQueue{id: id}
		g.queues[id] = q
		g.turns = append(g.turns, q)
	}
	if len(q.waiting) >= g.maxQueued {
		g.mu.Unlock()
		return ErrBusy
	}
	turn := make(chan struct{})
	q.waiting = append(q.waiting, turn)
	g.mu.Unlock()

	timer := time.NewTimer(g.timeout)
	defer timer.Stop()
	var err error
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = ErrBusy
	}
	if !g.giveUp(q, turn) {
		g.Leave() // the request was allowed at the same time
	}
	return err
}

// giveUp removes a waiter from its queue, and reports whether it was still queued.
func (g *Gate) giveUp(q *gateQueue, turn chan struct{}) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(q.waiting, turn)
	if i < 0 {
		return false
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	if len(q.waiting) == 0 {
		g.turns = slices.DeleteFunc(g.turns, func(o *gateQueue) bool { return o == q })
		delete(g.queues, q.id)
	}
	return true
}

// Leave ends a request and lets the next queued request continue.
func (g *Gate) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.turns) == 0 {
		g.inflight--
		return
	}
	q := g.turns[0]
	g.turns = slices.Delete(g.turns, 0, 1)
	close(q.waiting[0])
	q.waiting = slices.Delete(q.waiting, 0, 1)
	if len(q.waiting) > 0 {
		g.turns = append(g.turns, q)
		return
	}
	delete(g.queues, q.id)
}

// Load returns the number of concurrent requests.
func (g *Gate) Load() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inflight
}
