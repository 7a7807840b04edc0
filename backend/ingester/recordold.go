package ingester

import (
	"fmt"
	"math"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/encoding"
)

// decodeOldWrite decodes the rest of a record in the format PLWAL001, which this
// version replays but does not write.
func decodeOldWrite(d *encoding.Decbuf, h recordHandler) error {
	if err := decodeTenant(d, h); err != nil {
		return err
	}
	for _, part := range []func(*encoding.Decbuf, recordHandler) error{decodeOldSeries, decodeOldFloats, decodeOldHistograms, decodeMetadata} {
		if err := part(d, h); err != nil {
			return err
		}
		if d.Err() != nil {
			return fmt.Errorf("%w: %w", errRecord, d.Err())
		}
	}
	if d.Len() != 0 {
		return fmt.Errorf("%w: %d trailing bytes", errRecord, d.Len())
	}
	return nil
}

func decodeOldSeries(d *encoding.Decbuf, h recordHandler) error {
	b := labels.NewScratchBuilder(16)
	for n := count(d, 2); n > 0; n-- {
		ref := d.Uvarint64()
		if err := decodeLabels(d, &b, h, ref); err != nil || d.Err() != nil {
			return err
		}
	}
	return nil
}

func decodeOldFloats(d *encoding.Decbuf, h recordHandler) error {
	ref, t := uint64(0), int64(0)
	for n := count(d, 10); n > 0; n-- {
		ref += uint64(d.Varint64())
		t += d.Varint64()
		v := math.Float64frombits(d.Be64())
		if d.Err() != nil {
			return nil //nolint:nilerr // decodeOldWrite checks d.Err
		}
		if err := h.float(ref, t, v); err != nil {
			return err
		}
	}
	return nil
}

// decodeOldHistograms decodes each histogram to find its end.
func decodeOldHistograms(d *encoding.Decbuf, h recordHandler) error {
	for n := count(d, 20); n > 0; n-- {
		ref, t := d.Uvarint64(), d.Varint64()
		begin := d.B
		if _, err := decodeHistogram(d); err != nil {
			return err
		}
		if d.Err() != nil {
			return nil //nolint:nilerr // decodeOldWrite checks d.Err
		}
		if err := h.histogram(ref, t, begin[:len(begin)-d.Len()]); err != nil {
			return err
		}
	}
	return nil
}
