package ingester

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/tsdb/encoding"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// recordHandler gets the parts of a record in order.
type recordHandler interface {
	tenant(id tenant.ID) error
	// known reports whether the labels of a reference are known and need not be
	// decoded.
	known(ref uint64) bool
	series(ref uint64, ls labels.Labels) error
	float(ref uint64, t int64, v float64) error
	// histogram gets an encoded histogram for decodeHistogram, valid during the call.
	histogram(ref uint64, t int64, encoded []byte) error
	metadata(metric string, m metadata.Metadata) error
	exemplar(ref uint64, e exemplar.Exemplar) error
	keptExemplar(ls labels.Labels, e exemplar.Exemplar) error
}

var errRecord = errors.New("invalid record in the write-ahead log")

// decodeRecord decodes a record of any kind.
func decodeRecord(rec []byte, h recordHandler) error {
	d := encoding.Decbuf{B: rec}
	switch kind := d.Byte(); {
	case d.Err() != nil:
		return fmt.Errorf("%w: empty record", errRecord)
	case kind == recordOldWrite:
		return decodeOldWrite(&d, h)
	case kind == recordSections:
		return decodeSections(&d, h)
	default:
		return fmt.Errorf("%w: unknown kind %d", errRecord, kind)
	}
}

func decodeTenant(d *encoding.Decbuf, h recordHandler) error {
	id, err := tenant.ParseID(text(d))
	if d.Err() != nil || err != nil {
		return fmt.Errorf("%w: tenant: %w", errRecord, errors.Join(d.Err(), err))
	}
	return h.tenant(id)
}

func decodeSections(d *encoding.Decbuf, h recordHandler) error {
	if err := decodeTenant(d, h); err != nil {
		return err
	}
	for d.Len() > 0 {
		tag, n := d.Byte(), d.Be32int()
		if d.Err() != nil || n < 0 || n > d.Len() {
			return fmt.Errorf("%w: section %d has a length of %d bytes, %d are left", errRecord, tag, n, d.Len())
		}
		content := d.B[:n]
		d.B = d.B[n:]
		if err := decodeSection(tag, content, h); err != nil {
			return err
		}
	}
	return nil
}

func decodeSection(tag byte, content []byte, h recordHandler) error {
	var part func(*encoding.Decbuf, recordHandler) error
	switch tag {
	case sectionFloats:
		return decodeFloats(content, h)
	case sectionSeries, sectionKeptExemplars:
		var err error
		if content, err = decompress(content); err != nil {
			return fmt.Errorf("%w: section %d: %w", errRecord, tag, err)
		}
		if part = decodeSeries; tag == sectionKeptExemplars {
			part = decodeKeptExemplars
		}
	case sectionHistograms:
		part = decodeHistograms
	case sectionMetadata:
		part = decodeMetadata
	case sectionExemplars:
		part = decodeExemplars
	default:
		return fmt.Errorf("%w: unknown section %d: start the version that wrote it", errRecord, tag)
	}
	d := encoding.Decbuf{B: content}
	if err := part(&d, h); err != nil {
		return err
	}
	if d.Err() != nil {
		return fmt.Errorf("%w: section %d: %w", errRecord, tag, d.Err())
	}
	if d.Len() != 0 {
		return fmt.Errorf("%w: section %d: %d trailing bytes", errRecord, tag, d.Len())
	}
	return nil
}

// maxCompression is snappy's highest compression ratio: a copy of 64 bytes is
// encoded in three bytes.
const maxCompression = 22

func decompress(content []byte) ([]byte, error) {
	n, err := snappy.DecodedLen(content)
	if err != nil {
		return nil, err
	}
	if n > maxCompression*len(content) {
		return nil, fmt.Errorf("decompressed length %[2]d is impossible for %[1]d compressed bytes", len(content), n)
	}
	return snappy.Decode(nil, content)
}

// count decodes a number of items, each of which uses `size` bytes or more.
func count(d *encoding.Decbuf, size int) int {
	n := d.Uvarint64()
	if d.Err() == nil && n > uint64(d.Len()/size) {
		d.E = fmt.Errorf("%d items are claimed, but only %d bytes follow", n, d.Len())
	}
	if d.Err() != nil {
		return 0
	}
	return int(n)
}

// text decodes a string. Decbuf.UvarintStr panics if the length overflows an int64.
func text(d *encoding.Decbuf) string {
	n := count(d, 1)
	s := string(d.B[:n])
	d.B = d.B[n:]
	return s
}

// maxLabelBytes is the longest label name or value; Prometheus' labels panic above
// it.
const maxLabelBytes = 1<<24 - 1

func decodeSeries(d *encoding.Decbuf, h recordHandler) error {
	b := labels.NewScratchBuilder(16)
	ref := uint64(0)
	for n := count(d, 2); n > 0; n-- {
		ref += uint64(d.Varint64())
		if d.Err() == nil && h.known(ref) {
			skipLabels(d)
			continue
		}
		if err := decodeLabels(d, &b, h, ref); err != nil || d.Err() != nil {
			return err
		}
	}
	return nil
}

func skipLabels(d *encoding.Decbuf) {
	for m := 2 * count(d, 2); m > 0; m-- {
		d.B = d.B[count(d, 1):]
	}
}

// decodeLabels decodes the labels of a series and passes them to h. The caller
// checks d.Err.
func decodeLabels(d *encoding.Decbuf, b *labels.ScratchBuilder, h recordHandler, ref uint64) error {
	ls, err := labelSet(d, b)
	if err != nil || d.Err() != nil {
		return err
	}
	return h.series(ref, ls)
}

func labelSet(d *encoding.Decbuf, b *labels.ScratchBuilder) (labels.Labels, error) {
	b.Reset()
	for m := count(d, 2); m > 0; m-- {
		name, value := text(d), text(d)
		if n := max(len(name), len(value)); n > maxLabelBytes {
			return labels.EmptyLabels(), fmt.Errorf("%w: label has %d bytes; the limit is %d", errRecord, n, maxLabelBytes)
		}
		b.Add(name, value)
	}
	if d.Err() != nil {
		return labels.EmptyLabels(), nil //nolint:nilerr // the caller checks d.Err
	}
	return b.Labels(), nil
}

var errFloats = fmt.Errorf("%w: section %d is truncated", errRecord, sectionFloats)

// decodeFloats decodes a section of floats. It is the hot path of replay.
func decodeFloats(b []byte, h recordHandler) error {
	ref, t := uint64(0), int64(0)
	for len(b) > 0 {
		head := b[0]
		b = b[1:]
		if head&^(floatValueBytes|floatTime|floatRef) != 0 {
			return fmt.Errorf("%w: float has unknown flags %#x: start the version that wrote it", errRecord, head)
		}
		step := int64(1)
		if head&floatRef != 0 {
			var n int
			if step, n = binary.Varint(b); n <= 0 {
				return errFloats
			}
			b = b[n:]
		}
		ref += uint64(step)
		if head&floatTime != 0 {
			d, n := binary.Varint(b)
			if n <= 0 {
				return errFloats
			}
			b = b[n:]
			t += d
		}
		n := int(head & floatValueBytes)
		if n > 8 || n > len(b) {
			return errFloats
		}
		value := uint64(0)
		for i := range n {
			value |= uint64(b[i]) << (56 - 8*i)
		}
		b = b[n:]
		if err := h.float(ref, t, math.Float64frombits(value)); err != nil {
			return err
		}
	}
	return nil
}

func decodeHistograms(d *encoding.Decbuf, h recordHandler) error {
	ref, t := uint64(0), int64(0)
	for d.Len() > 0 {
		ref += uint64(d.Varint64())
		t += d.Varint64()
		n := count(d, 1)
		encoded := d.B[:n]
		d.B = d.B[n:]
		if d.Err() != nil {
			return nil //nolint:nilerr // decodeSection checks d.Err
		}
		if err := h.histogram(ref, t, encoded); err != nil {
			return err
		}
	}
	return nil
}

// decodeHistogram decodes one histogram of either kind. The caller checks d.Err.
func decodeHistogram(d *encoding.Decbuf) (series.Sample, error) {
	var s series.Sample
	switch kind := d.Byte(); kind {
	case histogramInt:
		s.H = getHistogram(d)
	case histogramFloat:
		s.FH = getFloatHistogram(d)
	default:
		return s, fmt.Errorf("%w: unknown histogram kind %d", errRecord, kind)
	}
	return s, nil
}

func putExemplar(buf *encoding.Encbuf, e exemplar.Exemplar) {
	buf.PutVarint64(e.Ts)
	buf.PutBE64(math.Float64bits(e.Value))
	putLabelSet(buf, e.Labels)
}

// getExemplar decodes what putExemplar encoded. The caller checks d.Err.
func getExemplar(d *encoding.Decbuf, b *labels.ScratchBuilder) (exemplar.Exemplar, error) {
	e := exemplar.Exemplar{Ts: d.Varint64(), HasTs: true}
	e.Value = math.Float64frombits(d.Be64())
	var err error
	e.Labels, err = labelSet(d, b)
	return e, err
}

func decodeExemplars(d *encoding.Decbuf, h recordHandler) error {
	b := labels.NewScratchBuilder(4)
	ref := uint64(0)
	for d.Len() > 0 {
		ref += uint64(d.Varint64())
		e, err := getExemplar(d, &b)
		if err != nil || d.Err() != nil {
			return err
		}
		if err := h.exemplar(ref, e); err != nil {
			return err
		}
	}
	return nil
}

func decodeKeptExemplars(d *encoding.Decbuf, h recordHandler) error {
	b := labels.NewScratchBuilder(16)
	for d.Len() > 0 {
		ls, err := labelSet(d, &b)
		if err != nil || d.Err() != nil {
			return err
		}
		e, err := getExemplar(d, &b)
		if err != nil || d.Err() != nil {
			return err
		}
		if err := h.keptExemplar(ls, e); err != nil {
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
			return nil //nolint:nilerr // decodeSection checks d.Err
		}
		if err := h.metadata(metric, m); err != nil {
			return err
		}
	}
	return nil
}
