package pack

import (
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/backend/series"
)

// pageColumn is one label of a page: its distinct values, sorted, and for every
// series the id of its value.
type pageColumn struct {
	name     string
	values   []string
	ids      []uint16 // 0 = the series does not have the label, k = values[k-1]; nil: all series have constant
	constant uint16
}

func (c *pageColumn) id(row int) uint16 {
	if c.ids == nil {
		return c.constant
	}
	return c.ids[row]
}

// page is a decoded page. It shares no memory with the file.
type page struct {
	day     int64
	series  int
	columns []pageColumn // ascending by name
	frames  []frameRef
	first   []uint32 // series i has chunks[first[i]:first[i+1]]
	chunks  []chunkEntry
	table   *tableRefs // level 1 only, instead of frames, first and chunks
	size    int64      // approximate bytes in memory

	frameIndex []uint32 // positions of frames in the reader's directory; set by the reader
}

// decodePage decodes an uncompressed page.
func decodePage(raw []byte) (*page, error) {
	c := &cursor{b: raw}
	version, refs := c.uint8("page version"), c.uint8("kind of references")
	if version != pageVersion || refs > refsTable {
		c.newer("page version %d with references of kind %d", version, refs)
	}
	p := &page{day: int64(c.upTo(maxDay-1, "page day")), series: int(c.upTo(maxPageSeries, "page series"))}
	if c.err == nil && p.series == 0 {
		c.fail("page has no series")
	}
	p.decodeColumns(c)
	if refs == refsTable {
		p.decodeTable(c)
	} else {
		p.decodeFrames(c)
		p.decodeChunks(c)
	}
	if err := c.end("page"); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *page) decodeColumns(c *cursor) {
	n := c.count("label columns")
	if n*p.series > maxPageCells {
		c.fail("page has too many labels: %d label columns of %d series", n, p.series)
	}
	if c.err != nil {
		return
	}
	p.columns = make([]pageColumn, 0, min(n, 64))
	dictionary := 0
	var arena []byte
	for i := 0; i < n && c.err == nil; i++ {
		col := pageColumn{name: string(c.text(maxName, "label name"))}
		if c.err == nil && (col.name == "" || i > 0 && p.columns[i-1].name >= col.name) {
			c.fail("label names are not in ascending order")
		}
		dictionary += len(col.name)
		arena = col.decodeValues(c, p.series, maxDictionary-dictionary, arena)
		dictionary += len(arena)
		col.ids, col.constant = c.ids(p.series, uint16(len(col.values)), "label column")
		p.columns = append(p.columns, col)
		p.size += int64(len(col.name) + len(arena) + 16*len(col.values) + 2*len(col.ids) + 80)
	}
}

// decodeValues reads the dictionary of a column. The values share one string;
// arena is a scratch buffer to build it in, returned for the next column.
func (col *pageColumn) decodeValues(c *cursor, most, room int, arena []byte) []byte {
	arena = arena[:0]
	n := c.count("label values")
	if c.err == nil && (n < 1 || n > most) {
		c.fail("invalid number of label values: %d in %d series", n, most)
	}
	if c.err != nil {
		return arena
	}
	ends := make([]int, 0, n)
	prev := 0 // start of the previous value
	for i := 0; i < n; i++ {
		start := len(arena)
		shared := int(c.upTo(uint64(start-prev), "shared prefix of a label value"))
		suffix := c.text(maxName, "label value")
		if c.err == nil && start+shared+len(suffix) > room {
			c.fail("label values are longer than %d bytes", maxDictionary)
		}
		if c.err != nil {
			return arena[:0]
		}
		arena = append(append(arena, arena[prev:prev+shared]...), suffix...)
		if string(arena[prev:start]) >= string(arena[start:]) {
			c.fail("label values are not in ascending order")
			return arena[:0]
		}
		ends, prev = append(ends, len(arena)), start
	}
	text, start := string(arena), 0
	col.values = make([]string, n)
	for i, end := range ends {
		col.values[i], start = text[start:end], end
	}
	return arena
}

func (p *page) decodeFrames(c *cursor) {
	n := c.count("frames")
	if c.err == nil && (n < 1 || n > maxPageFrames) {
		c.fail("invalid number of frames: %d", n)
	}
	end := int64(0)
	for i := 0; i < n && c.err == nil; i++ {
		f := frameRef{off: end + int64(c.upTo(1<<60, "frame offset"))}
		f.length = uint32(c.upTo(maxFrame+blockOverhead, "frame length"))
		f.chunks = int(c.upTo(uint64(len(c.b)), "chunks in a frame"))
		end = f.off + int64(f.length)
		if end > 1<<60 || f.length < blockOverhead {
			c.fail("frame has an invalid offset or length")
		}
		p.frames = append(p.frames, f)
	}
	p.size += int64(28 * len(p.frames))
}

func (p *page) decodeChunks(c *cursor) {
	if c.err != nil {
		return
	}
	p.first = make([]uint32, 0, p.series+1)
	total := uint64(0)
	for i := 0; i < p.series && c.err == nil; i++ {
		p.first = append(p.first, uint32(total))
		n := c.upTo(uint64(len(c.b)), "chunks of a series")
		if n == 0 {
			c.fail("series has no chunks")
		}
		total += n
	}
	if total > min(uint64(len(c.b)), maxPageChunks) {
		c.fail("page lists %d chunks, more than its bytes or the format can hold", total)
	}
	if c.err != nil {
		return
	}
	p.first = append(p.first, uint32(total))
	p.chunks = make([]chunkEntry, total)
	p.size += int64(4*len(p.first) + 24*len(p.chunks))
	const millis = uint32(series.DayMillis)
	p.decodeNumbers(c, 0, millis-1, "chunk start", func(e *chunkEntry) *uint32 { return &e.min })
	p.decodeNumbers(c, 0, millis-1, "chunk duration", func(e *chunkEntry) *uint32 { return &e.max })
	p.decodeNumbers(c, 1, maxChunkCount, "samples of a chunk", func(e *chunkEntry) *uint32 { return &e.samples })
	codecs, codec := c.ids(len(p.chunks), 255, "codecs")
	encodings, encoding := c.ids(len(p.chunks), 255, "chunk encodings")
	for i := range p.chunks {
		e := &p.chunks[i]
		e.max += e.min
		e.codec, e.encoding = uint8(codec), uint8(encoding)
		if codecs != nil {
			e.codec = uint8(codecs[i])
		}
		if encodings != nil {
			e.encoding = uint8(encodings[i])
		}
		e.length = uint32(c.upTo(maxFrame, "chunk length"))
	}
	p.place(c)
}

// decodeNumbers decodes a field written by pageBuilder.appendNumbers.
func (p *page) decodeNumbers(c *cursor, low, high uint32, what string, field func(*chunkEntry) *uint32) {
	above, before := 0, 0
	for s := 0; s < p.series && c.err == nil; s++ {
		i, n := int(p.first[s]), int(p.first[s+1]-p.first[s])
		for k := range n {
			base := uint32(0)
			switch {
			case k < before:
				base = *field(&p.chunks[above+k])
			case k > 0:
				base = *field(&p.chunks[i+k-1])
			}
			d := c.zigzag(what)
			if d < -int64(high) || d > int64(high) {
				c.fail("%s is out of range", what)
				return
			}
			v := int64(base) + d
			if v < int64(low) || v > int64(high) {
				c.fail("%s is out of range", what)
				return
			}
			*field(&p.chunks[i+k]) = uint32(v)
		}
		above, before = i, n
	}
}

// place sets frame and offset of every chunk and checks the chunks of every
// series.
func (p *page) place(c *cursor) {
	i := 0
	for f := 0; f < len(p.frames) && c.err == nil; f++ {
		offset := uint64(0)
		for range p.frames[f].chunks {
			if i == len(p.chunks) || offset+uint64(p.chunks[i].length) > maxFrame {
				c.fail("chunk offsets exceed the frames")
				return
			}
			p.chunks[i].frame, p.chunks[i].offset = uint16(f), uint32(offset)
			offset += uint64(p.chunks[i].length)
			i++
		}
	}
	if c.err == nil && i < len(p.chunks) {
		c.fail("chunk offsets exceed the frames")
	}
	for s := 0; s < p.series && c.err == nil; s++ {
		checkEntries(c, p.chunks[p.first[s]:p.first[s+1]])
	}
}

// checkEntries checks codecs, encodings and times of the chunks of one series.
func checkEntries(c *cursor, chunks []chunkEntry) {
	for k := range chunks {
		codec, ok := codecOf(chunkenc.Encoding(chunks[k].encoding))
		if !ok {
			c.newer("chunk encoding %d", chunks[k].encoding)
		}
		if codec != chunks[k].codec {
			c.fail("chunk has the unsupported codec %d with encoding %d", chunks[k].codec, chunks[k].encoding)
		}
		if chunks[k].max >= uint32(series.DayMillis) || k > 0 && chunks[k-1].max >= chunks[k].min {
			c.fail("chunk times of a series are not ascending within the day")
		}
	}
}

// column returns the column of a label, or nil.
func (p *page) column(name string) *pageColumn {
	i, ok := slices.BinarySearchFunc(p.columns, name, func(c pageColumn, n string) int { return strings.Compare(c.name, n) })
	if !ok {
		return nil
	}
	return &p.columns[i]
}

// labels returns the labels of a series.
func (p *page) labels(row int, b *labels.ScratchBuilder) labels.Labels {
	b.Reset()
	for i := range p.columns {
		if id := p.columns[i].id(row); id > 0 {
			b.Add(p.columns[i].name, p.columns[i].values[id-1])
		}
	}
	return b.Labels()
}

// overlaps reports whether the series may have samples in [min, max], in
// milliseconds from the start of the day.
func (p *page) overlaps(row int, min, max int64) bool {
	if p.table != nil {
		first, last := p.table.minutes[row].bounds()
		return first <= max && last >= min
	}
	for _, e := range p.chunks[p.first[row]:p.first[row+1]] {
		if int64(e.min) <= max && int64(e.max) >= min {
			return true
		}
	}
	return false
}
