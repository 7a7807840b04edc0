package tenant

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// The headers between edge and backend. The edge deletes whatever a client
// sends under these names and sets its own; nothing else may.
const (
	HeaderOrgID  = "X-Scope-OrgID"
	HeaderPolicy = "X-Pallium-Policy"
)

// LabelPolicy says which of a tenant's series a request may see. The zero
// value sees nothing: a policy that got lost on the way denies.
type LabelPolicy struct {
	unrestricted bool
}

// Unrestricted is the policy of a credential that sees all of its tenant.
func Unrestricted() LabelPolicy { return LabelPolicy{unrestricted: true} }

// IsUnrestricted reports whether every series may be seen.
func (p LabelPolicy) IsUnrestricted() bool { return p.unrestricted }

const policyUnrestricted = "unrestricted"

// Access is what the edge granted to one request: the tenant it acts for and
// the label policy it is held to.
type Access struct {
	Tenant ID
	Policy LabelPolicy
}

var (
	errNoAccess = errors.New("request carries no tenant: it did not come through the gateway")
	errNoPolicy = errors.New("request carries no label policy: access is denied")
)

// Check reports whether the access names a valid tenant and a policy.
func (a Access) Check() error {
	if a.Tenant == "" {
		return errNoAccess
	}
	if _, err := ParseID(string(a.Tenant)); err != nil {
		return err
	}
	if !a.Policy.unrestricted {
		return errNoPolicy
	}
	return nil
}

type contextKey struct{}

// NewContext returns a context that carries the access.
func NewContext(ctx context.Context, a Access) context.Context {
	return context.WithValue(ctx, contextKey{}, a)
}

// FromContext returns the access that the edge granted, or an error when there
// is none or it lacks a tenant or a policy. There is no default tenant.
func FromContext(ctx context.Context) (Access, error) {
	a, ok := ctx.Value(contextKey{}).(Access)
	if !ok {
		return Access{}, errNoAccess
	}
	if err := a.Check(); err != nil {
		return Access{}, err
	}
	return a, nil
}

// SetHeaders writes the access into the headers of a request to the backend.
func (a Access) SetHeaders(h http.Header) {
	h.Set(HeaderOrgID, string(a.Tenant))
	h.Del(HeaderPolicy)
	if a.Policy.unrestricted {
		h.Set(HeaderPolicy, policyUnrestricted)
	}
}

// AccessFromHeaders is the reverse of SetHeaders, for a backend that is reached
// over the network. Repeated headers and unknown policies are errors.
func AccessFromHeaders(h http.Header) (Access, error) {
	orgs, pols := h.Values(HeaderOrgID), h.Values(HeaderPolicy)
	if len(orgs) == 0 {
		return Access{}, errNoAccess
	}
	if len(orgs) > 1 || len(pols) > 1 {
		return Access{}, fmt.Errorf("headers %s and %s must stand once", HeaderOrgID, HeaderPolicy)
	}
	id, err := ParseID(orgs[0])
	if err != nil {
		return Access{}, err
	}
	if len(pols) == 0 {
		return Access{}, errNoPolicy
	}
	if pols[0] != policyUnrestricted {
		return Access{}, fmt.Errorf("label policy %q is not known to this version", pols[0])
	}
	return Access{Tenant: id, Policy: Unrestricted()}, nil
}
