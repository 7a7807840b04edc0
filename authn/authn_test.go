package authn

import (
	"context"
	"encoding/base64"
	"errors"
	"hash/crc32"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/test/kit/fake"
)

type scope = tenant.Scope

type keyWorld struct {
	a     *Authenticator
	store *fake.Keys
	now   time.Time
	key   apikey.Key
}

func newKeyWorld(t *testing.T, change func(*apikey.Credential)) *keyWorld {
	t.Helper()
	w := &keyWorld{store: fake.NewKeys(), now: start, key: must(apikey.Generate())}
	pepper := must(apikey.NewPepper([]byte(hmacSecret)))
	c := apikey.Credential{KeyID: w.key.ID(), Hash: pepper.HashKey(w.key), ExpiresAt: start.Add(time.Hour),
		Identity: tenant.Identity{Credential: "tk_1", Tenants: []tenant.ID{"a"}}}
	if change != nil {
		change(&c)
	}
	w.store.ByID[w.key.ID()] = c
	var err error
	w.a, err = New(Options{Keys: w.store, Pepper: pepper, Now: func() time.Time { return w.now }})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *keyWorld) auth(key, from string) (Proof, error) {
	at := Attempt{Authorization: []string{"Bearer " + key}}
	if from != "" {
		at.Source = netip.MustParseAddr(from)
	}
	return w.a.Authenticate(context.Background(), at)
}

// forged returns a key with the same ID and another secret.
func (w *keyWorld) forged() string {
	k := must(apikey.Generate())
	return forge(w.key.ID(), k.Text())
}

func TestAPIKey(t *testing.T) {
	down := errors.New("down")
	tests := []struct {
		name   string
		change func(*apikey.Credential)
		store  error
		key    func(*keyWorld) string
		kind   Kind
		reason string
		reads  int
	}{
		{"valid", nil, nil, nil, 0, "", 1},
		{"revoked", func(c *apikey.Credential) { c.Revoked = true }, nil, nil, Revoked, "key_revoked", 1},
		{"expires now", func(c *apikey.Credential) { c.ExpiresAt = start }, nil, nil, Expired, "key_expired", 1},
		{"without an expiry", func(c *apikey.Credential) { c.ExpiresAt = time.Time{} }, nil, nil, Expired, "key_expired", 1},
		{"store down", nil, down, nil, Unavailable, "key_store", 1},
		{"store answers for another key", func(c *apikey.Credential) { c.KeyID = "x" }, nil, nil, Unavailable, "key_store", 1},
		{"no hash", func(c *apikey.Credential) { c.Hash = [32]byte{} }, nil, nil, Invalid, "key_secret", 1},
		{"unknown", nil, nil, func(*keyWorld) string { return must(apikey.Generate()).Text() }, Invalid, "key_unknown", 1},
		{"wrong secret", nil, nil, (*keyWorld).forged, Invalid, "key_secret", 1},
		{"wrong secret of a revoked key", func(c *apikey.Credential) { c.Revoked = true }, nil, (*keyWorld).forged, Invalid, "key_secret", 1},
		{"mistyped", nil, nil, func(w *keyWorld) string { return w.key.Text()[:60] + "00000000" }, Invalid, "key_malformed", 0},
		{"truncated", nil, nil, func(w *keyWorld) string { return w.key.Text()[:30] }, Invalid, "key_malformed", 0},
		{"prefix only", nil, nil, func(*keyWorld) string { return "plm_" }, Invalid, "key_malformed", 0},
		{"something else", nil, nil, func(*keyWorld) string { return "glsa_abc" }, Invalid, "not_an_api_key", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newKeyWorld(t, tt.change)
			w.store.Fail(tt.store)
			key := w.key.Text()
			if tt.key != nil {
				key = tt.key(w)
			}
			p, err := w.auth(key, "")
			if w.store.Reads() != tt.reads {
				t.Errorf("%d reads of the store, want %d", w.store.Reads(), tt.reads)
			}
			if tt.kind != 0 {
				checkError(t, err, tt.kind, tt.reason)
				if len(w.store.Touched()) != 0 {
					t.Error("the use of the key was recorded")
				}
				if strings.Contains(err.Error(), key) {
					t.Error("the error contains the key")
				}
				return
			}
			if err != nil || p.Identity.Credential != "tk_1" || len(w.store.Touched()) != 1 {
				t.Fatalf("%+v, %v, touched %v", p, err, w.store.Touched())
			}
		})
	}
}

// TestEveryKeyIsCompared checks that an unknown key is also compared, with a hash that no
// secret has, before it is rejected: otherwise the response time would reveal which key
// IDs exist.
func TestEveryKeyIsCompared(t *testing.T) {
	w := newKeyWorld(t, nil)
	var compared [][32]byte
	verify := w.a.compare
	w.a.compare = func(hash [32]byte, secret string) bool {
		compared = append(compared, hash)
		return verify(hash, secret)
	}
	pepper := must(apikey.NewPepper([]byte(hmacSecret)))
	for _, tt := range []struct {
		key  string
		hash [32]byte
	}{{w.key.Text(), pepper.HashKey(w.key)}, {w.forged(), pepper.HashKey(w.key)}, {must(apikey.Generate()).Text(), [32]byte{}}} {
		compared = nil
		_, _ = w.auth(tt.key, "")
		if len(compared) != 1 || compared[0] != tt.hash {
			t.Errorf("%d comparisons, with %x, want one with %x", len(compared), compared, tt.hash)
		}
	}
	// An unknown key stays unknown even if the comparison succeeds.
	w.a.compare = func([32]byte, string) bool { return true }
	_, err := w.auth(must(apikey.Generate()).Text(), "")
	checkError(t, err, Invalid, "key_unknown")
}

func TestNoKeyStore(t *testing.T) {
	a := must(New(Options{}))
	_, err := a.Authenticate(t.Context(), Attempt{Authorization: []string{"Bearer " + must(apikey.Generate()).Text()}})
	checkError(t, err, Invalid, "api_keys_off")
}

func TestNetwork(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.77": "192.0.2.0/24", "::ffff:192.0.2.77": "192.0.2.0/24",
		"2001:db8:1:2ff::1": "2001:db8:1:200::/56", "fe80::1%eth0": "fe80::/56",
	} {
		if got := network(netip.MustParseAddr(in)).String(); got != want {
			t.Errorf("network(%s) = %s, want %s", in, got, want)
		}
	}
	for in, want := range map[string]string{"192.0.2.77": "192.0.2.77/32", "2001:db8:1:2:3::1": "2001:db8:1:2::/64"} {
		if got := source(netip.MustParseAddr(in)).String(); got != want {
			t.Errorf("source(%s) = %s, want %s", in, got, want)
		}
	}
	if network(netip.Addr{}) != (netip.Prefix{}) || source(netip.Addr{}) != (netip.Prefix{}) {
		t.Errorf("network and source of the zero address = %s and %s, want the zero prefix", network(netip.Addr{}), source(netip.Addr{}))
	}
}

func TestAuthorization(t *testing.T) {
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	tests := []struct {
		name   string
		values []string
		want   presented
		reason string
	}{
		{"Bearer", []string{"Bearer abc.d_e-f"}, presented{secret: "abc.d_e-f"}, ""},
		{"Basic", []string{basic("a:k")}, presented{user: "a", secret: "k"}, ""},
		{"Basic without user", []string{basic(":k")}, presented{secret: "k"}, ""},
		{"Basic, user with odd characters", []string{basic("a|b/ü:k")}, presented{user: "a|b/ü", secret: "k"}, ""},
		{"none", nil, presented{}, "no_credential"},
		{"empty", []string{""}, presented{}, "no_credential"},
		{"two headers", []string{"Bearer a", "Bearer a"}, presented{}, "header_repeated"},
		{"two spaces", []string{"Bearer  a"}, presented{}, "header_malformed"},
		{"tab", []string{"Bearer\ta"}, presented{}, "header_malformed"},
		{"no token", []string{"Bearer "}, presented{}, "header_malformed"},
		{"line break", []string{"Bearer a\nb"}, presented{}, "header_malformed"},
		{"list", []string{"Bearer a,b"}, presented{}, "header_malformed"},
		{"scheme", []string{"Negotiate abc"}, presented{}, "header_scheme"},
		{"bare token", []string{"abc"}, presented{}, "header_malformed"},
		{"Basic, colon in the password", []string{basic("a:k:l")}, presented{}, "header_malformed"},
		{"Basic, no colon", []string{basic("ak")}, presented{}, "header_malformed"},
		{"Basic, no password", []string{basic("a:")}, presented{}, "header_malformed"},
		{"Basic, line break in base64", []string{"Basic YTpr\nYQ=="}, presented{}, "header_malformed"},
		{"Basic, no padding", []string{"Basic YTprYQ"}, presented{}, "header_malformed"},
		{"Basic, base64url", []string{"Basic _-__"}, presented{}, "header_malformed"},
		{"too long", []string{"Bearer " + strings.Repeat("a", maxAuthorization)}, presented{}, "header_too_long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseAuthorization(tt.values)
			if tt.reason == "" {
				if err != nil || got != tt.want {
					t.Fatalf("%+v, %v, want %+v", got, err, tt.want)
				}
				return
			}
			var e *Error
			if !errors.As(err, &e) || e.Reason != tt.reason || got != (presented{}) {
				t.Fatalf("%+v, %v, want %s", got, err, tt.reason)
			}
		})
	}
}

// forge returns a key with the given ID, the secret of another key, and a valid checksum.
func forge(id, text string) string {
	parts := strings.Split(text, "_")
	body := parts[0] + "_" + id + "_" + parts[2]
	const abc = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	crc := [6]byte{}
	v := crc32.ChecksumIEEE([]byte(body))
	for i := range crc {
		crc[len(crc)-1-i] = abc[v%62]
		v /= 62
	}
	return body + "_" + string(crc[:])
}
