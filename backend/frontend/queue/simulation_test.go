package queue

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
)

// TestHeavyNeighbour checks how long a small tenant waits next to a heavy one. Tenant A has pushed
// 200 range queries of 1e8 samples, which take ten seconds each; tenant B pushes a small query twice
// a second. With three workers or more, and no other tenant, B gets a worker at once. With fewer, B
// waits for A's running job and for B's earlier jobs, but for no waiting job of A.
func TestHeavyNeighbour(t *testing.T) {
	const (
		rate  = 1e7
		heavy = 1e8
		small = 1e5
		every = 0.5
	)
	for _, c := range []struct {
		workers, others int // others: number of further heavy tenants
		share           float64
		bound           float64 // seconds
	}{
		{workers: 1, bound: heavy/rate + heavy/rate/every*small/rate},
		{workers: 2, bound: heavy/rate + heavy/rate/every*small/rate},
		{workers: 3, bound: small / rate},
		{workers: 4, bound: small / rate},
		{workers: 16, bound: small / rate},
		// Other heavy tenants that wait have read nothing yet, so one job of each runs before B's
		// first.
		{workers: 1, others: 5, bound: 6 * (heavy/rate + heavy/rate/every*small/rate)},
		{workers: 8, others: 5, share: 1, bound: 6 * heavy / rate},
	} {
		t.Run(fmt.Sprintf("%d workers, %d others", c.workers, c.others), func(t *testing.T) {
			q := newQueue(t, c.workers, Options{MaxShare: c.share})
			longest, served := 0.0, 0
			arrived := map[*Job]float64{}
			w := &world{t: t, q: q, rate: rate, idle: c.workers, actual: func(j *Job) int64 { return j.Cost }}
			w.started = func(j *Job) {
				if j.Tenant == "B" {
					longest = max(longest, w.now-arrived[j])
					served++
				}
			}
			push(q, "A", Range, 200, heavy)
			w.runUntil(0)
			for i := range c.others {
				push(q, tenant.ID(fmt.Sprint("C", i)), Range, 200, heavy)
			}
			for i := range 200 {
				w.runUntil(every * float64(i))
				j := &Job{Tenant: "B", Class: Range, Cost: small}
				arrived[j] = w.now
				q.Push(j)
				w.fill()
			}
			w.runUntil(1000)
			if served != 200 || longest > c.bound+1e-9 {
				t.Errorf("%d of B's 200 jobs started, and waited up to %.2f s; want 200 and at most %.2f s", served, longest, c.bound)
			}
		})
	}
}

// TestShares checks that tenants that always have waiting jobs are served about equal numbers of
// samples, not of queries. At every moment the numbers differ by at most the largest cost of a job,
// estimated or actual, for each worker. Estimates of one tenant are wrong by a factor of up to 100.
func TestShares(t *testing.T) {
	tenants := []struct {
		id    tenant.ID
		least float64 // samples of a job
		most  float64
		wrong float64 // the estimate is between 1/wrong and wrong times the actual cost
	}{{"big", 1e5, 1e6, 1}, {"small", 5e4, 1e5, 1}, {"mixed", 2e4, 1e6, 1}, {"wrong", 1e5, 2e5, 100}}
	for _, workers := range []int{1, 4, 16} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprint(workers, "/", seed), func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 16))
				// Instant queries: no worker is reserved.
				q := newQueue(t, workers, Options{MaxShare: 1})
				served := map[tenant.ID]float64{}
				actual := map[*Job]int64{}
				estimate := 0.0
				next := func(i int) {
					c := tenants[i]
					n := c.least * math.Pow(c.most/c.least, r.Float64())
					wrong := math.Pow(c.wrong, 2*r.Float64()-1)
					j := &Job{Tenant: c.id, Class: Instant, Cost: int64(n * wrong), Value: i}
					actual[j] = int64(n)
					estimate = max(estimate, n*wrong, n)
					q.Push(j)
				}
				for i := range tenants {
					for range 2 * workers {
						next(i)
					}
				}
				total := 0.0
				w := &world{t: t, q: q, rate: 1e7, idle: workers, actual: func(j *Job) int64 { return actual[j] }}
				w.done = func(j *Job, n int64) {
					served[j.Tenant] += float64(n)
					total += float64(n)
					delete(actual, j)
					next(j.Value.(int))
					low, high := math.Inf(1), 0.0
					for _, c := range tenants {
						low, high = min(low, served[c.id]), max(high, served[c.id])
					}
					bound := float64(workers) * estimate
					if workers == 1 {
						bound = 1e6 // the largest actual cost of a job
					}
					if high-low > bound+1 {
						t.Fatalf("after %.3g samples the tenants have %v: a difference of more than %.3g", total, served, bound)
					}
				}
				w.runUntil(500 / float64(workers))
				if total < 4e9 {
					t.Fatalf("only %g samples", total)
				}
			})
		}
	}
}

// TestClassShares checks that classes are served samples in proportion to their weights, although
// their jobs have different costs and wrong estimates.
func TestClassShares(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 16))
	q := newQueue(t, 8, Options{})
	served := [classes]float64{}
	total := 0.0
	costs := [classes]float64{Range: 1e7, Instant: 1e5, Rule: 3e5}
	next := func(c Class) {
		n := int64(costs[c] * (0.5 + r.Float64()))
		id := tenant.ID(fmt.Sprint(r.IntN(5)))
		q.Push(&Job{Tenant: id, Class: c, Cost: int64(float64(n) * math.Pow(100, 2*r.Float64()-1)), Value: n})
	}
	for c := range Class(classes) {
		for range 100 {
			next(c)
		}
	}
	w := &world{t: t, q: q, rate: 1e7, idle: 8, actual: func(j *Job) int64 { return j.Value.(int64) }}
	w.done = func(j *Job, n int64) {
		served[j.Class] += float64(n)
		total += float64(n)
		next(j.Class)
	}
	w.runUntil(300)
	for c, weight := range weights {
		if share := served[c] / total; math.Abs(share-weight/4) > 0.02 {
			t.Errorf("share of %s queries is %.3f, want %.2f", Class(c), share, weight/4)
		}
	}
}
