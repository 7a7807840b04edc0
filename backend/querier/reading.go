package querier

import (
	"context"
	"math"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/backend/series"
)

// reading accounts for the memory of one selection while its series are read.
type reading struct {
	e        *evaluation
	selector selectorShape
	list     []series.WithChunks
	mint     int64
	maxt     int64
	steps    int64 // number of steps for which the selector is evaluated
	// window is set for a range selector; whole is set if its samples are the result of the query.
	window, whole bool
	begun         bool
	values        map[uint64]struct{} // values seen so far, for count_values; nil without one
}

// newReading returns a reading of a selection, or nil if memory is not
// accounted for.
func newReading(ctx context.Context, hints *storage.SelectHints, list []series.WithChunks, mint, maxt int64) *reading {
	e, ok := ctx.Value(evaluationKey{}).(*evaluation)
	if !ok || e.memory == nil {
		return nil
	}
	r := &reading{e: e, selector: e.selector(), list: list, mint: mint, maxt: maxt}
	r.steps = max(r.selector.steps, 1)
	if hints != nil {
		r.window = hints.Range > 0
		r.whole = r.window && hints.Func == ""
	}
	if r.selector.countsValues == sameValues {
		r.values = map[uint64]struct{}{}
	}
	return r
}

// next charges memory before a series is read. In a query of the engine it
// charges the maximum for all series before the first one, so that a query
// without enough memory fails early.
func (r *reading) next(chunks []series.Chunk) error {
	if r.e.raw {
		return r.e.take(samplesIn(chunks, r.mint, r.maxt) * readSampleBytes)
	}
	if r.begun {
		return nil
	}
	r.begun = true
	before := int64(0) // points that the engine already holds
	if r.e.peak != nil {
		before = r.e.peak()
	}
	n := int64(len(r.list))
	points, window := sumOf(0, n, r.steps), int64(0)
	if r.window {
		all, most := int64(0), int64(0)
		for i := range r.list {
			samples := samplesIn(r.list[i].Chunks, r.mint, r.maxt)
			all += samples
			most = max(most, samples)
		}
		window = 2 * most // the engine reads one series at a time into a buffer that doubles
		if r.whole {
			points = all
		}
	}
	rows := r.selector.countGroups(r.list)
	if r.selector.countsValues == otherValues { // every point may have a different value
		rows = points
	}
	need := sumOf(window*pointBytes, points+before, r.selector.copies*pointBytes)
	need = sumOf(need, rows, r.rowBytes())
	return r.raise(sumOf(need, r.selector.topSeries(r.list), topBytes))
}

// samplesIn returns an upper bound of the number of samples of chunks in a time
// range.
func samplesIn(chunks []series.Chunk, mint, maxt int64) int64 {
	n := int64(0)
	for i := range chunks {
		if chunks[i].Overlaps(mint, maxt) {
			n += int64(chunks[i].Samples)
		}
	}
	return n
}

// rowBytes returns the memory of a series of a result: the engine allocates
// memory for all its steps at once.
func (r *reading) rowBytes() int64 { return min(r.steps, maxPointSlice)*pointBytes + seriesBytes }

// raise increases the memory that the evaluation holds for points to at least the given number of
// bytes.
func (r *reading) raise(to int64) error {
	if to <= r.e.points {
		return nil
	}
	if err := r.e.take(to - r.e.points); err != nil {
		return err
	}
	r.e.points = to
	return nil
}

// iterator wraps the iterator of a series after next has charged. It charges memory that is known
// only while samples are read.
func (r *reading) iterator(it chunkenc.Iterator, chunks []series.Chunk) chunkenc.Iterator {
	histograms := hasHistograms(chunks)
	if !histograms && r.values == nil {
		return it
	}
	c := &countingIterator{Iterator: it, r: r}
	if !histograms {
		return c
	}
	samples := int64(0)
	for i := range chunks {
		samples += int64(chunks[i].Samples)
	}
	if c.points = r.steps; r.window {
		c.points = samples + r.steps
	}
	return c
}

// plain returns the iterator that iterator has wrapped, so that it can be reused.
func plain(it chunkenc.Iterator) chunkenc.Iterator {
	if c, ok := it.(*countingIterator); ok {
		return c.Iterator
	}
	return it
}

// failedIterator returns an iterator without samples whose Err returns err.
func failedIterator(err error) chunkenc.Iterator {
	return &countingIterator{Iterator: chunkenc.NewNopIterator(), err: err}
}

// hasHistograms reports whether a series has chunks of native histograms.
func hasHistograms(chunks []series.Chunk) bool {
	for i := range chunks {
		if e := chunks[i].Encoding; e == chunkenc.EncHistogram || e == chunkenc.EncFloatHistogram {
			return true
		}
	}
	return false
}

// countingIterator charges memory for samples as they are read: for native histograms by their
// size, and for each distinct value if count_values creates a series for it.
type countingIterator struct {
	chunkenc.Iterator
	r      *reading
	points int64 // number of points that the engine creates for the series, each as large as the largest histogram
	seen   int64 // size in bytes of the largest histogram so far
	err    error
}

// histogram charges for a histogram of `size` bytes. In a remote read each histogram has its own
// size; in the engine all points may become as large as the largest histogram.
func (c *countingIterator) histogram(size int64) {
	if c.err == nil && c.r.e.raw {
		c.err = c.r.e.take(size * readCopies)
		return
	}
	if c.err != nil || size <= c.seen {
		return
	}
	each := size - c.seen
	if c.r.selector.countsValues != noValues { // its text becomes a label value
		each *= histogramLabel
	}
	if c.err = c.r.e.take(sumOf(0, each, c.points*max(c.r.selector.copies, 1))); c.err == nil {
		c.seen = size
	}
}

// At implements chunkenc.Iterator.
func (c *countingIterator) At() (int64, float64) {
	t, v := c.Iterator.At()
	if c.r == nil || c.r.values == nil || c.err != nil {
		return t, v
	}
	bits := math.Float64bits(v)
	if _, ok := c.r.values[bits]; !ok {
		c.r.values[bits] = struct{}{}
		c.err = c.r.e.take(c.r.rowBytes())
	}
	return t, v
}

func (c *countingIterator) Next() chunkenc.ValueType {
	if c.err != nil {
		return chunkenc.ValNone
	}
	return c.Iterator.Next()
}

func (c *countingIterator) Seek(t int64) chunkenc.ValueType {
	if c.err != nil {
		return chunkenc.ValNone
	}
	return c.Iterator.Seek(t)
}

func (c *countingIterator) AtHistogram(h *histogram.Histogram) (int64, *histogram.Histogram) {
	t, h := c.Iterator.AtHistogram(h)
	c.histogram(histogramBytes(len(h.PositiveSpans)+len(h.NegativeSpans), len(h.PositiveBuckets)+len(h.NegativeBuckets)+len(h.CustomValues)))
	return t, h
}

func (c *countingIterator) AtFloatHistogram(h *histogram.FloatHistogram) (int64, *histogram.FloatHistogram) {
	t, h := c.Iterator.AtFloatHistogram(h)
	c.histogram(histogramBytes(len(h.PositiveSpans)+len(h.NegativeSpans), len(h.PositiveBuckets)+len(h.NegativeBuckets)+len(h.CustomValues)))
	return t, h
}

// histogramBytes returns the approximate memory of a native histogram.
func histogramBytes(spans, buckets int) int64 { return 200 + int64(spans+buckets)*8 }

func (c *countingIterator) Err() error {
	if c.err != nil {
		return c.err
	}
	return c.Iterator.Err()
}
