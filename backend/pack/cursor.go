package pack

import (
	"encoding/binary"
	"fmt"
)

// cursor reads a block front to back. It stores the first error, and later
// reads return zero, so that decoders need to check for an error only at the
// end and before they allocate by a decoded count.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
		c.b = nil
	}
}

// newer sets an error that the data was written by a newer version. It does not
// wrap ErrCorrupt.
func (c *cursor) newer(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format+" is not known to this version; it was written by a newer version", args...)
		c.b = nil
	}
}

func (c *cursor) uvarint(what string) uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.fail("%s is truncated or exceeds 64 bits", what)
		return 0
	}
	c.b = c.b[n:]
	return v
}

// upTo reads a varint and fails if it is larger than limit.
func (c *cursor) upTo(limit uint64, what string) uint64 {
	v := c.uvarint(what)
	if v > limit {
		c.fail("%s is %d, the maximum is %d", what, v, limit)
		return 0
	}
	return v
}

// count reads the number of elements that follow. Each takes at least one byte,
// so count fails if fewer bytes are left: callers may allocate by the result.
func (c *cursor) count(what string) int {
	return int(c.upTo(uint64(len(c.b)), what))
}

// zigzag reads a signed varint.
func (c *cursor) zigzag(what string) int64 {
	v := c.uvarint(what)
	return int64(v>>1) ^ -int64(v&1)
}

// bytes returns the next n bytes without a copy.
func (c *cursor) bytes(n int, what string) []byte {
	if n < 0 || n > len(c.b) {
		c.fail("%s is truncated", what)
		return nil
	}
	out := c.b[:n:n]
	c.b = c.b[n:]
	return out
}

// text returns a length-prefixed string of at most limit bytes without a copy.
func (c *cursor) text(limit int, what string) []byte {
	return c.bytes(int(c.upTo(uint64(limit), "length of "+what)), what)
}

func (c *cursor) uint8(what string) uint8 {
	if b := c.bytes(1, what); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) uint16(what string) uint16 {
	if b := c.bytes(2, what); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) uint32(what string) uint32 {
	if b := c.bytes(4, what); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// end fails if bytes are left over, and returns the first error.
func (c *cursor) end(what string) error {
	if c.err == nil && len(c.b) > 0 {
		c.fail("%d bytes follow the end of %s", len(c.b), what)
	}
	return c.err
}

func appendZigzag(b []byte, v int64) []byte {
	return binary.AppendUvarint(b, uint64(v)<<1^uint64(v>>63))
}

func appendText(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}
