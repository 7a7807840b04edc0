package queue

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/test/kit"
)

// TestOrder checks who is served by one worker: tenants in turn by cost, FIFO inside
// a tenant, classes by weight.
func TestOrder(t *testing.T) {
	for _, c := range []struct {
		name string
		push func(q *Queue)
		want string
	}{
		{"FIFO inside a tenant", func(q *Queue) { push(q, "a", Range, 4, 5e6) }, "a0 a1 a2 a3"},
		{"equal costs: in turn", func(q *Queue) {
			push(q, "a", Range, 3, 1e6)
			push(q, "b", Range, 3, 1e6)
		}, "a0 b0 a1 b1 a2 b2"},
		{"by samples, not by queries", func(q *Queue) {
			push(q, "a", Range, 3, 4e6)
			push(q, "b", Range, 8, 1e6)
		}, "a0 b0 b1 b2 b3 a1 b4 b5 b6 b7 a2"},
		{"a cost without a bound is one step", func(q *Queue) {
			push(q, "a", Range, 2, 1<<62)
			push(q, "b", Range, 3, 1e6)
		}, "a0 b0 b1 b2 a1"},
		{"jobs that read nothing cost something", func(q *Queue) {
			push(q, "a", Range, 3, 0)
			push(q, "b", Range, 2, 2*MinCost)
		}, "a0 b0 a1 b1 a2"},
		{"range queries read twice as much", func(q *Queue) {
			push(q, "r", Range, 6, 1e6)
			push(q, "i", Instant, 3, 1e6)
			push(q, "u", Rule, 3, 1e6)
		}, "r0 i0 u0 r1 i1 u1 r2 r3 i2 u2 r4 r5"},
		{"a short query of another class does not wait for long ones", func(q *Queue) {
			push(q, "r", Range, 3, 1e9)
			push(q, "i", Instant, 3, 1e5)
		}, "r0 i0 i1 i2 r1 r2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := newQueue(t, 1, Options{})
			c.push(q)
			if got := strings.TrimSpace(names(q, "q", 100)); got != c.want {
				t.Errorf("order %q, want %q", got, c.want)
			}
		})
	}
}

// TestActualCost checks that the accounts of tenants and classes are corrected by what
// was read.
func TestActualCost(t *testing.T) {
	for _, c := range []struct {
		name   string
		actual int64
		want   string
	}{
		{"unknown", -1, "b0 a1 b1"},
		{"more", 3e6, "b0 b1 b2"},
		{"less", 1, "b0 a1 a2"},
	} {
		for _, other := range []Class{Range, Instant} {
			t.Run(c.name+" beside "+other.String(), func(t *testing.T) {
				q := newQueue(t, 1, Options{})
				push(q, "a", Rule, 4, 1e6)
				cost := int64(1e6)
				if other == Range {
					cost *= 2 // by weight
				}
				push(q, "b", other, 4, cost)
				j := q.try("q")
				if j.Value != "a0" {
					t.Fatalf("first job is %v", j.Value)
				}
				q.Done(j, c.actual)
				if got := strings.TrimSpace(actualNames(q, 3, c.actual)); got != c.want {
					t.Errorf("order %q, want %q", got, c.want)
				}
			})
		}
	}
}

// actualNames is names with the actual cost of tenant a's jobs.
func actualNames(q *Queue, n int, actual int64) string {
	s := ""
	for range n {
		j := q.try("q")
		s += j.Value.(string) + " "
		if j.Tenant == "a" {
			q.Done(j, actual)
		} else {
			q.Done(j, -1)
		}
	}
	return s
}

// TestComingBack checks what a tenant has when it comes back: no credit for the time
// when it was not there, and its debt up to MaxDebt.
func TestComingBack(t *testing.T) {
	t.Run("no credit", func(t *testing.T) {
		q := newQueue(t, 1, Options{})
		push(q, "b", Range, 1, 1e6)
		names(q, "q", 1)
		push(q, "a", Range, 100, 1e6)
		names(q, "q", 90)
		push(q, "b", Range, 5, 1e6)
		if got := names(q, "q", 6); strings.Count(got, "b") != 3 {
			t.Errorf("b's share after it was away: %s", got)
		}
	})
	t.Run("debt", func(t *testing.T) {
		q := newQueue(t, 1, Options{})
		push(q, "a", Range, 1, 5e6)
		names(q, "q", 1)
		push(q, "b", Range, 9, 1e6)
		push(q, "a", Range, 1, 1e6)
		if got := names(q, "q", 7); got != "b0 b1 b2 b3 b4 b5 a0 " && got != "b0 b1 b2 b3 b4 a0 b5 " {
			t.Errorf("order with a debt of five jobs: %s", got)
		}
	})
	t.Run("debt is bounded", func(t *testing.T) {
		q := newQueue(t, 1, Options{})
		push(q, "a", Range, 1, 1000*MaxDebt)
		names(q, "q", 1)
		push(q, "b", Range, 9, MaxDebt/4)
		push(q, "a", Range, 1, 1e6)
		if got := names(q, "q", 7); !strings.Contains(got, "a") {
			t.Errorf("order with a huge debt: %s", got)
		}
	})
	t.Run("a refund is no credit", func(t *testing.T) {
		q := newQueue(t, 2, Options{MaxShare: 1})
		push(q, "a", Instant, 1, 1000*MaxDebt)
		over := q.try("q")
		push(q, "a", Instant, 9, 1e6) // it is active again, with a debt
		push(q, "b", Instant, 9, 1e6)
		q.Done(over, 1)
		if got := names(q, "q", 8); strings.Count(got, "b") != 4 {
			t.Errorf("order after a refund that is larger than the debt: %s", got)
		}
	})
	t.Run("beside one whose jobs read less than estimated", func(t *testing.T) {
		q := newQueue(t, 4, Options{MaxShare: 1})
		push(q, "a", Instant, 100, 1e8)
		for _, j := range []*Job{q.try("q"), q.try("q"), q.try("q")} {
			q.Done(j, 1e6)
		}
		push(q, "b", Instant, 20, 1e6)
		if got := actualNames(q, 10, 1e6); strings.Count(got, "b") < 4 {
			t.Errorf("a new tenant waits until the others have read what they were estimated to: %s", got)
		}
	})
	t.Run("class", func(t *testing.T) {
		q := newQueue(t, 1, Options{})
		push(q, "a", Instant, 100, 1e6)
		names(q, "q", 90)
		push(q, "b", Rule, 5, 1e6)
		if got := names(q, "q", 6); strings.Count(got, "b") != 3 {
			t.Errorf("share of a class that is new: %s", got)
		}
		q = newQueue(t, 1, Options{})
		push(q, "a", Instant, 1, 1000*MaxDebt)
		names(q, "q", 1)
		push(q, "b", Rule, 9, MaxDebt/4)
		push(q, "a", Instant, 1, 1e6)
		if got := names(q, "q", 7); !strings.Contains(got, "a") {
			t.Errorf("order with a huge debt of a class: %s", got)
		}
	})
}

// TestCreditOfTheBlocked checks that a tenant, or a class, that a limit kept from being
// served does not hold all others up afterwards.
func TestCreditOfTheBlocked(t *testing.T) {
	t.Run("tenant", func(t *testing.T) {
		q := newQueue(t, 2, Options{MaxShare: 0.5})
		push(q, "a", Instant, 400, MaxDebt/10)
		long := q.try("q") // a holds what it may
		push(q, "b", Instant, 1000, MaxDebt/10)
		names(q, "q", 500)
		q.AddWorkers("q", 1)
		q.Done(long, 1)
		got := names(q, "q", 40)
		if n := strings.Count(got, "a"); n < 20 || n > 30 {
			t.Errorf("%d of 40 jobs are a's, want its credit of 10 and half of the rest: %s", n, got)
		}
	})
	t.Run("class", func(t *testing.T) {
		q := newQueue(t, 2, Options{MaxShare: 1})
		push(q, "a", Range, 400, MaxDebt/5)
		long := q.try("q")
		push(q, "b", Rule, 1000, MaxDebt/10)
		names(q, "q", 500)
		q.Done(long, 1)
		got := names(q, "q", 40)
		if n := strings.Count(got, "a"); n < 20 || n > 30 {
			t.Errorf("%d of 40 jobs are range queries, want their credit of 10 and half of the rest: %s", n, got)
		}
	})
}

// TestLimits checks how many workers tenants and range queries may hold.
func TestLimits(t *testing.T) {
	for _, c := range []struct {
		name    string
		workers int
		share   float64
		class   Class
		tenants []tenant.ID
		want    int
	}{
		{"one worker", 1, 0.75, Range, []tenant.ID{"a"}, 1},
		{"two workers", 2, 0.75, Instant, []tenant.ID{"a"}, 1},
		{"four workers", 4, 0.75, Instant, []tenant.ID{"a"}, 3},
		{"the default", 4, 0, Instant, []tenant.ID{"a"}, 3},
		{"rounding", 100, 0.29, Instant, []tenant.ID{"a"}, 29},
		{"no limit", 4, 1, Instant, []tenant.ID{"a"}, 4},
		{"a small share", 9, 0.01, Instant, []tenant.ID{"a"}, 1},
		{"two tenants", 4, 0.75, Instant, []tenant.ID{"a", "b"}, 4},
		{"one range worker, one for others", 2, 1, Range, []tenant.ID{"a"}, 1},
		{"range queries leave one", 4, 1, Range, []tenant.ID{"a"}, 3},
		{"range queries of many leave one", 8, 0.75, Range, []tenant.ID{"a", "b", "c"}, 7},
		{"and one to another's range queries", 4, 0.75, Range, []tenant.ID{"a"}, 2},
		{"who gets it", 4, 0.75, Range, []tenant.ID{"a", "b"}, 3},
		{"three workers", 3, 0.75, Range, []tenant.ID{"a"}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := newQueue(t, c.workers, Options{MaxShare: c.share})
			for _, id := range c.tenants {
				push(q, id, c.class, c.workers+1, 1)
			}
			var held []*Job
			for j := q.try("q"); j != nil; j = q.try("q") {
				if held = append(held, j); len(held) == c.workers {
					break
				}
			}
			if len(held) != c.want {
				t.Fatalf("%d workers are held, want %d", len(held), c.want)
			}
			if len(held) == c.workers {
				return
			}
			waits := q.ask("q")
			if len(waits.job) > 0 {
				t.Fatal("a worker got a job beyond the limit")
			}
			q.Done(held[0], -1)
			if len(waits.job) != 1 {
				t.Error("a worker waits though the limit has room")
			}
		})
	}
	t.Run("over all classes", func(t *testing.T) {
		q := newQueue(t, 4, Options{})
		for c := range Class(classes) {
			push(q, "a", c, 2, 1)
		}
		n := 0
		for q.try("q") != nil {
			n++
		}
		if n != 3 {
			t.Errorf("a tenant holds %d of 4 workers, want 3", n)
		}
	})
}

// TestWorkersComeAndGo checks that jobs that wait only for a limit run when workers
// come, and that a querier that has gone gets none.
func TestWorkersComeAndGo(t *testing.T) {
	q := New(Options{})
	push(q, "a", Instant, 5, 1)
	local := q.ask("")
	if len(local.job) != 0 || q.Workers() != 0 {
		t.Fatal("a querier without workers got a job")
	}
	remove := q.AddWorkers("", 2)
	if len(local.job) != 1 || q.Workers() != 2 {
		t.Fatal("no job with the first workers")
	}
	second := q.ask("")
	if len(second.job) != 0 {
		t.Fatal("a tenant holds both workers")
	}
	removeOther := q.AddWorkers("other", 1)
	if len(second.job) != 1 {
		t.Fatal("a limit that rose made no room")
	}
	third := q.ask("other")
	remove()
	remove()
	if q.Workers() != 1 {
		t.Fatalf("%d workers after the same were removed twice, want 1", q.Workers())
	}
	q.Done(<-local.job, -1)
	gone := q.ask("")
	q.Done(<-second.job, -1)
	if len(gone.job) != 0 || len(third.job) != 1 {
		t.Error("a querier that has gone got the job")
	}
	removeOther()
	if q.Workers() != 0 {
		t.Errorf("%d workers are left", q.Workers())
	}
}

// TestAvoid checks that a job is not run by the querier that it avoids, unless that is
// the only one, and holds up nobody else.
func TestAvoid(t *testing.T) {
	q := New(Options{})
	q.AddWorkers("one", 4)
	removeTwo := q.AddWorkers("two", 4)
	first := &Job{Tenant: "a", Class: Instant, Avoid: "one", Value: "first"}
	second := &Job{Tenant: "a", Class: Instant, Value: "second"}
	third := &Job{Tenant: "b", Class: Instant, Cost: 1e6, Value: "third"}
	for _, j := range []*Job{first, second, third} {
		q.Push(j)
	}
	if got := names(q, "one", 9); got != "second third " {
		t.Errorf("the querier to avoid got %q", got)
	}
	waits := q.ask("one")
	other := q.ask("two")
	if len(waits.job) != 0 || len(other.job) != 1 {
		t.Fatal("the other querier waits though it may run the job")
	}
	q.Done(<-other.job, -1)
	q.Push(first)
	removeTwo()
	if len(waits.job) != 1 {
		t.Error("the only querier that is left does not get the job")
	}
}

// TestTakers checks that workers are served in the order in which they came, and that
// one whose context ends gets the cause and loses no job.
func TestTakers(t *testing.T) {
	q := newQueue(t, 9, Options{MaxShare: 1})
	var takers []*taker
	for range 3 {
		takers = append(takers, q.ask("q"))
	}
	for i, j := range push(q, "a", Instant, 3, 1) {
		if got := kit.Receive(t, "a job", takers[i].job); got != j {
			t.Errorf("worker %d got %v", i, got.Value)
		}
	}
	cause := errors.New("the stream has ended")
	ctx, cancel := context.WithCancelCause(context.Background())
	took := takeInBackground(ctx, q, "q")
	kit.Until(t, "it waits", func() bool { return q.takersWaiting() == 1 })
	cancel(cause)
	if r := kit.Receive(t, "it ends", took); !errors.Is(r.err, cause) || r.j != nil {
		t.Errorf("Take = %v, %v", r.j, r.err)
	}
	if q.takersWaiting() != 0 {
		t.Error("the worker still waits")
	}
	var took3 []<-chan result
	for i := range 3 {
		took3 = append(took3, takeInBackground(context.Background(), q, "q"))
		kit.Until(t, "it waits", func() bool { return q.takersWaiting() == i+1 })
	}
	for i, j := range push(q, "b", Instant, 3, 1) {
		if r := kit.Receive(t, "a job", took3[i]); r.j != j {
			t.Errorf("Take %d got %v", i, r.j.Value)
		}
	}
	push(q, "a", Instant, 1, 1)
	if _, err := q.Take(ctx, "q"); !errors.Is(err, cause) {
		t.Errorf("Take after the end of its context = %v", err)
	}
	if j, err := q.Take(context.Background(), "q"); err != nil || j.Value != "a0" {
		t.Errorf("Take = %v, %v", j, err)
	}
}

// TestGiveUpWithAJob checks that a job whose taker gives up at the same moment goes
// back to where it was, and to a worker that waits.
func TestGiveUpWithAJob(t *testing.T) {
	q := newQueue(t, 1, Options{})
	push(q, "a", Instant, 3, 1e6)
	push(q, "b", Instant, 3, 1e6)
	for range 4 {
		taker := q.ask("q")
		q.giveUp(taker)
	}
	if got := names(q, "q", 9); got != "a0 b0 a1 b1 a2 b2 " {
		t.Errorf("order %q", got)
	}
	q = newQueue(t, 1, Options{})
	push(q, "a", Instant, 2, 1e6)
	for range 3 {
		q.giveUp(q.ask("q"))
	}
	push(q, "b", Instant, 2, 1e6)
	if got := names(q, "q", 9); got != "a0 b0 a1 b1 " {
		t.Errorf("order after a's job was put back three times: %q", got)
	}
	q = newQueue(t, 9, Options{})
	push(q, "a", Instant, 1, 1)
	first, second := q.ask("q"), q.ask("q")
	q.giveUp(first)
	if len(second.job) != 1 {
		t.Error("a worker waits though the job is back")
	}
}

// TestRemove checks that a job that waits is removed, also if its tenant holds what it
// may, and that one that a worker has is not.
func TestRemove(t *testing.T) {
	q := newQueue(t, 2, Options{})
	jobs := push(q, "a", Instant, 4, 1)
	held := q.try("q")
	if q.Remove(held) {
		t.Error("a running job was removed")
	}
	if !q.Remove(jobs[2]) || q.Remove(jobs[2]) {
		t.Error("a waiting job is removed once")
	}
	q.Done(held, -1)
	q.Done(held, -1) // no effect
	if got := names(q, "q", 9); got != "a1 a3 " {
		t.Errorf("left are %q", got)
	}
	q.Push(jobs[2])
	if got := names(q, "q", 9); got != "a2 " {
		t.Errorf("a removed job was pushed again: %q", got)
	}
	defer func() {
		if recover() == nil {
			t.Error("a job can be pushed twice")
		}
	}()
	q.Push(jobs[0])
	q.Push(jobs[0])
}

// TestForgottenTenants checks that the queue does not keep all tenants without jobs.
func TestForgottenTenants(t *testing.T) {
	q := newQueue(t, 1, Options{})
	for i := range 10 * minSweep {
		push(q, tenant.ID(rune('a'+i)), Instant, 1, 1)
		names(q, "q", 1)
	}
	if n := len(q.owners); n > 2*minSweep {
		t.Errorf("the queue has %d tenants", n)
	}
}

// TestMetrics checks the names, labels and values.
func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	clock := kit.NewClock(time.Unix(1, 0))
	q := New(Options{Registerer: reg, Now: clock.Now})
	q.AddWorkers("q", 3)
	push(q, "a", Range, 2, 1)
	push(q, "a", Rule, 2, 1)
	clock.Advance(2 * time.Second)
	if _, err := q.Take(context.Background(), "q"); err != nil {
		t.Fatal(err)
	}
	err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP pallium_frontend_queue_jobs Evaluations that wait for a worker of a querier.
# TYPE pallium_frontend_queue_jobs gauge
pallium_frontend_queue_jobs{class="instant"} 0
pallium_frontend_queue_jobs{class="range"} 1
pallium_frontend_queue_jobs{class="rule"} 2
# HELP pallium_frontend_running_jobs Evaluations that workers of queriers are running.
# TYPE pallium_frontend_running_jobs gauge
pallium_frontend_running_jobs{class="instant"} 0
pallium_frontend_running_jobs{class="range"} 1
pallium_frontend_running_jobs{class="rule"} 0
# HELP pallium_frontend_workers Workers of all queriers that are connected.
# TYPE pallium_frontend_workers gauge
pallium_frontend_workers 3
`), "pallium_frontend_queue_jobs", "pallium_frontend_running_jobs", "pallium_frontend_workers")
	if err != nil {
		t.Error(err)
	}
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() != "pallium_frontend_queue_wait_seconds" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == "range" && m.GetHistogram().GetSampleSum() != 2 {
				t.Errorf("waiting time %g, want 2", m.GetHistogram().GetSampleSum())
			}
		}
		return
	}
	t.Error("no histogram of waiting times")
}
