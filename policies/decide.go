// Package policies decides what a proven identity may do. It is pure: no
// clock, no store, no request; authn says who somebody is, the gateway says
// what is asked, and Decide answers with the Access that the backend will hold
// the request to, or with a reason.
package policies

import (
	"strings"

	"github.com/palliumhq/pallium/authn/tenant"
)

// Reason is a stable code for why a request was allowed or rejected. It goes
// into logs, metrics and the audit trail.
type Reason string

// Every reason there is.
const (
	Allowed            Reason = "allowed"
	MissingScope       Reason = "missing_scope"        // the credential lacks the scope of the route
	NoTenants          Reason = "no_tenants"           // the credential is good for no tenant at all
	SelectorRequired   Reason = "selector_required"    // several tenants to choose from, none chosen
	SelectorInvalid    Reason = "selector_invalid"     // what was chosen is not a tenant ID
	SelectorFederation Reason = "selector_federation"  // more than one tenant was chosen
	TenantNotAllowed   Reason = "tenant_not_allowed"   // the chosen tenant is outside the credential's realm
	BasicUserDisagrees Reason = "basic_user_disagrees" // Basic user and X-Scope-OrgID name different tenants
)

// Action is what a request asks for.
type Action struct {
	Scope     tenant.Scope // what the route needs
	Selector  string       // X-Scope-OrgID as sent; "" when absent
	BasicUser string       // user of Basic credentials; "" when absent
}

// Decision is the answer to an Action. Access is meaningful only if Allowed;
// otherwise it is zero, which grants nothing.
type Decision struct {
	Allowed bool
	Reason  Reason
	Access  tenant.Access
}

// Decide answers whether the identity may do the action, and as which tenant.
// The selector and the Basic user only choose among the identity's tenants;
// they never add one. Nothing chosen is enough for an identity of one tenant.
func Decide(id tenant.Identity, a Action) Decision {
	if len(id.Tenants) == 0 {
		return reject(NoTenants)
	}
	if a.Scope == "" || !id.Has(a.Scope) {
		return reject(MissingScope)
	}
	chosen, reason := choose(a)
	if reason != Allowed {
		return reject(reason)
	}
	if chosen == "" {
		if len(id.Tenants) > 1 {
			return reject(SelectorRequired)
		}
		chosen = id.Tenants[0]
	}
	if !id.MayActFor(chosen) {
		return reject(TenantNotAllowed)
	}
	// Identities come from a key store or from claims; a tenant that is not
	// a valid ID must not get further than this, whoever let it in.
	if _, err := tenant.ParseID(string(chosen)); err != nil {
		return reject(TenantNotAllowed)
	}
	return Decision{
		Allowed: true,
		Reason:  Allowed,
		Access:  tenant.Access{Tenant: chosen, Policy: tenant.Unrestricted()},
	}
}

// choose returns the one tenant that selector and Basic user name, or "" when
// neither is given.
func choose(a Action) (tenant.ID, Reason) {
	selected := tenant.ID("")
	if a.Selector != "" {
		if strings.Contains(a.Selector, "|") {
			return "", SelectorFederation
		}
		id, err := tenant.ParseID(a.Selector)
		if err != nil {
			return "", SelectorInvalid
		}
		selected = id
	}
	if a.BasicUser == "" {
		return selected, Allowed
	}
	// A Basic user is part of the credential. One that cannot be a tenant is
	// answered as one that is not allowed: it proves nothing about names.
	user, err := tenant.ParseID(a.BasicUser)
	if err != nil {
		return "", TenantNotAllowed
	}
	if selected != "" && selected != user {
		return "", BasicUserDisagrees
	}
	return user, Allowed
}

func reject(r Reason) Decision { return Decision{Reason: r} }
