package querier

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/limits"
)

// QueueFullError is the error of a read that may not even wait. The same read may
// be let in later.
type QueueFullError struct {
	Running, Waiting int
	exceeded         *limits.Exceeded
}

func (e *QueueFullError) Error() string { return e.exceeded.Error() }

// Gate bounds the reads of each tenant that run at once. Those beyond wait, in the
// order in which they came. Tenants do not wait for each other. It is safe for
// concurrent use.
type Gate struct {
	mu      sync.Mutex
	tenants map[tenant.ID]*places

	waiting  prometheus.Gauge
	rejected prometheus.Counter
}

// places are those of one tenant.
type places struct {
	most    int // as the tenant's last read has it; 0 is no limit
	running int
	waiting []chan struct{} // closed when it is its turn
}

// free reports whether one more may run.
func (p *places) free() bool { return p.most <= 0 || p.running < p.most }

// pass gives the places that are free to those who wait longest.
func (p *places) pass() {
	for len(p.waiting) > 0 && p.free() {
		p.running++
		close(p.waiting[0])
		p.waiting = slices.Delete(p.waiting, 0, 1)
	}
}

// NewGate returns a gate.
func NewGate(reg prometheus.Registerer) *Gate {
	auto := promauto.With(reg)
	return &Gate{
		tenants: map[tenant.ID]*places{},
		waiting: auto.NewGauge(prometheus.GaugeOpts{
			Name: "pallium_querier_waiting_queries",
			Help: "Reads that wait for others of their tenant to end.",
		}),
		rejected: auto.NewCounter(prometheus.CounterOpts{
			Name: "pallium_querier_rejected_queries_total",
			Help: "Reads that were rejected since too many of their tenant were waiting.",
		}),
	}
}

// Enter returns when the tenant has a place free of its limits
// max_concurrent_queries and max_queued_queries. leave gives it back. The error is
// a *QueueFullError, or the cause of the context's end.
func (g *Gate) Enter(ctx context.Context, id tenant.ID, lim *limits.Limits) (leave func(), err error) {
	g.mu.Lock()
	p := g.tenants[id]
	if p == nil {
		p = &places{}
		g.tenants[id] = p
	}
	leave = func() { g.leave(id, p) }
	p.most = lim.MaxConcurrentQueries
	p.pass()      // it may have been raised
	if p.free() { // then nobody waits
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
	select {
	case <-turn:
		return leave, nil
	case <-ctx.Done():
		if !g.giveUp(p, turn) {
			leave() // the turn came at the last moment
		}
		return nil, context.Cause(ctx)
	}
}

// giveUp takes a waiter out, and reports whether it was still waiting.
func (g *Gate) giveUp(p *places, turn chan struct{}) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(p.waiting, turn)
	if i < 0 {
		return false
	}
	p.waiting = slices.Delete(p.waiting, i, i+1)
	return true
}

// leave passes the place on to who waits longest, unless the limit was lowered
// meanwhile.
func (g *Gate) leave(id tenant.ID, p *places) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p.running--
	p.pass()
	if p.running == 0 {
		delete(g.tenants, id)
	}
}
