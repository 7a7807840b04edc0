package distributor

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"

	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// manyLabels returns n labels.
func manyLabels(n int) labels.Labels {
	b := labels.NewScratchBuilder(n)
	b.Add("__name__", "m")
	for i := range n - 1 {
		b.Add(fmt.Sprintf("l%05d", i), "v")
	}
	return b.Labels()
}

func gauge(buckets, spans int, custom bool) series.Sample {
	h := &histogram.Histogram{CounterResetHint: histogram.GaugeType, Schema: histogram.ExponentialSchemaMin, PositiveSpans: []histogram.Span{{Length: uint32(buckets)}}, PositiveBuckets: make([]int64, buckets)}
	if custom {
		h.Schema = histogram.CustomBucketsSchema
		for i := range buckets - 1 {
			h.CustomValues = append(h.CustomValues, float64(i))
		}
	}
	for len(h.PositiveSpans) < spans {
		h.PositiveSpans = append(h.PositiveSpans, histogram.Span{Offset: 1})
	}
	return series.Sample{T: nowMillis, H: h}
}

// TestBounds checks every bound that is independent of limits. With all limits 0, a series
// or sample at the bound is accepted, and one beyond it is rejected while the rest of the
// request is accepted. The message contains the bound and the actual value.
func TestBounds(t *testing.T) {
	name := func(n int) labels.Labels { return rawLabels("__name__", strings.Repeat("n", n)) }
	value := func(n int) labels.Labels { return rawLabels("__name__", "m", "l", strings.Repeat("\x00", n-10)) }
	one := rawLabels("__name__", "m")
	for _, c := range []struct {
		reason string
		bound  int64
		entry  func(beyond int) series.Entry
	}{
		{"after_2261", series.MaxTime, func(b int) series.Entry { return entryOf(one, at(series.MaxTime+int64(b))) }},
		{"too_many_labels", pack.MaxSeriesLabels, func(b int) series.Entry { return entryOf(manyLabels(pack.MaxSeriesLabels+b), at(1)) }},
		{"metric_name_too_long", schema.MaxMetricName, func(b int) series.Entry { return entryOf(name(schema.MaxMetricName+b), at(1)) }},
		{"labels_too_large", pack.MaxSeriesLabelBytes, func(b int) series.Entry { return entryOf(value(pack.MaxSeriesLabelBytes+b), at(1)) }},
		{"histogram_too_large", series.MaxHistogramParts, func(b int) series.Entry { return entryOf(one, gauge(series.MaxHistogramParts+b, 1, false)) }},
		{"histogram_too_large", series.MaxHistogramParts, func(b int) series.Entry { return entryOf(one, gauge(1, series.MaxHistogramParts+b, false)) }},
		{"histogram_too_large", series.MaxHistogramParts, func(b int) series.Entry { return entryOf(one, gauge(series.MaxHistogramParts+b, 1, true)) }},
	} {
		for beyond := range 2 {
			got := &fakeIngester{}
			d := distribute(map[string]Ingester{"a": got}, limits.Limits{})
			e := c.entry(beyond)
			out, err := d.Push(context.Background(), &series.Batch{Tenant: "t", Entries: []series.Entry{entryOf(rawLabels("__name__", "good"), at(1)), e}})
			if err != nil {
				t.Fatal(err)
			}
			if got, want := out.Samples+out.Histograms, 2-beyond; got != want {
				t.Errorf("%s, %d beyond: %d samples accepted, want %d: %v", c.reason, beyond, got, want, out.String())
			}
			if beyond == 0 {
				continue
			}
			if len(out.Rejections) != 1 || out.Rejections[0].Reason != c.reason || !strings.Contains(out.Rejections[0].Message, fmt.Sprint(c.bound)) ||
				!strings.Contains(out.Rejections[0].Message, fmt.Sprint(c.bound+1)) {
				t.Errorf("%s: rejections %+v, want one with the bound and the actual value", c.reason, out.Rejections)
			}
		}
	}
}

// TestTimestampUnits checks that timestamps in microseconds or nanoseconds and the largest
// number are rejected with a hint, independent of limits, and not as a clock that is ahead.
func TestTimestampUnits(t *testing.T) {
	for _, lim := range []limits.Limits{{}, limits.Default()} {
		for _, ts := range []int64{nowMillis * 1000, nowMillis * 1_000_000, 185542587187200000, math.MaxInt64} {
			d := distribute(map[string]Ingester{"a": &fakeIngester{}}, lim)
			out, err := d.Push(context.Background(), &series.Batch{Tenant: "t", Entries: []series.Entry{entryOf(rawLabels("__name__", "m"), at(ts), at(nowMillis))}})
			if err != nil || out.Samples != 1 || len(out.Rejections) != 1 || out.Rejections[0].Reason != "after_2261" || !strings.Contains(out.Rejections[0].Message, "microseconds or nanoseconds") {
				t.Errorf("timestamp %d: %+v, %v", ts, out, err)
			}
		}
	}
}

// TestMetadataBounds checks that metadata texts are truncated, and that metadata with a
// name too long for the index is dropped, without rejecting samples.
func TestMetadataBounds(t *testing.T) {
	got := &fakeIngester{}
	d := distribute(map[string]Ingester{"a": got}, limits.Limits{})
	long := strings.Repeat("x", pack.MaxMetadataText+1)
	out, err := d.Push(context.Background(), &series.Batch{Tenant: "t",
		Entries: []series.Entry{{Labels: rawLabels("__name__", "m"), Samples: []series.Sample{at(1)}, Exemplars: []exemplar.Exemplar{{Ts: math.MaxInt64}}}},
		Metadata: []series.MetricMetadata{
			{Metric: "m", Metadata: metadata.Metadata{Help: long, Unit: long}},
			{Metric: strings.Repeat("n", schema.MaxMetricName+1)},
		}})
	if err != nil || out.Samples != 1 || len(out.Rejections) != 0 {
		t.Fatalf("Push = %+v, %v, want no rejected samples", out, err)
	}
	md := got.metadata
	if len(md) != 1 || len(md[0].Help) != pack.MaxMetadataText || len(md[0].Unit) != pack.MaxMetadataText {
		t.Errorf("%d entries of metadata, want one with truncated texts", len(md))
	}
}
