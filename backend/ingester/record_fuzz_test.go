package ingester

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/encoding"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wal"
)

// seedRecords returns records as Push writes them.
func seedRecords() [][]byte {
	up, down := labels.FromStrings("__name__", "up", "job", "a"), labels.FromStrings("__name__", "down")
	custom := &histogram.Histogram{Schema: histogram.CustomBucketsSchema, Count: 3, Sum: 4, CustomValues: []float64{1, 2},
		PositiveSpans: []histogram.Span{{Offset: 0, Length: 2}}, PositiveBuckets: []int64{1, 1}}
	batches := []*series.Batch{
		{Tenant: "t", Entries: []series.Entry{entry(up, f(1000, 1), f(2000, math.NaN())), entry(down, f(-5, math.Inf(-1)))}},
		{Tenant: "t", Entries: []series.Entry{
			entry(up, series.Sample{T: 1, H: tsdbutil.GenerateTestHistogram(3)}, f(2, 0)),
			entry(down, series.Sample{T: 3, FH: tsdbutil.GenerateTestFloatHistogram(4)}, series.Sample{T: 4, H: custom}),
		}},
		{Tenant: "a!b", Metadata: []series.MetricMetadata{{Metric: "up", Metadata: metadata.Metadata{Type: "gauge", Help: "Is it?", Unit: "bool"}}}},
		{Tenant: "t", Entries: []series.Entry{entry(up, f(math.MaxInt64, 1), f(math.MinInt64, 2))}},
		{Tenant: "t", Entries: []series.Entry{{Labels: up, Samples: []series.Sample{f(1000, 1), f(1000, 0), f(1001, 1e100), f(1001, 0.1)},
			Exemplars: []exemplar.Exemplar{testExemplar(1000), testExemplar(-7)}}}},
		{Tenant: "t"},
	}
	var out [][]byte
	for _, b := range batches {
		w := writeRecord{batch: b}
		for i := range b.Entries {
			w.series = append(w.series, newMemSeries(b.Entries[i].Labels, b.Entries[i].Hash, uint64(i+1)))
		}
		out = append(out, written(&w))
		for _, s := range w.series {
			s.loggedIn = int32(recordPlace().Epoch)
		}
		out = append(out, written(&w)) // without labels
	}
	kept := exemplarRecord{th: newTenantHead("t", &account{}), list: []storedExemplar{{series: up, Exemplar: testExemplar(1)}, {series: down, Exemplar: testExemplar(2)}}}
	return append(out, kept.AppendTo(nil, recordPlace()))
}

// recordPlace returns the place of the tests' records in the log.
func recordPlace() wal.Place { return wal.Place{Segment: 3, Epoch: 2} }

// written returns the record of a request.
func written(w *writeRecord) []byte {
	w.labels, w.histograms, w.exemplars = newLabelLog(time.Now), true, true
	w.encode()
	return w.AppendTo(nil, recordPlace())
}

func testExemplar(t int64) exemplar.Exemplar {
	return exemplar.Exemplar{Labels: labels.FromStrings("trace_id", fmt.Sprint("t", t)), Value: float64(t) / 3, Ts: t, HasTs: true}
}

// decodedParts is a recordHandler that stores all parts.
type decodedParts struct {
	id        tenant.ID
	refs      []uint64
	labels    []labels.Labels
	samples   []refSample
	meta      []series.MetricMetadata
	exemplars []refExemplar
	kept      []storedExemplar
	decodeErr error // of a histogram
}

type refSample struct {
	ref uint64
	series.Sample
}

type refExemplar struct {
	ref uint64
	exemplar.Exemplar
}

func (h *decodedParts) tenant(id tenant.ID) error { h.id = id; return nil }

func (h *decodedParts) known(uint64) bool { return false }

func (h *decodedParts) series(ref uint64, ls labels.Labels) error {
	h.refs, h.labels = append(h.refs, ref), append(h.labels, ls)
	return nil
}

func (h *decodedParts) float(ref uint64, t int64, v float64) error {
	h.samples = append(h.samples, refSample{ref, series.Sample{T: t, V: v}})
	return nil
}

func (h *decodedParts) histogram(ref uint64, t int64, encoded []byte) error {
	d := encoding.Decbuf{B: encoded}
	s, err := decodeHistogram(&d)
	if err != nil || d.Err() != nil || d.Len() != 0 {
		h.decodeErr = fmt.Errorf("%w: histogram: %w", errRecord, errors.Join(err, d.Err()))
		return h.decodeErr
	}
	s.T = t
	h.samples = append(h.samples, refSample{ref, s})
	return nil
}

func (h *decodedParts) metadata(metric string, m metadata.Metadata) error {
	h.meta = append(h.meta, series.MetricMetadata{Metric: metric, Metadata: m})
	return nil
}

func (h *decodedParts) exemplar(ref uint64, e exemplar.Exemplar) error {
	h.exemplars = append(h.exemplars, refExemplar{ref, e})
	return nil
}

func (h *decodedParts) keptExemplar(ls labels.Labels, e exemplar.Exemplar) error {
	h.kept = append(h.kept, storedExemplar{ls, e})
	return nil
}

// text returns everything that was decoded in a canonical form.
func (h *decodedParts) text() string {
	out := fmt.Sprintf("%q %d %q\n", h.id, h.refs, h.meta)
	for _, ls := range h.labels {
		out += labelText(ls) + "\n"
	}
	for _, s := range h.samples {
		out += fmt.Sprintf("%d %d %x", s.ref, s.T, math.Float64bits(s.V))
		if s.H != nil {
			out += fmt.Sprintf(" int %+v", *s.H)
		}
		if s.FH != nil {
			out += fmt.Sprintf(" float %+v", *s.FH)
		}
		out += "\n"
	}
	for _, e := range h.exemplars {
		out += fmt.Sprintf("%d %s\n", e.ref, exemplarText(e.Exemplar))
	}
	for _, e := range h.kept {
		out += fmt.Sprintf("%s %s\n", labelText(e.series), exemplarText(e.Exemplar))
	}
	return out
}

func labelText(ls labels.Labels) string {
	out := ""
	ls.Range(func(l labels.Label) { out += fmt.Sprintf("%q=%q,", l.Name, l.Value) })
	return out
}

func exemplarText(e exemplar.Exemplar) string {
	return fmt.Sprintf("%s %x %d", labelText(e.Labels), math.Float64bits(e.Value), e.Ts)
}

// records encodes the decoded parts as records again. Samples become entries with
// one sample each; floats come before histograms, as in the decoded record.
func (h *decodedParts) records() [][]byte {
	w := writeRecord{batch: &series.Batch{Tenant: h.id, Metadata: h.meta}}
	logged := func(ref uint64) *memSeries { // its labels are added by hand
		m := newMemSeries(labels.EmptyLabels(), 0, ref)
		m.loggedIn = int32(recordPlace().Epoch)
		return m
	}
	for _, s := range h.samples {
		w.series = append(w.series, logged(s.ref))
		w.batch.Entries = append(w.batch.Entries, series.Entry{Samples: []series.Sample{s.Sample}})
	}
	for _, e := range h.exemplars {
		w.series = append(w.series, logged(e.ref))
		w.batch.Entries = append(w.batch.Entries, series.Entry{Exemplars: []exemplar.Exemplar{e.Exemplar}})
	}
	for i, ls := range h.labels {
		w.series = append(w.series, newMemSeries(ls, 0, h.refs[i]))
		w.batch.Entries = append(w.batch.Entries, series.Entry{Labels: ls})
	}
	kept := exemplarRecord{th: newTenantHead(h.id, &account{}), list: h.kept}
	return [][]byte{written(&w), kept.AppendTo(nil, recordPlace())}
}

// FuzzDecodeRecord checks that any bytes are decoded or rejected at a cost bounded
// by their length, and that decoded parts are the same after they are encoded and
// decoded again.
func FuzzDecodeRecord(f *testing.F) {
	for _, rec := range seedRecords() {
		f.Add(rec)
		f.Add(rec[:len(rec)/2])
	}
	for _, rec := range oldRecords(f) {
		f.Add(rec)
	}
	// A count that exceeds the rest of the record.
	huge := encoding.Encbuf{}
	huge.PutByte(recordOldWrite)
	huge.PutUvarintStr("t")
	huge.PutUvarint64(math.MaxUint64)
	f.Add(huge.Get())
	f.Fuzz(func(t *testing.T, rec []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var got decodedParts
		err := decodeRecord(slices.Clone(rec), &got)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > uint64(400*maxCompression*len(rec)+64<<10) {
			t.Errorf("%d bytes allocated for a record of %d", n, len(rec))
		}
		if err != nil {
			if !errors.Is(err, errRecord) {
				t.Errorf("error %v does not wrap errRecord", err)
			}
			return
		}
		var again decodedParts
		for _, rec := range got.records() {
			if err := decodeRecord(rec, &again); err != nil {
				t.Fatalf("encoded again it is rejected: %v", err)
			}
		}
		if a, b := got.text(), again.text(); a != b {
			t.Errorf("encoded again it is\n%s\nwant\n%s", b, a)
		}
	})
}

// TestDecodedRecordDoesNotShareBuffer checks that decoded parts do not change with the
// buffer of the record, which the log's reader reuses.
func TestDecodedRecordDoesNotShareBuffer(t *testing.T) {
	for _, rec := range seedRecords() {
		var got decodedParts
		if err := decodeRecord(rec, &got); err != nil {
			t.Fatal(err)
		}
		want := got.text()
		for i := range rec {
			rec[i] = 'X'
		}
		if got.text() != want {
			t.Errorf("after a change of the buffer: %s, want %s", got.text(), want)
		}
	}
}

// oldRecords returns records as versions before the format PLWAL002 wrote them.
func oldRecords(t testing.TB) [][]byte {
	t.Helper()
	data, err := os.ReadFile("testdata/oldrecords.hex")
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	for line := range strings.Lines(string(data)) {
		rec, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, rec)
	}
	return out
}

// TestOldRecords checks that records in the old format are decoded.
func TestOldRecords(t *testing.T) {
	seeds := seedRecords()
	for i, rec := range oldRecords(t) {
		var got, want decodedParts
		if err := decodeRecord(rec, &got); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
		if i >= 8 { // the seeds have no counterpart of the remaining records
			break
		}
		if err := decodeRecord(seeds[i], &want); err != nil {
			t.Fatal(err)
		}
		if got.text() != want.text() {
			t.Errorf("record %d is\n%s\nwant\n%s", i, got.text(), want.text())
		}
	}
}

// TestFloats checks that values and differences of times and references are decoded
// as they were encoded, and the size of their encoding.
func TestFloats(t *testing.T) {
	tests := []struct {
		name  string
		ref   uint64
		t     int64
		v     float64
		bytes int
	}{
		{"zero, next series, same time", 1, 0, 0, 1},
		{"a small integer", 1, 0, 3, 3},
		{"all bits", 1, 0, 0.1, 9},
		{"a later time", 1, 15000, 1, 6},
		{"the same series", 0, 1, 1, 5},
		{"a series before", ^uint64(4), 0, 1, 4},
		{"a staleness marker", 1, 0, math.Float64frombits(value.StaleNaN), 9},
		{"minus zero", 1, 0, math.Copysign(0, -1), 2},
		{"the ends of time", 1 << 40, math.MinInt64, math.Inf(1), 3 + 6 + 10},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := putFloat(nil, tt.ref, tt.t, tt.v)
			if len(b) != tt.bytes {
				t.Errorf("%d bytes, want %d", len(b), tt.bytes)
			}
			var got decodedParts
			if err := decodeFloats(b, &got); err != nil || len(got.samples) != 1 {
				t.Fatalf("error %v, %d samples", err, len(got.samples))
			}
			if s := got.samples[0]; s.ref != tt.ref || s.T != tt.t || math.Float64bits(s.V) != math.Float64bits(tt.v) {
				t.Errorf("decoded reference %d, time %d, value %v", s.ref, s.T, s.V)
			}
		})
	}
}
