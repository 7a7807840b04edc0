package schema

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/palliumhq/pallium/backend/disk"
)

// Errors of every decoder. Wrapping errors have the details.
var (
	// ErrCorrupt is wrapped by the error for a corrupt value.
	ErrCorrupt = errors.New("index value is corrupt")
	// ErrNewer is wrapped by the error for a value that a newer version of Pallium
	// wrote.
	ErrNewer = errors.New("index value has an unknown format: written by a newer version of Pallium")
)

// Kinds of values: the first byte of a value.
const (
	valueManifest  = 1
	valueL0        = 2
	valueIntent    = 3
	valueReceipt   = 4
	valueTombstone = 5
	valueNames     = 6
	valueBucket    = 7
	valueSummaries = 8
	valueGarbage   = 9
	valueLease     = 10
	valueAside     = 11
	valueShare     = 12
	valueRuleGroup = 13
	valueBackfill  = 14

	valueAlertmanager = 15
	valueSilence      = 16
	valueNotification = 17

	lastValue = valueNotification
)

// seal returns the envelope of a value: kind, version, payload, and a checksum of these.
func seal(kind, version byte, payload []byte) []byte {
	b := append([]byte{kind, version}, payload...)
	return binary.BigEndian.AppendUint32(b, disk.Checksum(b))
}

// open checks the envelope of a value and returns its payload.
func open(kind, version byte, what string, b []byte) ([]byte, error) {
	if len(b) < 6 {
		return nil, fmt.Errorf("%w: %s has %d bytes, fewer than an empty one", ErrCorrupt, what, len(b))
	}
	body := b[:len(b)-4]
	if got, want := disk.Checksum(body), binary.BigEndian.Uint32(b[len(b)-4:]); got != want {
		return nil, fmt.Errorf("%w: %s has checksum %08x, want %08x", ErrCorrupt, what, got, want)
	}
	if body[0] > lastValue {
		return nil, fmt.Errorf("value of kind %d instead of %s: %w", body[0], what, ErrNewer)
	}
	if body[0] != kind {
		return nil, fmt.Errorf("%w: value of kind %d instead of %s", ErrCorrupt, body[0], what)
	}
	if body[1] == 0 {
		return nil, fmt.Errorf("%w: %s has version 0", ErrCorrupt, what)
	}
	if body[1] != version {
		return nil, fmt.Errorf("%s has version %d: %w", what, body[1], ErrNewer)
	}
	return body[2:], nil
}

// reader decodes a payload sequentially. It keeps the first error; all later reads return zero
// values.
type reader struct {
	b     []byte
	err   error
	spare int // remaining bytes for expanded front-coded strings
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
		r.b = nil
	}
}

func (r *reader) uvarint(what string) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail("%s is truncated", what)
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) upTo(limit uint64, what string) uint64 {
	v := r.uvarint(what)
	if v > limit {
		r.fail("%s is %d, the limit is %d", what, v, limit)
		return 0
	}
	return v
}

// count decodes a number of items, each of which takes at least one byte of the rest.
func (r *reader) count(what string) int { return int(r.upTo(uint64(len(r.b)), what)) }

func (r *reader) varint(what string) int64 {
	v := r.uvarint(what)
	return int64(v>>1) ^ -int64(v&1)
}

func (r *reader) bytes(n int, what string) []byte {
	if n < 0 || n > len(r.b) {
		r.fail("%s is truncated", what)
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) text(what string) string {
	return string(r.bytes(int(r.upTo(uint64(len(r.b)), what)), what))
}

func (r *reader) byte(what string) byte {
	if b := r.bytes(1, what); b != nil {
		return b[0]
	}
	return 0
}

// flag decodes a byte that is 0 or 1.
func (r *reader) flag(what string) bool {
	b := r.byte(what)
	if b > 1 {
		r.fail("%s is %d, want 0 or 1", what, b)
	}
	return b == 1
}

func (r *reader) uint32(what string) uint32 {
	if b := r.bytes(4, what); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64(what string) uint64 {
	if b := r.bytes(8, what); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) end(what string) error {
	if r.err == nil && len(r.b) > 0 {
		r.fail("%d bytes follow the end of the %s", len(r.b), what)
	}
	return r.err
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendVarint(b []byte, v int64) []byte {
	return binary.AppendUvarint(b, uint64(v)<<1^uint64(v>>63))
}
