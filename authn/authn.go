// Package authn authenticates requests: it turns the Authorization header of a request
// into a tenant.Identity or an error of a closed set of kinds. It accepts Pallium's API
// keys and JWTs of configured issuers, each sent as a Bearer token or as Basic
// authentication (user = tenant, password = key or JWT).
//
// It verifies who the client is, never what the client may do: package policies decides
// that on every request, and no decision is cached here.
package authn

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/tenant"
)

// Keys is the store of API keys. Credential returns apikey.ErrNotFound for a key that
// does not exist; any other error means that the store is unavailable. Touch records that
// a key was used; it must not block.
type Keys interface {
	Credential(ctx context.Context, keyID string) (apikey.Credential, error)
	Touch(keyID string)
}

// Options are the options of New.
type Options struct {
	Config Config
	Keys   Keys          // nil: no API keys
	Pepper apikey.Pepper // the pepper that the keys were hashed with; the zero Pepper accepts no key
	Now    func() time.Time

	Logger     *slog.Logger          // nil: no logging
	Registerer prometheus.Registerer // nil: no metrics
}

// Attempt is the credential of one request.
type Attempt struct {
	Authorization []string   // all values of the header
	Source        netip.Addr // the client's address; may be the zero Addr
}

// Proof is the result of a successful authentication.
type Proof struct {
	Identity  tenant.Identity
	BasicUser string // user name of Basic authentication, else ""; must match the selected tenant
}

// Authenticator verifies credentials. It is safe for concurrent use.
type Authenticator struct {
	cfg      Config
	keys     Keys
	pepper   apikey.Pepper
	compare  func(hash [sha256.Size]byte, secret string) bool // the pepper's Verify
	now      func() time.Time
	log      *slog.Logger
	attempts *attempts
	issuers  atomic.Pointer[issuers] // replaced as a whole, including its cache

	// lookups and signatures bound the expensive checks: a read from the store for a key that
	// was not valid recently, or a signature check of 20 to 400 µs for a JWT that is not in
	// the cache. Comparing the secret of a key takes 2 µs.
	lookups    *gate
	signatures *gate
}

// concurrentLookups is the maximum number of concurrent lookups of keys that were not valid
// recently: enough for thousands per second with a store that takes 10 ms.
const concurrentLookups = 64

// New checks the configuration and loads every key set. A key set that cannot be loaded
// is an error: without its keys, all tokens of an issuer would be rejected with 401.
func New(o Options) (*Authenticator, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	a := &Authenticator{
		cfg: o.Config, keys: o.Keys, pepper: o.Pepper, compare: o.Pepper.Verify, now: o.Now, log: o.Logger,
		attempts:   newAttempts(o.Config.Attempts, o.Now),
		lookups:    newGate(concurrentLookups),
		signatures: newGate(max(1, runtime.GOMAXPROCS(0)/2)),
	}
	a.register(o.Registerer)
	if err := a.Reload(); err != nil {
		return nil, err
	}
	return a, nil
}

// Reload reads all key files again and drops all cached tokens. On error the previous
// keys stay in use.
func (a *Authenticator) Reload() error {
	set, err := loadIssuers(a.cfg.Issuers)
	if err != nil {
		return fmt.Errorf("load the keys of JWT issuers: %w", err)
	}
	for _, i := range set.byIss {
		if n := len(i.keys.leftOut); n > 0 {
			a.log.Info("ignored keys of a JWKS that cannot verify signatures", "issuer", i.iss,
				"used", len(i.keys.keys), "left_out", n, "why", strings.Join(i.keys.leftOut, "; "))
		}
	}
	a.issuers.Store(set)
	return nil
}

// Authenticate verifies the credential of a request. The error is always an *Error.
func (a *Authenticator) Authenticate(ctx context.Context, at Attempt) (Proof, error) {
	p, err := parseAuthorization(at.Authorization)
	if err != nil {
		return Proof{}, err
	}
	var id tenant.Identity
	if strings.HasPrefix(p.secret, keyPrefix) {
		id, err = a.apiKey(ctx, p.secret, at.Source)
	} else {
		id, err = a.token(ctx, p.secret, at.Source)
	}
	if err != nil {
		return Proof{}, err
	}
	return Proof{Identity: id, BasicUser: p.user}, nil
}

// keyPrefix distinguishes an API key from a JWT.
const keyPrefix = apikey.Prefix + "_"

// apiKey verifies an API key: format and checksum, existence, secret, and then, only for a client
// that knows the secret, revocation and expiry. A key that was valid recently is not delayed before
// its check, even while other clients try to guess its secret: comparing costs almost nothing.
func (a *Authenticator) apiKey(ctx context.Context, key string, src netip.Addr) (tenant.Identity, error) {
	if a.keys == nil {
		return tenant.Identity{}, invalid("api_keys_off")
	}
	keyID, secret, err := a.pepper.Parse(key)
	if err != nil {
		return tenant.Identity{}, invalid("key_malformed") // not counted as a failure, because the check costs nothing
	}
	exempt := a.attempts.knownKey(keyID)
	cred, err := a.lookUp(ctx, keyID, src, exempt)
	if err != nil && !errors.Is(err, apikey.ErrNotFound) {
		return tenant.Identity{}, err
	}
	known := err == nil
	if !known {
		cred = apikey.Credential{}
	}
	// The secret of an unknown key is also compared, with a hash that no secret has,
	// so that timing does not reveal which key IDs exist.
	match := a.compare(cred.Hash, secret)
	err = nil
	switch {
	case !known:
		err = invalid("key_unknown")
	case !match:
		err = invalid("key_secret")
	case cred.Revoked:
		err = &Error{Kind: Revoked, Reason: "key_revoked"}
	case !a.now().Before(cred.ExpiresAt):
		err = &Error{Kind: Expired, Reason: "key_expired"}
	}
	if err != nil {
		return tenant.Identity{}, a.failed(ctx, src, exempt, err)
	}
	a.attempts.validKey(keyID)
	a.keys.Touch(keyID)
	return cred.Identity, nil
}

// lookUp reads a key from the store; a key that was not valid recently waits in a queue
// first. The error is apikey.ErrNotFound or an *Error.
func (a *Authenticator) lookUp(ctx context.Context, keyID string, src netip.Addr, exempt bool) (apikey.Credential, error) {
	if !exempt {
		if err := a.attempts.pause(ctx, src); err != nil {
			return apikey.Credential{}, notChecked(err)
		}
		if err := a.lookups.enter(ctx, src, false, a.attempts.failures(src)); err != nil {
			return apikey.Credential{}, notChecked(err)
		}
		defer a.lookups.leave()
	}
	cred, err := a.keys.Credential(ctx, keyID)
	switch {
	case errors.Is(err, apikey.ErrNotFound):
		return apikey.Credential{}, apikey.ErrNotFound
	case err != nil:
		return apikey.Credential{}, &Error{Kind: Unavailable, Reason: "key_store", Err: err}
	case cred.KeyID != keyID:
		return apikey.Credential{}, &Error{Kind: Unavailable, Reason: "key_store",
			Err: errors.New("key store returned another key than the requested one")}
	}
	return cred, nil
}

// token verifies a JWT, or finds it in the cache of tokens verified within the last
// minute.
func (a *Authenticator) token(ctx context.Context, raw string, src netip.Addr) (tenant.Identity, error) {
	set := a.issuers.Load()
	if len(set.byIss) == 0 {
		return tenant.Identity{}, invalid("not_an_api_key")
	}
	if err := checkTokenShape(raw); err != nil {
		return tenant.Identity{}, err
	}
	sum := sha256.Sum256([]byte(raw))
	if v, ok := set.verified.Get(sum); ok && a.now().Before(v.until) {
		return v.identity, nil
	}
	t, err := set.parse(raw)
	if err != nil {
		return tenant.Identity{}, a.failed(ctx, src, true, err)
	}
	who := subject{source: source(src), iss: t.issuer.iss, sub: t.subject()}
	exempt := a.attempts.knownSubject(who)
	if !exempt {
		if err := a.attempts.pause(ctx, src); err != nil {
			return tenant.Identity{}, notChecked(err)
		}
	}
	// The claims are not verified yet, so known subjects share the gate with others.
	if err := a.signatures.enter(ctx, src, exempt, a.attempts.failures(src)); err != nil {
		return tenant.Identity{}, notChecked(err)
	}
	now := a.now()
	id, exp, err := func() (tenant.Identity, time.Time, error) {
		defer a.signatures.leave()
		return t.verify(now)
	}()
	if err != nil {
		return tenant.Identity{}, a.failed(ctx, src, exempt, err)
	}
	a.attempts.validSubject(who)
	if until := earlier(exp, now.Add(verifiedFor)); until.After(now) {
		set.verified.Put(sum, verified{identity: id, until: until})
	}
	return id, nil
}

// failed counts a failure of the client and returns err. A request that was not delayed before
// its check is delayed now, because otherwise the response time would reveal which keys and
// subjects are known.
func (a *Authenticator) failed(ctx context.Context, src netip.Addr, notDelayed bool, err error) error {
	if notDelayed {
		_ = a.attempts.pause(ctx, src) // an error means that the client has disconnected
	}
	a.attempts.failed(src)
	return err
}

// notChecked returns the error of a request whose credential was not checked.
func notChecked(err error) *Error {
	if errors.Is(err, errBusy) {
		return &Error{Kind: Throttled, Reason: "checks_busy", RetryAfter: time.Second, Err: err}
	}
	return &Error{Kind: Unavailable, Reason: "client_gone", Err: err}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
