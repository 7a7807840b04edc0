// Package authn turns the Authorization header of a request into a
// tenant.Identity, or into an error of a closed set of kinds. It knows two
// credentials, Pallium's API keys and JWTs of configured issuers, each sent as
// Bearer or as Basic (user = tenant, password = key or JWT).
//
// It proves who somebody is and never what they may do: package policies
// decides, on every request, and no decision is ever cached here.
package authn

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/tenant"
)

// Keys is the store of API keys. Credential returns apikey.ErrNotFound for a
// key that does not exist; any other error means that the store could not
// answer. Touch notes that a key was used; it must not block.
type Keys interface {
	Credential(ctx context.Context, keyID string) (apikey.Credential, error)
	Touch(keyID string)
}

// Options of an Authenticator.
type Options struct {
	Config Config
	Keys   Keys          // nil: no API keys
	Pepper apikey.Pepper // that the keys were hashed with; the zero Pepper accepts none
	Now    func() time.Time
}

// Attempt is what one request presents.
type Attempt struct {
	Authorization []string   // every value of the header
	Source        netip.Addr // where the request came from; may be the zero Addr
}

// Proof is what a valid credential proved.
type Proof struct {
	Identity  tenant.Identity
	BasicUser string // "" unless sent as Basic; must agree with the tenant chosen
}

// Authenticator checks credentials. It is safe for concurrent use.
type Authenticator struct {
	cfg      Config
	keys     Keys
	pepper   apikey.Pepper
	now      func() time.Time
	attempts *attempts
	issuers  atomic.Pointer[issuers] // replaced as a whole, with its cache
}

// New checks the configuration and loads every key set. A key set that cannot
// be loaded is an error: an issuer without keys would answer 401 to everybody.
func New(o Options) (*Authenticator, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	a := &Authenticator{
		cfg: o.Config, keys: o.Keys, pepper: o.Pepper, now: o.Now,
		attempts: newAttempts(o.Config.Attempts, o.Now),
	}
	if err := a.Reload(); err != nil {
		return nil, err
	}
	return a, nil
}

// Reload reads all key files again and forgets every verified token. On error
// the previous keys stay in use.
func (a *Authenticator) Reload() error {
	set, err := loadIssuers(a.cfg.Issuers)
	if err != nil {
		return fmt.Errorf("load the keys of JWT issuers: %w", err)
	}
	a.issuers.Store(set)
	return nil
}

// Authenticate checks what the request presents. The error is always an *Error.
func (a *Authenticator) Authenticate(ctx context.Context, at Attempt) (Proof, error) {
	p, err := parseAuthorization(at.Authorization)
	if err != nil {
		return Proof{}, err
	}
	var id tenant.Identity
	if strings.HasPrefix(p.secret, keyPrefix) {
		id, err = a.apiKey(ctx, p.secret, at.Source)
	} else {
		id, err = a.token(p.secret, at.Source)
	}
	if err != nil {
		return Proof{}, err
	}
	return Proof{Identity: id, BasicUser: p.user}, nil
}

// keyPrefix tells an API key from a JWT.
const keyPrefix = apikey.Prefix + "_"

// apiKey checks an API key: shape and checksum, failures so far, store, secret,
// and only for who knows the secret whether it is revoked or expired.
func (a *Authenticator) apiKey(ctx context.Context, key string, src netip.Addr) (tenant.Identity, error) {
	if a.keys == nil {
		return tenant.Identity{}, invalid("api_keys_off")
	}
	keyID, secret, err := a.pepper.Parse(key)
	if err != nil {
		return tenant.Identity{}, invalid("key_malformed") // costs nothing: no limit needed
	}
	if err := a.attempts.allow(src, keyID); err != nil {
		return tenant.Identity{}, err
	}
	cred, err := a.keys.Credential(ctx, keyID)
	if err != nil && !errors.Is(err, apikey.ErrNotFound) {
		return tenant.Identity{}, &Error{Kind: Unavailable, Reason: "key_store", Err: err}
	}
	known := err == nil
	if !known {
		cred = apikey.Credential{}
	}
	if known && cred.KeyID != keyID {
		return tenant.Identity{}, &Error{Kind: Unavailable, Reason: "key_store",
			Err: errors.New("the key store answered for another key")}
	}
	// An unknown key is compared all the same, with a hash that nothing has,
	// so that timing does not tell which key IDs exist.
	match := a.pepper.Verify(cred.Hash, secret)
	if !known {
		a.attempts.failed(src, keyID)
		return tenant.Identity{}, invalid("key_unknown")
	}
	if !match {
		a.attempts.failed(src, keyID)
		return tenant.Identity{}, invalid("key_secret")
	}
	if cred.Revoked {
		a.attempts.failed(src, keyID)
		return tenant.Identity{}, &Error{Kind: Revoked, Reason: "key_revoked"}
	}
	if !a.now().Before(cred.ExpiresAt) {
		a.attempts.failed(src, keyID)
		return tenant.Identity{}, &Error{Kind: Expired, Reason: "key_expired"}
	}
	a.attempts.succeeded(keyID)
	a.keys.Touch(keyID)
	return cred.Identity, nil
}

// token checks a JWT, or finds it among the tokens verified within a minute.
func (a *Authenticator) token(raw string, src netip.Addr) (tenant.Identity, error) {
	set := a.issuers.Load()
	if len(set.byIss) == 0 {
		return tenant.Identity{}, invalid("not_an_api_key")
	}
	if err := checkTokenShape(raw); err != nil {
		return tenant.Identity{}, err
	}
	now := a.now()
	sum := sha256.Sum256([]byte(raw))
	if v, ok := set.verified.get(sum); ok && now.Before(v.until) {
		return v.identity, nil
	}
	if err := a.attempts.allow(src, ""); err != nil {
		return tenant.Identity{}, err
	}
	id, exp, err := set.verify(raw, now)
	if err != nil {
		a.attempts.failed(src, "")
		return tenant.Identity{}, err
	}
	if until := earlier(exp, now.Add(verifiedFor)); until.After(now) {
		set.verified.put(sum, verified{identity: id, until: until})
	}
	return id, nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
