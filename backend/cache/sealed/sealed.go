// Package sealed protects values of the results cache in a store that others can read and write: it
// gives them names that reveal nothing, and encrypts and authenticates them.
//
// The name is the HMAC-SHA256 of tenant and key. A sealed value is a format byte (1), a random
// nonce of 24 bytes, and the value in XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03), whose
// associated data are the format, the tenant and the key. Lengths are included in both, so that
// bytes cannot be moved from the tenant to the key. The two keys are derived from a secret by
// HKDF-SHA256 (RFC 5869).
//
// A sealed value proves that a holder of the secret stored it under the same tenant and key at some
// time. It does not prove that it is the last one: anyone who can write to the store can put an
// older one back. So the frontend compares the versions of every value with the current ones.
package sealed

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/palliumhq/pallium/authn/tenant"
)

const (
	format = 1
	// Overhead is how much longer in bytes a sealed value is.
	Overhead = 1 + chacha20poly1305.NonceSizeX + chacha20poly1305.Overhead
	// minSecretBytes is the minimum length of a secret.
	minSecretBytes = 32
)

// ErrInvalid is returned for bytes that were not sealed for the tenant and key with one of the
// secrets.
var ErrInvalid = errors.New("value was not encrypted for this tenant and key by this cluster")

// Seal seals and opens values. It is safe for concurrent use.
type Seal struct{ secrets []keys }

// keys are the keys derived from one secret.
type keys struct {
	name  []byte
	value cipher.AEAD
}

// New returns a Seal for a list of secrets of at least 32 bytes. The first one is used to seal and
// all of them to open, so that a secret can be replaced while processes restart.
func New(secrets [][]byte) (*Seal, error) {
	if len(secrets) == 0 {
		return nil, errors.New("encrypt values of the results cache: no secret")
	}
	s := &Seal{}
	for _, secret := range secrets {
		k, err := derive(secret)
		if err != nil {
			return nil, fmt.Errorf("encrypt values of the results cache: %w", err)
		}
		s.secrets = append(s.secrets, k)
	}
	return s, nil
}

func derive(secret []byte) (keys, error) {
	if len(secret) < minSecretBytes {
		return keys{}, fmt.Errorf("secret has %d bytes, at least %d are required", len(secret), minSecretBytes)
	}
	name, err := hkdf.Key(sha256.New, secret, nil, "pallium results cache 1: names", sha256.Size)
	if err != nil {
		return keys{}, err
	}
	value, err := hkdf.Key(sha256.New, secret, nil, "pallium results cache 1: values", chacha20poly1305.KeySize)
	if err != nil {
		return keys{}, err
	}
	aead, err := chacha20poly1305.NewX(value)
	return keys{name: name, value: aead}, err
}

// Names returns the names under which a value may be stored, one for each secret: 43
// characters of base64url. A value is stored under the first one.
func (s *Seal) Names(id tenant.ID, key string) []string {
	out := make([]string, 0, len(s.secrets))
	in := binding(id, key)
	for _, k := range s.secrets {
		h := hmac.New(sha256.New, k.name)
		_, _ = h.Write(in)
		out = append(out, base64.RawURLEncoding.EncodeToString(h.Sum(nil)))
	}
	return out
}

// Seal returns a value of the tenant and key, sealed with the first secret.
func (s *Seal) Seal(id tenant.ID, key string, value []byte) []byte {
	out := make([]byte, 1+chacha20poly1305.NonceSizeX, len(value)+Overhead)
	out[0] = format
	nonce := out[1:]
	_, _ = rand.Read(nonce) // never fails
	return s.secrets[0].value.Seal(out, nonce, value, binding(id, key))
}

// Open returns the value of the tenant and key that any of the secrets sealed, or
// ErrInvalid.
func (s *Seal) Open(id tenant.ID, key string, sealed []byte) ([]byte, error) {
	if len(sealed) < Overhead || sealed[0] != format {
		return nil, ErrInvalid
	}
	nonce, rest := sealed[1:1+chacha20poly1305.NonceSizeX], sealed[1+chacha20poly1305.NonceSizeX:]
	in := binding(id, key)
	for _, k := range s.secrets {
		if value, err := k.value.Open(nil, nonce, rest, in); err == nil {
			return value, nil
		}
	}
	return nil, ErrInvalid
}

// binding returns the bytes to which a name and a sealed value are bound: the format, and the
// tenant and the key with their lengths.
func binding(id tenant.ID, key string) []byte {
	out := make([]byte, 0, 1+8+len(id)+8+len(key))
	out = append(out, format)
	out = binary.BigEndian.AppendUint64(out, uint64(len(id)))
	out = append(out, id...)
	out = binary.BigEndian.AppendUint64(out, uint64(len(key)))
	return append(out, key...)
}
