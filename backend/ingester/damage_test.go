package ingester

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/prometheus/model/metadata"

	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wal"
)

// logPath returns the path of a segment.
func (b *bench) logPath(segment int) string {
	return wal.SegmentPath(filepath.Join(b.dir, "wal"), segment)
}

// checkpoint advances the clock until a second copy of labels is due, and writes
// it.
func (b *bench) checkpoint() {
	b.t.Helper()
	b.set(b.now.Add(checkpointAfter))
	if err := b.ing.labels.checkpoint(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	if n := b.ing.labels.waiting(); n != 0 {
		b.t.Fatalf("%d series still have only one copy of their labels", n)
	}
}

// frameMagic is the beginning of a record in a segment.
const frameMagic = "\xd6PW\x01"

// damage flips a bit in a record of a segment.
func (b *bench) damage(segment, record int) {
	b.t.Helper()
	data, err := os.ReadFile(b.logPath(segment))
	if err != nil {
		b.t.Fatal(err)
	}
	at := 0
	for range record + 1 {
		next := bytes.Index(data[at:], []byte(frameMagic))
		if next < 0 {
			b.t.Fatalf("segment %d has no record %d", segment, record)
		}
		at += next + len(frameMagic)
	}
	data[at+15] ^= 1
	if err := os.WriteFile(b.logPath(segment), data, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// TestSeriesTwiceInTheFirstRecord checks that only the samples of the first record
// are lost when that record is damaged, also if it has several entries of a series,
// as from a sender that catches up.
func TestSeriesTwiceInTheFirstRecord(t *testing.T) {
	b := newBench(t)
	now, ls := b.now.UnixMilli(), metric("a")
	b.push("a", entry(ls, f(now-2, 1)), entry(ls, f(now-1, 2)))
	b.push("a", entry(ls, f(now, 3)))
	b.push("a", entry(ls, f(now+1, 4)))
	first := b.ing.log.Segment()
	b.checkpoint()
	b.damage(first, 0)
	b.crash()
	same(t, "after damage to the first record", b.read("a"), map[string][]series.Sample{ls.String(): {f(now, 3), f(now+1, 4)}})
}

func TestMetadataOfARejectedWriteIsLoggedLater(t *testing.T) {
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
		t.Fatal("a closed log accepted a write")
	}
	b.ing.log = good
	if _, err := b.ing.Push(context.Background(), batch()); err != nil {
		t.Fatal(err)
	}
	b.crash()
	if got := b.ing.Metadata("a"); len(got) != 1 {
		t.Errorf("metadata after the restart: %v, want one", got)
	}
}

// TestLogRemoved checks that if an operator removed a damaged log, samples
// written later do not count as sealed, although the numbers of their segments
// could be low again.
func TestLogRemoved(t *testing.T) {
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
	same(t, "after the log was removed", b.read("a"), map[string][]series.Sample{ls.String(): {f(now-series.WindowMillis, 1), late}})
}
