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

// TestReplayInOrder: replay appends on all processors, and the samples of a series in
// the order of the log: none of them becomes a late one.
func TestReplayInOrder(t *testing.T) {
	if n := len(newReplay(newBench(t).ing, "").appliers.workers); n != runtime.GOMAXPROCS(0) {
		t.Errorf("%d appliers on %d processors", n, runtime.GOMAXPROCS(0))
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
			t.Errorf("%s: %d samples of %d in order, late ones: %v", s.labels, samples, n, s.rare != nil)
		}
	}
}

// TestReplayProgress: who opens an ingester is told of the bytes of the log that are
// replayed, up to the last one, and of none without a log.
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
		t.Errorf("told of %v of a log of %d bytes", told, size)
	}
}

// TestOpenEnds: an ingester that replays and is told to stop gives up, and the next
// one has everything.
func TestOpenEnds(t *testing.T) {
	b := newBench(t)
	now := b.now.UnixMilli()
	b.push("a", entry(metric("m"), f(now, 1)))
	b.must(b.ing.Close())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if ing, err := Open(ctx, b.options()); !errors.Is(err, context.Canceled) {
		t.Fatalf("opened %v: %v", ing != nil, err)
	}
	b.open()
	b.checkSamples(map[string]map[int64]float64{metric("m").String(): {now: 1}})
}

// TestStopPushes: an ingester that leaves rejects pushes, as what another one may take,
// and answers reads; if leaving fails it takes pushes again.
func TestStopPushes(t *testing.T) {
	b := newBench(t)
	now := b.now.UnixMilli()
	b.push("a", entry(metric("m"), f(now, 1)))
	b.ing.StopPushes()
	batch := &series.Batch{Tenant: "a", Entries: []series.Entry{entry(metric("m"), f(now+1, 2))}}
	if _, err := b.ing.Push(context.Background(), batch); !errors.Is(err, ErrStopped) {
		t.Errorf("a push while it leaves: %v", err)
	}
	b.checkSamples(map[string]map[int64]float64{metric("m").String(): {now: 1}})
	b.ing.ResumePushes()
	b.push("a", entry(metric("m"), f(now+1, 2)))
	b.checkSamples(map[string]map[int64]float64{metric("m").String(): {now: 1, now + 1: 2}})
}
