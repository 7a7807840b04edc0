package column

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
)

// AppendXOR decodes a float chunk of Prometheus (chunkenc.EncXOR) and appends
// its timestamps (Unix milliseconds) and values. On an error it returns the
// slices unchanged.
func AppendXOR(data []byte, ts []int64, vs []float64) ([]int64, []float64, error) {
	if len(data) < 2 {
		return ts, vs, corrupt("XOR chunk has %d bytes, fewer than an empty one", len(data))
	}
	n := int(binary.BigEndian.Uint16(data))
	if n == 0 {
		return ts, vs, nil
	}
	nt, nv := len(ts), len(vs)
	ts, vs = slices.Grow(ts, n)[:nt+n], slices.Grow(vs, n)[:nv+n]
	if !decodeXOR(data[2:], ts[nt:], vs[nv:]) {
		return ts[:nt], vs[:nv], corrupt("XOR chunk ends within its samples")
	}
	return ts, vs, nil
}

// xorBits is the position of a bit reader: the upper n bits of w are unread,
// and the next bits are in the byte at pos.
type xorBits struct {
	pos int
	w   uint64
	n   uint
}

// load fills w so that n is at least 56, or all remaining bits. The lower bits
// of w are bits that will be loaded again or, at the end, zeros.
func load(b []byte, r xorBits) xorBits {
	if r.pos+8 > len(b) {
		return loadLast(b, r)
	}
	r.w |= binary.BigEndian.Uint64(b[r.pos:]) >> r.n
	r.pos += int((63 - r.n) >> 3)
	r.n |= 56
	return r
}

func loadLast(b []byte, r xorBits) xorBits {
	for r.n <= 56 && r.pos < len(b) {
		r.w |= uint64(b[r.pos]) << (56 - r.n)
		r.pos++
		r.n += 8
	}
	return r
}

// take reads the next m bits, 1 to 64.
func take(b []byte, r xorBits, m uint) (after xorBits, v uint64, ok bool) {
	if m > 32 {
		if r = load(b, r); r.n < 32 {
			return r, 0, false
		}
		m -= 32
		v = r.w >> 32 << m
		r.w <<= 32
		r.n -= 32
	}
	if r = load(b, r); r.n < m {
		return r, 0, false
	}
	v |= r.w >> (64 - m)
	r.w <<= m
	r.n -= m
	return r, v, true
}

// takeChange reads the difference between a step and the previous one. r is at
// the prefix, which is not 0, and has at least 24 bits loaded unless the stream
// ends.
func takeChange(b []byte, r xorBits) (xorBits, int64, bool) {
	if r.w>>62 == 0b10 && r.n >= 16 {
		v := int64(r.w << 2 >> 50)
		if v > 1<<13 {
			v -= 1 << 14
		}
		r.w <<= 16
		r.n -= 16
		return r, v, true
	}
	prefix, m := uint(4), uint(64)
	switch {
	case r.w>>62 == 0b10:
		return r, 0, false
	case r.w>>61 == 0b110:
		prefix, m = 3, 17
	case r.w>>60 == 0b1110:
		m = 20
	}
	if r.n < prefix {
		return r, 0, false
	}
	r.w <<= prefix
	r.n -= prefix
	if m == 64 {
		r, v, ok := take(b, r, m)
		return r, int64(v), ok
	}
	if r.n < m {
		return r, 0, false
	}
	v := int64(r.w >> (64 - m))
	r.w <<= m
	r.n -= m
	if v > 1<<(m-1) {
		v -= 1 << m
	}
	return r, v, true
}

// decodeXOR decodes len(ts) samples, at least one. The first sample is its
// timestamp as a varint and its value in 64 bits. The second starts with the
// step to it as a varint, later ones with the change of the step. Values are
// XORed with the previous value: a 0 bit if they are equal; 10 and the bits in
// the previous window; or 11, the leading zeros of a new window (5 bits), its
// width (6 bits) and its bits.
func decodeXOR(b []byte, ts []int64, vs []float64) bool {
	t, v, b, ok := firstXOR(b)
	if !ok {
		return false
	}
	ts[0], vs[0] = t, math.Float64frombits(v)
	if len(ts) == 1 {
		return true
	}
	first, k := binary.Uvarint(b)
	if k <= 0 {
		return false
	}
	step := int64(first)
	r := load(b, xorBits{pos: k})
	width, shift := uint(64), uint(0) // of the window
	vs = vs[:len(ts)]
	for i := 1; ; {
		// The value. r has at least 13 bits loaded unless the stream ends.
		t += step
		if r.n == 0 {
			return false
		}
		if r.w>>63 == 0 {
			r = r.drop(1)
		} else {
			var x uint64
			if r, x, width, shift, ok = takeValue(b, r, width, shift); !ok {
				return false
			}
			v ^= x
		}
		ts[i], vs[i] = t, math.Float64frombits(v)
		if i++; i == len(ts) {
			return true
		}
		// The step to the next sample.
		if r = load(b, r); r.n == 0 {
			return false
		}
		if r.w>>63 == 0 {
			// Samples with the same step and value are two 0 bits each.
			same := min(bits.LeadingZeros64(r.w), int(r.n)) / 2
			same = min(same, len(ts)-i)
			t = repeat(ts[i:i+same], vs[i:i+same], t, step, math.Float64frombits(v))
			i += same
			if i == len(ts) {
				return true
			}
			if r = refill(b, r.drop(uint(2*same)), 32); r.n == 0 {
				return false
			}
		}
		if r.w>>63 == 0 {
			r = r.drop(1)
			continue
		}
		var change int64
		if r, change, ok = takeChange(b, r); !ok {
			return false
		}
		step += change
		r = refill(b, r, 13)
	}
}

// firstXOR reads the first sample and returns the remaining bytes.
func firstXOR(b []byte) (t int64, v uint64, rest []byte, ok bool) {
	t, k := binary.Varint(b)
	if k <= 0 || len(b) < k+8 {
		return 0, 0, nil, false
	}
	return t, binary.BigEndian.Uint64(b[k:]), b[k+8:], true
}

// drop skips n bits.
func (r xorBits) drop(n uint) xorBits {
	r.w <<= n
	r.n -= n
	return r
}

// repeat writes samples with the same value and step, and returns the timestamp
// of the last.
func repeat(ts []int64, vs []float64, t, step int64, v float64) int64 {
	for i := range ts {
		t += step
		ts[i], vs[i] = t, v
	}
	return t
}

// refill loads more bits if fewer than n are loaded.
func refill(b []byte, r xorBits, n uint) xorBits {
	if r.n < n {
		return load(b, r)
	}
	return r
}

// takeValue reads the XOR of a value with the previous value, and returns it
// with width and shift of its window. r is at the control bits, the first of
// which is 1, and has at least 13 bits loaded unless the stream ends.
func takeValue(b []byte, r xorBits, width, shift uint) (xorBits, uint64, uint, uint, bool) {
	control := uint(2)
	if r.w>>62 == 0b11 {
		control = 13
		zeros := uint(r.w >> 57 & 31)
		if width = uint(r.w >> 51 & 63); width == 0 {
			width = 64
		}
		// Prometheus' decoder shifts out all bits of a window that is too wide.
		if shift = 64 - zeros - width; zeros+width > 64 {
			shift = 64
		}
	}
	if r.n < control {
		return r, 0, 0, 0, false
	}
	r.w <<= control
	r.n -= control
	if r.n < width {
		if r = load(b, r); r.n < width {
			after, x, ok := take(b, r, width)
			return after, x << shift, width, shift, ok
		}
	}
	x := r.w >> ((64 - width) & 63) << shift
	r.w <<= width
	r.n -= width
	return r, x, width, shift, true
}
