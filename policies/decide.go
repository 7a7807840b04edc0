// Package policies decides what an authenticated identity may do. It is pure: it uses no
// clock, no store and no request. authn determines the identity, the gateway determines
// the requested action, and Decide returns the Access that the backend enforces, or the
// reason for a rejection.
package policies

import (
	"strings"

	"github.com/palliumhq/pallium/authn/tenant"
)

// Reason is a stable code for why a request was allowed or rejected. It is used in logs,
// metrics and the audit log.
type Reason string

// All reasons.
const (
	Allowed            Reason = "allowed"
	MissingScope       Reason = "missing_scope"        // the credential lacks the scope of the route
	NoTenants          Reason = "no_tenants"           // the credential is not valid for any tenant
	SelectorRequired   Reason = "selector_required"    // the credential has several tenants, and the request selects none
	SelectorInvalid    Reason = "selector_invalid"     // the selected tenant is not a valid tenant ID
	SelectorFederation Reason = "selector_federation"  // the request selects more than one tenant
	TenantNotAllowed   Reason = "tenant_not_allowed"   // the credential is not valid for the selected tenant
	BasicUserDisagrees Reason = "basic_user_disagrees" // user name and X-Scope-OrgID name different tenants
)

// Action is what a request wants to do.
type Action struct {
	Scope     tenant.Scope // the scope that the route requires
	Selector  string       // value of X-Scope-OrgID; "" if absent
	BasicUser string       // user name of Basic authentication; "" if absent
}

// Decision is the result of Decide. Access is only set if Allowed; otherwise it is zero,
// which grants nothing.
type Decision struct {
	Allowed bool
	Reason  Reason
	Access  tenant.Access
}

// Decide decides whether the identity may do the action, and for which tenant. The
// selector and the Basic user only select one of the identity's tenants; they never add
// one. An identity with one tenant does not need to select it.
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
	// Identities come from a key store or from claims. As a last check, a tenant that
	// is not a valid ID is rejected here.
	if _, err := tenant.ParseID(string(chosen)); err != nil {
		return reject(TenantNotAllowed)
	}
	return Decision{
		Allowed: true,
		Reason:  Allowed,
		Access:  tenant.Access{Tenant: chosen, Policy: tenant.Unrestricted()},
	}
}

// choose returns the tenant that selector and Basic user name, or "" if both are empty.
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
	// The user name is part of the credential. If it is not a valid tenant ID, the
	// reason is the same as for a tenant that is not allowed.
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
