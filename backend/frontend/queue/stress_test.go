package queue

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/test/kit"
)

// TestConcurrentUse checks that every job is run or removed exactly once, while queriers join and
// leave, calls of Take end, and jobs are removed.
func TestConcurrentUse(t *testing.T) {
	const pushers, each = 8, 400
	q := newQueue(t, 1, Options{})
	var ended atomic.Int64
	run := func(j *Job) {
		if j.Value.(*atomic.Int32).Add(1) != 1 {
			t.Error("a job was run twice, or run and removed")
		}
		ended.Add(1)
	}
	stop := make(chan struct{})
	var workers, pushes sync.WaitGroup
	worker := func(querier string, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 2))
		for {
			select {
			case <-stop:
				return
			default:
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.IntN(500))*time.Microsecond)
			if j, err := q.Take(ctx, querier); err == nil {
				run(j)
				q.Done(j, r.Int64N(1e6))
			}
			cancel()
		}
	}
	for i := range uint64(6) {
		workers.Go(func() { worker([]string{"q", "x", "y"}[i%3], i) })
	}
	workers.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				remove := q.AddWorkers([]string{"x", "y"}[i%2], 1+i%5)
				q.Workers()
				time.Sleep(100 * time.Microsecond)
				remove()
			}
		}
	})
	for p := range uint64(pushers) {
		pushes.Go(func() {
			r := rand.New(rand.NewPCG(p, 3))
			for range each {
				j := &Job{
					Tenant: tenant.ID(fmt.Sprint(r.IntN(4))), Class: Class(r.IntN(classes)), Cost: r.Int64N(1e6),
					Avoid: []string{"", "q", "x"}[r.IntN(3)], Value: new(atomic.Int32),
				}
				q.Push(j)
				if r.IntN(4) == 0 && q.Remove(j) {
					run(j)
				}
			}
		})
	}
	pushes.Wait()
	kit.UntilSlow(t, time.Minute, "all jobs are run or removed", func() bool { return ended.Load() == pushers*each })
	close(stop)
	workers.Wait()
	q.mu.Lock()
	defer q.mu.Unlock()
	for c := range q.classes {
		if q.classes[c].waiting != 0 || q.classes[c].running != 0 {
			t.Errorf("%s: %d wait, %d run", Class(c), q.classes[c].waiting, q.classes[c].running)
		}
	}
	if q.takers.Len() != 0 {
		t.Errorf("%d workers wait", q.takers.Len())
	}
}

// BenchmarkQueue measures Push, Take and Done of a job while 10,000 tenants have two waiting jobs
// each. In "avoided" the querier may run none of these. "workers" measures AddWorkers and its
// remove function.
func BenchmarkQueue(b *testing.B) {
	for _, avoid := range []string{"", "q"} {
		q := newQueue(b, 8, Options{})
		q.AddWorkers("other", 8)
		for i := range 20_000 {
			id := tenant.ID(fmt.Sprint(i % 10_000))
			q.Push(&Job{Tenant: id, Class: Class(i % classes), Cost: 1e6, Avoid: avoid})
		}
		b.Run(map[string]string{"": "waiting", "q": "avoided"}[avoid], func(b *testing.B) {
			i := 0
			for b.Loop() {
				i++
				q.Push(&Job{Tenant: tenant.ID(fmt.Sprint(i % 10_000)), Class: Class(i % classes), Cost: 1e6})
				j := q.try("q")
				q.Done(j, 1e5)
			}
		})
		if avoid == "" {
			b.Run("workers", func(b *testing.B) {
				for b.Loop() {
					q.AddWorkers("q", 1)()
				}
			})
		}
	}
}
