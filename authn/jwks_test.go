package authn

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestProviders checks that a token is accepted with key sets in the formats of well-known providers,
// and that keys that Pallium cannot verify signatures with are ignored and logged.
func TestProviders(t *testing.T) {
	sig, enc := &rsaKey().PublicKey, &rsaBad().PublicKey
	okp := func(crv, more string) string {
		return fmt.Sprintf(`{"kty":"OKP","crv":%q,"x":%q%s}`, crv, b64(make([]byte, 32)), more)
	}
	tests := []struct {
		name, jwks, kid string
		leftOut         int // number of ignored keys
	}{
		{"Keycloak", rsaJWK(enc, `,"kid":"vEyXpPIIrQf4W3WrTAKFMn4TqJ0","alg":"RSA-OAEP","use":"enc","x5c":["MIICmzCCAYMCBgGS"],"x5t":"9Xv","x5t#S256":"Q1h"`) + "," +
			rsaJWK(sig, `,"kid":"FJ86GcF3jTbNLOco4NvZkUCIUmfYCqoqtOQeMfbhNlE","alg":"RS256","use":"sig","x5c":["MIICmzCCAYMCBgGS"],"x5t":"8aB","x5t#S256":"kk3"`),
			"FJ86GcF3jTbNLOco4NvZkUCIUmfYCqoqtOQeMfbhNlE", 1},
		{"Keycloak with more providers", okp("Ed448", `,"kid":"e4","alg":"EdDSA","use":"sig"`) + "," + ecJWK(&ecKey().PublicKey, `,"kid":"ka","alg":"ECDH-ES","use":"enc"`) + "," +
			rsaJWK(sig, `,"kid":"s","alg":"RS256","use":"sig"`), "s", 2},
		{"Ory Hydra", rsaJWK(sig, `,"use":"sig","kid":"public:hydra.openid.id-token","alg":"RS256"`) + "," +
			rsaJWK(enc, `,"use":"sig","kid":"public:7b2e1c9f-1a3e-4b52-9d38-62f4ffb3a1c0","alg":"RS256"`), "public:hydra.openid.id-token", 0},
		{"Auth0", rsaJWK(sig, `,"use":"sig","kid":"NjVBRjY5MDlCMUIwNzU4RTA2QzZFMDQ4QzQ2MDAyQjVDNjk1RTM2Qg","x5t":"NjVBRjY5","x5c":["MIIDDTCC"],"alg":"RS256"`) + "," +
			rsaJWK(enc, `,"use":"sig","kid":"next-rotation","x5t":"aaa","x5c":["MIIDDTCC"],"alg":"RS256"`), "NjVBRjY5MDlCMUIwNzU4RTA2QzZFMDQ4QzQ2MDAyQjVDNjk1RTM2Qg", 0},
		{"Azure AD", rsaJWK(sig, `,"use":"sig","kid":"2ZQpJ3UpbjAYXYGaXEJl8lV0TOI","x5t":"2ZQpJ3UpbjAYXYGaXEJl8lV0TOI","x5c":["MIIC/TCCAeWg"],"cloud_instance_name":"microsoftonline.com","issuer":"https://login.microsoftonline.com/{tenantid}/v2.0"`),
			"2ZQpJ3UpbjAYXYGaXEJl8lV0TOI", 0},
		{"Google", rsaJWK(enc, `,"use":"sig","kid":"89ce3598c473af1bda4bff95e6c8736450206fba","alg":"RS256"`) + "," +
			rsaJWK(sig, `,"use":"sig","kid":"dd125d5f462fbc6014aedab81ddf3bcedab70847","alg":"RS256"`), "dd125d5f462fbc6014aedab81ddf3bcedab70847", 0},
		{"Okta", rsaJWK(sig, `,"alg":"RS256","kid":"U5R8cHbGw445Qbq8zVO1PcCpXL8yG6IcovVa3laCoxM","use":"sig"`), "U5R8cHbGw445Qbq8zVO1PcCpXL8yG6IcovVa3laCoxM", 0},
		{"RFC 7520", rsaJWK(sig, `,"kid":"bilbo.baggins@hobbiton.example","use":"sig"`), "bilbo.baggins@hobbiton.example", 0},
		{"unsupported kinds", `{"kty":"AKP","kid":"pq","alg":"ML-DSA-65","pub":"AAAA"},` + ecJWK(&ecKey().PublicKey, `,"kid":"k1","alg":"ES256K"`) + "," +
			okp("X25519", `,"kid":"x"`) + "," + rsaJWK(enc, `,"kid":"w","key_ops":["wrapKey"]`) + "," + rsaJWK(sig, `,"kid":"s","key_ops":["verify"]`), "s", 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var log bytes.Buffer
			a, err := New(Options{Now: func() time.Time { return start }, Logger: slog.New(slog.NewTextHandler(&log, nil)), Config: Config{Issuers: []IssuerConfig{{
				Issuer: "https://one", Audiences: []string{"pallium"}, Keys: KeysConfig{JWKSFile: file(t, []byte(`{"keys":[`+tt.jwks+`]}`))},
			}}}})
			if err != nil {
				t.Fatal(err)
			}
			for kid, want := range map[string]string{tt.kid: "", "another": "jwt_kid"} {
				_, err := a.Authenticate(t.Context(), Attempt{Authorization: []string{"Bearer " + sign(fmt.Sprintf(`{"alg":"RS256","kid":%q}`, kid), claims(nil), rsaKey())}})
				if want == "" && err != nil {
					t.Errorf("a valid token: %v", err)
				}
				if want != "" {
					checkError(t, err, Invalid, want)
				}
			}
			lines, said := strings.Count(log.String(), "\n"), strings.Contains(log.String(), fmt.Sprintf("left_out=%d", tt.leftOut))
			if (tt.leftOut > 0) != said || lines > 1 {
				t.Errorf("%d keys are ignored, but the log is %q", tt.leftOut, log.String())
			}
		})
	}
}

// TestSaltLength checks that PS256 signatures are accepted only if the salt is as long as the hash.
func TestSaltLength(t *testing.T) {
	a, err := New(Options{Now: func() time.Time { return start }, Config: Config{Issuers: []IssuerConfig{{
		Issuer: "https://one", Audiences: []string{"pallium"}, Algorithms: []string{"PS256"},
		Keys: KeysConfig{JWKSFile: file(t, []byte(`{"keys":[`+rsaJWK(&rsaKey().PublicKey, `,"kid":"a"`)+`]}`))},
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	signed := b64([]byte(`{"alg":"PS256","kid":"a"}`)) + "." + b64([]byte(claims(nil)))
	sum := sha256.Sum256([]byte(signed))
	for salt, good := range map[int]bool{32: true, 1: false, 31: false, 33: false, 64: false, 222: false} {
		sig := must(rsa.SignPSS(rand.Reader, rsaKey(), crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: salt}))
		_, err := a.Authenticate(t.Context(), Attempt{Authorization: []string{"Bearer " + signed + "." + b64(sig)}})
		if good != (err == nil) {
			t.Errorf("salt of %d bytes: %v", salt, err)
		}
		if !good {
			checkError(t, err, Invalid, "jwt_signature")
		}
	}
}
