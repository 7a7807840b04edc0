package pack

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"sync/atomic"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/disk"
	"github.com/palliumhq/pallium/backend/series"
)

// suffixRead is the number of bytes that Open reads from the end of a file:
// enough that nearly every directory is fetched from object storage in one
// request with the trailer.
const suffixRead = 256 << 10

// Reader reads a pack. It is safe for concurrent use and reference counted:
// Open returns it with one reference, and the last Release closes it, so that a
// pack may be deleted while queries still read it.
type Reader struct {
	src   Source
	dir   *directory
	info  Info
	pages *PageCache
	id    uint64 // in the page cache

	refs    atomic.Int64
	checked []atomic.Uint32 // a bit per frame: its checksum was verified
}

// Option configures a Reader in Open.
type Option func(*Reader)

// WithPageCache caches decoded pages in c, which all packs of a process may
// share. Without it, pages are decoded for every use.
func WithPageCache(c *PageCache) Option { return func(r *Reader) { r.pages = c } }

// Open reads the trailer and directory of a pack. On success the reader owns
// src and closes it; on error the caller must close it.
func Open(src Source, opts ...Option) (*Reader, error) {
	size := src.Size()
	if size < headerLen+trailerLen {
		return nil, fmt.Errorf("open pack: %w: it has %d bytes, fewer than an empty pack has", ErrCorrupt, size)
	}
	tail, err := src.Range(max(0, size-suffixRead), int(min(size, suffixRead)))
	if err != nil {
		return nil, fmt.Errorf("open pack: read trailer: %w", err)
	}
	at, crc, err := parseTrailer(tail[len(tail)-trailerLen:], size)
	if err != nil {
		return nil, fmt.Errorf("open pack: %w", err)
	}
	b := tail[:len(tail)-trailerLen]
	if int(at.length) <= len(b) {
		b = b[len(b)-int(at.length):]
	} else if b, err = src.Range(at.off, int(at.length)); err != nil {
		return nil, fmt.Errorf("open pack: read directory: %w", err)
	}
	if got := disk.Checksum(b); got != crc {
		return nil, fmt.Errorf("open pack: %w: directory has checksum %08x, want %08x", ErrCorrupt, got, crc)
	}
	dir, err := decodeDirectory(b, at.off)
	if err != nil {
		return nil, fmt.Errorf("open pack: directory: %w", err)
	}
	r := &Reader{src: src, dir: dir, info: dir.info(size), checked: make([]atomic.Uint32, (len(dir.frames)+31)/32)}
	for _, o := range opts {
		o(r)
	}
	if r.pages == nil {
		r.pages = NewPageCache(0)
	}
	r.id = r.pages.register()
	r.refs.Store(1)
	return r, nil
}

// info returns the Info of a file of `size` bytes with this directory.
func (d *directory) info(size int64) Info {
	i := Info{ID: d.id, Level: d.level, Source: d.source, Size: size, Sections: make([]SectionInfo, len(d.sections))}
	for k := range d.sections {
		i.Sections[k] = d.sections[k].SectionInfo
	}
	return i
}

func (d *directory) equal(o *directory) bool {
	return d.id == o.id && d.level == o.level && d.source == o.source && slices.Equal(d.sections, o.sections) &&
		slices.Equal(d.frames, o.frames) && slices.Equal(d.pages, o.pages) &&
		slices.Equal(d.times, o.times) && slices.Equal(d.cells, o.cells)
}

// Info describes the pack. The caller must not modify its slice, which is
// shared.
func (r *Reader) Info() Info { return r.info }

// Retain adds a reference, which the caller must release with Release. It
// returns false without adding one if the reader is already closed.
func (r *Reader) Retain() bool {
	for {
		n := r.refs.Load()
		if n <= 0 {
			return false
		}
		if r.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Release releases a reference. Releasing the last one closes the pack: chunks
// read from it must not be accessed afterwards.
func (r *Reader) Release() error {
	switch n := r.refs.Add(-1); {
	case n > 0:
		return nil
	case n < 0:
		return fmt.Errorf("release: %w", ErrClosed)
	}
	r.pages.forget(r.id, len(r.dir.pages))
	return r.src.Close()
}

// sectionsOf returns the sections of a tenant, ascending by day.
func (r *Reader) sectionsOf(t tenant.ID) []section {
	all := r.dir.sections
	lo := sort.Search(len(all), func(i int) bool { return all[i].Tenant >= t })
	hi := lo
	for hi < len(all) && all[hi].Tenant == t {
		hi++
	}
	return all[lo:hi]
}

// Metadata returns the metadata of a tenant's metrics, ascending by metric. If
// several days have metadata of a metric, the last day's is returned.
func (r *Reader) Metadata(t tenant.ID) ([]series.MetricMetadata, error) {
	var out []series.MetricMetadata
	sections := r.sectionsOf(t)
	for i := range sections {
		md, err := r.metadata(&sections[i])
		if err != nil {
			return nil, fmt.Errorf("metadata of tenant %s, day %d: %w", t, sections[i].Day, err)
		}
		out = mergeMetadata(out, md)
	}
	return out, nil
}

func (r *Reader) metadata(s *section) ([]series.MetricMetadata, error) {
	if s.metadata.length == 0 {
		return nil, nil
	}
	raw, err := r.load(s.metadata, kindMetadata, maxMetadataRaw)
	if err != nil {
		return nil, err
	}
	return decodeMetadata(raw)
}

func decodeMetadata(raw []byte) ([]series.MetricMetadata, error) {
	c := &cursor{b: raw}
	n := int(c.upTo(uint64(len(raw)/4), "number of metrics"))
	out := make([]series.MetricMetadata, 0, n)
	for i := 0; i < n && c.err == nil; i++ {
		m := series.MetricMetadata{Metric: string(c.text(maxName, "metric"))}
		m.Metadata = metadata.Metadata{
			Type: model.MetricType(c.text(maxName, "type of a metric")),
			Unit: string(c.text(maxName, "unit of a metric")),
			Help: string(c.text(maxMetadataRaw, "help of a metric")),
		}
		if c.err == nil && i > 0 && compareMetadata(out[i-1], m) >= 0 {
			c.fail("metrics are not in ascending order")
		}
		out = append(out, m)
	}
	if err := c.end("metadata"); err != nil {
		return nil, err
	}
	return out, nil
}

// mergeMetadata merges two sorted lists; for a metric in both it takes the
// entries of newer.
func mergeMetadata(older, newer []series.MetricMetadata) []series.MetricMetadata {
	if len(older) == 0 {
		return newer
	}
	out := make([]series.MetricMetadata, 0, len(older)+len(newer))
	for i, j := 0, 0; i < len(older) || j < len(newer); {
		if j == len(newer) || i < len(older) && older[i].Metric < newer[j].Metric {
			out = append(out, older[i])
			i++
			continue
		}
		metric := newer[j].Metric
		for ; i < len(older) && older[i].Metric == metric; i++ {
			continue
		}
		for ; j < len(newer) && newer[j].Metric == metric; j++ {
			out = append(out, newer[j])
		}
	}
	return out
}

// load reads, verifies and decompresses a block.
func (r *Reader) load(p place, kind blockKind, limit int) ([]byte, error) {
	stored, err := r.src.Range(p.off, int(p.length))
	if err != nil {
		return nil, fmt.Errorf("read %s at %d: %w", kind, p.off, err)
	}
	b, err := parseBlock(stored, kind)
	if err != nil {
		return nil, fmt.Errorf("at %d: %w", p.off, err)
	}
	dec, err := r.pages.decoder()
	if err != nil {
		return nil, err
	}
	raw, err := b.inflate(dec, limit)
	if err != nil {
		return nil, fmt.Errorf("%s at %d: %w", kind, p.off, err)
	}
	return raw, nil
}

// loadPage returns page i of the directory, which belongs to section s.
func (r *Reader) loadPage(s *section, i int) (*page, error) {
	key := pageKey{r.id, i}
	if p := r.pages.get(key); p != nil {
		return p, nil
	}
	at := &r.dir.pages[i]
	raw, err := r.load(at.place, kindPage, maxPageRaw)
	if err != nil {
		return nil, err
	}
	p, err := decodePage(raw)
	if err != nil {
		return nil, fmt.Errorf("page at %d: %w", at.off, err)
	}
	if p.day != s.Day || p.series != at.series || p.table == nil && len(p.chunks) != at.chunks || (p.table != nil) != (r.dir.level == 1) {
		return nil, fmt.Errorf("page at %d: %w: the page differs from its directory entry", at.off, ErrCorrupt)
	}
	if err := r.dir.resolve(s, p); err != nil {
		return nil, fmt.Errorf("page at %d: %w", at.off, err)
	}
	r.pages.put(key, p)
	return p, nil
}

// resolve looks up the frames of a page in the directory.
func (d *directory) resolve(s *section, p *page) error {
	if p.table != nil {
		return d.resolveTable(s, p.table)
	}
	frames := d.framesOf(s)
	p.frameIndex = make([]uint32, len(p.frames))
	for i, f := range p.frames {
		k, ok := slices.BinarySearchFunc(frames, f.off, func(e frameInfo, off int64) int { return cmp.Compare(e.off, off) })
		if !ok || frames[k].length != f.length {
			return fmt.Errorf("%w: the page refers to a frame at %d that is not in the directory", ErrCorrupt, f.off)
		}
		p.frameIndex[i] = uint32(s.firstFrame + k)
	}
	return nil
}

// resolveTable checks that the directory has all places in a page of level 1.
func (d *directory) resolveTable(s *section, t *tableRefs) error {
	for _, f := range t.frames {
		at := place{off: f.off, length: f.length}
		if k, ok := slices.BinarySearchFunc(d.framesOf(s), f.off, func(e frameInfo, off int64) int { return cmp.Compare(e.off, off) }); !ok ||
			d.framesOf(s)[k].place != at {
			return fmt.Errorf("%w: the page refers to a frame at %d that is not in the directory", ErrCorrupt, f.off)
		}
	}
	for _, at := range t.times {
		if k, ok := slices.BinarySearchFunc(d.timesOf(s), at.off, func(e place, off int64) int { return cmp.Compare(e.off, off) }); !ok ||
			d.timesOf(s)[k] != at {
			return fmt.Errorf("%w: the page refers to a timestamp column at %d that is not in the directory", ErrCorrupt, at.off)
		}
	}
	return nil
}

// ChunkRef describes a chunk of a Series and its position in the pack.
type ChunkRef struct {
	MinTime, MaxTime int64 // Unix milliseconds, inclusive
	Samples          int
	Encoding         chunkenc.Encoding

	frame          uint32 // of the directory
	offset, length uint32 // in the frame's payload
}

// Size returns the length of the chunk's data in bytes.
func (c *ChunkRef) Size() int { return int(c.length) }

// Chunk reads a chunk that Select of this reader returned. Its data is valid
// until the reader is closed. The checksum of the chunk's frame is verified at
// the first use of the frame.
func (r *Reader) Chunk(ref ChunkRef) (series.Chunk, error) {
	if int(ref.frame) >= len(r.dir.frames) {
		return series.Chunk{}, fmt.Errorf("read chunk: frame %d is not in this pack", ref.frame)
	}
	f := r.dir.frames[ref.frame]
	if err := r.checkFrame(ref.frame, f); err != nil {
		return series.Chunk{}, fmt.Errorf("read chunk: %w", err)
	}
	if uint64(ref.offset)+uint64(ref.length) > uint64(f.length-blockOverhead) {
		return series.Chunk{}, fmt.Errorf("read chunk: %w: chunk ends beyond its frame at %d", ErrCorrupt, f.off)
	}
	data, err := r.src.Range(f.off+blockHeaderLen+int64(ref.offset), int(ref.length))
	if err != nil {
		return series.Chunk{}, fmt.Errorf("read chunk in frame at %d: %w", f.off, err)
	}
	c := series.Chunk{MinTime: ref.MinTime, MaxTime: ref.MaxTime, Samples: ref.Samples, Encoding: ref.Encoding, Data: data}
	if err := checkData(&c); err != nil {
		return series.Chunk{}, fmt.Errorf("read chunk in frame at %d: %w: %w", f.off, ErrCorrupt, err)
	}
	return c, nil
}

// checkFrame verifies a frame unless it was verified before.
func (r *Reader) checkFrame(i uint32, f frameInfo) error {
	word, bit := &r.checked[i/32], uint32(1)<<(i%32)
	if word.Load()&bit != 0 {
		return nil
	}
	stored, err := r.src.Range(f.off, int(f.length))
	if err != nil {
		return fmt.Errorf("read frame at %d: %w", f.off, err)
	}
	b, err := parseBlock(stored, kindFrame)
	if err != nil {
		return fmt.Errorf("at %d: %w", f.off, err)
	}
	if b.compression != compressionNone {
		return fmt.Errorf("frame at %d: compression %d is not known to this version; it was written by a newer version", f.off, b.compression)
	}
	word.Or(bit)
	return nil
}
