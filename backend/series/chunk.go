package series

import (
	"fmt"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// Chunk is an encoded, immutable run of samples of one series: of a window or
// less in Prometheus' own chunk encodings, or of a day in a column.
type Chunk struct {
	// MinTime and MaxTime are the times of the first and last sample in Unix
	// milliseconds. For a column the range may be up to a minute wider at each
	// end.
	MinTime, MaxTime int64
	Samples          int
	Encoding         chunkenc.Encoding // EncNone if Column is set
	Data             []byte            // must not be modified
	Column           Column            // instead of Data
}

// Overlaps reports whether the chunk may contain samples in [mint, maxt].
func (c *Chunk) Overlaps(mint, maxt int64) bool { return c.MinTime <= maxt && c.MaxTime >= mint }

// WithChunks is a series and its chunks, as returned by ingesters and the
// store. Chunks are in any order and may overlap; Iterator merges them.
type WithChunks struct {
	Labels labels.Labels
	Chunks []Chunk
}

// ChunkBuilder encodes samples, given in ascending order of time, into chunks
// that are cut at sub-chunk boundaries, at a change of the sample type, at
// MaxChunkSamples and at MaxChunkBytes, and where the encoding of histograms
// needs a new chunk. The cuts depend only on the samples, so replicas cut at the
// same samples. The zero value is ready to use.
type ChunkBuilder struct {
	open     chunkenc.Chunk
	app      chunkenc.Appender
	min, max int64
	done     []Chunk
}

// Add appends a sample. Its timestamp must be greater than the timestamp of the
// previous sample. Add may modify the sample's histogram: the encoder adjusts its
// spans to the spans of the chunk.
func (b *ChunkBuilder) Add(s *Sample) error {
	switch {
	case s.H != nil:
		return b.addHistogram(s)
	case s.FH != nil:
		return b.addFloatHistogram(s)
	}
	return b.AddFloat(s.T, s.V)
}

// AddFloat is Add for a float. Nearly all samples take this path.
func (b *ChunkBuilder) AddFloat(t int64, v float64) error {
	if b.mustCut(t, chunkenc.EncXOR) {
		if err := b.begin(chunkenc.NewXORChunk(), t); err != nil {
			return err
		}
	}
	b.app.Append(0, t, v)
	b.max = t
	return nil
}

// mustCut reports whether a sample at t with encoding e needs a new chunk.
func (b *ChunkBuilder) mustCut(t int64, e chunkenc.Encoding) bool {
	return b.open == nil || t >= SubChunkStart(b.min)+SubChunkMillis ||
		b.open.Encoding() != e || b.open.NumSamples() >= MaxChunkSamples
}

// full reports whether the open chunk has reached MaxChunkBytes. AddFloat does
// not call it: floats reach MaxChunkSamples first.
func (b *ChunkBuilder) full() bool { return len(b.open.Bytes()) >= MaxChunkBytes }

func (b *ChunkBuilder) begin(c chunkenc.Chunk, t int64) error {
	b.Cut()
	app, err := c.Appender()
	if err != nil {
		return fmt.Errorf("start chunk: %w", err)
	}
	b.open, b.app, b.min, b.max = c, app, t, t
	return nil
}

func (b *ChunkBuilder) addHistogram(s *Sample) error {
	prev := b.app
	if b.mustCut(s.T, chunkenc.EncHistogram) || b.full() {
		if err := b.begin(chunkenc.NewHistogramChunk(), s.T); err != nil {
			return err
		}
	} else {
		prev = nil
	}
	c, recoded, app, err := b.app.AppendHistogram(prev, 0, s.T, s.H, false)
	return b.appended(s.T, c, recoded, app, err)
}

func (b *ChunkBuilder) addFloatHistogram(s *Sample) error {
	prev := b.app
	if b.mustCut(s.T, chunkenc.EncFloatHistogram) || b.full() {
		if err := b.begin(chunkenc.NewFloatHistogramChunk(), s.T); err != nil {
			return err
		}
	} else {
		prev = nil
	}
	c, recoded, app, err := b.app.AppendFloatHistogram(prev, 0, s.T, s.FH, false)
	return b.appended(s.T, c, recoded, app, err)
}

// appended updates the builder after a histogram appender has appended to the
// open chunk, re-encoded it with a new bucket layout, or started a new chunk.
func (b *ChunkBuilder) appended(t int64, c chunkenc.Chunk, recoded bool, app chunkenc.Appender, err error) error {
	if err != nil {
		return fmt.Errorf("append histogram: %w", err)
	}
	if c != nil {
		first := b.min
		if !recoded {
			b.Cut()
			first = t
		}
		b.open, b.app, b.min = c, app, first
	}
	b.max = t
	return nil
}

// Cut closes the open chunk, if there is one.
func (b *ChunkBuilder) Cut() {
	if b.open == nil {
		return
	}
	if n := b.open.NumSamples(); n > 0 {
		b.open.Compact()
		b.done = append(b.done, Chunk{MinTime: b.min, MaxTime: b.max, Samples: n, Encoding: b.open.Encoding(), Data: b.open.Bytes()})
	}
	b.open, b.app = nil, nil
}

// Open returns the start and the encoding of the open chunk.
func (b *ChunkBuilder) Open() (min int64, e chunkenc.Encoding, ok bool) {
	if b.open == nil {
		return 0, chunkenc.EncNone, false
	}
	return b.min, b.open.Encoding(), true
}

// OpenBytes returns the size in bytes of the open chunk; 0 without an open
// chunk.
func (b *ChunkBuilder) OpenBytes() int {
	if b.open == nil {
		return 0
	}
	return len(b.open.Bytes())
}

// OpenCap returns the capacity in bytes of the open chunk's buffer; 0 without
// an open chunk. It is called once for every series of a push.
func (b *ChunkBuilder) OpenCap() int {
	switch c := b.open.(type) {
	case nil:
		return 0
	case *chunkenc.XORChunk: // nearly all chunks, and the call is inlined
		return cap(c.Bytes())
	}
	return cap(b.open.Bytes())
}

// View returns the open chunk, which is valid until the next sample is added.
func (b *ChunkBuilder) View() (Chunk, bool) {
	if b.open == nil || b.open.NumSamples() == 0 {
		return Chunk{}, false
	}
	return Chunk{MinTime: b.min, MaxTime: b.max, Samples: b.open.NumSamples(), Encoding: b.open.Encoding(), Data: b.open.Bytes()}, true
}

// Snapshot returns a copy of the open chunk.
func (b *ChunkBuilder) Snapshot() (Chunk, bool) {
	c, ok := b.View()
	c.Data = append(make([]byte, 0, len(c.Data)), c.Data...)
	return c, ok
}

// Done returns the closed chunks.
func (b *ChunkBuilder) Done() []Chunk { return b.done }

// SetDone replaces the closed chunks.
func (b *ChunkBuilder) SetDone(done []Chunk) { b.done = done }

// Encode encodes samples that ascend in time.
func Encode(samples []Sample) ([]Chunk, error) {
	var b ChunkBuilder
	for i := range samples {
		if err := b.Add(&samples[i]); err != nil {
			return nil, err
		}
	}
	b.Cut()
	return b.done, nil
}

// Normalize returns chunks with the same samples in ascending order without
// overlaps. Chunks that already have these properties are returned unchanged.
func Normalize(chunks []Chunk) ([]Chunk, error) {
	chunks = DropCopies(chunks)
	if !overlapping(chunks) {
		return chunks, nil
	}
	return EncodeAll(Iterator(chunks, nil))
}

// EncodeAll encodes all samples of an iterator.
func EncodeAll(it chunkenc.Iterator) ([]Chunk, error) {
	var b ChunkBuilder
	var s Sample
	for vt := it.Next(); vt != chunkenc.ValNone; vt = it.Next() {
		if err := b.Add(sampleAt(it, vt, &s)); err != nil {
			return nil, err
		}
	}
	if err := it.Err(); err != nil {
		return nil, err
	}
	b.Cut()
	return b.done, nil
}

// sampleAt reads the iterator's current sample into s.
func sampleAt(it chunkenc.Iterator, vt chunkenc.ValueType, s *Sample) *Sample {
	*s = Sample{}
	switch vt {
	case chunkenc.ValHistogram:
		var h *histogram.Histogram
		s.T, h = it.AtHistogram(nil)
		s.H = h
	case chunkenc.ValFloatHistogram:
		var fh *histogram.FloatHistogram
		s.T, fh = it.AtFloatHistogram(nil)
		s.FH = fh
	default:
		s.T, s.V = it.At()
	}
	return s
}
