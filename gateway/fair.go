package gateway

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
)

var errBusy = errors.New("too many requests are waiting")

// fairGate bounds the requests under way in the whole gateway. When it is full,
// requests wait in one queue per tenant, and the queues are served in turn: a
// tenant that sends ten times as much waits for itself.
type fairGate struct {
	max       int           // requests under way
	maxQueued int           // requests waiting, of one tenant
	timeout   time.Duration // longest wait

	mu       sync.Mutex
	inflight int
	queues   map[tenant.ID]*gateQueue
	turns    []*gateQueue // queues that are not empty, next first
}

type gateQueue struct {
	id      tenant.ID
	waiting []chan struct{}
}

func newFairGate(max, maxQueued int, timeout time.Duration) *fairGate {
	return &fairGate{max: max, maxQueued: maxQueued, timeout: timeout, queues: make(map[tenant.ID]*gateQueue)}
}

// enter returns when the request may go on; then leave must be called. It
// returns errBusy if the tenant's queue is full or the wait took too long, and
// the context's error if that ends first.
func (g *fairGate) enter(ctx context.Context, id tenant.ID) error {
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
		return errBusy
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
		err = errBusy
	}
	if !g.giveUp(q, turn) {
		g.leave() // the turn came at the last moment
	}
	return err
}

// giveUp takes a waiter out of its queue, and reports whether it was still there.
func (g *fairGate) giveUp(q *gateQueue, turn chan struct{}) bool {
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

// leave gives the place to the first request of the tenant whose turn it is.
func (g *fairGate) leave() {
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

// load is how many requests are under way.
func (g *fairGate) load() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inflight
}
