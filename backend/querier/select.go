package querier

import (
	"context"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/palliumhq/pallium/backend/series"
)

type querier struct{ reader }

// Select implements storage.Querier.
func (q *querier) Select(ctx context.Context, _ bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	found, req, err := q.selectSeries(ctx, hints, matchers)
	if err != nil {
		return storage.ErrSeriesSet(q.q.clarify(ctx, err))
	}
	return &seriesSet{
		series:   found.Series,
		mint:     req.MinTime,
		maxt:     req.MaxTime,
		i:        -1,
		warnings: q.q.warnings(&req, found.Missing),
		reading:  newReading(ctx, hints, found.Series, req.MinTime, req.MaxTime),
	}
}

// seriesSet iterates over the series of a selection.
type seriesSet struct {
	series     []series.WithChunks
	mint, maxt int64
	i          int
	warnings   annotations.Annotations
	reading    *reading // nil: memory is not accounted for
}

func (s *seriesSet) Next() bool                        { s.i++; return s.i < len(s.series) }
func (s *seriesSet) Err() error                        { return nil }
func (s *seriesSet) Warnings() annotations.Annotations { return s.warnings }
func (s *seriesSet) At() storage.Series {
	return &oneSeries{WithChunks: &s.series[s.i], mint: s.mint, maxt: s.maxt, reading: s.reading}
}

type oneSeries struct {
	*series.WithChunks
	mint, maxt int64
	reading    *reading
}

func (s *oneSeries) Labels() labels.Labels { return s.WithChunks.Labels }

// Iterator implements storage.Series.
func (s *oneSeries) Iterator(reuse chunkenc.Iterator) chunkenc.Iterator {
	if s.reading == nil {
		return series.IteratorBetween(s.Chunks, s.mint, s.maxt, reuse)
	}
	if err := s.reading.next(s.Chunks); err != nil {
		return failedIterator(err)
	}
	return s.reading.iterator(series.IteratorBetween(s.Chunks, s.mint, s.maxt, plain(reuse)), s.Chunks)
}

type chunkQuerier struct{ reader }

// Select implements storage.ChunkQuerier.
func (q *chunkQuerier) Select(ctx context.Context, _ bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.ChunkSeriesSet {
	found, req, err := q.selectSeries(ctx, hints, matchers)
	if err != nil {
		return storage.ErrChunkSeriesSet(q.q.clarify(ctx, err))
	}
	return &chunkSeriesSet{seriesSet{series: found.Series, mint: req.MinTime, maxt: req.MaxTime, i: -1,
		warnings: q.q.warnings(&req, found.Missing)}}
}

type chunkSeriesSet struct{ seriesSet }

func (s *chunkSeriesSet) At() storage.ChunkSeries {
	return &oneChunkSeries{oneSeries{WithChunks: &s.series[s.i], mint: s.mint, maxt: s.maxt}} // no reading: chunks are streamed, not collected
}

type oneChunkSeries struct{ oneSeries }

// Iterator implements storage.ChunkSeries. Prometheus chunks within the range
// that do not overlap are returned unchanged; the others are re-encoded.
func (s *oneChunkSeries) Iterator(chunks.Iterator) chunks.Iterator {
	normal, err := series.Normalize(s.Chunks)
	if err != nil {
		return failedChunks{err}
	}
	metas := make([]chunks.Meta, 0, len(normal))
	for _, c := range normal {
		if !c.Overlaps(s.mint, s.maxt) {
			continue
		}
		parts, err := trimmed(c, s.mint, s.maxt)
		if err != nil {
			return failedChunks{err}
		}
		for _, p := range parts {
			chunk, err := chunkenc.FromData(p.Encoding, p.Data)
			if err != nil {
				return failedChunks{err}
			}
			metas = append(metas, chunks.Meta{MinTime: p.MinTime, MaxTime: p.MaxTime, Chunk: chunk})
		}
	}
	return storage.NewListChunkSeriesIterator(metas...)
}

// trimmed returns the samples of c within [mint, maxt] as Prometheus chunks.
func trimmed(c series.Chunk, mint, maxt int64) ([]series.Chunk, error) {
	if c.Column == nil && c.MinTime >= mint && c.MaxTime <= maxt {
		return []series.Chunk{c}, nil
	}
	return series.EncodeAll(series.IteratorBetween([]series.Chunk{c}, mint, maxt, nil))
}

// failedChunks is a chunk iterator without chunks whose Err returns err.
type failedChunks struct{ err error }

func (failedChunks) At() chunks.Meta { return chunks.Meta{} }
func (failedChunks) Next() bool      { return false }
func (f failedChunks) Err() error    { return f.err }
