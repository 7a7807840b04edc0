package budget

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
)

func TestShares(t *testing.T) {
	d := func(v float64) Demands { return Demands{"t": {v, v, v}} }
	tests := []struct {
		name string
		all  map[string]Demands
		want map[string]float64
	}{
		{"alone", map[string]Demands{"a": d(3)}, map[string]float64{"a": 1}},
		{"equal", map[string]Demands{"a": d(1), "b": d(1)}, map[string]float64{"a": 0.5, "b": 0.5}},
		{"by demand", map[string]Demands{"a": d(3), "b": d(1)}, map[string]float64{"a": 0.75, "b": 0.25}},
		{"not below half of an equal share", map[string]Demands{"a": d(99), "b": d(1)}, map[string]float64{"a": 0.798, "b": 0.201}},
		{"one does not tell", map[string]Demands{"a": d(1), "b": {}}, map[string]float64{"a": 0.975}},
		{"nine do not tell", map[string]Demands{"a": d(1), "b": {}, "c": {}, "d": {}, "e": {}, "f": {}, "g": {}, "h": {}, "i": {}, "j": {}}, map[string]float64{"a": 0.955}},
	}
	for _, tt := range tests {
		sum := 0.0
		for id := range tt.all {
			got := Shares(id, tt.all)["t"]
			for k := range got {
				if math.Abs(got[k]-tt.want[id]) > 0.002 {
					t.Errorf("%s: %s has %.3f, want %.3f", tt.name, id, got[k], tt.want[id])
				}
			}
			sum += got[0]
		}
		if sum > 1+1e-9 {
			t.Errorf("%s: the shares sum up to %.3f", tt.name, sum)
		}
	}
	if got := Shares("a", map[string]Demands{"a": {"t": {0, 0, 5}}, "b": {"t": {7, 0, 0}}})["t"]; got[Requests] > 0.26 || got[Bytes] < 0.74 {
		t.Errorf("dimensions are mixed: %v", got)
	}
}

// hub is an exchange in memory that can fail.
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
	demand   float64 // a second's, as a part of the limit, smoothed
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

// TestSimulation: while demand moves between gateways, they let no more through
// together than the limit, a burst, and what an exchange too late costs; and
// nearly all of it when there is enough demand.
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
			if k%100 == 0 { // demand moves to others, altogether twice the limit
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
				b.tokens = min(b.tokens+b.share[0]*step.Seconds(), burst*b.share[0])
				got := min(want, max(b.tokens, 0))
				b.tokens -= got
				through += got
			}
			for _, i := range rnd.Perm(n) {
				sharers[i].Step(context.Background())
			}
		}
		limit := steps * step.Seconds()
		// A move is seen one exchange late by each, and smoothed over a second.
		if most := limit + burst + float64(moves)*step.Seconds()*n; through > most {
			t.Errorf("seed %d: %.1f seconds' worth let through in %.0f, at most %.1f may be", seed, through, limit, most)
		}
		if through < 0.9*limit {
			t.Errorf("seed %d: %.1f of %.0f used though %.0f were asked for", seed, through, limit, asked)
		}
	}
}

// TestLost: the last shares hold for a while without the others, then equal ones;
// never nothing, never everything.
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
	if a.share != equal(0.25) || a.gateways != 4 {
		t.Errorf("before the first exchange: %v", a.share)
	}
	h.down = false
	step(10)
	if a.share[0] < 0.9 || b.share[0] != 0.25 || a.gateways != 2 {
		t.Errorf("with others: %v, %v of %d", a.share, b.share, a.gateways)
	}
	h.down = true
	step(40)
	if a.share[0] < 0.9 {
		t.Errorf("a moment after the loss: %v", a.share)
	}
	step(20)
	if a.share != equal(0.5) || b.share != equal(0.5) {
		t.Errorf("long after the loss: %v, %v", a.share, b.share)
	}
	h.down = false
	step(5)
	if a.share[0] < 0.9 {
		t.Errorf("back again: %v", a.share)
	}
	for range 20 { // b dies
		now = now.Add(200 * time.Millisecond)
		a.asked = 0.2
		sa.Step(context.Background())
	}
	if a.share != Whole() || a.gateways != 1 {
		t.Errorf("alone: %v of %d", a.share, a.gateways)
	}
}
