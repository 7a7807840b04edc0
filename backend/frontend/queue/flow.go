package queue

import (
	"container/heap"
	"container/list"
	"slices"

	"github.com/palliumhq/pallium/authn/tenant"
)

// owner is a tenant and its jobs in the queue.
type owner struct {
	id      tenant.ID
	jobs    int // waiting or running
	running int // over all classes
	flows   [classes]flow
}

// flow is the jobs of one tenant and class.
type flow struct {
	account
	lines   []line // none is empty
	waiting int    // jobs of all lines
	running int
	place   int // index in the class's heap plus 1; 0 = not in it
}

// line is the waiting jobs of a flow with the same Avoid, in the order in which they were pushed.
// With one line for each querier to avoid, the search for a job is short even if many jobs avoid
// the same querier.
type line struct {
	avoid string
	jobs  *list.List
}

// add inserts a job into its line by its number: a job that is put back may belong before others.
func (f *flow) add(j *Job) {
	i := slices.IndexFunc(f.lines, func(l line) bool { return l.avoid == j.Avoid })
	if i < 0 {
		i = len(f.lines)
		f.lines = append(f.lines, line{avoid: j.Avoid, jobs: list.New()})
	}
	jobs := f.lines[i].jobs
	f.waiting++
	at := jobs.Back()
	for at != nil && at.Value.(*Job).number > j.number {
		at = at.Prev()
	}
	if at == nil {
		j.element = jobs.PushFront(j)
		return
	}
	j.element = jobs.InsertAfter(j, at)
}

// remove removes a job from its line.
func (f *flow) remove(j *Job) {
	i := slices.IndexFunc(f.lines, func(l line) bool { return l.avoid == j.Avoid })
	f.lines[i].jobs.Remove(j.element)
	j.element = nil
	f.waiting--
	if f.lines[i].jobs.Len() == 0 {
		f.lines = slices.Delete(f.lines, i, i+1)
	}
}

// first returns the oldest job that may be run by a querier, or nil. The argument `avoid` is
// the querier, or "" if the querier may run every job.
func (f *flow) first(avoid string) *Job {
	var oldest *Job
	for _, l := range f.lines {
		if avoid != "" && l.avoid == avoid {
			continue
		}
		if j := l.jobs.Front().Value.(*Job); oldest == nil || j.number < oldest.number {
			oldest = j
		}
	}
	return oldest
}

// class is the queue of one class of jobs.
type class struct {
	account        // among the classes
	level    level // of its flows
	weight   float64
	flows    flows // that have a job and may run one now
	waiting  int   // jobs, including those of tenants that may not run one
	running  int
	able     bool // has a flow in the heap, and is below its limit
	observer observer
}

// top returns the account of the flow that is served next, or nil.
func (c *class) top() *account {
	if len(c.flows) == 0 {
		return nil
	}
	return &c.flows[0].account
}

// next returns the flow that is served next and its job, or nil; for `avoid`, see flow.first. The
// search goes beyond the first flow only if the querier may run none of its jobs.
func (c *class) next(avoid string) (*flow, *Job) {
	var best *flow
	var job *Job
	for i, f := range c.flows {
		if best != nil && !f.before(&best.account) {
			continue
		}
		j := f.first(avoid)
		if j == nil {
			continue
		}
		best, job = f, j
		if i == 0 {
			break
		}
	}
	return best, job
}

// arrange adds a flow to the heap, moves it to its position, or removes it.
func (c *class) arrange(f *flow, mayRun bool) {
	switch in := mayRun && f.waiting > 0; {
	case in && f.place == 0:
		f.unblock(&c.level)
		heap.Push(&c.flows, f)
	case in:
		heap.Fix(&c.flows, f.place-1)
	case f.place > 0:
		f.block(&c.level)
		heap.Remove(&c.flows, f.place-1)
	}
}

// flows is a heap by accounts.
type flows []*flow

func (h flows) Len() int           { return len(h) }
func (h flows) Less(i, j int) bool { return h[i].before(&h[j].account) }
func (h flows) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i+1, j+1
}

// Push implements heap.Interface.
func (h *flows) Push(x any) {
	f := x.(*flow)
	*h = append(*h, f)
	f.place = len(*h)
}

// Pop implements heap.Interface.
func (h *flows) Pop() any {
	last := len(*h) - 1
	f := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	f.place = 0
	return f
}
