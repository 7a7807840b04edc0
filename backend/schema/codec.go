package schema

import (
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// maxRaw is the size in bytes up to which a compressed value is uncompressed.
const maxRaw = 256 << 20

// Codec compresses and uncompresses the larger values. It is safe for concurrent
// use.
type Codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

// NewCodec returns a codec.
func NewCodec() (*Codec, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("make a zstd encoder: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxRaw), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("make a zstd decoder: %w", err)
	}
	return &Codec{enc, dec}, nil
}

// seal compresses a payload into the envelope: its length uncompressed, and then
// zstd's frame.
func (c *Codec) seal(kind, version byte, raw []byte) []byte {
	return seal(kind, version, c.enc.EncodeAll(raw, binary.AppendUvarint(nil, uint64(len(raw)))))
}

func (c *Codec) open(kind, version byte, what string, value []byte) (*reader, error) {
	b, err := open(kind, version, what, value)
	if err != nil {
		return nil, err
	}
	r := &reader{b: b}
	n := r.upTo(maxRaw, "length")
	if r.err != nil {
		return nil, r.err
	}
	// zstd cannot compress by more than this; a length beyond it is damage.
	if n > uint64(len(r.b))<<16 {
		return nil, fmt.Errorf("%w: %s says %d bytes uncompressed and has %d", ErrCorrupt, what, n, len(r.b))
	}
	raw, err := c.dec.DecodeAll(r.b, make([]byte, 0, n))
	if err != nil || uint64(len(raw)) != n {
		return nil, fmt.Errorf("%w: %s does not uncompress to %d bytes: %w", ErrCorrupt, what, n, err)
	}
	return &reader{b: raw}, nil
}

// appendSorted appends strings that ascend, each without the start that it shares
// with the one before.
func appendSorted(b []byte, n int, at func(int) string) []byte {
	b = binary.AppendUvarint(b, uint64(n))
	prev := ""
	for i := range n {
		s, shared := at(i), 0
		for shared < len(s) && shared < len(prev) && s[shared] == prev[shared] {
			shared++
		}
		b = binary.AppendUvarint(b, uint64(shared))
		b = appendText(b, s[shared:])
		prev = s
	}
	return b
}

// sorted reads what appendSorted wrote. All strings together are bounded.
func (r *reader) sorted(what string) []string {
	n := r.count(what)
	out := make([]string, 0, min(n, 1<<16))
	prev, total := "", 0
	for i := 0; i < n && r.err == nil; i++ {
		shared := int(r.upTo(uint64(len(prev)), "shared start of "+what))
		s := prev[:shared] + r.text(what)
		if total += len(s); total > maxRaw {
			r.fail("%s are too long", what)
		}
		if r.err == nil && i > 0 && s <= prev {
			r.fail("%s do not ascend", what)
		}
		out = append(out, s)
		prev = s
	}
	return out
}
