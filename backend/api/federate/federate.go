// Package federate selects the current samples of series and writes them in the formats in which
// Prometheus scrapes targets: the endpoint /federate. It selects and writes the same as
// web/federate.go of Prometheus 3.16, whose handler is not exported, but without external labels: a
// tenant has none.
package federate

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/backend/memory"
)

// Sample is the newest sample of a series.
type Sample struct {
	Labels labels.Labels
	T      int64 // Unix milliseconds
	V      float64
	H      *histogram.FloatHistogram // nil: the sample is V
}

// name returns the name of the sample's metric.
func (s *Sample) name() string { return s.Labels.Get(model.MetricNameLabel) }

// Request describes the samples that Select reads.
type Request struct {
	Sets       [][]*labels.Matcher // a series must match at least one
	Start, End int64               // of the samples, inclusive, in Unix milliseconds
}

// Select returns the newest sample of each series, sorted by metric name. It leaves out series
// whose newest sample is a staleness marker, and series without a metric name: the formats have
// neither. It charges the samples to the memory holding in ctx. Its errors are those of the holding
// and of the querier.
func Select(ctx context.Context, q storage.Querier, req Request) ([]Sample, error) {
	hints := &storage.SelectHints{Start: req.Start, End: req.End}
	sets := make([]storage.SeriesSet, 0, len(req.Sets))
	for _, matchers := range req.Sets {
		sets = append(sets, q.Select(ctx, true, hints, matchers...))
	}
	all := storage.NewMergeSeriesSet(sets, 0, storage.ChainedSeriesMerge)
	var (
		out  []Sample
		it   chunkenc.Iterator
		held = memory.FromContext(ctx)
	)
	for all.Next() {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("read the current samples: %w", err)
		}
		series := all.At()
		it = series.Iterator(it)
		s := Sample{Labels: series.Labels()}
		ok, err := s.read(it)
		if err != nil {
			return nil, fmt.Errorf("read the current sample of a series: %w", err)
		}
		if !ok || s.name() == "" {
			continue
		}
		if err := held.Take(s.bytes()); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	if err := all.Err(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(out, func(a, b Sample) int { return cmp.Compare(a.name(), b.name()) })
	return out, nil
}

// read sets the sample to the last one of the iterator. It returns false if there is none,
// or if it is a staleness marker.
func (s *Sample) read(it chunkenc.Iterator) (bool, error) {
	last := chunkenc.ValNone
	h := &histogram.FloatHistogram{} // a copy: the iterator is used again
	for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
		if last = kind; kind == chunkenc.ValFloat {
			s.T, s.V = it.At()
			continue
		}
		s.T, h = it.AtFloatHistogram(h)
	}
	if err := it.Err(); err != nil || last == chunkenc.ValNone {
		return false, err
	}
	if last == chunkenc.ValFloat {
		return !value.IsStaleNaN(s.V), nil
	}
	s.H, s.V = h, 0
	return !value.IsStaleNaN(h.Sum), nil
}

// Memory in bytes of a sample in a slice that grows by doubling, of a bucket of a native histogram,
// of a span of buckets, and of the histogram itself.
const (
	sampleBytes = 160
	bucketBytes = 8
	spanBytes   = 8
	histBytes   = 300
)

// bytes returns the memory of the sample without its labels, which the querier charges.
func (s *Sample) bytes() int64 {
	n := int64(sampleBytes)
	if s.H == nil {
		return n
	}
	n += histBytes + int64(len(s.H.PositiveBuckets)+len(s.H.NegativeBuckets)+len(s.H.CustomValues))*bucketBytes
	return n + int64(len(s.H.PositiveSpans)+len(s.H.NegativeSpans))*spanBytes
}
