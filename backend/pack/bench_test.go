package pack

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/series"
)

const benchMetrics = 20

// benchSeries returns series like a Kubernetes cluster has: 20 metrics, each with
// many pods, with chunks of half an hour.
func benchSeries(b *testing.B, n int) []series.WithChunks {
	b.Helper()
	var chunks []series.Chunk
	for i := range int64(4) {
		c := floats(b, testDay*series.DayMillis+i*series.SubChunkMillis, 15000, 120, func(k int) float64 { return float64(k % 17) })
		chunks = append(chunks, c...)
	}
	out := make([]series.WithChunks, n)
	for i := range out {
		pod := i / benchMetrics
		out[i] = series.WithChunks{Chunks: chunks, Labels: labels.FromStrings("__name__", fmt.Sprintf("metric_%02d_total", i%benchMetrics),
			"cluster", "eu-west-1", "namespace", fmt.Sprintf("team-%d", pod%20), "job", "kubelet", "container", fmt.Sprintf("app-%d", pod%50),
			"instance", fmt.Sprintf("10.0.%d.%d:10250", pod/250%250, pod%250), "node", fmt.Sprintf("node-%d", pod%30),
			"pod", fmt.Sprintf("app-%d-%08x", pod%50, uint32(pod)*2654435761))}
	}
	sortSeries(out)
	return out
}

func BenchmarkWrite(b *testing.B) {
	all := benchSeries(b, 100_000)
	dir := b.TempDir()
	b.ReportAllocs()
	b.ResetTimer()
	var info Info
	for i := range b.N {
		info = writeParts(b, filepath.Join(dir, fmt.Sprintf("%d.pk", i)), Options{ID: testID}, []part{{tenant: "acme", day: testDay, series: all}})
	}
	data := 0
	for _, s := range all {
		for _, c := range s.Chunks {
			data += len(c.Data)
		}
	}
	b.ReportMetric(float64(int(info.Size)-data)/float64(len(all)), "overhead-B/series")
	b.ReportMetric(float64(data)/float64(len(all)), "chunk-B/series")
}

func benchReader(b *testing.B, cacheBytes int64) *Reader {
	path := filepath.Join(b.TempDir(), "x.pk")
	writeParts(b, path, Options{ID: testID}, []part{{tenant: "acme", day: testDay, series: benchSeries(b, 10_000*benchMetrics)}})
	r := openPath(b, path, WithPageCache(NewPageCache(cacheBytes)))
	b.ReportAllocs()
	b.ResetTimer()
	return r
}

func benchSelect(b *testing.B, cacheBytes int64, want int, ms ...*labels.Matcher) {
	r := benchReader(b, cacheBytes)
	for range b.N {
		got, err := r.Select(context.Background(), "acme", 0, math.MaxInt64, ms...)
		if err != nil || len(got) != want {
			b.Fatalf("%d series, %v", len(got), err)
		}
	}
	b.ReportMetric(float64(r.pages.Bytes()), "cache-B")
}

func BenchmarkSelectWarm(b *testing.B) {
	benchSelect(b, 1<<30, 10_000, eq("__name__", "metric_12_total"))
}
func BenchmarkSelectCold(b *testing.B) { benchSelect(b, 0, 10_000, eq("__name__", "metric_12_total")) }
func BenchmarkSelectRegexp(b *testing.B) {
	benchSelect(b, 1<<30, 200, eq("__name__", "metric_12_total"), labels.MustNewMatcher(labels.MatchRegexp, "container", ".*-7"))
}

func BenchmarkChunks(b *testing.B) {
	r := benchReader(b, 1<<30)
	found, err := r.Select(context.Background(), "acme", 0, math.MaxInt64, eq("__name__", "metric_12_total"))
	if err != nil {
		b.Fatal(err)
	}
	for range b.N {
		for i := range found {
			for _, ref := range found[i].Chunks {
				if _, err := r.Chunk(ref); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
}

func BenchmarkLabelValues(b *testing.B) {
	r := benchReader(b, 1<<30)
	for range b.N {
		if got, err := r.LabelValues(context.Background(), "acme", "__name__", 0, math.MaxInt64); err != nil || len(got) != benchMetrics {
			b.Fatalf("%d values, %v", len(got), err)
		}
	}
}
