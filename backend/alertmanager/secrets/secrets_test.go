package secrets

import (
	"errors"
	"strings"
	"testing"
)

func parse(t *testing.T, text string) *Keys {
	t.Helper()
	k, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestSecrets checks that a secret can be decrypted, also after the key was rotated, and that it cannot be decrypted with a
// wrong tenant, name or key, or if its bytes were changed.
func TestSecrets(t *testing.T) {
	first, second := strings.Repeat("a", 32), strings.Repeat("b", 64)
	old := parse(t, first)
	sealed := old.Seal("acme", "slack", []byte("https://hooks.example/x"))
	if strings.Contains(string(sealed), "hooks") || string(sealed) == string(old.Seal("acme", "slack", []byte("https://hooks.example/x"))) {
		t.Error("the secret is readable, or encrypted equally twice")
	}
	rotated := parse(t, second+"\n"+first+"\n")
	if value, err := rotated.Open("acme", "slack", sealed); err != nil || string(value) != "https://hooks.example/x" {
		t.Errorf("after the rotation: %q, %v", value, err)
	}
	if _, err := parse(t, second).Open("acme", "slack", sealed); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("without the old key: %v", err)
	}
	if _, err := parse(t, "").Open("acme", "slack", sealed); !errors.Is(err, ErrNoKey) {
		t.Errorf("without a key: %v", err)
	}
	if value, err := parse(t, second).Open("acme", "slack", rotated.Seal("acme", "slack", []byte("x"))); err != nil || string(value) != "x" {
		t.Errorf("encrypted after the rotation: %q, %v", value, err)
	}
	for what, open := range map[string]func() ([]byte, error){
		"tenant": func() ([]byte, error) { return old.Open("other", "slack", sealed) },
		"name":   func() ([]byte, error) { return old.Open("acme", "other", sealed) },
		"bytes": func() ([]byte, error) {
			return old.Open("acme", "slack", append([]byte(string(sealed[:len(sealed)-1])), sealed[len(sealed)-1]^1))
		},
		"short":   func() ([]byte, error) { return old.Open("acme", "slack", sealed[:8]) },
		"empty":   func() ([]byte, error) { return old.Open("acme", "slack", nil) },
		"version": func() ([]byte, error) { return old.Open("acme", "slack", append([]byte{2}, sealed[1:]...)) },
	} {
		if value, err := open(); err == nil {
			t.Errorf("wrong %s: decrypted as %q", what, value)
		}
	}
	if _, err := Parse("short"); err == nil || !strings.Contains(err.Error(), "openssl") {
		t.Errorf("a short key: %v", err)
	}
	if !parse(t, " \n").Empty() || parse(t, first).Empty() {
		t.Error("Empty is wrong")
	}
}
