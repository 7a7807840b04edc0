package chaos

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/encoding"

	"github.com/palliumhq/pallium/backend/wal"
)

// logRecord is one decoded record of the write-ahead log, as docs/format/wal.md
// describes it.
type logRecord struct {
	segment int
	raw     string
	tenant  string
	labels  map[uint64]labels.Labels
	samples []logSample
}

type logSample struct {
	ref uint64
	t   int64
}

// readLog reads all undamaged records below a data directory.
func readLog(t *testing.T, dataDir string) ([]logRecord, wal.Report) {
	t.Helper()
	var out []logRecord
	report, err := wal.Replay(t.Context(), filepath.Join(dataDir, "ingester", "wal"), 0, wal.Reader{Record: func(at wal.Place, rec []byte) error {
		r, err := parseRecord(rec)
		r.segment = at.Segment
		out = append(out, r)
		return err
	}})
	if err != nil {
		t.Fatal(err)
	}
	return out, report
}

func parseRecord(rec []byte) (logRecord, error) {
	d := encoding.Decbuf{B: rec}
	r := logRecord{raw: string(rec), labels: map[uint64]labels.Labels{}}
	if k := d.Byte(); k != 2 {
		return r, fmt.Errorf("record kind is %d, want 2", k)
	}
	r.tenant = string(d.UvarintBytes())
	for d.Len() > 0 && d.Err() == nil {
		tag, n := d.Byte(), d.Be32int()
		section := encoding.Decbuf{B: d.B[:n]}
		d.B = d.B[n:]
		var err error
		switch tag {
		case 1:
			err = r.parseSeries(section.B)
		case 2:
			r.parseFloats(&section)
		case 3:
			r.parseHistograms(&section)
		case 4, 5, 6: // metadata and exemplars
		default:
			err = errors.New("unknown section")
		}
		if err = errors.Join(err, section.Err()); err != nil {
			return r, fmt.Errorf("record differs from its documented format: section %d: %w", tag, err)
		}
	}
	return r, d.Err()
}

func (r *logRecord) parseSeries(compressed []byte) error {
	content, err := snappy.Decode(nil, compressed)
	if err != nil {
		return err
	}
	d, ref := encoding.Decbuf{B: content}, uint64(0)
	for range d.Uvarint() {
		ref += uint64(d.Varint64())
		m := map[string]string{}
		for range d.Uvarint() {
			name := string(d.UvarintBytes())
			m[name] = string(d.UvarintBytes())
		}
		r.labels[ref] = labels.FromMap(m)
	}
	return d.Err()
}

func (r *logRecord) parseFloats(d *encoding.Decbuf) {
	var at logSample
	for d.Len() > 0 && d.Err() == nil {
		head := d.Byte()
		if at.ref++; head&0x80 != 0 {
			at.ref += uint64(d.Varint64()) - 1
		}
		if head&0x10 != 0 {
			at.t += d.Varint64()
		}
		d.B = d.B[head&0xf:] // the value
		r.samples = append(r.samples, at)
	}
}

func (r *logRecord) parseHistograms(d *encoding.Decbuf) {
	var at logSample
	for d.Len() > 0 && d.Err() == nil {
		at.ref += uint64(d.Varint64())
		at.t += d.Varint64()
		d.B = d.B[d.Uvarint():] // the histogram
		r.samples = append(r.samples, at)
	}
}

// lostSamples returns the samples that are in the records before, and not in the records after.
func lostSamples(before, after []logRecord) map[sampleKey]bool {
	names := map[uint64]labels.Labels{}
	for _, r := range before {
		for ref, ls := range r.labels {
			names[ref] = ls
		}
	}
	left := map[string]int{}
	held := map[logSample]bool{}
	for _, r := range after {
		left[r.raw]++
		for _, s := range r.samples {
			held[s] = true
		}
	}
	lost := map[sampleKey]bool{}
	for _, r := range before {
		if left[r.raw] > 0 {
			left[r.raw]--
			continue
		}
		for _, s := range r.samples {
			if !held[s] {
				lost[sampleKey{names[s.ref].String(), s.t}] = true
			}
		}
	}
	return lost
}
