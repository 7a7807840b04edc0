package wire

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"

	"github.com/palliumhq/pallium/backend/series"
)

// Protobuf tags of prometheus.WriteRequest (remote write 1.0) and its parts.
const (
	tagTimeseries = 1<<3 | 2
	tagMetadata   = 3<<3 | 2

	tagLabels     = 1<<3 | 2
	tagSamples    = 2<<3 | 2
	tagExemplars  = 3<<3 | 2
	tagHistograms = 4<<3 | 2

	tagName  = 1<<3 | 2
	tagText  = 2<<3 | 2
	tagValue = 1<<3 | 1
	tagTime  = 2 << 3
)

// Entries holds the encoded entries of a batch, from which remote write 1.0 bodies with
// subsets of the entries are built.
type Entries struct {
	data []byte
	ends []int
	meta []byte
}

// EncodeEntries encodes all entries and the metadata of a batch. It appends to buf[:0].
func EncodeEntries(b *series.Batch, buf []byte) (*Entries, error) {
	e := &Entries{data: buf[:0], ends: make([]int, len(b.Entries))}
	var err error
	for i := range b.Entries {
		if e.data, err = appendEntry(e.data, &b.Entries[i]); err != nil {
			return nil, fmt.Errorf("encode series %s: %w", b.Entries[i].Labels, err)
		}
		e.ends[i] = len(e.data)
	}
	for _, m := range b.Metadata {
		pm := prompb.MetricMetadata{Type: prompb.FromMetadataType(m.Type), MetricFamilyName: m.Metric, Help: m.Help, Unit: m.Unit}
		data, err := pm.Marshal()
		if err != nil {
			return nil, fmt.Errorf("encode metadata of %s: %w", m.Metric, err)
		}
		e.meta = appendField(e.meta, tagMetadata, data)
	}
	return e, nil
}

// Buffer returns the buffer of the entries for reuse. Bodies are copies.
func (e *Entries) Buffer() []byte { return e.data }

// Size returns the length in bytes of the result of Body.
func (e *Entries) Size(positions []int32, metadata bool) int {
	size := 0
	if metadata {
		size = len(e.meta)
	}
	if positions == nil {
		return size + len(e.data)
	}
	for _, p := range positions {
		size += e.ends[p] - e.start(p)
	}
	return size
}

// Body returns a remote write 1.0 body with the entries at the positions, or with all
// entries if positions is nil, and optionally with the metadata.
func (e *Entries) Body(positions []int32, metadata bool) []byte {
	out := make([]byte, 0, e.Size(positions, metadata))
	if positions == nil {
		out = append(out, e.data...)
	}
	for _, p := range positions {
		out = append(out, e.data[e.start(p):e.ends[p]]...)
	}
	if metadata {
		out = append(out, e.meta...)
	}
	return out
}

func (e *Entries) start(p int32) int {
	if p == 0 {
		return 0
	}
	return e.ends[p-1]
}

func appendField(dst []byte, tag byte, data []byte) []byte {
	dst = append(dst, tag)
	dst = binary.AppendUvarint(dst, uint64(len(data)))
	return append(dst, data...)
}

// lengthBytes is the number of bytes reserved for the length of a series, which is written
// as a varint of fixed size once the length is known.
const lengthBytes = 4

func appendEntry(dst []byte, e *series.Entry) ([]byte, error) {
	dst = append(dst, tagTimeseries, 0, 0, 0, 0)
	start := len(dst)
	dst = appendLabels(dst, tagLabels, e.Labels)
	for i := range e.Samples {
		s := &e.Samples[i]
		if !s.IsHistogram() {
			dst = appendSample(dst, s)
			continue
		}
		var h prompb.Histogram
		if s.H != nil {
			h = prompb.FromIntHistogram(s.T, s.H)
		} else {
			h = prompb.FromFloatHistogram(s.T, s.FH)
		}
		data, err := h.Marshal()
		if err != nil {
			return nil, err
		}
		dst = appendField(dst, tagHistograms, data)
	}
	for i := range e.Exemplars {
		x := &e.Exemplars[i]
		var data []byte
		data = appendLabels(data, tagLabels, x.Labels)
		data = append(data, 2<<3|1)
		data = binary.LittleEndian.AppendUint64(data, math.Float64bits(x.Value))
		if x.HasTs {
			data = append(data, 3<<3)
			data = binary.AppendUvarint(data, uint64(x.Ts))
		}
		dst = appendField(dst, tagExemplars, data)
	}
	n := len(dst) - start
	if n >= 1<<(7*lengthBytes) {
		return nil, fmt.Errorf("series has %d bytes, at most %d are allowed", n, 1<<(7*lengthBytes)-1)
	}
	for i := range lengthBytes {
		dst[start-lengthBytes+i] = byte(n>>(7*i))&0x7f | 0x80
	}
	dst[start-1] &= 0x7f
	return dst, nil
}

func appendLabels(dst []byte, tag byte, ls labels.Labels) []byte {
	ls.Range(func(l labels.Label) {
		dst = append(dst, tag)
		dst = binary.AppendUvarint(dst, uint64(2+size(len(l.Name))+size(len(l.Value))))
		dst = append(dst, tagName)
		dst = binary.AppendUvarint(dst, uint64(len(l.Name)))
		dst = append(dst, l.Name...)
		dst = append(dst, tagText)
		dst = binary.AppendUvarint(dst, uint64(len(l.Value)))
		dst = append(dst, l.Value...)
	})
	return dst
}

// size returns the encoded size of a string of n bytes with its length.
func size(n int) int {
	out := n + 1
	for v := n; v >= 0x80; v >>= 7 {
		out++
	}
	return out
}

func appendSample(dst []byte, s *series.Sample) []byte {
	t := uint64(s.T)
	n := 10 // two tags and the value; the loop adds the bytes of the time
	for n++; t >= 0x80; t >>= 7 {
		n++
	}
	dst = append(dst, tagSamples, byte(n), tagValue)
	dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(s.V))
	dst = append(dst, tagTime)
	return binary.AppendUvarint(dst, uint64(s.T))
}
