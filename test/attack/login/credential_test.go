package login

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math/big"
	mathrand "math/rand/v2"
	"sync/atomic"
	"testing"
	"time"
)

const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

func random(n int) string {
	out := make([]byte, n)
	for i := range out {
		out[i] = alphabet[mathrand.IntN(len(alphabet))]
	}
	return string(out)
}

// forgedKey returns an API key with the given ID, a random secret and a valid
// checksum.
func forgedKey(id string) string {
	body := "plm_" + id + "_" + random(43)
	sum := crc32.ChecksumIEEE([]byte(body))
	var crc [6]byte
	for i := range crc {
		crc[len(crc)-1-i] = alphabet[sum%62]
		sum /= 62
	}
	return body + "_" + string(crc[:])
}

// issuer signs JWTs with a key that the attacked process trusts.
type issuer struct {
	key  *rsa.PrivateKey
	jwks string // path of the file
	made atomic.Int64
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	set := fmt.Sprintf(`{"keys":[{"kty":"RSA","use":"sig","kid":"public:a","n":%q,"e":%q}]}`,
		encode(key.N.Bytes()), encode(big.NewInt(int64(key.E)).Bytes()))
	return &issuer{key: key, jwks: write(t, "jwks.json", []byte(set))}
}

func (i *issuer) config() string {
	return fmt.Sprintf("auth: {issuers: [{issuer: \"https://issuer.test\", audiences: [pallium], keys: {jwks_file: %q}}]}\n", i.jwks)
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// unsigned returns header and payload of a token that is different in each call.
func (i *issuer) unsigned(subject string) string {
	now := time.Now().Unix()
	payload, err := json.Marshal(map[string]any{"iss": "https://issuer.test", "aud": "pallium", "sub": subject, "iat": now, "exp": now + 600,
		"tenant": "good", "scope": "metrics:read", "jti": i.made.Add(1)})
	if err != nil {
		panic(err)
	}
	return encode([]byte(`{"alg":"RS256","kid":"public:a"}`)) + "." + encode(payload)
}

// token returns a new, valid token.
func (i *issuer) token(subject string) string {
	text := i.unsigned(subject)
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, i.key, crypto.SHA256, sum[:])
	if err != nil {
		panic(err)
	}
	return text + "." + encode(sig)
}

// forged returns a well-formed token whose forgery only the check of its signature
// detects.
func (i *issuer) forged(subject string) string {
	sig := make([]byte, i.key.Size())
	_, _ = rand.Read(sig)
	sig[0] = 0 // makes the number smaller than the modulus
	return i.unsigned(subject) + "." + encode(sig)
}
