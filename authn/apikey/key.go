// Package apikey generates, parses, verifies and hashes the API keys that Pallium issues.
// It does no I/O; package authn/control stores the hashes.
//
// A key has the form <prefix>_<keyid>_<secret>_<crc>, all in base62: 12 characters that
// identify the key, 43 that contain 256 bits of secret, and 6 with a CRC32 of everything
// before it, so that mistyped keys and other text are rejected without a lookup in the
// store.
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

// The format of a key.
const (
	Prefix       = "plm"
	KeyIDLength  = 12
	SecretLength = 43
	crcLength    = 6

	// MaxLength is the length in bytes beyond which Parse rejects a text unread.
	MaxLength = 128

	length = len(Prefix) + 1 + KeyIDLength + 1 + SecretLength + 1 + crcLength
)

const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// ErrMalformed is returned for text that is not a key. It does not contain the text,
// which may be another secret.
var ErrMalformed = errors.New("API key is malformed")

// Key is a key with its secret. Printing or logging a Key shows only the key ID; Text
// returns the whole key.
type Key struct {
	id     string
	secret string
}

// Generate returns a new random key.
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

// random returns n uniformly distributed base62 characters: bytes of 248 and more are
// discarded, because 256 is not a multiple of 62.
func random(r io.Reader, n int) (string, error) {
	const fair = 256 - 256%len(alphabet)
	out, buf := make([]byte, 0, n), make([]byte, n)
	for len(out) < n {
		if _, err := io.ReadFull(r, buf); err != nil {
			return "", fmt.Errorf("read random bytes: %w", err)
		}
		for _, b := range buf {
			if int(b) < fair && len(out) < n {
				out = append(out, alphabet[int(b)%len(alphabet)])
			}
		}
	}
	return string(out), nil
}

// Parse parses a key and checks its format and CRC. Its error always wraps ErrMalformed.
func Parse(text string) (Key, error) {
	if len(text) > MaxLength {
		return Key{}, fmt.Errorf("%w: it is longer than %d bytes", ErrMalformed, MaxLength)
	}
	if len(text) != length {
		return Key{}, fmt.Errorf("%w: it is %d bytes long, a key has %d bytes", ErrMalformed, len(text), length)
	}
	body, crc := text[:length-crcLength-1], text[length-crcLength:]
	prefix, rest := body[:len(Prefix)], body[len(Prefix):]
	id, secret := rest[1:1+KeyIDLength], rest[KeyIDLength+2:]
	if prefix != Prefix || rest[0] != '_' || rest[KeyIDLength+1] != '_' || text[len(body)] != '_' {
		return Key{}, fmt.Errorf("%w: it must consist of %s and three parts, separated by underscores", ErrMalformed, Prefix)
	}
	if !isBase62(id) || !isBase62(secret) {
		return Key{}, fmt.Errorf("%w: only letters and digits are allowed between its underscores", ErrMalformed)
	}
	if crc != checksum(body) {
		return Key{}, fmt.Errorf("%w: its checksum is wrong; a part of it is missing or mistyped", ErrMalformed)
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

// ID returns the public part of the key.
func (k Key) ID() string { return k.id }

// Text returns the whole key, to be shown once to the client that requested it.
func (k Key) Text() string {
	body := Prefix + "_" + k.id + "_" + k.secret
	return body + "_" + checksum(body)
}

// String returns the key without its secret.
func (k Key) String() string { return Prefix + "_" + k.id + "_REDACTED" }

// GoString hides the secret in %#v.
func (k Key) GoString() string { return k.String() }

// LogValue hides the secret in logs.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText hides the secret in JSON and YAML.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// NewID returns n random base62 characters, for IDs that must be unique and unguessable.
func NewID(n int) (string, error) { return random(rand.Reader, n) }

// Redact returns the text with the secrets of all keys in it replaced, including keys
// that are truncated or mistyped after their ID. It is for text that a client sent where
// a name was expected, before it is stored or repeated.
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
