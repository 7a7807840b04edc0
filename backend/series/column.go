package series

import (
	"sort"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// Column has the floats of a chunk in the encoding of the long-term store,
// which is not one of Prometheus'. It is decoded as a whole when the chunk is
// read. Columns are compared with ==, so implementations must be pointers.
type Column interface {
	// AppendTo appends all samples, ascending in time. It is safe for
	// concurrent use.
	AppendTo(ts []int64, vs []float64) ([]int64, []float64, error)
}

// columnIterator iterates over the decoded floats of a column. It reuses its
// slices for the next column.
type columnIterator struct {
	ts  []int64
	vs  []float64
	i   int
	err error
}

func (c *columnIterator) reset(col Column) {
	c.ts, c.vs, c.err = col.AppendTo(c.ts[:0], c.vs[:0])
	c.i = -1
	if c.err != nil {
		c.ts = c.ts[:0]
	}
}

func (c *columnIterator) Next() chunkenc.ValueType {
	if c.i+1 >= len(c.ts) {
		c.i = len(c.ts)
		return chunkenc.ValNone
	}
	c.i++
	return chunkenc.ValFloat
}

func (c *columnIterator) Seek(t int64) chunkenc.ValueType {
	i := min(max(c.i, 0), len(c.ts))
	c.i = i + sort.Search(len(c.ts)-i, func(k int) bool { return c.ts[i+k] >= t })
	if c.i >= len(c.ts) {
		return chunkenc.ValNone
	}
	return chunkenc.ValFloat
}

func (c *columnIterator) At() (int64, float64) { return c.ts[c.i], c.vs[c.i] }
func (c *columnIterator) AtT() int64           { return c.ts[c.i] }
func (c *columnIterator) AtST() int64          { return 0 }
func (c *columnIterator) Err() error           { return c.err }

// AtHistogram and AtFloatHistogram are never called: a column has only floats,
// for which Next and Seek return ValFloat.
func (c *columnIterator) AtHistogram(*histogram.Histogram) (int64, *histogram.Histogram) {
	return c.AtT(), nil
}

func (c *columnIterator) AtFloatHistogram(*histogram.FloatHistogram) (int64, *histogram.FloatHistogram) {
	return c.AtT(), nil
}
