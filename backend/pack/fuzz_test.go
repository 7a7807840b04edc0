package pack

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"sync/atomic"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/disk"
	"github.com/palliumhq/pallium/backend/series"
)

// The fuzz targets search for panics and for allocations that depend on a
// number in the file instead of its size. Except FuzzOpen, they mutate data
// without a checksum or correct the checksum.

func FuzzOpen(f *testing.F) {
	whole := goldenBytes(f)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte(magic))
	f.Fuzz(func(_ *testing.T, b []byte) { _ = openAndUse(b) })
}

func FuzzDirectory(f *testing.F) {
	whole := goldenBytes(f)
	reseal(whole, func(dir []byte) []byte {
		f.Add(dir)
		return dir
	})
	f.Fuzz(func(t *testing.T, fuzzed []byte) {
		b := reseal(whole, func([]byte) []byte { return fuzzed })
		r, err := Open(memorySource{b})
		if err != nil {
			return
		}
		_ = useAll(r)
		at := binary.BigEndian.Uint64(b[len(b)-trailerLen:])
		again, err := decodeDirectory(r.dir.append(nil), int64(at))
		if err != nil || !again.equal(r.dir) {
			t.Fatalf("write and reread a decoded directory: %v", err)
		}
	})
}

// pageBytes returns the uncompressed pages of the golden pack.
func pageBytes(f *testing.F) [][]byte {
	r, err := Open(memorySource{goldenBytes(f)})
	if err != nil {
		f.Fatal(err)
	}
	var out [][]byte
	for _, p := range r.dir.pages {
		raw, err := r.load(p.place, kindPage, maxPageRaw)
		if err != nil {
			f.Fatal(err)
		}
		out = append(out, raw)
	}
	return out
}

func FuzzPage(f *testing.F) {
	for _, raw := range pageBytes(f) {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := decodePage(raw)
		if err != nil {
			return
		}
		p.frameIndex = make([]uint32, len(p.frames))
		b := labels.NewScratchBuilder(8)
		q := query{mint: 0, maxt: series.DayMillis, matchers: []*labels.Matcher{
			labels.MustNewMatcher(labels.MatchNotEqual, "job", "api"), labels.MustNewMatcher(labels.MatchRegexp, "instance", ".*")}}
		rows, err := q.rows(context.Background(), p, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			if ls := p.labels(int(row), &b); ls.Len() > len(p.columns) {
				t.Fatalf("series %d has invalid labels %s", row, ls)
			}
			if refs := p.appendRefs(nil, &q, row); len(refs) == 0 {
				t.Fatalf("series %d selected without chunks", row)
			}
		}
		_ = p.verifyFrames()
	})
}

func FuzzBlock(f *testing.F) {
	enc, err := newEncoder()
	if err != nil {
		f.Fatal(err)
	}
	dec, err := newDecoder()
	if err != nil {
		f.Fatal(err)
	}
	for _, raw := range pageBytes(f) {
		f.Add(appendBlock(nil, kindPage, raw, enc))
		f.Add(appendBlock(nil, kindPage, raw, nil))
	}
	const limit = 1 << 20
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := len(b) - crc32.Size; n >= 0 {
			binary.BigEndian.PutUint32(b[n:], disk.Checksum(b[:n]))
		}
		blk, err := parseBlock(b, kindPage)
		if err != nil {
			return
		}
		raw, err := blk.inflate(dec, limit)
		if err == nil && (len(raw) != blk.raw || len(raw) > limit) {
			t.Fatalf("decompressed block has %d bytes, its header says %d", len(raw), blk.raw)
		}
	})
}

// FuzzFrame reads a chunk at an arbitrary offset of a frame with arbitrary
// content.
func FuzzFrame(f *testing.F) {
	f.Add([]byte("\x00\x01chunk"), uint32(0), uint32(7), 1)
	f.Add([]byte{}, uint32(0), uint32(0), 0)
	f.Add([]byte("\x00\x01"), uint32(1<<31), uint32(1<<31), 1)
	f.Fuzz(func(t *testing.T, payload []byte, offset, length uint32, samples int) {
		b := appendBlock(make([]byte, headerLen), kindFrame, payload, nil)
		r := &Reader{src: memorySource{b}, dir: &directory{frames: []frameInfo{{place{off: headerLen, length: uint32(len(b) - headerLen)}}}},
			checked: make([]atomic.Uint32, 1)}
		c, err := r.Chunk(ChunkRef{offset: offset, length: length, Samples: samples})
		if err == nil && (!bytes.Equal(c.Data, payload[offset:][:length]) || c.Samples != samples) {
			t.Fatalf("read %q at %d", c.Data, offset)
		}
	})
}

func FuzzMetadata(f *testing.F) {
	f.Add([]byte("\x01\x02up\x05gauge\x00\x04Help"))
	f.Fuzz(func(_ *testing.T, raw []byte) { _, _ = decodeMetadata(raw) })
}
