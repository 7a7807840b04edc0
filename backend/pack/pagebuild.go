package pack

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/series"
)

const (
	pageVersion = 1
	refsInline  = 0 // the page has place and times of every chunk
)

// Targets at which a page is cut. They are far below the limits of the format,
// because queries read whole pages.
const (
	targetCells      = 1 << 18
	targetDictionary = 1 << 20
	targetChunks     = 1 << 16
)

// frameRef is a page's reference to a frame.
type frameRef struct {
	off    int64  // of the block in the file
	length uint32 // of the block
	chunks int    // how many of the page's chunks are in it
}

// chunkEntry describes a chunk in a page.
type chunkEntry struct {
	min, max uint32 // milliseconds from the start of the day, inclusive
	samples  uint32
	length   uint32
	offset   uint32 // in the frame's uncompressed payload
	frame    uint16 // of the page's frames
	codec    uint8
	encoding uint8
}

// columnBuilder collects the values of one label of a page.
type columnBuilder struct {
	name   string
	values []string          // distinct, in order of first use
	index  map[string]uint16 // value → its position in values, from 1
	ids    []uint16          // per series: position of its value, 0 = none; series beyond the end have none
	lastID uint16
}

// pageBuilder collects the series of one page.
type pageBuilder struct {
	day        int64
	series     int
	columns    map[string]*columnBuilder
	dictionary int // bytes of distinct names and values
	counts     []int
	chunks     []chunkEntry
	frames     []frameRef

	firstMetric, lastMetric string

	spare []*columnBuilder
	enc   idEncoder
	order []uint16
	rank  []uint16
	ids   []uint16
}

func newPageBuilder() *pageBuilder { return &pageBuilder{columns: map[string]*columnBuilder{}} }

// reset empties the builder for a page of the day.
func (p *pageBuilder) reset(day int64) {
	for _, c := range p.columns {
		if len(p.spare) < 256 {
			p.spare = append(p.spare, c)
		}
	}
	clear(p.columns)
	p.day, p.series, p.dictionary = day, 0, 0
	p.counts, p.chunks, p.frames = p.counts[:0], p.chunks[:0], p.frames[:0]
}

// fits reports whether a series still fits a page that is not empty.
func (p *pageBuilder) fits(ls labels.Labels, chunks int) bool {
	columns := len(p.columns)
	ls.Range(func(l labels.Label) {
		if _, ok := p.columns[l.Name]; !ok {
			columns++
		}
	})
	return p.series < maxPageSeries && columns*(p.series+1) <= targetCells &&
		p.dictionary+int(ls.ByteSize()) <= targetDictionary && len(p.chunks)+chunks <= targetChunks
}

// addLabels starts the next series of the page.
func (p *pageBuilder) addLabels(metric string, ls labels.Labels) {
	ls.Range(func(l labels.Label) {
		c := p.columns[l.Name]
		if c == nil {
			c = p.column(strings.Clone(l.Name))
		}
		id := c.lastID
		if id == 0 || c.values[id-1] != l.Value {
			id = c.index[l.Value]
		}
		if id == 0 {
			v := strings.Clone(l.Value)
			c.values = append(c.values, v)
			id = uint16(len(c.values))
			c.index[v] = id
			p.dictionary += len(v)
		}
		for len(c.ids) < p.series {
			c.ids = append(c.ids, 0)
		}
		c.ids = append(c.ids, id)
		c.lastID = id
	})
	if p.series == 0 {
		p.firstMetric = strings.Clone(metric)
	}
	if p.series == 0 || p.lastMetric != metric {
		p.lastMetric = strings.Clone(metric)
	}
	p.series++
	p.counts = append(p.counts, 0)
}

func (p *pageBuilder) column(name string) *columnBuilder {
	c := &columnBuilder{index: map[string]uint16{}}
	if n := len(p.spare); n > 0 {
		c, p.spare = p.spare[n-1], p.spare[:n-1]
		clear(c.index)
		clear(c.values)
		c.values, c.ids, c.lastID = c.values[:0], c.ids[:0], 0
	}
	c.name = name
	p.columns[name] = c
	p.dictionary += len(name)
	return c
}

// addChunk records a chunk of the last series; offset is its position in the
// frame under construction.
func (p *pageBuilder) addChunk(c *series.Chunk, codec uint8, offset int) {
	start := p.day * series.DayMillis
	p.counts[len(p.counts)-1]++
	p.chunks = append(p.chunks, chunkEntry{min: uint32(c.MinTime - start), max: uint32(c.MaxTime - start),
		samples: uint32(c.Samples), length: uint32(len(c.Data)), offset: uint32(offset), codec: codec, encoding: uint8(c.Encoding)})
}

// encode appends the page, uncompressed and without block header.
func (p *pageBuilder) encode(b []byte) ([]byte, error) {
	if len(p.frames) > maxPageFrames || len(p.chunks) > maxPageChunks {
		return nil, fmt.Errorf("page has %d chunks in %d frames, the maximum is %d in %d: a series has too many chunks",
			len(p.chunks), len(p.frames), maxPageChunks, maxPageFrames)
	}
	start := len(b)
	b, err := p.encodeHead(b, refsInline)
	if err != nil {
		return nil, err
	}
	b = p.appendChunks(b)
	if n := len(b) - start; n > maxPageRaw {
		return nil, fmt.Errorf("page has %d bytes, the maximum is %d: a series has too many chunks or too long labels", n, maxPageRaw)
	}
	return b, nil
}

func (p *pageBuilder) appendLabels(b []byte) []byte {
	columns := make([]*columnBuilder, 0, len(p.columns))
	for _, c := range p.columns {
		columns = append(columns, c)
	}
	slices.SortFunc(columns, func(a, b *columnBuilder) int { return strings.Compare(a.name, b.name) })
	b = binary.AppendUvarint(b, uint64(len(columns)))
	for _, c := range columns {
		b = appendText(b, c.name)
		b = p.appendDictionary(b, c)
		p.ids = p.ids[:0]
		for _, id := range c.ids {
			p.ids = append(p.ids, p.rank[id])
		}
		for len(p.ids) < p.series {
			p.ids = append(p.ids, 0)
		}
		b = p.enc.append(b, p.ids)
	}
	return b
}

// appendDictionary appends the sorted values of a column, each without the
// prefix it shares with the one before, and fills rank with their positions.
func (p *pageBuilder) appendDictionary(b []byte, c *columnBuilder) []byte {
	p.order = p.order[:0]
	for i := range c.values {
		p.order = append(p.order, uint16(i))
	}
	slices.SortFunc(p.order, func(i, j uint16) int { return strings.Compare(c.values[i], c.values[j]) })
	p.rank = append(p.rank[:0], make([]uint16, len(c.values)+1)...)
	b = binary.AppendUvarint(b, uint64(len(c.values)))
	prev := ""
	for place, i := range p.order {
		v := c.values[i]
		shared := 0
		for shared < len(prev) && shared < len(v) && prev[shared] == v[shared] {
			shared++
		}
		b = binary.AppendUvarint(b, uint64(shared))
		b = appendText(b, v[shared:])
		p.rank[i+1] = uint16(place + 1)
		prev = v
	}
	return b
}

func (p *pageBuilder) appendChunks(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(p.frames)))
	end := int64(0)
	for _, f := range p.frames {
		b = binary.AppendUvarint(b, uint64(f.off-end))
		b = binary.AppendUvarint(b, uint64(f.length))
		b = binary.AppendUvarint(b, uint64(f.chunks))
		end = f.off + int64(f.length)
	}
	for _, n := range p.counts {
		b = binary.AppendUvarint(b, uint64(n))
	}
	b = p.appendNumbers(b, func(c *chunkEntry) uint32 { return c.min })
	b = p.appendNumbers(b, func(c *chunkEntry) uint32 { return c.max - c.min })
	b = p.appendNumbers(b, func(c *chunkEntry) uint32 { return c.samples })
	for _, field := range []func(c *chunkEntry) uint8{
		func(c *chunkEntry) uint8 { return c.codec },
		func(c *chunkEntry) uint8 { return c.encoding },
	} {
		p.ids = p.ids[:0]
		for i := range p.chunks {
			p.ids = append(p.ids, uint16(field(&p.chunks[i])))
		}
		b = p.enc.append(b, p.ids)
	}
	for i := range p.chunks {
		b = binary.AppendUvarint(b, uint64(p.chunks[i].length))
	}
	return b
}

// appendNumbers appends a field of every chunk as the difference to a
// neighbour: the chunk at the same position in the previous series or, without
// one, the previous chunk of the same series. Series of one scrape target
// hardly differ in these fields.
func (p *pageBuilder) appendNumbers(b []byte, field func(*chunkEntry) uint32) []byte {
	i, above, before := 0, 0, 0
	for _, n := range p.counts {
		for k := range n {
			base := uint32(0)
			switch {
			case k < before:
				base = field(&p.chunks[above+k])
			case k > 0:
				base = field(&p.chunks[i+k-1])
			}
			b = appendZigzag(b, int64(field(&p.chunks[i+k]))-int64(base))
		}
		above, before = i, n
		i += n
	}
	return b
}
