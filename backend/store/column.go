package store

import (
	"fmt"

	"github.com/palliumhq/pallium/backend/column"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/series"
)

// frame is a compressed table frame of a selection. It is decompressed when one of
// its series is read, and again if the cache does not have the result at the next read.
type frame struct {
	s     *Store
	key   blockKey
	block []byte
	day   int64
}

type tableEntry struct {
	table *column.Table
	bytes int64
}

func (f *frame) table() (*column.Table, error) {
	if t, ok := f.s.tables.get(f.key); ok {
		return t.table, nil
	}
	t, err := f.s.decoder.Table(f.block, f.day)
	if err != nil {
		return nil, fmt.Errorf("object %s: table frame at %d: %w", f.key.object, f.key.offset, err)
	}
	f.s.tables.put(f.key, tableEntry{t, pack.TableBytes(f.block)})
	return t, nil
}

// frameColumn is the floats of one series of a frame, decoded when they are read.
type frameColumn struct {
	frame *frame
	i     int    // number of the series in the frame
	times []byte // block of the timestamp column; nil if none is needed
	n     int    // number of samples according to the page
}

// AppendTo implements series.Column.
func (c *frameColumn) AppendTo(ts []int64, vs []float64) ([]int64, []float64, error) {
	before := len(ts)
	chunks, err := c.frame.chunks(c.i, c.times, 0, 0)
	if err != nil {
		return ts, vs, err
	}
	for i := range chunks {
		if chunks[i].Column == nil {
			return ts, vs, fmt.Errorf("object %s: table frame at %d: %w: series %d has a histogram, but its page lists floats only",
				c.frame.key.object, c.frame.key.offset, pack.ErrCorrupt, c.i)
		}
		// The number is compared with the page's before anything is decoded: a few
		// corrupt bytes could encode a day of samples.
		if got := chunks[i].Samples; got > c.n {
			return ts, vs, fmt.Errorf("object %s: table frame at %d: %w: series %d has %d samples, but its page lists %d", c.frame.key.object,
				c.frame.key.offset, pack.ErrCorrupt, c.i, got, c.n)
		}
		if ts, vs, err = chunks[i].Column.AppendTo(ts, vs); err != nil {
			return ts, vs, fmt.Errorf("object %s: table frame at %d: %w", c.frame.key.object, c.frame.key.offset, err)
		}
	}
	if got := len(ts) - before; got != c.n {
		return ts, vs, fmt.Errorf("object %s: table frame at %d: %w: series %d has %d samples, but its page lists %d", c.frame.key.object,
			c.frame.key.offset, pack.ErrCorrupt, c.i, got, c.n)
	}
	return ts, vs, nil
}

// chunks reads series i of the frame: a column for its floats, and its
// histograms.
func (f *frame) chunks(i int, times []byte, mint, maxt int64) ([]series.Chunk, error) {
	t, err := f.table()
	if err != nil {
		return nil, err
	}
	if times != nil {
		if times, err = f.s.decoder.Times(times); err != nil {
			return nil, fmt.Errorf("object %s: timestamp column: %w", f.key.object, err)
		}
	}
	chunks, err := pack.AppendTableChunks(nil, t, i, times, mint, maxt)
	if err != nil {
		return nil, fmt.Errorf("object %s: table frame at %d: %w", f.key.object, f.key.offset, err)
	}
	return chunks, nil
}
