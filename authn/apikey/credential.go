package apikey

import (
	"errors"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
)

// ErrNotFound is returned by a key store if no key has the given ID. Any other error of a
// key store means that it is unavailable.
var ErrNotFound = errors.New("API key does not exist")

// Credential is the stored record of an API key, joined with the rights that its access
// policy grants. The secret itself is not stored anywhere.
type Credential struct {
	KeyID     string          // the public part of the key
	Hash      [32]byte        // HMAC-SHA-256(pepper, secret)
	Identity  tenant.Identity // the key's token, and the tenants and scopes of its policy
	ExpiresAt time.Time       // the key is rejected from this time on
	Revoked   bool
}
