package quota

import (
	"testing"
	"time"

	"github.com/palliumhq/pallium/policies/budget"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/policies/routes"
)

func TestTenantStatesAreBounded(t *testing.T) {
	s, now := NewTenants(shardCount*2, time.Now), time.Unix(1000, 0)
	for i := range 10_000 {
		s.get(tenantName(i), now)
	}
	if n := len(s.top(1 << 20)); n > shardCount*3 {
		t.Errorf("%d entries, want at most %d", n, shardCount*3)
	}
	// Idle entries are dropped, those in debt are not.
	lim := limits.Limits{SamplesPerSecond: 1e-9}
	debtor := s.get("debtor", now)
	if f := debtor.admit(now, &Request{Limits: &lim, Cost: routes.Samples}, budget.Whole(), 1); f != nil {
		t.Fatal(f.Text)
	}
	debtor.done(now, 0, 0, Outcome{Samples: 1000})
	later := now.Add(tenantIdle + 2*sweepPeriod)
	for i := range shardCount {
		s.shards[i].mu.Lock()
		s.shards[i].sweep(later)
		s.shards[i].mu.Unlock()
	}
	if left := s.top(1 << 20); len(left) != 1 || left[0].id != "debtor" {
		t.Errorf("remaining entries = %v, want only debtor", left)
	}
}
