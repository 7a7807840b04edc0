package sealed

import (
	"bytes"
	"encoding/hex"
	"errors"
	"regexp"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
)

// secret returns a secret that consists of one byte.
func secret(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func seal(t testing.TB, secrets ...byte) *Seal {
	t.Helper()
	var list [][]byte
	for _, b := range secrets {
		list = append(list, secret(b))
	}
	s, err := New(list)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRoundTrip(t *testing.T) {
	s := seal(t, 'a')
	for _, n := range []int{0, 1, 31, 100000} {
		value := bytes.Repeat([]byte{7}, n)
		sealed := s.Seal("t", "k", value)
		if len(sealed) != n+Overhead {
			t.Errorf("sealed value of %d bytes has %d", n, len(sealed))
		}
		got, err := s.Open("t", "k", sealed)
		if err != nil || !bytes.Equal(got, value) {
			t.Errorf("%d bytes: opened %d bytes, %v", n, len(got), err)
		}
		if again := s.Seal("t", "k", value); bytes.Equal(again, sealed) {
			t.Error("a value sealed twice is the same bytes: the nonce is not random")
		}
	}
}

// TestBinding checks that a value opens only for its tenant and key, and that names differ, even if
// another tenant and key concatenate to the same bytes.
func TestBinding(t *testing.T) {
	s := seal(t, 'a')
	sealed := s.Seal("ab", "cd", []byte("v"))
	name := s.Names("ab", "cd")[0]
	for _, other := range []struct {
		id  tenant.ID
		key string
	}{{"a", "bcd"}, {"abc", "d"}, {"", "abcd"}, {"abcd", ""}, {"ab", "ce"}, {"ac", "cd"}, {"ab", "cd\x00"}} {
		if _, err := s.Open(other.id, other.key, sealed); !errors.Is(err, ErrInvalid) {
			t.Errorf("value opens for tenant %q, key %q: %v", other.id, other.key, err)
		}
		if s.Names(other.id, other.key)[0] == name {
			t.Errorf("tenant %q, key %q has the same name", other.id, other.key)
		}
	}
}

// TestDamage checks that a value does not open if a bit is changed or a byte is missing.
func TestDamage(t *testing.T) {
	s := seal(t, 'a')
	sealed := s.Seal("t", "k", []byte("value"))
	for i := range sealed {
		for bit := range 8 {
			damaged := bytes.Clone(sealed)
			damaged[i] ^= 1 << bit
			if _, err := s.Open("t", "k", damaged); !errors.Is(err, ErrInvalid) {
				t.Fatalf("opens with bit %d of byte %d changed: %v", bit, i, err)
			}
		}
		if _, err := s.Open("t", "k", sealed[:i]); !errors.Is(err, ErrInvalid) {
			t.Fatalf("opens with the first %d bytes only: %v", i, err)
		}
	}
	if _, err := s.Open("t", "k", append(bytes.Clone(sealed), 0)); !errors.Is(err, ErrInvalid) {
		t.Errorf("opens with a byte more: %v", err)
	}
}

// TestRotation checks that values are sealed and named with the first secret, and opened with any of the
// list.
func TestRotation(t *testing.T) {
	before, between, after, stranger := seal(t, 'a'), seal(t, 'b', 'a'), seal(t, 'b'), seal(t, 'x')
	old, recent := before.Seal("t", "k", []byte("v")), between.Seal("t", "k", []byte("v"))
	for name, c := range map[string]struct {
		s      *Seal
		sealed []byte
		opens  bool
	}{
		"old value, both secrets":    {between, old, true},
		"old value, new secret":      {after, old, false},
		"new value, both secrets":    {between, recent, true},
		"new value, new secret":      {after, recent, true},
		"new value, old secret":      {before, recent, false},
		"old value, another cluster": {stranger, old, false},
	} {
		if _, err := c.s.Open("t", "k", c.sealed); (err == nil) != c.opens {
			t.Errorf("%s: %v, want it to open: %t", name, err, c.opens)
		}
	}
	names := between.Names("t", "k")
	if len(names) != 2 || names[0] != after.Names("t", "k")[0] || names[1] != before.Names("t", "k")[0] {
		t.Errorf("names %v, want those of the new and the old secret", names)
	}
	for _, n := range names {
		if !regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`).MatchString(n) {
			t.Errorf("name %q", n)
		}
	}
}

// A name and a value of format 1.
const (
	goldenName  = "nlc5Qtsx2aBzz9qJrVf8r6spwqnbI7tkrewfeuBfHkM"
	goldenValue = "0176696ee3d201d2f6932e1920d794c85fa7a9d0b895180a8acbcbb045f3d7b0c90261bd123363db2804130b4ed6"
)

// TestFormat checks that values and names of earlier versions remain valid.
func TestFormat(t *testing.T) {
	s := seal(t, 'a')
	if got, want := s.Names("tenant", "key")[0], goldenName; got != want {
		t.Errorf("name %s, want %s", got, want)
	}
	sealed, err := hex.DecodeString(goldenValue)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Open("tenant", "key", sealed); string(got) != "value" {
		t.Errorf("opened %q, %v; sealed now: %x", got, err, s.Seal("tenant", "key", []byte("value")))
	}
}

func TestSecrets(t *testing.T) {
	for name, list := range map[string][][]byte{"none": nil, "short": {secret('a'), secret('a')[:31]}} {
		if _, err := New(list); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// FuzzOpen checks that nothing opens that was not sealed, and that nothing panics.
func FuzzOpen(f *testing.F) {
	s := seal(f, 'b', 'a')
	good, err := hex.DecodeString(goldenValue) // the same in all processes of the fuzzer
	if err != nil {
		f.Fatal(err)
	}
	f.Add("tenant", "key", good)
	f.Add("tenant", "", good)
	f.Add("tenantk", "ey", good)
	f.Add("", "", []byte{format})
	f.Add("", "", make([]byte, Overhead))
	f.Fuzz(func(t *testing.T, id, key string, sealed []byte) {
		v, err := s.Open(tenant.ID(id), key, sealed)
		valid := id == "tenant" && key == "key" && bytes.Equal(sealed, good)
		if (err == nil) != valid || valid && string(v) != "value" || err != nil && v != nil {
			t.Errorf("Open(%q, %q, %x) = %q, %v", id, key, sealed, v, err)
		}
	})
}
