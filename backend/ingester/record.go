package ingester

import (
	"errors"
	"fmt"
	"math"

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
	times  span         // of the samples

	histograms bool // whether the batch has any

	reserved []reservation // of chunks, while the batch is logged and applied

	seals *sealLog
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
	w.seals.note(segment, w.times)
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
	id, err := tenant.ParseID(text(&d))
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

// text reads a string. Decbuf's own way panics at a length beyond an int64.
func text(d *encoding.Decbuf) string {
	n := count(d, 1)
	s := string(d.B[:n])
	d.B = d.B[n:]
	return s
}

// maxLabelBytes is what Prometheus' labels have room for; they panic above.
const maxLabelBytes = 1<<24 - 1

func decodeSeries(d *encoding.Decbuf, h recordHandler) error {
	b := labels.NewScratchBuilder(16)
	for n := count(d, 2); n > 0; n-- {
		ref := d.Uvarint64()
		b.Reset()
		for m := count(d, 2); m > 0; m-- {
			name, value := text(d), text(d)
			if n := max(len(name), len(value)); n > maxLabelBytes {
				return fmt.Errorf("%w: a label has %d bytes", errRecord, n)
			}
			b.Add(name, value)
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

func decodeMetadata(d *encoding.Decbuf, h recordHandler) error {
	for n := count(d, 4); n > 0; n-- {
		metric := text(d)
		m := metadata.Metadata{}
		m.Type = metricType(text(d))
		m.Unit = text(d)
		m.Help = text(d)
		if d.Err() != nil {
			return nil //nolint:nilerr // decodeRecord looks at d.Err itself
		}
		if err := h.metadata(metric, m); err != nil {
			return err
		}
	}
	return nil
}
