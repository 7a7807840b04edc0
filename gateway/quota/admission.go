// Package quota holds the tenants to their limits at one gateway: tenants' budgets of
// requests, bytes and samples, of which each gateway has a share, their requests under
// way, and the gate where all tenants take turns.
//
// A request is admitted by what its header tells, enters when all of its body has
// arrived, and is done when it is answered; its cost is corrected each time.
package quota

import (
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/policies/routes"
)

// Request is what the header of a request tells of its cost.
type Request struct {
	Tenant tenant.ID
	Limits *limits.Limits // of the tenant, as read for this request
	Cost   routes.Cost    // of the route
	Length int64          // of the body in bytes, as announced; -1: not known
}

// Rejection is a limit that keeps a request out.
type Rejection struct {
	Limit string        // its name
	Text  string        // for the client: the limit, its value, the use and what to do
	Retry time.Duration // when to try again; 0: the request will never pass
}

// Outcome is what a request turned out to cost.
type Outcome struct {
	Read    int64 // bytes of the body that arrived
	Samples int64 // of a write; may be Untold
	Beside  int64 // what a write costs beside its samples, in samples
}

// Admission is a request that was let in. It is not safe for concurrent use.
type Admission struct {
	now      func() time.Time
	state    *state
	request  Request
	reserved float64 // samples
	entered  bool
}

// Admit lets a request in and charges what is known of its cost, or says which limit
// rejects it. Done must be called for an admission, once.
func (t *Tenants) Admit(r Request) (Admission, *Rejection) {
	now := t.now()
	st := t.get(r.Tenant, now)
	share, gateways := t.Share(r.Tenant)
	if rej := st.admit(now, &r, share, gateways); rej != nil {
		return Admission{}, rej
	}
	return Admission{now: t.now, state: st, request: r}, nil
}

// Enter takes what the request needs from when its whole body of so many bytes has arrived
// until Done: the samples that a write is expected to have, and one of the tenant's
// places for requests under way. A request that sends slowly holds neither.
func (a *Admission) Enter(length int64) *Rejection {
	if a.request.Cost == routes.Samples {
		var rej *Rejection
		if a.reserved, rej = a.state.reserve(a.now(), a.request.Limits, length); rej != nil {
			return rej
		}
	}
	if rej := a.state.enter(a.request.Limits); rej != nil {
		return rej
	}
	a.entered = true
	return nil
}

// Done gives back what the request holds, and charges what is known only now.
func (a *Admission) Done(o Outcome) {
	if a.entered {
		a.state.leave()
	}
	a.state.done(a.now(), a.request.Length, a.reserved, o)
}
