package join

import (
	"context"
	"time"

	"github.com/prometheus/prometheus/promql"

	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/timing"
)

// maxWait is how long a query waits for an equal one that is running, before it runs concurrently
// with it.
const maxWait = 500 * time.Millisecond

// maxReport is how long a query whose context has ended waits for its canceled flight to end, so that
// the times of the flight are complete.
const maxReport = 100 * time.Millisecond

// flights are the flights of one key: any number that run, and at most one that waits.
type flights struct {
	running int
	waiting *flight // further queries join it; may be nil
}

// flight is a query whose result is the answer of all queries that joined it before it started.
type flight struct {
	key        evaluation.Key
	query      promql.Query // of the first query
	holding    *memory.Holding
	ctx        context.Context //nolint:containedctx // of the flight, which may outlive the request of the first query
	cancel     context.CancelCauseFunc
	fault      func() error
	timing     *timing.Record
	passengers int           // guarded by Engine.mu
	ready      chan struct{} // closed when another flight of the key has ended

	done       chan struct{} // closed after the result was set
	result     result
	unreadable error
}

func (f *flight) ended() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// result is a result with its annotations as text: the annotations of the engine change when they
// are printed.
type result struct {
	promql.Result
	notes []evaluation.Note
}

func (r *result) copy() *promql.Result {
	out := r.Result
	out.Warnings = nil
	evaluation.Annotate(&out.Warnings, r.notes)
	return &out
}

// board adds a query to the waiting flight of its key, or to a new flight. `first` reports whether the flight
// is new.
func (e *Engine) board(ctx context.Context, q *query) (f *flight, first bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := e.flights[q.key]
	if all != nil && all.waiting != nil {
		all.waiting.passengers++
		return all.waiting, false
	}
	f = e.newFlight(ctx, q)
	if all == nil {
		e.flights[q.key] = &flights{running: 1}
		go e.fly(f)
		return f, true
	}
	all.waiting = f
	go e.wait(f, f.timing.Measure(timing.Queue))
	return f, true
}

// newFlight returns a flight with its own context and memory account: it continues until the last
// of its queries leaves, not the first.
func (e *Engine) newFlight(ctx context.Context, q *query) *flight {
	h := memory.FromContext(ctx).Another()
	f := &flight{key: q.key, query: q.Query, holding: h, passengers: 1, ready: make(chan struct{}), done: make(chan struct{})}
	f.timing = timing.Of(ctx).Child()
	f.ctx, f.fault = e.o.Faults(memory.NewContext(context.WithoutCancel(ctx), h))
	f.ctx = timing.NewContext(f.ctx, f.timing)
	f.ctx, f.cancel = context.WithCancelCause(f.ctx)
	h.OnEnd(f.cancel)
	return f
}

// wait waits until another flight of the key has ended, the context of f has ended, or maxWait has
// passed. Then it calls waited and runs f.
func (e *Engine) wait(f *flight, waited func() time.Duration) {
	select {
	case <-f.ready:
	case <-e.o.Timer(maxWait):
	case <-f.ctx.Done():
	}
	waited()
	e.mu.Lock()
	all := e.flights[f.key]
	all.waiting = nil
	all.running++
	e.mu.Unlock()
	e.fly(f)
}

// fly runs a flight. No query joins it from now on.
func (e *Engine) fly(f *flight) {
	res := f.query.Exec(f.ctx)
	f.result.Result = *res
	f.result.notes, _ = evaluation.NotesOf(res.Warnings, f.key.Text)
	f.unreadable = f.fault()

	e.mu.Lock()
	all := e.flights[f.key]
	all.running--
	if all.waiting != nil {
		select {
		case <-all.waiting.ready: // another flight ended before
		default:
			close(all.waiting.ready)
		}
	} else if all.running == 0 {
		delete(e.flights, f.key)
	}
	unwanted := f.passengers == 0
	close(f.done)
	e.mu.Unlock()
	if unwanted {
		f.close()
	}
}

// leave removes a query from its flight, and cancels the flight if no query is left.
func (e *Engine) leave(f *flight) {
	e.mu.Lock()
	f.passengers--
	last, ended := f.passengers == 0, f.ended()
	e.mu.Unlock()
	if !last {
		return
	}
	f.cancel(context.Canceled)
	if ended {
		f.close()
	}
}

// close releases the result and its memory.
func (f *flight) close() {
	f.cancel(nil)
	f.query.Close()
	f.holding.Close()
}
