package admin

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/control"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies"
)

type policyBody struct {
	Name        string         `json:"name"`
	DisplayName string         `json:"displayName"`
	Scopes      []tenant.Scope `json:"scopes"`
	Realms      []realm        `json:"realms"`

	// Not supported yet. They are decoded so that they can be rejected: ignoring
	// them would grant more than was requested.
	Subjects   json.RawMessage `json:"subjects,omitempty"`
	Conditions json.RawMessage `json:"conditions,omitempty"`
	Limits     json.RawMessage `json:"limits,omitempty"`
}

type realm struct {
	Tenant        tenant.ID       `json:"tenant"`
	LabelPolicies json.RawMessage `json:"labelPolicies,omitempty"`
	WritePolicy   json.RawMessage `json:"writePolicy,omitempty"`
}

type policyView struct {
	ID          string         `json:"id"`
	Name        string         `json:"name"`
	DisplayName string         `json:"displayName"`
	Scopes      []tenant.Scope `json:"scopes"`
	Realms      []realm        `json:"realms"`
	Derived     bool           `json:"derived"`
	CreatedAt   time.Time      `json:"createdAt"`
	UpdatedAt   time.Time      `json:"updatedAt"`
}

func viewPolicy(p control.Policy) policyView {
	v := policyView{
		ID: p.Name, Name: p.Name, DisplayName: p.DisplayName, Scopes: p.Scopes, Realms: []realm{},
		Derived: p.Derived, CreatedAt: p.CreatedAt, UpdatedAt: p.UpdatedAt,
	}
	for _, t := range p.Tenants {
		v.Realms = append(v.Realms, realm{Tenant: t})
	}
	return v
}

// policy returns the policy of the body, or an error if the body uses a feature that is
// not supported.
func (b policyBody) policy() (control.Policy, error) {
	p := control.Policy{Name: b.Name, DisplayName: b.DisplayName, Scopes: b.Scopes}
	for field, v := range map[string]json.RawMessage{"subjects": b.Subjects, "conditions": b.Conditions, "limits": b.Limits} {
		if v != nil {
			return p, badField(field, "%s of an access policy are not supported yet: leave them out", field)
		}
	}
	for _, r := range b.Realms {
		if r.LabelPolicies != nil {
			return p, badField("labelPolicies", "label policies are not supported yet: leave labelPolicies out only if the policy may read all "+
				"series of tenant %q",
				shorten(string(r.Tenant)))
		}
		if r.WritePolicy != nil {
			return p, badField("writePolicy", "write policies are not supported yet: leave writePolicy out only if the policy may write series "+
				"with any labels to tenant %q",
				shorten(string(r.Tenant)))
		}
		p.Tenants = append(p.Tenants, r.Tenant)
	}
	return p, nil
}

func (a *api) listPolicies(w http.ResponseWriter, r *http.Request) error {
	p, q, err := page(r, "tenant")
	if err != nil {
		return err
	}
	items, next, err := a.control.Policies(r.Context(), p, tenant.ID(q.Get("tenant")))
	if err != nil {
		return err
	}
	return list(w, items, next, viewPolicy)
}

func (a *api) createPolicy(w http.ResponseWriter, r *http.Request) error {
	var b policyBody
	if err := decode(r, &b, false); err != nil {
		return err
	}
	p, err := b.policy()
	if err != nil {
		return err
	}
	if p, err = a.control.CreatePolicy(r.Context(), p); err != nil {
		return err
	}
	return created(w, p.ETag, viewPolicy(p), "access-policies", p.Name)
}

func (a *api) getPolicy(w http.ResponseWriter, r *http.Request) error {
	p, err := a.control.Policy(r.Context(), param(r, "policy"))
	if err != nil {
		return err
	}
	return resource(w, http.StatusOK, p.ETag, viewPolicy(p))
}

func (a *api) putPolicy(w http.ResponseWriter, r *http.Request) error {
	etag, err := ifMatch(r)
	if err != nil {
		return err
	}
	var b policyBody
	if err := decode(r, &b, false); err != nil {
		return err
	}
	name := param(r, "policy")
	if err := sameName(name, b.Name); err != nil {
		return err
	}
	p, err := b.policy()
	if err != nil {
		return err
	}
	p.Name, p.ETag = name, etag
	if p, err = a.control.UpdatePolicy(r.Context(), p); err != nil {
		return err
	}
	return resource(w, http.StatusOK, p.ETag, viewPolicy(p))
}

func (a *api) deletePolicy(w http.ResponseWriter, r *http.Request) error {
	etag, err := ifMatch(r)
	if err != nil {
		return err
	}
	q, err := query(r, "cascade")
	if err != nil {
		return err
	}
	cascade, err := flag(q, "cascade")
	if err != nil {
		return err
	}
	if err := a.control.DeletePolicy(r.Context(), param(r, "policy"), etag, cascade); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

type simulateBody struct {
	AccessPolicyID string       `json:"accessPolicyId"`
	TokenID        string       `json:"tokenId"`
	Tenant         string       `json:"tenant"` // value of X-Scope-OrgID; may be empty
	Scope          tenant.Scope `json:"scope"`
}

type simulateView struct {
	Allowed     bool      `json:"allowed"`
	Reason      string    `json:"reason"`
	Tenant      tenant.ID `json:"tenant,omitempty"`
	LabelPolicy string    `json:"labelPolicy,omitempty"`
}

// simulate responds with the decision that the edge would make for a token or a policy.
func (a *api) simulate(w http.ResponseWriter, r *http.Request) error {
	var b simulateBody
	if err := decode(r, &b, false); err != nil {
		return err
	}
	if !b.Scope.Valid() {
		return badField("scope", "unknown scope %q; docs/admin-api.md lists the scopes", shorten(string(b.Scope)))
	}
	if (b.AccessPolicyID == "") == (b.TokenID == "") {
		return badField("accessPolicyId", "set exactly one of accessPolicyId and tokenId")
	}
	id, rejection, err := a.simulated(r, b)
	if err != nil {
		return err
	}
	v := simulateView{Reason: rejection}
	if rejection == "" {
		d := policies.Decide(id, policies.Action{Scope: b.Scope, Selector: b.Tenant})
		v = simulateView{Allowed: d.Allowed, Reason: string(d.Reason), Tenant: d.Access.Tenant}
		if d.Allowed && d.Access.Policy.IsUnrestricted() {
			v.LabelPolicy = "unrestricted"
		}
	}
	writeJSON(w, http.StatusOK, v)
	return nil
}

// simulated returns the identity that the edge would derive, or the reason why it would
// reject the credential.
func (a *api) simulated(r *http.Request, b simulateBody) (id tenant.Identity, rejection string, err error) {
	if b.TokenID == "" {
		p, err := a.control.Policy(r.Context(), b.AccessPolicyID)
		if err != nil {
			return id, "", err
		}
		active, err := a.control.ActiveTenants(r.Context(), p.Tenants)
		return tenant.Identity{Credential: p.Name, Tenants: slices.Clone(active), Scopes: p.Scopes}, "", err
	}
	t, err := a.control.Token(r.Context(), b.TokenID)
	if err != nil {
		return id, "", err
	}
	if s := t.Status(a.now()); s == control.TokenExpired || s == control.TokenRevoked {
		return id, "token_" + s, nil
	}
	cred, err := a.control.Credential(r.Context(), t.KeyID)
	if errors.Is(err, apikey.ErrNotFound) {
		return id, string(policies.NoTenants), nil
	}
	return cred.Identity, "", err
}
