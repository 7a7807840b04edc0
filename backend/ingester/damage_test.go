package ingester

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/prometheus/model/metadata"

	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wal"
)

// A sender that catches up puts a series into one request many times.
func TestSeriesTwiceInTheFirstRecord(t *testing.T) {
	b := newBench(t)
	now, ls := b.now.UnixMilli(), metric("a")
	b.push("a", entry(ls, f(now-2, 1)), entry(ls, f(now-1, 2)))
	b.push("a", entry(ls, f(now, 3)))
	b.push("a", entry(ls, f(now+1, 4)))
	path := filepath.Join(b.dir, "wal", fmt.Sprintf("%08d.wal", b.ing.log.Segment()))
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[8+20] ^= 1 // in the first record
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	b.crash()
	same(t, "after damage to the first record", b.read("a"), map[string][]series.Sample{ls.String(): {f(now, 3), f(now+1, 4)}})
}

func TestMetadataOfARefusedWriteIsLoggedLater(t *testing.T) {
	b := newBench(t)
	batch := func() *series.Batch {
		return &series.Batch{Tenant: "a", Metadata: []series.MetricMetadata{{Metric: "m", Metadata: metadata.Metadata{Type: "counter", Help: "Help."}}}}
	}
	good := b.ing.log
	closed, err := wal.Open(t.TempDir(), wal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	b.ing.log = closed
	if _, err := b.ing.Push(context.Background(), batch()); err == nil {
		t.Fatal("a closed log took a write")
	}
	b.ing.log = good
	if _, err := b.ing.Push(context.Background(), batch()); err != nil {
		t.Fatal(err)
	}
	b.crash()
	if got := b.ing.Metadata("a"); len(got) != 1 {
		t.Errorf("metadata %v", got)
	}
}

// An operator may take a damaged log away. What is written after that must not
// be taken for sealed because its segments have low numbers again.
func TestLogTakenAway(t *testing.T) {
	b := newBench(t)
	now, ls := b.now.UnixMilli(), metric("a")
	b.push("a", entry(ls, f(now-series.WindowMillis, 1), f(now, 2)))
	if err := b.ing.seal(series.WindowStart(now)); err != nil {
		t.Fatal(err)
	}
	if err := b.ing.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(b.dir, "wal")); err != nil {
		t.Fatal(err)
	}
	b.open()
	late := f(now-series.WindowMillis+1, 3)
	b.push("a", entry(ls, late))
	b.crash()
	same(t, "after the log was taken away", b.read("a"), map[string][]series.Sample{ls.String(): {f(now-series.WindowMillis, 1), late}})
}
