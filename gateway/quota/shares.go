package quota

import (
	"math"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/budget"
)

// demandTime is the time constant for smoothing demand; demandIdle is how long the
// demand of a tenant is reported after its last request.
const (
	demandTime = time.Second
	demandIdle = 5 * time.Second
)

var _ budget.Tenants = (*Tenants)(nil)

// sharing holds the fractions of the limits that this gateway may use.
type sharing struct {
	byID     map[tenant.ID]budget.Share // read-only
	rest     budget.Share
	gateways int
}

func (s *sharing) of(id tenant.ID) budget.Share {
	if share, ok := s.byID[id]; ok {
		return share
	}
	return s.rest
}

// Share returns the fraction of a tenant's limits that this gateway may use, and the
// number of gateways that share the limits.
func (t *Tenants) Share(id tenant.ID) (share budget.Share, gateways int) {
	s := t.sharing.Load()
	return s.of(id), s.gateways
}

// Demands implements budget.Tenants.
func (t *Tenants) Demands(visit func(id tenant.ID, u budget.Use)) {
	now, held := t.now(), t.sharing.Load()
	for i := range t.shards {
		t.shards[i].demands(now, held, visit)
	}
}

// SetShares implements budget.Tenants.
func (t *Tenants) SetShares(shares map[tenant.ID]budget.Share, rest budget.Share, gateways int) {
	t.sharing.Store(&sharing{byID: shares, rest: rest, gateways: gateways})
}

func (s *shard) demands(now time.Time, held *sharing, visit func(tenant.ID, budget.Use)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, st := range s.byID {
		if now.Sub(st.seen) <= demandIdle {
			if u := st.updateDemand(now, held.of(id), held.gateways); u != (budget.Use{}) {
				visit(id, u)
			}
		}
	}
}

// updateDemand updates the smoothed demand and returns it as a fraction of the limits. It first
// fills the buckets with the share that applied until now, because the next share must not apply to
// the time before.
func (st *state) updateDemand(now time.Time, held budget.Share, gateways int) budget.Use {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.share, st.gateways = held, gateways
	r := st.scaled(&st.limits)
	st.requests.credit(now, r.requests, r.requestBurst)
	st.samples.credit(now, r.samples, r.sampleBurst)
	st.bytes.credit(now, r.bytes, r.byteBurst)
	d := now.Sub(st.demandAt)
	if d <= 0 {
		return budget.Use{}
	}
	if st.demandAt.IsZero() || d > demandIdle {
		d = demandTime
	}
	st.demandAt = now
	keep := math.Exp(-d.Seconds() / demandTime.Seconds())
	limit := [...]float64{st.limits.RequestsPerSecond, st.limits.SamplesPerSecond, st.limits.BytesPerSecond}
	var out budget.Use
	for k := range st.demand {
		st.demand[k] = keep*st.demand[k] + (1-keep)*st.asked[k]/d.Seconds()
		st.asked[k] = 0
		if limit[k] > 0 {
			out[k] = st.demand[k] / limit[k]
		}
	}
	return out
}
