package dispatch

import (
	"context"
	"sync"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/queue"
)

// hold is a job that occupies a slot while data is read without an evaluation, for example for a remote
// read.
type hold struct {
	granted  chan struct{} // closed when the slot is occupied
	released chan struct{} // closed when the read has ended
}

// holdCost is the estimated cost of a read that holds a slot, in samples.
const holdCost = 100_000

// Hold occupies a slot until the caller calls release. It waits for the slot in the queue, like an
// instant query or a range query of the tenant. If no querier has been connected for 5 seconds, or
// the frontend drains, it returns without a slot. Its only error is the cause of the end of ctx.
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
				release() // the job got a slot at the same moment
			}
			return nil, context.Cause(ctx)
		}
	}
}

// serve occupies the slot until the read or ctx ends.
func (h *hold) serve(ctx context.Context) {
	close(h.granted)
	select {
	case <-h.released:
	case <-ctx.Done():
	}
}

// Draining returns a channel that is closed when the frontend drains. Reads that occupy slots then
// continue without them.
func (d *Dispatcher) Draining() <-chan struct{} { return d.draining }
