package ingester

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wal"
)

// TestReplayInOrder checks that replay uses as many appliers as processors, and that
// they append the samples of a series in the order of the log, so that none is out of
// order.
func TestReplayInOrder(t *testing.T) {
	if n := len(newReplay(newBench(t).ing, "").appliers.workers); n != runtime.GOMAXPROCS(0) {
		t.Errorf("%d appliers on %d processors, want one on each", n, runtime.GOMAXPROCS(0))
	}
	const n = 3*applyBatch + 7
	a := newAppliers(4)
	var list []*memSeries
	for ref := range uint64(9) {
		ls := metric("m", "i", fmt.Sprint(ref))
		list = append(list, newMemSeries(ls, ls.Hash(), ref))
	}
	for i := range int64(n) {
		for _, s := range list {
			a.float(s, 1_700_000_000_000+i, float64(i))
		}
	}
	if err := a.wait(); err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		samples := 0
		s.eachChunk(func(c *series.Chunk) { samples += c.Samples })
		if s.rare != nil || samples != n {
			t.Errorf("%s: %d of %d samples are in the chunks in order; has out-of-order samples: %v", s.labels, samples, n, s.rare != nil)
		}
	}
}

// TestReplayProgress checks that Options.Replaying is called with the number of
// replayed bytes, at the end with the size of the log.
func TestReplayProgress(t *testing.T) {
	b := newBench(t)
	o := b.options()
	b.push("a", entry(metric("m"), f(b.now.UnixMilli(), 1)))
	b.must(b.ing.Close())
	size := int64(0)
	segments, err := wal.Segments(b.dir + "/wal")
	b.must(err)
	for _, s := range segments {
		info, err := os.Stat(wal.SegmentPath(b.dir+"/wal", s))
		b.must(err)
		size += info.Size()
	}
	var told [][2]int64
	o.Replaying = func(done, total int64) { told = append(told, [2]int64{done, total}) }
	b.ing, err = Open(context.Background(), o)
	b.must(err)
	if n := len(told); n == 0 || told[n-1] != [2]int64{size, size} || size == 0 {
		t.Errorf("Replaying was called with %v for a log of %d bytes", told, size)
	}
}

// TestOpenEnds checks that Open fails if its context is done during the replay, and
// that the next Open restores everything.
func TestOpenEnds(t *testing.T) {
	b := newBench(t)
	now := b.now.UnixMilli()
	b.push("a", entry(metric("m"), f(now, 1)))
	b.must(b.ing.Close())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if ing, err := Open(ctx, b.options()); !errors.Is(err, context.Canceled) {
		t.Fatalf("Open returned an ingester: %v; error %v, want context.Canceled", ing != nil, err)
	}
	b.open()
	b.checkSamples(map[string]map[int64]float64{metric("m").String(): {now: 1}})
}

// TestStopPushes checks that an ingester that leaves rejects pushes with ErrStopped and
// serves reads, and that it accepts pushes again if leaving fails.
func TestStopPushes(t *testing.T) {
	b := newBench(t)
	now := b.now.UnixMilli()
	b.push("a", entry(metric("m"), f(now, 1)))
	b.ing.StopPushes()
	batch := &series.Batch{Tenant: "a", Entries: []series.Entry{entry(metric("m"), f(now+1, 2))}}
	if _, err := b.ing.Push(context.Background(), batch); !errors.Is(err, ErrStopped) {
		t.Errorf("push while the ingester leaves: error %v, want ErrStopped", err)
	}
	b.checkSamples(map[string]map[int64]float64{metric("m").String(): {now: 1}})
	b.ing.ResumePushes()
	b.push("a", entry(metric("m"), f(now+1, 2)))
	b.checkSamples(map[string]map[int64]float64{metric("m").String(): {now: 1, now + 1: 2}})
}
