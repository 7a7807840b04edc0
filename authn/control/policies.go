package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/tenant"
)

// maxRealm bounds the number of tenants of one policy.
const maxRealm = 100

// Policy defines the rights of its API keys (Scopes) and the tenants for which they apply
// (Tenants). Its name never changes.
type Policy struct {
	Name        string         `json:"name"`
	UID         string         `json:"uid"` // distinguishes it from an earlier policy of the same name
	DisplayName string         `json:"displayName,omitempty"`
	Scopes      []tenant.Scope `json:"scopes"`
	Tenants     []tenant.ID    `json:"tenants"`           // sorted
	Derived     bool           `json:"derived,omitempty"` // created for keys that were issued with tenant and scopes
	CreatedAt   time.Time      `json:"createdAt"`
	UpdatedAt   time.Time      `json:"updatedAt"`
	ETag        string         `json:"-"`
}

func (p *Policy) setETag(e string) { p.ETag = e }

func policyKey(name string) string { return prefPolicy + name }

// CreatePolicy creates a policy with name, display name, scopes and tenants. The tenants
// must exist.
func (c *Control) CreatePolicy(ctx context.Context, p Policy) (Policy, error) {
	if err := checkName("name", p.Name); err != nil {
		return Policy{}, err
	}
	p.Derived = false
	p, ok, err := c.createPolicy(ctx, p)
	if err == nil && !ok {
		err = fail(Conflict, "name", "access policy %s already exists", p.Name)
	}
	if err != nil {
		return Policy{}, err
	}
	return p, nil
}

// createPolicy creates a policy and reports whether the name was free. No change is
// published, because no credential can be cached with the new UID.
func (c *Control) createPolicy(ctx context.Context, p Policy) (Policy, bool, error) {
	err := c.checkPolicy(ctx, &p, nil)
	if err != nil {
		return p, false, err
	}
	if p.UID, err = apikey.NewID(12); err != nil {
		return p, false, err
	}
	p.CreatedAt = c.moment()
	p.UpdatedAt = p.CreatedAt
	ok, err := c.save(ctx, policyKey(p.Name), "", &p)
	return p, ok, err
}

// checkPolicy validates scopes and tenants and sorts them. The tenants must exist, except
// those that the policy had before: they may have been deleted since.
func (c *Control) checkPolicy(ctx context.Context, p *Policy, had []tenant.ID) error {
	if err := checkText("displayName", p.DisplayName); err != nil {
		return err
	}
	var err error
	if p.Scopes, err = orderScopes(p.Scopes); err != nil {
		return err
	}
	if len(p.Tenants) == 0 {
		return fail(Invalid, "realms", "realms is empty: name at least one tenant")
	}
	p.Tenants = slices.Clone(p.Tenants)
	slices.Sort(p.Tenants)
	p.Tenants = slices.Compact(p.Tenants)
	if len(p.Tenants) > maxRealm {
		return fail(Invalid, "realms", "realms names %d tenants; the limit is %d", len(p.Tenants), maxRealm)
	}
	for _, id := range p.Tenants {
		if _, err := tenant.ParseID(string(id)); err != nil {
			return fail(Invalid, "realms", "%s", err)
		}
	}
	active, err := c.ActiveTenants(ctx, p.Tenants)
	if err != nil {
		return err
	}
	for _, id := range p.Tenants {
		if !slices.Contains(active, id) && !slices.Contains(had, id) {
			if _, err := c.Tenant(ctx, id); err != nil {
				return asRealm(err)
			}
		}
	}
	return nil
}

// asRealm turns an *Error about a tenant into an Invalid error of the field realms.
func asRealm(err error) error {
	var e *Error
	if errors.As(err, &e) {
		changed := *e
		changed.Kind, changed.Field = Invalid, "realms"
		return &changed
	}
	return err
}

// ActiveTenants returns the given IDs without the ones whose tenant does not exist or was
// deleted.
func (c *Control) ActiveTenants(ctx context.Context, ids []tenant.ID) ([]tenant.ID, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	keys := make([]string, 0, len(ids))
	for _, id := range ids {
		keys = append(keys, tenantKey(id))
	}
	found, err := c.readRows(ctx, keys...)
	if err != nil {
		return nil, fmt.Errorf("read tenants: %w", err)
	}
	var out []tenant.ID
	for _, id := range ids {
		var t Tenant
		err := decode(found[tenantKey(id)], &t)
		if err != nil && !errors.Is(err, errNoRow) {
			return nil, err
		}
		if err == nil && !t.Deleted() {
			out = append(out, id)
		}
	}
	return out, nil
}

// orderScopes validates scopes, sorts them in the documented order and removes
// duplicates.
func orderScopes(scopes []tenant.Scope) ([]tenant.Scope, error) {
	if len(scopes) == 0 {
		return nil, fail(Invalid, "scopes", "scopes is empty: name at least one of %s", scopeList())
	}
	for _, s := range scopes {
		if !s.Valid() {
			return nil, fail(Invalid, "scopes", "unknown scope %.100q: use %s", s, scopeList())
		}
	}
	var out []tenant.Scope
	for _, s := range tenant.Scopes() {
		if slices.Contains(scopes, s) {
			out = append(out, s)
		}
	}
	return out, nil
}

func scopeList() string { return joinScopes(tenant.Scopes(), ", ") }

func joinScopes(scopes []tenant.Scope, sep string) string {
	var s []string
	for _, sc := range scopes {
		s = append(s, string(sc))
	}
	return strings.Join(s, sep)
}

// derivedPolicy returns the policy for keys that are issued with a tenant and scopes
// instead of a policy, and creates it if it does not exist. Its name contains a colon,
// which is not allowed in the names of other policies, and lists all rights.
func (c *Control) derivedPolicy(ctx context.Context, id tenant.ID, scopes []tenant.Scope) (Policy, error) {
	scopes, err := orderScopes(scopes)
	if err != nil {
		return Policy{}, err
	}
	if _, err := c.Tenant(ctx, id); err != nil {
		return Policy{}, err
	}
	name := string(id) + ":" + joinScopes(scopes, "+")
	for range 3 { // retries if it is created or deleted concurrently
		p, err := c.Policy(ctx, name)
		if !IsKind(err, NotFound) {
			return p, err
		}
		p, ok, err := c.createPolicy(ctx, Policy{Name: name, Scopes: scopes, Tenants: []tenant.ID{id}, Derived: true})
		if ok || err != nil {
			return p, err
		}
	}
	return Policy{}, fail(Conflict, "tenant", "access policy %s was created or deleted by concurrent requests: try again", name)
}

// Policy returns an access policy.
func (c *Control) Policy(ctx context.Context, name string) (Policy, error) {
	missing := fail(NotFound, "accessPolicyId", "access policy %.300q does not exist", name)
	var p Policy
	if len(name) > 2*maxName {
		return Policy{}, missing
	}
	err := c.load(ctx, policyKey(name), &p)
	if errors.Is(err, errNoRow) {
		return Policy{}, missing
	}
	return p, err
}

// Policies lists access policies by name. A tenant other than "" selects the policies
// that include it.
func (c *Control) Policies(ctx context.Context, p Page, in tenant.ID) (out []Policy, next string, err error) {
	next, err = c.list(ctx, prefPolicy, "tenant="+string(in), p, func(r row) (bool, error) {
		var v Policy
		if err := decode(r, &v); err != nil || in != "" && !slices.Contains(v.Tenants, in) {
			return false, err
		}
		if len(out) < pageSize(p) {
			out = append(out, v)
		}
		return true, nil
	})
	return out, next, err
}

// UpdatePolicy replaces display name, scopes and tenants of the policy if its ETag is p.ETag. The
// rights of its keys change immediately in this process, and within a second in others.
func (c *Control) UpdatePolicy(ctx context.Context, p Policy) (Policy, error) {
	old, err := c.Policy(ctx, p.Name)
	if err != nil {
		return Policy{}, err
	}
	if err := match(p.ETag, old.ETag); err != nil {
		return Policy{}, err
	}
	if old.Derived {
		return Policy{}, fail(Conflict, "name",
			"access policy %s was created automatically for keys with a tenant and scopes and cannot be changed: create another policy", p.Name)
	}
	if err := c.checkPolicy(ctx, &p, old.Tenants); err != nil {
		return Policy{}, err
	}
	next := old
	next.DisplayName, next.Scopes, next.Tenants, next.UpdatedAt = p.DisplayName, p.Scopes, p.Tenants, c.moment()
	return next, c.replace(ctx, policyKey(p.Name), old.ETag, &next, changedPolicy, p.Name)
}

// DeletePolicy deletes a policy. If the policy has API keys, that is a Conflict unless
// cascade is set, which also deletes the keys.
func (c *Control) DeletePolicy(ctx context.Context, name, etag string, cascade bool) error {
	p, err := c.Policy(ctx, name)
	if err != nil {
		return err
	}
	if err := match(etag, p.ETag); err != nil {
		return err
	}
	tokens, err := c.policyTokens(ctx, p)
	if err != nil {
		return err
	}
	if len(tokens) > 0 && !cascade {
		e := fail(Conflict, "cascade", "access policy %s has API keys (%d), such as %s: delete them first", name, len(tokens), tokens[0].ID)
		e.Hint = "?cascade=true deletes them with the policy"
		return e
	}
	// Delete the policy first: all its keys are invalid from then on, including one
	// that is being issued concurrently, because they refer to its UID.
	ok, err := c.remove(ctx, policyKey(name), p.ETag)
	if err != nil {
		return err
	}
	if !ok {
		return stale()
	}
	if err := c.publish(ctx, changedPolicy, name); err != nil {
		return err
	}
	for _, t := range tokens {
		if err := c.removeToken(ctx, t); err != nil && !IsKind(err, Stale) {
			return err
		}
	}
	return nil
}
