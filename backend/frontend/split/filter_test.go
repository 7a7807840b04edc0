package split

import (
	"context"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
)

// sample is a chunks.Sample.
type sample struct {
	t int64
	f float64
	h *histogram.FloatHistogram
}

func (s sample) ST() int64                     { return 0 }
func (s sample) T() int64                      { return s.t }
func (s sample) F() float64                    { return s.f }
func (s sample) H() *histogram.Histogram       { return nil }
func (s sample) FH() *histogram.FloatHistogram { return s.h }
func (s sample) Copy() chunks.Sample           { return s }

// Type implements chunks.Sample.
func (s sample) Type() chunkenc.ValueType {
	if s.h != nil {
		return chunkenc.ValFloatHistogram
	}
	return chunkenc.ValFloat
}

// unhinted is a storage without counter reset hints, like one that merges samples of several
// sources.
type unhinted struct{ storage.Queryable }

// Querier implements storage.Queryable.
func (u unhinted) Querier(mint, maxt int64) (storage.Querier, error) {
	q, err := u.Queryable.Querier(mint, maxt)
	return unhintedQuerier{q}, err
}

type unhintedQuerier struct{ storage.Querier }

// Select implements storage.Querier.
func (q unhintedQuerier) Select(ctx context.Context, _ bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	return unhintedSet{q.Querier.Select(ctx, true, hints, ms...)}
}

type unhintedSet struct{ storage.SeriesSet }

// At implements storage.SeriesSet.
func (s unhintedSet) At() storage.Series {
	return copySamples(s.SeriesSet.At(), func(s sample) (sample, bool) {
		if s.h != nil {
			s.h.CounterResetHint = histogram.UnknownCounterReset
		}
		return s, true
	})
}

// keepSamples returns a series with the samples whose times keep accepts.
func keepSamples(s storage.Series, keep func(ts int64) bool) storage.Series {
	return copySamples(s, func(s sample) (sample, bool) { return s, keep(s.t) })
}

// copySamples returns a series with the samples that edit returns.
func copySamples(s storage.Series, edit func(sample) (sample, bool)) storage.Series {
	var kept []chunks.Sample
	for it := s.Iterator(nil); ; {
		var one sample
		switch it.Next() {
		case chunkenc.ValNone:
			return storage.NewListSeries(s.Labels(), kept)
		case chunkenc.ValFloat:
			one.t, one.f = it.At()
		default:
			one.t, one.h = it.AtFloatHistogram(nil)
		}
		if one, ok := edit(one); ok {
			kept = append(kept, one)
		}
	}
}
