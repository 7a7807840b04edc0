// Package quota enforces the limits of tenants at one gateway: the tenants' budgets of
// requests, bytes and samples, of which each gateway has a share, their concurrent
// requests and those of their tokens, and the gate that shares the gateway fairly between
// tenants.
//
// A request is admitted by its header, enters when its whole body has arrived, and is
// done when the response was sent; its cost is corrected each time.
package quota

import (
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/policies/routes"
)

// Request describes a request by its header.
type Request struct {
	Tenant tenant.ID
	Limits *limits.Limits // current limits of the tenant
	Cost   routes.Cost    // cost of the route
	Length int64          // Content-Length in bytes; -1: unknown
	// Token is the ID of the request's token, TokenLimit the number of its requests that
	// may be in progress at this gateway; 0 = no limit.
	Token      string
	TokenLimit int
}

// Rejection is the reason why a request exceeds a limit.
type Rejection struct {
	Limit string        // name of the limit
	Text  string        // for the client: the limit, its value, the current use and what to do
	Retry time.Duration // when the client should retry; 0: the request can never succeed
}

// Outcome is the actual cost of a request.
type Outcome struct {
	Read    int64 // bytes of the body that were received
	Samples int64 // samples of a write; may be UnknownSamples
	Extra   int64 // what a write costs in addition to its samples, in samples
}

// Admission is an admitted request. It is not safe for concurrent use.
type Admission struct {
	now      func() time.Time
	state    *state
	tokens   *tokens
	request  Request
	reserved float64 // samples
	entered  bool
	counted  bool // in tokens
}

// Admit admits a request and charges the cost that is known from its header, or returns
// the limit that it exceeds. Done must be called once for every admission.
func (t *Tenants) Admit(r Request) (Admission, *Rejection) {
	now := t.now()
	st := t.get(r.Tenant, now)
	share, gateways := t.Share(r.Tenant)
	if rej := st.admit(now, &r, share, gateways); rej != nil {
		return Admission{}, rej
	}
	return Admission{now: t.now, state: st, tokens: &t.tokens, request: r}, nil
}

// Enter reserves what the request needs after its body of length bytes has arrived, until
// Done: the samples that a write is expected to contain, and one of the concurrent requests
// of the token and of the tenant. A request whose body arrives slowly reserves none.
func (a *Admission) Enter(length int64) *Rejection {
	if most := a.request.TokenLimit; most > 0 {
		if rej := a.tokens.enter(a.request.Token, most); rej != nil {
			return rej
		}
		a.counted = true
	}
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

// Done releases what the request has reserved, and charges its actual cost.
func (a *Admission) Done(o Outcome) {
	if a.entered {
		a.state.leave()
	}
	if a.counted {
		a.tokens.leave(a.request.Token)
	}
	a.state.done(a.now(), a.request.Length, a.reserved, o)
}
