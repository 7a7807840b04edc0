package pack

import (
	"encoding/binary"
	"fmt"

	"github.com/oklog/ulid/v2"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/disk"
	"github.com/palliumhq/pallium/backend/series"
)

// directory is a pack's directory, which a reader keeps in memory: the
// positions of all blocks and the first and last metric of each page, but no chunks. Sections refer to
// ranges of frames, pages, times and cells.
type directory struct {
	id       ulid.ULID
	level    uint8
	source   string
	sections []section
	frames   []frameInfo
	pages    []pageInfo
	times    []place    // timestamp columns, of level 1 only
	cells    []cellInfo // of the index, of level 1 only
}

// section is a SectionInfo with its ranges of the directory's lists.
type section struct {
	SectionInfo
	metadata           place // zero length: none
	firstFrame, frames int   // directory.frames[firstFrame:][:frames]
	firstPage, pages   int
	firstTimes, times  int
	firstCell, cells   int
}

// place is the position of a block in the file.
type place struct {
	off    int64
	length uint32
}

func (p place) end() int64 { return p.off + int64(p.length) }

type frameInfo struct{ place }

type pageInfo struct {
	place
	series, chunks int
	min, max       uint32 // milliseconds from the start of the day, inclusive
	first, last    string // metric names
}

// cellInfo is a cell of the index other than a page.
type cellInfo struct {
	place
	name string // chosen by the writer
}

func (d *directory) timesOf(s *section) []place { return d.times[s.firstTimes : s.firstTimes+s.times] }

func (d *directory) cellsOf(s *section) []cellInfo {
	return d.cells[s.firstCell : s.firstCell+s.cells]
}

func (d *directory) framesOf(s *section) []frameInfo {
	return d.frames[s.firstFrame : s.firstFrame+s.frames]
}

func (d *directory) pagesOf(s *section) []pageInfo {
	return d.pages[s.firstPage : s.firstPage+s.pages]
}

// appendHeader appends the first bytes of a file.
func (d *directory) appendHeader(b []byte) []byte {
	start := len(b)
	b = append(b, magic...)
	b = d.appendIdentity(b)
	return binary.BigEndian.AppendUint32(b, disk.Checksum(b[start:]))
}

// appendIdentity appends format, level, flags and ID, which both the header and
// the directory contain.
func (d *directory) appendIdentity(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, format)
	b = append(b, d.level, 0)
	return append(b, d.id[:]...)
}

func (d *directory) append(b []byte) []byte {
	b = d.appendIdentity(b)
	b = appendText(b, d.source)
	b = binary.AppendUvarint(b, uint64(len(d.sections)))
	for i := range d.sections {
		b = d.appendSection(b, &d.sections[i])
	}
	return append(b, 0) // extensions
}

func (d *directory) appendSection(b []byte, s *section) []byte {
	start := s.Day * series.DayMillis
	b = appendText(b, string(s.Tenant))
	b = binary.AppendUvarint(b, uint64(s.Day))
	b = binary.AppendUvarint(b, uint64(s.Offset))
	b = binary.AppendUvarint(b, uint64(s.Length))
	b = binary.BigEndian.AppendUint32(b, s.CRC)
	b = binary.AppendUvarint(b, uint64(s.MinTime-start))
	b = binary.AppendUvarint(b, uint64(s.MaxTime-s.MinTime))
	b = binary.AppendUvarint(b, uint64(s.Series))
	b = binary.AppendUvarint(b, uint64(s.Chunks))
	b = binary.AppendUvarint(b, uint64(s.Samples))
	b = appendPlace(b, s.Offset, s.metadata)
	b = binary.AppendUvarint(b, uint64(s.frames))
	end := s.Offset
	for _, f := range d.framesOf(s) {
		b = appendPlace(b, end, f.place)
		end = f.end()
	}
	b = binary.AppendUvarint(b, uint64(s.pages))
	end = s.Offset
	for _, p := range d.pagesOf(s) {
		b = appendPlace(b, end, p.place)
		b = binary.AppendUvarint(b, uint64(p.series))
		b = binary.AppendUvarint(b, uint64(p.chunks))
		b = binary.AppendUvarint(b, uint64(p.min))
		b = binary.AppendUvarint(b, uint64(p.max-p.min))
		b = appendText(appendText(b, p.first), p.last)
		end = p.end()
	}
	return d.appendExtensions(b, s)
}

// appendPlace appends a place; its offset is relative to from, the end of the
// previous block.
func appendPlace(b []byte, from int64, p place) []byte {
	if p.length == 0 {
		return append(b, 0, 0)
	}
	b = binary.AppendUvarint(b, uint64(p.off-from))
	return binary.AppendUvarint(b, uint64(p.length))
}

// appendTrailer appends the trailer of a file whose directory dir is at off.
func appendTrailer(b []byte, off int64, dir []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(off))
	b = binary.BigEndian.AppendUint32(b, uint32(len(dir)))
	b = binary.BigEndian.AppendUint32(b, disk.Checksum(dir))
	b = binary.BigEndian.AppendUint64(b, uint64(off)+uint64(len(dir))+trailerLen)
	return append(b, trailerMagic...)
}

// parseTrailer returns the place and checksum of a file's directory. `size` is the
// length of the file in bytes.
func parseTrailer(b []byte, size int64) (dir place, crc uint32, err error) {
	if string(b[24:]) != trailerMagic {
		return place{}, 0, fmt.Errorf("%w: no pack trailer at the end: the file is not a pack, or was truncated", ErrCorrupt)
	}
	off, n := binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:])
	if whole := binary.BigEndian.Uint64(b[16:]); whole != uint64(size) {
		return place{}, 0, fmt.Errorf("%w: the file should have %d bytes by its trailer, but has %d", ErrCorrupt, whole, size)
	}
	if off < headerLen || off > uint64(size) || off+uint64(n)+trailerLen != uint64(size) {
		return place{}, 0, fmt.Errorf("%w: its trailer places the directory at %d with %d bytes, in a file of %d bytes", ErrCorrupt, off, n, size)
	}
	return place{off: int64(off), length: n}, binary.BigEndian.Uint32(b[12:]), nil
}

// decodeDirectory decodes a directory; off is its offset in the file.
func decodeDirectory(b []byte, off int64) (*directory, error) {
	c := &cursor{b: b}
	d := &directory{}
	if err := d.decodeIdentity(c); err != nil {
		return nil, err
	}
	d.source = string(c.text(len(b), "source"))
	n := c.count("sections")
	end := int64(headerLen)
	for i := 0; i < n && c.err == nil; i++ {
		s := d.decodeSection(c, end, off)
		if c.err == nil && i > 0 && !sectionsAscend(d.sections[i-1].Tenant, d.sections[i-1].Day, s.Tenant, s.Day) {
			c.fail("sections are not in ascending order of tenant and day")
		}
		d.sections = append(d.sections, s)
		end = s.Offset + s.Length
	}
	c.extensions()
	if err := c.end("directory"); err != nil {
		return nil, err
	}
	return d, nil
}

func sectionsAscend(t tenant.ID, day int64, u tenant.ID, next int64) bool {
	return t < u || t == u && day < next
}

func (d *directory) decodeIdentity(c *cursor) error {
	f := c.uint16("format")
	level, flags := c.uint8("level"), c.uint8("flags")
	id := c.bytes(len(d.id), "pack ID")
	if c.err != nil {
		return c.err
	}
	if f != format || flags != 0 {
		return fmt.Errorf("pack has format %d with flags %#x, this version reads format %d without flags; it was written by a newer version",
			f, flags, format)
	}
	d.level = level
	copy(d.id[:], id)
	return nil
}

// maxSectionSeries limits the number of series from which decodeSection derives
// the maximum number of samples (one per millisecond and series), so that the
// product does not overflow.
const maxSectionSeries = 1 << 36

// decodeSection decodes a section's entry. The section must lie between from,
// the end of the previous one, and limit, the offset of the directory.
func (d *directory) decodeSection(c *cursor, from, limit int64) section {
	id, err := tenant.ParseID(string(c.text(tenant.MaxIDLength, "tenant")))
	if err != nil {
		c.fail("%v", err)
	}
	s := section{SectionInfo: SectionInfo{Tenant: id, Day: int64(c.upTo(maxDay-1, "day"))}}
	s.Offset = int64(c.upTo(uint64(limit), "offset of a section"))
	s.Length = int64(c.upTo(uint64(limit), "length of a section"))
	if c.err == nil && (s.Offset < from || s.Offset+s.Length > limit) {
		c.fail("section at %d with %d bytes is not between %d and %d", s.Offset, s.Length, from, limit)
	}
	s.CRC = c.uint32("section checksum")
	s.MinTime = s.Day*series.DayMillis + int64(c.upTo(uint64(series.DayMillis-1), "first time"))
	s.MaxTime = s.MinTime + int64(c.upTo(uint64(series.DayMillis-1), "time span"))
	// A compressed series may take less than a byte, so the bounds are loose.
	// Nothing is allocated by these numbers, and decodePages compares them with
	// the pages.
	s.Series = int(c.upTo(uint64(limit)*maxPageSeries, "series"))
	s.Chunks = int(c.upTo(uint64(limit)*maxPageChunks, "chunks"))
	s.Samples = int64(c.upTo(uint64(min(s.Series, maxSectionSeries))*uint64(series.DayMillis), "samples"))
	if c.err == nil && series.Day(s.MaxTime) != s.Day {
		c.fail("section has times outside its day")
	}
	s.metadata = s.decodePlace(c, s.Offset)
	d.decodeFrames(c, &s)
	d.decodePages(c, &s)
	d.decodeExtensions(c, &s)
	return s
}

func (d *directory) decodeFrames(c *cursor, s *section) {
	s.firstFrame, s.frames = len(d.frames), c.count("frames")
	end := s.Offset
	for i := 0; i < s.frames && c.err == nil; i++ {
		f := frameInfo{s.decodePlace(c, end)}
		if c.err == nil && f.length < blockOverhead {
			c.fail("frame has %d bytes, fewer than an empty one", f.length)
		}
		d.frames = append(d.frames, f)
		end = f.end()
	}
}

func (d *directory) decodePages(c *cursor, s *section) {
	s.firstPage, s.pages = len(d.pages), c.count("pages")
	end, seriesIn, chunksIn, last := s.Offset, 0, 0, ""
	for i := 0; i < s.pages && c.err == nil; i++ {
		p := pageInfo{place: s.decodePlace(c, end)}
		p.series = int(c.upTo(maxPageSeries, "series of a page"))
		p.chunks = int(c.upTo(maxPageChunks, "chunks of a page"))
		p.min = uint32(c.upTo(uint64(series.DayMillis-1), "first time of a page"))
		p.max = p.min + uint32(c.upTo(uint64(series.DayMillis-1), "time span of a page"))
		p.first = string(c.text(maxName, "first metric of a page"))
		p.last = p.first
		if name := c.text(maxName, "last metric of a page"); string(name) != p.first {
			p.last = string(name)
		}
		if c.err == nil && (p.length < blockOverhead || p.first > p.last || last > p.first) {
			c.fail("page is shorter than an empty one, or pages are not in ascending order of metrics")
		}
		d.pages = append(d.pages, p)
		end, seriesIn, chunksIn, last = p.end(), seriesIn+p.series, chunksIn+p.chunks, p.last
	}
	if c.err == nil && (seriesIn != s.Series || chunksIn != s.Chunks) {
		c.fail("section lists %d series and %d chunks, its pages list %d and %d", s.Series, s.Chunks, seriesIn, chunksIn)
	}
}

// decodePlace reads the place of a block inside the section; its offset is
// relative to from. Length 0 means no block.
func (s *section) decodePlace(c *cursor, from int64) place {
	gap := c.upTo(uint64(s.Length), "offset of a block")
	n := c.upTo(uint64(s.Length), "length of a block")
	if n == 0 {
		return place{}
	}
	p := place{off: from + int64(gap), length: uint32(n)}
	if c.err == nil && (n > maxFrame+blockOverhead || p.off+int64(n) > s.Offset+s.Length) {
		c.fail("block at %d with %d bytes lies outside its section, or has more than the maximum of %d bytes", p.off, n, maxFrame+blockOverhead)
	}
	return p
}

// extensions skips extensions that later versions may add. A reader may ignore
// even keys, and must reject odd keys that it does not know.
func (c *cursor) extensions() {
	n := c.count("extensions")
	for i := 0; i < n && c.err == nil; i++ {
		key := c.uvarint("key of an extension")
		c.text(len(c.b), "extension")
		if key%2 == 1 {
			c.newer("extension %d of the pack", key)
		}
	}
}
