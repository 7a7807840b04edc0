package ingester

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/palliumhq/pallium/backend/series"
)

// TestMetadataIsRemoved checks that metadata that is no longer sent is removed an hour
// after the last series of its metric, and never while a series needs it.
func TestMetadataIsRemoved(t *testing.T) {
	b := atWindowStart(t)
	for _, name := range []string{"gone", "sent", "family", "plain", "late"} {
		b.describe(name)
	}
	b.push("a", entry(metric("family_bucket", "le", "1"), f(b.now.UnixMilli(), 1)), entry(metric("plain"), f(b.now.UnixMilli(), 1)))
	for range 7 {
		b.set(b.now.Add(10 * time.Minute))
		b.describe("sent")
		b.push("a", entry(metric("family_bucket", "le", "1"), f(b.now.UnixMilli(), 1)))
	}
	b.push("a", entry(metric("late_total"), f(b.now.UnixMilli(), 1)))
	b.sweep()
	if got := b.described(); !slices.Equal(got, []string{"family", "late", "plain", "sent"}) {
		t.Fatalf("metrics with metadata after 70 minutes: %v", got)
	}
	if err := b.ing.Flush(); err != nil { // writes the metadata into packs with the series
		t.Fatal(err)
	}
	b.sweep()
	if got := b.described(); !slices.Equal(got, []string{"family", "late", "sent"}) { // plain had no sample for half an hour
		t.Fatalf("metrics with metadata after a seal: %v", got)
	}
	b.ing.counted(t)
	b.crash() // loads metadata from the packs
	b.still()
	if got := b.described(); !slices.Contains(got, "late") || !slices.Contains(got, "family") || !slices.Contains(got, "plain") {
		t.Errorf("metadata after a crash: %v, want that of all series that were sealed", got)
	}
	b.set(b.now.Add(30 * time.Minute)) // since the start
	b.sweep()
	if got := b.described(); !slices.Contains(got, "plain") {
		t.Errorf("metadata half an hour after a start: %v, want that of plain among it", got)
	}
	b.set(b.now.Add(2 * time.Hour))
	b.sweep()
	if got := b.described(); len(got) != 0 {
		t.Errorf("metadata hours later: %v, want none", got)
	}
	b.ing.counted(t)
}

// TestMetadataOfAddedSeries checks that a series that is added while metadata is
// swept keeps the metadata of its metric and of its family.
func TestMetadataOfAddedSeries(t *testing.T) {
	b := atWindowStart(t)
	for _, name := range []string{"a", "b", "c", "d"} {
		b.describe(name)
	}
	th, since := b.ing.head("a", true), b.now.Add(time.Hour).Unix()
	gone := th.staleMetadata(since)
	if len(gone) != 4 {
		t.Fatalf("stale metadata: %v, want that of four metrics", gone)
	}
	b.push("a", entry(metric("a"), f(b.now.UnixMilli(), 1)), entry(metric("b_sum"), f(b.now.UnixMilli(), 1)))
	b.set(b.now.Add(2 * time.Hour))
	b.describe("c")
	th.dropStale(gone, since)
	if got := b.described(); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("metadata left: %v, want a, b and c", got)
	}
}

// describe sends metadata of a metric of tenant a.
func (b *bench) describe(name string) {
	b.t.Helper()
	md := series.MetricMetadata{Metric: name}
	md.Help = "Help of " + name
	if _, err := b.ing.Push(context.Background(), &series.Batch{Tenant: "a", Metadata: []series.MetricMetadata{md}}); err != nil {
		b.t.Fatal(err)
	}
}

// described returns the metrics of tenant a with metadata.
func (b *bench) described() []string {
	var out []string
	for _, m := range b.ing.Metadata("a") {
		out = append(out, m.Metric)
	}
	return out
}

// sweep removes idle series and metadata.
func (b *bench) sweep() {
	b.ing.sealMu.Lock()
	defer b.ing.sealMu.Unlock()
	b.ing.dropIdle(idleTimesAt(b.now, idleSeries))
}
