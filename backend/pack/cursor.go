package pack

import (
	"encoding/binary"
	"fmt"
)

// cursor reads a block front to back. The first thing that does not fit is
// kept as its error, and everything read after it is zero, so that decoders
// check once at the end, and always before they allocate by a count.
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

// newer keeps as the error that the file needs a newer version: it is whole.
func (c *cursor) newer(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format+" is not known to this version; a newer one wrote it", args...)
		c.b = nil
	}
}

func (c *cursor) uvarint(what string) uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.fail("%s is cut short", what)
		return 0
	}
	c.b = c.b[n:]
	return v
}

// upTo reads a varint that must not be above limit.
func (c *cursor) upTo(limit uint64, what string) uint64 {
	v := c.uvarint(what)
	if v > limit {
		c.fail("%s is %d, at most %d is possible", what, v, limit)
		return 0
	}
	return v
}

// count reads a number of things of which each takes at least one byte of what
// follows: a count that passes may be allocated for.
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
		c.fail("%s is cut short", what)
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

// end checks that nothing is left over and returns the first error.
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
