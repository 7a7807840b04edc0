package authn

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/common/model"

	"github.com/palliumhq/pallium/authn/tenant"
)

// Config of authentication, as it stands in the configuration file.
type Config struct {
	Issuers  []IssuerConfig `yaml:"issuers"`
	Attempts AttemptsConfig `yaml:"attempts"`
}

// IssuerConfig is one issuer of JWTs.
type IssuerConfig struct {
	Issuer     string     `yaml:"issuer"`     // exact value of iss
	Audiences  []string   `yaml:"audiences"`  // aud must contain one of them
	Algorithms []string   `yaml:"algorithms"` // default: RS256 and ES256, or HS256 with a secret
	Keys       KeysConfig `yaml:"keys"`

	TenantClaim   string          `yaml:"tenant_claim"` // default "tenant"; a string or an array of strings
	TenantMapping []TenantMapping `yaml:"tenant_mapping"`
	ScopeClaim    string          `yaml:"scope_claim"` // default "scope"; words or an array of strings
	ScopeMapping  []ScopeMapping  `yaml:"scope_mapping"`

	Type        string          `yaml:"type"`         // header typ to insist on, as "at+jwt"; "" accepts any
	Leeway      *model.Duration `yaml:"leeway"`       // clock difference allowed; default 30s, at most 60s
	MaxLifetime model.Duration  `yaml:"max_lifetime"` // longest exp - iat; default 24h
}

// KeysConfig says where the keys of an issuer are: in exactly one of the four.
type KeysConfig struct {
	PEM        []PEMKey `yaml:"pem"`
	JWKSFile   string   `yaml:"jwks_file"`
	SecretFile string   `yaml:"secret_file"` // HMAC; at least 32 bytes, 48 for HS384, 64 for HS512; a line break at the end is not part of it
	SecretEnv  string   `yaml:"secret_env"`  // the name of an environment variable
}

// PEMKey is one public key. Several keys need a kid each.
type PEMKey struct {
	Kid  string `yaml:"kid"`
	File string `yaml:"file"`
}

// TenantMapping turns values of the tenant claim into tenant IDs. The first rule
// that matches counts; a value that no rule matches grants nothing.
type TenantMapping struct {
	Match  string `yaml:"match"`  // regular expression, anchored at both ends
	Tenant string `yaml:"tenant"` // may use $1 or ${name}
}

// ScopeMapping turns values of the scope claim into scopes. Every rule that
// matches adds its scopes.
type ScopeMapping struct {
	Match  string         `yaml:"match"` // regular expression, anchored at both ends
	Scopes []tenant.Scope `yaml:"scopes"`
}

const (
	defaultLeeway      = 30 * time.Second
	maxLeeway          = 60 * time.Second
	defaultMaxLifetime = 24 * time.Hour
)

// algorithms that a configuration may name. "none" is not among them.
func knownAlgorithm(alg string) (jwt.SigningMethod, bool) {
	switch alg {
	case "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
		"ES256", "ES384", "ES512", "EdDSA", "HS256", "HS384", "HS512":
		m := jwt.GetSigningMethod(alg)
		if pss, ok := m.(*jwt.SigningMethodRSAPSS); ok {
			m = strictPSS(pss)
		}
		return m, m != nil
	}
	return nil, false
}

// strictPSS takes only salts as long as the hash (RFC 7518 3.5); golang-jwt's own
// methods take any.
func strictPSS(m *jwt.SigningMethodRSAPSS) *jwt.SigningMethodRSAPSS {
	exact := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
	return &jwt.SigningMethodRSAPSS{SigningMethodRSA: m.SigningMethodRSA, Options: exact, VerifyOptions: exact}
}

func newIssuer(c IssuerConfig) (*issuer, error) {
	i := &issuer{
		iss: c.Issuer, typ: c.Type,
		audiences:   map[string]bool{},
		methods:     map[string]jwt.SigningMethod{},
		tenantClaim: orDefault(c.TenantClaim, "tenant"),
		scopeClaim:  orDefault(c.ScopeClaim, "scope"),
		leeway:      defaultLeeway,
		maxLifetime: defaultMaxLifetime,
	}
	if c.Issuer == "" {
		return nil, errors.New("issuer is empty: set it to the iss of its tokens")
	}
	if len(c.Audiences) == 0 || slices.Contains(c.Audiences, "") {
		return nil, errors.New("audiences is empty or has an empty entry: without one, tokens made for other services would be accepted")
	}
	for _, a := range c.Audiences {
		i.audiences[a] = true
	}
	if c.Leeway != nil {
		i.leeway = time.Duration(*c.Leeway)
	}
	if i.leeway < 0 || i.leeway > maxLeeway {
		return nil, fmt.Errorf("leeway is %s, at most %s are allowed", i.leeway, maxLeeway)
	}
	if c.MaxLifetime > 0 {
		i.maxLifetime = time.Duration(c.MaxLifetime)
	}
	if err := i.setMappings(c); err != nil {
		return nil, err
	}
	if err := i.setAlgorithms(c); err != nil {
		return nil, err
	}
	keys, err := loadKeys(c.Keys)
	if err != nil {
		return nil, err
	}
	if err := i.checkKeys(keys); err != nil {
		return nil, err
	}
	i.keys = keys
	return i, nil
}

// checkKeys returns an error if an algorithm cannot be used with the keys.
func (i *issuer) checkKeys(keys keySet) error {
	for alg := range i.methods {
		if strings.HasPrefix(alg, "HS") != keys.symmetric {
			return fmt.Errorf("algorithms has %s, which does not go with the kind of keys: HS* needs a secret, all others need public keys",
				alg)
		}
		if keys.symmetric && !keys.keys[""].allows(alg) {
			return fmt.Errorf("algorithms has %s, which needs a longer secret: 48 bytes for HS384, 64 for HS512", alg)
		}
	}
	return nil
}

func (i *issuer) setAlgorithms(c IssuerConfig) error {
	algs := c.Algorithms
	if len(algs) == 0 {
		algs = []string{"RS256", "ES256"}
		if c.Keys.SecretFile != "" || c.Keys.SecretEnv != "" {
			algs = []string{"HS256"}
		}
	}
	for _, alg := range algs {
		m, ok := knownAlgorithm(alg)
		if !ok {
			return fmt.Errorf("algorithms has %q, which is not known or not safe", alg)
		}
		i.methods[alg] = m
	}
	return nil
}

func (i *issuer) setMappings(c IssuerConfig) error {
	for _, m := range c.TenantMapping {
		re, err := anchored(m.Match)
		if err != nil {
			return fmt.Errorf("tenant_mapping: %w", err)
		}
		if m.Tenant == "" {
			return fmt.Errorf("tenant_mapping: the rule for %q has no tenant", m.Match)
		}
		i.tenantMap = append(i.tenantMap, tenantRule{match: re, tenant: m.Tenant})
	}
	for _, m := range c.ScopeMapping {
		re, err := anchored(m.Match)
		if err != nil {
			return fmt.Errorf("scope_mapping: %w", err)
		}
		for _, s := range m.Scopes {
			if !s.Valid() {
				return fmt.Errorf("scope_mapping: %q is not a scope; there are %v", s, tenant.Scopes())
			}
		}
		i.scopeMap = append(i.scopeMap, scopeRule{match: re, scopes: m.Scopes})
	}
	return nil
}

// anchored compiles an expression that must match the whole value: unanchored,
// "admin" would match "not-admin".
func anchored(expr string) (*regexp.Regexp, error) {
	if expr == "" {
		return nil, errors.New("a rule has no match")
	}
	re, err := regexp.Compile(`\A(?:` + expr + `)\z`)
	if err != nil {
		return nil, fmt.Errorf("match %q: %w", expr, err)
	}
	return re, nil
}

func orDefault(s, d string) string {
	if s == "" {
		return d
	}
	return s
}
