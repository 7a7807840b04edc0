package pack

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// part is what a test writes as one section.
type part struct {
	tenant tenant.ID
	day    int64
	md     []series.MetricMetadata
	series []series.WithChunks
}

var testID = ulid.MustParse("01JZZZZZZZ0123456789ABCDEF")

// memorySource is a pack in memory.
type memorySource struct{ b []byte }

func (m memorySource) Range(off int64, n int) ([]byte, error) { return rangeOf(m.b, off, n) }
func (m memorySource) Size() int64                            { return int64(len(m.b)) }
func (m memorySource) Close() error                           { return nil }

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
		return cmp.Or(strings.Compare(a.Labels.Get(labels.MetricName), b.Labels.Get(labels.MetricName)), labels.Compare(a.Labels, b.Labels))
	})
}

// floats encodes n samples, step milliseconds apart from start.
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

// mixed is a series with every kind of chunk, in one half hour each.
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

// expect is what Select should return, computed the slow way.
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

func testMatchers() [][]*labels.Matcher {
	ne := func(n, v string) *labels.Matcher { return labels.MustNewMatcher(labels.MatchNotEqual, n, v) }
	re := func(n, v string) *labels.Matcher { return labels.MustNewMatcher(labels.MatchRegexp, n, v) }
	nre := func(n, v string) *labels.Matcher { return labels.MustNewMatcher(labels.MatchNotRegexp, n, v) }
	return [][]*labels.Matcher{
		nil,
		{eq("__name__", "up")},
		{eq("__name__", "")},
		{eq("__name__", "absent")},
		{ne("__name__", "up")},
		{re("__name__", "up|zz")},
		{nre("__name__", "r.*")},
		{eq("job", "api")},
		{eq("job", "")},
		{ne("job", "api")},
		{ne("instance", "")},
		{re("instance", "a.*")},
		{re("instance", ".*")},
		{re("instance", ".+")},
		{nre("instance", ".+")},
		{eq("nowhere", "")},
		{ne("nowhere", "")},
		{eq("__name__", "up"), re("job", "api|db"), ne("instance", "b:1")},
		{eq("__name__", "up"), eq("__name__", "zz")},
	}
}

func checkAll(t testing.TB, r *Reader, parts []part) {
	t.Helper()
	start := testDay * series.DayMillis
	ranges := [][2]int64{{math.MinInt64, math.MaxInt64}, {start, start + 3600000}, {start + 7200000, start + series.DayMillis},
		{start + series.DayMillis, math.MaxInt64}, {start + 10, start}, {0, 1}}
	for _, id := range []tenant.ID{"acme", "zeta", "nobody"} {
		for _, ms := range testMatchers() {
			for _, rg := range ranges {
				want := expect(parts, id, rg[0], rg[1], ms)
				sameSeries(t, readSelect(t, r, id, rg[0], rg[1], ms...), want)
				checkLabels(t, r, id, rg, ms, want)
			}
		}
	}
}

func checkLabels(t testing.TB, r *Reader, id tenant.ID, rg [2]int64, ms []*labels.Matcher, want []series.WithChunks) {
	t.Helper()
	names, jobs := map[string]struct{}{}, map[string]struct{}{}
	for _, s := range want {
		s.Labels.Range(func(l labels.Label) { names[l.Name] = struct{}{} })
		if j := s.Labels.Get("job"); j != "" {
			jobs[j] = struct{}{}
		}
	}
	gotNames, err := r.LabelNames(context.Background(), id, rg[0], rg[1], ms...)
	if err != nil {
		t.Fatal(err)
	}
	gotJobs, err := r.LabelValues(context.Background(), id, "job", rg[0], rg[1], ms...)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(gotNames, sortedKeys(names)) || !slices.Equal(gotJobs, sortedKeys(jobs)) {
		t.Fatalf("matchers %v: names %v, want %v; jobs %v, want %v", ms, gotNames, sortedKeys(names), gotJobs, sortedKeys(jobs))
	}
}

func TestSmallPack(t *testing.T) {
	parts := smallParts(t)
	path := filepath.Join(t.TempDir(), "a", "b", "small.pk")
	info := writeParts(t, path, Options{ID: testID, Source: "ingester-1"}, parts)
	cache := NewPageCache(1 << 20)
	r := openPath(t, path, WithPageCache(cache))
	if got := r.Info(); fmt.Sprint(got) != fmt.Sprint(info) || got.ID != testID || got.Source != "ingester-1" || len(got.Sections) != 3 {
		t.Fatalf("info is %+v, the writer said %+v", got, info)
	}
	first := info.Sections[0]
	if first.Series != 5 || first.Samples != 30+480+480+5+1 || first.MinTime != testDay*series.DayMillis {
		t.Fatalf("first section is %+v", first)
	}
	for range 2 { // cold and warm
		checkAll(t, r, parts)
	}
	if err := r.Verify(); err != nil {
		t.Fatal(err)
	}
	if cache.Bytes() == 0 {
		t.Fatal("no page was cached")
	}
	if err := r.Release(); err != nil {
		t.Fatal(err)
	}
	if cache.Bytes() != 0 {
		t.Fatalf("%d bytes of a closed pack are still cached", cache.Bytes())
	}
}

func TestMetadata(t *testing.T) {
	path := filepath.Join(t.TempDir(), "small.pk")
	writeParts(t, path, Options{ID: testID}, smallParts(t))
	r := openPath(t, path)
	got, err := r.Metadata("acme")
	if err != nil {
		t.Fatal(err)
	}
	want := []series.MetricMetadata{
		{Metric: "rpc_seconds", Metadata: metadata.Metadata{Type: "histogram", Unit: "seconds"}},
		{Metric: "up", Metadata: metadata.Metadata{Type: "gauge", Help: "Newer text."}},
	}
	if !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for _, id := range []tenant.ID{"zeta", "nobody"} {
		if got, err := r.Metadata(id); err != nil || len(got) != 0 {
			t.Fatalf("metadata of %s is %v, %v", id, got, err)
		}
	}
}

// TestRandomPacks writes random series and expects them back, whatever pages
// and frames they fall into.
func TestRandomPacks(t *testing.T) {
	for seed := range uint64(25) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		parts := randomParts(t, rnd)
		path := filepath.Join(t.TempDir(), "random.pk")
		writeParts(t, path, Options{ID: testID, plain: seed%2 == 0}, parts)
		r := openPath(t, path, WithPageCache(NewPageCache(int64(rnd.IntN(1<<16)))))
		checkAll(t, r, parts)
		if err := r.Verify(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func randomParts(t testing.TB, rnd *rand.Rand) []part {
	var parts []part
	for _, id := range []tenant.ID{"acme", "zeta"} {
		for day := testDay; day < testDay+3; day++ {
			if rnd.IntN(3) == 0 {
				continue
			}
			p := part{tenant: id, day: day}
			seen := map[string]bool{}
			for range 1 + rnd.IntN(120) {
				ls := randomLabels(rnd)
				if seen[ls.String()] {
					continue
				}
				seen[ls.String()] = true
				start := day*series.DayMillis + rnd.Int64N(series.DayMillis-4*series.SubChunkMillis)
				chunks := floats(t, start, 1+rnd.Int64N(15000), 1+rnd.IntN(400), func(int) float64 { return rnd.NormFloat64() })
				if rnd.IntN(5) == 0 {
					chunks = mixed(t, start)
				}
				p.series = append(p.series, series.WithChunks{Labels: ls, Chunks: chunks})
			}
			sortSeries(p.series)
			parts = append(parts, p)
		}
	}
	return parts
}

func randomLabels(rnd *rand.Rand) labels.Labels {
	b := labels.NewBuilder(labels.EmptyLabels())
	b.Set("id", fmt.Sprint(rnd.IntN(1000)))
	if rnd.IntN(20) > 0 {
		b.Set("__name__", []string{"up", "zz", "rpc_seconds", "ünïcode", "a"}[rnd.IntN(5)])
	}
	for _, n := range []string{"job", "instance", "Zone", "le", "\xff"} {
		if rnd.IntN(2) == 0 {
			b.Set(n, []string{"api", "db", "a:1", "b:1", strings.Repeat("x", 300), "\x00", "\xfe\xff"}[rnd.IntN(7)])
		}
	}
	return b.Labels()
}

// TestPageCuts writes what must fall into several pages and frames.
func TestPageCuts(t *testing.T) {
	start := testDay * series.DayMillis
	one := floats(t, start, 1000, 2, func(i int) float64 { return float64(i) })
	tests := []struct {
		name   string
		series int
		labels func(i int) labels.Labels
		pages  int
	}{
		{"series", maxPageSeries*2 + 1, func(i int) labels.Labels {
			return labels.FromStrings("__name__", "up", "i", fmt.Sprintf("%05d", i))
		}, 3},
		{"many tiny metrics", maxPageSeries, func(i int) labels.Labels {
			return labels.FromStrings("__name__", fmt.Sprintf("m%05d", i))
		}, 1},
		{"columns", 1000, func(i int) labels.Labels {
			return labels.FromStrings("__name__", fmt.Sprintf("m%05d", i), fmt.Sprintf("l%d", i), "x")
		}, 2},
		{"long values", 24, func(i int) labels.Labels {
			return labels.FromStrings("__name__", "up", "i", fmt.Sprintf("%05d", i)+strings.Repeat("y", targetDictionary/8))
		}, 4},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			p := part{tenant: "acme", day: testDay}
			for i := range tc.series {
				p.series = append(p.series, series.WithChunks{Labels: tc.labels(i), Chunks: one})
			}
			path := filepath.Join(t.TempDir(), "cuts.pk")
			writeParts(t, path, Options{ID: testID}, []part{p})
			r := openPath(t, path)
			if got := len(r.dir.pages); got != tc.pages {
				t.Errorf("%d pages, want %d", got, tc.pages)
			}
			if err := r.Verify(); err != nil {
				t.Fatal(err)
			}
			sameSeries(t, readSelect(t, r, "acme", start, start+1), expect([]part{p}, "acme", start, start+1, nil))
			for _, i := range []int{0, tc.series / 2, tc.series - 1} {
				ls := tc.labels(i)
				ms := []*labels.Matcher{eq("__name__", ls.Get("__name__")), eq("i", ls.Get("i"))}
				sameSeries(t, readSelect(t, r, "acme", start, start+1, ms...), []series.WithChunks{{Labels: ls, Chunks: one}})
			}
		})
	}
}

func TestWriterRefuses(t *testing.T) {
	start := testDay * series.DayMillis
	good := floats(t, start, 1000, 5, func(i int) float64 { return 1 })
	up := labels.FromStrings("__name__", "up")
	change := func(f func(c *series.Chunk)) []series.Chunk {
		c := slices.Clone(good)
		f(&c[0])
		return c
	}
	add := func(ls labels.Labels, chunks []series.Chunk) func(w *Writer) error {
		return func(w *Writer) error {
			if err := w.StartSection("acme", testDay, nil); err != nil {
				return err
			}
			return w.Add(ls, chunks)
		}
	}
	tests := []struct {
		name, want string
		do         func(w *Writer) error
	}{
		{"no section", "no section", func(w *Writer) error { return w.Add(up, good) }},
		{"tenant", "tenant ID", func(w *Writer) error { return w.StartSection("a/b", 1, nil) }},
		{"day", "before 1970", func(w *Writer) error { return w.StartSection("a", -1, nil) }},
		{"no chunks", "no chunks", add(up, nil)},
		{"empty value", "neither may be empty", add(labels.FromStrings("__name__", "up", "a", ""), good)},
		{"other day", "not within the section's day", add(up, change(func(c *series.Chunk) { c.MaxTime += series.DayMillis }))},
		{"backwards", "not within", add(up, change(func(c *series.Chunk) { c.MaxTime = c.MinTime - 1 }))},
		{"encoding", "cannot be kept", add(up, change(func(c *series.Chunk) { c.Encoding = chunkenc.EncXOR2 }))},
		{"samples", "does not hold", add(up, change(func(c *series.Chunk) { c.Samples++ }))},
		{"overlap", "does not come after", add(up, append(slices.Clone(good), good...))},
		{"twice", "added before", func(w *Writer) error {
			return errors.Join(add(up, good)(w), w.Add(up, good))
		}},
		{"order", "must ascend", func(w *Writer) error {
			return errors.Join(add(up, good)(w), w.Add(labels.FromStrings("__name__", "aa"), good))
		}},
		{"sections", "must ascend", func(w *Writer) error {
			return errors.Join(add(up, good)(w), w.StartSection("acme", testDay, nil))
		}},
		{"empty section", "no series", func(w *Writer) error {
			return errors.Join(w.StartSection("a", 1, nil), w.StartSection("b", 1, nil))
		}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			w, err := Create(filepath.Join(dir, "x.pk"), Options{ID: testID})
			if err != nil {
				t.Fatal(err)
			}
			if err := tc.do(w); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			if _, err := w.Close(); err == nil || !strings.Contains(err.Error(), "unusable") {
				t.Fatalf("a broken writer closed with %v", err)
			}
			if err := w.StartSection("z", testDay, nil); err == nil {
				t.Fatal("a broken writer went on")
			}
			if err := w.Abort(); err != nil {
				t.Fatal(err)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Fatalf("%v is left", left)
			}
		})
	}
}

func TestCrashLeavesTemporary(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "1", "x.pk")
	w, err := Create(path, Options{ID: testID})
	if err != nil {
		t.Fatal(err)
	}
	parts := smallParts(t)
	if err := errors.Join(w.StartSection("acme", testDay, nil), w.Add(parts[0].series[0].Labels, parts[0].series[0].Chunks), w.out.buf.Flush()); err != nil {
		t.Fatal(err)
	}
	// The process dies here. What it leaves is no pack.
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("an unfinished pack has its real name: %v", err)
	}
	if _, err := Create(path, Options{ID: testID}); !errors.Is(err, os.ErrExist) {
		t.Fatalf("two writers of one pack: %v", err)
	}
	src, err := OpenFile(path + TemporarySuffix)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(src); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("an unfinished pack opens: %v", err)
	}
	if err := src.Close(); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other.tmp")
	finished := filepath.Join(dir, "2.pk")
	writeParts(t, finished, Options{ID: testID}, parts)
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	removed, err := RemoveTemporary(dir)
	if err != nil || !slices.Equal(removed, []string{path + TemporarySuffix}) {
		t.Fatalf("removed %v, %v", removed, err)
	}
	for _, p := range []string{other, finished} {
		if _, err := os.Stat(p); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Create(finished, Options{ID: testID}); !errors.Is(err, os.ErrExist) {
		t.Fatalf("a finished pack would be written over: %v", err)
	}
}

func TestReferences(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.pk")
	parts := smallParts(t)
	writeParts(t, path, Options{ID: testID}, parts)
	r := openPath(t, path)
	if !r.Retain() {
		t.Fatal("an open reader cannot be retained")
	}
	if err := errors.Join(os.Remove(path), r.Release()); err != nil {
		t.Fatal(err)
	}
	checkAll(t, r, parts) // the query that holds it goes on
	if err := r.Release(); err != nil {
		t.Fatal(err)
	}
	if r.Retain() {
		t.Fatal("a closed reader was retained")
	}
	if err := r.Release(); !errors.Is(err, ErrClosed) {
		t.Fatalf("one release too many gives %v", err)
	}
	if _, err := r.Select(context.Background(), "acme", 0, math.MaxInt64); !errors.Is(err, ErrClosed) {
		t.Fatalf("a closed reader selects: %v", err)
	}
}

func TestSelectStopsWithContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.pk")
	writeParts(t, path, Options{ID: testID}, smallParts(t))
	r := openPath(t, path)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := r.Select(ctx, "acme", 0, math.MaxInt64); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}
