package tenant

import "slices"

// Scope is a right of a credential. The names are those of Grafana Cloud and GEM, so that
// their policies can be reused.
type Scope string

// The scopes. There is no admin scope: the admin API has a credential of its own.
const (
	MetricsRead   Scope = "metrics:read"
	MetricsWrite  Scope = "metrics:write"
	MetricsDelete Scope = "metrics:delete"
	RulesRead     Scope = "rules:read"
	RulesWrite    Scope = "rules:write"
	AlertsRead    Scope = "alerts:read"
	AlertsWrite   Scope = "alerts:write"
)

// Scopes returns all scopes, in the order of the documentation.
func Scopes() []Scope {
	return []Scope{MetricsRead, MetricsWrite, MetricsDelete, RulesRead, RulesWrite, AlertsRead, AlertsWrite}
}

// Valid reports whether the scope exists.
func (s Scope) Valid() bool { return slices.Contains(Scopes(), s) }

// Identity is what a valid credential proves: who the client is and which rights it has.
// It is not a decision; package policies decides.
type Identity struct {
	Credential string  // public id: "tk_..." of an API key, "jwt:<issuer>/<subject>" of a JWT
	Name       string  // the name of an API key, or the subject of a JWT; for logs and audit
	Tenants    []ID    // tenants the credential may act for, sorted, without duplicates
	Scopes     []Scope // the rights of the credential in those tenants
	// MaxConcurrentRequests is how many requests of the credential may be in progress at
	// one gateway; 0 = no limit of its own.
	MaxConcurrentRequests int
}

// Has reports whether the identity has the scope.
func (i Identity) Has(s Scope) bool { return slices.Contains(i.Scopes, s) }

// MayActFor reports whether the identity may act for the tenant.
func (i Identity) MayActFor(id ID) bool { return slices.Contains(i.Tenants, id) }
