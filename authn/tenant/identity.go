package tenant

import "slices"

// Scope is one thing a credential may do, in the words of Grafana Cloud and
// GEM so that their policies read the same here.
type Scope string

// The scopes of the data plane. There is no admin scope: the admin API has a
// credential of its own.
const (
	MetricsRead   Scope = "metrics:read"
	MetricsWrite  Scope = "metrics:write"
	MetricsDelete Scope = "metrics:delete"
	RulesRead     Scope = "rules:read"
	RulesWrite    Scope = "rules:write"
	AlertsRead    Scope = "alerts:read"
	AlertsWrite   Scope = "alerts:write"
)

// Scopes lists every scope, in the order in which they are documented.
func Scopes() []Scope {
	return []Scope{MetricsRead, MetricsWrite, MetricsDelete, RulesRead, RulesWrite, AlertsRead, AlertsWrite}
}

// Valid reports whether s is a scope that exists.
func (s Scope) Valid() bool { return slices.Contains(Scopes(), s) }

// Identity is what a valid credential proves: who it is and what it may touch.
// It is never a decision; package policies decides.
type Identity struct {
	Credential string  // public id: "tk_..." of an API key, "jwt:<issuer>/<subject>" of a JWT
	Name       string  // what the admin called it, for logs and audit
	Tenants    []ID    // tenants the credential may act for, sorted, without duplicates
	Scopes     []Scope // what it may do there
}

// Has reports whether the identity holds the scope.
func (i Identity) Has(s Scope) bool { return slices.Contains(i.Scopes, s) }

// MayActFor reports whether the tenant is within the identity's realm.
func (i Identity) MayActFor(id ID) bool { return slices.Contains(i.Tenants, id) }
