package compactor

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/backend/column"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/series"
)

// input is one sorted run of a tenant's day: a section of a pack.
type input struct {
	name string
	scan *pack.Scanner
	// gone returns the intervals of a series whose samples were deleted after this run was
	// written.
	gone func(labels.Labels) []series.Interval
}

// merger merges sorted runs into one, with each series once and each of its timestamps
// once. It has one page and one frame of each run in memory.
type merger struct {
	runs inputs
	err  error

	labels labels.Labels
	chunks []series.Chunk // of the current series, from all runs
	out    column.Series
	floats floatMerge
}

// inputs is a heap of runs, ordered by their current series.
type inputs []*input

func (h inputs) Len() int      { return len(h) }
func (h inputs) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h inputs) Less(i, j int) bool {
	return compareSeries(h[i].scan.Metric(), h[i].scan.Labels(), h[j].scan.Metric(), h[j].scan.Labels()) < 0
}
func (h *inputs) Push(x any) { *h = append(*h, x.(*input)) }
func (h *inputs) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}

func compareSeries(am string, a labels.Labels, bm string, b labels.Labels) int {
	return cmp.Or(strings.Compare(am, bm), labels.Compare(a, b))
}

// newMerger returns a merger of the runs, each advanced to its first series.
func newMerger(ctx context.Context, runs []*input) *merger {
	m := &merger{}
	for _, r := range runs {
		if r.scan.Next(ctx) {
			m.runs = append(m.runs, r)
		} else if err := r.scan.Err(); err != nil {
			m.err = fmt.Errorf("%s: %w", r.name, err)
			return m
		}
	}
	heap.Init(&m.runs)
	return m
}

// next advances to the next series with samples. It returns false at the end and after an
// error.
func (m *merger) next(ctx context.Context) bool {
	for m.err == nil && len(m.runs) > 0 {
		m.labels = m.runs[0].scan.Labels()
		m.chunks = m.chunks[:0]
		for m.err == nil && len(m.runs) > 0 && labels.Equal(m.runs[0].scan.Labels(), m.labels) {
			m.err = m.take(ctx, m.runs[0])
		}
		if m.err == nil {
			m.err = m.join()
		}
		if m.err != nil {
			m.err = fmt.Errorf("series %s: %w", m.labels, m.err)
			return false
		}
		if len(m.out.T) > 0 || len(m.out.Histograms) > 0 {
			return true
		}
	}
	return false
}

// take adds the chunks of the current series in the first run, and advances the run.
func (m *merger) take(ctx context.Context, r *input) error {
	chunks := r.scan.Chunks()
	if gone := r.gone(m.labels); len(gone) > 0 {
		var err error
		if chunks, err = series.Without(chunks, gone); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	for i := range chunks {
		m.add(&chunks[i])
	}
	if r.scan.Next(ctx) {
		heap.Fix(&m.runs, 0)
		return nil
	}
	if err := r.scan.Err(); err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	heap.Pop(&m.runs)
	return nil
}

// add adds a chunk, unless it is a byte-for-byte copy of another replica's chunk. With
// replicas, most chunks are such copies; dropped here, they need not be sorted. Only the
// last 1000 chunks are compared; join drops the remaining copies.
func (m *merger) add(c *series.Chunk) {
	const searched = 1000
	for i := len(m.chunks) - 1; i >= max(0, len(m.chunks)-searched); i-- {
		if o := &m.chunks[i]; o.MinTime == c.MinTime && o.MaxTime == c.MaxTime && o.Column == nil && c.Column == nil &&
			o.Encoding == c.Encoding && bytes.Equal(o.Data, c.Data) {
			return
		}
	}
	m.chunks = append(m.chunks, *c)
}

// join merges the chunks of the current series into out. It drops byte-for-byte copies,
// and merges the remaining overlapping chunks sample by sample.
func (m *merger) join() error {
	m.out.T, m.out.V, m.out.Histograms = m.out.T[:0], m.out.V[:0], m.out.Histograms[:0]
	chunks := series.DropCopies(m.chunks)
	for len(chunks) > 0 {
		n, end := 1, chunks[0].MaxTime
		for n < len(chunks) && chunks[n].MinTime <= end {
			end = max(end, chunks[n].MaxTime)
			n++
		}
		if err := m.joinOverlapping(chunks[:n]); err != nil {
			return err
		}
		chunks = chunks[n:]
	}
	return nil
}

// joinOverlapping merges a group of chunks that overlap no others and appends them to out.
func (m *merger) joinOverlapping(chunks []series.Chunk) error {
	hasFloats, hasHistograms := false, false
	for i := range chunks {
		isFloat := chunks[i].Column != nil || chunks[i].Encoding == chunkenc.EncXOR
		hasFloats, hasHistograms = hasFloats || isFloat, hasHistograms || !isFloat
	}
	var err error
	switch {
	case !hasHistograms:
		m.out.T, m.out.V, err = m.floats.append(m.out.T, m.out.V, chunks)
		return err
	case len(chunks) == 1:
		m.out.Histograms = append(m.out.Histograms, chunks[0])
		return nil
	}
	merged, err := series.EncodeAll(series.Iterator(chunks, nil))
	if err != nil {
		return err
	}
	for i := range merged {
		if merged[i].Encoding != chunkenc.EncXOR {
			m.out.Histograms = append(m.out.Histograms, merged[i])
			continue
		}
		if m.out.T, m.out.V, err = m.floats.append(m.out.T, m.out.V, merged[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

// floatMerge merges chunks of floats. It reuses its buffers.
type floatMerge struct {
	t, mt []int64
	v, mv []float64
}

// append appends the merged samples of the chunks, which are later than those in ts.
func (f *floatMerge) append(ts []int64, vs []float64, chunks []series.Chunk) ([]int64, []float64, error) {
	base := len(ts)
	var err error
	for i := range chunks {
		if len(ts) == base {
			if ts, vs, err = decode(&chunks[i], ts, vs); err != nil {
				return nil, nil, err
			}
			continue
		}
		if f.t, f.v, err = decode(&chunks[i], f.t[:0], f.v[:0]); err != nil {
			return nil, nil, err
		}
		if len(f.t) > 0 && f.t[0] > ts[len(ts)-1] {
			ts, vs = append(ts, f.t...), append(vs, f.v...)
			continue
		}
		f.merge(ts[base:], vs[base:])
		ts, vs = append(ts[:base], f.mt...), append(vs[:base], f.mv...)
	}
	return ts, vs, nil
}

// merge merges (ts, vs) with (f.t, f.v) into (f.mt, f.mv).
func (f *floatMerge) merge(ts []int64, vs []float64) {
	f.mt, f.mv = f.mt[:0], f.mv[:0]
	i, j := 0, 0
	for i < len(ts) && j < len(f.t) {
		switch {
		case ts[i] < f.t[j]:
			f.mt, f.mv = append(f.mt, ts[i]), append(f.mv, vs[i])
			i++
		case ts[i] > f.t[j]:
			f.mt, f.mv = append(f.mt, f.t[j]), append(f.mv, f.v[j])
			j++
		default:
			v := vs[i]
			if math.Float64bits(v) != math.Float64bits(f.v[j]) && series.Wins(&series.Sample{V: f.v[j]}, &series.Sample{V: v}) {
				v = f.v[j]
			}
			f.mt, f.mv = append(f.mt, ts[i]), append(f.mv, v)
			i, j = i+1, j+1
		}
	}
	f.mt, f.mv = append(append(f.mt, ts[i:]...), f.t[j:]...), append(append(f.mv, vs[i:]...), f.v[j:]...)
}

// decode appends the samples of a chunk of floats, and checks their number and times
// against the chunk.
func decode(c *series.Chunk, ts []int64, vs []float64) ([]int64, []float64, error) {
	before := len(ts)
	var err error
	if c.Column != nil {
		ts, vs, err = c.Column.AppendTo(ts, vs)
	} else {
		ts, vs, err = column.AppendXOR(c.Data, ts, vs)
	}
	if err != nil {
		return nil, nil, err
	}
	got := ts[before:]
	if len(got) != c.Samples || len(got) == 0 || got[0] < c.MinTime || got[len(got)-1] > c.MaxTime || !slices.IsSorted(got) {
		return nil, nil, fmt.Errorf("%w: chunk does not have %d samples from %d to %d as listed", pack.ErrCorrupt, c.Samples, c.MinTime,
			c.MaxTime)
	}
	return ts, vs, nil
}
