package budget

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/palliumhq/pallium/authn/tenant"
)

// shareOf returns a gateway's share of tenant t.
func shareOf(id string, all map[string]Demands) Share {
	if s, ok := Shares(id, all)["t"]; ok {
		return s
	}
	return Rest(len(all), len(all[id]))
}

func TestShares(t *testing.T) {
	d := func(v float64) Demands { return Demands{"t": {v, v, v}} }
	full := Demands{}
	for i := range MaxTenants {
		full[tenant.ID(fmt.Sprint("other-", i))] = Use{1}
	}
	nine := map[string]Demands{"a": d(1), "b": {}, "c": {}, "d": {}, "e": {}, "f": {}, "g": {}, "h": {}, "i": {}, "j": {}}
	tests := []struct {
		name        string
		all         map[string]Demands
		rate, burst map[string]float64
	}{
		{"alone", map[string]Demands{"a": d(3)}, map[string]float64{"a": 1}, map[string]float64{"a": 1}},
		{"alone, no demand", map[string]Demands{"a": {}}, map[string]float64{"a": 1}, map[string]float64{"a": 1}},
		{"equal", map[string]Demands{"a": d(1), "b": d(1)}, map[string]float64{"a": 0.5, "b": 0.5}, map[string]float64{"a": 0.5, "b": 0.5}},
		{"by demand", map[string]Demands{"a": d(3), "b": d(1)}, map[string]float64{"a": 0.75, "b": 0.25}, map[string]float64{"a": 0.75, "b": 0.25}},
		{"not below half of an equal share", map[string]Demands{"a": d(99), "b": d(1)}, map[string]float64{"a": 0.75, "b": 0.25}, map[string]float64{"a": 0.75, "b": 0.25}},
		{"the minimum share is bounded by the demand", map[string]Demands{"a": d(2), "b": d(0.04)}, map[string]float64{"a": 0.840, "b": 0.160}, nil},
		{"one publishes nothing", map[string]Demands{"a": d(1), "b": {}}, map[string]float64{"a": 0.975, "b": 0.025}, map[string]float64{"a": 0.75, "b": 0.25}},
		{"one publishes too little demand", map[string]Demands{"a": d(1), "b": d(0.001)}, map[string]float64{"a": 0.975, "b": 0.025}, map[string]float64{"a": 0.75, "b": 0.25}},
		{"nine publish nothing", nine, map[string]float64{"a": 0.955, "b": 0.005}, map[string]float64{"a": 0.55, "b": 0.05}},
		{"one has too many tenants to publish", map[string]Demands{"a": d(1), "b": full}, map[string]float64{"a": 0.75, "b": 0.25}, map[string]float64{"a": 0.75, "b": 0.25}},
	}
	for _, tt := range tests {
		for id := range tt.all {
			got := shareOf(id, tt.all)
			for k := range dimensions {
				if want, ok := tt.rate[id]; ok && math.Abs(got.Rate[k]-want) > 0.001 {
					t.Errorf("%s: %s has %.3f of the rate, want %.3f", tt.name, id, got.Rate[k], want)
				}
				if want, ok := tt.burst[id]; ok && math.Abs(got.Burst[k]-want) > 0.001 {
					t.Errorf("%s: %s has %.3f of the burst, want %.3f", tt.name, id, got.Burst[k], want)
				}
			}
		}
	}
	if got := shareOf("a", map[string]Demands{"a": {"t": {0, 0, 5}}, "b": {"t": {7, 0, 0}}}); math.Abs(got.Rate[Requests]-0.025)+math.Abs(got.Rate[Samples]-0.025)+math.Abs(got.Rate[Bytes]-0.975) > 1e-9 {
		t.Errorf("dimensions are mixed: %v", got)
	}
}

// TestSum checks that the shares of rates and bursts add up to at most 1 whatever
// gateways publish, and that none is 0.
func TestSum(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	for range 20_000 {
		n := 1 + rnd.Intn(12)
		all := map[string]Demands{}
		for i := range n {
			mine := Demands{}
			if rnd.Intn(3) > 0 {
				var u Use
				for k := range u {
					u[k] = math.Pow(10, 16*rnd.Float64()-6) * float64(rnd.Intn(3))
				}
				mine["t"] = u
			}
			all[fmt.Sprint(i)] = mine
		}
		var sum Share
		for id := range all {
			s := shareOf(id, all)
			for k := range dimensions {
				sum.Rate[k] += s.Rate[k]
				sum.Burst[k] += s.Burst[k]
				if !(s.Rate[k] > 0 && s.Rate[k] <= 1 && s.Burst[k] > 0 && s.Burst[k] <= 1) {
					t.Fatalf("share of %s = %v with demand %v", id, s, all)
				}
			}
		}
		for k := range dimensions {
			if sum.Rate[k] > 1+1e-9 || sum.Burst[k] > 1+1e-9 {
				t.Fatalf("shares add up to %v with demand %v", sum, all)
			}
		}
	}
}

// many is a gateway with more tenants than it can publish.
type many struct{ rest Share }

func (m *many) Demands(visit func(tenant.ID, Use)) {
	for i := range MaxTenants + 100 {
		visit(tenant.ID(fmt.Sprint("t-", i)), Use{1 + float64(i)})
	}
}

func (m *many) SetShares(_ map[tenant.ID]Share, rest Share, _ int) { m.rest = rest }

// BenchmarkShares computes an exchange of ten gateways that each publish the maximum
// number of tenants.
func BenchmarkShares(b *testing.B) {
	all := map[string]Demands{}
	for i := range 10 {
		all[fmt.Sprint(i)] = Demands{}
		for k := range MaxTenants {
			all[fmt.Sprint(i)][tenant.ID(fmt.Sprint("t-", k))] = Use{float64(1 + (i*k)%7), 1, 1}
		}
	}
	for b.Loop() {
		Shares("3", all)
	}
}

func TestMaxTenants(t *testing.T) {
	now := time.Unix(0, 0)
	h := &hub{now: &now, all: map[string]Demands{"b": {}}, at: map[string]time.Time{"b": now}}
	m := &many{}
	s := New(Options{ID: "a", Exchange: h, Tenants: m, Now: func() time.Time { return now }})
	s.Step(context.Background())
	mine := h.all[s.o.ID]
	if _, ok := mine["t-99"]; ok || len(mine) != MaxTenants || mine["t-100"] != (Use{101}) {
		t.Errorf("%d tenants were published, want the %d with the most demand", len(mine), MaxTenants)
	}
	if m.rest != even(0.25, 0.25) {
		t.Errorf("share of unpublished tenants = %v", m.rest)
	}
}

// hub is an in-memory Exchange that can fail.
type hub struct {
	now  *time.Time
	down bool
	all  map[string]Demands
	at   map[string]time.Time
}

func (h *hub) Exchange(_ context.Context, id string, mine Demands) (map[string]Demands, error) {
	if h.down {
		return nil, errors.New("down")
	}
	h.all[id], h.at[id] = mine, *h.now
	out := map[string]Demands{}
	for g, d := range h.all {
		if h.now.Sub(h.at[g]) <= 2*time.Second {
			out[g] = d
		}
	}
	return out, nil
}

// buckets is one gateway of the simulation, with one tenant.
type buckets struct {
	share    Share
	gateways int
	tokens   float64
	demand   float64 // per second, as a fraction of the limit, smoothed
	asked    float64
}

func (b *buckets) Demands(visit func(tenant.ID, Use)) {
	b.demand = 0.8*b.demand + 0.2*b.asked*5
	b.asked = 0
	visit("t", Use{b.demand, b.demand, b.demand})
}

func (b *buckets) SetShares(shares map[tenant.ID]Share, rest Share, gateways int) {
	b.gateways, b.share = gateways, rest
	if s, ok := shares["t"]; ok {
		b.share = s
	}
}

// TestSimulation checks what gateways together admit while demand moves between them: at most
// the limit, a burst, and for each move the cost of one late exchange of each gateway. The
// demand is high enough that they also admit nearly the limit.
func TestSimulation(t *testing.T) {
	for seed := range int64(8) {
		rnd := rand.New(rand.NewSource(seed))
		now := time.Unix(0, 0)
		h := &hub{now: &now, all: map[string]Demands{}, at: map[string]time.Time{}}
		const n, burst, step = 3, 1.0, 200 * time.Millisecond // in units of a second's limit
		var gs []*buckets
		var sharers []*Sharer
		for i := range n {
			b := &buckets{}
			gs = append(gs, b)
			sharers = append(sharers, New(Options{ID: fmt.Sprint(i), Exchange: h, Tenants: b, Gateways: n, Now: func() time.Time { return now }}))
		}
		weights := []float64{1, 1, 1}
		through, asked, moves := 0.0, 0.0, 0
		const steps = 5000
		for k := range steps {
			if k%100 == 0 { // the demand, in total twice the limit, moves
				moves++
				sum := 0.0
				for i := range weights {
					weights[i] = math.Pow(rnd.Float64(), 3)
					sum += weights[i]
				}
				for i := range weights {
					weights[i] *= 2 / sum
				}
			}
			now = now.Add(step)
			for i, b := range gs {
				want := weights[i] * step.Seconds()
				asked += want
				b.asked += want
				b.tokens = min(b.tokens+b.share.Rate[0]*step.Seconds(), burst*b.share.Burst[0])
				got := min(want, max(b.tokens, 0))
				b.tokens -= got
				through += got
			}
			for _, i := range rnd.Perm(n) {
				sharers[i].Step(context.Background())
			}
		}
		limit := steps * step.Seconds()
		// Each gateway sees a move one exchange later, and smoothed over a second.
		if most := limit + burst + float64(moves)*step.Seconds()*n; through > most {
			t.Errorf("seed %d: admitted the limit of %.1f seconds in %.0f seconds, want at most %.1f", seed, through, limit, most)
		}
		if through < 0.9*limit {
			t.Errorf("seed %d: admitted %.1f of %.0f although the demand was %.0f", seed, through, limit, asked)
		}
	}
}

// TestLost checks that without exchanges the last shares stay valid for a while, and that equal
// shares are used after that.
func TestLost(t *testing.T) {
	now := time.Unix(0, 0)
	h := &hub{now: &now, all: map[string]Demands{}, at: map[string]time.Time{}, down: true}
	a, b := &buckets{demand: 1}, &buckets{}
	clock := func() time.Time { return now }
	sa := New(Options{ID: "a", Exchange: h, Tenants: a, Gateways: 4, Now: clock})
	sb := New(Options{ID: "b", Exchange: h, Tenants: b, Gateways: 4, Now: clock})
	step := func(n int) {
		for range n {
			now = now.Add(200 * time.Millisecond)
			a.asked = 0.2
			sa.Step(context.Background())
			sb.Step(context.Background())
		}
	}
	step(10)
	if a.share != Equal(4) || a.gateways != 4 {
		t.Errorf("before the first exchange: %v", a.share)
	}
	h.down = false
	step(10)
	if a.share.Rate[0] < 0.9 || b.share != Rest(2, 0) || a.gateways != 2 {
		t.Errorf("with others: %v, %v of %d", a.share, b.share, a.gateways)
	}
	h.down = true
	step(40)
	if a.share.Rate[0] < 0.9 {
		t.Errorf("shortly after the loss: %v", a.share)
	}
	step(20)
	if a.share != Equal(2) || b.share != Equal(2) {
		t.Errorf("long after the loss: %v, %v", a.share, b.share)
	}
	h.down = false
	step(5)
	if a.share.Rate[0] < 0.9 {
		t.Errorf("back again: %v", a.share)
	}
	for range 20 { // b ends
		now = now.Add(200 * time.Millisecond)
		a.asked = 0.2
		sa.Step(context.Background())
	}
	if a.share != Whole() || a.gateways != 1 {
		t.Errorf("alone: %v of %d", a.share, a.gateways)
	}
}

func TestMetrics(t *testing.T) {
	now := time.Unix(0, 0)
	h := &hub{now: &now, all: map[string]Demands{"b": {}}, at: map[string]time.Time{"b": now}}
	reg := prometheus.NewPedanticRegistry()
	s := New(Options{ID: "a", Exchange: h, Tenants: &buckets{}, Now: func() time.Time { return now }, Registerer: reg})
	s.Step(context.Background())
	h.down, now = true, now.Add(3*time.Second)
	s.Step(context.Background())
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	s.Step(ended) // not counted as an error
	want := `
# HELP pallium_gateway_budget_exchange_age_seconds Seconds since the last successful exchange; 0 before the first one.
# TYPE pallium_gateway_budget_exchange_age_seconds gauge
pallium_gateway_budget_exchange_age_seconds 3
# HELP pallium_gateway_budget_exchanges_total Exchanges of demand with other gateways, by result.
# TYPE pallium_gateway_budget_exchanges_total counter
pallium_gateway_budget_exchanges_total{result="error"} 1
pallium_gateway_budget_exchanges_total{result="ok"} 1
# HELP pallium_gateway_budget_gateways Number of gateways that share the rate limits.
# TYPE pallium_gateway_budget_gateways gauge
pallium_gateway_budget_gateways 2
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}
