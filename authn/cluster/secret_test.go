package cluster

import (
	"bytes"
	"strings"
	"testing"
)

// TestDerivedKeys checks that there is a key for each secret and use, and that none is a
// key of proofs or signatures.
func TestDerivedKeys(t *testing.T) {
	first, second := strings.Repeat("a", MinSecretBytes), strings.Repeat("b", MinSecretBytes)
	derived := func(text, use string) [][]byte {
		t.Helper()
		secrets, err := ParseSecrets(text)
		if err != nil {
			t.Fatal(err)
		}
		m, err := New(Options{Secrets: secrets})
		if err != nil {
			t.Fatal(err)
		}
		return m.DerivedKeys(use)
	}
	both := derived(first+" "+second, "x")
	if len(both) != 2 || !bytes.Equal(both[0], derived(first, "x")[0]) || !bytes.Equal(both[1], derived(second, "x")[0]) {
		t.Error("the keys are not those of the secrets in their order")
	}
	for name, other := range map[string][]byte{
		"another secret": both[1], "another use": derived(first, "y")[0], "the secret": []byte(first),
		"a signature for the same purpose": key([]byte(first), "x"), "the proof of a client": key([]byte(first), ofClient),
	} {
		if len(both[0]) != 32 || bytes.Equal(both[0], other) {
			t.Errorf("the key has %d bytes, want 32, or equals that of %s", len(both[0]), name)
		}
	}
	if bytes.Equal(derived(first, ofClient)[0], key([]byte(first), ofClient)) {
		t.Error("the key of a proof is handed out")
	}
	if got := (&Member{}).DerivedKeys("x"); got != nil {
		t.Errorf("%d keys without secrets", len(got))
	}
}
