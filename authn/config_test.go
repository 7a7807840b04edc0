package authn

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
)

func TestIssuerConfig(t *testing.T) {
	t.Setenv("PALLIUM_TEST_SECRET", hmacSecret)
	t.Setenv("PALLIUM_TEST_SHORT", "short")
	pub := func() KeysConfig {
		return KeysConfig{PEM: []PEMKey{{File: file(t, publicPEM(&rsaKey().PublicKey))}}}
	}
	dur := func(d time.Duration) *model.Duration { v := model.Duration(d); return &v }
	tests := []struct {
		name   string
		change func(*IssuerConfig)
		want   string
	}{
		{"valid", func(*IssuerConfig) {}, ""},
		{"secret in the environment", func(c *IssuerConfig) { c.Keys = KeysConfig{SecretEnv: "PALLIUM_TEST_SECRET"} }, ""},
		{"no issuer", func(c *IssuerConfig) { c.Issuer = "" }, "issuer is empty"},
		{"no audience", func(c *IssuerConfig) { c.Audiences = nil }, "audiences"},
		{"empty audience", func(c *IssuerConfig) { c.Audiences = []string{""} }, "audiences"},
		{"alg none", func(c *IssuerConfig) { c.Algorithms = []string{"none"} }, "insecure"},
		{"alg unknown", func(c *IssuerConfig) { c.Algorithms = []string{"RS1"} }, "insecure"},
		{"HS with public keys", func(c *IssuerConfig) { c.Algorithms = []string{"RS256", "HS256"} }, "HS256"},
		{"RS with a secret", func(c *IssuerConfig) {
			c.Algorithms, c.Keys = []string{"RS256"}, KeysConfig{SecretEnv: "PALLIUM_TEST_SECRET"}
		}, "RS256"},
		{"no keys", func(c *IssuerConfig) { c.Keys = KeysConfig{} }, "exactly one"},
		{"two sources", func(c *IssuerConfig) { c.Keys.SecretEnv = "PALLIUM_TEST_SECRET" }, "exactly one"},
		{"HS512 with a secret for HS256", func(c *IssuerConfig) {
			c.Algorithms, c.Keys = []string{"HS256", "HS512"}, KeysConfig{SecretEnv: "PALLIUM_TEST_SECRET"}
		}, "64 for HS512"},
		{"HS384 with 47 bytes", func(c *IssuerConfig) {
			c.Algorithms, c.Keys = []string{"HS384"}, KeysConfig{SecretFile: file(t, bytes.Repeat([]byte("x"), 47))}
		}, "48 bytes"},
		{"HS384 with 48 bytes", func(c *IssuerConfig) {
			c.Algorithms, c.Keys = []string{"HS384"}, KeysConfig{SecretFile: file(t, bytes.Repeat([]byte("x"), 48))}
		}, ""},
		{"HS512 with 63 bytes", func(c *IssuerConfig) {
			c.Algorithms, c.Keys = []string{"HS512"}, KeysConfig{SecretFile: file(t, bytes.Repeat([]byte("x"), 63))}
		}, "64 for HS512"},
		{"HS512 with 64 bytes", func(c *IssuerConfig) {
			c.Algorithms, c.Keys = []string{"HS512"}, KeysConfig{SecretFile: file(t, bytes.Repeat([]byte("x"), 64))}
		}, ""},
		{"short secret", func(c *IssuerConfig) { c.Keys = KeysConfig{SecretEnv: "PALLIUM_TEST_SHORT"} }, "secret_env PALLIUM_TEST_SHORT contains 5 bytes, at least 32"},
		{"unset secret", func(c *IssuerConfig) { c.Keys = KeysConfig{SecretEnv: "PALLIUM_TEST_UNSET"} }, "environment variable PALLIUM_TEST_UNSET is not set"},
		{"empty secret file", func(c *IssuerConfig) { c.Keys = KeysConfig{SecretFile: file(t, []byte("\n"))} }, "at least 32"},
		{"no such file", func(c *IssuerConfig) { c.Keys = KeysConfig{JWKSFile: "/nonexistent/jwks"} }, "open key file"},
		{"leeway", func(c *IssuerConfig) { c.Leeway = dur(61 * time.Second) }, "leeway"},
		{"bad expression", func(c *IssuerConfig) { c.TenantMapping = []TenantMapping{{Match: "(", Tenant: "x"}} }, "tenant_mapping"},
		{"no expression", func(c *IssuerConfig) { c.ScopeMapping = []ScopeMapping{{}} }, "scope_mapping"},
		{"no tenant", func(c *IssuerConfig) { c.TenantMapping = []TenantMapping{{Match: "x"}} }, "no tenant"},
		{"no such scope", func(c *IssuerConfig) { c.ScopeMapping = []ScopeMapping{{Match: "x", Scopes: []scope{"admin"}}} }, "not a scope"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := IssuerConfig{Issuer: "https://one", Audiences: []string{"pallium"}, Keys: pub()}
			tt.change(&c)
			_, err := New(Options{Config: Config{Issuers: []IssuerConfig{c}}})
			checkMessage(t, err, tt.want)
		})
	}
	c := IssuerConfig{Issuer: "https://one", Audiences: []string{"pallium"}, Keys: pub()}
	_, err := New(Options{Config: Config{Issuers: []IssuerConfig{c, c}}})
	checkMessage(t, err, "twice")
}

func checkMessage(t *testing.T, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || (err != nil && !strings.Contains(err.Error(), want)) {
		t.Errorf("error %v, want %q", err, want)
	}
}

func TestKeySets(t *testing.T) {
	r, e := &rsaKey().PublicKey, &ecKey().PublicKey
	small := must(rsa.GenerateKey(rand.Reader, 1024))
	offCurve := strings.Replace(ecJWK(e, ""), `"y":"`, `"y":"A`, 1)
	tests := []struct{ name, jwks, want string }{
		{"RSA", rsaJWK(r, ""), ""},
		{"RSA pinned to PS256", rsaJWK(r, `,"alg":"PS256"`), ""},
		{"RSA and EC", rsaJWK(r, `,"kid":"a"`) + "," + ecJWK(e, `,"kid":"b"`), ""},
		{"verify only", rsaJWK(r, `,"key_ops":["verify"]`), ""},
		{"Ed25519", fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","x":%q}`, b64(make([]byte, 32))), ""},
		{"none", "", "at least one"},
		{"small RSA", rsaJWK(&small.PublicKey, ""), "1024 bits"},
		{"same kid", rsaJWK(r, `,"kid":"a"`) + "," + ecJWK(e, `,"kid":"a"`), `two keys have the kid "a"`},
		{"one without kid", rsaJWK(r, `,"kid":"a"`) + "," + ecJWK(e, ""), "no kid"},
		{"two without kid", rsaJWK(r, "") + "," + ecJWK(e, ""), "keys[1] (without kid): two keys have no kid: set a kid for each"},
		{"kid a number", rsaJWK(r, `,"kid":1`), "not a string"},
		{"kid with anything in it", rsaJWK(r, `,"kid":"a b/../:@ü'"`), ""},
		{"kid of 128 bytes", rsaJWK(r, `,"kid":"`+strings.Repeat("k", 128)+`"`), ""},
		{"kid of 129 bytes", rsaJWK(r, `,"kid":"`+strings.Repeat("k", 129)+`"`), "the limit is 128"},
		{"kid empty", rsaJWK(r, `,"kid":""`), "is empty"},
		{"same kid, one not for signatures", rsaJWK(r, `,"kid":"a"`) + "," + ecJWK(e, `,"kid":"a","use":"enc"`), ""},
		{"without kid, one not for signatures", rsaJWK(r, "") + "," + ecJWK(e, `,"use":"enc"`), ""},
		{"one damaged key for signatures", rsaJWK(r, `,"kid":"a"`) + `,{"kty":"RSA","kid":"b","e":"AQAB"}`, "n or e"},
		{"verify and more", rsaJWK(r, `,"key_ops":["verify","sign"]`), ""},
		{"for key agreement, no use", ecJWK(e, `,"alg":"ECDH-ES"`), "no key of the set"},
		{"unknown alg", rsaJWK(r, `,"alg":"RS1"`), "no key of the set"},
		{"for encryption", rsaJWK(r, `,"use":"enc"`), "no key of the set can verify signatures: without kid: its use is \"enc\""},
		{"for signing", rsaJWK(r, `,"key_ops":["sign"]`), "key_ops"},
		{"key_ops not a list", rsaJWK(r, `,"key_ops":"verify"`), "key_ops"},
		{"private", rsaJWK(r, `,"d":"AAAA"`), "private"},
		{"symmetric", `{"kty":"oct","k":"AAAA"}`, "secret key"},
		{"RSA as ES256", rsaJWK(r, `,"alg":"ES256"`), "does not match"},
		{"EC as ES384", ecJWK(e, `,"alg":"ES384"`), "does not match"},
		{"alg none", rsaJWK(r, `,"alg":"none"`), "no key of the set"},
		{"EC off the curve", offCurve, "EC key"},
		{"EC at zero", `{"kty":"EC","crv":"P-256","x":"` + b64(make([]byte, 32)) + `","y":"` + b64(make([]byte, 32)) + `"}`, "not a point"},
		{"EC on P-224", `{"kty":"EC","crv":"P-224","x":"AA","y":"AA"}`, "curve"},
		{"X25519", `{"kty":"OKP","crv":"X25519","x":"` + b64(make([]byte, 32)) + `"}`, "curve"},
		{"RSA, e of 1", `{"kty":"RSA","e":"AQ","n":"` + b64(r.N.Bytes()) + `"}`, "exponent"},
		{"RSA without n", `{"kty":"RSA","e":"AQAB"}`, "n or e"},
		{"kty twice", `{"kty":"RSA","KTY":"oct"}`, "appears twice"},
		{"not an object", `1`, "not an object"},
		{"too many", strings.TrimSuffix(strings.Repeat(`{"kty":"x"},`, 101), ","), "the limit is 100"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseJWKS([]byte(`{"keys":[` + tt.jwks + `]}`))
			checkMessage(t, err, tt.want)
		})
	}
}

func TestPEM(t *testing.T) {
	block := func(kind string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	ed, _, _ := ed25519.GenerateKey(rand.Reader)
	p224 := must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	one := publicPEM(&rsaKey().PublicKey)
	tests := []struct {
		name string
		data []byte
		want string
	}{
		{"RSA", one, ""},
		{"RSA, PKCS 1", block("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&rsaKey().PublicKey)), ""},
		{"EC", publicPEM(&ecKey().PublicKey), ""},
		{"Ed25519", publicPEM(ed), ""},
		{"P-224", publicPEM(&p224.PublicKey), "P-256"},
		{"private", block("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(rsaKey()))), "PUBLIC KEY or RSA PUBLIC KEY is required"},
		{"two", append(append([]byte{}, one...), one...), "each key in a file of its own"},
		{"nothing", nil, "no PEM block"},
		{"junk", block("PUBLIC KEY", []byte("junk")), "parse public key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parsePEM(tt.data)
			checkMessage(t, err, tt.want)
		})
	}
	kids := KeysConfig{PEM: []PEMKey{{File: file(t, one)}, {Kid: "b", File: file(t, one)}}}
	_, err := loadKeys(kids)
	checkMessage(t, err, "no kid")
	kids.PEM[0].Kid = "a"
	_, err = loadKeys(kids)
	checkMessage(t, err, "")
}
