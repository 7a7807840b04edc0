package apikey

import (
	"errors"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
)

// ErrNotFound is returned by a key store that has no key with the asked id.
// Any other error of a key store means that it could not answer.
var ErrNotFound = errors.New("API key does not exist")

// Credential is what a key store keeps of one API key, joined with what its
// access policy grants. The secret itself is kept nowhere.
type Credential struct {
	KeyID     string          // the public part of the key
	Hash      [32]byte        // HMAC-SHA-256(pepper, secret)
	Identity  tenant.Identity // who the key is, and the realm and scopes of its policy
	ExpiresAt time.Time       // rejected from this moment on
	Revoked   bool
}
