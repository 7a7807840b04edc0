package pack

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/series"
)

// Verify reads the whole pack and checks every checksum, that everything lies
// where the directory says and nothing lies between, that series ascend, and
// that all counts and times agree. It does not decode samples.
func (r *Reader) Verify() error {
	header, err := r.src.Range(0, headerLen)
	if err != nil {
		return fmt.Errorf("verify: read header: %w", err)
	}
	if string(header) != string(r.dir.appendHeader(nil)) {
		return fmt.Errorf("verify: %w: header differs from what the directory says of it", ErrCorrupt)
	}
	end := int64(headerLen)
	for i := range r.dir.sections {
		s := &r.dir.sections[i]
		err := r.verifySection(s)
		if err == nil && s.Offset != end {
			err = fmt.Errorf("%w: it begins at %d, the one before ends at %d", ErrCorrupt, s.Offset, end)
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
	if got := checksum(b); got != s.CRC {
		return fmt.Errorf("%w: it has checksum %08x, should be %08x", ErrCorrupt, got, s.CRC)
	}
	if _, err := r.metadata(s); err != nil {
		return err
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
		return fmt.Errorf("%w: it has %d samples from %d to %d, the directory says %d from %d to %d",
			ErrCorrupt, v.samples, v.min, v.max, s.Samples, s.MinTime, s.MaxTime)
	}
	return r.verifyBlocks(s, b)
}

// verifyBlocks walks the blocks of a section by their own lengths and compares
// them with the directory, which must have them all.
func (r *Reader) verifyBlocks(s *section, b []byte) error {
	known := map[place]blockKind{}
	if s.metadata.length > 0 {
		known[s.metadata] = kindMetadata
	}
	for _, f := range r.dir.framesOf(s) {
		known[f.place] = kindFrame
	}
	for _, p := range r.dir.pagesOf(s) {
		known[p.place] = kindPage
	}
	off := s.Offset
	for len(b) > 0 {
		if len(b) < blockOverhead {
			return fmt.Errorf("%w: %d bytes at its end are no block", ErrCorrupt, len(b))
		}
		n := int64(binary.BigEndian.Uint32(b[4:])) + blockOverhead
		at := place{off: off, length: uint32(n)}
		if kind, ok := known[at]; n > int64(len(b)) || !ok || kind != blockKind(b[8]) {
			return fmt.Errorf("%w: the directory does not have the %s at %d", ErrCorrupt, blockKind(b[8]), off)
		}
		delete(known, at)
		b, off = b[n:], off+n
	}
	if len(known) > 0 {
		return fmt.Errorf("%w: the directory has %d blocks that the section has not", ErrCorrupt, len(known))
	}
	return nil
}

// sectionVerifier follows the series of a section over its pages.
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

// chunks compares a page with its entry in the directory, and its chunks with
// their bytes.
func (v *sectionVerifier) chunks(info *pageInfo, p *page) error {
	if last := v.prevMetric; info.last != last || info.first != p.metric(0) {
		return fmt.Errorf("%w: it has metrics %q to %q, the directory says %q to %q", ErrCorrupt, p.metric(0), last, info.first, info.last)
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
		return fmt.Errorf("%w: it has times %d to %d, the directory says %d to %d", ErrCorrupt, lo, hi, info.min, info.max)
	}
	start := v.s.Day * series.DayMillis
	v.min, v.max = min(v.min, start+int64(lo)), max(v.max, start+int64(hi))
	return p.verifyFrames()
}

// verifyFrames checks that the chunks of a page fill the frames it points into.
func (p *page) verifyFrames() error {
	sizes := make([]uint64, len(p.frames))
	for i := range p.chunks {
		sizes[p.chunks[i].frame] += uint64(p.chunks[i].length)
	}
	for i, f := range p.frames {
		if sizes[i] != uint64(f.length-blockOverhead) {
			return fmt.Errorf("%w: its chunks in the frame at %d have %d bytes, the frame has %d", ErrCorrupt, f.off, sizes[i], f.length-blockOverhead)
		}
	}
	return nil
}

// metric is the metric name of a series of the page.
func (p *page) metric(row int) string {
	c := p.column(model.MetricNameLabel)
	if c == nil {
		return ""
	}
	return c.value(c.id(row))
}
