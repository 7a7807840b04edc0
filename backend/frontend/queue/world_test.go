package queue

import (
	"container/heap"
	"context"
	"fmt"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
)

// ask begins a Take without blocking: the taker's channel receives the job.
func (q *Queue) ask(querier string) *taker {
	t := &taker{querier: querier, job: make(chan *Job, 1)}
	q.mu.Lock()
	defer q.mu.Unlock()
	t.place = q.takers.PushBack(t)
	q.dispatch()
	return t
}

// try returns the job that a querier gets now, or nil.
func (q *Queue) try(querier string) *Job {
	t := q.ask(querier)
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case j := <-t.job:
		return j
	default:
	}
	q.takers.Remove(t.place)
	return nil
}

// newQueue returns a queue with workers of one querier "q".
func newQueue(t testing.TB, workers int, o Options) *Queue {
	t.Helper()
	q := New(o)
	if workers > 0 {
		q.AddWorkers("q", workers)
	}
	return q
}

// push pushes n jobs of one tenant. The values of tenant a's jobs are a0, a1, and so on.
func push(q *Queue, id tenant.ID, c Class, n int, cost int64) []*Job {
	var jobs []*Job
	for i := range n {
		j := &Job{Tenant: id, Class: c, Cost: cost, Value: fmt.Sprint(id, i)}
		q.Push(j)
		jobs = append(jobs, j)
	}
	return jobs
}

// names returns the values of the next jobs of a querier, at most n. Each is done at once with its
// estimated cost.
func names(q *Queue, querier string, n int) string {
	s := ""
	for range n {
		j := q.try(querier)
		if j == nil {
			break
		}
		s += fmt.Sprint(j.Value) + " "
		q.Done(j, -1)
	}
	return s
}

// world runs a queue's jobs in virtual time: a worker reads rate samples per second.
type world struct {
	t      *testing.T
	q      *Queue
	rate   float64
	now    float64 // seconds
	idle   int     // workers of the querier "q"
	ends   ends
	actual func(*Job) int64
	// done is called after each job.
	done func(j *Job, actual int64)
	// started is called when a worker gets a job.
	started func(j *Job)
}

type end struct {
	at float64
	j  *Job
}

type ends []end

func (h ends) Len() int           { return len(h) }
func (h ends) Less(i, j int) bool { return h[i].at < h[j].at }
func (h ends) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *ends) Push(x any)        { *h = append(*h, x.(end)) }
func (h *ends) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	*h = (*h)[:last]
	return e
}

// fill lets idle workers take jobs.
func (w *world) fill() {
	for w.idle > 0 {
		j := w.q.try("q")
		if j == nil {
			return
		}
		w.idle--
		if w.started != nil {
			w.started(j)
		}
		heap.Push(&w.ends, end{w.now + float64(w.actual(j))/w.rate, j})
	}
}

// runUntil runs jobs until a time, or until none is left.
func (w *world) runUntil(at float64) {
	for w.fill(); len(w.ends) > 0 && w.ends[0].at <= at; w.fill() {
		e := heap.Pop(&w.ends).(end)
		w.now = e.at
		actual := w.actual(e.j)
		w.q.Done(e.j, actual)
		w.idle++
		if w.done != nil {
			w.done(e.j, actual)
		}
	}
	w.now = at
}

// takeInBackground calls Take in the background; the channel receives its results.
func takeInBackground(ctx context.Context, q *Queue, querier string) <-chan result {
	c := make(chan result, 1)
	go func() {
		j, err := q.Take(ctx, querier)
		c <- result{j, err}
	}()
	return c
}

type result struct {
	j   *Job
	err error
}

func (q *Queue) takersWaiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.takers.Len()
}
