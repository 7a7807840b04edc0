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
		{"range queries of three tenants leave one", 8, 0.75, Range, []tenant.ID{"a", "b", "c"}, 7},
		{"range queries of one tenant leave one to range queries of others", 4, 0.75, Range, []tenant.ID{"a"}, 2},
		{"range queries of two tenants leave one", 4, 0.75, Range, []tenant.ID{"a", "b"}, 3},
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
				t.Error("a worker waits although the limit is not reached")
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

// TestAlone checks that MaxShare does not limit a tenant that has been alone for a while, and
// limits it again from the first job of another tenant on.
func TestAlone(t *testing.T) {
	clock := kit.NewClock(time.Unix(1000, 0))
	q := newQueue(t, 4, Options{Alone: time.Minute, Now: clock.Now})
	take := func(when string, want int) (held []*Job) {
		t.Helper()
		for j := q.try("q"); j != nil; j = q.try("q") {
			held = append(held, j)
		}
		if len(held) != want {
			t.Fatalf("%s: %d jobs run, want %d", when, len(held), want)
		}
		return held
	}
	done := func(jobs []*Job) {
		for _, j := range jobs {
			q.Done(j, -1)
		}
	}
	push(q, "a", Range, 20, 1)
	held := take("no other tenant had a job", 3) // all range queries leave one worker
	q.Done(held[2], -1)
	q.Remove(push(q, "b", Range, 1, 1)[0])
	held = append(held[:2], take("another tenant had a job", 0)...)

	clock.Advance(time.Minute - 1)
	done(held[:1])
	held = append(held[1:], take("a minute has not passed", 1)...)
	clock.Advance(1)
	done(held[:1])
	held = append(held[1:], take("a minute has passed", 2)...)

	done(take("another tenant gets the last worker", 0))
	other := push(q, "b", Instant, 1, 1)
	take("another tenant has a job", 1)
	clock.Advance(2 * time.Minute) // one query of the other tenant that takes long
	done(held)
	held = take("the other tenant is still running", 2)
	done(other)
	done(held[:1])
	held = append(held[1:], take("the other tenant's job has just ended", 1)...)
	clock.Advance(2 * time.Minute)
	done(held[:1])
	take("the other tenant's job ended a while ago", 2)
}

// TestNotAlone checks that a tenant is not alone while another one has a job that runs or waits for
// long, even if a third tenant had a job in the meantime.
func TestNotAlone(t *testing.T) {
	for name, long := range map[string]func(q *Queue) (end func()){
		"runs": func(q *Queue) func() {
			j := push(q, "long", Instant, 1, 1)
			q.ask("q")
			return func() { q.Done(j[0], -1) }
		},
		"waits": func(q *Queue) func() {
			j := &Job{Tenant: "long", Class: Instant, Avoid: "q"}
			q.Push(j)
			return func() { q.Remove(j) }
		},
	} {
		clock := kit.NewClock(time.Unix(1e9, 0))
		q := newQueue(t, 4, Options{Alone: time.Minute, Now: clock.Now})
		defer q.AddWorkers("other", 1)()
		end := long(q)
		clock.Advance(time.Second)
		third := push(q, "third", Instant, 1, 1)
		q.ask("q")
		q.Done(third[0], -1)
		clock.Advance(time.Hour)
		push(q, "a", Instant, 9, 1)
		take := func(what string, want int) {
			t.Helper()
			n := 0
			for q.try("q") != nil {
				n++
			}
			if n != want {
				t.Errorf("a job %s; %s: %d jobs, want %d", name, what, n, want)
			}
		}
		take("during it", 3) // of five workers
		end()
		take("just after it", 0)
		clock.Advance(time.Minute)
		push(q, "a", Instant, 1, 1)
		take("a minute after it", 2)
	}
}

// TestWorkersComeAndGo checks that jobs that wait because of a limit run when workers are added,
// and that a querier without workers gets no job.
func TestWorkersComeAndGo(t *testing.T) {
	q := New(Options{})
	push(q, "a", Instant, 5, 1)
	local := q.ask("")
	if len(local.job) != 0 || q.Workers() != 0 {
		t.Fatalf("a querier without workers got %d jobs, want 0; %d workers, want 0", len(local.job), q.Workers())
	}
	remove := q.AddWorkers("", 2)
	if len(local.job) != 1 || q.Workers() != 2 {
		t.Fatalf("%d jobs with the first workers, want 1; %d workers, want 2", len(local.job), q.Workers())
	}
	second := q.ask("")
	if len(second.job) != 0 {
		t.Fatal("a tenant holds both workers")
	}
	removeOther := q.AddWorkers("other", 1)
	if len(second.job) != 1 {
		t.Fatal("no job although more workers raised the limit")
	}
	third := q.ask("other")
	remove()
	remove()
	if q.Workers() != 1 {
		t.Fatalf("%d workers after the same workers were removed twice, want 1", q.Workers())
	}
	q.Done(<-local.job, -1)
	gone := q.ask("")
	q.Done(<-second.job, -1)
	if len(gone.job) != 0 || len(third.job) != 1 {
		t.Errorf("the querier whose workers were removed got %d jobs, the other one %d; want 0 and 1", len(gone.job), len(third.job))
	}
	removeOther()
	if q.Workers() != 0 {
		t.Errorf("%d workers are left", q.Workers())
	}
}

// TestAvoid checks that a job is not run by the querier that it avoids, unless that is the only
// one, and that it does not delay other jobs.
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
		t.Fatalf("the querier to avoid got %d jobs, the other one %d; want 0 and 1", len(waits.job), len(other.job))
	}
	q.Done(<-other.job, -1)
	q.Push(first)
	removeTwo()
	if len(waits.job) != 1 {
		t.Error("the only remaining querier does not get the job")
	}
}

// TestTakers checks that workers get jobs in the order of their Take calls, and that a Take whose
// context ends returns the cause and loses no job.
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
	kit.Until(t, "the worker waits", func() bool { return q.takersWaiting() == 1 })
	cancel(cause)
	if r := kit.Receive(t, "the result of Take", took); !errors.Is(r.err, cause) || r.j != nil {
		t.Errorf("Take = %v, %v", r.j, r.err)
	}
	if q.takersWaiting() != 0 {
		t.Error("the worker still waits")
	}
	var took3 []<-chan result
	for i := range 3 {
		took3 = append(took3, takeInBackground(context.Background(), q, "q"))
		kit.Until(t, "the worker waits", func() bool { return q.takersWaiting() == i+1 })
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

// TestGiveUpWithAJob checks that a job goes back to its position in the queue, or to a waiting
// worker, if the context of a Take ends just when the Take gets the job.
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

// TestRemove checks that a waiting job is removed, even if its tenant has reached its limit, and
// that a running job is not.
func TestRemove(t *testing.T) {
	q := newQueue(t, 2, Options{})
	jobs := push(q, "a", Instant, 4, 1)
	held := q.try("q")
	if q.Remove(held) {
		t.Error("a running job was removed")
	}
	if !q.Remove(jobs[2]) || q.Remove(jobs[2]) {
		t.Error("a waiting job was not removed, or was removed twice")
	}
	q.Done(held, -1)
	q.Done(held, -1) // no effect
	if got := names(q, "q", 9); got != "a1 a3 " {
		t.Errorf("remaining jobs: %q", got)
	}
	q.Push(jobs[2])
	if got := names(q, "q", 9); got != "a2 " {
		t.Errorf("after a removed job was pushed again: %q", got)
	}
	defer func() {
		if recover() == nil {
			t.Error("Push of a waiting job did not panic")
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
# HELP pallium_frontend_queue_jobs Evaluations and other reads that wait for a worker of a querier.
# TYPE pallium_frontend_queue_jobs gauge
pallium_frontend_queue_jobs{class="instant"} 0
pallium_frontend_queue_jobs{class="range"} 1
pallium_frontend_queue_jobs{class="rule"} 2
# HELP pallium_frontend_running_jobs Evaluations and other reads that occupy workers of queriers.
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
