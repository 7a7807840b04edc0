package chaos

import (
	"fmt"
	"math"
	"path/filepath"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/encoding"

	"github.com/palliumhq/pallium/backend/wal"
)

// logRecord is one record of the write-ahead log, taken apart as
// docs/format/wal.md describes it.
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

// readLog reads all whole records below a data directory.
func readLog(t *testing.T, dataDir string) ([]logRecord, wal.Report) {
	t.Helper()
	var out []logRecord
	report, err := wal.Replay(filepath.Join(dataDir, "ingester", "wal"), func(segment int, rec []byte) error {
		r, err := parseRecord(rec)
		r.segment = segment
		out = append(out, r)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out, report
}

func parseRecord(rec []byte) (logRecord, error) {
	d := encoding.Decbuf{B: rec}
	r := logRecord{raw: string(rec), labels: map[uint64]labels.Labels{}}
	if k := d.Byte(); k != 1 {
		return r, fmt.Errorf("kind %d", k)
	}
	r.tenant = string(d.UvarintBytes())
	for range d.Uvarint() {
		ref, m := d.Uvarint64(), map[string]string{}
		for range d.Uvarint() {
			name := string(d.UvarintBytes())
			m[name] = string(d.UvarintBytes())
		}
		r.labels[ref] = labels.FromMap(m)
	}
	var at logSample
	for range d.Uvarint() {
		at.ref += uint64(d.Varint64())
		at.t += d.Varint64()
		_ = math.Float64frombits(d.Be64())
		r.samples = append(r.samples, at)
	}
	for range d.Uvarint() {
		r.samples = append(r.samples, logSample{d.Uvarint64(), d.Varint64()})
		skipHistogram(&d)
	}
	for range d.Uvarint() {
		for range 4 {
			d.UvarintBytes()
		}
	}
	if d.Err() != nil || d.Len() != 0 {
		return r, fmt.Errorf("record does not read as documented: %w, %d bytes left", d.Err(), d.Len())
	}
	return r, nil
}

func skipHistogram(d *encoding.Decbuf) {
	isInt := d.Byte() == 1
	d.Byte()      // counter reset hint
	d.Varint64()  // schema
	d.Be64()      // zero threshold
	d.Be64()      // sum
	for range 2 { // count, zero count
		if isInt {
			d.Uvarint64()
		} else {
			d.Be64()
		}
	}
	for range 2 { // spans
		for range d.Uvarint() {
			d.Varint64()
			d.Uvarint()
		}
	}
	for range 2 { // buckets
		for range d.Uvarint() {
			if isInt {
				d.Varint64()
			} else {
				d.Be64()
			}
		}
	}
	for range d.Uvarint() {
		d.Be64()
	}
}

// lostSamples are those of the records of before that are not in after.
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
