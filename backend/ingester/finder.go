package ingester

import (
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/backend/series"
)

// maxLookups is how many numbers a finder may decode, which takes about 50 ms.
const maxLookups = 1 << 22

// finder finds existing samples in a series' chunks, for the samples of one request
// or of one batch of a replay. It continues from its position if timestamps ascend,
// as in a request that is sent again. Once the limit of decoded numbers is reached,
// duplicates are not detected, and use memory until their chunks are joined.
type finder struct {
	left int // numbers that may still be decoded

	s           *memSeries // series whose chunks the iterator reads; nil = none
	from, until int64      // range of times that the iterator can still reach
	it          chunkenc.Iterator
}

func newFinder() finder { return finder{left: maxLookups} }

// forget discards the iterator. It must be called when chunks are removed from the
// series or added, unless all added samples are newer than all others.
func (f *finder) forget() { f.s = nil }

// find returns the sample of a series at t, which must not be after the newest
// in-order sample. If there are several samples at t, it returns the one that wins.
// The caller holds s.mu.
func (f *finder) find(s *memSeries, t int64) (series.Sample, bool, error) {
	if (f.s != s || t < f.from || t > f.until) && !f.begin(s, t) {
		return series.Sample{}, false, nil
	}
	f.from = t
	return series.SeekTo(f.it, t)
}

// begin opens an iterator over the chunks of the sub-chunk that contains t. It
// returns false if no chunk contains t, or if there is too much to decode.
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

// lookupCost returns how many numbers a chunk may have: a float for each sample, or
// a bucket of a native histogram for each bit.
func lookupCost(c *series.Chunk) int {
	if c.Encoding == chunkenc.EncXOR {
		return c.Samples
	}
	return 8 * len(c.Data)
}
