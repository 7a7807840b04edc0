package column

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
)

// streamWriter encodes streams. It reuses its buffers.
type streamWriter struct {
	varints []byte
	packed  []byte
	gaps    []byte
	rest    []int64
}

// append appends the stream of the residuals r with a base. It modifies r.
func (w *streamWriter) append(dst []byte, r []int64, base int64) []byte {
	zeros := 0
	for i := range r {
		r[i] -= base
		if r[i] == 0 {
			zeros++
		}
	}
	if len(r) == 0 || zeros*2 < len(r) {
		mode, body := w.dense(r)
		dst = append(dst, mode)
		dst = binary.AppendVarint(dst, base)
		return append(dst, body...)
	}
	w.gaps, w.rest = w.gaps[:0], w.rest[:0]
	last := -1
	for i, v := range r {
		if v != 0 {
			w.gaps = binary.AppendUvarint(w.gaps, uint64(i-last-1))
			w.rest = append(w.rest, v)
			last = i
		}
	}
	dst = append(dst, modeSparse)
	dst = binary.AppendVarint(dst, base)
	dst = binary.AppendUvarint(dst, uint64(len(w.rest)))
	dst = binary.AppendUvarint(dst, uint64(len(w.gaps)))
	dst = append(dst, w.gaps...)
	if len(w.rest) == 0 {
		return dst
	}
	mode, body := w.dense(w.rest)
	dst = append(dst, mode)
	return append(dst, body...)
}

// dense encodes residuals as varints or packed, whichever is estimated to be
// smaller after compression with zstd.
func (w *streamWriter) dense(r []int64) (byte, []byte) {
	w.varints = slices.Grow(w.varints[:0], len(r)+binary.MaxVarintLen64)
	for _, v := range r {
		z := zigzag(v)
		if z < 0x80 {
			w.varints = append(w.varints, byte(z))
			continue
		}
		w.varints = binary.AppendUvarint(w.varints, z)
	}
	size := entropy(w.varints)
	if size < float64(len(r))*packedFrom {
		return modeVarint, w.varints
	}
	w.pack(r)
	if float64(len(w.packed)*8) < size {
		return modePacked, w.packed
	}
	return modeVarint, w.varints
}

// packedFrom is the number of bits per residual below which packing is not
// tried, because zstd compresses varints as well as packing does.
const packedFrom = 3

// entropy estimates the size in bits of the bytes after compression with zstd:
// their order-0 entropy.
func entropy(b []byte) float64 {
	var counts [256]int
	for _, c := range b {
		counts[c]++
	}
	sum, n := 0.0, float64(len(b))
	for _, c := range counts {
		if c > 0 {
			sum += float64(c) * math.Log2(n/float64(c))
		}
	}
	return sum
}

// pack encodes r into w.packed.
func (w *streamWriter) pack(r []int64) {
	w.packed = w.packed[:0]
	level := int64(0)
	var z [block]uint64
	for len(r) > 0 {
		m := min(block, len(r))
		base := median(r[:m])
		for i, v := range r[:m] {
			z[i] = zigzag(v - base)
		}
		k := riceBits(z[:m])
		w.packed = append(w.packed, byte(k))
		w.packed = binary.AppendVarint(w.packed, base-level)
		w.packed = appendRice(w.packed, z[:m], k)
		level = base
		r = r[m:]
	}
}

// median returns the approximate median of the values, computed from at most 31
// of them.
func median(r []int64) int64 {
	var some [31]int64
	n := min(len(some), len(r))
	for i := range n {
		v := r[i*len(r)/n]
		j := i
		for ; j > 0 && some[j-1] > v; j-- {
			some[j] = some[j-1]
		}
		some[j] = v
	}
	return some[n/2]
}

// riceBits returns the number of low bits for which the Rice codes are
// estimated to be shortest.
func riceBits(z []uint64) uint {
	var lens [65]int
	for _, v := range z {
		lens[bits.Len64(v)]++
	}
	best, bestCost := uint(0), math.MaxInt
	for k := range maxLow + 1 {
		cost := len(z) * (k + 1)
		for l := k + 1; l <= 64; l++ {
			switch {
			case lens[l] == 0:
			case l-k <= 4:
				// A number of l bits is 3/4 of 1<<l on average.
				cost += lens[l] * (3 << (l - k) / 4)
			default:
				cost += lens[l] * (maxUnary + 8 + l*8/7)
			}
		}
		if cost < bestCost {
			best, bestCost = uint(k), cost
		}
	}
	return best
}

// appendRice appends the low k bits of all numbers, then all quotients in
// unary, then the numbers whose quotient is maxUnary or larger.
func appendRice(dst []byte, z []uint64, k uint) []byte {
	mask := uint64(1)<<k - 1
	acc, n := uint64(0), uint(0)
	for _, v := range z {
		v &= mask
		acc |= v << n
		if n += k; n >= 64 {
			dst = binary.LittleEndian.AppendUint64(dst, acc)
			n -= 64
			acc = v >> (k - n)
		}
	}
	dst = appendBits(dst, acc, n)
	acc, n = 0, 0
	escapes := false
	for _, v := range z {
		q := v >> k
		if q >= maxUnary {
			q, escapes = maxUnary, true
		}
		if n += uint(q) + 1; n <= 64 {
			acc |= 1 << (n - 1)
			continue
		}
		dst = binary.LittleEndian.AppendUint64(dst, acc)
		n -= 64
		acc = 1 << (n - 1)
	}
	dst = appendBits(dst, acc, n)
	if !escapes {
		return dst
	}
	for _, v := range z {
		if v>>k >= maxUnary {
			dst = binary.AppendUvarint(dst, v)
		}
	}
	return dst
}

func appendBits(dst []byte, acc uint64, n uint) []byte {
	for ; n > 0; n -= min(n, 8) {
		dst = append(dst, byte(acc))
		acc >>= 8
	}
	return dst
}

// estimate estimates the encoded size in bits of the residuals minus base: the
// entropy of their bit lengths, plus the bits below the highest.
func estimate(r []int64, base int64) float64 {
	var lens [65]int
	for _, v := range r {
		lens[bits.Len64(zigzag(v-base))]++
	}
	sum, n := 0.0, float64(len(r))
	for l, c := range lens {
		if c > 0 {
			sum += float64(c) * (math.Log2(n/float64(c)) + float64(max(l-1, 0)))
		}
	}
	return sum
}

// bestBase returns the base with the smaller estimated size, 0 or the
// approximate median of r, and that size.
func bestBase(r []int64) (base int64, size float64) {
	size = estimate(r, 0)
	m := median(r)
	if m == 0 {
		return 0, size
	}
	if s := estimate(r, m) + 16; s < size {
		return m, s
	}
	return 0, size
}
