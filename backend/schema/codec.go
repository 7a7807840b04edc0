package schema

import (
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// maxRaw is the largest uncompressed size of a value in bytes, and the largest total size of
// its front-coded strings after expansion.
const maxRaw = 256 << 20

// maxRatio is the highest compression ratio of zstd: a block of 128 KiB of one repeated byte
// takes 4 bytes. A value that claims a higher ratio is corrupt.
const maxRatio = 1 << 15

// Codec compresses and decompresses the larger values. It is safe for concurrent use.
type Codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

// NewCodec returns a codec.
func NewCodec() (*Codec, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
		zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("create zstd encoder: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxRaw), zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("create zstd decoder: %w", err)
	}
	return &Codec{enc, dec}, nil
}

// seal returns an envelope with a compressed payload: its uncompressed length, followed by the
// zstd frame.
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
	if n > uint64(len(r.b))*maxRatio {
		return nil, fmt.Errorf("%w: %s: decompressed length %d is impossible for %d compressed bytes", ErrCorrupt, what, n, len(r.b))
	}
	raw, err := c.dec.DecodeAll(r.b, make([]byte, 0, n))
	if err != nil {
		return nil, fmt.Errorf("%w: %s does not decompress to %d bytes: %w", ErrCorrupt, what, n, err)
	}
	if uint64(len(raw)) != n {
		return nil, fmt.Errorf("%w: %s decompresses to %d bytes, not %d", ErrCorrupt, what, len(raw), n)
	}
	return &reader{b: raw, spare: maxRaw}, nil
}

// appendSorted appends ascending strings with front coding: each without the prefix that it
// shares with the previous string.
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

// sorted decodes strings encoded by appendSorted.
func (r *reader) sorted(what string) []string {
	n := r.upTo(uint64(len(r.b)/2), what) // a string takes at least two bytes
	if n == 0 {
		return nil
	}
	out := make([]string, 0, min(n, 1<<16))
	var prev []byte
	for i := range n {
		shared := int(r.upTo(uint64(len(prev)), what))
		rest := r.bytes(int(r.upTo(uint64(len(r.b)), what)), what)
		if r.spare -= shared + len(rest); r.spare < 0 {
			r.fail("%s take more than %d bytes", what, maxRaw)
		}
		// After the shared prefix, a string must have a higher byte than the previous one.
		if i > 0 && (len(rest) == 0 || shared < len(prev) && rest[0] <= prev[shared]) {
			r.fail("%s do not ascend", what)
		}
		if r.err != nil {
			return nil
		}
		prev = append(prev[:shared], rest...)
		out = append(out, string(prev))
	}
	return out
}
