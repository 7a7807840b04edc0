package pack

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/series"
)

// refsTable is the kind of references of level 1: a row of a page refers to one
// series of a table frame by its ordinal there, instead of to chunks.
const refsTable = 1

const minuteMillis = 60_000

// tableRefs are the references of a page of level 1: places, times and sample
// counts of its series.
type tableRefs struct {
	frames  []frameRef // chunks counts the page's series in the frame
	skip    int        // number of series in the first frame before the page's first series
	times   []place    // timestamp columns, ascending by offset
	timesOf []uint16   // per series: 0 = its timestamps are in the frame, k = in times[k-1]
	minutes []minutes
	samples []uint32
	kinds   []uint16 // per series; nil: all have only floats
}

// Kinds of series, by the types of their samples.
const (
	kindFloats     = 0
	kindHistograms = 1
	kindMixed      = 2
)

// minutes is the time range of a series' samples: the minutes of the day of its
// first and last sample, and their milliseconds within those minutes. For a
// series that starts in the first minute of the day firstMS is always 0, and
// for one that ends in the last minute lastMS is the end of that minute: nearly
// all series live all day, and the exact milliseconds, which differ between
// scrape targets, would not compress.
type minutes struct {
	first, last     uint16
	firstMS, lastMS uint16
}

const lastMinute = 24*60 - 1

// span returns the minutes from `first` to `last`, which are times in milliseconds from
// the start of the day.
func span(first, last int64) minutes {
	m := minutes{first: uint16(first / minuteMillis), last: uint16(last / minuteMillis), lastMS: minuteMillis - 1}
	if m.first > 0 {
		m.firstMS = uint16(first % minuteMillis)
	}
	if m.last < lastMinute {
		m.lastMS = uint16(last % minuteMillis)
	}
	return m
}

// bounds returns the time range in milliseconds from the start of the day,
// inclusive.
func (m minutes) bounds() (first, last int64) {
	return int64(m.first)*minuteMillis + int64(m.firstMS), int64(m.last)*minuteMillis + int64(m.lastMS)
}

// append appends the encoded references, which are the end of a page.
func (t *tableRefs) append(b []byte, enc *idEncoder) []byte {
	b = binary.AppendUvarint(b, uint64(t.skip))
	b = binary.AppendUvarint(b, uint64(len(t.frames)))
	end := int64(0)
	for _, f := range t.frames {
		b = binary.AppendUvarint(b, uint64(f.off-end))
		b = binary.AppendUvarint(b, uint64(f.length))
		b = binary.AppendUvarint(b, uint64(f.chunks))
		end = f.off + int64(f.length)
	}
	b = binary.AppendUvarint(b, uint64(len(t.times)))
	end = 0
	for _, p := range t.times {
		b = binary.AppendUvarint(b, uint64(p.off-end))
		b = binary.AppendUvarint(b, uint64(p.length))
		end = p.end()
	}
	b = enc.append(b, t.timesOf)
	var before minutes
	for _, m := range t.minutes {
		b = appendZigzag(b, int64(m.first)-int64(before.first))
		before.first = m.first
	}
	for _, m := range t.minutes {
		b = appendZigzag(b, int64(m.last)-int64(before.last))
		before.last = m.last
	}
	before = minutes{}
	for _, m := range t.minutes {
		if m.first > 0 {
			b = appendZigzag(b, int64(m.firstMS)-int64(before.firstMS))
			before.firstMS = m.firstMS
		}
	}
	for _, m := range t.minutes {
		if m.last < lastMinute {
			b = appendZigzag(b, int64(m.lastMS)-int64(before.lastMS))
			before.lastMS = m.lastMS
		}
	}
	prev := uint32(0)
	for _, n := range t.samples {
		b = appendZigzag(b, int64(n)-int64(prev))
		prev = n
	}
	return enc.append(b, t.kinds)
}

// decodeTable decodes references that tableRefs.append wrote.
func (p *page) decodeTable(c *cursor) {
	t := &tableRefs{skip: int(c.upTo(maxFrame, "series before the page"))}
	p.table = t
	p.decodeFrames(c)
	t.frames, p.frames = p.frames, nil
	held := 0
	for _, f := range t.frames {
		held += f.chunks
	}
	if c.err == nil && held != p.series {
		c.fail("page has %d series, but its frames have %d", p.series, held)
	}
	n := int(c.upTo(uint64(p.series), "timestamp columns"))
	end := int64(0)
	for i := 0; i < n && c.err == nil; i++ {
		at := place{off: end + int64(c.upTo(1<<60, "offset of a timestamp column")),
			length: uint32(c.upTo(maxFrame+blockOverhead, "length of a timestamp column"))}
		if end = at.end(); end > 1<<60 || at.length < blockOverhead {
			c.fail("timestamp column has an invalid offset or length")
		}
		t.times = append(t.times, at)
	}
	if c.err != nil {
		return
	}
	t.timesOf = c.perSeries(p.series, uint16(n), "timestamp columns of series")
	t.minutes, t.samples = make([]minutes, p.series), make([]uint32, p.series)
	t.column(c, lastMinute, "first minute", func(i int, v int64) { t.minutes[i].first = uint16(v) })
	t.column(c, lastMinute, "last minute", func(i int, v int64) { t.minutes[i].last = uint16(v) })
	t.fine(c)
	t.column(c, 1<<32-1, "samples of a series", func(i int, v int64) { t.samples[i] = uint32(v) })
	t.kinds = c.perSeries(p.series, kindMixed, "kinds of series")
	for i := range t.minutes {
		if first, last := t.minutes[i].bounds(); c.err == nil && (first > last || t.samples[i] == 0) {
			c.fail("series %d has no samples or ends before it starts", i)
		}
	}
	p.size += int64(28*len(t.frames) + 16*len(t.times) + 10*p.series)
}

// fine reads the milliseconds of each series' start and end within their minutes.
// They are not stored for a start in the day's first minute and for an end in its
// last minute.
func (t *tableRefs) fine(c *cursor) {
	read := func(before *int64, what string) uint16 {
		d := c.zigzag(what)
		if d < -minuteMillis || d > minuteMillis || *before+d < 0 || *before+d >= minuteMillis {
			c.fail("%s is out of range", what)
			return 0
		}
		*before += d
		return uint16(*before)
	}
	before := int64(0)
	for i := 0; i < len(t.minutes) && c.err == nil; i++ {
		if t.minutes[i].first > 0 {
			t.minutes[i].firstMS = read(&before, "first millisecond")
		}
	}
	before = 0
	for i := 0; i < len(t.minutes) && c.err == nil; i++ {
		t.minutes[i].lastMS = minuteMillis - 1
		if t.minutes[i].last < lastMinute {
			t.minutes[i].lastMS = read(&before, "last millisecond")
		}
	}
}

// perSeries reads one number per series; nil means that all are 0.
func (c *cursor) perSeries(n int, top uint16, what string) []uint16 {
	ids, constant := c.ids(n, top, what)
	if ids == nil && constant != 0 {
		ids = make([]uint16, n)
		for i := range ids {
			ids[i] = constant
		}
	}
	return ids
}

// column reads one number per series, each stored as the difference to the
// previous one.
func (t *tableRefs) column(c *cursor, top int64, what string, set func(int, int64)) {
	v := int64(0)
	for i := 0; i < len(t.samples) && c.err == nil; i++ {
		d := c.zigzag(what)
		if d > top || d < -top || v+d < 0 || v+d > top {
			c.fail("%s is out of range", what)
			return
		}
		v += d
		set(i, v)
	}
}

// Place is the position of a block in its pack.
type Place struct {
	Offset int64
	Length int // 0 = no block
}

// End returns the offset of the first byte after the block.
func (p Place) End() int64 { return p.Offset + int64(p.Length) }

func (p place) export() Place { return Place{Offset: p.off, Length: int(p.length)} }

// TableRef is the place of the samples of one row of a compacted page.
type TableRef struct {
	Frame   Place // block of the table frame
	Series  int   // ordinal of the series in the frame
	Times   Place // block of the timestamp column, if the series has one
	MinTime int64 // Unix milliseconds; start of the day for a series that starts in its first minute
	MaxTime int64 // Unix milliseconds; end of the day for a series that ends in its last minute
	Samples int
	Floats  bool // the series has no native histograms
}

// Page is a decoded page of a compacted pack. It is immutable and shares no
// memory with the block from which it was decoded.
type Page struct{ p *page }

// Day returns the page's UTC day, in days since 1970-01-01.
func (p *Page) Day() int64 { return p.p.day }

// Series returns the number of series (rows) of the page.
func (p *Page) Series() int { return p.p.series }

// Bytes returns the approximate memory use of the page.
func (p *Page) Bytes() int64 { return p.p.size + 256 }

// Rows returns, in buf's memory, the rows of the series that match all matchers
// and may have samples in [mint, maxt] (Unix milliseconds, inclusive).
func (p *Page) Rows(ctx context.Context, mint, maxt int64, ms []*labels.Matcher, buf []uint16) ([]uint16, error) {
	start := p.p.day * series.DayMillis
	q := query{mint: max(mint, start) - start, maxt: min(maxt, start+series.DayMillis-1) - start, matchers: ms}
	if q.mint > q.maxt {
		return buf[:0], nil
	}
	return q.rows(ctx, p.p, buf)
}

// Labels returns the labels of a row, built with b.
func (p *Page) Labels(row uint16, b *labels.ScratchBuilder) labels.Labels {
	return p.p.labels(int(row), b)
}

// Refs appends the references of the rows, which must ascend, to refs.
func (p *Page) Refs(rows []uint16, refs []TableRef) []TableRef {
	t, start := p.p.table, p.p.day*series.DayMillis
	frame, first := 0, 0
	for _, row := range rows {
		for int(row) >= first+t.frames[frame].chunks {
			first += t.frames[frame].chunks
			frame++
		}
		ref := TableRef{Frame: Place{Offset: t.frames[frame].off, Length: int(t.frames[frame].length)}, Series: int(row) - first,
			Samples: int(t.samples[row])}
		first, last := t.minutes[row].bounds()
		ref.MinTime, ref.MaxTime = start+first, start+last
		if frame == 0 {
			ref.Series += t.skip
		}
		ref.Floats = t.kinds == nil || t.kinds[row] == kindFloats
		if t.timesOf != nil && t.timesOf[row] > 0 {
			ref.Times = t.times[t.timesOf[row]-1].export()
		}
		refs = append(refs, ref)
	}
	return refs
}

// EachValue calls fn for every label name of the rows, ascending, with the
// distinct values in the rows, ascending. The values are valid only during the
// call.
func (p *Page) EachValue(rows []uint16, fn func(name string, values []string)) {
	var used []bool
	var values []string
	for i := range p.p.columns {
		c := &p.p.columns[i]
		used = append(used[:0], make([]bool, len(c.values)+1)...)
		for _, row := range rows {
			used[c.id(int(row))] = true
		}
		values = values[:0]
		for k, v := range c.values {
			if used[k+1] {
				values = append(values, v)
			}
		}
		if len(values) > 0 {
			fn(c.name, values)
		}
	}
}

// LabelColumn is a label of a page: its distinct values, ascending, and whether
// it is missing in some series.
type LabelColumn struct {
	Name    string
	Values  []string
	Missing bool
}

// labelColumns returns the labels of the page under construction.
func (p *pageBuilder) labelColumns() []LabelColumn {
	out := make([]LabelColumn, 0, len(p.columns))
	for _, c := range p.columns {
		col := LabelColumn{Name: c.name, Values: slices.Clone(c.values), Missing: len(c.ids) < p.series || slices.Contains(c.ids, 0)}
		slices.Sort(col.Values)
		out = append(out, col)
	}
	slices.SortFunc(out, func(a, b LabelColumn) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// encodeHead appends the part of a page that precedes its references.
func (p *pageBuilder) encodeHead(b []byte, refs byte) ([]byte, error) {
	if cells := p.series * len(p.columns); cells > maxPageCells || p.dictionary > maxDictionary {
		return nil, fmt.Errorf("page has %d label cells and %d bytes of labels, the maximum is %d and %d: a series has too "+
			"many or too long labels",
			cells, p.dictionary, maxPageCells, maxDictionary)
	}
	b = append(b, pageVersion, refs)
	b = binary.AppendUvarint(b, uint64(p.day))
	b = binary.AppendUvarint(b, uint64(p.series))
	return p.appendLabels(b), nil
}
