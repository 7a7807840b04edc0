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

// MinSecretBytes is the least that a secret may have.
const MinSecretBytes = 32

// Secrets are shared by all processes of a cluster. The first one signs, all of
// them verify, so that one can be exchanged for another while processes restart
// one after the other. They are never sent.
type Secrets struct{ list [][]byte }

// ErrNoSecret is returned for a list without a secret.
var ErrNoSecret = errors.New("there is no secret")

// ParseSecrets reads secrets that are separated by white space. Each has
// MinSecretBytes at least.
func ParseSecrets(text string) (*Secrets, error) {
	s := &Secrets{}
	for n, word := range strings.Fields(text) {
		if len(word) < MinSecretBytes {
			return nil, fmt.Errorf("secret %d of the list has %d bytes, at least %d are needed; make one with: openssl rand -base64 32; "+
				"secrets are separated by white space", n+1, len(word), MinSecretBytes)
		}
		s.list = append(s.list, []byte(word))
	}
	if len(s.list) == 0 {
		return nil, ErrNoSecret
	}
	return s, nil
}

// key derives the key of a purpose (RFC 5869), so that what is signed for one
// purpose proves nothing for another.
func key(secret []byte, purpose string) []byte {
	k, err := hkdf.Key(sha256.New, secret, nil, "pallium cluster 1: "+purpose, sha256.Size)
	if err != nil { // only for longer keys
		panic(err)
	}
	return k
}

// mac is over the parts with their lengths, so that no two lists of parts have
// the same.
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

// MAC authenticates the parts for a purpose with the first secret: 32 bytes.
func (s *Secrets) MAC(purpose string, parts ...string) []byte {
	return mac(s.list[0], purpose, parts)
}

// Verify tells which of the secrets made a MAC, counted from 0; -1 if none did.
func (s *Secrets) Verify(sum []byte, purpose string, parts ...string) int {
	found := -1
	for i, secret := range s.list {
		if hmac.Equal(sum, mac(secret, purpose, parts)) && found < 0 {
			found = i
		}
	}
	return found
}
