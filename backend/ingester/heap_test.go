package ingester

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

func heapBytes() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestCountedIsHeap compares the counted bytes with the growth of the heap.
func TestCountedIsHeap(t *testing.T) {
	for _, c := range []struct {
		name  string
		batch func(now int64, part int) *series.Batch // nil: no more batches
	}{
		{"series with few labels", manySeries(100_000, func(i int) labels.Labels { return metric(fmt.Sprint("m", i%100), "i", fmt.Sprint(i)) })},
		{"series with many labels", manySeries(50_000, func(i int) labels.Labels {
			return labels.FromStrings("__name__", fmt.Sprint("metric_", i%200), "cluster", "c1", "container", "server", "instance", fmt.Sprint("10.0.0.", i/200, ":9090"), "job", "node",
				"le", fmt.Sprint(i%200), "namespace", fmt.Sprint("namespace-", i%50), "pod", fmt.Sprint("pod-", i), "region", "europe-west1", "shard", fmt.Sprint(i%10))
		})},
		{"series with unique values", manySeries(20_000, func(i int) labels.Labels {
			var all []string
			for k := range 20 {
				all = append(all, fmt.Sprint("label", k), fmt.Sprint("value-", k, "-", i))
			}
			return labels.FromStrings(append(all, "__name__", "m")...)
		})},
		{"series of many small tenants", manyTenants(200, 100)},
		{"late histograms", lateHistograms(500, 127, 640)},
		{"late floats", lateFloats(20_000, 100)},
		{"open histogram chunks", openHistograms(2000, 160, 10)},
		{"many samples", manySamples(2000, 1000)},
		{"metadata", manyMetadata(20_000)},
		{"exemplars", manyExemplars(10_000)},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newStillBench(t)
			b.lim.PastGrace, b.lim.MaxHistogramBuckets = 0, 0
			counted, heap := b.ing.account.bytes.Load(), heapBytes()
			for part := 0; ; part++ {
				batch := c.batch(b.now.UnixMilli(), part)
				if batch == nil {
					break
				}
				if batch.Tenant == "" {
					batch.Tenant = "a"
				}
				if _, err := b.ing.Push(context.Background(), batch); err != nil {
					t.Fatal(err)
				}
			}
			grown := heapBytes() - heap
			counted = b.ing.account.bytes.Load() - counted
			ratio := float64(counted) / float64(grown)
			t.Logf("counted %d, heap grew by %d: %.2f", counted, grown, ratio)
			if ratio < 0.7 || ratio > 1.6 {
				t.Errorf("counted %d bytes, but the heap grew by %d", counted, grown)
			}
			b.ing.counted(t)
		})
	}
}

func manySeries(n int, name func(i int) labels.Labels) func(int64, int) *series.Batch {
	return func(now int64, part int) *series.Batch {
		b := &series.Batch{}
		for i := part * 1000; i < min(n, (part+1)*1000); i++ {
			b.Entries = append(b.Entries, entry(name(i), f(now, float64(i)), f(now+15_000, 1)))
		}
		if len(b.Entries) == 0 {
			return nil
		}
		return b
	}
}

func manyTenants(n, each int) func(int64, int) *series.Batch {
	return func(now int64, part int) *series.Batch {
		if part >= n {
			return nil
		}
		b := &series.Batch{Tenant: tenant.ID(fmt.Sprint("t", part))}
		for i := range each {
			b.Entries = append(b.Entries, entry(metric("m", "i", fmt.Sprint(i), "text", "xyz"), f(now, 1)))
		}
		return b
	}
}

func lateHistograms(n, late, buckets int) func(int64, int) *series.Batch {
	return func(now int64, part int) *series.Batch {
		if part >= n {
			return nil
		}
		e := entry(metric("h", "i", fmt.Sprint(part)), series.Sample{T: now, H: wideHistogram(buckets, now)})
		for i := range late {
			t := now - int64(i+1)*1000
			e.Samples = append(e.Samples, series.Sample{T: t, H: wideHistogram(buckets, t)})
		}
		return &series.Batch{Entries: []series.Entry{e}}
	}
}

func lateFloats(n, late int) func(int64, int) *series.Batch {
	return func(now int64, part int) *series.Batch {
		if part >= n/100 {
			return nil
		}
		b := &series.Batch{}
		for k := range 100 {
			e := entry(metric("h", "i", fmt.Sprint(part*100+k)), f(now, 1))
			for i := range late {
				e.Samples = append(e.Samples, f(now-int64(i+1)*1000, float64(i)))
			}
			b.Entries = append(b.Entries, e)
		}
		return b
	}
}

func openHistograms(n, buckets, samples int) func(int64, int) *series.Batch {
	return func(now int64, part int) *series.Batch {
		if part >= n {
			return nil
		}
		e := entry(metric("h", "i", fmt.Sprint(part)))
		for i := range samples {
			t := series.WindowStart(now) + int64(i)*1000
			e.Samples = append(e.Samples, series.Sample{T: t, H: wideHistogram(buckets, t)})
			if part%2 == 0 {
				e.Samples[i] = series.Sample{T: t, FH: e.Samples[i].H.ToFloat(nil)}
			}
		}
		return &series.Batch{Entries: []series.Entry{e}}
	}
}

func manySamples(n, samples int) func(int64, int) *series.Batch {
	return func(now int64, part int) *series.Batch {
		if part >= samples {
			return nil
		}
		b := &series.Batch{}
		for i := range n {
			b.Entries = append(b.Entries, entry(metric("m", "i", fmt.Sprint(i)), f(now+int64(part)*15_000, float64(i*part%1000)/7)))
		}
		return b
	}
}

func manyMetadata(n int) func(int64, int) *series.Batch {
	return func(_ int64, part int) *series.Batch {
		if part >= n/100 {
			return nil
		}
		b := &series.Batch{}
		for i := range 100 {
			b.Metadata = append(b.Metadata, series.MetricMetadata{Metric: fmt.Sprint("metric_", part*100+i, "_total"),
				Metadata: metadata.Metadata{Type: "counter", Unit: "seconds", Help: fmt.Sprint("What this counts, in the unit of ", i)}})
		}
		return b
	}
}

func manyExemplars(n int) func(int64, int) *series.Batch {
	return func(now int64, part int) *series.Batch {
		if part >= n/100 {
			return nil
		}
		e := entry(metric("m"), f(now+int64(part), 1))
		for i := range 100 {
			e.Exemplars = append(e.Exemplars, exemplar.Exemplar{Labels: labels.FromStrings("trace_id", fmt.Sprintf("%032d", part*100+i)), Value: float64(i), Ts: now + int64(part*100+i), HasTs: true})
		}
		return &series.Batch{Entries: []series.Entry{e}}
	}
}
