// Package apikey has the API keys that Pallium issues: how they are written,
// made, checked and hashed. It does no I/O; authn/control keeps the hashes and
// authn uses both.
//
// A key reads <prefix>_<keyid>_<secret>_<crc>, all in base62: 12 characters
// that name the key, 43 that carry 256 bits of secret, and a CRC32 in 6 over
// everything before it, so that mistyped keys and junk are rejected without a
// look into any store.
package apikey

import (
	"crypto/rand"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"strings"
)

// The shape of a key.
const (
	Prefix       = "plm"
	KeyIDLength  = 12
	SecretLength = 43
	crcLength    = 6

	// MaxLength is the most bytes that Parse looks at.
	MaxLength = 128

	length = len(Prefix) + 1 + KeyIDLength + 1 + SecretLength + 1 + crcLength
)

const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// ErrMalformed is returned for text that is not a key. It does not contain the
// text, which may be a secret of something else.
var ErrMalformed = errors.New("API key is malformed")

// Key is a key with its secret. Printing or logging it shows the key ID only;
// Text is the way to the whole.
type Key struct {
	id     string
	secret string
}

// Generate makes a new random key.
func Generate() (Key, error) { return generate(rand.Reader) }

func generate(r io.Reader) (Key, error) {
	id, err := random(r, KeyIDLength)
	if err != nil {
		return Key{}, err
	}
	secret, err := random(r, SecretLength)
	if err != nil {
		return Key{}, err
	}
	return Key{id: id, secret: secret}, nil
}

// random returns n base62 characters, all equally likely: bytes of 248 and more
// are drawn again, since 256 is no multiple of 62.
func random(r io.Reader, n int) (string, error) {
	const fair = 256 - 256%len(alphabet)
	out, buf := make([]byte, 0, n), make([]byte, n)
	for len(out) < n {
		if _, err := io.ReadFull(r, buf); err != nil {
			return "", fmt.Errorf("draw random bytes: %w", err)
		}
		for _, b := range buf {
			if int(b) < fair && len(out) < n {
				out = append(out, alphabet[int(b)%len(alphabet)])
			}
		}
	}
	return string(out), nil
}

// Parse reads a key and checks its shape and CRC. The only error is
// ErrMalformed, wrapped in what is wrong.
func Parse(text string) (Key, error) {
	if len(text) > MaxLength {
		return Key{}, fmt.Errorf("%w: longer than %d bytes", ErrMalformed, MaxLength)
	}
	if len(text) != length {
		return Key{}, fmt.Errorf("%w: %d bytes long, a key has %d", ErrMalformed, len(text), length)
	}
	body, crc := text[:length-crcLength-1], text[length-crcLength:]
	prefix, rest := body[:len(Prefix)], body[len(Prefix):]
	id, secret := rest[1:1+KeyIDLength], rest[KeyIDLength+2:]
	if prefix != Prefix || rest[0] != '_' || rest[KeyIDLength+1] != '_' || text[len(body)] != '_' {
		return Key{}, fmt.Errorf("%w: it does not consist of %s and three parts, with underscores between", ErrMalformed, Prefix)
	}
	if !isBase62(id) || !isBase62(secret) {
		return Key{}, fmt.Errorf("%w: only letters and digits are allowed between its underscores", ErrMalformed)
	}
	if crc != checksum(body) {
		return Key{}, fmt.Errorf("%w: its checksum is wrong, a part is missing or mistyped", ErrMalformed)
	}
	return Key{id: id, secret: secret}, nil
}

func isBase62(s string) bool {
	for i := 0; i < len(s); i++ {
		if strings.IndexByte(alphabet, s[i]) < 0 {
			return false
		}
	}
	return true
}

func checksum(body string) string {
	v := crc32.ChecksumIEEE([]byte(body))
	var out [crcLength]byte
	for i := crcLength - 1; i >= 0; i-- {
		out[i] = alphabet[v%uint32(len(alphabet))]
		v /= uint32(len(alphabet))
	}
	return string(out[:])
}

// ID is the public part of the key.
func (k Key) ID() string { return k.id }

// Text is the whole key, to be shown once to the one who asked for it.
func (k Key) Text() string {
	body := Prefix + "_" + k.id + "_" + k.secret
	return body + "_" + checksum(body)
}

// String shows the public part only.
func (k Key) String() string { return Prefix + "_" + k.id + "_REDACTED" }

// GoString keeps the secret out of %#v.
func (k Key) GoString() string { return k.String() }

// LogValue keeps the secret out of logs.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText keeps the secret out of JSON and YAML.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// NewID returns n random base62 characters, for names that must not be guessed
// or collide.
func NewID(n int) (string, error) { return random(rand.Reader, n) }

// Redact returns the text with the secrets of all keys in it replaced, also of
// keys that are cut off or mistyped behind their ID. It is for what a caller
// sent in the place of a name, before it is kept or repeated.
func Redact(text string) string {
	const mark = Prefix + "_"
	from := 0
	for {
		i := strings.Index(text[from:], mark)
		if i < 0 {
			return text
		}
		secret := from + i + len(mark) + KeyIDLength + 1
		if secret > len(text) || text[secret-1] != '_' || !isBase62(text[secret-1-KeyIDLength:secret-1]) {
			from += i + len(mark)
			continue
		}
		end := secret
		for end < len(text) && (text[end] == '_' || strings.IndexByte(alphabet, text[end]) >= 0) {
			end++
		}
		text = text[:secret] + "REDACTED" + text[end:]
		from = secret + len("REDACTED")
	}
}
