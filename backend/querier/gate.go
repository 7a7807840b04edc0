package querier

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/timing"
	"github.com/palliumhq/pallium/policies/limits"
)

// QueueFullError is returned for a read if the queue of its tenant is full. A
// retry may succeed.
type QueueFullError struct {
	Running, Waiting int
	exceeded         *limits.Exceeded
}

func (e *QueueFullError) Error() string { return e.exceeded.Error() }

// Exceeded returns the limit that was exceeded.
func (e *QueueFullError) Exceeded() *limits.Exceeded { return e.exceeded }

// QueueFull returns the error for a full queue in another process.
func QueueFull(exceeded *limits.Exceeded) *QueueFullError { return &QueueFullError{exceeded: exceeded} }

// Gate limits the number of concurrent reads of each tenant. Further reads wait
// in a FIFO queue. Tenants do not wait for each other. It is safe for
// concurrent use.
type Gate struct {
	mu      sync.Mutex
	tenants map[tenant.ID]*slots

	waiting  prometheus.Gauge
	rejected prometheus.Counter
}

// slots are the slots and the queue of one tenant.
type slots struct {
	most    int // limit of the tenant's last read; 0 = no limit
	running int
	waiting []chan struct{} // FIFO; the channel of a read is closed when it may run
}

// free reports whether one more read may run.
func (p *slots) free() bool { return p.most <= 0 || p.running < p.most }

// pass gives free slots to waiting reads, oldest first.
func (p *slots) pass() {
	for len(p.waiting) > 0 && p.free() {
		p.running++
		close(p.waiting[0])
		p.waiting = slices.Delete(p.waiting, 0, 1)
	}
}

// NewGate returns a Gate without limits of its own: they are passed to Enter.
func NewGate(reg prometheus.Registerer) *Gate {
	auto := promauto.With(reg)
	return &Gate{
		tenants: map[tenant.ID]*slots{},
		waiting: auto.NewGauge(prometheus.GaugeOpts{
			Name: "pallium_querier_waiting_queries",
			Help: "Reads that wait for a slot because their tenant has reached max_concurrent_queries.",
		}),
		rejected: auto.NewCounter(prometheus.CounterOpts{
			Name: "pallium_querier_rejected_queries_total",
			Help: "Reads that were rejected because max_queued_queries reads of their tenant were waiting.",
		}),
	}
}

// Enter waits until fewer than max_concurrent_queries reads of the tenant run,
// and takes a slot. leave releases it. The error is a *QueueFullError if
// max_queued_queries reads are waiting, or the cause of the context's end.
func (g *Gate) Enter(ctx context.Context, id tenant.ID, lim *limits.Limits) (leave func(), err error) {
	g.mu.Lock()
	p := g.tenants[id]
	if p == nil {
		p = &slots{}
		g.tenants[id] = p
	}
	leave = func() { g.leave(id, p) }
	p.most = lim.MaxConcurrentQueries
	p.pass()      // the limit may have been raised
	if p.free() { // and no read is waiting, after pass
		p.running++
		g.mu.Unlock()
		return leave, nil
	}
	if n := len(p.waiting); n >= lim.MaxQueuedQueries {
		err := &QueueFullError{Running: p.running, Waiting: n, exceeded: limits.MaxQueuedQueries.Exceeded(lim, int64(n)).
			With(fmt.Sprintf(" for the %d that are running (limit %s)", p.running, limits.MaxConcurrentQueries.Name()))}
		g.mu.Unlock()
		g.rejected.Inc()
		return nil, err
	}
	turn := make(chan struct{})
	p.waiting = append(p.waiting, turn)
	g.mu.Unlock()
	g.waiting.Inc()
	defer g.waiting.Dec()
	defer timing.Of(ctx).Measure(timing.Queue)()
	select {
	case <-turn:
		return leave, nil
	case <-ctx.Done():
		if !g.giveUp(p, turn) {
			leave() // the slot was given at the same moment
		}
		return nil, context.Cause(ctx)
	}
}

// giveUp removes a read from the queue, and reports whether it was still
// waiting.
func (g *Gate) giveUp(p *slots, turn chan struct{}) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(p.waiting, turn)
	if i < 0 {
		return false
	}
	p.waiting = slices.Delete(p.waiting, i, i+1)
	return true
}

// leave releases a slot and gives it to the read that has waited longest,
// unless the limit was lowered meanwhile.
func (g *Gate) leave(id tenant.ID, p *slots) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p.running--
	p.pass()
	if p.running == 0 {
		delete(g.tenants, id)
	}
}
