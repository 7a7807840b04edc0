package authn

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
)

// verify parses and verifies a token at the time start.
func verify(set *issuers, token string) (tenant.Identity, time.Time, error) {
	t, err := set.parse(token)
	if err != nil {
		return tenant.Identity{}, time.Time{}, err
	}
	return t.verify(start)
}

func FuzzAuthorization(f *testing.F) {
	f.Add("Bearer plm_abc")
	f.Add("Basic YTprZXk=")
	f.Add("basic Og==")
	f.Fuzz(func(t *testing.T, v string) {
		p, err := parseAuthorization([]string{v})
		if (err == nil) != (p.secret != "") {
			t.Fatalf("%q: %+v, %v", v, p, err)
		}
		if err == nil && !isToken68(p.secret) {
			t.Fatalf("parseAuthorization(%q) returned the secret %q", v, p.secret)
		}
	})
}

// FuzzClaims signs any payload with the right key: an accepted token must not have expired,
// apart from the leeway, and must name only valid tenants and scopes.
func FuzzClaims(f *testing.F) {
	a := newTestAuthenticator(f, func() time.Time { return start })
	hs := claims(m{"iss": "https://hs"})
	f.Add(`{"alg":"HS256"}`, hs)
	f.Add(`{"alg":"HS256","kid":"x"}`, hs[:len(hs)-1]+`,"TENANT":"b"}`)
	f.Add(`{"alg":"none"}`, `{"exp":0}`)
	f.Fuzz(func(t *testing.T, header, payload string) {
		id, exp, err := verify(a.issuers.Load(), sign(header, payload, []byte(hmacSecret)))
		if err != nil {
			if id.Credential != "" || len(id.Tenants) > 0 {
				t.Fatalf("identity %+v with error %v", id, err)
			}
			return
		}
		if !exp.After(start.Add(-time.Minute)) || exp.After(start.Add(25*time.Hour)) {
			t.Fatalf("accepted with exp %s", exp)
		}
		for _, n := range id.Tenants {
			if len(n) == 0 || len(n) > 150 {
				t.Fatalf("tenant %q", n)
			}
		}
		for _, s := range id.Scopes {
			if !s.Valid() {
				t.Fatalf("scope %q", s)
			}
		}
	})
}

// FuzzToken checks that no arbitrary token is accepted.
func FuzzToken(f *testing.F) {
	a := newTestAuthenticator(f, func() time.Time { return start })
	f.Add("a.b.c")
	f.Add(sign(`{"alg":"RS256","kid":"r1"}`, claims(nil), rsaBad()))
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := a.Authenticate(t.Context(), Attempt{Authorization: []string{"Bearer " + token}}); err == nil {
			t.Fatal("a token without a valid signature was accepted")
		}
	})
}

// FuzzStrictJSON checks that encoding/json accepts everything that the strict parser
// accepts.
func FuzzStrictJSON(f *testing.F) {
	f.Add([]byte(`{"a":[1,{"b":null}],"A ":2}`))
	f.Add([]byte(`{"a":1,"a":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		obj, err := parseObject(data)
		if err != nil {
			return
		}
		var plain map[string]any
		if err := json.Unmarshal(data, &plain); err != nil {
			t.Fatalf("%q: the strict parser accepts it, encoding/json does not: %v", data, err)
		}
		if len(plain) != len(obj) {
			t.Fatalf("%q: %d names, encoding/json has %d", data, len(obj), len(plain))
		}
	})
}

// FuzzJWKS checks for panics and unusable key sets.
func FuzzJWKS(f *testing.F) {
	f.Add([]byte(`{"keys":[` + rsaJWK(&rsaKey().PublicKey, `,"kid":"a"`) + `]}`))
	f.Add([]byte(`{"keys":[` + ecJWK(&ecKey().PublicKey, "") + `]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := parseJWKS(data)
		if err == nil && (len(set.keys) == 0 || set.symmetric) {
			t.Fatalf("parseJWKS(%q) = %+v", data, set)
		}
	})
}

func BenchmarkAuthenticate(b *testing.B) {
	now := start
	a := newTestAuthenticator(b, func() time.Time { return now })
	at := Attempt{Authorization: []string{"Bearer " + sign(`{"alg":"RS256","kid":"r1"}`, claims(nil), rsaKey())}}
	b.Run("jwt-cached", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := a.Authenticate(b.Context(), at); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("jwt-parse", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := a.issuers.Load().parse(at.Authorization[0][7:]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("jwt-RS256", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := verify(a.issuers.Load(), at.Authorization[0][7:]); err != nil {
				b.Fatal(err)
			}
		}
	})
}
