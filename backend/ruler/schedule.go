package ruler

import (
	"container/heap"
	"context"
	"slices"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
)

// schedule decides which group is evaluated next. Groups wait in a heap until they are due,
// and then in a queue of their tenant. Tenants take turns, and no tenant has more than its
// part of the concurrent evaluations. At most half of them are takeovers. Ruler.mu protects it.
type schedule struct {
	waiting dueHeap
	turns   []*rulerTenant // tenants with queued groups
	active  int            // evaluations in progress
	taking  int            // takeovers among the evaluations in progress
	// delayed is the time until which evaluations may have been delayed by a takeover or by the lack of a lease. If the
	// first slot that a group has not evaluated is before this time, the slots are evaluated late instead of being missed.
	delayed time.Time
}

// rulerTenant is a tenant with rules.
type rulerTenant struct {
	id      tenant.ID
	version string
	loaded  bool
	defs    []*definition
	groups  map[string]*group
	ghosts  map[*group]bool // deleted groups whose series have no staleness markers yet
	ready   queue
	queued  bool // in schedule.turns
	active  int
	taking  int
}

// queue contains the groups of a tenant that are due.
type queue struct{ known, takeovers []*group }

func (q *queue) len() int { return len(q.known) + len(q.takeovers) }

func (q *queue) push(g *group) {
	if g.takeover != nil {
		q.takeovers = append(q.takeovers, g)
		return
	}
	q.known = append(q.known, g)
}

// pop removes and returns the next group, or nil if there is none. It returns takeovers, before other groups, only if
// `takeover` is set.
func (q *queue) pop(takeover bool) *group {
	list := &q.known
	if takeover && len(q.takeovers) > 0 {
		list = &q.takeovers
	}
	if len(*list) == 0 {
		return nil
	}
	g := (*list)[0]
	*list = (*list)[1:]
	return g
}

func (q *queue) remove(g *group) {
	is := func(other *group) bool { return other == g }
	q.known, q.takeovers = slices.DeleteFunc(q.known, is), slices.DeleteFunc(q.takeovers, is)
}

// all returns the groups and ghosts of a tenant.
func (t *rulerTenant) all() []*group {
	out := make([]*group, 0, len(t.groups)+len(t.ghosts))
	for _, g := range t.groups {
		out = append(out, g)
	}
	for g := range t.ghosts {
		out = append(out, g)
	}
	return out
}

// dueHeap contains the groups that are not due yet, the earliest first.
type dueHeap []*group

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) {
	g := x.(*group)
	g.place = len(*h)
	*h = append(*h, g)
}

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	old := *h
	g := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	g.place = -1
	return g
}

// plan sets the time at which a group that is not running is due, and its place in the heap. A group that is queued for
// evaluation is not in the heap. r.mu is locked.
func (r *Ruler) plan(g *group, due time.Time) {
	g.due = due
	switch {
	case g.queued:
	case g.place >= 0:
		heap.Fix(&r.schedule.waiting, g.place)
	default:
		heap.Push(&r.schedule.waiting, g)
	}
}

// unplan removes a group from the schedule. r.mu is locked.
func (r *Ruler) unplan(t *rulerTenant, g *group) {
	if g.place >= 0 {
		heap.Remove(&r.schedule.waiting, g.place)
	}
	if g.queued {
		g.queued = false
		t.ready.remove(g)
	}
}

// dispatch starts evaluations of groups that are due. r.mu is locked.
func (r *Ruler) dispatch() {
	if r.stopping {
		return
	}
	s := &r.schedule
	now := r.opts.Now()
	for len(s.waiting) > 0 && !s.waiting[0].due.After(now) {
		g := heap.Pop(&s.waiting).(*group)
		g.queued = true
		t := g.tenant
		t.ready.push(g)
		if !t.queued {
			t.queued = true
			s.turns = append(s.turns, t)
		}
	}
	var kept []*rulerTenant // tenants that have reached their limits
	for len(s.turns) > 0 && s.active < r.opts.Concurrency {
		t := s.turns[0]
		s.turns = s.turns[1:]
		if t.ready.len() == 0 {
			t.queued = false
			continue
		}
		most := r.opts.Concurrency
		if own := r.opts.Bounds(t.id).Concurrent; own > 0 {
			most = min(most, own)
		}
		var g *group
		if t.active < most {
			g = t.ready.pop(s.taking < half(r.opts.Concurrency) && t.taking < half(most))
		}
		if g == nil {
			kept = append(kept, t)
			continue
		}
		s.turns = append(s.turns, t)
		r.start(t, g, now)
	}
	s.turns = append(kept, s.turns...)
}

// half returns the number of evaluations, of n, that may be takeovers.
func half(n int) int { return max(1, n/2) }

// start begins the evaluation of a group. r.mu is locked.
func (r *Ruler) start(t *rulerTenant, g *group, now time.Time) {
	g.queued, g.running = false, true
	r.schedule.active++
	t.active++
	hold := r.held[g.share]
	hold.running++
	run := run{hold: hold, takeover: g.takeover != nil, first: g.deleted, last: g.deleted}
	if run.takeover {
		r.schedule.taking++
		t.taking++
	}
	if !g.ghost() {
		run.first, run.last = r.slots(g, now)
		r.count(g, run, now)
	}
	ctx, cancel := context.WithCancel(r.evaluators.Context())
	g.cancel = cancel
	r.evaluators.Go(func(context.Context) {
		run.last, run.again = r.evaluate(ctx, g, run.first, run.last)
		cancel()
		r.finish(t, g, run)
	})
}

// run is an evaluation of a group at one or several slots.
type run struct {
	hold        *heldShare
	takeover    bool
	first, last time.Time
	// again is the time after which the last slot must be retried; zero means that it is not retried.
	again time.Duration
}

// slots returns the first and the last slot that a group evaluates now. They differ if slots passed while the group
// waited for takeovers or for a lease. r.mu is locked.
func (r *Ruler) slots(g *group, now time.Time) (first, slot time.Time) {
	slot = g.slot(now)
	next := g.last.Add(g.interval)
	if g.takeover != nil || g.last.IsZero() || !next.Before(slot) || slot.Sub(next)%g.interval != 0 { // the alignment was changed
		return slot, slot
	}
	if r.schedule.taking == 0 && next.After(r.schedule.delayed) {
		return slot, slot
	}
	if earliest := slot.Add(-maxLate * g.interval); next.Before(earliest) {
		return earliest, slot
	}
	return next, slot
}

// count updates the metrics of due evaluations. r.mu is locked.
func (r *Ruler) count(g *group, run run, now time.Time) {
	if run.last.Equal(g.counted) {
		return // the slot is retried
	}
	due := 1
	if counted := later(g.counted, g.last); !counted.IsZero() {
		due = max(1, int(run.last.Sub(counted)/g.interval))
	}
	g.counted = run.last
	r.metrics.due.Add(float64(due))
	if missed := run.first.Sub(later(g.last, g.missed))/g.interval - 1; !g.last.IsZero() && missed > 0 {
		r.metrics.missed.Add(float64(missed))
		g.missed = run.first.Add(-g.interval)
	}
	if run.takeover {
		return
	}
	r.metrics.delay.Observe(now.Sub(run.first).Seconds())
	if now.Sub(run.first) > g.interval/4 {
		r.metrics.late.Inc()
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// finish ends an evaluation.
func (r *Ruler) finish(t *rulerTenant, g *group, run run) {
	r.mu.Lock()
	defer r.mu.Unlock()
	hold, again := run.hold, run.again
	if run.takeover {
		r.schedule.taking--
		t.taking--
	}
	if run.takeover || again > 0 && !g.ghost() {
		r.schedule.delayed = r.opts.Now()
	}
	g.running = false
	r.schedule.active--
	t.active--
	hold.running--
	if hold.leaving && hold.running == 0 {
		hold.end()
	}
	switch {
	case g.dropped:
		r.forget(g)
	case g.ghost() && again == 0:
		delete(t.ghosts, g)
		r.forget(g)
	case g.ghost():
		r.plan(g, r.opts.Now().Add(again))
	case g.removed:
		r.bury(t, g)
	case again > 0:
		r.adopt(g)
		if g.evaluated() {
			r.plan(g, r.opts.Now().Add(again))
		}
	default:
		g.last = run.last
		r.adopt(g)
		if g.evaluated() {
			r.plan(g, g.nextDue(r.opts.Now()))
		}
	}
	r.dispatch()
	r.signal()
}

// scheduleLoop starts evaluations when they are due.
func (r *Ruler) scheduleLoop(ctx context.Context) {
	const most = time.Minute // the longest sleep, because the wall clock may be changed
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-r.wake:
		}
		r.mu.Lock()
		r.dispatch()
		wait := most
		if w := r.schedule.waiting; len(w) > 0 {
			wait = min(most, max(0, w[0].due.Sub(r.opts.Now())))
		}
		r.mu.Unlock()
		timer.Reset(wait)
	}
}
