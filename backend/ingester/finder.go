package ingester

import (
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/backend/series"
)

// maxLookups is how many numbers a finder may decode: about 50 ms.
const maxLookups = 1 << 22

// finder finds what a series has at a time already, in its chunks: for the samples
// of one request, or of one batch of a replay. It goes on where it was when times
// ascend, as a sender that repeats a request has them. A sample whose chunks are
// not searched any more costs room until its chunks are joined, and nothing else.
type finder struct {
	left int // numbers that may still be decoded

	s           *memSeries // whose chunks the iterator reads; nil: none
	from, until int64      // times that it can still find
	it          chunkenc.Iterator
}

func newFinder() finder { return finder{left: maxLookups} }

// forget lets go of the iterator. It must be called when chunks are taken away
// from the series or added, but for samples newer than all others.
func (f *finder) forget() { f.s = nil }

// find returns the sample of a series at t, at or before the newest in order. With
// several the one that wins. The caller holds s.mu.
func (f *finder) find(s *memSeries, t int64) (series.Sample, bool, error) {
	if (f.s != s || t < f.from || t > f.until) && !f.begin(s, t) {
		return series.Sample{}, false, nil
	}
	f.from = t
	return series.SeekTo(f.it, t)
}

// begin reads the chunks of the sub-chunk's time that holds t. It reports false
// when they have nothing there, or too much to be decoded.
func (f *finder) begin(s *memSeries, t int64) bool {
	start := series.SubChunkStart(t)
	f.s, f.from, f.until = nil, t, min(start+series.SubChunkMillis-1, s.lastT)
	var chunks []series.Chunk
	cost, there := 0, false
	s.eachChunk(func(c *series.Chunk) {
		if c.Overlaps(t, f.until) {
			chunks = append(chunks, *c)
			cost += lookupCost(c)
			there = there || c.Overlaps(t, t)
		}
	})
	if !there || cost > f.left {
		return false
	}
	f.left -= cost
	f.s, f.it = s, series.IteratorBetween(chunks, t, f.until, nil)
	return true
}

// lookupCost is how many numbers a chunk may have: a float for each sample, and a
// bucket of a native histogram takes a bit at least.
func lookupCost(c *series.Chunk) int {
	if c.Encoding == chunkenc.EncXOR {
		return c.Samples
	}
	return 8 * len(c.Data)
}
