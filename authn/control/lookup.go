package control

import (
	"context"
	"errors"
	"fmt"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/limits"
)

// credential is a cached apikey.Credential and the policy that it depends on.
type credential struct {
	apikey.Credential
	policy string
}

// tenantLimits are a tenant's cached limits and the plan that they depend on.
type tenantLimits struct {
	limits.Limits
	plan string
}

// Credential returns the API key with the given ID, from the cache if it was read within
// the last 30 s. Deleted tenants are removed from its tenants. A key that does not exist,
// or whose policy or last tenant was deleted, is apikey.ErrNotFound. Any other error
// means that the store could not be read or a record is damaged.
func (c *Control) Credential(ctx context.Context, keyID string) (apikey.Credential, error) {
	if v, found, ok := c.credentials.get(keyID); ok {
		c.metrics.lookups.WithLabelValues("credential", "cache").Inc()
		if !found {
			return apikey.Credential{}, apikey.ErrNotFound
		}
		return v.Credential, nil
	}
	gen := c.credentials.generation()
	v, err := c.readCredential(ctx, keyID)
	if err != nil && !errors.Is(err, errNoRow) {
		c.metrics.lookups.WithLabelValues("credential", "error").Inc()
		return apikey.Credential{}, fmt.Errorf("look up API key: %w", err)
	}
	c.metrics.lookups.WithLabelValues("credential", "store").Inc()
	c.credentials.put(keyID, gen, v, err == nil)
	if err != nil {
		return apikey.Credential{}, apikey.ErrNotFound
	}
	return v.Credential, nil
}

// readCredential joins index, token, policy and tenants. It returns errNoRow if one of
// them does not exist, was written for another version of the hashes, or does not belong to the others.
func (c *Control) readCredential(ctx context.Context, keyID string) (credential, error) {
	if len(keyID) != apikey.KeyIDLength {
		return credential{}, errNoRow
	}
	var idx keyIndex
	if err := c.load(ctx, prefKeyIndex+keyID, &idx); err != nil {
		return credential{}, err
	}
	found, err := c.readRows(ctx, prefToken+idx.Token, policyKey(idx.Policy))
	if err != nil {
		return credential{}, err
	}
	var t token
	if err := decode(found[prefToken+idx.Token], &t); err != nil {
		return credential{}, err
	}
	var p Policy
	if err := decode(found[policyKey(idx.Policy)], &p); err != nil {
		return credential{}, err
	}
	if p.UID != t.PolicyUID {
		return credential{}, errNoRow
	}
	out := credential{policy: p.Name, Credential: apikey.Credential{
		KeyID: keyID, ExpiresAt: t.ExpiresAt, Revoked: !t.RevokedAt.IsZero(),
		Identity: tenant.Identity{Credential: t.ID, Name: t.Name, Scopes: p.Scopes, MaxConcurrentRequests: t.MaxConcurrentRequests},
	}}
	hash := t.Key
	if keyID != t.Key.ID {
		hash = t.Previous
		if t.PreviousUntil.Before(out.ExpiresAt) {
			out.ExpiresAt = t.PreviousUntil
		}
	}
	if keyID != hash.ID || hash.Pepper != c.pepper.Version() || copy(out.Hash[:], hash.Hash) != len(out.Hash) {
		return credential{}, errNoRow
	}
	out.Identity.Tenants, err = c.ActiveTenants(ctx, p.Tenants)
	if err == nil && len(out.Identity.Tenants) == 0 {
		err = errNoRow
	}
	return out, err
}

// Limits returns the tenant's limits, merged from the defaults, its plan and its
// overrides. A tenant that does not exist or was deleted is tenant.ErrUnknown. Any other
// error means that the store could not be read or a record is damaged.
func (c *Control) Limits(ctx context.Context, id tenant.ID) (limits.Limits, error) {
	if v, found, ok := c.limits.get(string(id)); ok {
		c.metrics.lookups.WithLabelValues("limits", "cache").Inc()
		if !found {
			return limits.Limits{}, tenant.ErrUnknown
		}
		return v.Limits, nil
	}
	gen := c.limits.generation()
	t, err := c.Tenant(ctx, id)
	var l limits.Limits
	if err == nil {
		l, err = c.Effective(ctx, t)
	}
	if err != nil && !errors.Is(err, tenant.ErrUnknown) {
		c.metrics.lookups.WithLabelValues("limits", "error").Inc()
		return limits.Limits{}, fmt.Errorf("look up limits: %w", err)
	}
	c.metrics.lookups.WithLabelValues("limits", "store").Inc()
	c.limits.put(string(id), gen, tenantLimits{Limits: l, plan: t.Plan}, err == nil)
	if err != nil {
		return limits.Limits{}, tenant.ErrUnknown
	}
	return l, nil
}

// Defaults returns the limits of a tenant without plan and overrides: the built-in limits
// with the changes of the configuration.
func (c *Control) Defaults() limits.Limits { return c.defaults }

// Effective returns the merged limits of a tenant, without using the cache.
func (c *Control) Effective(ctx context.Context, t Tenant) (limits.Limits, error) {
	var plan Plan
	if t.Plan != "" {
		var err error
		plan, err = c.Plan(ctx, t.Plan)
		if err != nil && !IsKind(err, NotFound) {
			return limits.Limits{}, err
		}
		if err != nil { // the plan was deleted while the tenant was moved to it
			c.logger.Warn("plan of a tenant does not exist: using the default limits", "tenant", t.ID, "plan", t.Plan)
		}
	}
	return limits.Merge(c.defaults, plan.Limits, t.Overrides), nil
}

// TenantDeleted reports whether a tenant was deleted. It always reads the store: an
// outdated cached result could bring deleted data back.
func (c *Control) TenantDeleted(ctx context.Context, id tenant.ID) (bool, error) {
	var t Tenant
	err := c.load(ctx, tenantKey(id), &t)
	if errors.Is(err, errNoRow) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read tenant %s: %w", id, err)
	}
	return t.Deleted(), nil
}
