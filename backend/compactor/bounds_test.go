package compactor

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/distributor"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/policies/limits"
)

// door is the complete path of a sample, through distributor, ingester, store and compactor,
// with all limits at 0.
type door struct {
	*world
	long *store.Store
	ing  *ingester.Ingester
	dist *distributor.Distributor
	sent map[string]int // accepted samples by series
}

const dayStart = testDay * series.DayMillis

func newDoor(t *testing.T) *door {
	t.Helper()
	d := &door{world: newWorld(t, wrap{}), sent: map[string]int{}}
	d.long = d.Store
	none := func(tenant.ID) limits.Limits { return limits.Limits{} }
	now := func() time.Time { return time.UnixMilli(dayStart + 30*3600_000) }
	var err error
	if d.ing, err = ingester.Open(context.Background(), ingester.Options{ID: "i1", Dir: t.TempDir(), Limits: none, LongTerm: d.Store, Now: now}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.ing.Close(); err != nil {
			t.Error(err)
		}
	})
	d.dist = distributor.New(distributor.Options{Local: d.ing, Now: now})
	return d
}

// key returns a key for a series; the text of series with huge labels would be slow.
func key(ls labels.Labels) string { return string(ls.Bytes(nil)) }

// send pushes a batch and returns its outcome.
func (d *door) send(md []series.MetricMetadata, entries ...series.Entry) series.Outcome {
	d.T.Helper()
	for i := range entries {
		entries[i].Hash = entries[i].Labels.Hash()
	}
	out, err := d.dist.Push(context.Background(), &series.Batch{Tenant: "a", Limits: &limits.Limits{}, Entries: entries, Metadata: md})
	if err != nil {
		d.T.Fatal(err)
	}
	return out
}

// take is send for samples that must all be accepted, and that keep expects in the store.
func (d *door) take(ls labels.Labels, samples ...series.Sample) {
	d.T.Helper()
	n := len(samples)
	if out := d.send(nil, series.Entry{Labels: ls, Samples: samples}); out.Samples+out.Histograms != n {
		d.T.Fatalf("%d of %d samples at the limit were accepted: %s", out.Samples+out.Histograms, n, out.String())
	}
	d.sent[key(ls)] += n
}

// reject is send for one sample beyond a limit.
func (d *door) reject(reason string, ls labels.Labels, s series.Sample) {
	d.T.Helper()
	out := d.send(nil, series.Entry{Labels: ls, Samples: []series.Sample{s}})
	if len(out.Rejections) != 1 || out.Rejections[0].Reason != reason || out.Samples+out.Histograms != 0 {
		d.T.Errorf("sample beyond the limit: %+v, want it rejected with reason %s", out, reason)
	}
}

// keep seals, uploads and compacts, checks that the store is consistent, and reads all samples
// from it.
func (d *door) keep() {
	d.T.Helper()
	ctx := context.Background()
	if err := d.ing.Flush(); err != nil {
		d.T.Fatalf("seal: %v", err)
	}
	if err := d.ing.Upload(ctx); err != nil {
		d.T.Fatalf("upload: %v", err)
	}
	if _, err := d.comp.Compact(ctx, All); err != nil {
		d.T.Fatalf("compact: %v", err)
	}
	d.Want["a"] = nil // for Verify, which checks the tenants in Want
	d.Verify()
	sel, err := d.long.Select(ctx, series.Request{Tenant: "a", MinTime: 0, MaxTime: math.MaxInt64}, nil)
	if err != nil {
		d.T.Fatalf("read: %v", err)
	}
	defer sel.Release()
	got := map[string]int{}
	for _, s := range sel.Series {
		it := series.Iterator(s.Chunks, nil)
		for it.Next() != chunkenc.ValNone {
			got[key(s.Labels)]++
		}
		if it.Err() != nil {
			d.T.Fatal(it.Err())
		}
	}
	if len(got) != len(d.sent) {
		d.T.Errorf("read %d series, want %d", len(got), len(d.sent))
	}
	for ls, n := range d.sent {
		if got[ls] != n {
			d.T.Errorf("series %.100q: read %d samples, want %d", ls, got[ls], n)
		}
	}
	if left, _, err := d.ing.Select(ctx, series.Request{Tenant: "a", MinTime: 0, MaxTime: math.MaxInt64}); err != nil {
		d.T.Error(err)
	} else {
		left.Release()
	}
}

// parts returns the number of packs of a day, which must be published and have no L0 sections.
func (d *door) parts(day int64) int {
	d.T.Helper()
	m := d.Manifest("a", day)
	if m == nil {
		d.T.Fatalf("day %d is not published", day)
	}
	c, err := d.long.Catalog(context.Background(), "a", day)
	if err != nil || len(c.L0) > 0 {
		d.T.Errorf("day %d has %d L0 sections left, error %v", day, len(c.L0), err)
	}
	return len(m.Packs)
}

func sampleAt(t int64) series.Sample { return series.Sample{T: t, V: 1} }

// noise returns text that hardly compresses: random ASCII characters.
func noise(rng *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32() % 128)
	}
	return string(b)
}

func TestBoundTimes(t *testing.T) {
	d := newDoor(t)
	m := labels.FromStrings("__name__", "m")
	d.take(m, sampleAt(0), sampleAt(series.MaxTime-1), sampleAt(series.MaxTime))
	d.reject("after_2261", m, sampleAt(series.MaxTime+1))
	d.reject("before_1970", m, sampleAt(-1))
	d.keep()
	d.parts(0)
	d.parts(series.Day(series.MaxTime))
}

// TestBoundLabels pushes series with the largest labels: in one metric, whose summaries exceed
// a cell, and in several metrics; with one long value, with many labels, and with values that
// differ only at their ends.
func TestBoundLabels(t *testing.T) {
	d := newDoor(t)
	rng := rand.New(rand.NewPCG(1, 1))
	const room = pack.MaxSeriesLabelBytes - len("__name__") - len("m00") - len("l")
	for i := range 16 {
		name := "m00"
		if i >= 13 {
			name = fmt.Sprintf("m%02d", i)
		}
		d.take(labels.FromStrings("__name__", name, "l", noise(rng, room)), sampleAt(dayStart))
		d.take(labels.FromStrings("__name__", "m99", "l", strings.Repeat("\x00", room-2)+fmt.Sprintf("%02d", i)), sampleAt(dayStart))
	}
	d.reject("labels_too_large", labels.FromStrings("__name__", "m00", "l", noise(rng, room+1)), sampleAt(dayStart))
	for k := range 3 {
		b := labels.NewScratchBuilder(pack.MaxSeriesLabels)
		b.Add("__name__", "many")
		for i := range pack.MaxSeriesLabels - 1 {
			b.Add(fmt.Sprintf("l%d%05d", k, i), noise(rng, 3+k))
		}
		d.take(b.Labels(), sampleAt(dayStart))
		d.reject("too_many_labels", labels.NewBuilder(b.Labels()).Set("z", "z").Labels(), sampleAt(dayStart))
	}
	d.keep()
	if n := d.parts(testDay); n < 3 {
		t.Errorf("%d packs: the test does not reach the limit of an index cell", n)
	}
}

// TestBoundSummaries pushes a metric with few long values in many combinations, which has small
// names and large summaries.
func TestBoundSummaries(t *testing.T) {
	d := newDoor(t)
	rng := rand.New(rand.NewPCG(6, 6))
	values := make([]string, 9)
	for i := range values {
		values[i] = noise(rng, 340<<10)
	}
	for i := range 27 {
		d.take(labels.FromStrings("__name__", "m", "a", values[i%3], "b", values[3+i/3%3], "c", values[6+i/9]), sampleAt(dayStart))
	}
	d.keep()
	if n := d.parts(testDay); n < 3 {
		t.Errorf("%d packs: the test does not reach the limit of a summaries cell", n)
	}
}

// TestBoundMetricNames pushes more long metric names than fit into one names cell, with bytes
// that are escaped in row keys.
func TestBoundMetricNames(t *testing.T) {
	d := newDoor(t)
	rng := rand.New(rand.NewPCG(2, 2))
	const room = schema.MaxMetricName
	var entries []series.Entry
	for range 3000 {
		ls := labels.FromStrings("__name__", noise(rng, room))
		entries = append(entries, series.Entry{Labels: ls, Samples: []series.Sample{sampleAt(dayStart)}})
		d.sent[key(ls)] = 1
	}
	if out := d.send(nil, entries...); out.Samples != 3000 {
		t.Fatalf("%d of 3000 metrics at the limit were accepted: %.1000s", out.Samples, out.String())
	}
	nul := strings.Repeat("\x00", room-1)
	d.take(labels.FromStrings("__name__", nul+"a"), sampleAt(dayStart))
	d.take(labels.FromStrings("__name__", nul+"b"), sampleAt(dayStart))
	d.reject("metric_name_too_long", labels.FromStrings("__name__", nul+"ab"), sampleAt(dayStart))
	d.keep()
	if n := d.parts(testDay); n < 2 {
		t.Errorf("%d packs: the test does not reach the limit of a names cell", n)
	}
}

// TestBoundMetadata pushes more metadata than a tenant may have. The excess is dropped, but no
// sample; the rest is in the index, although it exceeds one names cell.
func TestBoundMetadata(t *testing.T) {
	d := newDoor(t)
	rng := rand.New(rand.NewPCG(3, 3))
	const most = pack.MaxMetadataText
	fit, size := 0, 0
	var entries []series.Entry
	var all []series.MetricMetadata
	for i := range 1100 {
		md := series.MetricMetadata{Metric: fmt.Sprintf("m%04d", i), Metadata: metadata.Metadata{Type: "counter", Help: noise(rng, most), Unit: noise(rng, most)}}
		if size += pack.MetadataSize(&md); size <= pack.MaxTenantMetadata {
			fit++
		}
		ls := labels.FromStrings("__name__", md.Metric)
		entries = append(entries, series.Entry{Labels: ls, Samples: []series.Sample{sampleAt(dayStart)}})
		all = append(all, md)
		d.sent[key(ls)] = 1
	}
	if out := d.send(all, entries...); out.Samples != len(entries) || len(out.Rejections) > 0 {
		t.Fatalf("a sample was rejected because of metadata: %+v", out)
	}
	if fit < 900 || fit > 1090 {
		t.Fatalf("%d of 1,100 entries fit, want 900 to 1,090: otherwise the test does not reach the limit", fit)
	}
	for _, round := range []string{"first", "second"} {
		d.keep()
		md, err := d.long.Metadata(context.Background(), "a", testDay, testDay)
		if err != nil {
			t.Fatal(err)
		}
		if len(md) != fit {
			t.Errorf("%s generation: %d entries of metadata in the store, want the %d that fit", round, len(md), fit)
		}
		if n := d.parts(testDay); n < 3 {
			t.Errorf("%d packs: the test does not reach the limit of a names cell", n)
		}
		d.take(labels.FromStrings("__name__", "m0000"), sampleAt(dayStart+1))
	}
}

// TestBoundVariants checks that a day is compacted although a metric has another help text in
// every pack, and that a few of the texts are kept.
func TestBoundVariants(t *testing.T) {
	d := newDoor(t)
	rng := rand.New(rand.NewPCG(4, 4))
	m := labels.FromStrings("__name__", "m")
	for i := range 12 {
		md := series.MetricMetadata{Metric: "m", Metadata: metadata.Metadata{Type: "gauge", Help: noise(rng, 100)}}
		d.send([]series.MetricMetadata{md}, series.Entry{Labels: m, Samples: []series.Sample{sampleAt(dayStart + int64(i))}})
		d.sent[key(m)]++
		if err := d.ing.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	d.keep()
	md, err := d.long.Metadata(context.Background(), "a", testDay, testDay)
	if err != nil || len(md) == 0 || len(md) > 8 {
		t.Errorf("%d variants of a metric's metadata are kept, want 1 to 8; error %v", len(md), err)
	}
}

// alternating returns samples of a window, each of which starts a new chunk.
func alternating(window, n int) []series.Sample {
	start := dayStart + int64(window)*series.WindowMillis
	out := make([]series.Sample, 0, n)
	for i := range n {
		s := sampleAt(start + int64(i)*700)
		if i%2 == 1 {
			s = series.Sample{T: s.T, H: &histogram.Histogram{Count: 1, Sum: 1, PositiveSpans: []histogram.Span{{Length: 1}}, PositiveBuckets: []int64{1}}}
		}
		out = append(out, s)
	}
	return out
}

// TestBoundChunks pushes a day of a series with the largest number of chunks per window, and then
// samples between them in a later pack.
func TestBoundChunks(t *testing.T) {
	d := newDoor(t)
	m := labels.FromStrings("__name__", "m")
	for w := range 12 {
		d.take(m, alternating(w, series.MaxWindowChunks)...)
		s := alternating(w, series.MaxWindowChunks)[1]
		s.T = dayStart + int64(w+1)*series.WindowMillis - 1
		d.reject("too_many_sample_type_changes", m, s)
	}
	d.take(labels.FromStrings("__name__", "z"), sampleAt(dayStart))
	if err := d.ing.Flush(); err != nil {
		t.Fatal(err)
	}
	for w := range 12 {
		late := alternating(w, series.MaxWindowChunks)
		for i := range late {
			late[i].T += 350
		}
		d.take(m, late[:series.MaxWindowChunks/series.LateChunks]...)
	}
	d.keep()
	d.parts(testDay)
}

// TestBoundHistograms pushes histograms with the largest number of buckets, more for one series
// than fit into a row of a compacted pack, and with the largest number of spans and bounds.
func TestBoundHistograms(t *testing.T) {
	d := newDoor(t)
	rng := rand.New(rand.NewPCG(5, 5))
	const most = series.MaxHistogramParts
	wide := func(t int64, buckets, spans int) series.Sample {
		h := &histogram.Histogram{CounterResetHint: histogram.GaugeType, Schema: histogram.ExponentialSchemaMin, PositiveSpans: []histogram.Span{{Length: uint32(buckets)}}}
		last := int64(0)
		for range buckets {
			n := int64(rng.Uint64() >> 16)
			h.PositiveBuckets = append(h.PositiveBuckets, n-last)
			last = n
			h.Count += uint64(n)
		}
		for len(h.PositiveSpans) < spans {
			h.PositiveSpans = append(h.PositiveSpans, histogram.Span{Offset: 1})
		}
		return series.Sample{T: t, H: h}
	}
	m := labels.FromStrings("__name__", "m")
	for i := range 300 {
		d.take(m, wide(dayStart+int64(i)*60_000, most, 1))
	}
	d.reject("histogram_too_large", m, wide(dayStart+86_000_000, most+1, 1))
	spans := labels.FromStrings("__name__", "spans")
	d.take(spans, wide(dayStart, 1, most))
	d.reject("histogram_too_large", spans, wide(dayStart+1, 1, most+1))
	custom := func(n int) series.Sample {
		h := &histogram.Histogram{Schema: histogram.CustomBucketsSchema, Count: 1, PositiveSpans: []histogram.Span{{Length: 1}}, PositiveBuckets: []int64{1}}
		for i := range n {
			h.CustomValues = append(h.CustomValues, float64(i)+rng.Float64()/2)
		}
		return series.Sample{T: dayStart, H: h}
	}
	bounds := labels.FromStrings("__name__", "bounds")
	d.take(bounds, custom(most))
	d.reject("histogram_too_large", bounds, custom(most+1))
	d.keep()
	if got := d.Manifest("a", testDay).Series; got < 4 {
		t.Errorf("%d rows of series: the test has no series with several rows", got)
	}
	d.take(m, sampleAt(dayStart+86_000_000)) // a second generation merges the rows
	d.keep()
}
