package queue

import (
	"container/list"
	"maps"
	"slices"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
)

// All functions of this file are called with q.mu held.

// event returns the next number of an event; numbers order jobs and turns.
func (q *Queue) event() uint64 {
	q.events++
	return q.events
}

// wait adds a job to the queue.
func (q *Queue) wait(j *Job) {
	c, f := &q.classes[j.Class], &j.owner.flows[j.Class]
	if c.waiting == 0 {
		c.activate(&q.level, q.firstClass(), q.event())
	}
	if f.waiting == 0 {
		f.activate(&c.level, c.top(), q.event())
	}
	c.waiting++
	c.observer.jobs.Inc()
	f.add(j)
	j.state = waiting
	q.arrange(j.owner)
}

// unlink removes a job from the queue.
func (q *Queue) unlink(j *Job) {
	c := &q.classes[j.Class]
	c.waiting--
	c.observer.jobs.Dec()
	j.owner.flows[j.Class].remove(j)
}

// firstClass returns the account of the class with waiting jobs that is served next,
// or nil.
func (q *Queue) firstClass() *account {
	var first *account
	for i := range q.classes {
		if c := &q.classes[i]; c.waiting > 0 && (first == nil || c.before(first)) {
			first = &c.account
		}
	}
	return first
}

// arrange adds a tenant to the classes' heaps or removes it, after a change of its jobs or of the workers.
func (q *Queue) arrange(o *owner) {
	most, mostRange := q.mostOfTenant(o)
	for c := range q.classes {
		f := &o.flows[c]
		q.classes[c].arrange(f, o.running < most && (Class(c) != Range || f.running < mostRange))
	}
}

// begin records that a tenant has one more job.
func (q *Queue) begin(o *owner) {
	if o.jobs++; o.jobs > 1 {
		return
	}
	q.busy[o] = struct{}{}
	if len(q.busy) == 2 { // the other tenant may have been alone, and without a limit
		for other := range q.busy {
			q.arrange(other)
		}
	}
}

// end records that a job neither waits nor runs any more.
func (q *Queue) end(j *Job) {
	o := j.owner
	j.state, j.owner = outside, nil
	if o.jobs--; o.jobs == 0 {
		delete(q.busy, o)
	}
	q.noteActivity(o, q.o.Now())
	q.arrange(o)
}

// noteActivity records that a job of a tenant arrived or ended.
func (q *Queue) noteActivity(o *owner, now time.Time) {
	if q.latest.tenant != o.id {
		q.other = q.latest
	}
	q.latest = activity{o.id, now}
}

// alone reports whether no tenant but o has a job, or had one within Options.Alone.
func (q *Queue) alone(o *owner) bool {
	others := len(q.busy)
	if o.jobs > 0 {
		others--
	}
	last := q.latest
	if last.tenant == o.id {
		last = q.other
	}
	return q.o.Alone > 0 && others == 0 && (last.tenant == "" || q.o.Now().Sub(last.at) >= q.o.Alone)
}

// mostOfTenant returns how many workers a tenant may hold, and how many of them with range queries.
// If there are enough workers, the range queries of all tenants leave one to other queries (see
// mayRun), and those of one tenant leave another one to the range queries of other tenants. And of
// the workers that the tenant may hold, they leave one to its instant and rule queries.
func (q *Queue) mostOfTenant(o *owner) (all, ranges int) {
	if q.o.MaxShare >= 1 || q.alone(o) {
		return max(q.workers, 1), max(q.workers, 1)
	}
	const rounding = 1e-9 // 0.29 * 100 is a little less than 29
	all = max(1, int(q.o.MaxShare*float64(q.workers)+rounding))
	return all, max(1, min(all-1, q.workers-2))
}

// mayRun reports whether one more job of a class may run.
func (q *Queue) mayRun(c Class) bool {
	return c != Range || q.workers < 2 || q.classes[Range].running < q.workers-1
}

// dispatch gives jobs to waiting calls of Take that may run them.
func (q *Queue) dispatch() {
	// A querier for which there is no job now gets none later in this loop: each job that another
	// querier takes only reduces what may run.
	var none []string
	var following *list.Element
	for e := q.takers.Front(); e != nil && q.anyRunnable(); e = following {
		following = e.Next()
		t := e.Value.(*taker)
		if slices.Contains(none, t.querier) {
			continue
		}
		f, j := q.next(t.querier)
		if j == nil {
			none = append(none, t.querier)
			continue
		}
		q.takers.Remove(e)
		q.give(f, j)
		t.job <- j
	}
	q.anyRunnable() // records the limits that were reached
}

// anyRunnable reports whether any job may run now. It blocks the account of a class of which no
// job may run, and unblocks it afterwards.
func (q *Queue) anyRunnable() bool {
	any := false
	for i := range q.classes {
		c := &q.classes[i]
		able := len(c.flows) > 0 && q.mayRun(Class(i))
		switch {
		case able && !c.able:
			c.unblock(&q.level)
		case !able && c.able:
			c.block(&q.level)
		}
		c.able = able
		any = any || able
	}
	return any
}

// next returns the job that a querier runs next, or nil. A querier without workers, which
// may have gone, gets none.
func (q *Queue) next(querier string) (*flow, *Job) {
	if q.queriers[querier] == 0 {
		return nil, nil
	}
	avoid := querier
	if len(q.queriers) == 1 {
		avoid = ""
	}
	var first *class
	var best *flow
	var job *Job
	for i := range q.classes {
		c := &q.classes[i]
		if !q.mayRun(Class(i)) || first != nil && !c.before(&first.account) {
			continue
		}
		if f, j := c.next(avoid); j != nil {
			first, best, job = c, f, j
		}
	}
	return best, job
}

// give charges a job and moves it from waiting to running.
func (q *Queue) give(f *flow, j *Job) {
	c := &q.classes[j.Class]
	j.charged = float64(max(j.Cost, MinCost))
	j.active = [...]uint64{f.active, c.active}
	turn := q.event()
	q.level.serve(&c.account)
	c.charge(j.charged/c.weight, turn)
	c.level.serve(&f.account)
	f.charge(j.charged, turn)
	q.unlink(j)
	j.state = running
	j.owner.running++
	f.running++
	c.running++
	c.observer.running.Inc()
	q.arrange(j.owner)
}

// release undoes give, except that the job is charged its actual cost.
func (q *Queue) release(j *Job, cost float64) {
	c, f := &q.classes[j.Class], &j.owner.flows[j.Class]
	difference := cost - j.charged
	f.correct(j.active[0], difference)
	c.correct(j.active[1], difference/c.weight)
	j.owner.running--
	f.running--
	c.running--
	c.observer.running.Dec()
}

// minSweep is the number of tenants below which idle ones are not removed.
const minSweep = 1024

// sweep removes the tenants without jobs, with their debts, when the number of tenants has doubled.
// That costs O(1) per new tenant.
func (q *Queue) sweep() {
	if len(q.owners) < q.sweepAt {
		return
	}
	maps.DeleteFunc(q.owners, func(_ tenant.ID, o *owner) bool { return o.jobs == 0 })
	q.sweepAt = max(minSweep, 2*len(q.owners))
}
