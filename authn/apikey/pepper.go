package apikey

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"log/slog"
)

// MinPepperLength is the least length of a pepper in bytes.
const MinPepperLength = 32

// pepperVersion stands in everything derived from a pepper, so that a later
// rule of derivation cannot be mistaken for this one.
const pepperVersion = 1

// Pepper is the server's secret that key hashes are made with. Whoever can
// write the store but does not know it cannot make a key. The zero Pepper
// verifies nothing.
type Pepper struct {
	secret []byte
}

// NewPepper takes a secret of at least MinPepperLength bytes, which it copies.
func NewPepper(secret []byte) (Pepper, error) {
	if len(secret) < MinPepperLength {
		return Pepper{}, fmt.Errorf("key pepper has %d bytes, at least %d are needed", len(secret), MinPepperLength)
	}
	return Pepper{secret: append([]byte(nil), secret...)}, nil
}

// Version is the rule by which Hash works; it is kept beside the hashes.
func (p Pepper) Version() int { return pepperVersion }

// Parse is the package's Parse in the shape in which authn wants it.
func (p Pepper) Parse(text string) (keyID, secret string, err error) {
	k, err := Parse(text)
	return k.id, k.secret, err
}

// Hash is HMAC-SHA-256(pepper, secret). A slow hash would buy nothing: a
// secret of 256 random bits cannot be guessed.
func (p Pepper) Hash(secret string) [sha256.Size]byte {
	var out [sha256.Size]byte
	p.mac(out[:0], secret)
	return out
}

// HashKey is the Hash of the key's secret.
func (p Pepper) HashKey(k Key) [sha256.Size]byte { return p.Hash(k.secret) }

// Verify reports, in constant time, whether the secret has that hash.
func (p Pepper) Verify(hash [sha256.Size]byte, secret string) bool {
	have := p.Hash(secret)
	return len(p.secret) > 0 && subtle.ConstantTimeCompare(have[:], hash[:]) == 1
}

// Fingerprint identifies the pepper without giving it away.
func (p Pepper) Fingerprint() string {
	d := p.Derive("fingerprint")
	return hex.EncodeToString(d[:8])
}

// Derive returns a key for another purpose; different purposes give unrelated
// keys. No purpose can give the hash of a secret, which has no NUL byte.
func (p Pepper) Derive(purpose string) [sha256.Size]byte {
	var out [sha256.Size]byte
	p.mac(out[:0], fmt.Sprintf("\x00pallium/%d/%s", pepperVersion, purpose))
	return out
}

func (p Pepper) mac(to []byte, message string) {
	h := hmac.New(sha256.New, p.secret)
	h.Write([]byte(message))
	h.Sum(to)
}

// String keeps the pepper out of texts.
func (p Pepper) String() string { return "pepper REDACTED" }

// GoString keeps the pepper out of %#v.
func (p Pepper) GoString() string { return p.String() }

// LogValue keeps the pepper out of logs.
func (p Pepper) LogValue() slog.Value { return slog.StringValue(p.String()) }
