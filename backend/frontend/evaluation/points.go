package evaluation

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/tsdb/encoding"
	"github.com/prometheus/prometheus/tsdb/record"
)

// ErrDamaged is returned for bytes that are not an encoded series.
var ErrDamaged = errors.New("encoded points are damaged")

// AppendSeries appends a series: its labels, and for each point the number of steps since the
// previous point, and the value. The first point is counted from one step before start (Unix
// milliseconds). The time of each point must be start plus a multiple of step.
func AppendSeries(b *encoding.Encbuf, s *promql.Series, start, step int64) {
	b.PutUvarint(s.Metric.Len())
	s.Metric.Range(func(l labels.Label) {
		b.PutUvarintStr(l.Name)
		b.PutUvarintStr(l.Value)
	})
	b.PutUvarint(len(s.Floats))
	last := start - step
	for _, p := range s.Floats {
		b.PutUvarint64(uint64((p.T - last) / step))
		last = p.T
	}
	for _, p := range s.Floats {
		b.B = binary.LittleEndian.AppendUint64(b.B, math.Float64bits(p.F))
	}
	b.PutUvarint(len(s.Histograms))
	last = start - step
	for _, p := range s.Histograms {
		b.PutUvarint64(uint64((p.T - last) / step))
		last = p.T
		record.EncodeFloatHistogram(b, p.H)
	}
}

// ReadSeries reads a series that AppendSeries wrote. After damage, d.Err returns an error.
func ReadSeries(d *encoding.Decbuf, b *labels.ScratchBuilder, start, step int64) promql.Series {
	b.Reset()
	for n := d.Uvarint(); n > 0 && d.Err() == nil; n-- {
		b.Add(d.UvarintStr(), d.UvarintStr())
	}
	s := promql.Series{Metric: b.Labels()}
	n := d.Uvarint()
	if n < 0 || n > d.Len() { // a point has at least nine bytes
		d.E = ErrDamaged
		return s
	}
	if n > 0 {
		s.Floats = make([]promql.FPoint, n)
	}
	t := start - step
	for i := range s.Floats {
		t += int64(d.Uvarint64()) * step
		s.Floats[i].T = t
	}
	values := Take(d, 8*n)
	for i := range values {
		if i%8 == 0 {
			s.Floats[i/8].F = math.Float64frombits(binary.LittleEndian.Uint64(values[i:]))
		}
	}
	t = start - step
	for n := d.Uvarint(); n > 0 && d.Err() == nil; n-- {
		t += int64(d.Uvarint64()) * step
		h := &histogram.FloatHistogram{}
		record.DecodeFloatHistogram(d, h)
		s.Histograms = append(s.Histograms, promql.HPoint{T: t, H: h})
	}
	return s
}

// Take removes and returns the next n bytes. If there are fewer, it returns nil and sets d.E.
func Take(d *encoding.Decbuf, n int) []byte {
	if d.Err() != nil || n < 0 || d.Len() < n {
		d.E = ErrDamaged
		return nil
	}
	out := d.B[:n]
	d.B = d.B[n:]
	return out
}

// ReadAll decodes count series. The error wraps ErrDamaged if data is not exactly count encoded series.
func ReadAll(data []byte, count int, start, step int64) (promql.Matrix, error) {
	d := encoding.Decbuf{B: data}
	b := labels.NewScratchBuilder(16)
	var m promql.Matrix
	for ; count > 0 && d.Err() == nil; count-- {
		m = append(m, ReadSeries(&d, &b, start, step))
	}
	switch {
	case d.Err() != nil:
		return nil, fmt.Errorf("%w: %w", ErrDamaged, d.Err())
	case d.Len() != 0:
		return nil, fmt.Errorf("%w: %d bytes are left", ErrDamaged, d.Len())
	}
	return m, nil
}
