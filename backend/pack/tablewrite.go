package pack

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/column"
	"github.com/palliumhq/pallium/backend/disk"
	"github.com/palliumhq/pallium/backend/series"
)

// maxFrameSeries limits the series of a frame of tiny series: reading one of
// them decodes the header entries of all.
const maxFrameSeries = 1024

// maxGathered limits the bytes of labels of pages that wait for their last
// frame. When the limit is reached, the frame is closed, so that the pages are
// finished and the writer no longer holds their labels.
const maxGathered = 1 << 20

// columnOverhead is an estimate of the size of a label column in a page without
// its strings.
const columnOverhead = 16

// TablePage is a finished page of a compacted pack, as the index stores it.
type TablePage struct {
	Metric  string
	Series  int
	Samples int64
	MinTime int64 // Unix milliseconds, inclusive
	MaxTime int64
	Labels  []LabelColumn
	Block   []byte // the page's block as in the pack, with header and checksum
}

// TableWriter writes a compacted pack: one tenant's UTC day, or a range of its
// metrics, in table frames, followed by all pages and the other cells of the
// index, so that the index can be rebuilt from the end of the file. It holds
// one frame, the pages and the directory in memory. It must be used by one
// goroutine; after an error only Abort may be called.
type TableWriter struct {
	w      *Writer
	enc    *column.Encoder
	onPage func(TablePage) error

	metric string
	open   tablePage   // the page under construction
	ended  []tablePage // pages whose last frame has not been written yet
	pages  []pageInfo  // finished pages; their blocks are in blocks
	blocks [][]byte
	times  map[timesKey]place
	held   int64 // bytes of blocks
	gather int   // bytes of labels of ended
}

// timesKey identifies a timestamp column by its content.
type timesKey struct {
	hash   uint64
	crc    uint32
	length int
}

// tablePage is a page that is not finished.
type tablePage struct {
	TablePage
	head   []byte
	refs   tableRefs
	frames []int // ordinals of refs.frames among the pack's frames
	times  []place
	day    int64
}

// CreateTable starts a compacted pack of a tenant's day at path; see Create.
// onPage, if not nil, is called for every page, in order, once its frames are
// written.
func CreateTable(path string, o Options, t tenant.ID, day int64, onPage func(TablePage) error) (*TableWriter, error) {
	o.Level = 1
	w, err := Create(path, o)
	if err != nil {
		return nil, err
	}
	tw := &TableWriter{w: w, enc: column.NewEncoder(day), onPage: onPage, times: map[timesKey]place{}}
	if err := w.StartSection(t, day, nil); err != nil {
		return nil, errors.Join(err, w.Abort())
	}
	return tw, nil
}

// Size returns the approximate length of the file if it were closed now,
// without cells that are yet to be attached.
func (tw *TableWriter) Size() int64 { return tw.w.out.off + tw.held + int64(tw.enc.Size()) }

// Add writes a series with all its samples of the day, at least one. Series
// must be in ascending order of metric name and then labels.Compare. The writer
// does not retain the arguments.
func (tw *TableWriter) Add(ls labels.Labels, s *column.Series) error {
	if tw.w.err != nil {
		return tw.w.err
	}
	return tw.w.keep(tw.add(ls, s))
}

func (tw *TableWriter) add(ls labels.Labels, s *column.Series) error {
	metric := ls.Get(model.MetricNameLabel)
	if err := tw.checkSeries(metric, ls, s); err != nil {
		return fmt.Errorf("add series %s: %w", ls, err)
	}
	for rest := *s; ; {
		row := takeRow(&rest)
		if err := tw.addRow(metric, ls, &row); err != nil {
			return err
		}
		if len(rest.T) == 0 && len(rest.Histograms) == 0 {
			return nil
		}
	}
}

// addRow adds one row of a page: a series or a part of a very large one.
func (tw *TableWriter) addRow(metric string, ls labels.Labels, s *column.Series) error {
	w := tw.w
	if w.page.series > 0 && (metric != tw.metric || !w.page.fits(ls, 1)) {
		if err := tw.endPage(); err != nil {
			return err
		}
	}
	if tw.enc.Size() >= frameTarget || tw.enc.Len() >= maxFrameSeries || tw.gather >= maxGathered {
		if err := tw.endFrame(); err != nil {
			return err
		}
	}
	ordinal := tw.enc.Len()
	times, err := tw.enc.Add(s)
	if err != nil {
		return fmt.Errorf("add series %s: %w", ls, err)
	}
	at, err := tw.writeTimes(times)
	if err != nil {
		return err
	}
	w.page.addLabels(metric, ls)
	tw.metric = w.page.lastMetric
	tw.open.addSeries(len(w.dir.frames), ordinal, at, s)
	w.section.Samples += int64(tw.open.refs.samples[len(tw.open.refs.samples)-1])
	w.prev, w.prevMetric = ls.Copy(), tw.metric
	return nil
}

func (tw *TableWriter) checkSeries(metric string, ls labels.Labels, s *column.Series) error {
	if len(s.T) == 0 && len(s.Histograms) == 0 {
		return errors.New("it has no samples")
	}
	if len(s.T) != len(s.V) {
		return fmt.Errorf("it has %d timestamps and %d values", len(s.T), len(s.V))
	}
	if err := ls.Validate(checkLabel); err != nil {
		return err
	}
	w := tw.w
	if w.page.series == 0 && w.section.Series == 0 && len(tw.ended) == 0 {
		return nil
	}
	switch c := cmp.Or(strings.Compare(w.prevMetric, metric), labels.Compare(w.prev, ls)); {
	case c == 0:
		return errors.New("it was added before")
	case c > 0:
		return fmt.Errorf("it comes after %s; series must ascend by metric and labels", w.prev)
	}
	return nil
}

// addSeries records a row that was added to a frame.
func (p *tablePage) addSeries(frame, ordinal int, times place, s *column.Series) {
	r := &p.refs
	if len(p.frames) == 0 {
		r.skip = ordinal
	}
	if n := len(p.frames); n == 0 || p.frames[n-1] != frame {
		p.frames = append(p.frames, frame)
		r.frames = append(r.frames, frameRef{})
	}
	r.frames[len(r.frames)-1].chunks++
	p.times = append(p.times, times)
	lo, hi, n := bounds(s)
	if len(r.samples) == 0 {
		p.MinTime, p.MaxTime = lo, hi
	}
	p.MinTime, p.MaxTime = min(p.MinTime, lo), max(p.MaxTime, hi)
	p.Samples += int64(n)
	r.samples = append(r.samples, uint32(n))
	switch {
	case len(s.Histograms) == 0:
		r.kinds = append(r.kinds, kindFloats)
	case len(s.T) == 0:
		r.kinds = append(r.kinds, kindHistograms)
	default:
		r.kinds = append(r.kinds, kindMixed)
	}
	r.minutes = append(r.minutes, span(lo%series.DayMillis, hi%series.DayMillis))
}

// bounds returns the first and last time and the number of samples of a series.
func bounds(s *column.Series) (lo, hi int64, n int) {
	n = len(s.T)
	if n > 0 {
		lo, hi = s.T[0], s.T[n-1]
	}
	for i := range s.Histograms {
		c := &s.Histograms[i]
		if n == 0 {
			lo, hi = c.MinTime, c.MaxTime
		}
		lo, hi, n = min(lo, c.MinTime), max(hi, c.MaxTime), n+c.Samples
	}
	return lo, hi, n
}

// writeTimes writes a timestamp column unless the pack already contains it.
func (tw *TableWriter) writeTimes(column []byte) (place, error) {
	if column == nil {
		return place{}, nil
	}
	key := timesKey{hash: xxhash.Sum64(column), crc: disk.Checksum(column), length: len(column)}
	if at, ok := tw.times[key]; ok {
		return at, nil
	}
	at, err := tw.w.writeBlock(kindTimes, column, tw.w.enc)
	if err != nil {
		return place{}, err
	}
	tw.times[key] = at
	tw.w.dir.times = append(tw.w.dir.times, at)
	tw.w.section.times++
	return at, nil
}

// endFrame writes the frame and finishes the pages that end in it.
func (tw *TableWriter) endFrame() error {
	if tw.enc.Len() == 0 {
		return nil
	}
	w := tw.w
	w.raw = tw.enc.Append(w.raw[:0])
	if len(w.raw) > maxFrame {
		return fmt.Errorf("table frame has %d bytes, the maximum is %d: a series has too many samples in a day", len(w.raw), maxFrame)
	}
	p, err := w.writeBlock(kindTable, w.raw, w.enc)
	if err != nil {
		return err
	}
	w.dir.frames = append(w.dir.frames, frameInfo{p})
	w.section.frames++
	for i := range tw.ended {
		if err := tw.finishPage(&tw.ended[i]); err != nil {
			return err
		}
	}
	tw.ended, tw.gather = tw.ended[:0], 0
	return nil
}

// endPage encodes the labels of the page; its references are encoded once its
// last frame is written.
func (tw *TableWriter) endPage() error {
	w := tw.w
	if w.page.series == 0 {
		return nil
	}
	p := tw.open
	var err error
	if p.head, err = w.page.encodeHead(nil, refsTable); err != nil {
		return err
	}
	p.Metric, p.Series, p.day = w.page.firstMetric, w.page.series, w.section.Day
	p.Labels = w.page.labelColumns()
	tw.ended = append(tw.ended, p)
	tw.gather += w.page.dictionary + columnOverhead*len(w.page.columns)
	tw.open = tablePage{}
	w.page.reset(w.section.Day)
	if tw.enc.Len() == 0 {
		return errors.New("internal error: page ended without a frame") // a bug: the last series of a page is always in the open frame
	}
	return nil
}

// finishPage encodes the block of a page after all its frames are written.
func (tw *TableWriter) finishPage(p *tablePage) error {
	w := tw.w
	for i, f := range p.frames {
		at := w.dir.frames[f]
		p.refs.frames[i].off, p.refs.frames[i].length = at.off, at.length
	}
	p.refs.setTimes(p.times)
	raw := p.refs.append(p.head, &w.page.enc)
	if len(raw) > maxPageRaw {
		return fmt.Errorf("page has %d bytes, the maximum is %d: a series has too long labels", len(raw), maxPageRaw)
	}
	block := appendBlock(nil, kindPage, raw, w.enc)
	start := p.day * series.DayMillis
	info := pageInfo{place: place{length: uint32(len(block))}, series: p.Series, chunks: p.Series,
		min: uint32(p.MinTime - start), max: uint32(p.MaxTime - start), first: p.Metric, last: p.Metric}
	tw.pages, tw.blocks = append(tw.pages, info), append(tw.blocks, block)
	tw.held += int64(len(block))
	w.section.count(&info)
	if tw.onPage == nil {
		return nil
	}
	p.Block = block
	return tw.onPage(p.TablePage)
}

// setTimes sets the distinct timestamp columns and the one of each series.
func (t *tableRefs) setTimes(of []place) {
	t.timesOf = make([]uint16, len(of))
	for _, p := range of {
		if p.length > 0 {
			t.times = append(t.times, p)
		}
	}
	byOffset := func(a, b place) int { return cmp.Compare(a.off, b.off) }
	slices.SortFunc(t.times, byOffset)
	t.times = slices.Compact(t.times)
	for i, p := range of {
		if p.length > 0 {
			k, _ := slices.BinarySearchFunc(t.times, p, byOffset)
			t.timesOf[i] = uint16(k + 1)
		}
	}
}

// Finish writes the last frame and all pages. After it, only Attach, Close and
// Abort may be called.
func (tw *TableWriter) Finish() error {
	if tw.w.err != nil {
		return tw.w.err
	}
	return tw.w.keep(tw.finish())
}

func (tw *TableWriter) finish() error {
	w := tw.w
	if err := tw.endPage(); err != nil {
		return err
	}
	if err := tw.endFrame(); err != nil {
		return err
	}
	for i, block := range tw.blocks {
		tw.pages[i].off = w.out.off
		if err := w.out.write(block); err != nil {
			return err
		}
	}
	w.dir.pages = append(w.dir.pages, tw.pages...)
	tw.blocks, tw.pages = nil, nil
	return nil
}

// Attach stores a cell of the index in the pack, verbatim, under a name.
func (tw *TableWriter) Attach(name string, value []byte) error {
	if tw.w.err != nil {
		return tw.w.err
	}
	p, err := tw.w.writeBlock(kindCell, value, nil)
	if err != nil {
		return tw.w.keep(err)
	}
	tw.w.dir.cells = append(tw.w.dir.cells, cellInfo{place: p, name: name})
	tw.w.section.cells++
	return nil
}

// Close completes the pack; see Writer.Close.
func (tw *TableWriter) Close() (Info, error) {
	if len(tw.blocks) > 0 || tw.enc.Len() > 0 || tw.w.page.series > 0 {
		return Info{}, tw.w.keep(errors.New("close: Finish was not called"))
	}
	return tw.w.Close()
}

// Abort discards the pack and removes its file.
func (tw *TableWriter) Abort() error { return tw.w.Abort() }
