package authn

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/test/kit/fake"
)

// login is an Authenticator with many keys and an issuer in a synctest bubble, whose
// clock it uses.
type login struct {
	t     *testing.T
	a     *Authenticator
	store *fake.Keys
	keys  []string
}

func newLogin(t *testing.T, keys int) *login {
	t.Helper()
	l := &login{t: t, store: fake.NewKeys()}
	pepper := must(apikey.NewPepper([]byte(hmacSecret)))
	for range keys {
		k := must(apikey.Generate())
		l.keys = append(l.keys, k.Text())
		l.store.ByID[k.ID()] = apikey.Credential{KeyID: k.ID(), Hash: pepper.HashKey(k), ExpiresAt: time.Now().Add(24 * time.Hour),
			Identity: tenant.Identity{Credential: "tk_1", Tenants: []tenant.ID{"a"}}}
	}
	l.a = must(New(Options{Keys: l.store, Pepper: pepper, Config: Config{Issuers: []IssuerConfig{
		{Issuer: "https://hs", Audiences: []string{"pallium"}, Keys: KeysConfig{SecretFile: file(t, []byte(hmacSecret))}},
	}}}))
	return l
}

func (l *login) auth(credential, from string) error {
	_, err := l.a.Authenticate(l.t.Context(), Attempt{Authorization: []string{"Bearer " + credential}, Source: netip.MustParseAddr(from)})
	return err
}

// jwt returns a new token of the subject, signed with the secret.
func (l *login) jwt(sub, secret string, n int) string {
	now := time.Now().Unix()
	return sign(`{"alg":"HS256"}`, claims(m{"iss": "https://hs", "sub": sub, "iat": now, "exp": now + 600, "jti": fmt.Sprint(n)}), []byte(secret))
}

// fail makes n concurrent failing attempts from an address and waits for them.
func (l *login) fail(from string, n int) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() { _ = l.auth(must(apikey.Generate()).Text(), from) })
	}
	wg.Wait()
}

// waited returns how long the authentication of a valid credential took.
func (l *login) waited(credential, from string) time.Duration {
	l.t.Helper()
	begun := time.Now()
	if err := l.auth(credential, from); err != nil {
		l.t.Errorf("a valid credential: %v", err)
	}
	return time.Since(begun)
}

// TestValidIsNeverRejected checks that keys and tokens are accepted, and how long they wait when
// they are used first and again, during a flood of wrong credentials from the same address or
// network.
func TestValidIsNeverRejected(t *testing.T) {
	const here, near = "192.0.2.1", "192.0.2.200"
	tests := []struct {
		name    string
		flood   string // source of the flood; "": many addresses of the network in turn
		perSec  int
		takes   time.Duration // duration of a read from the store
		from    string
		wrong   func(l *login, n int) string
		longest time.Duration
	}{
		{"from the same address", here, 800, 5 * time.Millisecond, here, wrongKey, maxDelay + 20*time.Millisecond},
		{"from the same network", here, 800, 5 * time.Millisecond, near, wrongKey, 20 * time.Millisecond},
		{"many addresses of the same network", "", 800, 5 * time.Millisecond, here, wrongKey, maxDelay + 20*time.Millisecond},
		{"wrong secrets of the same keys", here, 800, 5 * time.Millisecond, here, wrongSecret, maxDelay + 20*time.Millisecond},
		{"forged tokens of the same subjects", here, 800, 5 * time.Millisecond, here, forgedToken, maxDelay + 20*time.Millisecond},
		{"more than the store can take, from the same network", here, 2000, 100 * time.Millisecond, near, wrongKey, time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLogin(t, 30)
				l.store.Takes = tt.takes
				var wg sync.WaitGroup
				for n := range 3 * tt.perSec {
					wg.Go(func() {
						time.Sleep(time.Duration(n) * time.Second / time.Duration(tt.perSec))
						from := tt.flood
						if from == "" {
							from = fmt.Sprintf("192.0.2.%d", n%200)
						}
						_ = l.auth(tt.wrong(l, n), from)
					})
				}
				for n := range 30 {
					wg.Go(func() {
						time.Sleep(time.Second + time.Duration(n)*50*time.Millisecond)
						if d := l.waited(l.keys[n], tt.from); d > tt.longest {
							t.Errorf("key %d waited for %s", n, d)
						}
						if d := l.waited(l.jwt(fmt.Sprint("sender", n), hmacSecret, n), tt.from); d > tt.longest {
							t.Errorf("token %d waited for %s", n, d)
						}
						if d := l.waited(l.jwt(fmt.Sprint("sender", n), hmacSecret, n+100), tt.from); d > 0 {
							t.Errorf("token %d of a recently valid subject waited for %s", n, d)
						}
						if d := l.waited(l.keys[n], tt.from); d > tt.takes {
							t.Errorf("recently valid key %d waited for %s", n, d)
						}
					})
				}
				wg.Wait()
			})
		})
	}
}

func wrongKey(*login, int) string { return must(apikey.Generate()).Text() }

func wrongSecret(l *login, n int) string {
	k := must(apikey.Parse(l.keys[n%len(l.keys)]))
	return forge(k.ID(), must(apikey.Generate()).Text())
}

func forgedToken(l *login, n int) string {
	return l.jwt(fmt.Sprint("sender", n%30), "another secret of 32 bytes, or so", n)
}

// TestDelay checks that a credential from an address with many failures waits before it is looked up
// or verified, and that the address is no longer delayed after some time.
func TestDelay(t *testing.T) {
	const here, near, far = "192.0.2.1", "192.0.2.200", "198.51.100.1"
	synctest.Test(t, func(t *testing.T) {
		l := newLogin(t, 1)
		l.fail(here, 200)
		if d := l.waited(l.jwt("s", hmacSecret, 1), here); d != 0 {
			t.Errorf("within the burst: %s", d)
		}
		l.fail(here, 1000)
		reads := l.store.Reads()
		done := make(chan error, 2)
		go func() { done <- l.auth(wrongKey(l, 0), here) }()
		go func() { done <- l.auth(forgedToken(l, 0), here) }()
		synctest.Wait()
		select {
		case err := <-done:
			t.Errorf("not delayed: %v", err)
		default:
		}
		if l.store.Reads() != reads || l.a.attempts.delayed.load() != 2 {
			t.Errorf("%d reads of the store before the delay is over, %d requests delayed, want 0 and 2", l.store.Reads()-reads, l.a.attempts.delayed.load())
		}
		for range 2 {
			if err := <-done; err == nil {
				t.Error("a wrong credential was accepted")
			}
		}
		if d := l.waited(l.jwt("s2", hmacSecret, 2), here); d <= 0 || d > maxDelay {
			t.Errorf("a valid token waited for %s, want more than 0 and at most %s", d, maxDelay)
		}
		// Other addresses are not delayed, in the same network and outside.
		for _, from := range []string{near, far} {
			if d := l.waited(l.jwt("s3", hmacSecret, 3), from); d != 0 {
				t.Errorf("%s waited for %s", from, d)
			}
		}
		time.Sleep(10 * time.Second)
		if d := l.waited(l.jwt("s4", hmacSecret, 4), here); d != 0 {
			t.Errorf("later: %s", d)
		}
		// Failures spread over the network are counted against it.
		for i := range 250 {
			l.fail(fmt.Sprintf("192.0.2.%d", i), 10)
		}
		if d := l.waited(l.jwt("s5", hmacSecret, 5), "192.0.2.251"); d <= 0 || d > maxDelay {
			t.Errorf("an address in a network with many failures waited for %s, want more than 0 and at most %s", d, maxDelay)
		}
		if d := l.waited(l.jwt("s6", hmacSecret, 6), far); d != 0 {
			t.Errorf("an address in another network waited for %s", d)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		l.fail(here, 1000)
		_, err := l.a.Authenticate(ctx, Attempt{Authorization: []string{"Bearer " + wrongKey(l, 0)}, Source: netip.MustParseAddr(here)})
		checkError(t, err, Unavailable, "client_gone")
	})
}

// TestKnownGood checks that a credential is not delayed within ten minutes after it was valid,
// whatever others send in its name, and is treated as unknown after that. At other addresses, a
// known key is not delayed either, but a known subject of tokens is.
func TestKnownGood(t *testing.T) {
	const here, far = "192.0.2.1", "198.51.100.1"
	for _, kind := range []string{"key", "token"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLogin(t, 1)
				n := 0
				credential := func() string {
					if n++; kind == "key" {
						return l.keys[0]
					}
					return l.jwt("s", hmacSecret, n)
				}
				l.waited(credential(), here)
				for range 1200 {
					go func() { _ = l.auth(wrongSecret(l, 0), here) }()
					go func() { _ = l.auth(l.jwt("s", "another secret of 32 bytes, or so", n), here) }()
				}
				time.Sleep(2 * time.Second)
				l.fail(here, 1000)
				if d := l.waited(credential(), here); d != 0 {
					t.Errorf("a recently valid credential waited for %s", d)
				}
				time.Sleep(knownGoodFor - time.Minute)
				l.fail(here, 1000)
				if d := l.waited(credential(), here); d != 0 {
					t.Errorf("a credential valid within ten minutes waited for %s", d)
				}
				time.Sleep(knownGoodFor)
				l.fail(here, 1000)
				if d := l.waited(credential(), here); d == 0 {
					t.Error("a credential not used for ten minutes was not delayed")
				}
				l.fail(far, 1000)
				if d := l.waited(credential(), far); (d == 0) != (kind == "key") {
					t.Errorf("from another address it waited for %s", d)
				}
			})
		})
	}
}

// TestDelayRevealsNothing checks that every wrong credential from an address with many
// failures gets its response after the same time, whether its key, subject or issuer is
// unknown, known or recently valid.
func TestDelayRevealsNothing(t *testing.T) {
	const here = "192.0.2.1"
	for name, wrong := range map[string]func(l *login) string{
		"key that does not exist": func(l *login) string { return wrongKey(l, 0) },
		"key recently valid":      func(l *login) string { return wrongSecret(l, 0) },
		"key not used so far":     func(l *login) string { return wrongSecret(l, 1) },
		"subject recently valid":  func(l *login) string { return l.jwt("s", "another secret of 32 bytes, or so", 7) },
		"subject not used so far": func(l *login) string { return l.jwt("t", "another secret of 32 bytes, or so", 7) },
		"unknown issuer":          func(*login) string { return sign(`{"alg":"HS256"}`, claims(nil), []byte(hmacSecret)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLogin(t, 2)
				l.waited(l.keys[0], here)
				l.waited(l.jwt("s", hmacSecret, 1), here)
				for range 1000 { // not with requests: the later ones would be delayed
					l.a.attempts.failed(netip.MustParseAddr(here))
				}
				begun := time.Now()
				if err := l.auth(wrong(l), here); err == nil {
					t.Error("a wrong credential was accepted")
				}
				if d := time.Since(begun); d != maxDelay {
					t.Errorf("response after %s, want %s", d, maxDelay)
				}
			})
		})
	}
}

// TestDelayedAreBounded checks that attempts beyond the maximum number of delayed ones
// continue at once.
func TestDelayedAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLogin(t, 0)
		l.fail("192.0.2.1", 3000)
		reads := l.store.Reads()
		for i := range 2000 {
			go l.fail(fmt.Sprintf("192.0.2.%d", i/500), 1)
		}
		for i := range 3000 {
			from := fmt.Sprintf("198.51.%d.1", i/300)
			go l.fail(from, 1)
		}
		synctest.Wait()
		r := &l.a.attempts.delayed
		most := func(counts map[netip.Prefix]int) int { return slices.Max(slices.Collect(maps.Values(counts))) }
		if r.all > maxDelayed || most(r.sources) != maxDelayedPerSource || most(r.networks) > maxDelayedPerNetwork || l.store.Reads() == reads {
			t.Errorf("%d requests are delayed, by address %v, by network %v; %d reads of the store", r.all, r.sources, r.networks, l.store.Reads()-reads)
		}
		time.Sleep(2 * maxDelay)
		synctest.Wait()
		if r.all != 0 || len(r.sources) != 0 || len(r.networks) != 0 {
			t.Errorf("after the delay: %d requests delayed, %v, %v, want none", r.all, r.sources, r.networks)
		}
	})
}
