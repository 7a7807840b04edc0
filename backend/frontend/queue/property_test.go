package queue

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
)

// model is the expected state of the queue after some operations. It does not use the data
// structures of the queue.
type model struct {
	t        *testing.T
	r        *rand.Rand
	q        *Queue
	share    float64
	waiting  []*Job // in the order in which they were pushed
	running  []*Job
	ended    []*Job
	takers   []*taker // in the order of their Take calls
	queriers map[string][]int
	removes  []func() // of queriers' workers
	last     string   // operation
}

func (m *model) workers() int {
	n := 0
	for _, added := range m.queriers {
		for _, a := range added {
			n += a
		}
	}
	return n
}

// mostOfTenant and mostOfRange are the limits as documented.
func (m *model) mostOfTenant(c Class) int {
	n := m.workers()
	if m.share >= 1 {
		return max(1, n)
	}
	most := max(1, int(m.share*float64(n)+1e-9))
	if c == Range && n >= 3 {
		return max(1, min(most-1, n-2))
	}
	if c == Range {
		return 1
	}
	return most
}

func (m *model) mostOfRange() int {
	if n := m.workers(); n >= 2 {
		return n - 1
	}
	return 1 << 30
}

func (m *model) held(id tenant.ID, c Class) (all, ofClass, ranges int) {
	for _, j := range m.running {
		if j.Tenant == id {
			all++
			if j.Class == c {
				ofClass++
			}
		}
		if j.Class == Range {
			ranges++
		}
	}
	return all, ofClass, ranges
}

func (m *model) mayRun(j *Job, querier string) bool {
	if len(m.queriers[querier]) == 0 || j.Avoid == querier && querier != "" && len(m.queriers) > 1 {
		return false
	}
	all, ofClass, ranges := m.held(j.Tenant, j.Class)
	if j.Class == Range && (ranges >= m.mostOfRange() || ofClass >= m.mostOfTenant(Range)) {
		return false
	}
	return all < m.mostOfTenant(Instant)
}

func remove[T comparable](s []T, x T) []T {
	i := slices.Index(s, x)
	return slices.Delete(s, i, i+1)
}

func (m *model) push() {
	var j *Job
	if len(m.ended) > 0 && m.r.IntN(3) == 0 { // again
		j = m.ended[m.r.IntN(len(m.ended))]
		m.ended = remove(m.ended, j)
	} else {
		j = &Job{}
	}
	j.Tenant = tenant.ID(rune('a' + m.r.IntN(5)))
	j.Class = Class(m.r.IntN(classes))
	j.Cost = m.r.Int64N(1 << (1 + m.r.IntN(40)))
	j.Avoid = []string{"", "", "", "x", "y"}[m.r.IntN(5)]
	m.waiting = append(m.waiting, j)
	m.q.Push(j)
}

func (m *model) removeJob() {
	if len(m.running) > 0 && m.r.IntN(2) == 0 {
		if m.q.Remove(m.running[0]) {
			m.t.Fatal("a running job was removed")
		}
		return
	}
	if len(m.waiting) == 0 {
		return
	}
	j := m.waiting[m.r.IntN(len(m.waiting))]
	m.waiting = remove(m.waiting, j)
	if m.ended = append(m.ended, j); !m.q.Remove(j) {
		m.t.Fatal("a waiting job was not removed")
	}
}

func (m *model) take() {
	if len(m.takers) < 8 {
		m.takers = append(m.takers, m.q.ask(m.querier()))
	}
}

func (m *model) querier() string { return []string{"", "x", "y"}[m.r.IntN(3)] }

// giveUp ends a Take, in some cases just after it got a job.
func (m *model) giveUp() {
	if len(m.takers) == 0 {
		return
	}
	t := m.takers[m.r.IntN(len(m.takers))]
	if m.r.IntN(2) == 0 {
		j := &Job{Tenant: "a", Class: Rule, Cost: 5}
		m.waiting = append(m.waiting, j)
		m.q.Push(j)
	}
	m.takers = remove(m.takers, t)
	m.q.giveUp(t)
}

func (m *model) done() {
	if len(m.running) == 0 {
		return
	}
	j := m.running[m.r.IntN(len(m.running))]
	m.running = remove(m.running, j)
	m.ended = append(m.ended, j)
	m.q.Done(j, []int64{-1, 0, j.Cost / 100, j.Cost * 100}[m.r.IntN(4)])
}

func (m *model) addWorkers() {
	if m.workers() > 12 {
		return
	}
	name, n := m.querier(), 1+m.r.IntN(4)
	m.queriers[name] = append(m.queriers[name], n)
	removed := m.q.AddWorkers(name, n)
	m.removes = append(m.removes, func() {
		m.queriers[name] = remove(m.queriers[name], n)
		if len(m.queriers[name]) == 0 {
			delete(m.queriers, name)
		}
		removed()
		removed()
	})
}

func (m *model) removeWorkers() {
	if len(m.removes) > 0 {
		i := m.r.IntN(len(m.removes))
		m.removes[i]()
		m.removes = slices.Delete(m.removes, i, i+1)
	}
}

// settle records the jobs that workers got, and checks that they may run them.
func (m *model) settle() {
	var given []*Job
	for _, t := range slices.Clone(m.takers) {
		select {
		case j := <-t.job:
			if !slices.Contains(m.waiting, j) {
				m.t.Fatalf("%s: a job that does not wait was given", m.last)
			}
			m.waiting = remove(m.waiting, j)
			m.running = append(m.running, j)
			given = append(given, j)
			m.checkOrder(t, j)
			m.takers = remove(m.takers, t)
		default:
		}
	}
	for _, j := range given {
		all, ofClass, ranges := m.held(j.Tenant, j.Class)
		if most := m.mostOfTenant(Instant); all > most {
			m.t.Fatalf("%s: tenant %s holds %d of %d workers, may hold %d", m.last, j.Tenant, all, m.workers(), most)
		}
		if j.Class == Range && (ranges > m.mostOfRange() || ofClass > m.mostOfTenant(Range)) {
			m.t.Fatalf("%s: range queries hold %d of %d workers, those of %s %d", m.last, ranges, m.workers(), j.Tenant, ofClass)
		}
	}
}

// checkOrder checks that a job is the oldest job of its tenant and class that its worker may run,
// and that the worker has waited longest of the workers of its querier.
func (m *model) checkOrder(t *taker, j *Job) {
	alone := len(m.queriers) == 1
	if j.Avoid == t.querier && j.Avoid != "" && !alone {
		m.t.Fatalf("%s: querier %q got a job that avoids it", m.last, t.querier)
	}
	for _, other := range m.waiting {
		mayRun := other.Avoid == "" || other.Avoid != t.querier || alone
		if other.Tenant == j.Tenant && other.Class == j.Class && mayRun && other.number < j.number {
			m.t.Fatalf("%s: job %d was given before %d", m.last, j.number, other.number)
		}
	}
	for _, other := range m.takers[:slices.Index(m.takers, t)] {
		if other.querier == t.querier && len(other.job) == 0 {
			m.t.Fatalf("%s: a worker got a job before one that has waited longer", m.last)
		}
	}
}

// check checks that no worker waits while it could run a job, and the counts of the queue.
func (m *model) check() {
	for _, t := range m.takers {
		for _, j := range m.waiting {
			if m.mayRun(j, t.querier) {
				m.t.Fatalf("%s: a worker of %q waits though it may run a %s job of %s", m.last, t.querier, j.Class, j.Tenant)
			}
		}
	}
	var inQueue, runs [classes]int
	for _, j := range m.waiting {
		inQueue[j.Class]++
	}
	for _, j := range m.running {
		runs[j.Class]++
	}
	for i := range m.q.classes {
		c := &m.q.classes[i]
		if c.waiting != inQueue[i] || c.running != runs[i] {
			m.t.Fatalf("%s: %d %s jobs wait and %d run, the queue has %d and %d",
				m.last, inQueue[i], Class(i), runs[i], c.waiting, c.running)
		}
		for p, f := range c.flows {
			if f.place != p+1 || f.waiting == 0 || p > 0 && f.before(&c.flows[(p-1)/2].account) {
				m.t.Fatalf("%s: the heap is out of order, or has a tenant without jobs", m.last)
			}
		}
	}
	if n := m.q.Workers(); n != m.workers() || m.q.takers.Len() != len(m.takers) {
		m.t.Fatalf("%s: %d workers and %d takers, want %d and %d", m.last, n, m.q.takers.Len(), m.workers(), len(m.takers))
	}
}

// TestRandomOperations checks after each of many random operations that no job is lost or given
// twice, no limit is exceeded, no worker waits while there is a job that it may run, and jobs and
// workers are served in order.
func TestRandomOperations(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		m := &model{t: t, r: r, share: []float64{0.3, 0.75, 1}[seed%3], queriers: map[string][]int{}}
		m.q = New(Options{MaxShare: m.share})
		operations := []struct {
			name string
			do   func()
		}{
			{"Push", m.push}, {"Push", m.push}, {"Push", m.push}, {"Take", m.take}, {"Take", m.take}, {"Take", m.take},
			{"Done", m.done}, {"Done", m.done}, {"Remove", m.removeJob}, {"give up", m.giveUp},
			{"AddWorkers", m.addWorkers}, {"remove workers", m.removeWorkers},
		}
		for i := range 1500 {
			o := operations[r.IntN(len(operations))]
			m.last = fmt.Sprintf("seed %d, operation %d, %s", seed, i, o.name)
			o.do()
			m.settle()
			m.check()
		}
		if len(m.removes) == 0 {
			m.addWorkers()
		}
		for len(m.waiting)+len(m.running) > 0 { // the queue becomes empty
			for name := range m.queriers {
				m.takers = append(m.takers, m.q.ask(name))
				m.settle()
			}
			m.done()
			m.settle()
		}
	}
}
