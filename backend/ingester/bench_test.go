package ingester

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// BenchmarkPush pushes floats of 2,000 existing series, without a sync of the log
// for each request.
func BenchmarkPush(b *testing.B) {
	ing, err := Open(context.Background(), Options{ID: "i", Dir: b.TempDir(), Replication: 3, Limits: func(tenant.ID) limits.Limits { return limits.Limits{} }, Now: func() time.Time { return time.UnixMilli(0) }})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = ing.Close() }()
	batch := series.Batch{Tenant: "t"}
	for i := range 2000 {
		ls := labels.FromStrings("__name__", "m", "i", fmt.Sprint(i))
		batch.Entries = append(batch.Entries, series.Entry{Labels: ls, Hash: ls.Hash(), Samples: make([]series.Sample, 1)})
	}
	b.ReportAllocs()
	at := int64(0)
	for b.Loop() {
		at += 15_000
		for i := range batch.Entries {
			batch.Entries[i].Samples[0] = series.Sample{T: at, V: float64(i)}
		}
		if _, err := ing.Push(context.Background(), &batch); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(2000*b.N)/b.Elapsed().Seconds(), "samples/s")
}
