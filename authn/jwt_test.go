package authn

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"github.com/palliumhq/pallium/authn/tenant"
)

var (
	start  = time.Unix(1_800_000_000, 0)
	rsaKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	rsaBad = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	ecKey  = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
)

const hmacSecret = "an HMAC secret of 32 bytes, or so"

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// sign returns a signed token with header and payload as given.
func sign(header, payload string, key any) string {
	signed := b64([]byte(header)) + "." + b64([]byte(payload))
	sum := sha256.Sum256([]byte(signed))
	var sig []byte
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if strings.Contains(header, "PS256") {
			sig = must(rsa.SignPSS(rand.Reader, k, crypto.SHA256, sum[:], nil))
			break
		}
		sig = must(rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, sum[:]))
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, k, sum[:])
		if err != nil {
			panic(err)
		}
		sig = make([]byte, 64)
		r.FillBytes(sig[:32])
		s.FillBytes(sig[32:])
	case ed25519.PrivateKey:
		sig = ed25519.Sign(k, []byte(signed))
	case []byte:
		m := hmac.New(sha256.New, k)
		m.Write([]byte(signed))
		sig = m.Sum(nil)
	}
	return signed + "." + b64(sig)
}

func publicPEM(key any) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(key))})
}

func file(t testing.TB, data []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func rsaJWK(k *rsa.PublicKey, more string) string {
	return fmt.Sprintf(`{"kty":"RSA","n":%q,"e":%q%s}`, b64(k.N.Bytes()), b64(big.NewInt(int64(k.E)).Bytes()), more)
}

func ecJWK(k *ecdsa.PublicKey, more string) string {
	raw := must(k.Bytes())
	return fmt.Sprintf(`{"kty":"EC","crv":"P-256","x":%q,"y":%q%s}`, b64(raw[1:33]), b64(raw[33:]), more)
}

// testIssuers returns one issuer with an RSA and an EC key in a JWKS, one with an RSA key in PEM and
// mappings for tenants and scopes, and one with a secret.
func testIssuers(t testing.TB) []IssuerConfig {
	jwks := fmt.Sprintf(`{"keys":[%s,%s]}`, rsaJWK(&rsaKey().PublicKey, `,"kid":"r1","use":"sig"`), ecJWK(&ecKey().PublicKey, `,"kid":"e1","alg":"ES256"`))
	return []IssuerConfig{
		{Issuer: "https://one", Audiences: []string{"pallium", "other"}, Keys: KeysConfig{JWKSFile: file(t, []byte(jwks))}},
		{Issuer: "https://two", Audiences: []string{"pallium"}, Algorithms: []string{"RS256"}, Type: "at+jwt",
			Keys:        KeysConfig{PEM: []PEMKey{{File: file(t, publicPEM(&rsaBad().PublicKey))}}},
			TenantClaim: "groups", TenantMapping: []TenantMapping{{Match: "metrics-(.*)", Tenant: "$1"}, {Match: "ops", Tenant: "ops"}, {Match: "watchers", Tenant: "pallium"}},
			ScopeClaim: "roles", ScopeMapping: []ScopeMapping{{Match: "viewer|editor", Scopes: []tenant.Scope{tenant.MetricsRead}},
				{Match: "editor", Scopes: []tenant.Scope{tenant.MetricsWrite}}}},
		{Issuer: "https://hs", Audiences: []string{"pallium"}, Keys: KeysConfig{SecretFile: file(t, []byte(hmacSecret+"\n"))}},
	}
}

func newTestAuthenticator(t testing.TB, now func() time.Time) *Authenticator {
	t.Helper()
	a, err := New(Options{Now: now, Config: Config{Issuers: testIssuers(t),
		Attempts: AttemptsConfig{PerSource: 1e9, PerSourceBurst: 1e9}}})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// claims returns the claims of issuer one, valid at start, with changes; nil removes a
// claim.
func claims(change map[string]any) string {
	c := map[string]any{"iss": "https://one", "aud": "pallium", "sub": "me", "iat": start.Unix() - 10,
		"exp": start.Unix() + 600, "tenant": "a", "scope": "openid metrics:read metrics:write"}
	for k, v := range change {
		if c[k] = v; v == nil {
			delete(c, k)
		}
	}
	return string(must(json.Marshal(c)))
}

type m = map[string]any

func TestJWT(t *testing.T) {
	const rs, es = `{"alg":"RS256","kid":"r1","typ":"JWT"}`, `{"alg":"ES256","kid":"e1"}`
	k, s := rsaKey(), start.Unix()
	good := claims(nil)
	raw := func(s string) string { return strings.TrimSuffix(good, "}") + "," + s + "}" }
	two := func(change m) string {
		c := m{"iss": "https://two", "tenant": nil, "scope": nil, "groups": []string{"metrics-b", "x"}, "roles": "editor"}
		for k, v := range change {
			c[k] = v
		}
		return claims(c)
	}
	const at = `{"alg":"RS256","typ":"at+jwt"}`
	tests := []struct {
		name, token, reason string // reason "": valid
		kind                Kind
	}{
		{"RS256", sign(rs, good, k), "", 0},
		{"ES256", sign(es, good, ecKey()), "", 0},
		{"aud in a list", sign(rs, claims(m{"aud": []string{"x", "other"}}), k), "", 0},
		{"no sub, no iat", sign(rs, claims(m{"sub": nil, "iat": nil}), k), "", 0},
		{"exp with a fraction", sign(rs, claims(m{"exp": float64(s) + 1.5}), k), "", 0},
		{"expired within the leeway", sign(rs, claims(m{"exp": s - 29}), k), "", 0},
		{"jku, jwk and x5u are ignored", sign(`{"alg":"RS256","kid":"r1","jku":"http://x","jwk":{},"x5u":"http://x","x5c":[]}`, good, k), "", 0},
		{"HS256 of the issuer with a secret", sign(`{"alg":"HS256"}`, claims(m{"iss": "https://hs"}), []byte(hmacSecret)), "", 0},
		{"mapped", sign(at, two(nil), rsaBad()), "", 0},
		{"typ with application/", sign(`{"alg":"RS256","typ":"Application/AT+JWT"}`, two(nil), rsaBad()), "", 0},
		{"kid for a key that has none", sign(`{"alg":"RS256","typ":"at+jwt","kid":"any"}`, two(nil), rsaBad()), "", 0},

		{"alg none", sign(`{"alg":"none","kid":"r1"}`, good, nil) + "AA", "jwt_alg", Invalid},
		{"alg None, no signature", strings.TrimSuffix(sign(`{"alg":"None"}`, good, nil), "."), "not_a_credential", Invalid},
		{"empty signature", sign(`{"alg":"none"}`, good, nil), "jwt_malformed", Invalid},
		{"no alg", sign(`{"kid":"r1"}`, good, k), "jwt_alg", Invalid},
		{"alg not a string", sign(`{"alg":["RS256"],"kid":"r1"}`, good, k), "jwt_alg", Invalid},
		{"RS as HS, key as secret", sign(`{"alg":"HS256","kid":"r1"}`, good, publicPEM(&k.PublicKey)), "jwt_alg", Invalid},
		{"RS as HS at the issuer with a secret", sign(`{"alg":"HS256"}`, claims(m{"iss": "https://hs"}), publicPEM(&k.PublicKey)), "jwt_signature", Invalid},
		{"HS with an empty secret", sign(`{"alg":"HS256"}`, claims(m{"iss": "https://hs"}), []byte{}), "jwt_signature", Invalid},
		{"HS512 not allowed", sign(`{"alg":"HS512"}`, claims(m{"iss": "https://hs"}), []byte(hmacSecret)), "jwt_alg", Invalid},
		{"PS256 not allowed", sign(`{"alg":"PS256","kid":"r1"}`, good, k), "jwt_alg", Invalid},
		{"ES256 with the RSA key", sign(`{"alg":"ES256","kid":"r1"}`, good, ecKey()), "jwt_alg", Invalid},
		{"RS256 with the EC key", sign(`{"alg":"RS256","kid":"e1"}`, good, k), "jwt_alg", Invalid},
		{"alg in other case", sign(`{"alg":"rs256","kid":"r1"}`, good, k), "jwt_alg", Invalid},
		{"another issuer's key", sign(rs, good, rsaBad()), "jwt_signature", Invalid},
		{"issuer two signs for one", sign(`{"alg":"RS256","kid":"r1"}`, good, rsaBad()), "jwt_signature", Invalid},
		{"issuer one signs for two", sign(at, two(nil), k), "jwt_signature", Invalid},
		{"payload changed", swapPayload(sign(rs, good, k), claims(m{"tenant": "b"})), "jwt_signature", Invalid},

		{"kid missing, several keys", sign(`{"alg":"RS256"}`, good, k), "jwt_kid", Invalid},
		{"kid unknown", sign(`{"alg":"RS256","kid":"r2"}`, good, k), "jwt_kid", Invalid},
		{"kid empty", sign(`{"alg":"RS256","kid":""}`, good, k), "jwt_kid", Invalid},
		{"kid a path", sign(`{"alg":"RS256","kid":"../../dev/null\u0000"}`, good, k), "jwt_kid", Invalid},
		{"kid SQL", sign(`{"alg":"RS256","kid":"r1' OR '1'='1"}`, good, k), "jwt_kid", Invalid},
		{"kid too long", sign(`{"alg":"RS256","kid":"`+strings.Repeat("r", 129)+`"}`, good, k), "jwt_kid", Invalid},
		{"kid a number", sign(`{"alg":"RS256","kid":1}`, good, k), "jwt_kid", Invalid},
		{"kid null", sign(`{"alg":"RS256","kid":null}`, good, k), "jwt_kid", Invalid},
		{"crit", sign(`{"alg":"RS256","kid":"r1","crit":["exp"]}`, good, k), "jwt_crit", Invalid},
		{"crit, empty", sign(`{"alg":"RS256","kid":"r1","crit":[]}`, good, k), "jwt_crit", Invalid},
		{"b64", sign(`{"alg":"RS256","kid":"r1","b64":false}`, good, k), "jwt_crit", Invalid},
		{"typ missing where pinned", sign(`{"alg":"RS256"}`, two(nil), rsaBad()), "jwt_typ", Invalid},
		{"typ other than pinned", sign(`{"alg":"RS256","typ":"JWT"}`, two(nil), rsaBad()), "jwt_typ", Invalid},
		{"typ a number", sign(`{"alg":"RS256","kid":"r1","typ":1}`, good, k), "jwt_typ", Invalid},

		{"iss unknown", sign(rs, claims(m{"iss": "https://evil"}), k), "jwt_issuer", Invalid},
		{"iss with a slash more", sign(rs, claims(m{"iss": "https://one/"}), k), "jwt_issuer", Invalid},
		{"iss missing", sign(rs, claims(m{"iss": nil}), k), "jwt_issuer", Invalid},
		{"iss a list", sign(rs, claims(m{"iss": []string{"https://one"}}), k), "jwt_issuer", Invalid},
		{"aud other", sign(rs, claims(m{"aud": "grafana"}), k), "jwt_audience", Invalid},
		{"aud missing", sign(rs, claims(m{"aud": nil}), k), "jwt_audience", Invalid},
		{"aud empty", sign(rs, claims(m{"aud": ""}), k), "jwt_audience", Invalid},
		{"aud of mixed types", sign(rs, claims(m{"aud": []any{"pallium", 1}}), k), "jwt_audience", Invalid},
		{"expired", sign(rs, claims(m{"exp": s - 30}), k), "jwt_expired", Expired},
		{"exp missing", sign(rs, claims(m{"exp": nil}), k), "jwt_exp", Invalid},
		{"exp 0", sign(rs, claims(m{"exp": 0}), k), "jwt_exp", Invalid},
		{"exp negative", sign(rs, claims(m{"exp": -1}), k), "jwt_exp", Invalid},
		{"exp a string", sign(rs, claims(m{"exp": "1900000000"}), k), "jwt_exp", Invalid},
		{"exp null", sign(rs, strings.Replace(good, fmt.Sprint(s+600), "null", 1), k), "jwt_exp", Invalid},
		{"exp of 1e300", sign(rs, strings.Replace(good, fmt.Sprint(s+600), "1e300", 1), k), "jwt_exp", Invalid},
		{"exp of 1e999", sign(rs, strings.Replace(good, fmt.Sprint(s+600), "1e999", 1), k), "jwt_exp", Invalid},
		{"lives too long", sign(rs, claims(m{"exp": s + 25*3600}), k), "jwt_lifetime", Invalid},
		{"lives too long, no iat", sign(rs, claims(m{"exp": s + 25*3600, "iat": nil}), k), "jwt_lifetime", Invalid},
		{"iat ahead", sign(rs, claims(m{"iat": s + 31}), k), "jwt_iat", Invalid},
		{"iat a string", sign(rs, claims(m{"iat": "1"}), k), "jwt_iat", Invalid},
		{"nbf ahead", sign(rs, claims(m{"nbf": s + 31}), k), "jwt_nbf", Invalid},
		{"nbf a bool", sign(rs, claims(m{"nbf": true}), k), "jwt_nbf", Invalid},
		{"sub with a line break", sign(rs, claims(m{"sub": "a\nb"}), k), "jwt_subject", Invalid},

		{"claim twice", sign(rs, raw(`"tenant":"b"`), k), "jwt_claims", Invalid},
		{"claim in other case", sign(rs, raw(`"Tenant":"b"`), k), "jwt_claims", Invalid},
		{"claim with a long s", sign(rs, raw(`"i\u017fs":"https://two"`), k), "jwt_claims", Invalid},
		{"claim name escaped", sign(rs, raw(`"\u0074enant":"b"`), k), "jwt_claims", Invalid},
		{"claim twice inside", sign(rs, raw(`"x":{"y":1,"Y":2}`), k), "jwt_claims", Invalid},
		{"header name twice", sign(`{"alg":"RS256","kid":"r1","ALG":"none"}`, good, k), "jwt_header", Invalid},
		{"not an object", sign(rs, `["a"]`, k), "jwt_claims", Invalid},
		{"two objects", sign(rs, good+good, k), "jwt_claims", Invalid},
		{"not JSON", sign(rs, `{"iss":`, k), "jwt_claims", Invalid},
		{"not UTF-8", sign(rs, raw("\"x\":\"\xff\""), k), "jwt_claims", Invalid},
		{"nested deeply", sign(rs, raw(`"x":`+strings.Repeat("[", 20)+strings.Repeat("]", 20)), k), "jwt_claims", Invalid},
		{"too long", sign(rs, raw(`"x":"`+strings.Repeat("y", 8<<10)+`"`), k), "jwt_too_long", Invalid},
		{"three dots", sign(rs, good, k) + ".x", "not_a_credential", Invalid},
		{"one dot", "a.b", "not_a_credential", Invalid},
		{"many dots", strings.Repeat(".", 5000), "not_a_credential", Invalid},
		{"padded", strings.Replace(sign(rs, good, k), ".", "=.", 1), "jwt_malformed", Invalid},
		{"standard base64", strings.Replace(sign(rs, good, k), ".", "+.", 1), "jwt_malformed", Invalid},
		{"stray bits", strayBits(sign(rs, good, k)), "jwt_malformed", Invalid},
		{"empty header", "." + strings.SplitN(sign(rs, good, k), ".", 2)[1], "jwt_malformed", Invalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newTestAuthenticator(t, func() time.Time { return start })
			p, err := a.Authenticate(t.Context(), Attempt{Authorization: []string{"Bearer " + tt.token}})
			if tt.reason == "" {
				if err != nil || len(p.Identity.Tenants) != 1 || !p.Identity.Has(tenant.MetricsWrite) {
					t.Fatalf("Authenticate = %+v, %v", p, err)
				}
				return
			}
			checkError(t, err, tt.kind, tt.reason)
			if p.Identity.Credential != "" {
				t.Errorf("Authenticate returned an identity with an error: %+v", p)
			}
		})
	}
}

func checkError(t *testing.T, err error, kind Kind, reason string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Kind != kind || e.Reason != reason {
		t.Fatalf("error %v, want %s (%s)", err, kind, reason)
	}
}

func swapPayload(token, payload string) string {
	p := strings.Split(token, ".")
	return p[0] + "." + b64([]byte(payload)) + "." + p[2]
}

// strayBits changes the unused bits of the last character.
func strayBits(token string) string {
	const abc = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	i := strings.IndexByte(abc, token[len(token)-1])
	return token[:len(token)-1] + string(abc[i^1])
}

func TestTenantAndScopeClaims(t *testing.T) {
	a := newTestAuthenticator(t, func() time.Time { return start })
	one := func(tenants, scopes any) string {
		return sign(`{"alg":"RS256","kid":"r1"}`, claims(m{"tenant": tenants, "scope": scopes}), rsaKey())
	}
	two := func(groups, roles any) string {
		return sign(`{"alg":"RS256","typ":"at+jwt"}`, claims(m{"iss": "https://two", "groups": groups, "roles": roles}), rsaBad())
	}
	tests := []struct {
		name, token, tenants, scopes string
	}{
		{"list", one([]string{"b", "a", "b"}, []string{"metrics:read"}), "a b", "metrics:read"},
		{"none", one(nil, nil), "", ""},
		{"the tenant pallium", one("pallium", "metrics:read"), "", "metrics:read"},
		{"the tenant pallium and another", one([]string{"a", "pallium"}, "metrics:read"), "", "metrics:read"},
		{"Pallium with a capital letter is another tenant", one("Pallium", "metrics:read"), "Pallium", "metrics:read"},
		{"the tenant pallium from a capture group", two("metrics-pallium", "viewer"), "", "metrics:read"},
		{"the tenant pallium named in the mapping", two("watchers", "viewer"), "pallium", "metrics:read"},
		{"empty", one("", ""), "", ""},
		{"number", one(7, 7), "", ""},
		{"one of the list is not an ID", one([]string{"a", "../b"}, "metrics:read"), "", "metrics:read"},
		{"one of the list is not a string", one([]any{"a", 1}, "metrics:read"), "", "metrics:read"},
		{"federation", one("a|b", "metrics:read"), "", "metrics:read"},
		{"spaces", one("a b", "metrics:read"), "", "metrics:read"},
		{"look-alike", one("\u0430", "metrics:read"), "", "metrics:read"},
		{"unknown scopes", one("a", "openid metrics:reader admin METRICS:READ"), "a", ""},
		{"too many", one(slices.Repeat([]string{"a"}, 101), "metrics:read"), "", "metrics:read"},
		{"mapped", two([]string{"metrics-x", "ops", "other"}, []string{"viewer"}), "ops x", "metrics:read"},
		{"mapping is anchored", two([]string{"not-metrics-x", "ops2", "devops"}, "not-viewer"), "", ""},
		{"the mapping of tenants is anchored at the ends of the text, not of lines; white space around scopes is ignored", two("ops\nx", "viewer\n"), "", "metrics:read"},
		{"mapped to an empty ID", two("metrics-", "editor"), "", "metrics:read metrics:write"},
		{"mapped to a path", two("metrics-..", "editor"), "", "metrics:read metrics:write"},
		{"a Pallium scope that no mapping matches", two("ops", "metrics:write"), "ops", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := a.Authenticate(t.Context(), Attempt{Authorization: []string{"Bearer " + tt.token}})
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(p.Identity.Tenants); got != "["+tt.tenants+"]" {
				t.Errorf("tenants %s, want %s", got, tt.tenants)
			}
			if got := fmt.Sprint(p.Identity.Scopes); got != "["+tt.scopes+"]" {
				t.Errorf("scopes %s, want %s", got, tt.scopes)
			}
		})
	}
}

func TestVerifiedTokensExpire(t *testing.T) {
	now := start
	a := newTestAuthenticator(t, func() time.Time { return now })
	auth := func(token string) error {
		_, err := a.Authenticate(t.Context(), Attempt{Authorization: []string{"Bearer " + token}})
		return err
	}
	token := sign(`{"alg":"RS256","kid":"r1"}`, claims(m{"exp": start.Unix() + 90}), rsaKey())
	for _, at := range []time.Duration{0, time.Second, 61 * time.Second, 119 * time.Second} {
		now = start.Add(at)
		if err := auth(token); err != nil {
			t.Fatalf("after %s: %v", at, err)
		}
	}
	now = start.Add(120 * time.Second)
	checkError(t, auth(token), Expired, "jwt_expired")
}

func TestReload(t *testing.T) {
	key := file(t, publicPEM(&rsaKey().PublicKey))
	leeway := model.Duration(0)
	a, err := New(Options{Now: func() time.Time { return start }, Config: Config{Issuers: []IssuerConfig{{
		Issuer: "https://one", Audiences: []string{"pallium"}, Leeway: &leeway,
		Keys: KeysConfig{PEM: []PEMKey{{File: key}}},
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	auth := func(k any) error {
		_, err := a.Authenticate(t.Context(), Attempt{Authorization: []string{"Bearer " + sign(`{"alg":"RS256"}`, claims(nil), k)}})
		return err
	}
	if err := auth(rsaKey()); err != nil {
		t.Fatal(err)
	}
	write := func(data []byte) {
		if err := os.WriteFile(key, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write([]byte("broken"))
	if err := a.Reload(); err == nil {
		t.Fatal("a broken key file was accepted")
	}
	if err := auth(rsaKey()); err != nil {
		t.Fatalf("the previous keys are no longer used: %v", err)
	}
	write(publicPEM(&rsaBad().PublicKey))
	if err := a.Reload(); err != nil {
		t.Fatal(err)
	}
	checkError(t, auth(rsaKey()), Invalid, "jwt_signature") // verified before, and cached
	if err := auth(rsaBad()); err != nil {
		t.Fatal(err)
	}
}
