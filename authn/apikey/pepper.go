package apikey

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"log/slog"
)

// MinPepperLength is the minimum length of a pepper in bytes.
const MinPepperLength = 32

// pepperVersion is part of the keys that Derive returns and is stored with hashes, so that values of
// a later version of the hashing scheme cannot be mistaken for values of this one.
const pepperVersion = 1

// Pepper is the server's secret for hashing keys. Someone who can write to the store but
// does not know the pepper cannot create a valid key. The zero Pepper verifies nothing.
type Pepper struct {
	secret []byte
}

// NewPepper returns a Pepper with a copy of the secret, which must have at least
// MinPepperLength bytes.
func NewPepper(secret []byte) (Pepper, error) {
	if len(secret) < MinPepperLength {
		return Pepper{}, fmt.Errorf("key pepper has %d bytes, at least %d are required", len(secret), MinPepperLength)
	}
	return Pepper{secret: append([]byte(nil), secret...)}, nil
}

// Version returns the version of the hashing scheme that Hash uses; it is stored with the
// hashes.
func (p Pepper) Version() int { return pepperVersion }

// Parse calls the package's Parse and returns the parts of the key, as authn needs them.
func (p Pepper) Parse(text string) (keyID, secret string, err error) {
	k, err := Parse(text)
	return k.id, k.secret, err
}

// Hash returns HMAC-SHA-256(pepper, secret). A slow hash would add no security: a secret
// of 256 random bits cannot be guessed.
func (p Pepper) Hash(secret string) [sha256.Size]byte {
	var out [sha256.Size]byte
	p.mac(out[:0], secret)
	return out
}

// HashKey returns the Hash of the key's secret.
func (p Pepper) HashKey(k Key) [sha256.Size]byte { return p.Hash(k.secret) }

// Verify reports, in constant time, whether hash is the Hash of the secret.
func (p Pepper) Verify(hash [sha256.Size]byte, secret string) bool {
	have := p.Hash(secret)
	return len(p.secret) > 0 && subtle.ConstantTimeCompare(have[:], hash[:]) == 1
}

// Fingerprint identifies the pepper without revealing it.
func (p Pepper) Fingerprint() string {
	d := p.Derive("fingerprint")
	return hex.EncodeToString(d[:8])
}

// Derive returns a key for another purpose; keys of different purposes are independent.
// No purpose can produce the hash of a secret, because a secret contains no NUL byte.
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

// String hides the pepper in printed text.
func (p Pepper) String() string { return "pepper REDACTED" }

// GoString hides the pepper in %#v.
func (p Pepper) GoString() string { return p.String() }

// LogValue hides the pepper in logs.
func (p Pepper) LogValue() slog.Value { return slog.StringValue(p.String()) }
