package series

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// Iterator returns the samples of the chunks in ascending order of time. Of
// several samples with the same timestamp it returns the one that Wins. It
// reorders chunks. reuse may be an iterator returned earlier that is no longer
// in use.
func Iterator(chunks []Chunk, reuse chunkenc.Iterator) chunkenc.Iterator {
	return IteratorBetween(chunks, math.MinInt64, math.MaxInt64, reuse)
}

// IteratorBetween is Iterator for the samples in [mint, maxt] (Unix
// milliseconds, inclusive).
func IteratorBetween(chunks []Chunk, mint, maxt int64, reuse chunkenc.Iterator) chunkenc.Iterator {
	chunks = DropCopies(chunks)
	if !overlapping(chunks) {
		it, ok := reuse.(*concatIterator)
		if !ok {
			it = &concatIterator{}
		}
		it.reset(chunks, mint, maxt)
		return it
	}
	m := &mergeIterator{current: -1}
	for _, lane := range lanes(chunks) {
		l := &concatIterator{}
		l.reset(lane, mint, maxt)
		m.lanes = append(m.lanes, l)
	}
	m.types = make([]chunkenc.ValueType, len(m.lanes))
	return m
}

// SeekTo returns the sample at t, or false if there is none. The iterator must
// not be past t.
func SeekTo(it chunkenc.Iterator, t int64) (Sample, bool, error) {
	var s Sample
	vt := it.Seek(t)
	if vt == chunkenc.ValNone || it.AtT() != t {
		return s, false, it.Err()
	}
	return *sampleAt(it, vt, &s), true, nil
}

// DropCopies sorts chunks by time, in place, and removes duplicates, which
// replicas and a seal in progress produce. Duplicates are equal byte for byte.
func DropCopies(chunks []Chunk) []Chunk {
	if len(chunks) < 2 {
		return chunks
	}
	byTime := func(a, b Chunk) int {
		if c := cmp.Compare(a.MinTime, b.MinTime); c != 0 {
			return c
		}
		return cmp.Compare(a.MaxTime, b.MaxTime)
	}
	if !slices.IsSortedFunc(chunks, byTime) {
		slices.SortStableFunc(chunks, byTime)
	}
	// Not slices.CompactFunc, which clears the elements after the result: the
	// caller may read its whole slice again, whose tail then has only
	// duplicates.
	kept := chunks[:1]
	for i := range chunks[1:] {
		if c := &chunks[i+1]; !sameChunk(c, &kept[len(kept)-1]) {
			kept = append(kept, *c)
		}
	}
	return kept
}

func sameChunk(a, b *Chunk) bool {
	return a.MinTime == b.MinTime && a.MaxTime == b.MaxTime && a.Encoding == b.Encoding && a.Column == b.Column && bytes.Equal(a.Data, b.Data)
}

func overlapping(sorted []Chunk) bool {
	for i := 1; i < len(sorted); i++ {
		if sorted[i].MinTime <= sorted[i-1].MaxTime {
			return true
		}
	}
	return false
}

// lanes distributes sorted chunks over lists of chunks that do not overlap.
func lanes(sorted []Chunk) [][]Chunk {
	var out [][]Chunk
next:
	for _, c := range sorted {
		for i, lane := range out {
			if lane[len(lane)-1].MaxTime < c.MinTime {
				out[i] = append(lane, c)
				continue next
			}
		}
		out = append(out, []Chunk{c})
	}
	return out
}

// concatIterator iterates over consecutive chunks, from mint to maxt. It is in
// the inner loop of every query: for nearly every sample, Next makes only one
// further call.
type concatIterator struct {
	chunks     []Chunk
	mint, maxt int64
	i          int // of the chunk that cur reads
	cur        chunkenc.Iterator
	edge       bool // the chunk ends after maxt: the times of its samples must be checked
	valid      chunkenc.ValueType
	err        error

	// A chunk and an iterator of each encoding, reused to avoid allocations.
	xor   *chunkenc.XORChunk
	hist  *chunkenc.HistogramChunk
	fhist *chunkenc.FloatHistogramChunk

	xorIt, histIt, fhistIt chunkenc.Iterator
	column                 columnIterator
}

func (c *concatIterator) reset(chunks []Chunk, mint, maxt int64) {
	for len(chunks) > 0 && chunks[0].MaxTime < mint {
		chunks = chunks[1:]
	}
	for len(chunks) > 0 && chunks[len(chunks)-1].MinTime > maxt {
		chunks = chunks[:len(chunks)-1]
	}
	c.chunks, c.mint, c.maxt = chunks, mint, maxt
	c.i, c.cur, c.valid, c.err = -1, nil, chunkenc.ValNone, nil
}

// enter starts to read chunk i, or ends the iterator after the last one.
func (c *concatIterator) enter(i int) bool {
	c.i = i
	if i >= len(c.chunks) {
		c.cur = nil
		return false
	}
	ch := &c.chunks[i]
	c.edge = ch.MaxTime > c.maxt
	if ch.Column != nil {
		c.column.reset(ch.Column)
		c.cur = &c.column
		return true
	}
	switch ch.Encoding {
	case chunkenc.EncXOR:
		if c.xor == nil {
			c.xor = &chunkenc.XORChunk{}
		}
		c.xor.Reset(ch.Data)
		c.xorIt = c.xor.Iterator(c.xorIt)
		c.cur = c.xorIt
	case chunkenc.EncHistogram:
		if c.hist == nil {
			c.hist = &chunkenc.HistogramChunk{}
		}
		c.hist.Reset(ch.Data)
		c.histIt = c.hist.Iterator(c.histIt)
		c.cur = c.histIt
	case chunkenc.EncFloatHistogram:
		if c.fhist == nil {
			c.fhist = &chunkenc.FloatHistogramChunk{}
		}
		c.fhist.Reset(ch.Data)
		c.fhistIt = c.fhist.Iterator(c.fhistIt)
		c.cur = c.fhistIt
	default:
		c.cur, c.err = nil, fmt.Errorf("unknown chunk encoding %d", ch.Encoding)
		return false
	}
	return true
}

func (c *concatIterator) Next() chunkenc.ValueType {
	if c.cur != nil {
		if c.valid = c.cur.Next(); c.valid != chunkenc.ValNone && !c.edge {
			return c.valid
		}
		return c.advance()
	}
	if c.i >= 0 || c.err != nil || !c.enter(0) {
		c.i = len(c.chunks)
		c.valid = chunkenc.ValNone
		return c.valid
	}
	return c.seekWithin(c.mint)
}

// advance completes a step of cur: at the end of a chunk it moves to the next
// one, after maxt to the end.
func (c *concatIterator) advance() chunkenc.ValueType {
	for c.valid == chunkenc.ValNone {
		if c.err = c.cur.Err(); c.err != nil {
			c.cur = nil
			return chunkenc.ValNone
		}
		if !c.enter(c.i + 1) {
			return chunkenc.ValNone
		}
		c.valid = c.cur.Next()
	}
	if c.edge && c.cur.AtT() > c.maxt {
		c.valid = chunkenc.ValNone
		c.enter(len(c.chunks))
	}
	return c.valid
}

// seekWithin steps to the first sample at or after t, starting in the current
// chunk.
func (c *concatIterator) seekWithin(t int64) chunkenc.ValueType {
	if c.cur == &c.column {
		if c.valid = c.column.Seek(t); c.valid != chunkenc.ValNone && !c.edge {
			return c.valid
		}
		if c.advance() == chunkenc.ValNone || c.cur.AtT() >= t {
			return c.valid
		}
	}
	for {
		if c.valid = c.cur.Next(); c.valid == chunkenc.ValNone || c.edge {
			if c.advance() == chunkenc.ValNone {
				return chunkenc.ValNone
			}
		}
		if c.cur.AtT() >= t {
			return c.valid
		}
	}
}

func (c *concatIterator) Seek(t int64) chunkenc.ValueType {
	t = max(t, c.mint)
	if c.valid != chunkenc.ValNone && c.cur.AtT() >= t {
		return c.valid
	}
	if c.err != nil || c.i >= len(c.chunks) {
		c.valid = chunkenc.ValNone
		return c.valid
	}
	i := max(c.i, 0)
	for i < len(c.chunks) && c.chunks[i].MaxTime < t {
		i++
	}
	if i != c.i && !c.enter(i) {
		c.valid = chunkenc.ValNone
		return c.valid
	}
	return c.seekWithin(t)
}

func (c *concatIterator) At() (int64, float64) { return c.cur.At() }
func (c *concatIterator) AtHistogram(h *histogram.Histogram) (int64, *histogram.Histogram) {
	return c.cur.AtHistogram(h)
}
func (c *concatIterator) AtFloatHistogram(h *histogram.FloatHistogram) (int64, *histogram.FloatHistogram) {
	return c.cur.AtFloatHistogram(h)
}
func (c *concatIterator) AtT() int64  { return c.cur.AtT() }
func (c *concatIterator) AtST() int64 { return 0 }
func (c *concatIterator) Err() error  { return c.err }

// mergeIterator merges lanes. Overlaps are rare and few lanes deep, so a scan
// over the lanes is faster than a heap.
type mergeIterator struct {
	lanes   []*concatIterator
	types   []chunkenc.ValueType // type of each lane's current sample; ValNone = exhausted
	current int                  // lane of the current sample, -1 before the first
	started bool
	// switched is true if the previous sample came from another lane: the
	// counter reset hint of a histogram is not valid then.
	switched bool
	err      error
}

func (m *mergeIterator) Next() chunkenc.ValueType {
	if m.err != nil {
		return chunkenc.ValNone
	}
	if !m.started {
		m.started = true
		for i, l := range m.lanes {
			m.types[i] = l.Next()
		}
		return m.choose()
	}
	if m.current < 0 {
		return chunkenc.ValNone
	}
	t := m.AtT()
	for i, l := range m.lanes {
		if m.types[i] != chunkenc.ValNone && l.AtT() == t {
			m.types[i] = l.Next()
		}
	}
	return m.choose()
}

func (m *mergeIterator) Seek(t int64) chunkenc.ValueType {
	if m.err != nil {
		return chunkenc.ValNone
	}
	if m.started && m.current < 0 {
		return chunkenc.ValNone
	}
	if m.current >= 0 && m.AtT() >= t {
		return m.types[m.current]
	}
	m.started = true
	for i, l := range m.lanes {
		m.types[i] = l.Seek(t)
	}
	return m.choose()
}

// choose makes the lane with the smallest timestamp current, or of several the
// one whose sample wins.
func (m *mergeIterator) choose() chunkenc.ValueType {
	last, best, bestT := m.current, -1, int64(math.MaxInt64)
	for i, l := range m.lanes {
		if m.types[i] == chunkenc.ValNone {
			if m.err = l.Err(); m.err != nil {
				m.current = -1
				return chunkenc.ValNone
			}
			continue
		}
		t := l.AtT()
		if best < 0 || t < bestT || (t == bestT && m.wins(i, best)) {
			best, bestT = i, t
		}
	}
	m.current, m.switched = best, best != last
	if best < 0 {
		return chunkenc.ValNone
	}
	return m.types[best]
}

func (m *mergeIterator) wins(i, j int) bool {
	var a, b Sample
	return Wins(sampleAt(m.lanes[i], m.types[i], &a), sampleAt(m.lanes[j], m.types[j], &b))
}

func (m *mergeIterator) At() (int64, float64) { return m.lanes[m.current].At() }

func (m *mergeIterator) AtHistogram(h *histogram.Histogram) (int64, *histogram.Histogram) {
	t, h := m.lanes[m.current].AtHistogram(h)
	if m.switched && h.CounterResetHint != histogram.GaugeType {
		h.CounterResetHint = histogram.UnknownCounterReset
	}
	return t, h
}

func (m *mergeIterator) AtFloatHistogram(h *histogram.FloatHistogram) (int64, *histogram.FloatHistogram) {
	t, h := m.lanes[m.current].AtFloatHistogram(h)
	if m.switched && h.CounterResetHint != histogram.GaugeType {
		h.CounterResetHint = histogram.UnknownCounterReset
	}
	return t, h
}

func (m *mergeIterator) AtT() int64  { return m.lanes[m.current].AtT() }
func (m *mergeIterator) AtST() int64 { return 0 }
func (m *mergeIterator) Err() error  { return m.err }
