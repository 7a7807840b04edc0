package frontend

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/tsdb/encoding"
	"github.com/prometheus/prometheus/tsdb/record"

	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/series"
)

// entry is a value of the cache: the answer of a part of a query for a range of steps,
// and what it depends on.
type entry struct {
	key       string
	ingesters []series.IngesterVersion
	store     series.StoreVersion
	stored    time.Time   // to the millisecond
	steps     split.Range // of the points; Unix milliseconds, inclusive
	cost      cost
	notes     []note
	points    promql.Matrix
}

// cost is what the evaluation of a part read; limits are compared with it when the answer
// is used again.
type cost struct {
	series  int64 // the most that one selector selected
	samples int64 // the most that were held at the same time
	read    int64 // samples read in all
}

// and returns the cost of two ranges of steps.
func (c cost) and(o cost) cost {
	return cost{series: max(c.series, o.series), samples: max(c.samples, o.samples), read: c.read + o.read}
}

// entryFormat is the first byte of an encoded entry.
const entryFormat = 1

// errEntry is returned for a value that is not an entry.
var errEntry = errors.New("value of the results cache is damaged")

// encode returns the entry as bytes, compressed.
func (e *entry) encode(step int64) []byte {
	b := encoding.Encbuf{}
	b.PutUvarintStr(e.key)
	b.PutUvarint(len(e.ingesters))
	for _, v := range e.ingesters {
		b.PutUvarintStr(v.Instance)
		b.PutBE64(v.Epoch)
		b.PutUvarint64(v.Changes)
	}
	b.B = append(b.B, e.store.Deletions[:]...)
	b.PutUvarint(len(e.store.Days))
	for _, d := range e.store.Days {
		b.PutVarint64(d.Day)
		b.B = append(b.B, d.Digest[:]...)
	}
	b.PutVarint64(e.stored.UnixMilli())
	b.PutVarint64(e.steps.Start)
	b.PutVarint64(e.steps.End)
	b.PutVarint64(e.cost.series)
	b.PutVarint64(e.cost.samples)
	b.PutVarint64(e.cost.read)
	b.PutUvarint(len(e.notes))
	for _, n := range e.notes {
		b.PutUvarintStr(n.raw)
		b.PutUvarintStr(n.placed)
		b.PutByte(boolByte(n.info))
	}
	b.PutUvarint(len(e.points))
	for i := range e.points {
		e.encodeSeries(&b, &e.points[i], step)
	}
	out := make([]byte, 1+snappy.MaxEncodedLen(b.Len()))
	out[0] = entryFormat
	return slices.Clone(out[:1+len(snappy.Encode(out[1:], b.Get()))]) // without the spare capacity, which a cache would keep
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// encodeSeries appends a series: its labels, and its points as the number of steps since
// the last point, and the value.
func (e *entry) encodeSeries(b *encoding.Encbuf, s *promql.Series, step int64) {
	b.PutUvarint(s.Metric.Len())
	s.Metric.Range(func(l labels.Label) {
		b.PutUvarintStr(l.Name)
		b.PutUvarintStr(l.Value)
	})
	b.PutUvarint(len(s.Floats))
	last := e.steps.Start - step
	for _, p := range s.Floats {
		b.PutUvarint64(uint64((p.T - last) / step))
		last = p.T
	}
	for _, p := range s.Floats {
		b.B = binary.LittleEndian.AppendUint64(b.B, math.Float64bits(p.F))
	}
	b.PutUvarint(len(s.Histograms))
	last = e.steps.Start - step
	for _, p := range s.Histograms {
		b.PutUvarint64(uint64((p.T - last) / step))
		last = p.T
		record.EncodeFloatHistogram(b, p.H)
	}
}

// decodedBytes returns the memory that decoding a value needs.
func decodedBytes(value []byte) int64 {
	if len(value) == 0 {
		return 0
	}
	n, err := snappy.DecodedLen(value[1:])
	if err != nil {
		return 0
	}
	return 4 * int64(n) // the text, and points of twice its size with their slices
}

// decodeEntry decodes an entry of a key. It returns errEntry for anything else.
func decodeEntry(key string, value []byte, step int64) (*entry, error) {
	if len(value) == 0 || value[0] != entryFormat {
		return nil, errEntry
	}
	raw, err := snappy.Decode(nil, value[1:])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errEntry, err)
	}
	d := encoding.Decbuf{B: raw}
	e := &entry{key: d.UvarintStr()}
	if e.key != key {
		return nil, errEntry
	}
	for n := d.Uvarint(); n > 0 && d.Err() == nil; n-- {
		e.ingesters = append(e.ingesters, series.IngesterVersion{Instance: d.UvarintStr(), Epoch: d.Be64(), Changes: d.Uvarint64()})
	}
	copy(e.store.Deletions[:], take(&d, len(e.store.Deletions)))
	for n := d.Uvarint(); n > 0 && d.Err() == nil; n-- {
		day := series.DayVersion{Day: d.Varint64()}
		copy(day.Digest[:], take(&d, len(day.Digest)))
		e.store.Days = append(e.store.Days, day)
	}
	e.stored = time.UnixMilli(d.Varint64())
	e.steps = split.Range{Start: d.Varint64(), End: d.Varint64()}
	e.cost = cost{series: d.Varint64(), samples: d.Varint64(), read: d.Varint64()}
	for n := d.Uvarint(); n > 0 && d.Err() == nil; n-- {
		e.notes = append(e.notes, note{raw: d.UvarintStr(), placed: d.UvarintStr(), info: d.Byte() == 1})
	}
	b := labels.NewScratchBuilder(16)
	for n := d.Uvarint(); n > 0 && d.Err() == nil; n-- {
		e.points = append(e.points, decodeSeries(&d, &b, e.steps.Start, step))
	}
	if d.Err() != nil || d.Len() != 0 {
		return nil, errEntry
	}
	return e, nil
}

// take returns the next n bytes.
func take(d *encoding.Decbuf, n int) []byte {
	if d.Err() != nil || n < 0 || d.Len() < n {
		d.E = errEntry
		return nil
	}
	out := d.B[:n]
	d.B = d.B[n:]
	return out
}

func decodeSeries(d *encoding.Decbuf, b *labels.ScratchBuilder, start, step int64) promql.Series {
	b.Reset()
	for n := d.Uvarint(); n > 0 && d.Err() == nil; n-- {
		b.Add(d.UvarintStr(), d.UvarintStr())
	}
	s := promql.Series{Metric: b.Labels()}
	n := d.Uvarint()
	if n < 0 || n > d.Len() { // a point has nine bytes at least
		d.E = errEntry
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
	values := take(d, 8*n)
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
