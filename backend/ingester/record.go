package ingester

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/encoding"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wal"
)

// Kinds of records. docs/format/wal.md describes the format.
const (
	recordOldWrite = 1 // in segments of format PLWAL001
	recordSections = 2
)

// Sections of a record. Readers reject unknown tags.
const (
	sectionSeries        = 1 // labels of series
	sectionFloats        = 2
	sectionHistograms    = 3
	sectionMetadata      = 4
	sectionExemplars     = 5 // of series by reference
	sectionKeptExemplars = 6 // with their series' labels: they may outlive the series' samples in the log
)

// sectionHeader is the size of a section's header: a tag of one byte and a length of
// four bytes.
const sectionHeader = 5

// Bits of the first byte of a float; the lower four are the number of bytes of the
// value that follow.
const (
	floatValueBytes = 0x0f
	floatTime       = 0x10 // the time follows; otherwise it equals the previous float's
	floatRef        = 0x80 // the reference follows; otherwise it is the previous one plus 1
)

const (
	histogramInt   = 1
	histogramFloat = 2
)

// writeRecord is the log record of a write request.
type writeRecord struct {
	batch  *series.Batch
	th     *tenantHead
	series []*memSeries // parallel to batch.Entries; nil for rejected series
	times  span         // summary of the samples' times

	histograms, exemplars bool // whether the batch has any to be logged

	body  []byte       // the sections that do not depend on the position in the log
	first []*memSeries // series whose labels the record has; set by AppendTo

	reserved []chunkReservation // reserved chunks, while the batch is logged and applied
	find     finder

	labels *labelLog
	seals  *sealLog
}

// encode encodes the sections that do not depend on the position in the log. It
// runs without the log's lock.
func (w *writeRecord) encode() {
	w.body = w.putFloats(w.body[:0])
	if w.histograms {
		w.body = w.putHistograms(w.body)
	}
	if len(w.batch.Metadata) > 0 {
		w.body = w.putMetadata(w.body)
	}
	if w.exemplars {
		w.body = w.putExemplars(w.body)
	}
}

// AppendTo implements wal.Record. It is called with the log's lock held.
func (w *writeRecord) AppendTo(dst []byte, at wal.Place) []byte {
	w.first = w.first[:0]
	for _, s := range w.series {
		if s != nil && s.loggedIn != int32(at.Epoch) {
			w.first = append(w.first, s)
		}
	}
	dst = beginRecord(dst, w.batch.Tenant)
	if len(w.first) > 0 {
		dst = w.labels.put(dst, w.first)
	}
	return append(dst, w.body...)
}

// Appended implements wal.Record.
func (w *writeRecord) Appended(at wal.Place) {
	w.seals.note(at, w.times)
	if len(w.first) == 0 {
		return
	}
	kept := w.first[:0]
	for _, s := range w.first {
		if s.loggedIn != int32(at.Epoch) { // not if the series is twice in the request
			s.loggedIn = int32(at.Epoch)
			kept = append(kept, s)
		}
	}
	w.labels.used(w.th, kept, at.Segment)
}

func beginRecord(dst []byte, id tenant.ID) []byte {
	buf := encoding.Encbuf{B: append(dst, recordSections)}
	buf.PutUvarintStr(string(id))
	return buf.B
}

// beginSection appends the header of a section; endSection fills in its length.
func beginSection(dst []byte, tag byte) (out []byte, at int) {
	return append(dst, tag, 0, 0, 0, 0), len(dst) + sectionHeader
}

func endSection(dst []byte, at int) []byte {
	binary.BigEndian.PutUint32(dst[at-4:], uint32(len(dst)-at))
	return dst
}

// putCompressed appends a section with compressed content.
func putCompressed(dst []byte, tag byte, content []byte) []byte {
	dst, at := beginSection(dst, tag)
	dst = slices.Grow(dst, snappy.MaxEncodedLen(len(content)))
	n := len(snappy.Encode(dst[at:cap(dst)], content))
	return endSection(dst[:at+n], at)
}

// putLabels appends the content of a section with the labels of series.
func putLabels(dst []byte, list []*memSeries) []byte {
	buf := encoding.Encbuf{B: dst}
	buf.PutUvarint(len(list))
	ref := uint64(0)
	for _, s := range list {
		buf.PutVarint64(int64(s.ref - ref))
		ref = s.ref
		putLabelSet(&buf, s.labels)
	}
	return buf.B
}

func putLabelSet(buf *encoding.Encbuf, ls labels.Labels) {
	buf.PutUvarint(ls.Len())
	ls.Range(func(l labels.Label) {
		buf.PutUvarintStr(l.Name)
		buf.PutUvarintStr(l.Value)
	})
}

func (w *writeRecord) putFloats(dst []byte) []byte {
	out, at := beginSection(dst, sectionFloats)
	ref, t := uint64(0), int64(0)
	for i, s := range w.series {
		if s == nil {
			continue
		}
		samples := w.batch.Entries[i].Samples
		for j := range samples {
			smp := &samples[j]
			if smp.IsHistogram() {
				continue
			}
			out = putFloat(out, s.ref-ref, smp.T-t, smp.V)
			ref, t = s.ref, smp.T
		}
	}
	if len(out) == at {
		return dst
	}
	return endSection(out, at)
}

// putFloat appends one float; ref and t are the differences from the previous one.
// Values with few digits end in zero bytes, which are omitted.
func putFloat(dst []byte, ref uint64, t int64, v float64) []byte {
	value := math.Float64bits(v)
	n := (71 - bits.TrailingZeros64(value)) / 8 // bytes up to the last that is not zero
	head := len(dst)
	dst = append(dst, byte(n))
	if ref != 1 {
		dst[head] |= floatRef
		dst = binary.AppendVarint(dst, int64(ref))
	}
	if t != 0 {
		dst[head] |= floatTime
		dst = binary.AppendVarint(dst, t)
	}
	for i := range n {
		dst = append(dst, byte(value>>(56-8*i)))
	}
	return dst
}

func (w *writeRecord) putHistograms(dst []byte) []byte {
	out, at := beginSection(dst, sectionHistograms)
	var one encoding.Encbuf
	ref, t := uint64(0), int64(0)
	for i, s := range w.series {
		if s == nil {
			continue
		}
		samples := w.batch.Entries[i].Samples
		for j := range samples {
			smp := &samples[j]
			if !smp.IsHistogram() {
				continue
			}
			one.Reset()
			if smp.H != nil {
				putHistogram(&one, smp.H)
			} else {
				putFloatHistogram(&one, smp.FH)
			}
			out = binary.AppendVarint(out, int64(s.ref-ref))
			out = binary.AppendVarint(out, smp.T-t)
			out = binary.AppendUvarint(out, uint64(one.Len()))
			out = append(out, one.B...)
			ref, t = s.ref, smp.T
		}
	}
	if len(out) == at {
		return dst
	}
	return endSection(out, at)
}

func (w *writeRecord) putMetadata(dst []byte) []byte {
	out, at := beginSection(dst, sectionMetadata)
	buf := encoding.Encbuf{B: out}
	buf.PutUvarint(len(w.batch.Metadata))
	for _, m := range w.batch.Metadata {
		buf.PutUvarintStr(m.Metric)
		buf.PutUvarintStr(string(m.Type))
		buf.PutUvarintStr(m.Unit)
		buf.PutUvarintStr(m.Help)
	}
	return endSection(buf.B, at)
}

func (w *writeRecord) putExemplars(dst []byte) []byte {
	out, at := beginSection(dst, sectionExemplars)
	buf := encoding.Encbuf{B: out}
	ref := uint64(0)
	for i, s := range w.series {
		if s == nil {
			continue
		}
		for _, e := range w.batch.Entries[i].Exemplars {
			buf.PutVarint64(int64(s.ref - ref))
			putExemplar(&buf, e)
			ref = s.ref
		}
	}
	if buf.Len() == at {
		return dst
	}
	return endSection(buf.B, at)
}
