// Package queue is the fair queue of a query frontend: evaluations wait in it for the
// workers of queriers.
//
// Tenants share the workers by samples read, not by number of queries. Within a class, the tenant
// that has read the fewest samples since its first waiting job is served next. A job is charged its
// estimated cost when it is taken, and the difference to the actual cost when it is done. A tenant
// that becomes active starts at the level of the others: without credit for the time before, with a
// debt of at most MaxDebt samples. So two tenants that both wait differ by at most one job for each
// worker, plus the errors of the estimates of running jobs.
//
// Classes share the workers in the same way, by weight: range queries 2, instant queries 1, rule
// queries 1. If jobs of all classes wait all the time, range queries read half of the samples.
// Limits keep workers free for new jobs, even when nothing else waits. Range queries never hold the
// last worker (if there are two or more). One tenant never holds more than MaxShare of the workers,
// except a single worker. Its range queries never hold the last worker that range queries may hold,
// nor the last one that the tenant may hold (if these are two or more). A tenant that has been alone
// for Options.Alone is limited only by the first rule.
//
// A waiting job is given to the worker that has waited longest among those that may run it. Every
// operation costs at most O(log n) in the number of tenants, with two exceptions that cost O(n): a
// change of the workers, and a job whose Avoid excludes the querier.
package queue

import (
	"container/list"
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/tenant"
)

// Class separates kinds of queries, so that queries of one kind do not wait for long queries of another.
type Class int

// The classes.
const (
	Range Class = iota
	Instant
	Rule
	classes = iota
)

func (c Class) String() string {
	switch c {
	case Range:
		return "range"
	case Instant:
		return "instant"
	case Rule:
		return "rule"
	}
	return "Class(" + strconv.Itoa(int(c)) + ")"
}

// weights are the relative shares of the classes while all have waiting jobs.
var weights = [classes]float64{Range: 2, Instant: 1, Rule: 1}

// Job is one evaluation that waits for, or is run by, a worker. Its fields must not be
// changed between Push and Done. After Done or Remove it can be pushed again.
type Job struct {
	Tenant tenant.ID
	Class  Class
	Cost   int64  // estimated samples to be read; less than MinCost counts as MinCost
	Avoid  string // querier that must not run the job, unless it is the only one connected; "" = none
	Value  any    // not used by the queue

	state   state
	owner   *owner
	element *list.Element // in its line while it waits
	number  uint64        // order of arrival
	pushed  time.Time
	charged float64   // samples
	active  [2]uint64 // field active of the accounts of the flow and the class when they were charged
}

type state int

const (
	outside state = iota
	waiting
	running
)

// Options configure a Queue.
type Options struct {
	// MaxShare is the share of all workers that one tenant may hold, rounded down, but
	// always at least one. 0 or less means DefaultMaxShare, 1 or more no limit.
	MaxShare float64
	// Alone is the time for which no other tenant must have had a job before MaxShare no longer
	// limits a tenant; 0 or less: MaxShare always limits it.
	Alone      time.Duration
	Now        func() time.Time
	Registerer prometheus.Registerer
}

// MinCost is the smallest cost of a job in samples: a query that reads nothing occupies a worker,
// too.
const MinCost = 1000

// DefaultMaxShare is the default of Options.MaxShare.
const DefaultMaxShare = 0.75

// Queue is a fair queue of jobs. It is safe for concurrent use.
type Queue struct {
	o       Options
	metrics metrics

	mu       sync.Mutex
	queriers map[string]int // workers of each querier that has some
	workers  int
	emptied  time.Time  // when the last worker left; meaningful only if there is no worker
	takers   *list.List // of *taker, FIFO
	classes  [classes]class
	level    level // of the classes
	owners   map[tenant.ID]*owner
	busy     map[*owner]struct{} // with a waiting or running job
	sweepAt  int                 // number of owners at which the idle ones are removed
	events   uint64              // numbers jobs and turns
	// latest is the tenant whose job arrived or ended last. other is the tenant for which this
	// happened last, apart from the tenant of latest.
	latest, other activity
}

// activity is the last time when a job of a tenant arrived or ended.
type activity struct {
	tenant tenant.ID // "": no activity yet
	at     time.Time
}

// taker is a waiting call of Take.
type taker struct {
	querier string
	job     chan *Job     // buffer of one
	place   *list.Element // in the queue's takers
}

// New returns an empty Queue without workers.
func New(o Options) *Queue {
	if o.MaxShare <= 0 {
		o.MaxShare = DefaultMaxShare
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	q := &Queue{
		o: o, queriers: map[string]int{}, takers: list.New(), owners: map[tenant.ID]*owner{}, busy: map[*owner]struct{}{}, sweepAt: minSweep,
	}
	q.emptied = o.Now()
	q.metrics = newMetrics(o.Registerer)
	for c := range Class(classes) {
		q.classes[c].weight = weights[c]
		q.classes[c].observer = q.metrics.class(c)
	}
	return q
}

// AddWorkers adds n workers of a querier; "" is the local process. The function `remove` removes them
// (further calls have no effect). Jobs that the workers are running stay running until Done.
func (q *Queue) AddWorkers(querier string, n int) (remove func()) {
	q.changeWorkers(querier, n)
	return sync.OnceFunc(func() { q.changeWorkers(querier, -n) })
}

func (q *Queue) changeWorkers(querier string, n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.workers += n
	if q.workers == 0 {
		q.emptied = q.o.Now()
	}
	q.metrics.workers.Set(float64(q.workers))
	if q.queriers[querier] += n; q.queriers[querier] <= 0 {
		delete(q.queriers, querier)
	}
	for _, o := range q.owners {
		q.arrange(o)
	}
	q.dispatch()
}

// Workers returns the number of workers of all queriers.
func (q *Queue) Workers() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.workers
}

// Without returns the time since the last worker left, or since New; 0 if there is a worker.
func (q *Queue) Without() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.workers > 0 {
		return 0
	}
	return q.o.Now().Sub(q.emptied)
}

// Push adds a job. It never blocks and never rejects a job: querier.Gate limits the number of a
// tenant's queries before. Push panics if the job is waiting or running already.
func (q *Queue) Push(j *Job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if j.state != outside {
		panic("queue: Push of a job that is waiting or running")
	}
	j.pushed = q.o.Now()
	j.number = q.event()
	o := q.owners[j.Tenant]
	if o == nil {
		q.sweep()
		o = &owner{id: j.Tenant}
		q.owners[j.Tenant] = o
	}
	j.owner = o
	q.noteActivity(o, j.pushed)
	q.begin(o)
	q.wait(j)
	q.dispatch()
}

// Remove removes a job that still waits, and reports whether it did. It returns false if a call of
// Take got the job.
func (q *Queue) Remove(j *Job) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if j.state != waiting {
		return false
	}
	q.unlink(j)
	q.end(j)
	return true
}

// Take waits for a job for a worker of the querier, and returns the job. The caller must call Done
// for it. When ctx ends, Take returns the cause. A querier whose workers were not added, or were
// removed, gets no job.
func (q *Queue) Take(ctx context.Context, querier string) (*Job, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	t := &taker{querier: querier, job: make(chan *Job, 1)}
	q.mu.Lock()
	t.place = q.takers.PushBack(t)
	q.dispatch()
	q.mu.Unlock()
	select {
	case j := <-t.job:
		q.classes[j.Class].observer.wait.Observe(q.o.Now().Sub(j.pushed).Seconds())
		return j, nil
	case <-ctx.Done():
		q.giveUp(t)
		return nil, context.Cause(ctx)
	}
}

// giveUp ends a waiting Take. If it got a job at the same moment, the job waits again at its old
// position.
func (q *Queue) giveUp(t *taker) {
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case j := <-t.job:
		q.release(j, 0)
		q.wait(j)
		q.dispatch()
	default:
		q.takers.Remove(t.place)
	}
}

// Done ends a job that was taken: it frees the worker, and corrects the accounts by the actual cost
// in samples read. A negative cost is unknown; the estimate then remains. Done of a job that is not
// running has no effect.
func (q *Queue) Done(j *Job, actual int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if j.state != running {
		return
	}
	cost := float64(max(actual, MinCost))
	if actual < 0 {
		cost = j.charged
	}
	q.release(j, cost)
	q.end(j)
	q.dispatch()
}
