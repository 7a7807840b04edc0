package ingester

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wal"
	"github.com/palliumhq/pallium/policies/limits"
)

// failingDisk is a wal.Disk that has no space for new files (full), or on which
// writing and removing fail (broken).
type failingDisk struct {
	wal.Disk
	full, broken atomic.Bool
}

// Create implements wal.Disk.
func (d *failingDisk) Create(path string) (wal.File, error) {
	if d.full.Load() {
		return nil, &os.PathError{Op: "open", Path: path, Err: syscall.ENOSPC}
	}
	f, err := d.Disk.Create(path)
	return failingFile{f, d}, err
}

// Remove implements wal.Disk.
func (d *failingDisk) Remove(path string) error {
	if d.broken.Load() {
		return syscall.EIO
	}
	return d.Disk.Remove(path)
}

type failingFile struct {
	wal.File
	disk *failingDisk
}

// WriteAt implements wal.File.
func (f failingFile) WriteAt(p []byte, off int64) (int, error) {
	if f.disk.broken.Load() {
		return 0, syscall.EIO
	}
	return f.File.WriteAt(p, off)
}

func newFailingBench(t *testing.T) (*bench, *failingDisk) {
	t.Helper()
	d := &failingDisk{Disk: wal.OS()}
	b := &bench{t: t, dir: t.TempDir(), lim: limits.Default(), logDisk: d}
	b.lim.MaxExemplars = 100
	b.set(time.UnixMilli(1_700_000_000_000))
	b.open()
	t.Cleanup(func() { _ = b.ing.Close() })
	return b, d
}

func (b *bench) readError(id tenant.ID) error {
	b.t.Helper()
	sel, _, err := b.ing.Select(context.Background(), series.Request{Tenant: id, MinTime: math.MinInt64, MaxTime: math.MaxInt64})
	if err == nil {
		sel.Release()
	}
	return err
}

// TestAcceptedLossStaysAccepted checks that an accepted loss stays accepted after
// the next replay of the same log.
func TestAcceptedLossStaysAccepted(t *testing.T) {
	b := newBench(t)
	now := b.now.UnixMilli()
	b.push("a", entry(metric("m"), f(now, 1)))
	b.push("a", entry(metric("m"), f(now+1, 1)))
	b.damage(b.ing.log.Segment(), 0)
	b.crash()
	if err := b.readError("a"); !errors.Is(err, series.ErrLost) || !strings.HasSuffix(err.Error(), " samples of "+series.DateOf(series.Day(now))) {
		t.Fatalf("error of a read: %v, want ErrLost with the day at the end", err)
	}
	if lost := b.ing.Stats().Lost; len(lost) != 1 || lost[0] != (LostStats{Tenant: "a", Day: series.Day(now), MinTime: now + 1, MaxTime: now + 1}) {
		t.Errorf("lost samples in the status: %+v, want those of one millisecond", lost)
	}
	if n, err := b.ing.AcceptLoss(series.Day(now)); n != 1 || err != nil {
		t.Fatalf("AcceptLoss = %d, %v; want 1", n, err)
	}
	if lost := b.ing.Stats().Lost; len(lost) != 0 {
		t.Errorf("the status has an accepted loss: %+v", lost)
	}
	for _, when := range []string{"before", "after"} {
		b.crash()
		if err := b.readError("a"); err != nil {
			t.Errorf("the loss was accepted, but a read %s the seal fails: %v", when, err)
		}
		b.must(b.ing.Flush())
	}
	if n := len(b.ing.losses.list); n != 0 {
		t.Errorf("%d accepted losses are in the list although the log is deleted", n)
	}
}

// TestDamageToTheOnlyRecord checks that with replicas, the windows of the two hours before a
// damaged segment was last modified are reported, even if the segment has no readable record.
func TestDamageToTheOnlyRecord(t *testing.T) {
	b := &bench{t: t, dir: t.TempDir(), replicas: 3, lim: limits.Default()}
	var reported []int64
	b.damaged = func(_ context.Context, windows []int64) error { reported = windows; return nil }
	b.set(time.Now())
	b.open()
	t.Cleanup(func() { _ = b.ing.Close() })
	b.push("a", entry(metric("m"), f(b.now.UnixMilli(), 1)))
	b.damage(b.ing.log.Segment(), 0)
	b.crash()
	if !slices.Contains(reported, series.WindowStart(b.now.UnixMilli())) {
		t.Errorf("reported windows %v, want the current window among them", reported)
	}
}

// TestReferencesAreNotUsedTwice checks that a reference whose labels are damaged is not reused
// for a series of another tenant. Otherwise a replay without sealed.json would give that series
// the old reference's samples.
func TestReferencesAreNotUsedTwice(t *testing.T) {
	b := newBench(t)
	now := b.now.UnixMilli()
	old := now - series.WindowMillis
	b.push("keep", entry(metric("k"), f(now, 1))) // keeps the segment
	b.push("a", entry(metric("secret"), f(old, 41)))
	b.push("a", entry(metric("secret"), f(old+1, 42)))
	segment := b.ing.log.Segment()
	b.must(b.ing.seal(series.WindowStart(now)))
	b.must(b.ing.Close())
	b.damage(segment, 1)
	b.open()
	b.push("other", entry(metric("of_other"), f(now, 7)))
	b.must(b.ing.Close())
	b.must(os.Remove(filepath.Join(b.dir, "sealed.json")))
	b.open()
	same(t, "the other tenant", b.read("other"), map[string][]series.Sample{metric("of_other").String(): {f(now, 7)}})
}

// TestCheckpointInAFailedSegment checks that a label checkpoint (the second copy of labels) is
// written again if the sync of the segment that it was written to failed.
func TestCheckpointInAFailedSegment(t *testing.T) {
	b, disk := newFaultyBench(t, 1)
	b.ing.background.Stop() // otherwise it would write checkpoints too
	now := b.now.UnixMilli()
	b.push("a", entry(metric("m"), f(now, 1)))
	b.push("a", entry(metric("m"), f(now+1, 2)))
	first := b.ing.log.Segment()
	b.set(b.now.Add(checkpointAfter))
	_, err := b.ing.log.Split()
	b.must(err)
	b.ing.labels.overdue(b.ing.log.Segment())
	disk.FailSyncs(1)
	if err := b.ing.labels.checkpoint(t.Context()); err == nil {
		t.Fatal("the checkpoint succeeded although its sync failed")
	}
	b.push("a", entry(metric("more"), f(now+2, 3))) // in the next segment
	b.checkpoint()
	old := b.ing
	old.background.Stop()
	b.must(disk.CutPower())
	b.damage(first, 0)
	b.open()
	_ = old.packs.close()
	b.checkSamples(map[string]map[int64]float64{metric("m").String(): {now + 1: 2}, metric("more").String(): {now + 2: 3}})
}

// TestExistingSegmentFile checks that a segment that could neither be begun nor removed
// does not block the log once the disk works again.
func TestExistingSegmentFile(t *testing.T) {
	b, d := newFailingBench(t)
	now := b.now.UnixMilli()
	b.push("a", entry(metric("m"), f(now, 1)))
	d.broken.Store(true)
	if _, err := b.ing.log.Cut(); err == nil {
		t.Fatal("the log was cut on a broken disk")
	}
	d.broken.Store(false)
	b.push("a", entry(metric("m"), f(now+1, 2)))
	if _, err := b.ing.log.Cut(); err != nil {
		t.Errorf("cut after the disk works again: %v", err)
	}
	b.push("a", entry(metric("m"), f(now+2, 3)))
	b.crash()
	b.checkSamples(map[string]map[int64]float64{metric("m").String(): {now: 1, now + 1: 2, now + 2: 3}})
}

// TestSealDeletesLogOnFullDisk checks that a seal deletes the log although there is no space
// to write exemplars again, which are lost at the next start.
func TestSealDeletesLogOnFullDisk(t *testing.T) {
	b, d := newFailingBench(t)
	e := entry(metric("m"), f(b.now.UnixMilli(), 1))
	e.Exemplars = []exemplar.Exemplar{{Labels: labels.FromStrings("trace_id", "x"), Ts: b.now.UnixMilli(), HasTs: true, Value: 1}}
	b.push("a", e)
	d.full.Store(true)
	b.crash()
	b.must(b.ing.Flush())
	if left, err := wal.Segments(filepath.Join(b.dir, "wal")); err != nil || len(left) != 0 {
		t.Errorf("segments %v are left, want none; error %v", left, err)
	}
}

// TestClockAhead checks that a clock that was 400 days ahead for a moment does not
// prevent the deletion of the log.
func TestClockAhead(t *testing.T) {
	b := newBench(t)
	right := b.now
	b.set(right.Add(400 * 24 * time.Hour))
	b.must(b.ing.sealDue())
	b.set(right)
	for range 48 * 4 { // two days
		b.set(b.now.Add(15 * time.Minute))
		b.push("a", entry(metric("m"), f(b.now.UnixMilli(), 1)))
		b.must(b.ing.sealDue())
	}
	oldest := b.now.UnixMilli()
	segments, _ := b.logOf()
	for _, s := range segments {
		for _, times := range s.used {
			oldest = min(oldest, slices.Min(times))
		}
	}
	if age := b.now.UnixMilli() - oldest; age > 6*time.Hour.Milliseconds() {
		t.Errorf("the log has samples that are %v old, want at most 6h", time.Duration(age)*time.Millisecond)
	}
}

// TestRejectedExemplarsAreNotReplayed checks that a replay does not restore an exemplar
// that was dropped as out of order.
func TestRejectedExemplarsAreNotReplayed(t *testing.T) {
	b := newBench(t)
	now := b.now.UnixMilli()
	for i, at := range []int64{now, now - 1000} {
		e := entry(metric("m"), f(now+int64(i), 1))
		e.Exemplars = []exemplar.Exemplar{{Labels: labels.FromStrings("trace_id", "x"), Ts: at, HasTs: true, Value: 1}}
		b.push("a", e)
	}
	b.crash()
	if n := len(b.ing.head("a", false).exemplars.inOrder()); n != 1 {
		t.Errorf("%d exemplars, want 1", n)
	}
}
