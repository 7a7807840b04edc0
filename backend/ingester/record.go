package ingester

import (
	"errors"
	"fmt"
	"math"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/tsdb/encoding"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// recordWrite is the one kind of record: what a write request added. The bytes
// are described in docs/format/wal.md.
const recordWrite = 1

const (
	histogramInt   = 1
	histogramFloat = 2
)

// writeRecord is a write request on its way into the log.
type writeRecord struct {
	batch  *series.Batch
	series []*memSeries // of batch.Entries; nil where the series was refused
	newest int64        // time of the newest sample
	seals  *sealLog
}

// AppendTo implements wal.Record. It runs under the log's lock.
func (w *writeRecord) AppendTo(dst []byte, segment int) []byte {
	buf := encoding.Encbuf{B: dst}
	buf.PutByte(recordWrite)
	buf.PutUvarintStr(string(w.batch.Tenant))
	w.putSeries(&buf, segment)
	w.putFloats(&buf)
	w.putHistograms(&buf)
	buf.PutUvarint(len(w.batch.Metadata))
	for _, m := range w.batch.Metadata {
		buf.PutUvarintStr(m.Metric)
		buf.PutUvarintStr(string(m.Type))
		buf.PutUvarintStr(m.Unit)
		buf.PutUvarintStr(m.Help)
	}
	return buf.B
}

// mustLog reports whether the labels of s belong into the next record.
func (s *memSeries) mustLog(segment int) bool {
	return s.loggedIn != int32(segment) || s.loggedTimes < 2
}

// Appended implements wal.Record.
func (w *writeRecord) Appended(segment int) {
	w.seals.note(segment, w.newest)
	const counted = 1 << 30 // twice in one record, labels count once: they are lost together
	for _, s := range w.series {
		if s == nil || s.loggedTimes&counted != 0 {
			continue
		}
		if s.loggedIn != int32(segment) {
			s.loggedIn, s.loggedTimes = int32(segment), 0
		}
		s.loggedTimes = min(s.loggedTimes+1, 2) | counted
	}
	for _, s := range w.series {
		if s != nil {
			s.loggedTimes &^= counted
		}
	}
}

func (w *writeRecord) putSeries(buf *encoding.Encbuf, segment int) {
	n := 0
	for _, s := range w.series {
		if s != nil && s.mustLog(segment) {
			n++
		}
	}
	buf.PutUvarint(n)
	if n == 0 {
		return
	}
	for _, s := range w.series {
		if s == nil || !s.mustLog(segment) {
			continue
		}
		buf.PutUvarint64(s.ref)
		buf.PutUvarint(s.labels.Len())
		s.labels.Range(func(l labels.Label) {
			buf.PutUvarintStr(l.Name)
			buf.PutUvarintStr(l.Value)
		})
	}
}

func (w *writeRecord) putFloats(buf *encoding.Encbuf) {
	n := 0
	for i, s := range w.series {
		if s == nil {
			continue
		}
		for j := range w.batch.Entries[i].Samples {
			if !w.batch.Entries[i].Samples[j].IsHistogram() {
				n++
			}
		}
	}
	buf.PutUvarint(n)
	ref, t := uint64(0), int64(0)
	for i, s := range w.series {
		if s == nil {
			continue
		}
		for j := range w.batch.Entries[i].Samples {
			smp := &w.batch.Entries[i].Samples[j]
			if smp.IsHistogram() {
				continue
			}
			buf.PutVarint64(int64(s.ref - ref))
			buf.PutVarint64(smp.T - t)
			buf.PutBE64(math.Float64bits(smp.V))
			ref, t = s.ref, smp.T
		}
	}
}

func (w *writeRecord) putHistograms(buf *encoding.Encbuf) {
	n := 0
	for i, s := range w.series {
		if s == nil {
			continue
		}
		for j := range w.batch.Entries[i].Samples {
			if w.batch.Entries[i].Samples[j].IsHistogram() {
				n++
			}
		}
	}
	buf.PutUvarint(n)
	if n == 0 {
		return
	}
	for i, s := range w.series {
		if s == nil {
			continue
		}
		for j := range w.batch.Entries[i].Samples {
			smp := &w.batch.Entries[i].Samples[j]
			switch {
			case smp.H != nil:
				buf.PutUvarint64(s.ref)
				buf.PutVarint64(smp.T)
				putHistogram(buf, smp.H)
			case smp.FH != nil:
				buf.PutUvarint64(s.ref)
				buf.PutVarint64(smp.T)
				putFloatHistogram(buf, smp.FH)
			}
		}
	}
}

func putHistogram(buf *encoding.Encbuf, h *histogram.Histogram) {
	buf.PutByte(histogramInt)
	buf.PutByte(byte(h.CounterResetHint))
	buf.PutVarint64(int64(h.Schema))
	buf.PutBE64(math.Float64bits(h.ZeroThreshold))
	buf.PutBE64(math.Float64bits(h.Sum))
	buf.PutUvarint64(h.Count)
	buf.PutUvarint64(h.ZeroCount)
	putSpans(buf, h.PositiveSpans)
	putSpans(buf, h.NegativeSpans)
	putDeltas(buf, h.PositiveBuckets)
	putDeltas(buf, h.NegativeBuckets)
	putFloatSlice(buf, h.CustomValues)
}

func putFloatHistogram(buf *encoding.Encbuf, h *histogram.FloatHistogram) {
	buf.PutByte(histogramFloat)
	buf.PutByte(byte(h.CounterResetHint))
	buf.PutVarint64(int64(h.Schema))
	buf.PutBE64(math.Float64bits(h.ZeroThreshold))
	buf.PutBE64(math.Float64bits(h.Sum))
	buf.PutBE64(math.Float64bits(h.Count))
	buf.PutBE64(math.Float64bits(h.ZeroCount))
	putSpans(buf, h.PositiveSpans)
	putSpans(buf, h.NegativeSpans)
	putFloatSlice(buf, h.PositiveBuckets)
	putFloatSlice(buf, h.NegativeBuckets)
	putFloatSlice(buf, h.CustomValues)
}

func putSpans(buf *encoding.Encbuf, spans []histogram.Span) {
	buf.PutUvarint(len(spans))
	for _, s := range spans {
		buf.PutVarint64(int64(s.Offset))
		buf.PutUvarint32(s.Length)
	}
}

func putDeltas(buf *encoding.Encbuf, deltas []int64) {
	buf.PutUvarint(len(deltas))
	for _, d := range deltas {
		buf.PutVarint64(d)
	}
}

func putFloatSlice(buf *encoding.Encbuf, values []float64) {
	buf.PutUvarint(len(values))
	for _, v := range values {
		buf.PutBE64(math.Float64bits(v))
	}
}

// recordHandler takes a record apart as replay meets its parts.
type recordHandler interface {
	tenant(id tenant.ID) error
	series(ref uint64, ls labels.Labels) error
	sample(ref uint64, s series.Sample) error
	metadata(metric string, m metadata.Metadata) error
}

var errRecord = errors.New("record of the write-ahead log cannot be decoded")

// decodeRecord is the reverse of writeRecord.AppendTo.
func decodeRecord(rec []byte, h recordHandler) error {
	d := encoding.Decbuf{B: rec}
	if kind := d.Byte(); d.Err() != nil || kind != recordWrite {
		return fmt.Errorf("%w: kind %d is not known", errRecord, kind)
	}
	id, err := tenant.ParseID(string(d.UvarintBytes()))
	if d.Err() != nil || err != nil {
		return fmt.Errorf("%w: tenant: %w", errRecord, errors.Join(d.Err(), err))
	}
	if err := h.tenant(id); err != nil {
		return err
	}
	for _, part := range []func(*encoding.Decbuf, recordHandler) error{decodeSeries, decodeFloats, decodeHistograms, decodeMetadata} {
		if err := part(&d, h); err != nil {
			return err
		}
		if d.Err() != nil {
			return fmt.Errorf("%w: %w", errRecord, d.Err())
		}
	}
	if d.Len() != 0 {
		return fmt.Errorf("%w: %d bytes left over", errRecord, d.Len())
	}
	return nil
}

// count reads a number of items that take at least size bytes each.
func count(d *encoding.Decbuf, size int) int {
	n := d.Uvarint64()
	if d.Err() == nil && n > uint64(d.Len()/size) {
		d.E = fmt.Errorf("%d items do not fit into %d bytes", n, d.Len())
	}
	if d.Err() != nil {
		return 0
	}
	return int(n)
}

func decodeSeries(d *encoding.Decbuf, h recordHandler) error {
	b := labels.NewScratchBuilder(16)
	for n := count(d, 2); n > 0; n-- {
		ref := d.Uvarint64()
		b.Reset()
		for m := count(d, 2); m > 0; m-- {
			name := d.UvarintStr()
			b.Add(name, d.UvarintStr())
		}
		if d.Err() != nil {
			return nil //nolint:nilerr // decodeRecord looks at d.Err itself
		}
		if err := h.series(ref, b.Labels()); err != nil {
			return err
		}
	}
	return nil
}

func decodeFloats(d *encoding.Decbuf, h recordHandler) error {
	ref, t := uint64(0), int64(0)
	for n := count(d, 10); n > 0; n-- {
		ref += uint64(d.Varint64())
		t += d.Varint64()
		v := math.Float64frombits(d.Be64())
		if d.Err() != nil {
			return nil //nolint:nilerr // decodeRecord looks at d.Err itself
		}
		if err := h.sample(ref, series.Sample{T: t, V: v}); err != nil {
			return err
		}
	}
	return nil
}

func decodeHistograms(d *encoding.Decbuf, h recordHandler) error {
	for n := count(d, 20); n > 0; n-- {
		ref, t := d.Uvarint64(), d.Varint64()
		s := series.Sample{T: t}
		switch kind := d.Byte(); kind {
		case histogramInt:
			s.H = getHistogram(d)
		case histogramFloat:
			s.FH = getFloatHistogram(d)
		default:
			return fmt.Errorf("%w: histogram kind %d is not known", errRecord, kind)
		}
		if d.Err() != nil {
			return nil //nolint:nilerr // decodeRecord looks at d.Err itself
		}
		if err := h.sample(ref, s); err != nil {
			return err
		}
	}
	return nil
}

func getHistogram(d *encoding.Decbuf) *histogram.Histogram {
	h := &histogram.Histogram{CounterResetHint: histogram.CounterResetHint(d.Byte()), Schema: int32(d.Varint64())}
	h.ZeroThreshold = math.Float64frombits(d.Be64())
	h.Sum = math.Float64frombits(d.Be64())
	h.Count, h.ZeroCount = d.Uvarint64(), d.Uvarint64()
	h.PositiveSpans, h.NegativeSpans = getSpans(d), getSpans(d)
	h.PositiveBuckets, h.NegativeBuckets = getDeltas(d), getDeltas(d)
	h.CustomValues = getFloatSlice(d)
	return h
}

func getFloatHistogram(d *encoding.Decbuf) *histogram.FloatHistogram {
	h := &histogram.FloatHistogram{CounterResetHint: histogram.CounterResetHint(d.Byte()), Schema: int32(d.Varint64())}
	h.ZeroThreshold = math.Float64frombits(d.Be64())
	h.Sum = math.Float64frombits(d.Be64())
	h.Count = math.Float64frombits(d.Be64())
	h.ZeroCount = math.Float64frombits(d.Be64())
	h.PositiveSpans, h.NegativeSpans = getSpans(d), getSpans(d)
	h.PositiveBuckets, h.NegativeBuckets = getFloatSlice(d), getFloatSlice(d)
	h.CustomValues = getFloatSlice(d)
	return h
}

func getSpans(d *encoding.Decbuf) []histogram.Span {
	n := count(d, 2)
	if n == 0 {
		return nil
	}
	out := make([]histogram.Span, n)
	for i := range out {
		out[i] = histogram.Span{Offset: int32(d.Varint64()), Length: d.Uvarint32()}
	}
	return out
}

func getDeltas(d *encoding.Decbuf) []int64 {
	n := count(d, 1)
	if n == 0 {
		return nil
	}
	out := make([]int64, n)
	for i := range out {
		out[i] = d.Varint64()
	}
	return out
}

func getFloatSlice(d *encoding.Decbuf) []float64 {
	n := count(d, 8)
	if n == 0 {
		return nil
	}
	out := make([]float64, n)
	for i := range out {
		out[i] = math.Float64frombits(d.Be64())
	}
	return out
}

func decodeMetadata(d *encoding.Decbuf, h recordHandler) error {
	for n := count(d, 4); n > 0; n-- {
		metric := string(d.UvarintBytes())
		m := metadata.Metadata{}
		m.Type = metricType(string(d.UvarintBytes()))
		m.Unit = string(d.UvarintBytes())
		m.Help = string(d.UvarintBytes())
		if d.Err() != nil {
			return nil //nolint:nilerr // decodeRecord looks at d.Err itself
		}
		if err := h.metadata(metric, m); err != nil {
			return err
		}
	}
	return nil
}
