package schema

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/palliumhq/pallium/backend/disk"
)

// Errors of every decoder. Their wrappings say more.
var (
	// ErrCorrupt says that bytes are damaged.
	ErrCorrupt = errors.New("index value is damaged")
	// ErrNewer says that a newer version of Pallium wrote the value.
	ErrNewer = errors.New("index value is not known to this version; a newer one wrote it")
)

// Kinds of values, the first byte of each.
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

	lastValue = valueAside
)

// seal puts a payload into the envelope of every value: kind, version, payload,
// checksum of all before.
func seal(kind, version byte, payload []byte) []byte {
	b := append([]byte{kind, version}, payload...)
	return binary.BigEndian.AppendUint32(b, disk.Checksum(b))
}

// open takes a payload out of its envelope.
func open(kind, version byte, what string, b []byte) ([]byte, error) {
	if len(b) < 6 {
		return nil, fmt.Errorf("%w: %s has %d bytes, fewer than an empty one", ErrCorrupt, what, len(b))
	}
	body := b[:len(b)-4]
	if got, want := disk.Checksum(body), binary.BigEndian.Uint32(b[len(b)-4:]); got != want {
		return nil, fmt.Errorf("%w: %s has checksum %08x, should be %08x", ErrCorrupt, what, got, want)
	}
	if body[0] > lastValue {
		return nil, fmt.Errorf("value of kind %d in the place of a %s: %w", body[0], what, ErrNewer)
	}
	if body[0] != kind {
		return nil, fmt.Errorf("%w: value of kind %d in the place of a %s", ErrCorrupt, body[0], what)
	}
	if body[1] == 0 {
		return nil, fmt.Errorf("%w: %s of version 0", ErrCorrupt, what)
	}
	if body[1] != version {
		return nil, fmt.Errorf("%s of version %d: %w", what, body[1], ErrNewer)
	}
	return body[2:], nil
}

// reader reads a payload front to back. The first thing that does not fit is
// kept as its error; everything after it reads as zero.
type reader struct {
	b     []byte
	err   error
	spare int // bytes that front-coded strings may still take once expanded
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
		r.fail("%s is cut short", what)
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) upTo(limit uint64, what string) uint64 {
	v := r.uvarint(what)
	if v > limit {
		r.fail("%s is %d, at most %d is possible", what, v, limit)
		return 0
	}
	return v
}

// count reads a number of things that take at least a byte each of what follows.
func (r *reader) count(what string) int { return int(r.upTo(uint64(len(r.b)), what)) }

func (r *reader) varint(what string) int64 {
	v := r.uvarint(what)
	return int64(v>>1) ^ -int64(v&1)
}

func (r *reader) bytes(n int, what string) []byte {
	if n < 0 || n > len(r.b) {
		r.fail("%s is cut short", what)
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

// flag reads a byte that says no or yes.
func (r *reader) flag(what string) bool {
	b := r.byte(what)
	if b > 1 {
		r.fail("%s is %d, should be 0 or 1", what, b)
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
