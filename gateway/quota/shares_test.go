package quota

import (
	"context"
	"fmt"
	"math"
	"math/rand"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/budget"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/policies/routes"
	"github.com/palliumhq/pallium/test/kit"
	"github.com/palliumhq/pallium/test/kit/fake"
)

// cluster is a number of gateways that share budgets.
type cluster struct {
	clock    *kit.Clock
	gateways []*Tenants
	sharers  []*budget.Sharer
}

func newCluster(n int) *cluster {
	c := &cluster{clock: kit.NewClock(time.Unix(1000, 0))}
	h := fake.NewHub(c.clock.Now)
	for i := range n {
		g := NewTenants(1000, c.clock.Now)
		c.gateways = append(c.gateways, g)
		c.sharers = append(c.sharers, budget.New(budget.Options{ID: fmt.Sprint(i), Exchange: h, Tenants: g, Gateways: n, Now: c.clock.Now}))
	}
	return c
}

// write sends a number of samples to a gateway, in requests of `size` samples each, and returns how many
// samples were accepted.
func (c *cluster) write(i int, id tenant.ID, l *limits.Limits, samples, size int) (taken int) {
	for ; samples > 0; samples -= size {
		if a, rej := c.gateways[i].Admit(Request{Tenant: id, Limits: l, Cost: routes.Samples}); rej == nil {
			a.Done(Outcome{Samples: int64(size)})
			taken += size
		}
	}
	return taken
}

// TestSharedBudgets checks what three gateways accept together while demand moves between them: at
// most the limit, one burst, the samples of an exchange interval for each move, and one write
// beyond the budget for each gateway. If there is enough demand, they accept nearly the limit.
func TestSharedBudgets(t *testing.T) {
	const n, step, second, size = 3, 50 * time.Millisecond, 20, 500
	const limit = 100_000
	tests := []struct {
		name   string
		burst  int
		most   bool // whether there is demand for nearly the limit at all times
		demand func(rnd *rand.Rand, k int) (parts [n]float64, moved bool)
	}{
		{"moves at random", limit, true, func() func(*rand.Rand, int) ([n]float64, bool) {
			var w [n]float64
			return func(rnd *rand.Rand, k int) ([n]float64, bool) {
				if k%(10*second) != 0 {
					return w, false
				}
				sum := 0.0
				for i := range w {
					w[i] = math.Pow(rnd.Float64(), 3)
					sum += w[i]
				}
				for i := range w {
					w[i] *= 2 / sum
				}
				return w, true
			}
		}()},
		{"all at one gateway, the others idle", limit, true, func(_ *rand.Rand, k int) ([n]float64, bool) {
			return [n]float64{2, 0, 0}, k == 0
		}},
		{"bursts at an idle gateway", 60 * limit, true, func(_ *rand.Rand, k int) ([n]float64, bool) {
			switch k % (60 * second) {
			case 0:
				return [n]float64{2, 400, 400}, true
			case 1:
				return [n]float64{2, 0, 0}, true
			}
			return [n]float64{2, 0, 0}, false
		}},
		{"alternating every three seconds", limit, false, func(_ *rand.Rand, k int) (p [n]float64, moved bool) {
			p[k/(3*second)%n] = 5
			return p, k%(3*second) == 0
		}},
		{"alternating short bursts", 10 * limit, false, func(_ *rand.Rand, k int) (p [n]float64, moved bool) {
			if k%(4*second) == 0 {
				p[k/(4*second)%n] = 200
				moved = true
			}
			return p, moved
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rnd := rand.New(rand.NewSource(1))
			c := newCluster(n)
			l := &limits.Limits{SamplesPerSecond: limit, SampleBurst: tt.burst}
			const steps = 300 * second
			taken, moves := 0, 0
			for k := range steps {
				c.clock.Advance(step)
				parts, moved := tt.demand(rnd, k)
				if moved {
					moves++
				}
				for _, i := range rnd.Perm(n) {
					taken += c.write(i, "a", l, int(parts[i]*limit*step.Seconds()), size)
				}
				for i, s := range c.sharers { // at different times within 200 ms
					if k%4 == i {
						s.Step(context.Background())
					}
				}
			}
			seconds := steps * step.Seconds()
			most := limit*(seconds+0.2*float64(moves)) + float64(tt.burst) + n*size
			t.Logf("accepted the limit of %.1f seconds in %.0f seconds, at most %.1f; %d moves", float64(taken)/limit, seconds, most/limit, moves)
			if float64(taken) > most {
				t.Errorf("accepted %d samples, want at most %.0f", taken, most)
			}
			if tt.most && float64(taken) < 0.9*limit*seconds {
				t.Errorf("accepted %d samples, want nearly %.0f", taken, limit*seconds)
			}
		})
	}
}

// TestQueriesLeaveSamples checks that queries of a tenant at one gateway do not reduce
// its sample budget at another.
func TestQueriesLeaveSamples(t *testing.T) {
	c := newCluster(2)
	l := &limits.Limits{SamplesPerSecond: 1000, RequestsPerSecond: 100}
	for range 100 {
		c.clock.Advance(100 * time.Millisecond)
		c.write(0, "a", l, 200, 100)
		for range 5 {
			if a, rej := c.gateways[1].Admit(Request{Tenant: "a", Limits: l, Cost: routes.Query}); rej == nil {
				a.Done(Outcome{})
			}
		}
		for _, s := range c.sharers {
			s.Step(context.Background())
		}
	}
	st := c.gateways[0].get("a", c.clock.Now())
	st.share, _ = c.gateways[0].Share("a")
	if r := st.scaled(l); r.samples < 900 {
		t.Errorf("the gateway with all writes has a share of %.0f of 1000 samples/s, want at least 900", r.samples)
	}
}

// TestShareCountsFromItsExchange checks that a larger share does not fill buckets for the
// time before the exchange.
func TestShareCountsFromItsExchange(t *testing.T) {
	c := newCluster(1)
	g, l := c.gateways[0], &limits.Limits{SamplesPerSecond: 1000, SampleBurst: 10_000}
	g.SetShares(nil, budget.Rest(2, 0), 2) // 2500 of the burst, 25 samples/s
	if n := c.write(0, "a", l, 5000, 100); n != 2500 {
		t.Fatalf("accepted %d of the burst, want 2500", n)
	}
	c.clock.Advance(4 * time.Second)
	g.Demands(func(tenant.ID, budget.Use) {})
	g.SetShares(nil, budget.Whole(), 1)
	if n := c.write(0, "a", l, 5000, 100); n != 100 {
		t.Errorf("accepted %d for 4 s at 25 samples/s, want 100", n)
	}
	c.clock.Advance(time.Second)
	g.Demands(func(tenant.ID, budget.Use) {})
	if n := c.write(0, "a", l, 5000, 100); n != 1000 {
		t.Errorf("accepted %d for 1 s at 1000 samples/s, want 1000", n)
	}
}

// BenchmarkShare reads a share, which should need no allocation.
func BenchmarkShare(b *testing.B) {
	c := newCluster(3)
	shares := map[tenant.ID]budget.Share{}
	for i := range budget.MaxTenants {
		shares[tenantName(i)] = budget.Whole()
	}
	g := c.gateways[0]
	g.SetShares(shares, budget.Whole(), 3)
	one := tenantName(17)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = g.Share(one)
	}
}
