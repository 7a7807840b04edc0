package authn

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/lru"
)

// issuers holds all issuers with their keys, and the cache of tokens verified with them.
// A reload creates a new one, so that a cached token never outlives its key set.
type issuers struct {
	byIss    map[string]*issuer
	verified *lru.Cache[[32]byte, verified]
}

type issuer struct {
	iss         string
	audiences   map[string]bool
	methods     map[string]jwt.SigningMethod // allow-list by alg
	keys        keySet
	typ         string
	leeway      time.Duration
	maxLifetime time.Duration

	tenantClaim string
	tenantMap   []tenantRule
	scopeClaim  string
	scopeMap    []scopeRule
}

type tenantRule struct {
	match  *regexp.Regexp
	tenant string // template for Expand
}

type scopeRule struct {
	match  *regexp.Regexp
	scopes []tenant.Scope
}

// identity builds the identity that the claims describe. If no tenant or scope is valid,
// the identity has none and the request is rejected with 403; there is no default. If the
// subject is invalid, the second result is the reason code.
func (i *issuer) identity(claims map[string]any) (tenant.Identity, string) {
	sub := ""
	if v, present := claims["sub"]; present {
		s, ok := v.(string)
		if !ok || len(s) > maxSubject || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return tenant.Identity{}, "jwt_subject"
		}
		sub = s
	}
	return tenant.Identity{
		Credential: "jwt:" + i.iss + "/" + sub,
		Name:       sub,
		Tenants:    i.tenants(claims[i.tenantClaim]),
		Scopes:     i.scopes(claims[i.scopeClaim]),
	}, ""
}

// tenants maps the claim to tenant IDs. If there is a mapping, values without a matching rule are
// ignored. One invalid ID invalidates the whole claim: a token with one wrong value is not trusted
// for the others. The tenant of Pallium's own metrics also invalidates the claim, unless a mapping
// names it explicitly: its metrics reveal the names of all tenants, and with some providers users
// choose the names of their groups.
func (i *issuer) tenants(claim any) []tenant.ID {
	values, ok := stringList(claim)
	if !ok || len(values) > maxTenants {
		return nil
	}
	var ids []tenant.ID
	for _, v := range values {
		selfNamed := false
		if len(i.tenantMap) > 0 {
			rule := i.findRule(v)
			if rule == nil {
				continue
			}
			selfNamed = rule.tenant == string(tenant.Self)
			v = rule.match.ReplaceAllString(v, rule.tenant)
		}
		id, err := tenant.ParseID(v)
		if err != nil || id == tenant.Self && !selfNamed {
			return nil
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// findRule returns the first matching rule, or nil.
func (i *issuer) findRule(v string) *tenantRule {
	for n := range i.tenantMap {
		if i.tenantMap[n].match.MatchString(v) {
			return &i.tenantMap[n]
		}
	}
	return nil
}

// scopes returns the scopes of a claim: a list, or one string of words separated by spaces as in
// OAuth 2.0. Without a mapping, it ignores words that are not Pallium's scopes (openid, profile).
// With a mapping, it returns the scopes of all rules that match a word, and ignores other words.
func (i *issuer) scopes(claim any) []tenant.Scope {
	values, ok := stringList(claim)
	if !ok {
		return nil
	}
	if s, isString := claim.(string); isString {
		values = strings.Fields(s)
	}
	var out []tenant.Scope
	for _, v := range values {
		if len(i.scopeMap) == 0 {
			if s := tenant.Scope(v); s.Valid() {
				out = append(out, s)
			}
			continue
		}
		for _, r := range i.scopeMap {
			if r.match.MatchString(v) {
				out = append(out, r.scopes...)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// loadIssuers checks the configuration and loads every key set.
func loadIssuers(cfgs []IssuerConfig) (*issuers, error) {
	set := &issuers{byIss: make(map[string]*issuer), verified: lru.New[[32]byte, verified](int64(maxVerified), nil)}
	for _, c := range cfgs {
		i, err := newIssuer(c)
		if err != nil {
			return nil, fmt.Errorf("issuer %q: %w", c.Issuer, err)
		}
		if _, dup := set.byIss[i.iss]; dup {
			return nil, fmt.Errorf("issuer %q is configured twice: merge the two entries", c.Issuer)
		}
		set.byIss[i.iss] = i
	}
	return set, nil
}
