// Package queue is the fair queue of a query frontend: evaluations wait in it for the
// workers of queriers.
//
// Tenants share the workers by samples read, not by number of queries. Within a class
// the tenant that has read the fewest samples since it came is served next; a job is
// charged its estimated cost when it is taken, and the difference to the actual cost
// when it is done. A tenant that comes starts where the others are: without credit for
// the time when it was not there, with a debt of at most MaxDebt samples. So two
// tenants that both wait differ by one job for each worker, plus the errors of the
// estimates of those that are running.
//
// Classes share the workers in the same way, by weight: range queries 2, instant
// queries 1, rule queries 1. If all of them wait all the time, range queries read half
// of the samples. Two limits keep workers free for who comes next: range queries never
// hold the last worker (if there are two or more), and one tenant never holds more
// than MaxShare of them, nor, with range queries, the last one that range queries may
// hold (if they may hold two or more), nor the last one that the tenant may hold (if it
// may hold two or more), even when nobody else waits. Only a tenant that has been alone
// for Options.Alone is not limited by its share.
//
// A job that waits is given to the worker that has waited longest among those that
// may run it. Every operation costs at most O(log n) in tenants, except that a change
// of the workers costs O(tenants), and so may a job whose Avoid excludes the querier.
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

// Class separates kinds of queries so that none waits behind long ones of another kind.
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

// weights are the shares of classes that all have jobs waiting.
var weights = [classes]float64{Range: 2, Instant: 1, Rule: 1}

// Job is one evaluation that waits for, or is run by, a worker. Its fields must not be
// changed between Push and Done. After Done or Remove it can be pushed again.
type Job struct {
	Tenant tenant.ID
	Class  Class
	Cost   int64  // estimated samples to be read; less than MinCost counts as MinCost
	Avoid  string // querier that must not run it, unless it is the only one connected; "" = none
	Value  any    // the caller's

	state   state
	owner   *owner
	element *list.Element // in its line while it waits
	number  uint64        // order of arrival
	pushed  time.Time
	charged float64   // samples
	active  [2]uint64 // of the accounts of the flow and the class when they were charged
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
	// Alone is how long no other tenant may have had a job before a tenant is not limited
	// by MaxShare; 0 or less means that it always is.
	Alone      time.Duration
	Now        func() time.Time
	Registerer prometheus.Registerer
}

// MinCost is the smallest cost of a job in samples: a query that reads nothing keeps a
// worker busy, too.
const MinCost = 1000

// DefaultMaxShare is the share of all workers that one tenant may hold.
const DefaultMaxShare = 0.75

// Queue is a fair queue of jobs. It is safe for concurrent use.
type Queue struct {
	o       Options
	metrics metrics

	mu       sync.Mutex
	queriers map[string]int // workers of each querier that has some
	workers  int
	emptied  time.Time  // when the last worker left, if there is none
	takers   *list.List // of *taker, FIFO
	classes  [classes]class
	level    level // of the classes
	owners   map[tenant.ID]*owner
	busy     map[*owner]struct{} // those with a job
	sweepAt  int                 // number of owners at which the idle ones are removed
	events   uint64              // numbers jobs and turns
	// latest is the last tenant with a job that came or ended, other the last one before it
	// that is not the same.
	latest, other activity
}

// activity is the last time when a job of a tenant came or ended.
type activity struct {
	tenant tenant.ID // "": there was none
	at     time.Time
}

// taker is a Take that waits.
type taker struct {
	querier string
	job     chan *Job     // with room for one
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

// AddWorkers adds n workers of a querier, a name or "" for the local process. remove
// undoes it, once. Jobs that the workers are running stay theirs until Done.
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

// Without returns how long there has been no worker; 0 if there is one.
func (q *Queue) Without() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.workers > 0 {
		return 0
	}
	return q.o.Now().Sub(q.emptied)
}

// Push adds a job. It never blocks and never rejects: the number of a tenant's queries
// is limited before, by querier.Gate. Pushing a job that is in the queue or being run
// is a mistake in the program, and panics.
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

// Remove removes a job that still waits, and reports whether it did. It did not if a
// Take has the job.
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

// Take waits until there is a job for a worker of the querier, which must call Done
// for it. It returns the cause of ctx's end. A querier whose workers were not added, or
// were removed, gets no job.
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

// giveUp ends a Take that waits. If it got a job at the same moment the job waits
// again, where it was.
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

// Done ends a job that was taken: it frees the tenant's worker, and corrects the
// accounts by the actual cost in samples read; if it is negative, it is unknown and
// the estimate is used. Done of a job that is not being run has no effect.
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
