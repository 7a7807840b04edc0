package dispatch

import (
	"context"
	"sync"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/frontend/queue"
)

// hold is a read that another part of the system performs while it holds a slot: a read whose
// answer is not that of an evaluation, such as a remote read.
type hold struct {
	granted  chan struct{} // closed when a slot is held
	released chan struct{} // closed when the read has ended
}

// holdCost is the estimated cost of a read that holds a slot, in samples.
const holdCost = 100_000

// Hold waits in the queue as a range query of the tenant until a slot is free, and holds it: the
// querier of the slot does nothing meanwhile. The caller must call release. If no querier is
// connected, the read is not delayed. The error is the cause of the end of ctx.
func (d *Dispatcher) Hold(ctx context.Context, id tenant.ID) (release func(), err error) {
	h := &hold{granted: make(chan struct{}), released: make(chan struct{})}
	job := &queue.Job{Tenant: id, Class: queue.Range, Cost: holdCost, Value: h}
	release = sync.OnceFunc(func() { close(h.released) })
	d.o.Queue.Push(job)
	noQuerier := d.o.Timer(noQuerierWait)
	for {
		select {
		case <-h.granted:
			return release, nil
		case <-noQuerier:
			without := d.o.Queue.Without()
			noQuerier = d.o.Timer(max(noQuerierWait-without, time.Second))
			if without >= noQuerierWait && d.o.Queue.Remove(job) {
				return release, nil
			}
		case <-ctx.Done():
			if !d.o.Queue.Remove(job) {
				release() // a slot was given at the same moment
			}
			return nil, context.Cause(ctx)
		}
	}
}

// serve gives the slot to the read until it ends, or ctx does.
func (h *hold) serve(ctx context.Context) {
	close(h.granted)
	select {
	case <-h.released:
	case <-ctx.Done():
	}
}

// Draining is closed when the frontend drains. Reads that hold slots go on without them.
func (d *Dispatcher) Draining() <-chan struct{} { return d.draining }
