package apikey

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
)

// goldenCRC is the CRC32 of the key of zeros, computed independently of this code.
const goldenCRC = "39D3TO"

// zeros is a source of zero bytes, which makes keys predictable.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

func TestGolden(t *testing.T) {
	k, err := generate(zeros{})
	if err != nil {
		t.Fatal(err)
	}
	want := "plm_" + strings.Repeat("0", 12) + "_" + strings.Repeat("0", 43) + "_" + goldenCRC
	if k.Text() != want {
		t.Errorf("key is %s, want %s", k.Text(), want)
	}
}

func TestRoundTrip(t *testing.T) {
	seen := map[string]bool{}
	for range 200 {
		k, err := Generate()
		if err != nil {
			t.Fatal(err)
		}
		back, err := Parse(k.Text())
		if err != nil || back != k {
			t.Fatalf("Parse of %v = %v, %v", k, back, err)
		}
		if seen[k.ID()] {
			t.Fatal("two keys have the same ID")
		}
		seen[k.ID()] = true
	}
}

func TestParseRejects(t *testing.T) {
	k, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	good := k.Text()
	for name, text := range map[string]string{
		"empty":         "",
		"prefix":        "xyz" + good[3:],
		"upper case":    strings.ToUpper(good[:3]) + good[3:],
		"short":         good[:len(good)-1],
		"long":          good + "0",
		"very long":     strings.Repeat(good, 100),
		"space at end":  good + " ",
		"newline":       good[:len(good)-1] + "\n",
		"JWT":           "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJlc2lnbmF0dXJlc2lnbmF0dX",
		"no underscore": strings.ReplaceAll(good, "_", "-"),
		"bad character": good[:10] + "-" + good[11:],
	} {
		_, err := Parse(text)
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
		if text != "" && strings.Contains(fmt.Sprint(err), text) {
			t.Errorf("%s: the error contains the text", name)
		}
	}
	for i := range good {
		b := []byte(good)
		b[i] ^= 1
		if _, err := Parse(string(b)); !errors.Is(err, ErrMalformed) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
}

func TestUnbiased(t *testing.T) {
	// All 256 bytes once, the largest first: the 8 largest are skipped, so that each of the 62
	// characters appears four times.
	var all []byte
	for i := range 256 {
		all = append(all, byte(255-i))
	}
	count := map[rune]int{}
	s, err := random(bytes.NewReader(append(all, bytes.Repeat([]byte{255}, 240)...)), 248)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range s {
		count[c]++
	}
	if len(count) != 62 || count['0'] != 4 || count['z'] != 4 {
		t.Errorf("counts %v", count)
	}
	if _, err := generate(io.LimitReader(zeros{}, 20)); err == nil {
		t.Error("generate with too few random bytes returned a key")
	}
}

func TestRedaction(t *testing.T) {
	k, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPepper(bytes.Repeat([]byte("pepper.."), 4))
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", k, "pepper", p)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", k, "pepper", p)
	text, err := json.Marshal(map[string]any{"k": k, "p": p})
	if err != nil {
		t.Fatal(err)
	}
	shown := log.String() + string(text) + fmt.Sprintf("%v %+v %#v %s %q", k, k, k, k, k) + fmt.Sprintf("%v %+v %#v %s", p, p, p, p)
	if strings.Contains(shown, k.secret) || strings.Contains(shown, "pepper..") {
		t.Errorf("output contains a secret: %s", shown)
	}
	if !strings.Contains(shown, k.ID()) {
		t.Errorf("output does not contain the key ID: %s", shown)
	}
}

func TestPepper(t *testing.T) {
	if _, err := NewPepper(make([]byte, 31)); err == nil {
		t.Error("a short pepper was accepted")
	}
	secret := []byte(strings.Repeat("a", 32))
	a, _ := NewPepper(secret)
	secret[0] = 'b'
	b, _ := NewPepper(secret)
	k, _ := Generate()
	if !a.Verify(a.HashKey(k), k.secret) {
		t.Error("Verify rejected the right secret")
	}
	if a.Verify(b.HashKey(k), k.secret) || a.Verify(a.HashKey(k), k.secret+"x") || a.Verify([32]byte{}, "") {
		t.Error("Verify accepted a wrong secret")
	}
	var zero Pepper
	if zero.Verify(zero.HashKey(k), k.secret) {
		t.Error("the zero pepper verified a key")
	}
	if a.Fingerprint() == b.Fingerprint() || len(a.Fingerprint()) != 16 {
		t.Errorf("fingerprints %s, %s", a.Fingerprint(), b.Fingerprint())
	}
	if a.Derive("x") == a.Derive("y") {
		t.Error("Derive returned the same key for two purposes")
	}
	id, s, err := a.Parse(k.Text())
	if id != k.ID() || s != k.secret || err != nil {
		t.Errorf("parsed %s, %v", id, err)
	}
}

// TestPepperGolden checks values that were computed independently of this code. Stored
// hashes depend on this hashing scheme, whose version is stored with them: a changed
// scheme needs a new version, and a way to verify existing hashes.
func TestPepperGolden(t *testing.T) {
	p, err := NewPepper(bytes.Repeat([]byte("p"), 32))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%x", p.Hash(strings.Repeat("0", SecretLength))); got != "d6cbd564d7ff839c93a2bd894dc1f66d884e0abe217ae98797285a46eae45005" {
		t.Errorf("hash %s", got)
	}
	if p.Fingerprint() != "f63cc6d7e86317b6" || p.Version() != 1 {
		t.Errorf("version %d, fingerprint %s", p.Version(), p.Fingerprint())
	}
}

func FuzzParse(f *testing.F) {
	k, err := Generate()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(k.Text())
	f.Add("plm___")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := Parse(text)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("error %v", err)
			}
			return
		}
		if k.Text() != text {
			t.Errorf("Parse(%q) = %q", text, k.Text())
		}
	})
}

func TestRedact(t *testing.T) {
	k, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	key := k.Text()
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"/tokens/tk_1/revoke", "/tokens/tk_1/revoke"},
		{"plm_short", "plm_short"},
		{"plm_" + k.ID(), "plm_" + k.ID()},
		{"plm_" + k.ID() + "_", k.String()},
		{"plm_no-base-62__secret", "plm_no-base-62__secret"},
		{key, k.String()},
		{key[:30], k.String()},
		{"/tokens/" + key + "/revoke", "/tokens/" + k.String() + "/revoke"},
		{"plm_" + key + " and " + key + ".", "plm_" + k.String() + " and " + k.String() + "."},
	} {
		if got := Redact(tt.in); got != tt.want {
			t.Errorf("Redact(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}
