package column

import (
	"encoding/binary"
	"math/bits"
)

// A stream is a sequence of signed numbers (residuals) whose count is stored
// elsewhere. It starts with its mode and the base, which was subtracted from
// all numbers.
const (
	modeVarint = 0 // zigzag varints
	modeSparse = 1 // few nonzero numbers: the gaps between them, then the numbers
	modePacked = 2 // blocks of Rice codes, for noise that zstd cannot compress
)

const (
	block     = 128 // residuals in a packed block
	maxLow    = 56  // low bits of a Rice code; with a shift of up to 7 they fit one load
	maxUnary  = 16  // quotient that marks a number stored as a varint after the block
	batchSize = 4 * block
)

func zigzag(v int64) uint64   { return uint64(v<<1) ^ uint64(v>>63) }
func unzigzag(z uint64) int64 { return int64(z>>1) ^ -int64(z&1) }

// reader decodes a stream in batches.
type reader struct {
	b        []byte // with padding after end
	pos, end int
	mode     byte // mode of the numbers; in a sparse stream, of the nonzero numbers
	left     int  // numbers still to be decoded; in a sparse stream, nonzero numbers
	base     int64
	level    int64 // base of the last packed block

	sparse       bool
	gaps, gapEnd int // offsets of the next gap and of the end of the gaps
	gap          int // zeros before the next number
	buf          [block]int64
	used, have   int // of buf
}

// open reads the header of a stream of n numbers in b[pos:end]. Padding must
// follow end.
func (r *reader) open(b []byte, pos, end, n int) error {
	r.b, r.pos, r.end, r.left = b, pos, end, n
	r.sparse, r.level, r.used, r.have = false, 0, 0, 0
	if err := r.readMode(); err != nil {
		return err
	}
	var ok bool
	if r.base, ok = r.varint(); !ok {
		return corrupt("base of a stream is truncated")
	}
	if r.mode == modeSparse {
		return r.openSparse(n)
	}
	return r.checkCount()
}

func (r *reader) readMode() error {
	if r.pos >= r.end {
		return corrupt("stream has no mode")
	}
	r.mode = r.b[r.pos]
	r.pos++
	if r.mode > modePacked {
		return newer("stream of mode %d", r.mode)
	}
	return nil
}

func (r *reader) openSparse(n int) error {
	count, ok1 := r.uvarint()
	length, ok2 := r.uvarint()
	if !ok1 || !ok2 || count > uint64(n) || length > uint64(r.end-r.pos) || count > length {
		return corrupt("sparse stream claims %d numbers in %d bytes, which is impossible", count, length)
	}
	r.sparse, r.left = true, int(count)
	r.gaps = r.pos
	r.pos += int(length)
	r.gapEnd = r.pos
	if count == 0 {
		return nil
	}
	if err := r.readMode(); err != nil {
		return err
	}
	if r.mode == modeSparse {
		return corrupt("a sparse stream contains a sparse stream")
	}
	if err := r.checkCount(); err != nil {
		return err
	}
	return r.nextGap()
}

// checkCount compares the count with the minimum size of the numbers, which is
// one bit each.
func (r *reader) checkCount() error {
	if r.left > 8*(r.end-r.pos) {
		return corrupt("stream claims %d numbers, but only %d bytes follow", r.left, r.end-r.pos)
	}
	return nil
}

// empty reports whether all remaining numbers are equal to the base.
func (r *reader) empty() bool { return r.sparse && r.left == 0 && r.used == r.have }

// close returns an error unless all numbers and exactly all bytes were read.
func (r *reader) close() error {
	if r.left != 0 || r.used != r.have || r.pos != r.end || (r.sparse && r.gaps != r.gapEnd) {
		return corrupt("stream has unread numbers or bytes")
	}
	return nil
}

func (r *reader) uvarint() (uint64, bool) {
	v, n := binary.Uvarint(r.b[r.pos:r.end])
	if n <= 0 {
		return 0, false
	}
	r.pos += n
	return v, true
}

func (r *reader) varint() (int64, bool) {
	z, ok := r.uvarint()
	return unzigzag(z), ok
}

func (r *reader) nextGap() error {
	v, n := binary.Uvarint(r.b[r.gaps:r.gapEnd])
	if n <= 0 || v > 1<<40 {
		return corrupt("invalid gap in a sparse stream")
	}
	r.gaps += n
	r.gap = int(v)
	return nil
}

// fill decodes len(dst) numbers, which must be a multiple of block except in
// the last call.
func (r *reader) fill(dst []int64) error {
	if r.sparse {
		return r.fillSparse(dst)
	}
	return r.fillDense(dst, r.base)
}

func (r *reader) fillDense(dst []int64, base int64) error {
	if len(dst) > r.left {
		return corrupt("stream is too short")
	}
	if r.mode == modeVarint {
		return r.fillVarints(dst, base)
	}
	for len(dst) > 0 {
		m := min(block, len(dst))
		if err := r.fillPacked(dst[:m], base); err != nil {
			return err
		}
		dst = dst[m:]
	}
	return nil
}

func (r *reader) fillSparse(dst []int64) error {
	base := r.base
	for i := range dst {
		dst[i] = base
	}
	for i := 0; ; i++ {
		if r.used == r.have {
			if r.left == 0 {
				return nil
			}
			m := min(block, r.left)
			if err := r.fillDense(r.buf[:m], base); err != nil {
				return err
			}
			r.used, r.have = 0, m
		}
		if i+r.gap >= len(dst) {
			r.gap -= len(dst) - i
			return nil
		}
		i += r.gap
		dst[i] = r.buf[r.used]
		r.used++
		r.gap = 0
		if r.used < r.have || r.left > 0 {
			if err := r.nextGap(); err != nil {
				return err
			}
		}
	}
}

const topBits = 0x8080808080808080

func (r *reader) fillVarints(dst []int64, base int64) error {
	b, pos := r.b[:r.end+padding], r.pos
	r.left -= len(dst)
	for len(dst) > 0 {
		if len(dst) >= 8 && pos+8 <= len(b) {
			if w := binary.LittleEndian.Uint64(b[pos:]); w&topBits == 0 {
				d := dst[:8]
				d[0] = unzigzag(w&0xff) + base
				d[1] = unzigzag(w>>8&0xff) + base
				d[2] = unzigzag(w>>16&0xff) + base
				d[3] = unzigzag(w>>24&0xff) + base
				d[4] = unzigzag(w>>32&0xff) + base
				d[5] = unzigzag(w>>40&0xff) + base
				d[6] = unzigzag(w>>48&0xff) + base
				d[7] = unzigzag(w>>56) + base
				dst, pos = dst[8:], pos+8
				continue
			}
		}
		if pos >= r.end {
			return corrupt("stream of varints is too short")
		}
		z := uint64(b[pos])
		pos++
		if z >= 0x80 {
			var n int
			if z, n = binary.Uvarint(b[pos-1 : r.end]); n <= 0 {
				return corrupt("invalid number in a stream of varints")
			}
			pos += n - 1
		}
		dst[0] = unzigzag(z) + base
		dst = dst[1:]
	}
	if pos > r.end {
		return corrupt("stream of varints is too short")
	}
	r.pos = pos
	return nil
}

// fillPacked decodes one block: the number of low bits, the difference to the
// last block's level, all low bits, all quotients, and the numbers whose
// quotient is too large.
func (r *reader) fillPacked(dst []int64, base int64) error {
	if r.pos >= r.end {
		return corrupt("packed block is too short")
	}
	k := uint(r.b[r.pos])
	r.pos++
	step, ok := r.varint()
	if !ok || k > maxLow {
		return corrupt("packed block has an invalid width of %d bits", k)
	}
	r.level += step
	base += r.level
	low := (len(dst)*int(k) + 7) / 8
	if low > r.end-r.pos {
		return corrupt("packed block is too short")
	}
	b := r.b[:r.end+padding]
	lows := b[r.pos:]
	var quotients [block]uint8
	q := quotients[:len(dst)]
	escapes, ok := r.readUnary(q, r.pos+low)
	if !ok {
		return corrupt("packed block is too short")
	}
	mask := uint64(1)<<k - 1
	at := uint(0)
	for i := range dst {
		w := binary.LittleEndian.Uint64(lows[at>>3:]) >> (at & 7)
		at += k
		dst[i] = unzigzag(uint64(q[i])<<k|w&mask) + base
	}
	r.left -= len(dst)
	for i := 0; escapes > 0; i++ {
		if q[i] != maxUnary {
			continue
		}
		v, ok := r.varint()
		if !ok {
			return corrupt("invalid number in a packed block")
		}
		dst[i] = v + base
		escapes--
	}
	return nil
}

// readUnary reads the quotients at byte pos, each of which is a number of 0
// bits terminated by a 1 bit, and returns how many are maxUnary.
func (r *reader) readUnary(q []uint8, pos int) (escapes int, ok bool) {
	b := r.b[:r.end+padding]
	at := uint(pos) * 8
	for i := 0; i < len(q); {
		if int(at>>3) >= r.end {
			return 0, false
		}
		w := binary.LittleEndian.Uint64(b[at>>3:]) >> (at & 7)
		have := 64 - at&7
		for i < len(q) && have > maxUnary {
			n := uint(bits.TrailingZeros64(w | 1<<maxUnary))
			q[i] = uint8(n)
			escapes += int(n) / maxUnary
			i++
			n++
			w >>= n & 63
			have -= n
			at += n
		}
	}
	r.pos = int((at + 7) >> 3)
	return escapes, r.pos <= r.end
}
