package queue

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestOrder checks the order in which one worker gets jobs: tenants in turn by cost, FIFO within a
// tenant, classes by weight.
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
		{"a huge cost", func(q *Queue) {
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

// TestActualCost checks that the accounts of tenants and classes are corrected by the actual cost
// of jobs.
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
			t.Run(c.name+" with a job of class "+other.String(), func(t *testing.T) {
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

// actualNames is like names, but jobs of tenant a are done with an actual cost.
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

// TestTenantReturns checks the account of a tenant that has jobs again: it gets no credit for the
// time without jobs, and keeps its debt up to MaxDebt.
func TestTenantReturns(t *testing.T) {
	t.Run("no credit", func(t *testing.T) {
		q := newQueue(t, 1, Options{})
		push(q, "b", Range, 1, 1e6)
		names(q, "q", 1)
		push(q, "a", Range, 100, 1e6)
		names(q, "q", 90)
		push(q, "b", Range, 5, 1e6)
		if got := names(q, "q", 6); strings.Count(got, "b") != 3 {
			t.Errorf("order after b had no jobs for a while: %s, want 3 of b", got)
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
	t.Run("next to a tenant whose jobs read less than estimated", func(t *testing.T) {
		q := newQueue(t, 4, Options{MaxShare: 1})
		push(q, "a", Instant, 100, 1e8)
		for _, j := range []*Job{q.try("q"), q.try("q"), q.try("q")} {
			q.Done(j, 1e6)
		}
		push(q, "b", Instant, 20, 1e6)
		if got := actualNames(q, 10, 1e6); strings.Count(got, "b") < 4 {
			t.Errorf("a new tenant waits because the estimates of another tenant were too high: %s", got)
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

// TestCreditAfterBlocking checks that a tenant or a class that was blocked by a limit does not
// delay all others afterwards.
func TestCreditAfterBlocking(t *testing.T) {
	t.Run("tenant", func(t *testing.T) {
		q := newQueue(t, 2, Options{MaxShare: 0.5})
		push(q, "a", Instant, 400, MaxDebt/10)
		long := q.try("q") // a holds as many workers as it may
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

// TestRangeQueriesLeaveOneWorker checks that the range queries of a tenant leave one of its workers
// to its instant queries, unless it may hold only one.
func TestRangeQueriesLeaveOneWorker(t *testing.T) {
	for n := 3; n <= 20; n++ {
		q := New(Options{})
		q.AddWorkers("q", n)
		ctx, cancel := context.WithCancel(t.Context())
		var takers sync.WaitGroup
		for range n {
			takers.Go(func() { _, _ = q.Take(ctx, "q") })
		}
		for waiting := 0; waiting < n; time.Sleep(time.Millisecond) {
			q.mu.Lock()
			waiting = q.takers.Len()
			q.mu.Unlock()
		}
		for range n {
			q.Push(&Job{Tenant: "a", Class: Range, Cost: 1e9})
		}
		j := &Job{Tenant: "a", Class: Instant}
		q.Push(j)
		if q.Remove(j) {
			t.Errorf("%d workers: an instant query waits for range queries of its tenant", n)
		}
		cancel()
		takers.Wait()
	}
}
