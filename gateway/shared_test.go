package gateway

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/policies/budget"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/test/kit/fake"
)

// TestSharedRejection checks on real connections that two gateways enforce a tenant's
// limit together, and that the error says that it is shared.
func TestSharedRejection(t *testing.T) {
	lim := limits.Limits{RequestsPerSecond: 2, RequestBurst: 4, MaxConcurrentRequests: 3}
	var edges []*edge
	var sharers []*budget.Sharer
	var h *fake.Hub
	for i := range 2 {
		e := newEdge(t, modes[i], nil)
		e.tenants.set("a", lim)
		if h == nil {
			h = fake.NewHub(e.clock.Now)
		}
		edges = append(edges, e)
		sharers = append(sharers, budget.New(budget.Options{ID: e.mode, Exchange: h, Tenants: e.gateway.Budgets(), Gateways: 2, Now: e.clock.Now}))
	}
	taken := 0
	for range 4 {
		for _, e := range edges {
			a := e.do(query, bearer("$A"), "")
			if a.status == 200 {
				taken++
				continue
			}
			rejectedBy(t, a, 429, "requests_per_second", "2 requests/s (burst 4)", "2 gateways")
		}
	}
	if taken != 4 {
		t.Errorf("%d requests were accepted with a burst of 4", taken)
	}
	for range 2 {
		for i, s := range sharers {
			edges[i].clock.Advance(100 * time.Millisecond)
			s.Step(context.Background())
		}
	}
	share, gateways := edges[0].gateway.Budgets().Share("a")
	if rest, _ := edges[0].gateway.Budgets().Share("unknown"); gateways != 2 || share == rest || share == (budget.Share{}) {
		t.Errorf("after an exchange: share %+v of %d gateways, share of other tenants %+v", share, gateways, rest)
	}
	// A single gateway has the whole limit and does not mention others.
	edges[0].clock.Advance(5 * time.Second)
	sharers[0].Step(context.Background())
	edges[0].clock.Advance(5 * time.Second)
	var last answer
	for taken = 0; taken < 10; taken++ {
		if last = edges[0].do(query, bearer("$A"), ""); last.status != 200 {
			break
		}
	}
	rejectedBy(t, last, 429, "2 requests/s (burst 4)")
	if taken != 4 || strings.Contains(last.body, "gateways") {
		t.Errorf("single gateway: %d requests accepted, then %s", taken, last.body)
	}
}
