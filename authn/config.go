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

// Config is the section "auth" of the configuration file.
type Config struct {
	Issuers  []IssuerConfig `yaml:"issuers"`
	Attempts AttemptsConfig `yaml:"attempts"`
}

// IssuerConfig is one issuer of JWTs.
type IssuerConfig struct {
	Issuer     string     `yaml:"issuer"`     // exact value of the claim iss
	Audiences  []string   `yaml:"audiences"`  // aud must contain one of them
	Algorithms []string   `yaml:"algorithms"` // default: RS256 and ES256, or HS256 with a secret
	Keys       KeysConfig `yaml:"keys"`

	TenantClaim   string          `yaml:"tenant_claim"` // default "tenant"; a string or an array of strings
	TenantMapping []TenantMapping `yaml:"tenant_mapping"`
	ScopeClaim    string          `yaml:"scope_claim"` // default "scope"; a string of words or an array of strings
	ScopeMapping  []ScopeMapping  `yaml:"scope_mapping"`

	Type        string          `yaml:"type"`         // required value of the header typ, such as "at+jwt"; "" accepts any
	Leeway      *model.Duration `yaml:"leeway"`       // clock difference allowed; default 30s, at most 60s
	MaxLifetime model.Duration  `yaml:"max_lifetime"` // maximum of exp - iat; default 24h
}

// KeysConfig is the source of an issuer's keys: exactly one of the fields must be set.
type KeysConfig struct {
	PEM        []PEMKey `yaml:"pem"`
	JWKSFile   string   `yaml:"jwks_file"`
	SecretFile string   `yaml:"secret_file"` // HMAC; at least 32 bytes, 48 for HS384, 64 for HS512; a line break at the end is not part of it
	SecretEnv  string   `yaml:"secret_env"`  // the name of an environment variable
}

// PEMKey is one public key. If there are several keys, each must have a kid.
type PEMKey struct {
	Kid  string `yaml:"kid"`
	File string `yaml:"file"`
}

// TenantMapping maps values of the tenant claim to tenant IDs. The first matching rule
// applies; a value without a matching rule grants nothing.
type TenantMapping struct {
	Match  string `yaml:"match"`  // regular expression, anchored at both ends
	Tenant string `yaml:"tenant"` // may use $1 or ${name}
}

// ScopeMapping maps values of the scope claim to scopes. The scopes of all matching rules
// are granted.
type ScopeMapping struct {
	Match  string         `yaml:"match"` // regular expression, anchored at both ends
	Scopes []tenant.Scope `yaml:"scopes"`
}

const (
	defaultLeeway      = 30 * time.Second
	maxLeeway          = 60 * time.Second
	defaultMaxLifetime = 24 * time.Hour
)

// knownAlgorithm returns the method of an algorithm that a configuration may name. "none"
// is not accepted.
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

// strictPSS accepts only salts as long as the hash (RFC 7518 3.5); golang-jwt's own
// methods accept any length.
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
		return nil, errors.New("issuer is empty: set it to the iss claim of its tokens")
	}
	if len(c.Audiences) == 0 || slices.Contains(c.Audiences, "") {
		return nil, errors.New("audiences is empty or has an empty entry: list the aud claims to accept, because otherwise tokens for other " +
			"services would be accepted")
	}
	for _, a := range c.Audiences {
		i.audiences[a] = true
	}
	if c.Leeway != nil {
		i.leeway = time.Duration(*c.Leeway)
	}
	if i.leeway < 0 || i.leeway > maxLeeway {
		return nil, fmt.Errorf("leeway is %s: it must be between 0s and %s", i.leeway, maxLeeway)
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
			return fmt.Errorf("algorithms contains %s, which the configured keys do not support: HS* requires a secret, all others require "+
				"public keys",
				alg)
		}
		if keys.symmetric && !keys.keys[""].allows(alg) {
			return fmt.Errorf("algorithms contains %s, which requires a longer secret: 48 bytes for HS384, 64 for HS512", alg)
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
			return fmt.Errorf("algorithms contains %q, which is unknown or insecure: use RS, PS or ES with 256, 384 or 512, EdDSA, or HS256, "+
				"HS384 or HS512", alg)
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
			return fmt.Errorf("tenant_mapping: the rule with match %q has no tenant", m.Match)
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
				return fmt.Errorf("scope_mapping: %q is not a scope: use one of %v", s, tenant.Scopes())
			}
		}
		i.scopeMap = append(i.scopeMap, scopeRule{match: re, scopes: m.Scopes})
	}
	return nil
}

// anchored compiles an expression that must match the whole value: unanchored, "admin"
// would match "not-admin".
func anchored(expr string) (*regexp.Regexp, error) {
	if expr == "" {
		return nil, errors.New("a rule has no match expression")
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
