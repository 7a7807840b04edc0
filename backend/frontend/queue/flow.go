package queue

import (
	"container/heap"
	"container/list"
	"slices"

	"github.com/palliumhq/pallium/authn/tenant"
)

// owner is what the queue has of one tenant.
type owner struct {
	id      tenant.ID
	jobs    int // that wait or run
	running int // over all classes
	flows   [classes]flow
}

// flow is the waiting jobs of one tenant and class.
type flow struct {
	account
	lines   []line // none is empty
	waiting int    // jobs of all lines
	running int
	place   int // in the class's heap plus 1; 0 = not in it
}

// line is the jobs of a flow that must not be run by one querier, in the order in
// which they were pushed. One line for each querier keeps the search for a job short
// if many must not be run by the same.
type line struct {
	avoid string
	jobs  *list.List
}

// add puts a job into its line, by its number: a job that is put back may be before
// others.
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

// remove takes a job out of its line.
func (f *flow) remove(j *Job) {
	i := slices.IndexFunc(f.lines, func(l line) bool { return l.avoid == j.Avoid })
	f.lines[i].jobs.Remove(j.element)
	j.element = nil
	f.waiting--
	if f.lines[i].jobs.Len() == 0 {
		f.lines = slices.Delete(f.lines, i, i+1)
	}
}

// first returns the oldest job that may be run by a querier, or nil. avoid is the
// querier, or "" if it may run every job.
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
	flows    flows // those that have a job and may run one now
	waiting  int   // jobs, with those of tenants that may not run one
	running  int
	able     bool // to be served: it has a flow in the heap, and is below its limit
	observer observer
}

// top returns the account of the flow that is served next, or nil.
func (c *class) top() *account {
	if len(c.flows) == 0 {
		return nil
	}
	return &c.flows[0].account
}

// next returns the flow that is served next by a querier and its job, or nil. The
// search beyond the first flow is needed only if all its jobs must not be run by the
// querier.
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

// arrange puts a flow where its key belongs, or out of the heap.
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
