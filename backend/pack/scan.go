package pack

import (
	"context"
	"fmt"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/column"
	"github.com/palliumhq/pallium/backend/series"
)

// Scanner streams the series of one section in the order of metric name and
// then labels, with all their chunks, for compaction. A series with several rows
// (see takeRow) comes once for each row. A Scanner holds one page, one frame and
// up to maxScanTimes timestamp columns in memory. It must be used by one
// goroutine.
type Scanner struct {
	r    *Reader
	s    *section
	page int // position in the directory of the next page to load
	p    *page
	row  int
	err  error

	builder labels.ScratchBuilder
	labels  labels.Labels
	metric  string
	chunks  []series.Chunk

	table   *column.Table
	tableAt place
	times   map[place][]byte
	tables  tableCursor
}

// tableCursor is a scanner's position in the frames of a page of level 1.
type tableCursor struct {
	frame, used int // frame of the page; number of its series that were read
}

// Scan returns a Scanner of section i of the pack's Info.
func (r *Reader) Scan(i int) *Scanner {
	s := &r.dir.sections[i]
	return &Scanner{r: r, s: s, page: s.firstPage, builder: labels.NewScratchBuilder(32), times: map[place][]byte{}}
}

// Next advances to the next series. It returns false after the last one and on
// an error; see Err.
func (s *Scanner) Next(ctx context.Context) bool {
	if s.err != nil {
		return false
	}
	s.row++
	for s.p == nil || s.row >= s.p.series {
		if s.page >= s.s.firstPage+s.s.pages {
			return false
		}
		if s.err = ctx.Err(); s.err == nil {
			s.err = s.readAhead()
		}
		if s.err == nil {
			s.p, s.err = s.r.loadPage(s.s, s.page)
		}
		if s.err != nil {
			s.err = fmt.Errorf("tenant %s, day %d: %w", s.s.Tenant, s.s.Day, s.err)
			return false
		}
		s.page++
		s.row, s.tables = 0, tableCursor{}
	}
	s.labels = s.p.labels(s.row, &s.builder)
	s.metric = s.labels.Get(model.MetricNameLabel)
	s.chunks = s.chunks[:0]
	if s.p.table != nil {
		s.err = s.readTable()
	} else {
		s.err = s.readChunks()
	}
	if s.err != nil {
		s.err = fmt.Errorf("tenant %s, day %d, series %s: %w", s.s.Tenant, s.s.Day, s.labels, s.err)
	}
	return s.err == nil
}

// maxReadAhead is the maximum number of bytes that a scanner reads ahead.
const maxReadAhead = 64 << 20

// readAhead reads a page of level 0 together with its frames, which precede it,
// so that a source of an object store fetches them in one request.
func (s *Scanner) readAhead() error {
	if s.r.dir.level > 0 {
		return nil
	}
	from, to := s.s.Offset, s.r.dir.pages[s.page].end()
	if s.page > s.s.firstPage {
		from = s.r.dir.pages[s.page-1].end()
	}
	if to-from > maxReadAhead {
		return nil
	}
	_, err := s.r.src.Range(from, int(to-from))
	return err
}

// Labels returns the labels of the current series.
func (s *Scanner) Labels() labels.Labels { return s.labels }

// Metric returns the metric name of the current series.
func (s *Scanner) Metric() string { return s.metric }

// Chunks returns the chunks of the current series. The slice is valid until the
// next call of Next, the chunks' data until the reader is closed.
func (s *Scanner) Chunks() []series.Chunk { return s.chunks }

// Err returns the error that stopped Next, or nil after the last series.
func (s *Scanner) Err() error { return s.err }

func (s *Scanner) readChunks() error {
	q := query{mint: 0, maxt: series.DayMillis}
	var buf [16]ChunkRef
	for _, ref := range s.p.appendRefs(buf[:0], &q, uint16(s.row)) {
		c, err := s.r.Chunk(ref)
		if err != nil {
			return err
		}
		s.chunks = append(s.chunks, c)
	}
	return nil
}

func (s *Scanner) readTable() error {
	t, c := s.p.table, &s.tables
	if c.used == t.frames[c.frame].chunks {
		c.frame, c.used = c.frame+1, 0
	}
	f := t.frames[c.frame]
	ordinal := c.used
	if c.frame == 0 {
		ordinal += t.skip
	}
	c.used++
	if at := (place{off: f.off, length: f.length}); s.table == nil || s.tableAt != at {
		raw, err := s.r.load(at, kindTable, maxFrame)
		if err != nil {
			return err
		}
		if s.table, err = column.Open(raw, s.s.Day); err != nil {
			return fmt.Errorf("table frame at %d: %w", at.off, damaged(err))
		}
		s.tableAt = at
	}
	var times []byte
	if t.timesOf != nil && t.timesOf[s.row] > 0 {
		var err error
		if times, err = s.readTimes(t.times[t.timesOf[s.row]-1]); err != nil {
			return err
		}
	}
	start := s.s.Day * series.DayMillis
	first, last := t.minutes[s.row].bounds()
	var err error
	s.chunks, err = AppendTableChunks(s.chunks, s.table, ordinal, times, start+first, start+last)
	return err
}

// maxScanTimes is the maximum number of timestamp columns that a scanner
// caches.
const maxScanTimes = 512

func (s *Scanner) readTimes(at place) ([]byte, error) {
	if b, ok := s.times[at]; ok {
		return b, nil
	}
	b, err := s.r.load(at, kindTimes, maxFrame)
	if err != nil {
		return nil, err
	}
	if len(s.times) >= maxScanTimes {
		clear(s.times)
	}
	s.times[at] = b
	return b, nil
}

// tableColumn gives access to the floats of one series in a table frame.
type tableColumn struct {
	table *column.Table
	i     int
	times []byte
}

// AppendTo implements series.Column.
func (c *tableColumn) AppendTo(ts []int64, vs []float64) ([]int64, []float64, error) {
	ts, vs, err := c.table.AppendFloats(c.i, c.times, ts, vs)
	return ts, vs, damaged(err)
}

// AppendTableChunks appends the chunks of series i of a table frame: its
// floats, which are decoded when they are read, and its native histograms.
// times is the timestamp column of the series if it has one; mint and maxt are
// bounds of its timestamps.
func AppendTableChunks(chunks []series.Chunk, t *column.Table, i int, times []byte, mint, maxt int64) ([]series.Chunk, error) {
	if i >= t.Len() {
		return nil, fmt.Errorf("%w: series %d is not in a table frame with %d series", ErrCorrupt, i, t.Len())
	}
	if t.NeedsTimes(i) != (times != nil) {
		return nil, fmt.Errorf("%w: table frame and page disagree on whether series %d has a timestamp column", ErrCorrupt, i)
	}
	if n := t.Floats(i); n > 0 {
		chunks = append(chunks, series.Chunk{MinTime: mint, MaxTime: maxt, Samples: n, Column: &tableColumn{table: t, i: i, times: times}})
	}
	hs, err := t.Histograms(i)
	if err != nil {
		return nil, damaged(err)
	}
	return append(chunks, hs...), nil
}
