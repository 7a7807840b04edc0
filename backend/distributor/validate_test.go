package distributor

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

const nowMillis = int64(1_700_000_000_000)

// rawLabels returns the given labels, valid or not.
func rawLabels(nameValues ...string) labels.Labels {
	b := labels.NewScratchBuilder(len(nameValues) / 2)
	for i := 0; i < len(nameValues); i += 2 {
		b.Add(nameValues[i], nameValues[i+1])
	}
	return b.Labels()
}

func entryOf(ls labels.Labels, samples ...series.Sample) series.Entry {
	return series.Entry{Labels: ls, Hash: ls.Hash(), Samples: samples}
}

func at(t int64) series.Sample { return series.Sample{T: t, V: 1} }

// limited is a distributor whose Push sets the limits of the batch, as package api
// does.
type limited struct {
	*Distributor
	limits limits.Limits
}

// Push sets the limits of a batch and pushes it.
func (l limited) Push(ctx context.Context, b *series.Batch) (series.Outcome, error) {
	lim := l.limits
	b.Limits = &lim
	return l.Distributor.Push(ctx, b)
}

// unlimited returns a distributor for a tenant without limits.
func unlimited(o Options) limited { return limited{Distributor: New(o)} }

// distribute returns a distributor over the ingesters with its clock at nowMillis.
func distribute(ings map[string]Ingester, lim limits.Limits) limited {
	var ids []string
	for id := range ings {
		ids = append(ids, id)
	}
	if len(ids) == 1 {
		return limited{New(Options{Local: ings[ids[0]], Now: func() time.Time { return time.UnixMilli(nowMillis) }}), lim}
	}
	return limited{New(Options{
		Ring: newFixedRing(ids...), Replication: 1, Replica: lookup(ings),
		Now: func() time.Time { return time.UnixMilli(nowMillis) },
	}), lim}
}

// TestNoLimits checks that a batch without limits is an error and not treated as unlimited.
func TestNoLimits(t *testing.T) {
	ing := &fakeIngester{}
	d := New(Options{Local: ing})
	out, err := d.Push(context.Background(), &series.Batch{Tenant: "t", Entries: manySeries(3)})
	if !errors.Is(err, errNoLimits) || out.Samples != 0 || len(ing.series) != 0 {
		t.Errorf("%+v, %v; the ingester got %v", out, err, ing.series)
	}
}

// TestRejections checks every reason for rejecting a series or a sample. The message must
// have the limit and its value, and the response the offending series.
func TestRejections(t *testing.T) {
	lim := limits.Limits{
		MaxLabelsPerSeries: 3, MaxLabelNameLength: 10, MaxLabelValueLength: 20, MaxHistogramBuckets: 4,
		PastGrace: limits.Duration(time.Hour), FutureGrace: limits.Duration(time.Minute), Retention: limits.Duration(24 * time.Hour),
	}
	longLived := lim
	longLived.PastGrace = 0
	wide := tsdbutil.GenerateTestHistogram(1) // 8 buckets
	wideFloat := tsdbutil.GenerateTestFloatHistogram(1)
	wide.Schema, wideFloat.Schema = histogram.ExponentialSchemaMin, histogram.ExponentialSchemaMin
	broken := &histogram.Histogram{Schema: 1, Count: 1, PositiveSpans: []histogram.Span{{Length: 3}}, PositiveBuckets: []int64{1}}
	manyBounds := &histogram.Histogram{Schema: histogram.CustomBucketsSchema, CustomValues: []float64{1, 2, 3, 4, 5}}
	up := rawLabels("__name__", "up")
	tests := []struct {
		name     string
		lim      limits.Limits
		entry    series.Entry
		reason   string
		message  []string
		offender string
	}{
		{"no name", lim, entryOf(rawLabels("job", "a"), at(nowMillis)), "missing_metric_name", []string{"__name__"}, `{job="a"}`},
		{"no labels", lim, entryOf(rawLabels(), at(nowMillis)), "missing_metric_name", []string{"__name__"}, "{}"},
		{"too many labels", lim, entryOf(rawLabels("__name__", "up", "a", "1", "b", "2", "c", "3"), at(nowMillis)), "max_labels_per_series", []string{"limit max_labels_per_series of 3", "4 labels"}, `a="1"`},
		{"long name", lim, entryOf(rawLabels("__name__", "up", "elevenbytes", "1"), at(nowMillis)), "max_label_name_length", []string{"limit max_label_name_length of 10 bytes", "has 11"}, "elevenbytes"},
		{"long value", lim, entryOf(rawLabels("__name__", "up", "a", strings.Repeat("x", 21)), at(nowMillis)), "max_label_value_length", []string{"limit max_label_value_length of 20 bytes", `"a"`, "has 21"}, "xxxx"},
		{"empty label name", lim, entryOf(rawLabels("", "x", "__name__", "up"), at(nowMillis)), "label_invalid", []string{"empty name"}, "up"},
		{"label name not UTF-8", lim, entryOf(rawLabels("__name__", "up", "a\xff", "x"), at(nowMillis)), "label_invalid", []string{`"a\xff"`, "UTF-8"}, "up"},
		{"label value not UTF-8", lim, entryOf(rawLabels("__name__", "up", "a", "\xff"), at(nowMillis)), "label_value_invalid", []string{`"a"`, "UTF-8"}, "up"},
		{"metric name not UTF-8", lim, entryOf(rawLabels("__name__", "\xff"), at(nowMillis)), "label_value_invalid", []string{`"__name__"`}, "__name__"},
		{"label twice", lim, entryOf(rawLabels("__name__", "up", "a", "1", "a", "2"), at(nowMillis)), "duplicate_label_names", []string{`"a"`, "twice"}, `a="2"`},
		{"before 1970", longLived, entryOf(up, at(-1)), "before_1970", []string{"-1"}, "up"},
		{"long before 1970", lim, entryOf(up, at(math.MinInt64)), "before_1970", []string{"1970"}, "up"},
		{"too old", lim, entryOf(up, at(nowMillis-3_600_001)), "past_grace", []string{"limit past_grace of 1h", "2023-11-14T21:13:19Z"}, "up"},
		{"too new", lim, entryOf(up, at(nowMillis+60_001)), "future_grace", []string{"limit future_grace of 1m", "2023-11-14T22:14:20Z", "clock"}, "up"},
		{"far too new", lim, entryOf(up, at(series.MaxTime)), "future_grace", []string{"limit future_grace of 1m"}, "up"},
		{"beyond retention", longLived, entryOf(up, at(nowMillis-86_400_001)), "retention", []string{"limit retention of 1d"}, "up"},
		{"histogram that is none", lim, entryOf(up, series.Sample{T: nowMillis, H: broken}), "invalid_histogram", []string{"native histogram"}, "up"},
		{"wide histogram", lim, entryOf(up, series.Sample{T: nowMillis, H: wide}), "max_histogram_buckets", []string{"limit max_histogram_buckets of 4", "has 8"}, "up"},
		{"wide float histogram", lim, entryOf(up, series.Sample{T: nowMillis, FH: wideFloat}), "max_histogram_buckets", []string{"limit max_histogram_buckets of 4", "has 8"}, "up"},
		{"histogram with many empty custom buckets", lim, entryOf(up, series.Sample{T: nowMillis, H: manyBounds}), "max_histogram_buckets", []string{"limit max_histogram_buckets of 4", "has 5"}, "up"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ing := &fakeIngester{}
			d := distribute(map[string]Ingester{"a": ing}, tt.lim)
			good := entryOf(rawLabels("__name__", "good"), at(nowMillis))
			out, err := d.Push(context.Background(), &series.Batch{Tenant: "t", Entries: []series.Entry{tt.entry, good}})
			if err != nil {
				t.Fatal(err)
			}
			if len(out.Rejections) != 1 {
				t.Fatalf("rejections %+v, want one", out.Rejections)
			}
			r := out.Rejections[0]
			if r.Reason != tt.reason || r.Samples != 1 {
				t.Errorf("rejected %d for %s, want 1 for %s", r.Samples, r.Reason, tt.reason)
			}
			for _, part := range tt.message {
				if !strings.Contains(r.Message, part) {
					t.Errorf("message %q lacks %q", r.Message, part)
				}
			}
			if text := out.String(); !strings.Contains(text, tt.offender) || !strings.Contains(text, tt.reason) {
				t.Errorf("response %q lacks %q or %q", text, tt.offender, tt.reason)
			}
			// The other series of the request is accepted.
			if got := ing.names(); len(got) != 1 || got[0] != `{__name__="good"}` || out.Samples != 1 {
				t.Errorf("accepted %v (%d samples), want the good series", got, out.Samples)
			}
		})
	}
}

// TestAtTheLimit checks values that are just allowed, and that 0 means no limit.
func TestAtTheLimit(t *testing.T) {
	lim := limits.Limits{
		MaxLabelsPerSeries: 2, MaxLabelNameLength: 8, MaxLabelValueLength: 5, MaxHistogramBuckets: 8,
		PastGrace: limits.Duration(time.Hour), FutureGrace: limits.Duration(time.Minute), Retention: limits.Duration(time.Hour),
	}
	tests := []struct {
		name  string
		lim   limits.Limits
		entry series.Entry
	}{
		{"oldest", lim, entryOf(rawLabels("__name__", "up", "job", "short"), at(nowMillis-3_600_000))},
		{"newest", lim, entryOf(rawLabels("__name__", "up"), at(nowMillis+60_000))},
		{"histogram", lim, entryOf(rawLabels("__name__", "up"), series.Sample{T: nowMillis, H: tsdbutil.GenerateTestHistogram(1)})},
		{"any age", limits.Limits{}, entryOf(rawLabels("__name__", "up"), at(0))},
		{"any future", limits.Limits{}, entryOf(rawLabels("__name__", "up"), at(series.MaxTime))},
		{"any labels", limits.Limits{}, entryOf(rawLabels("__name__", strings.Repeat("x", 4096), strings.Repeat("y", 500_000), "z"), at(nowMillis))},
		{"UTF-8 names", limits.Limits{}, entryOf(rawLabels("__name__", "température", "größe", "zwölf"), at(nowMillis))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, err := distribute(map[string]Ingester{"a": &fakeIngester{}}, tt.lim).Push(context.Background(), &series.Batch{Tenant: "t", Entries: []series.Entry{tt.entry}})
			if err != nil || len(out.Rejections) != 0 || out.Samples+out.Histograms != 1 {
				t.Errorf("Push = %+v, %v", out, err)
			}
		})
	}
}

// TestHugeOffender checks that a series rejected for its size is truncated in the response.
func TestHugeOffender(t *testing.T) {
	lim := limits.Limits{MaxLabelValueLength: 10}
	huge := strings.Repeat("ä", 1<<20)
	var entries []series.Entry
	for range 100 {
		entries = append(entries, entryOf(rawLabels("__name__", "up", "a", huge), at(nowMillis)))
	}
	out, err := distribute(map[string]Ingester{"a": &fakeIngester{}}, lim).Push(context.Background(), &series.Batch{Tenant: "t", Entries: entries})
	if err != nil {
		t.Fatal(err)
	}
	if r := out.Rejections; len(r) != 1 || r[0].Samples != 100 || len(r[0].Offenders) != 5 {
		t.Fatalf("%d rejections, want one of 100 samples with 5 offenders", len(r))
	}
	if n := len(out.String()); n > 2000 {
		t.Errorf("the response has %d bytes, want at most 2000", n)
	}
}

func TestExemplars(t *testing.T) {
	x := func(ts int64, nameValues ...string) exemplar.Exemplar {
		return exemplar.Exemplar{Ts: ts, Labels: rawLabels(nameValues...), Value: 1}
	}
	e := entryOf(rawLabels("__name__", "up"))
	e.Exemplars = []exemplar.Exemplar{
		x(nowMillis, "trace_id", "a"),
		x(-1, "trace_id", "before 1970"),
		x(nowMillis, "trace_id", strings.Repeat("x", 121)), // 129 runes
		x(nowMillis, "trace_id", strings.Repeat("ä", 120)), // 128 runes, 248 bytes
		x(nowMillis, "", "no name"),
		x(nowMillis, "trace_id", "\xff"),
		x(nowMillis, "trace_id", "a", "span_id", "b", "trace_id", "c"),
		x(nowMillis, "trace_id", "b", "empty", ""),
		x(nowMillis-3_600_001, "trace_id", "older than a sample may be"),
		x(nowMillis+60_001, "trace_id", "of the future"),
		x(nowMillis-3_600_000, "trace_id", "as old as a sample may be"),
	}
	ing := &fakeIngester{}
	lim := limits.Limits{PastGrace: limits.Duration(time.Hour), FutureGrace: limits.Duration(time.Minute)}
	out, err := distribute(map[string]Ingester{"a": ing}, lim).Push(context.Background(), &series.Batch{Tenant: "t", Entries: []series.Entry{e}})
	if err != nil || len(out.Rejections) != 0 {
		t.Fatalf("Push = %+v, %v", out, err)
	}
	if out.Exemplars != 4 || ing.exemplars != 4 {
		t.Errorf("%d exemplars accepted, %d sent to the ingester, want 4", out.Exemplars, ing.exemplars)
	}
}

func TestMetadata(t *testing.T) {
	md := func(metric, help string) series.MetricMetadata {
		return series.MetricMetadata{Metric: metric, Metadata: metadata.Metadata{Type: "gauge", Help: help}}
	}
	ing := &fakeIngester{}
	b := &series.Batch{Tenant: "t", Metadata: []series.MetricMetadata{
		md("", "no metric"), md("bad\xff", ""), md("a_name_too_long", ""), md("long", "0123456789ä"), md("ok", "Help\xff."),
	}}
	if _, err := distribute(map[string]Ingester{"a": ing}, limits.Limits{MaxLabelValueLength: 11}).Push(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	// The limit cuts "ä", which has two bytes: no half character may remain.
	want := []series.MetricMetadata{md("long", "0123456789"), md("ok", "Help.")}
	if len(ing.metadata) != 2 || ing.metadata[0] != want[0] || ing.metadata[1] != want[1] {
		t.Errorf("accepted %v, want %v", ing.metadata, want)
	}
}

// TestHistogramsAreReduced checks that a histogram with too high a resolution or too many
// buckets is reduced in resolution and loses no observations.
func TestHistogramsAreReduced(t *testing.T) {
	spread := func(schema int32, buckets int) *histogram.Histogram {
		h := &histogram.Histogram{Schema: schema, Count: uint64(2 * buckets), Sum: 7, PositiveSpans: []histogram.Span{{Offset: -9, Length: uint32(buckets)}}, PositiveBuckets: make([]int64, buckets)}
		h.PositiveBuckets[0] = 1
		h.NegativeSpans, h.NegativeBuckets = h.PositiveSpans, slices.Clone(h.PositiveBuckets)
		return h
	}
	tests := []struct {
		name   string
		in     *histogram.Histogram
		limit  int
		schema int32 // 100: rejected
	}{
		{"at the limit", spread(3, 320), 640, 3},
		{"one too many", spread(3, 321), 640, 2},
		{"many", spread(8, 4000), 640, 4},
		{"more than can be stored", spread(8, 10_000), 0, 7},
		{"as coarse as it goes", spread(-4, 321), 640, 100},
		{"too fine", spread(12, 100), 640, 8},
		{"much too fine", spread(52, 100), 0, 8},
		{"no such schema", spread(53, 1), 640, 100},
		{"coarser than what is stored", spread(-5, 1), 640, 100},
	}
	for _, tt := range tests {
		for _, sample := range []series.Sample{{T: nowMillis, H: tt.in.Copy()}, {T: nowMillis, FH: tt.in.ToFloat(nil)}} {
			var out series.Outcome
			v := validator{lim: &limits.Limits{MaxHistogramBuckets: tt.limit}, now: nowMillis, out: &out}
			e := entryOf(rawLabels("__name__", "h"), sample)
			if kept := v.samples(&e); kept != (tt.schema != 100) {
				t.Errorf("%s: accepted = %v: %s", tt.name, kept, out.String())
				continue
			} else if !kept {
				continue
			}
			fh := e.Samples[0].FH
			if h := e.Samples[0].H; h != nil {
				fh = h.ToFloat(nil)
			}
			n := 0.0
			for it := fh.AllBucketIterator(); it.Next(); {
				n += it.At().Count
			}
			buckets, _, _ := e.Samples[0].Parts()
			if fh.Schema != tt.schema || n != float64(tt.in.Count) || fh.Count != n || fh.Sum != 7 || tt.limit > 0 && buckets > tt.limit {
				t.Errorf("%s: schema %d with %d buckets and %v of %d observations", tt.name, fh.Schema, buckets, n, tt.in.Count)
			}
		}
	}
}
