package remotewrite

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand"
	"strings"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

func requestV1() *prompb.WriteRequest {
	return &prompb.WriteRequest{
		Timeseries: []prompb.TimeSeries{
			{
				Labels:    []prompb.Label{{Name: "__name__", Value: "up"}, {Name: "job", Value: "node"}},
				Samples:   []prompb.Sample{{Value: 1, Timestamp: 1000}, {Value: math.NaN(), Timestamp: 2000}},
				Exemplars: []prompb.Exemplar{{Labels: []prompb.Label{{Name: "trace_id", Value: "abc"}}, Value: 3, Timestamp: 1500}},
			},
			{
				Labels: []prompb.Label{{Name: "z", Value: "1"}, {Name: "__name__", Value: "unsorted"}, {Name: "empty", Value: ""}},
				Histograms: []prompb.Histogram{
					prompb.FromIntHistogram(3000, tsdbutil.GenerateTestHistogram(2)),
					prompb.FromFloatHistogram(4000, tsdbutil.GenerateTestFloatHistogram(3)),
				},
			},
		},
		Metadata: []prompb.MetricMetadata{{Type: prompb.MetricMetadata_GAUGE, MetricFamilyName: "up", Help: "Is it up?", Unit: ""}},
	}
}

func requestV2() *writev2.Request {
	st := writev2.NewSymbolTable()
	up := st.SymbolizeLabels(labels.FromStrings("__name__", "up", "job", "node"), nil)
	unsorted := []uint32{st.Symbolize("z"), st.Symbolize("1"), st.Symbolize("__name__"), st.Symbolize("unsorted"), st.Symbolize("empty"), 0}
	trace := st.SymbolizeLabels(labels.FromStrings("trace_id", "abc"), nil)
	help := st.Symbolize("Is it up?")
	return &writev2.Request{
		Symbols: nil,
		Timeseries: []writev2.TimeSeries{
			{
				LabelsRefs: up,
				Samples:    []writev2.Sample{{Value: 1, Timestamp: 1000}, {Value: math.NaN(), Timestamp: 2000}},
				Exemplars:  []writev2.Exemplar{{LabelsRefs: trace, Value: 3, Timestamp: 1500}},
				Metadata:   writev2.Metadata{Type: writev2.Metadata_METRIC_TYPE_GAUGE, HelpRef: help},
			},
			{
				LabelsRefs: unsorted,
				Histograms: []writev2.Histogram{
					writev2.FromIntHistogram(0, 3000, tsdbutil.GenerateTestHistogram(2)),
					writev2.FromFloatHistogram(0, 4000, tsdbutil.GenerateTestFloatHistogram(3)),
				},
			},
		},
	}
}

func marshalV2(t testing.TB) []byte {
	t.Helper()
	st := writev2.NewSymbolTable()
	// The order in which requestV2 adds the symbols.
	for _, s := range []string{"__name__", "up", "job", "node", "z", "1", "unsorted", "empty", "trace_id", "abc", "Is it up?"} {
		st.Symbolize(s)
	}
	req := requestV2()
	req.Symbols = st.Symbols()
	body, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func checkBatch(t *testing.T, b *series.Batch) {
	t.Helper()
	if len(b.Entries) != 2 {
		t.Fatalf("series = %d, want 2", len(b.Entries))
	}
	up, other := b.Entries[0], b.Entries[1]
	if got := up.Labels.String(); got != `{__name__="up", job="node"}` {
		t.Errorf("labels %s", got)
	}
	if up.Hash != up.Labels.Hash() {
		t.Error("Hash is not the hash of the labels")
	}
	if len(up.Samples) != 2 || up.Samples[0].T != 1000 || up.Samples[0].V != 1 || !math.IsNaN(up.Samples[1].V) {
		t.Errorf("samples %v", up.Samples)
	}
	if len(up.Exemplars) != 1 || up.Exemplars[0].Labels.String() != `{trace_id="abc"}` || up.Exemplars[0].Ts != 1500 || up.Exemplars[0].Value != 3 {
		t.Errorf("exemplars %v", up.Exemplars)
	}
	if got := other.Labels.String(); got != `{__name__="unsorted", z="1"}` {
		t.Errorf("labels %s", got)
	}
	if len(other.Samples) != 2 || !other.Samples[0].H.Equals(tsdbutil.GenerateTestHistogram(2)) || !other.Samples[1].FH.Equals(tsdbutil.GenerateTestFloatHistogram(3)) {
		t.Errorf("histograms %v", other.Samples)
	}
	if len(b.Metadata) != 1 || b.Metadata[0].Metric != "up" || b.Metadata[0].Type != "gauge" || b.Metadata[0].Help != "Is it up?" {
		t.Errorf("metadata %v", b.Metadata)
	}
}

func TestBothVersions(t *testing.T) {
	v1, err := requestV1().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var r Request
	for range 3 { // a reused request gives the same
		if err := r.Decode(V1, snappy.Encode(nil, v1), 1<<20, unlimited{}); err != nil {
			t.Fatal(err)
		}
		checkBatch(t, &r.Batch)
		if err := r.Decode(V2, snappy.Encode(nil, marshalV2(t)), 1<<20, unlimited{}); err != nil {
			t.Fatal(err)
		}
		checkBatch(t, &r.Batch)
	}
}

func TestTooMany(t *testing.T) {
	series := bytes.Repeat([]byte{0x0a, 0x00}, maxSeries+1)
	samples := appendField(nil, 1, bytes.Repeat([]byte{0x12, 0x00}, maxItems+1))
	for name, body := range map[string][]byte{"series": series, "samples": samples} {
		var r Request
		if err := r.Unmarshal(V1, body, nil); !errors.Is(err, ErrTooMany) {
			t.Errorf("%s: err = %v", name, err)
		}
		if len(r.Batch.Entries) != 0 {
			t.Errorf("%s: a rejected request has series in its batch", name)
		}
	}
	samples = append([]byte{0x22, 0}, appendField(nil, 5, bytes.Repeat([]byte{0x12, 0x00}, maxItems+1))...)
	var r Request
	if err := r.Unmarshal(V2, samples, nil); !errors.Is(err, ErrTooMany) {
		t.Errorf("2.0: err = %v", err)
	}
}

// appendField appends a length-delimited field.
func appendField(dst []byte, num uint64, content []byte) []byte {
	dst = binary.AppendUvarint(dst, num<<3|wireBytes)
	dst = binary.AppendUvarint(dst, uint64(len(content)))
	return append(dst, content...)
}

func TestHistogramFamilyNames(t *testing.T) {
	for in, want := range map[string]string{"a_bucket": "a", "a_count": "a", "a_sum": "a", "a_total": "a_total", "a": "a"} {
		if got := family(in, "histogram"); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
		if got := family(in, "counter"); got != in {
			t.Errorf("family(%s, counter) = %s, want the name unchanged", in, got)
		}
	}
}

func TestMalformed(t *testing.T) {
	good, err := requestV1().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	bomb := snappy.Encode(nil, make([]byte, 10<<20))
	tests := []struct {
		name     string
		version  Version
		body     []byte
		tooLarge bool
	}{
		{"empty", V1, nil, false},
		{"not snappy", V1, []byte("hello, world"), false},
		{"a length without content", V1, []byte{0xff, 0xff, 0xff, 0x07}, true},
		{"a bomb", V1, bomb, true},
		{"truncated protobuf", V1, snappy.Encode(nil, good[:len(good)-7]), false},
		{"version 2 without the empty symbol", V2, snappy.Encode(nil, []byte{0x22, 1, 'a'}), false},
		{"an unknown version", 3, snappy.Encode(nil, good), false},
		{"a body of version 1 said to be of version 2", V2, snappy.Encode(nil, good), false},
		{"wrong wire type", V1, snappy.Encode(nil, []byte{0x08, 1}), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var r Request
			err := r.Decode(tt.version, tt.body, 1<<20, unlimited{})
			var large *limits.Exceeded
			if (errors.As(err, &large) && large.Of(limits.MaxDecodedBytes)) != tt.tooLarge || (!tt.tooLarge && !errors.Is(err, ErrMalformed)) {
				t.Errorf("error %v; want an error of max_decoded_bytes: %t (otherwise ErrMalformed)", err, tt.tooLarge)
			}
			if len(r.Batch.Entries) != 0 {
				t.Error("a failed decode left series in the batch")
			}
		})
	}
}

// TestGoodSeriesSurvive checks that an error in a series rejects only that
// series, an error in an exemplar or metadata only that part, and that
// rejections are counted correctly.
func TestGoodSeriesSurvive(t *testing.T) {
	symbols := []string{"", "__name__", "good", "a", "b", "help"}
	good := writev2.TimeSeries{LabelsRefs: []uint32{1, 2}, Samples: []writev2.Sample{{Timestamp: 1}, {Timestamp: 2}}}
	changed := func(change func(*writev2.TimeSeries)) writev2.TimeSeries {
		ts := writev2.TimeSeries{LabelsRefs: []uint32{1, 2, 3, 4}, Samples: []writev2.Sample{{Timestamp: 1}, {Timestamp: 2}, {Timestamp: 3}}}
		change(&ts)
		return ts
	}
	tests := []struct {
		name           string
		bad            writev2.TimeSeries
		kept, rejected int // samples of the bad series
		exemplars      int
		says           string
	}{
		{"missing symbol of a name", changed(func(ts *writev2.TimeSeries) { ts.LabelsRefs[0] = 6 }), 0, 3, 0, "series 2 of the request: it refers to symbol 6, but the request has only 6 symbols"},
		{"missing symbol of a value", changed(func(ts *writev2.TimeSeries) { ts.LabelsRefs[3] = 1 << 31 }), 0, 3, 0, "symbol 2147483648"},
		{"label name without a value", changed(func(ts *writev2.TimeSeries) { ts.LabelsRefs = ts.LabelsRefs[:3] }), 0, 3, 0, "a label name without a value"},
		{"missing symbol of a help text", changed(func(ts *writev2.TimeSeries) { ts.Metadata = writev2.Metadata{Type: 1, HelpRef: 99} }), 3, 0, 0, "symbol 99"},
		{"missing symbol of a unit", changed(func(ts *writev2.TimeSeries) { ts.Metadata = writev2.Metadata{Type: 1, HelpRef: 5, UnitRef: 98} }), 3, 0, 0, "symbol 98"},
		{"missing symbol of an exemplar's label", changed(func(ts *writev2.TimeSeries) {
			ts.Exemplars = []writev2.Exemplar{{LabelsRefs: []uint32{3, 97}, Timestamp: 1}, {LabelsRefs: []uint32{3, 4}, Timestamp: 1}}
		}), 3, 0, 1, "symbol 97"},
		{"exemplar's label name without a value", changed(func(ts *writev2.TimeSeries) {
			ts.Exemplars = []writev2.Exemplar{{LabelsRefs: []uint32{3}, Timestamp: 1}}
		}), 3, 0, 0, "an exemplar has a label name without a value"},
	}
	for _, tt := range tests {
		body, err := (&writev2.Request{Symbols: symbols, Timeseries: []writev2.TimeSeries{good, tt.bad, good}}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		var r Request
		if err := r.Decode(V2, snappy.Encode(nil, body), 1<<20, unlimited{}); err != nil {
			t.Fatalf("%s: Decode: %v", tt.name, err)
		}
		kept, exemplars := 0, 0
		for _, e := range r.Batch.Entries {
			kept += len(e.Samples)
			exemplars += len(e.Exemplars)
		}
		out := series.Outcome{Rejections: r.Batch.Malformed}
		if kept != 4+tt.kept || exemplars != tt.exemplars || len(out.Rejections) != 1 || out.Rejections[0].Samples != tt.rejected || !strings.Contains(out.String(), tt.says) {
			t.Errorf("%s: accepted %d samples and %d exemplars: %s", tt.name, kept, exemplars, out.String())
		}
		if first, last := r.Batch.Entries[0].Labels.String(), r.Batch.Entries[len(r.Batch.Entries)-1].Labels.String(); first != `{__name__="good"}` || last != first {
			t.Errorf("%s: the first series is %s and the last %s, want good twice", tt.name, first, last)
		}
		if err := r.Unmarshal(V2, nil, nil); err != nil || len(r.Batch.Malformed) != 0 {
			t.Errorf("%s: next request: Malformed = %+v, error %v", tt.name, r.Batch.Malformed, err)
		}
	}
}

// TestUnknownMetadataType checks that an unknown metadata type loses only the
// type.
func TestUnknownMetadataType(t *testing.T) {
	for _, kind := range []prompb.MetricMetadata_MetricType{8, 42, -1} {
		req := requestV1()
		req.Metadata = []prompb.MetricMetadata{{Type: kind, MetricFamilyName: "m", Help: "h"}}
		body, err := req.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		var r Request
		if err := r.Unmarshal(V1, body, nil); err != nil || len(r.Batch.Entries) != len(req.Timeseries) || len(r.Batch.Malformed) != 0 {
			t.Fatalf("type %d: %d series, %v", kind, len(r.Batch.Entries), err)
		}
		if m := r.Batch.Metadata; len(m) != 1 || m[0].Type != model.MetricTypeUnknown || m[0].Help != "h" {
			t.Errorf("type %d: %+v", kind, m)
		}
	}
}

// FuzzV1 compares the decoder with Prometheus' generated one: if both accept a
// body, they must decode it to the same numbers of series and samples, and to the
// same floats. FuzzV2 compares the numbers for version 2.0.
func FuzzV1(f *testing.F) {
	body, err := requestV1().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		var r Request
		if r.Unmarshal(V1, data, nil) != nil {
			return
		}
		var want prompb.WriteRequest
		if want.Unmarshal(data) != nil {
			return
		}
		if len(want.Timeseries) != len(r.Batch.Entries) {
			t.Fatalf("%d series, want %d", len(r.Batch.Entries), len(want.Timeseries))
		}
		for i, ts := range want.Timeseries {
			e := r.Batch.Entries[i]
			if len(e.Samples) != len(ts.Samples)+len(ts.Histograms) {
				t.Fatalf("series %d: %d samples", i, len(e.Samples))
			}
			if len(ts.Histograms) == 0 {
				for j, s := range ts.Samples {
					if e.Samples[j].T != s.Timestamp || math.Float64bits(e.Samples[j].V) != math.Float64bits(s.Value) {
						t.Fatalf("series %d sample %d: %v, want %v", i, j, e.Samples[j], s)
					}
				}
			}
		}
	})
}

func FuzzV2(f *testing.F) {
	f.Add(marshalV2(f))
	f.Add([]byte{0x22, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		var r Request
		if r.Unmarshal(V2, data, nil) != nil {
			return
		}
		var want writev2.Request
		if want.Unmarshal(data) != nil {
			return
		}
		all, samples := want.Timeseries, 0
		want.Timeseries = nil
		b := labels.NewScratchBuilder(0)
		for _, ts := range all {
			samples += len(ts.Samples) + len(ts.Histograms)
			if _, err := ts.ToLabels(&b, want.Symbols); err == nil {
				want.Timeseries = append(want.Timeseries, ts)
			}
		}
		for _, r := range r.Batch.Malformed {
			samples -= r.Samples
		}
		for i := range r.Batch.Entries {
			samples -= len(r.Batch.Entries[i].Samples)
		}
		if samples != 0 {
			t.Fatalf("%d samples are neither accepted nor rejected", samples)
		}
		if len(want.Timeseries) != len(r.Batch.Entries) {
			t.Fatalf("%d series, want %d", len(r.Batch.Entries), len(want.Timeseries))
		}
		for i, ts := range want.Timeseries {
			if n := len(r.Batch.Entries[i].Samples); n != len(ts.Samples)+len(ts.Histograms) {
				t.Fatalf("series %d: %d samples", i, n)
			}
		}
	})
}

func FuzzDecode(f *testing.F) {
	body, err := requestV1().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(snappy.Encode(nil, body))
	f.Fuzz(func(_ *testing.T, data []byte) {
		var r Request
		_ = r.Decode(V1, data, 1<<20, unlimited{})
		_ = r.Decode(V2, data, 1<<20, unlimited{})
	})
}

func benchmarkBody(b *testing.B, v Version) []byte {
	rnd := rand.New(rand.NewSource(1))
	v1 := &prompb.WriteRequest{}
	v2 := &writev2.Request{}
	st := writev2.NewSymbolTable()
	for i := range 2000 {
		ls := labels.FromStrings("__name__", fmt.Sprintf("metric_%d", i%100), "instance", fmt.Sprintf("host-%d:9100", i/100),
			"job", "node", "mode", "idle", "cpu", fmt.Sprint(i%32), "cluster", "eu-west-1", "namespace", "monitoring")
		ts, val := int64(1_700_000_000_000), rnd.Float64()
		v1.Timeseries = append(v1.Timeseries, prompb.TimeSeries{Labels: prompb.FromLabels(ls, nil), Samples: []prompb.Sample{{Timestamp: ts, Value: val}}})
		v2.Timeseries = append(v2.Timeseries, writev2.TimeSeries{LabelsRefs: st.SymbolizeLabels(ls, nil), Samples: []writev2.Sample{{Timestamp: ts, Value: val}}})
	}
	v2.Symbols = st.Symbols()
	var body []byte
	var err error
	if v == V1 {
		body, err = v1.Marshal()
	} else {
		body, err = v2.Marshal()
	}
	if err != nil {
		b.Fatal(err)
	}
	return snappy.Encode(nil, body)
}

func BenchmarkDecode(b *testing.B) {
	for _, v := range []Version{V1, V2} {
		b.Run(fmt.Sprintf("v%d", v), func(b *testing.B) {
			body := benchmarkBody(b, v)
			var r Request
			b.ReportAllocs()
			for b.Loop() {
				if err := r.Decode(v, body, 0, unlimited{}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/2000, "ns/sample")
		})
	}
}

// TestHugeLabels checks that a label that is too long for Prometheus'
// labels.Labels is recorded as malformed, and causes neither an error of the request
// nor a panic nor a corrupt label.
func TestHugeLabels(t *testing.T) {
	for size, fits := range map[int]bool{1<<24 - 1: true, 1 << 24: false, 1<<24 + 1: false} {
		huge := strings.Repeat("x", size)
		ls := []prompb.Label{{Name: "__name__", Value: "up"}, {Name: "huge", Value: huge}}
		sample := []prompb.Sample{{Timestamp: 1}}
		v1 := map[string]*prompb.WriteRequest{
			"value":    {Timeseries: []prompb.TimeSeries{{Labels: ls, Samples: sample}}},
			"name":     {Timeseries: []prompb.TimeSeries{{Labels: []prompb.Label{{Name: huge, Value: "up"}}, Samples: sample}}},
			"exemplar": {Timeseries: []prompb.TimeSeries{{Labels: ls[:1], Exemplars: []prompb.Exemplar{{Labels: ls}}}}},
		}
		for name, req := range v1 {
			body, err := req.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			checkHuge(t, fmt.Sprintf("1.0, %s of %d bytes", name, size), V1, body, fits)
		}
		v2 := &writev2.Request{
			Symbols:    []string{"", "__name__", "up", "huge", huge},
			Timeseries: []writev2.TimeSeries{{LabelsRefs: []uint32{1, 2, 3, 4}, Samples: []writev2.Sample{{Timestamp: 1}}}},
		}
		body, err := v2.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		checkHuge(t, fmt.Sprintf("2.0, value of %d bytes", size), V2, body, fits)
	}
}

func checkHuge(t *testing.T, what string, v Version, body []byte, fits bool) {
	t.Helper()
	var r Request
	err := r.Unmarshal(v, body, nil)
	if err != nil || fits != (len(r.Batch.Malformed) == 0) {
		t.Errorf("%s: malformed series %+v, error %v; want none malformed: %v", what, r.Batch.Malformed, err, fits)
	}
}

// TestExpansion checks that the size of a request is limited after its
// references to symbols are expanded.
func TestExpansion(t *testing.T) {
	request := func(n, size int, help bool) []byte {
		req := &writev2.Request{Symbols: []string{"", "__name__", "m", "l", strings.Repeat("x", size)}}
		for range n {
			ts := writev2.TimeSeries{LabelsRefs: []uint32{1, 2, 3, 4}, Samples: []writev2.Sample{{Value: 1, Timestamp: 1}}}
			if help {
				ts = writev2.TimeSeries{LabelsRefs: []uint32{1, uint32(len(req.Symbols))}, Metadata: writev2.Metadata{Type: writev2.Metadata_METRIC_TYPE_GAUGE, HelpRef: 4}}
				req.Symbols = append(req.Symbols, fmt.Sprintf("metric_%d", len(req.Symbols)))
			}
			req.Timeseries = append(req.Timeseries, ts)
		}
		body, err := req.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return snappy.Encode(nil, body)
	}
	const size = 1 << 20
	for _, help := range []bool{false, true} {
		for n, fits := range map[int]bool{maxExpanded/size - 2: true, maxExpanded / size: false} {
			var r Request
			if err := r.Decode(V2, request(n, size, help), 0, unlimited{}); fits != (err == nil) || !fits && !errors.Is(err, ErrTooLarge) {
				t.Errorf("%d series with a symbol of %d bytes (help: %v): error %v, want success: %v", n, size, help, err, fits)
			}
		}
	}
	var r Request
	if err := r.Decode(V1, snappy.Encode(nil, make([]byte, maxExpanded+1)), 0, unlimited{}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a body larger than maxExpanded without a limit: error %v", err)
	}
}

// unlimited is a Memory without a limit.
type unlimited struct{}

func (unlimited) Take(int64) error { return nil }

// TestDroppedSeriesAreCheap checks that the series after a dropped one clears only
// the samples of the dropped one, not the whole capacity of the slice, and that
// dropped series count toward the limit of series.
func TestDroppedSeriesAreCheap(t *testing.T) {
	r := &Request{}
	r.reset()
	e, _ := r.entry()
	e.Samples = make([]series.Sample, 10)
	r.dropEntry(e, malformed{"test"})
	e, _ = r.entry() // clears the samples that were used
	e.Samples[:10][9].T = 7
	r.dropEntry(e, malformed{"test"})
	for range 3 {
		if e, _ = r.entry(); len(e.Samples) != 0 {
			t.Fatalf("entry has %d samples of the previous series", len(e.Samples))
		}
		e.Samples = append(e.Samples, series.Sample{T: 1})
		r.dropEntry(e, malformed{"test"})
	}
	e, _ = r.entry()
	if all := e.Samples[:10]; all[0].T != 0 || all[9].T != 7 {
		t.Errorf("unused samples were cleared: %v", all)
	}
	bad := writev2.TimeSeries{LabelsRefs: []uint32{9, 9}}
	req := writev2.Request{Symbols: []string{""}}
	for range maxSeries + 1 {
		req.Timeseries = append(req.Timeseries, bad)
	}
	body, err := req.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Unmarshal(V2, body, nil); !errors.Is(err, ErrTooMany) {
		t.Errorf("too many malformed series: error %v", err)
	}
}
