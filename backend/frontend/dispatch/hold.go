package dispatch

import (
	"context"
	"sync"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/frontend/evaluation"
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

// Hold waits in the queue until a slot is free, as an instant query of the tenant or as a range
// query, and holds it: nothing is evaluated in that slot meanwhile. The caller must call release. If no querier is
// connected for five seconds, or the frontend drains, the read does not wait. The error is the
// cause of the end of ctx.
func (d *Dispatcher) Hold(ctx context.Context, id tenant.ID, instant bool) (release func(), err error) {
	h := &hold{granted: make(chan struct{}), released: make(chan struct{})}
	job := &queue.Job{Tenant: id, Class: evaluation.ClassOf(ctx, instant), Cost: holdCost, Value: h}
	release = sync.OnceFunc(func() { close(h.released) })
	d.o.Queue.Push(job)
	noQuerier, draining := d.o.Timer(noQuerierWait), d.draining
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
		case <-draining: // no slot will be free
			if draining = nil; d.o.Queue.Remove(job) {
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
