package cluster

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// MinSecretBytes is the minimum length of a secret.
const MinSecretBytes = 32

// Secrets are shared by all processes of a cluster. The first one is used to sign, except that the
// answer to a peer's proof uses the secret that the peer has proved to know. All of them are used
// to verify, so that a secret can be replaced while processes restart one after another. They are
// never sent.
type Secrets struct{ list [][]byte }

// ErrNoSecret is returned for a list without a secret.
var ErrNoSecret = errors.New("the list contains no secret")

// ParseSecrets parses secrets separated by white space. Each must have at least
// MinSecretBytes bytes.
func ParseSecrets(text string) (*Secrets, error) {
	s := &Secrets{}
	for n, word := range strings.Fields(text) {
		if len(word) < MinSecretBytes {
			return nil, fmt.Errorf("secret %d of the list has %d bytes, at least %d are required; generate one with: openssl rand -base64 32; "+
				"secrets are separated by white space", n+1, len(word), MinSecretBytes)
		}
		s.list = append(s.list, []byte(word))
	}
	if len(s.list) == 0 {
		return nil, ErrNoSecret
	}
	return s, nil
}

// key derives the key of a purpose (RFC 5869), so that a signature for one purpose is
// invalid for any other.
func key(secret []byte, purpose string) []byte {
	k, err := hkdf.Key(sha256.New, secret, nil, "pallium cluster 1: "+purpose, sha256.Size)
	if err != nil { // only if too long a key is requested
		panic(err)
	}
	return k
}

// mac returns the MAC of the parts. Their lengths are included, so that different lists
// of parts never have the same MAC.
func mac(secret []byte, purpose string, parts []string) []byte {
	h := hmac.New(sha256.New, key(secret, purpose))
	for _, p := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		_, _ = h.Write(n[:])
		_, _ = h.Write([]byte(p))
	}
	return h.Sum(nil)
}

// MAC returns the MAC of the parts for a purpose with the first secret: 32 bytes.
func (s *Secrets) MAC(purpose string, parts ...string) []byte {
	return mac(s.list[0], purpose, parts)
}

// Verify returns the index of the secret that made a MAC, or -1 if none of them did.
func (s *Secrets) Verify(sum []byte, purpose string, parts ...string) int {
	found := -1
	for i, secret := range s.list {
		if hmac.Equal(sum, mac(secret, purpose, parts)) && found < 0 {
			found = i
		}
	}
	return found
}

// DerivedKeys returns 32-byte keys for a use outside this package: one per secret, in the
// order of the list, and none without secrets. Keys of different uses reveal nothing about
// each other, about the secrets, or about the keys of proofs and signatures.
func (m *Member) DerivedKeys(use string) [][]byte {
	if m.secrets == nil {
		return nil
	}
	var out [][]byte
	for _, secret := range m.secrets.list {
		out = append(out, key(secret, "derived key: "+use))
	}
	return out
}
