package pack

import (
	"encoding/binary"
	"math/bits"
)

// Encodings of a page's column, which is one small number per series or chunk.
// The encoder uses the shortest, except that it prefers idsDelta to idsBitpack
// up to twice the size: zstd compresses differences better.
const (
	idsConst   = 0 // one number for all
	idsRuns    = 1 // pairs of run length and number
	idsDelta   = 2 // signed differences to the previous number, the first to 0
	idsBitpack = 3 // a width in bits, then the numbers, low bits first
)

// idEncoder encodes columns. Its only state is scratch buffers.
type idEncoder struct{ runs, delta []byte }

func (e *idEncoder) append(b []byte, ids []uint16) []byte {
	e.runs, e.delta = e.runs[:0], e.delta[:0]
	var prev, top uint16
	run, runs := 0, 0
	for i, id := range ids {
		if i > 0 && id != prev {
			e.runs = appendRun(e.runs, run, prev)
			run, runs = 0, runs+1
		}
		run++
		e.delta = appendZigzag(e.delta, int64(id)-int64(prev))
		prev, top = id, max(top, id)
	}
	if runs == 0 {
		return binary.AppendUvarint(append(b, idsConst), uint64(prev))
	}
	e.runs = appendRun(e.runs, run, prev)
	width := bits.Len16(top)
	packed := 1 + (len(ids)*width+7)/8
	switch {
	case len(e.runs) <= len(e.delta) && len(e.runs) <= packed:
		return append(append(b, idsRuns), e.runs...)
	case len(e.delta) <= packed*2: // zstd compresses differences far better than packed bits
		return append(append(b, idsDelta), e.delta...)
	}
	return appendBits(append(b, idsBitpack, byte(width)), ids, width)
}

func appendRun(b []byte, n int, id uint16) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, uint64(n)), uint64(id))
}

func appendBits(b []byte, ids []uint16, width int) []byte {
	var acc uint64
	have := 0
	for _, id := range ids {
		acc |= uint64(id) << have
		for have += width; have >= 8; have -= 8 {
			b = append(b, byte(acc))
			acc >>= 8
		}
	}
	if have > 0 {
		b = append(b, byte(acc))
	}
	return b
}

// ids reads a column of n numbers that are at most top. For a constant column
// it returns nil and the number. The caller has checked n against the limits of
// the format.
func (c *cursor) ids(n int, top uint16, what string) (ids []uint16, constant uint16) {
	mode := c.uint8(what)
	if c.err != nil {
		return nil, 0
	}
	if mode == idsConst {
		return nil, uint16(c.upTo(uint64(top), what))
	}
	ids = make([]uint16, n)
	switch mode {
	case idsRuns:
		c.runs(ids, top, what)
	case idsDelta:
		prev := int64(0)
		for i := 0; i < n && c.err == nil; i++ {
			d := c.zigzag(what)
			if prev+d < 0 || prev+d > int64(top) || d > int64(top) {
				c.fail("%s has an index beyond the dictionary", what)
				break
			}
			prev += d
			ids[i] = uint16(prev)
		}
	case idsBitpack:
		c.bitpacked(ids, top, what)
	default:
		c.fail("%s has unknown encoding %d", what, mode)
	}
	if c.err != nil {
		return nil, 0
	}
	return ids, 0
}

func (c *cursor) runs(ids []uint16, top uint16, what string) {
	for i := 0; i < len(ids) && c.err == nil; {
		run := c.upTo(uint64(len(ids)-i), what)
		id := uint16(c.upTo(uint64(top), what))
		if run == 0 {
			c.fail("%s has an empty run", what)
		}
		for end := i + int(run); i < end; i++ {
			ids[i] = id
		}
	}
}

func (c *cursor) bitpacked(ids []uint16, top uint16, what string) {
	width := int(c.uint8(what))
	if width < 1 || width > 16 {
		c.fail("%s has an invalid width of %d bits", what, width)
		return
	}
	b := c.bytes((len(ids)*width+7)/8, what)
	var acc uint64
	have, pos := 0, 0
	for i := 0; i < len(ids) && c.err == nil; i++ {
		for ; have < width; have += 8 {
			acc |= uint64(b[pos]) << have
			pos++
		}
		id := uint16(acc & (1<<width - 1))
		acc >>= width
		have -= width
		if id > top {
			c.fail("%s has an index beyond the dictionary", what)
		}
		ids[i] = id
	}
}
