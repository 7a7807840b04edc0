package ingester

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/tsdb/encoding"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// seedRecords are records as Push writes them.
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
		{Tenant: "t"},
	}
	var out [][]byte
	for _, b := range batches {
		w := writeRecord{batch: b}
		for i := range b.Entries {
			w.series = append(w.series, newMemSeries(b.Entries[i].Labels, b.Entries[i].Hash, uint64(i+1)))
		}
		first := w.AppendTo(nil, 0)
		for _, s := range w.series {
			s.loggedIn, s.loggedTimes = 0, 2
		}
		out = append(out, first, w.AppendTo(nil, 0)) // with labels, and without
	}
	return out
}

// takenApart is a recordHandler that keeps all it is told.
type takenApart struct {
	id      tenant.ID
	refs    []uint64
	labels  []labels.Labels
	samples []refSample
	meta    []series.MetricMetadata
}

type refSample struct {
	ref uint64
	series.Sample
}

func (h *takenApart) tenant(id tenant.ID) error { h.id = id; return nil }

func (h *takenApart) series(ref uint64, ls labels.Labels) error {
	h.refs, h.labels = append(h.refs, ref), append(h.labels, ls)
	return nil
}

func (h *takenApart) sample(ref uint64, s series.Sample) error {
	h.samples = append(h.samples, refSample{ref, s})
	return nil
}

func (h *takenApart) metadata(metric string, m metadata.Metadata) error {
	h.meta = append(h.meta, series.MetricMetadata{Metric: metric, Metadata: m})
	return nil
}

// text is all that was decoded, in one form for equal things.
func (h *takenApart) text() string {
	out := fmt.Sprintf("%q %d %q\n", h.id, h.refs, h.meta)
	for _, ls := range h.labels {
		ls.Range(func(l labels.Label) { out += fmt.Sprintf("%q=%q,", l.Name, l.Value) })
		out += "\n"
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
	return out
}

// record writes what was taken apart as a record again. The samples become
// entries of one sample; floats stand before histograms, as they were decoded.
func (h *takenApart) record() []byte {
	w := writeRecord{batch: &series.Batch{Tenant: h.id, Metadata: h.meta}}
	for _, s := range h.samples {
		m := newMemSeries(labels.EmptyLabels(), 0, s.ref)
		m.loggedIn, m.loggedTimes = 0, 2 // its labels are put by hand
		w.series = append(w.series, m)
		w.batch.Entries = append(w.batch.Entries, series.Entry{Samples: []series.Sample{s.Sample}})
	}
	for i, ls := range h.labels {
		w.series = append(w.series, newMemSeries(ls, 0, h.refs[i]))
		w.batch.Entries = append(w.batch.Entries, series.Entry{Labels: ls})
	}
	return w.AppendTo(nil, 0)
}

// FuzzDecodeRecord: whatever the log holds is decoded or refused, at a cost that
// its length bounds; what is decoded reads the same once written again.
func FuzzDecodeRecord(f *testing.F) {
	for _, rec := range seedRecords() {
		f.Add(rec)
		f.Add(rec[:len(rec)/2])
	}
	// Counts that the rest of the record does not bear out.
	huge := encoding.Encbuf{}
	huge.PutByte(recordWrite)
	huge.PutUvarintStr("t")
	huge.PutUvarint64(math.MaxUint64)
	f.Add(huge.Get())
	f.Fuzz(func(t *testing.T, rec []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var got takenApart
		err := decodeRecord(slices.Clone(rec), &got)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > uint64(400*len(rec)+64<<10) {
			t.Errorf("%d bytes allocated for a record of %d", n, len(rec))
		}
		if err != nil {
			if !errors.Is(err, errRecord) {
				t.Errorf("refused with %v, which is not errRecord", err)
			}
			return
		}
		var again takenApart
		if err := decodeRecord(got.record(), &again); err != nil {
			t.Fatalf("written again it is refused: %v", err)
		}
		if a, b := got.text(), again.text(); a != b {
			t.Errorf("written again it reads\n%s\nnot\n%s", b, a)
		}
	})
}

// TestDecodedRecordStandsAlone: what was decoded does not change with the buffer
// of the record, which the log's reader uses again.
func TestDecodedRecordStandsAlone(t *testing.T) {
	for _, rec := range seedRecords() {
		var got takenApart
		if err := decodeRecord(rec, &got); err != nil {
			t.Fatal(err)
		}
		want := got.text()
		for i := range rec {
			rec[i] = 'X'
		}
		if got.text() != want {
			t.Errorf("changed with its buffer: %s, was %s", got.text(), want)
		}
	}
}
