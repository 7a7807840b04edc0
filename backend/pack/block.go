package pack

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/zstd"

	"github.com/palliumhq/pallium/backend/disk"
)

// Everything between header and directory is a block: frames of samples, columns
// of timestamps, pages of labels, metadata, cells of the index. A block has its
// own length, kind and checksum, so that a page copied out of a pack (into the
// index) can still be verified.
const (
	blockHeaderLen = 12 // raw length, stored length, kind, compression, reserved
	blockOverhead  = blockHeaderLen + crc32.Size
)

type blockKind uint8

const (
	kindFrame    blockKind = 1 // consecutive chunks
	kindPage     blockKind = 2 // label table with chunk references
	kindMetadata blockKind = 3 // type, help and unit of metrics
	kindTable    blockKind = 4 // floats and histograms of many series, column by column
	kindTimes    blockKind = 5 // a column of timestamps that series share
	kindCell     blockKind = 6 // a cell of the index, verbatim
)

func (k blockKind) String() string {
	switch k {
	case kindFrame:
		return "frame"
	case kindPage:
		return "page"
	case kindMetadata:
		return "metadata"
	case kindTable:
		return "table frame"
	case kindTimes:
		return "timestamp column"
	case kindCell:
		return "index cell"
	}
	return fmt.Sprintf("block of kind %d", uint8(k))
}

const (
	compressionNone = 0
	compressionZstd = 1
)

// putBlockHeader fills in the header of a block. raw and stored are the lengths
// of the payload in bytes, before and after compression.
func putBlockHeader(h []byte, kind blockKind, compression uint8, raw, stored int) {
	binary.BigEndian.PutUint32(h[0:], uint32(raw))
	binary.BigEndian.PutUint32(h[4:], uint32(stored))
	h[8], h[9], h[10], h[11] = byte(kind), compression, 0, 0
}

// appendBlock appends raw as a block, compressed if enc is not nil and
// compression makes it smaller.
func appendBlock(b []byte, kind blockKind, raw []byte, enc *zstd.Encoder) []byte {
	start := len(b)
	b = append(b, make([]byte, blockHeaderLen)...)
	compression := uint8(compressionNone)
	if enc != nil {
		b = enc.EncodeAll(raw, b)
		compression = compressionZstd
	}
	if stored := len(b) - start - blockHeaderLen; enc == nil || stored >= len(raw) {
		b = append(b[:start+blockHeaderLen], raw...)
		compression = compressionNone
	}
	putBlockHeader(b[start:], kind, compression, len(raw), len(b)-start-blockHeaderLen)
	return binary.BigEndian.AppendUint32(b, disk.Checksum(b[start:]))
}

// block is a block whose checksum was verified; its payload may still be
// compressed.
type block struct {
	raw         int
	compression uint8
	payload     []byte
}

// parseBlock verifies that b is exactly one block of the kind and parses its
// header.
func parseBlock(b []byte, kind blockKind) (block, error) {
	if len(b) < blockOverhead {
		return block{}, fmt.Errorf("%w: %s has %d bytes, fewer than an empty one", ErrCorrupt, kind, len(b))
	}
	body := len(b) - crc32.Size
	if got, want := disk.Checksum(b[:body]), binary.BigEndian.Uint32(b[body:]); got != want {
		return block{}, fmt.Errorf("%w: %s has checksum %08x, want %08x", ErrCorrupt, kind, got, want)
	}
	k := blockKind(b[8])
	if k > kindCell {
		return block{}, fmt.Errorf("found %s instead of %s; it was written by a newer version of Pallium", k, kind)
	}
	if k != kind {
		return block{}, fmt.Errorf("%w: found %s instead of %s", ErrCorrupt, k, kind)
	}
	if b[10] != 0 || b[11] != 0 {
		return block{}, fmt.Errorf("%s uses features that this version does not know; it was written by a newer version", kind)
	}
	out := block{raw: int(binary.BigEndian.Uint32(b)), compression: b[9], payload: b[blockHeaderLen:body:body]}
	if stored := binary.BigEndian.Uint32(b[4:]); int64(stored) != int64(len(out.payload)) {
		return block{}, fmt.Errorf("%w: %s has %[4]d bytes, its header says %[3]d", ErrCorrupt, kind, stored, len(out.payload))
	}
	if out.compression == compressionNone && out.raw != len(out.payload) {
		return block{}, fmt.Errorf("%w: uncompressed %s has %[4]d bytes, its header says %[3]d", ErrCorrupt, kind, out.raw, len(out.payload))
	}
	return out, nil
}

// inflate returns the uncompressed payload, or an error if it is longer than
// limit bytes. The result of an uncompressed block is the payload itself.
func (b block) inflate(dec *zstd.Decoder, limit int) ([]byte, error) {
	if b.raw > limit {
		return nil, fmt.Errorf("%w: uncompressed length is %d bytes, the maximum is %d", ErrCorrupt, b.raw, limit)
	}
	switch b.compression {
	case compressionNone:
		return b.payload, nil
	case compressionZstd:
		out, err := dec.DecodeAll(b.payload, make([]byte, 0, b.raw))
		if err != nil {
			return nil, fmt.Errorf("%w: decompress: %w", ErrCorrupt, err)
		}
		if len(out) != b.raw {
			return nil, fmt.Errorf("%w: block has %d bytes after decompression, want %d", ErrCorrupt, len(out), b.raw)
		}
		return out, nil
	}
	return nil, fmt.Errorf("compression %d is not known to this version; it was written by a newer version", b.compression)
}

// newDecoder returns a decoder that never writes more than the capacity of the
// destination buffer.
func newDecoder() (*zstd.Decoder, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxFrame),
		zstd.WithDecoderMaxWindow(maxMetadataRaw), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("create zstd decoder: %w", err)
	}
	return dec, nil
}

// Encoder compresses blocks. It is safe for concurrent use. Share encoders:
// creating one takes longer than writing a small pack.
type Encoder struct{ zstd *zstd.Encoder }

// NewEncoder returns a new Encoder.
func NewEncoder() (*Encoder, error) {
	e, err := newEncoder()
	return &Encoder{e}, err
}

func newEncoder() (*zstd.Encoder, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(2),
		zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("create zstd encoder: %w", err)
	}
	return enc, nil
}
