package ruler

import (
	"container/heap"
	"context"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
)

// schedule decides which group is evaluated next. Groups wait in a heap until they are due,
// and then in a queue of their tenant. Tenants take turns, and none has more than its share of
// the evaluations in progress. Ruler.mu protects it.
type schedule struct {
	waiting dueHeap
	turns   []*rulerTenant // tenants with groups in ready
	active  int            // evaluations in progress
}

// rulerTenant is a tenant with rules.
type rulerTenant struct {
	id      tenant.ID
	version string
	loaded  bool
	defs    []*definition
	groups  map[string]*group
	ghosts  map[*group]bool // deleted groups whose series have no staleness markers yet
	ready   []*group
	queued  bool // in schedule.turns
	active  int
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

// dueHeap has the groups that are not due, the earliest first.
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

// plan puts a group that is not running into the heap, or takes it out if it is not evaluated.
// r.mu is locked.
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
		for i := range t.ready {
			if t.ready[i] == g {
				t.ready = append(t.ready[:i], t.ready[i+1:]...)
				break
			}
		}
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
		t.ready = append(t.ready, g)
		if !t.queued {
			t.queued = true
			s.turns = append(s.turns, t)
		}
	}
	var kept []*rulerTenant // at their limits
	for len(s.turns) > 0 && s.active < r.opts.Concurrency {
		t := s.turns[0]
		s.turns = s.turns[1:]
		if len(t.ready) == 0 {
			t.queued = false
			continue
		}
		if most := r.opts.Bounds(t.id).Concurrent; most > 0 && t.active >= most {
			kept = append(kept, t)
			continue
		}
		g := t.ready[0]
		t.ready = t.ready[1:]
		s.turns = append(s.turns, t)
		r.start(t, g, now)
	}
	s.turns = append(kept, s.turns...)
}

// start begins the evaluation of a group. r.mu is locked.
func (r *Ruler) start(t *rulerTenant, g *group, now time.Time) {
	g.queued, g.running = false, true
	r.schedule.active++
	t.active++
	hold := r.held[g.share]
	hold.running++
	slot := g.deleted
	if !g.ghost() {
		slot = g.slot(now)
		r.count(g, slot, now)
	}
	ctx, cancel := context.WithCancel(r.evaluators.Context())
	g.cancel = cancel
	r.evaluators.Go(func(context.Context) {
		last, again := r.evaluate(ctx, g, slot)
		cancel()
		r.finish(t, g, hold, last, again)
	})
}

// count updates the metrics of due evaluations. r.mu is locked.
func (r *Ruler) count(g *group, slot, now time.Time) {
	if slot.Equal(g.counted) {
		return // tried again
	}
	g.counted = slot
	r.metrics.due.Inc()
	if missed := slot.Sub(g.last)/g.interval - 1; !g.last.IsZero() && missed > 0 {
		r.metrics.due.Add(float64(missed))
		r.metrics.missed.Add(float64(missed))
	}
	if g.takeover != nil {
		return
	}
	r.metrics.delay.Observe(now.Sub(slot).Seconds())
	if now.Sub(slot) > g.interval/4 {
		r.metrics.late.Inc()
	}
}

// finish ends an evaluation. `again` is when the same slot has to be tried again; zero means at
// the next slot.
func (r *Ruler) finish(t *rulerTenant, g *group, hold *heldShare, slot time.Time, again time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
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
		g.last = slot
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
	const most = time.Minute // the wall clock may be set
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
