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
	"github.com/palliumhq/pallium/backend/rows"
)

// Lifetimes of API keys.
const (
	DefaultExpiry = 365 * 24 * time.Hour
	DefaultGrace  = 24 * time.Hour      // of the old key after a rotation
	MaxGrace      = 30 * 24 * time.Hour // of the old key after a rotation
)

// Never returns the expiry of a key that does not expire. It is a regular time, so that a
// missing (zero) expiry rejects the key.
func Never() time.Time { return time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) }

// Token is one API key as administrators see it. A rotation gives it a new key ID and
// secret; its ID, name and policy stay.
type Token struct {
	ID         string
	Name       string
	Policy     string
	Scopes     []tenant.Scope // current scopes of the policy
	Tenants    []tenant.ID    // current tenants of the policy
	KeyID      string
	CreatedAt  time.Time
	ExpiresAt  time.Time
	RevokedAt  time.Time // zero: not revoked
	RotatedAt  time.Time // zero: never rotated
	LastUsedAt time.Time // accurate to about a minute; zero: no use was written

	PreviousKeyID      string // the key before the last rotation
	PreviousValidUntil time.Time
	TenantsDeleted     bool // all tenants of the policy were deleted

	// MaxConcurrentRequests is how many requests with the token's keys may be in progress
	// at one gateway; 0 = no limit of its own.
	MaxConcurrentRequests int
	ETag                  string
}

// The statuses of tokens.
const (
	TokenActive        = "active"
	TokenExpired       = "expired"
	TokenRevoked       = "revoked"
	TokenTenantDeleted = "tenant_deleted" // its keys work for no tenant any more
)

// Status returns the status of the token.
func (t Token) Status(now time.Time) string {
	switch {
	case !t.RevokedAt.IsZero():
		return TokenRevoked
	case !now.Before(t.ExpiresAt):
		return TokenExpired
	case t.TenantsDeleted:
		return TokenTenantDeleted
	default:
		return TokenActive
	}
}

// token is the stored record of a Token.
type token struct {
	ID            string    `json:"id"`
	Name          string    `json:"name"`
	Policy        string    `json:"policy"`
	PolicyUID     string    `json:"policyUid"`
	Key           keyHash   `json:"key"`
	Previous      keyHash   `json:"previous,omitzero"`
	PreviousUntil time.Time `json:"previousUntil,omitzero"`
	CreatedAt     time.Time `json:"createdAt"`
	ExpiresAt     time.Time `json:"expiresAt"`
	RevokedAt     time.Time `json:"revokedAt,omitzero"`
	RotatedAt     time.Time `json:"rotatedAt,omitzero"`

	MaxConcurrentRequests int `json:"maxConcurrentRequests,omitzero"`

	ETag string `json:"-"`
}

// keyHash is the stored part of one key.
type keyHash struct {
	ID     string `json:"id"`
	Hash   []byte `json:"hash"`
	Pepper int    `json:"pepper"` // version of the hashing scheme
}

func (t *token) setETag(e string) { t.ETag = e }

// keyIDs returns the IDs of the token's key and of the key before its last rotation.
func (t *token) keyIDs() []string {
	if t.Previous.ID == "" {
		return []string{t.Key.ID}
	}
	return []string{t.Key.ID, t.Previous.ID}
}

// keyIndex maps a key's ID to its token and policy. It never changes.
type keyIndex struct {
	Token  string `json:"token"`
	Policy string `json:"policy"`
	ETag   string `json:"-"`
}

func (k *keyIndex) setETag(e string) { k.ETag = e }

// TokenRequest is a request for an API key, either with a policy or with a tenant and
// scopes.
type TokenRequest struct {
	Name      string
	Policy    string
	Tenant    tenant.ID
	Scopes    []tenant.Scope
	ExpiresAt time.Time // zero: after DefaultExpiry; Never(): never

	MaxConcurrentRequests int // 0 = no limit
}

// IssueToken issues an API key. The returned Key is not stored.
func (c *Control) IssueToken(ctx context.Context, r TokenRequest) (Token, apikey.Key, error) {
	if err := c.checkTokenRequest(&r); err != nil {
		return Token{}, apikey.Key{}, err
	}
	var p Policy
	var err error
	if r.Policy != "" {
		p, err = c.Policy(ctx, r.Policy)
	} else {
		p, err = c.derivedPolicy(ctx, r.Tenant, r.Scopes)
	}
	if err != nil {
		return Token{}, apikey.Key{}, asField(err)
	}
	if active, err := c.ActiveTenants(ctx, p.Tenants); err != nil {
		return Token{}, apikey.Key{}, err
	} else if len(active) == 0 {
		return Token{}, apikey.Key{}, fail(Invalid, "accessPolicyId", "all tenants of access policy %s were deleted: name another policy", p.Name)
	}
	id, err := apikey.NewID(12)
	if err != nil {
		return Token{}, apikey.Key{}, err
	}
	t := token{ID: "tk_" + id, Name: r.Name, Policy: p.Name, PolicyUID: p.UID, CreatedAt: c.moment(), ExpiresAt: r.ExpiresAt,
		MaxConcurrentRequests: r.MaxConcurrentRequests}
	key, err := c.newKey(ctx, &t)
	if err != nil {
		return Token{}, apikey.Key{}, err
	}
	ok, err := c.save(ctx, prefToken+t.ID, "", &t)
	if err == nil && !ok {
		err = errors.New("the generated token ID is in use: repeat the request")
	}
	if err != nil {
		return Token{}, apikey.Key{}, err
	}
	return view(t, p), key, nil
}

// asField turns NotFound into Invalid, because the missing object was named by a field of
// the request.
func asField(err error) error {
	var e *Error
	if errors.As(err, &e) && e.Kind == NotFound {
		changed := *e
		changed.Kind = Invalid
		return &changed
	}
	return err
}

func (c *Control) checkTokenRequest(r *TokenRequest) error {
	if r.Name == "" {
		return fail(Invalid, "name", "name is missing: say what the key is for")
	}
	if err := checkText("name", r.Name); err != nil {
		return err
	}
	inline := r.Tenant != "" || len(r.Scopes) > 0
	switch {
	case r.Policy != "" && inline:
		return fail(Invalid, "accessPolicyId", "set either accessPolicyId, or tenant and scopes")
	case r.Policy == "" && r.Tenant == "":
		return fail(Invalid, "accessPolicyId", "accessPolicyId is missing: set it, or set tenant and scopes")
	}
	if r.Tenant != "" {
		if _, err := tenant.ParseID(string(r.Tenant)); err != nil {
			return fail(Invalid, "tenant", "%s", err)
		}
	}
	if err := checkConcurrency(r.MaxConcurrentRequests); err != nil {
		return err
	}
	if r.ExpiresAt.IsZero() {
		r.ExpiresAt = c.moment().Add(DefaultExpiry)
	}
	r.ExpiresAt = r.ExpiresAt.UTC().Truncate(time.Millisecond)
	if !r.ExpiresAt.After(c.now()) || r.ExpiresAt.After(Never()) {
		return fail(Invalid, "expiresAt", "expiresAt is %s: it must be in the future, and at most 9999-12-31", r.ExpiresAt.Format(time.RFC3339))
	}
	return nil
}

// newKey gives the token a new key and writes its index row. The key is invalid until the
// token's record contains it.
func (c *Control) newKey(ctx context.Context, t *token) (apikey.Key, error) {
	key, err := apikey.Generate()
	if err != nil {
		return apikey.Key{}, err
	}
	hash := c.pepper.HashKey(key)
	t.Key = keyHash{ID: key.ID(), Hash: hash[:], Pepper: c.pepper.Version()}
	ok, err := c.save(ctx, prefKeyIndex+key.ID(), "", &keyIndex{Token: t.ID, Policy: t.Policy})
	if err == nil && !ok {
		err = errors.New("random key ID already exists")
	}
	return key, err
}

func (c *Control) loadToken(ctx context.Context, id string) (token, error) {
	missing := fail(NotFound, "id", "token %.100q does not exist", id)
	if !strings.HasPrefix(id, "tk_") || len(id) > 100 {
		return token{}, missing
	}
	var t token
	err := c.load(ctx, prefToken+id, &t)
	if errors.Is(err, errNoRow) {
		return token{}, missing
	}
	return t, err
}

// Token returns the API key with the given ID.
func (c *Control) Token(ctx context.Context, id string) (Token, error) {
	t, err := c.loadToken(ctx, id)
	if err != nil {
		return Token{}, err
	}
	out, err := c.join(ctx, []token{t})
	if err != nil {
		return Token{}, err
	}
	return out[0], nil
}

// TokenQuery selects API keys; its zero value selects all.
type TokenQuery struct {
	Page
	Policy string
	Tenant tenant.ID // keys that may act for this tenant
}

// Tokens lists API keys by ID.
func (c *Control) Tokens(ctx context.Context, q TokenQuery) ([]Token, string, error) {
	policies, err := c.policiesFor(ctx, q)
	if err != nil {
		return nil, "", err
	}
	var found []token
	next, err := c.list(ctx, prefToken, fmt.Sprintf("%q%q", q.Policy, q.Tenant), q.Page, func(r row) (bool, error) {
		var t token
		if err := decode(r, &t); err != nil || policies != nil && !policies[t.Policy] {
			return false, err
		}
		if len(found) < pageSize(q.Page) {
			found = append(found, t)
		}
		return true, nil
	})
	if err != nil {
		return nil, "", err
	}
	out, err := c.join(ctx, found)
	return out, next, err
}

// policiesFor returns the names of the policies that the query selects, or nil for all.
func (c *Control) policiesFor(ctx context.Context, q TokenQuery) (map[string]bool, error) {
	if q.Tenant == "" {
		if q.Policy == "" {
			return nil, nil
		}
		return map[string]bool{q.Policy: true}, nil
	}
	out := map[string]bool{}
	for p := (Page{Size: MaxPageSize}); ; {
		policies, next, err := c.Policies(ctx, p, q.Tenant)
		if err != nil {
			return nil, err
		}
		for _, v := range policies {
			if q.Policy == "" || q.Policy == v.Name {
				out[v.Name] = true
			}
		}
		if next == "" {
			return out, nil
		}
		p.Cursor = next
	}
}

// policyTokens returns all tokens of the policy.
func (c *Control) policyTokens(ctx context.Context, p Policy) ([]token, error) {
	var out []token
	var bad error
	err := c.store.ReadRows(ctx, []rows.Range{rows.Prefix(prefToken)}, newest, func(r rows.Row) bool {
		var t token
		if bad = decode(row(r), &t); bad == nil && t.PolicyUID == p.UID {
			out = append(out, t)
		}
		return bad == nil
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	return out, nil
}

// join adds the rights of their policies and the last uses of their keys to tokens.
func (c *Control) join(ctx context.Context, tokens []token) ([]Token, error) {
	var keys []string
	for _, t := range tokens {
		keys = append(keys, policyKey(t.Policy))
		for _, id := range t.keyIDs() {
			keys = append(keys, prefKeyIndex+id)
		}
	}
	found, err := c.readRows(ctx, keys...)
	if err != nil {
		return nil, fmt.Errorf("read policies and last uses: %w", err)
	}
	out := make([]Token, 0, len(tokens))
	var all []tenant.ID
	for _, t := range tokens {
		var p Policy
		if err := decode(found[policyKey(t.Policy)], &p); err != nil && !errors.Is(err, errNoRow) {
			return nil, err
		}
		if p.UID != t.PolicyUID {
			p = Policy{}
		}
		v := view(t, p)
		all = append(all, v.Tenants...)
		for _, id := range t.keyIDs() {
			if used := lastUse(found[prefKeyIndex+id]); used.After(v.LastUsedAt) {
				v.LastUsedAt = used
			}
		}
		out = append(out, v)
	}
	slices.Sort(all)
	active, err := c.ActiveTenants(ctx, slices.Compact(all))
	if err != nil {
		return nil, err
	}
	exists := map[tenant.ID]bool{}
	for _, id := range active {
		exists[id] = true
	}
	for i := range out {
		t := &out[i]
		t.TenantsDeleted = len(t.Tenants) > 0 && !slices.ContainsFunc(t.Tenants, func(id tenant.ID) bool { return exists[id] })
	}
	return out, nil
}

func view(t token, p Policy) Token {
	return Token{
		ID: t.ID, Name: t.Name, Policy: t.Policy,
		Scopes: slices.Clone(p.Scopes), Tenants: slices.Clone(p.Tenants),
		KeyID: t.Key.ID, CreatedAt: t.CreatedAt, ExpiresAt: t.ExpiresAt, RevokedAt: t.RevokedAt, RotatedAt: t.RotatedAt,
		PreviousKeyID: t.Previous.ID, PreviousValidUntil: t.PreviousUntil, ETag: t.ETag,
		MaxConcurrentRequests: t.MaxConcurrentRequests,
	}
}
