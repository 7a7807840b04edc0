package pack

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/disk"
	"github.com/palliumhq/pallium/backend/series"
)

// Verify reads the whole pack and checks every checksum, that blocks are exactly at
// the places in the directory, without gaps, that series ascend, and that all
// counts and times agree. It decodes the floats of compacted packs, and no samples
// of level 0 packs.
func (r *Reader) Verify() error {
	header, err := r.src.Range(0, headerLen)
	if err != nil {
		return fmt.Errorf("verify: read header: %w", err)
	}
	if string(header) != string(r.dir.appendHeader(nil)) {
		return fmt.Errorf("verify: %w: the header is damaged, or its format, level, flags or ID differ from the directory", ErrCorrupt)
	}
	end := int64(headerLen)
	for i := range r.dir.sections {
		s := &r.dir.sections[i]
		err := r.verifySection(s)
		if err == nil && s.Offset != end {
			err = fmt.Errorf("%w: the section starts at %d, but the previous one ends at %d", ErrCorrupt, s.Offset, end)
		}
		if err != nil {
			return fmt.Errorf("verify: section of tenant %s, day %d: %w", s.Tenant, s.Day, err)
		}
		end = s.Offset + s.Length
	}
	return nil
}

func (r *Reader) verifySection(s *section) error {
	b, err := r.src.Range(s.Offset, int(s.Length))
	if err != nil {
		return err
	}
	if got := disk.Checksum(b); got != s.CRC {
		return fmt.Errorf("%w: the section has checksum %08x, want %08x", ErrCorrupt, got, s.CRC)
	}
	if _, err := r.metadata(s); err != nil {
		return err
	}
	if r.dir.level > 0 {
		if err := r.verifyTable(s); err != nil {
			return err
		}
		return r.verifyBlocks(s, b)
	}
	for i, f := range r.dir.framesOf(s) {
		if err := r.checkFrame(uint32(s.firstFrame+i), f); err != nil {
			return err
		}
	}
	v := sectionVerifier{r: r, s: s, min: math.MaxInt64, max: math.MinInt64}
	for i := range s.pages {
		if err := v.page(s.firstPage + i); err != nil {
			return fmt.Errorf("page at %d: %w", r.dir.pages[s.firstPage+i].off, err)
		}
	}
	if v.samples != s.Samples || v.min != s.MinTime || v.max != s.MaxTime {
		return fmt.Errorf("%w: the section has %d samples from %d to %d, the directory says %d from %d to %d",
			ErrCorrupt, v.samples, v.min, v.max, s.Samples, s.MinTime, s.MaxTime)
	}
	return r.verifyBlocks(s, b)
}

// verifyTable reads all series of a compacted section, including their floats,
// and compares counts and times with the pages and the directory.
func (r *Reader) verifyTable(s *section) error {
	sc := r.Scan(slices.IndexFunc(r.dir.sections, func(o section) bool { return o.Tenant == s.Tenant && o.Day == s.Day }))
	var prev labels.Labels
	var prevMetric string
	var floats floatBuffers
	full := false // whether the previous row was full
	seriesIn, samples, lo, hi := 0, int64(0), int64(math.MaxInt64), int64(math.MinInt64)
	for ; sc.Next(context.Background()); seriesIn++ {
		if c := cmp.Or(strings.Compare(prevMetric, sc.metric), labels.Compare(prev, sc.labels)); seriesIn > 0 && (c > 0 || c == 0 && !full) {
			return fmt.Errorf("%w: series %s comes after %s", ErrCorrupt, sc.labels, prev)
		}
		prev, prevMetric, full = sc.labels, sc.metric, fullRow(sc.chunks)
		in := 0
		for i := range sc.chunks {
			first, last, err := floats.bounds(&sc.chunks[i])
			if err != nil {
				return fmt.Errorf("series %s: %w", sc.labels, err)
			}
			in, lo, hi = in+sc.chunks[i].Samples, min(lo, first), max(hi, last)
		}
		if want := int(sc.p.table.samples[sc.row]); in != want {
			return fmt.Errorf("%w: series %s has %d samples, its page says %d", ErrCorrupt, sc.labels, in, want)
		}
		samples += int64(in)
	}
	if err := sc.Err(); err != nil {
		return err
	}
	if seriesIn != s.Series || samples != s.Samples || lo != s.MinTime || hi != s.MaxTime {
		return fmt.Errorf("%w: the section has %d series with %d samples from %d to %d, the directory says %d with %d from %d to %d",
			ErrCorrupt, seriesIn, samples, lo, hi, s.Series, s.Samples, s.MinTime, s.MaxTime)
	}
	return nil
}

// floatBuffers are reused from chunk to chunk.
type floatBuffers struct {
	ts []int64
	vs []float64
}

// bounds returns the times of the first and last sample of a chunk. Floats are
// decoded, and their count and times compared with those in the page.
func (f *floatBuffers) bounds(c *series.Chunk) (first, last int64, err error) {
	if c.Column == nil {
		return c.MinTime, c.MaxTime, nil
	}
	if f.ts, f.vs, err = c.Column.AppendTo(f.ts[:0], f.vs[:0]); err != nil {
		return 0, 0, err
	}
	n := len(f.ts)
	if n != c.Samples || n == 0 || f.ts[0] < c.MinTime || f.ts[n-1] > c.MaxTime {
		return 0, 0, fmt.Errorf("%w: time range or number of its %d floats do not match the page, which has times from %d to %d",
			ErrCorrupt, n, c.MinTime, c.MaxTime)
	}
	return f.ts[0], f.ts[n-1], nil
}

// verifyBlocks iterates over the blocks of a section by the lengths in their
// headers and checks that they are exactly those of the directory.
func (r *Reader) verifyBlocks(s *section, b []byte) error {
	known := map[place]blockKind{}
	if s.metadata.length > 0 {
		known[s.metadata] = kindMetadata
	}
	frame := kindFrame
	if r.dir.level > 0 {
		frame = kindTable
	}
	for _, f := range r.dir.framesOf(s) {
		known[f.place] = frame
	}
	for _, p := range r.dir.timesOf(s) {
		known[p] = kindTimes
	}
	for _, c := range r.dir.cellsOf(s) {
		known[c.place] = kindCell
	}
	for _, p := range r.dir.pagesOf(s) {
		known[p.place] = kindPage
	}
	off := s.Offset
	for len(b) > 0 {
		if len(b) < blockOverhead {
			return fmt.Errorf("%w: %d bytes at the end of the section are not a block", ErrCorrupt, len(b))
		}
		n := int64(binary.BigEndian.Uint32(b[4:])) + blockOverhead
		at := place{off: off, length: uint32(n)}
		if kind, ok := known[at]; n > int64(len(b)) || !ok || kind != blockKind(b[8]) {
			return fmt.Errorf("%w: %s at %d is not in the directory", ErrCorrupt, blockKind(b[8]), off)
		}
		delete(known, at)
		b, off = b[n:], off+n
	}
	if len(known) > 0 {
		return fmt.Errorf("%w: %d blocks of the directory are not in the section", ErrCorrupt, len(known))
	}
	return nil
}

// sectionVerifier verifies the pages of a section in order.
type sectionVerifier struct {
	r          *Reader
	s          *section
	started    bool
	prev       labels.Labels
	prevMetric string

	samples  int64
	min, max int64
}

func (v *sectionVerifier) page(i int) error {
	p, err := v.r.loadPage(v.s, i)
	if err != nil {
		return err
	}
	b := labels.NewScratchBuilder(32)
	for row := range p.series {
		ls := p.labels(row, &b)
		metric := ls.Get(model.MetricNameLabel)
		if v.started && (metric < v.prevMetric || metric == v.prevMetric && labels.Compare(v.prev, ls) >= 0) {
			return fmt.Errorf("%w: series %s comes after %s", ErrCorrupt, ls, v.prev)
		}
		v.started, v.prev, v.prevMetric = true, ls, metric
	}
	return v.chunks(&v.r.dir.pages[i], p)
}

// chunks verifies the chunks of a page and compares the page with its directory
// entry.
func (v *sectionVerifier) chunks(info *pageInfo, p *page) error {
	if last := v.prevMetric; info.last != last || info.first != p.metric(0) {
		return fmt.Errorf("%w: the page has metrics %q to %q, the directory says %q to %q", ErrCorrupt, p.metric(0), last, info.first, info.last)
	}
	lo, hi := p.chunks[0].min, p.chunks[0].max
	q := query{mint: 0, maxt: series.DayMillis}
	var refs []ChunkRef
	for row := range p.series {
		refs = p.appendRefs(refs[:0], &q, uint16(row))
		for k := range refs {
			if _, err := v.r.Chunk(refs[k]); err != nil {
				return err
			}
			e := &p.chunks[int(p.first[row])+k]
			lo, hi = min(lo, e.min), max(hi, e.max)
			v.samples += int64(e.samples)
		}
	}
	if lo != info.min || hi != info.max {
		return fmt.Errorf("%w: the page has times %d to %d, the directory says %d to %d", ErrCorrupt, lo, hi, info.min, info.max)
	}
	start := v.s.Day * series.DayMillis
	v.min, v.max = min(v.min, start+int64(lo)), max(v.max, start+int64(hi))
	return p.verifyFrames()
}

// verifyFrames checks that the chunks of a page fill the frames to which it
// refers.
func (p *page) verifyFrames() error {
	sizes := make([]uint64, len(p.frames))
	for i := range p.chunks {
		sizes[p.chunks[i].frame] += uint64(p.chunks[i].length)
	}
	for i, f := range p.frames {
		if sizes[i] != uint64(f.length-blockOverhead) {
			return fmt.Errorf("%w: the page's chunks in the frame at %d have %d bytes, the frame has %d", ErrCorrupt, f.off, sizes[i],
				f.length-blockOverhead)
		}
	}
	return nil
}

// metric returns the metric name of a series of the page.
func (p *page) metric(row int) string {
	c := p.column(model.MetricNameLabel)
	if c == nil {
		return ""
	}
	return c.value(c.id(row))
}
