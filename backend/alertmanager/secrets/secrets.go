// Package secrets encrypts the secrets of receivers, such as passwords, for the row store. A secret can be written,
// and used for notifications, but no API returns it.
package secrets

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/palliumhq/pallium/authn/tenant"
)

// minKey is the shortest key in bytes.
const minKey = 32

// version is the first byte of an encrypted secret: AES-256-GCM with the SHA-256 of the key, four bytes that identify
// the key, the nonce, and the ciphertext, bound to tenant and name.
const version = 1

const keyIDSize = 4

var (
	// ErrUnknownKey is returned for a secret that was encrypted with a key that the process does not have.
	ErrUnknownKey = errors.New("the secret was encrypted with a key that is not in PALLIUM_SECRET_KEY any more: set the secret again")
	// ErrNoKey is returned for a secret if there is no key.
	ErrNoKey = errors.New("this process has no key for the secrets of receivers: the operator must set PALLIUM_SECRET_KEY")
)

// Keys encrypt and decrypt secrets. The zero value has no key.
type Keys struct {
	keys []key
}

type key struct {
	id   [keyIDSize]byte
	aead cipher.AEAD
}

// Parse parses keys that are separated by white space. The first key encrypts. The others only decrypt, so that a key can be
// replaced while secrets are still encrypted with it.
func Parse(text string) (*Keys, error) {
	k := &Keys{}
	for i, word := range strings.Fields(text) {
		if len(word) < minKey {
			return nil, fmt.Errorf("key %d has %d bytes, at least %d are needed: for example the output of openssl rand -hex 32", i+1,
				len(word), minKey)
		}
		sum := sha256.Sum256([]byte(word))
		block, err := aes.NewCipher(sum[:])
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i+1, err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i+1, err)
		}
		id := sha256.Sum256(append([]byte("id "), sum[:]...))
		k.keys = append(k.keys, key{id: [keyIDSize]byte(id[:keyIDSize]), aead: aead})
	}
	return k, nil
}

// Empty reports whether there is no key.
func (k *Keys) Empty() bool { return len(k.keys) == 0 }

// bound returns the additional data of AES-GCM: a secret cannot be decrypted as that of another tenant or name.
func bound(t tenant.ID, name string) []byte { return []byte(string(t) + "\x00" + name) }

// Seal encrypts a secret of a tenant. There must be a key.
func (k *Keys) Seal(t tenant.ID, name string, value []byte) []byte {
	first := k.keys[0]
	out := append([]byte{version}, first.id[:]...)
	nonce := make([]byte, first.aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	out = append(out, nonce...)
	return first.aead.Seal(out, nonce, value, bound(t, name))
}

// Open decrypts a secret.
func (k *Keys) Open(t tenant.ID, name string, sealed []byte) ([]byte, error) {
	if k.Empty() {
		return nil, fmt.Errorf("secret %q: %w", name, ErrNoKey)
	}
	if len(sealed) < 1+keyIDSize || sealed[0] != version {
		return nil, fmt.Errorf("secret %q is corrupt, or of a newer version", name)
	}
	for _, key := range k.keys {
		if [keyIDSize]byte(sealed[1:1+keyIDSize]) != key.id {
			continue
		}
		rest := sealed[1+keyIDSize:]
		if len(rest) < key.aead.NonceSize() {
			return nil, fmt.Errorf("secret %q is corrupt", name)
		}
		value, err := key.aead.Open(nil, rest[:key.aead.NonceSize()], rest[key.aead.NonceSize():], bound(t, name))
		if err != nil {
			return nil, fmt.Errorf("secret %q is corrupt: %w", name, err)
		}
		return value, nil
	}
	return nil, fmt.Errorf("secret %q: %w", name, ErrUnknownKey)
}
