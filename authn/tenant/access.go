package tenant

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// The headers between edge and backend. Only the edge sets them; it does not forward headers of the
// client with these names.
const (
	HeaderOrgID  = "X-Scope-OrgID"
	HeaderPolicy = "X-Pallium-Policy"
)

// LabelPolicy determines which of a tenant's series a request may read. The zero value
// allows none, so that a missing policy denies access.
type LabelPolicy struct {
	unrestricted bool
}

// Unrestricted returns the policy of a credential that may read all series of its tenant.
func Unrestricted() LabelPolicy { return LabelPolicy{unrestricted: true} }

// IsUnrestricted reports whether all series may be read.
func (p LabelPolicy) IsUnrestricted() bool { return p.unrestricted }

// String returns the whole policy as text, for cache keys: policies with the same text allow
// the same series.
func (p LabelPolicy) String() string {
	if p.unrestricted {
		return policyUnrestricted
	}
	return "none"
}

const policyUnrestricted = "unrestricted"

// Access is the access that the edge granted to one request: the tenant for which the request acts,
// and the label policy that restricts it.
type Access struct {
	Tenant ID
	Policy LabelPolicy
}

var (
	errNoAccess = errors.New("request has no tenant: it did not come through the gateway")
	errNoPolicy = errors.New("request has no label policy (" + HeaderPolicy + "): it did not come through a gateway of this version")
)

// Check returns an error unless the access has a valid tenant and a policy.
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

// NewContext returns a context with the access.
func NewContext(ctx context.Context, a Access) context.Context {
	return context.WithValue(ctx, contextKey{}, a)
}

// FromContext returns the access that the edge granted. It returns an error if there is
// none, or if it lacks a tenant or a policy. There is no default tenant.
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

// SetHeaders sets the headers of a request to the backend that transport the access.
func (a Access) SetHeaders(h http.Header) {
	h.Set(HeaderOrgID, string(a.Tenant))
	h.Del(HeaderPolicy)
	if a.Policy.unrestricted {
		h.Set(HeaderPolicy, policyUnrestricted)
	}
}

// AccessFromHeaders is the reverse of SetHeaders, for a backend that is reached over the
// network. Repeated headers and unknown policies are errors.
func AccessFromHeaders(h http.Header) (Access, error) {
	orgs, pols := h.Values(HeaderOrgID), h.Values(HeaderPolicy)
	if len(orgs) == 0 {
		return Access{}, errNoAccess
	}
	if len(orgs) > 1 || len(pols) > 1 {
		return Access{}, fmt.Errorf("headers %s and %s must not be repeated", HeaderOrgID, HeaderPolicy)
	}
	id, err := ParseID(orgs[0])
	if err != nil {
		return Access{}, err
	}
	if len(pols) == 0 {
		return Access{}, errNoPolicy
	}
	if pols[0] != policyUnrestricted {
		return Access{}, fmt.Errorf("label policy %q is not supported by this version", pols[0])
	}
	return Access{Tenant: id, Policy: Unrestricted()}, nil
}
