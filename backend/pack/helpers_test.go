package pack

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// part is one section that a test writes.
type part struct {
	tenant tenant.ID
	day    int64
	md     []series.MetricMetadata
	series []series.WithChunks
}

var testID = ulid.MustParse("01JZZZZZZZ0123456789ABCDEF")

func writeParts(t testing.TB, path string, o Options, parts []part) Info {
	t.Helper()
	w, err := Create(path, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parts {
		if err := w.StartSection(p.tenant, p.day, p.md); err != nil {
			t.Fatal(err)
		}
		for _, s := range p.series {
			if err := w.Add(s.Labels, s.Chunks); err != nil {
				t.Fatal(err)
			}
		}
	}
	info, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func openPath(t testing.TB, path string, opts ...Option) *Reader {
	t.Helper()
	src, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(src, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Release() })
	return r
}

func sortSeries(all []series.WithChunks) {
	slices.SortFunc(all, func(a, b series.WithChunks) int {
		return cmp.Or(strings.Compare(a.Labels.Get(model.MetricNameLabel), b.Labels.Get(model.MetricNameLabel)), labels.Compare(a.Labels, b.Labels))
	})
}

// floats encodes n samples, step milliseconds apart, starting at start.
func floats(t testing.TB, start, step int64, n int, value func(i int) float64) []series.Chunk {
	t.Helper()
	samples := make([]series.Sample, n)
	for i := range samples {
		samples[i] = series.Sample{T: start + int64(i)*step, V: value(i)}
	}
	return encode(t, samples)
}

func encode(t testing.TB, samples []series.Sample) []series.Chunk {
	t.Helper()
	chunks, err := series.Encode(samples)
	if err != nil {
		t.Fatal(err)
	}
	return chunks
}

func testHistogram(i int) *histogram.Histogram {
	return &histogram.Histogram{Schema: 1, Count: uint64(3 + i), Sum: float64(i), ZeroThreshold: 0.001,
		PositiveSpans: []histogram.Span{{Offset: 0, Length: 2}}, PositiveBuckets: []int64{int64(1 + i), 1}}
}

// mixed returns a chunk of every encoding, half an hour apart.
func mixed(t testing.TB, start int64) []series.Chunk {
	t.Helper()
	var samples []series.Sample
	for i := range 10 {
		samples = append(samples, series.Sample{T: start + int64(i)*1000, V: float64(i)})
	}
	for i := range 10 {
		samples = append(samples, series.Sample{T: start + series.SubChunkMillis + int64(i)*1000, H: testHistogram(i)})
	}
	for i := range 10 {
		samples = append(samples, series.Sample{T: start + 2*series.SubChunkMillis + int64(i)*1000, FH: testHistogram(i).ToFloat(nil)})
	}
	return encode(t, samples)
}

const testDay = int64(20000)

func smallParts(t testing.TB) []part {
	t.Helper()
	start := testDay * series.DayMillis
	line := func(i int) float64 { return float64(i) * 1.5 }
	gauge := metadata.Metadata{Type: "gauge", Help: "Whether the target answered."}
	parts := []part{
		{tenant: "acme", day: testDay, md: []series.MetricMetadata{
			{Metric: "up", Metadata: gauge},
			{Metric: "rpc_seconds", Metadata: metadata.Metadata{Type: "histogram", Unit: "seconds"}},
		}, series: []series.WithChunks{
			{Labels: labels.FromStrings("__name__", "rpc_seconds", "job", "api"), Chunks: mixed(t, start)},
			{Labels: labels.FromStrings("__name__", "up", "job", "api", "instance", "a:1"), Chunks: floats(t, start, 15000, 480, line)},
			{Labels: labels.FromStrings("__name__", "up", "job", "api", "instance", "b:1"), Chunks: floats(t, start+7200000, 15000, 480, line)},
			{Labels: labels.FromStrings("__name__", "up", "job", "db", "Zone", "eu"), Chunks: floats(t, start, 60000, 5, line)},
			{Labels: labels.FromStrings("job", "nameless"), Chunks: floats(t, start+1, 1, 1, line)},
		}},
		{tenant: "acme", day: testDay + 1, md: []series.MetricMetadata{
			{Metric: "up", Metadata: metadata.Metadata{Type: "gauge", Help: "Newer text."}},
		}, series: []series.WithChunks{
			{Labels: labels.FromStrings("__name__", "up", "job", "api", "instance", "a:1"), Chunks: floats(t, start+series.DayMillis, 15000, 10, line)},
			{Labels: labels.FromStrings("__name__", "zz"), Chunks: floats(t, start+series.DayMillis, 15000, 10, line)},
		}},
		{tenant: "zeta", day: testDay, series: []series.WithChunks{
			{Labels: labels.FromStrings("__name__", "up", "job", "other"), Chunks: floats(t, start, 15000, 3, line)},
		}},
	}
	for _, p := range parts {
		sortSeries(p.series)
	}
	return parts
}

// expect computes the expected result of Select by brute force.
func expect(parts []part, id tenant.ID, mint, maxt int64, ms []*labels.Matcher) []series.WithChunks {
	byLabels := map[string]*series.WithChunks{}
	for _, p := range parts {
		if p.tenant != id || mint > maxt {
			continue
		}
	next:
		for _, s := range p.series {
			for _, m := range ms {
				if !m.Matches(s.Labels.Get(m.Name)) {
					continue next
				}
			}
			for _, c := range s.Chunks {
				if !c.Overlaps(mint, maxt) {
					continue
				}
				key := s.Labels.String()
				if byLabels[key] == nil {
					byLabels[key] = &series.WithChunks{Labels: s.Labels}
				}
				byLabels[key].Chunks = append(byLabels[key].Chunks, c)
			}
		}
	}
	var out []series.WithChunks
	for _, s := range byLabels {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b series.WithChunks) int { return labels.Compare(a.Labels, b.Labels) })
	return out
}

func readSelect(t testing.TB, r *Reader, id tenant.ID, mint, maxt int64, ms ...*labels.Matcher) []series.WithChunks {
	t.Helper()
	found, err := r.Select(context.Background(), id, mint, maxt, ms...)
	if err != nil {
		t.Fatal(err)
	}
	var out []series.WithChunks
	for _, s := range found {
		w := series.WithChunks{Labels: s.Labels}
		for _, ref := range s.Chunks {
			c, err := r.Chunk(ref)
			if err != nil {
				t.Fatal(err)
			}
			w.Chunks = append(w.Chunks, c)
		}
		out = append(out, w)
	}
	return out
}

func sameSeries(t testing.TB, got, want []series.WithChunks) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d series, want %d", len(got), len(want))
	}
	for i := range want {
		if !labels.Equal(got[i].Labels, want[i].Labels) {
			t.Fatalf("series %d is %s, want %s", i, got[i].Labels, want[i].Labels)
		}
		same := slices.EqualFunc(got[i].Chunks, want[i].Chunks, func(a, b series.Chunk) bool {
			return a.MinTime == b.MinTime && a.MaxTime == b.MaxTime && a.Samples == b.Samples && a.Encoding == b.Encoding && bytes.Equal(a.Data, b.Data)
		})
		if !same {
			t.Fatalf("chunks of %s differ: got %d, want %d", want[i].Labels, len(got[i].Chunks), len(want[i].Chunks))
		}
	}
}

func eq(name, value string) *labels.Matcher {
	return labels.MustNewMatcher(labels.MatchEqual, name, value)
}
