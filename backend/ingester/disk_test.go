package ingester

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// smallDisk is a file system of limited size for an ingester's directory.
type smallDisk struct {
	dir  string
	free func(string) (int64, error) // nil: statfs
	fill func()                      // another process uses all free space
	give func()                      // that process frees the space again
}

// pretendedDisk computes the free space from the files below the directory.
func pretendedDisk(t *testing.T, size int64) smallDisk {
	t.Helper()
	var foreign atomic.Int64
	dir := t.TempDir()
	return smallDisk{dir: dir,
		free: func(string) (int64, error) { return max(size-diskUse(t, dir)-foreign.Load(), 0), nil },
		fill: func() { foreign.Store(size) },
		give: func() { foreign.Store(0) }}
}

// diskUse returns the total size of all files below a directory.
func diskUse(t *testing.T, dir string) int64 {
	total := int64(0)
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			var info fs.FileInfo
			if info, err = d.Info(); err == nil {
				total += info.Size()
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return total
}

// realDisk mounts a tmpfs, or returns a pretendedDisk if that is not permitted.
func realDisk(t *testing.T, size int64) smallDisk {
	t.Helper()
	dir := t.TempDir()
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size))
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		return pretendedDisk(t, size)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	return smallDisk{dir: filepath.Join(dir, "data"),
		fill: func() {
			f, err := os.Create(ballast)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for size := 1 << 20; size > 0; {
				if _, err = f.Write(make([]byte, size)); err != nil {
					size /= 2
				}
			}
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("the disk is not full: %v", err)
			}
		},
		give: func() {
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
		}}
}

// still stops the ingester's goroutines, so that only the test seals.
func (b *bench) still() {
	b.ing.background.Stop()
}

// newDiskBench returns a bench on a small disk, on which only the test seals.
func newDiskBench(t *testing.T, d smallDisk) *bench {
	t.Helper()
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, dir: d.dir, lim: limits.Default(), diskFree: d.free, replicas: 3}
	b.set(time.UnixMilli(1_700_000_000_000))
	b.open()
	b.still()
	t.Cleanup(func() { _ = b.ing.Close() })
	return b
}

// noise creates batches of random floats, which use most space in chunks relative
// to the log.
type noise struct {
	rng   *rand.Rand
	b     *bench
	round int
	sent  map[string]int // acknowledged samples by series
}

func newNoise(b *bench) *noise {
	return &noise{rng: rand.New(rand.NewPCG(1, 2)), b: b, sent: map[string]int{}}
}

// push pushes one sample of each of 1,000 series.
func (n *noise) push() error {
	n.round++
	batch := &series.Batch{Tenant: "a"}
	for i := range 1000 {
		t := n.b.now.UnixMilli() + int64(n.round)*1000 + n.rng.Int64N(900)
		batch.Entries = append(batch.Entries, entry(metric("noise", "i", fmt.Sprint(i)), f(t, math.Float64frombits(n.rng.Uint64()>>2))))
	}
	_, err := n.b.ing.Push(context.Background(), batch)
	if err == nil {
		for i := range batch.Entries {
			n.sent[batch.Entries[i].Labels.String()]++
		}
	}
	return err
}

// untilFull pushes until only the disk's reserve is left.
func (n *noise) untilFull() {
	n.b.t.Helper()
	for range 100_000 {
		err := n.push()
		if errors.Is(err, ErrDiskFull) {
			if text := err.Error(); !strings.Contains(text, "nearly full") || !strings.Contains(text, "automatically") {
				n.b.t.Errorf("error %q does not contain \"nearly full\" and \"automatically\"", text)
			}
			return
		}
		if err != nil {
			n.b.t.Fatalf("push: %v", err)
		}
	}
	n.b.t.Fatal("the disk did not become full")
}

// untilSealed fills the disk and runs the ingester's regular check, again and again until
// the check seals. Pushes must succeed after each check. It returns the size of the log
// before the seal. With crash the ingester is killed whenever the disk is full.
func (n *noise) untilSealed(crash bool) int64 {
	n.b.t.Helper()
	for range 50 {
		n.untilFull()
		if crash {
			n.b.crash()
			n.b.still()
			n.check("replayed on a full disk")
		}
		log := n.b.ing.log.Bytes()
		n.b.set(n.b.now.Add(earlyInterval))
		if err := n.b.ing.sealDue(); err != nil {
			n.b.t.Fatalf("seal on a nearly full disk: %v", err)
		}
		if err := n.push(); err != nil {
			n.b.t.Fatalf("push after the ingester checked its disk: %v", err)
		}
		if n.b.ing.packCount() > 0 {
			return log
		}
	}
	n.b.t.Fatal("the full disk did not cause a seal")
	return 0
}

// check checks that every acknowledged sample can be read.
func (n *noise) check(what string) {
	n.b.t.Helper()
	got := n.b.read("a")
	for s, want := range n.sent {
		if len(got[s]) != want {
			n.b.t.Fatalf("%s: series %s has %d samples, want %d", what, s, len(got[s]), want)
		}
	}
}

// TestDiskReserve checks that pushes are rejected while there is still space for a
// seal, that the ingester then seals by itself and accepts pushes again, and that
// this works after a crash and after another process filled the disk.
func TestDiskReserve(t *testing.T) {
	for _, c := range []struct {
		name string
		disk func(*testing.T, int64) smallDisk
	}{{"tmpfs", realDisk}, {"pretended", pretendedDisk}} {
		t.Run(c.name, func(t *testing.T) {
			d := c.disk(t, 24<<20)
			b := newDiskBench(t, d)
			n := newNoise(b)
			for round := range 3 {
				log := n.untilSealed(round == 1)
				if log < 8<<20 {
					t.Errorf("round %d: sealed with a log of %d bytes, want 8 MiB or more", round, log)
				}
				if left := b.ing.log.Bytes(); left > 100_000 || b.ing.packCount() != 1 {
					t.Fatalf("round %d: %d bytes of log and %d packs after the seal", round, left, b.ing.packCount())
				}
				n.check("sealed and pushed again")
				if err := b.ing.Flush(); err != nil { // and remove the packs, as after a compaction
					t.Fatal(err)
				}
				if _, err := b.ing.packs.removeIf(func(*localPack) bool { return true }); err != nil {
					t.Fatal(err)
				}
				n.sent = map[string]int{}
			}
			foreignFile(t, d, b, n)
		})
	}
}

// foreignFile tests a disk that another process filled.
func foreignFile(t *testing.T, d smallDisk, b *bench, n *noise) {
	t.Helper()
	if err := n.push(); err != nil {
		t.Fatal(err)
	}
	d.fill()
	for range 60 {
		b.set(b.now.Add(tickEvery))
		if err := n.push(); !errors.Is(err, ErrDiskFull) {
			t.Fatalf("push while another file fills the disk: %v", err)
		}
		if done, err := b.ing.sealEarly(b.now); done || err != nil {
			t.Fatalf("sealEarly = %v, %v; want no seal, because it would free nothing", done, err)
		}
	}
	n.check("another file fills the disk")
	b.crash() // a start without a free byte works too
	b.still()
	n.check("replayed on a full disk")
	if err := n.push(); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("push after a start on a full disk: %v", err)
	}
	d.give()
	b.set(b.now.Add(diskAge))
	if err := n.push(); err != nil {
		t.Fatalf("push after space was freed: %v", err)
	}
	n.check("after space was freed")
}

// TestReserveIsEnough checks for several shapes of data that a seal writes at most
// 64 KiB more than the reserve without its fixed part. It checks the reserve
// computed from the log and the reserve computed from the measured head.
func TestReserveIsEnough(t *testing.T) {
	const base = 1_700_006_400_000 // start of a window
	hist := tsdbutil.GenerateTestHistograms(50)
	long := strings.Repeat("x", 300)
	for _, c := range []struct {
		name   string
		series int
		label  string
		sample func(i, round int) series.Sample
		rounds int
		meta   bool
	}{
		{"random floats", 200, "", func(i, r int) series.Sample {
			return f(base+int64(r)*1000+int64(i*r%900), math.Float64frombits(rand.Uint64()>>2))
		}, 200, false},
		{"one sample each", 20000, "", func(i, _ int) series.Sample { return f(base+int64(i), rand.Float64()) }, 1, false},
		{"long labels", 5000, long, func(i, _ int) series.Sample { return f(base+int64(i), rand.Float64()) }, 1, false},
		{"counters", 200, "", func(i, r int) series.Sample { return f(base+int64(r)*15000, float64(i*r)) }, 200, false},
		{"histograms", 100, "", func(i, r int) series.Sample { return series.Sample{T: base + int64(r)*15000, H: hist[r%50].Copy()} }, 100, false},
		{"alternating sample types", 20, "", func(i, r int) series.Sample {
			if r%2 == 0 {
				return f(base+int64(r)*1000, rand.Float64())
			}
			return series.Sample{T: base + int64(r)*1000, H: hist[r%50].Copy()}
		}, 300, false},
		{"out of order", 50, "", func(i, r int) series.Sample { return f(base+int64(1000-r)*1000, rand.Float64()) }, 500, false},
		{"every hour for a month", 50, "", func(i, r int) series.Sample { return f(base-int64(r)*3600_000, rand.Float64()) }, 720, false},
		{"metadata", 50, "", func(i, r int) series.Sample { return f(base+int64(r)*1000, 1) }, 2, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := pretendedDisk(t, math.MaxInt64/8)
			b := newDiskBench(t, d)
			for r := range c.rounds {
				batch := &series.Batch{Tenant: "a"}
				for i := range c.series {
					batch.Entries = append(batch.Entries, entry(metric(fmt.Sprintf("m%d", i%100), "i", fmt.Sprint(i), "l", c.label+fmt.Sprint(i)), c.sample(i, r)))
					if c.meta && r == 0 {
						batch.Metadata = append(batch.Metadata, series.MetricMetadata{Metric: fmt.Sprintf("m%d", i%100), Metadata: metadata.Metadata{Type: "counter", Help: strings.Repeat("h", 4000)}})
					}
				}
				if _, err := b.ing.Push(context.Background(), batch); err != nil {
					t.Fatal(err)
				}
			}
			byLog := b.ing.disk.reserve() - diskReserve
			b.ing.disk.measure()
			measured := b.ing.disk.reserve() - diskReserve
			if err := b.ing.Flush(); err != nil {
				t.Fatal(err)
			}
			wrote := int64(0)
			for _, p := range b.ing.Stats().Packs {
				wrote += p.Bytes
			}
			t.Logf("packs have %d bytes; reserve %d by the log, %d measured, without the fixed part", wrote, byLog, measured)
			if wrote > byLog+64<<10 || wrote > measured+64<<10 {
				t.Errorf("packs have %d bytes; reserve %d by the log, %d measured, without the fixed part", wrote, byLog, measured)
			}
			if measured > byLog+1000 {
				t.Errorf("the measured reserve is %d, by the log %d", measured, byLog)
			}
		})
	}
}

// TestRecordBytes checks that the estimate of a record is not below its size. The
// estimate ignores the compression of labels.
func TestRecordBytes(t *testing.T) {
	b := newBench(t)
	hist := tsdbutil.GenerateTestHistograms(50)
	floats := tsdbutil.GenerateTestFloatHistograms(50)
	for name, sample := range map[string]series.Sample{"float": f(b.now.UnixMilli(), 1.5), "histogram": {T: b.now.UnixMilli(), H: hist[49]}, "float histogram": {T: b.now.UnixMilli(), FH: floats[49]}} {
		batch := &series.Batch{Tenant: "a", Metadata: []series.MetricMetadata{{Metric: "m" + name, Metadata: metadata.Metadata{Type: "gauge", Help: "some help"}}}}
		for i := range 100 {
			batch.Entries = append(batch.Entries, entry(metric("m", "kind", name, "i", fmt.Sprint(i)), sample))
		}
		estimated, before := recordBytes(batch), b.ing.log.Appended()
		if _, err := b.ing.Push(context.Background(), batch); err != nil {
			t.Fatal(err)
		}
		text := int64(0)
		for i := range batch.Entries {
			text += int64(batch.Entries[i].Labels.ByteSize())
		}
		if wrote := b.ing.log.Appended() - before; estimated < wrote || estimated-text > 5*wrote {
			t.Errorf("%s: estimated %d bytes, wrote %d", name, estimated, wrote)
		}
	}
	if left := b.ing.disk.pending.Load(); left != 0 {
		t.Errorf("%d bytes still pending, want 0", left)
	}
}

// TestDiskFreeUnknown checks that pushes are accepted if the free space is unknown,
// and that the metric shows it.
func TestDiskFreeUnknown(t *testing.T) {
	reg := prometheus.NewRegistry()
	calls, failing := 0, true
	b := &bench{t: t, dir: t.TempDir(), lim: limits.Default(), registry: reg, diskFree: func(string) (int64, error) {
		calls++
		if failing {
			return 0, errors.New("no such device")
		}
		return 1 << 50, nil
	}}
	b.set(time.UnixMilli(1_700_000_000_000))
	b.open()
	t.Cleanup(func() { _ = b.ing.Close() })
	now := b.now.UnixMilli()
	b.push("a", entry(metric("m"), f(now, 1)))
	if got := gaugeOf(t, reg, "pallium_ingester_disk_free_bytes"); got != -1 {
		t.Errorf("free bytes = %v, want -1", got)
	}
	failing = false
	if got := gaugeOf(t, reg, "pallium_ingester_disk_free_bytes"); got != 1<<50 {
		t.Errorf("free bytes = %v, want %v", got, 1<<50)
	}
	if got := gaugeOf(t, reg, "pallium_ingester_disk_reserve_bytes"); got < diskReserve || got > diskReserve+10_000 {
		t.Errorf("reserve = %v, want %d to %d", got, diskReserve, diskReserve+10_000)
	}
	before := calls
	for i := range 1000 { // the clock stands still, and few bytes are logged
		b.push("a", entry(metric("m"), f(now+int64(i), 1)))
	}
	if calls != before {
		t.Errorf("the free space was read %d times for a thousand small pushes at one time, want 0", calls-before)
	}
}

func gaugeOf(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("metric %s not found", name)
	return 0
}

// TestEarlySeals checks that early seals do not write many small packs if only
// series use the memory or another process fills the disk, and that they happen if
// they free enough.
func TestEarlySeals(t *testing.T) {
	ticks := func(b *bench, minutes int, each func(tick int)) int {
		b.t.Helper()
		for tick := range minutes * 6 {
			b.set(b.now.Add(tickEvery))
			each(tick)
			if err := b.ing.sealDue(); err != nil {
				b.t.Fatal(err)
			}
		}
		return b.ing.packCount()
	}
	pushAll := func(b *bench, n int, v float64) {
		batch := &series.Batch{Tenant: "a"}
		for i := range n {
			batch.Entries = append(batch.Entries, entry(metric("m", "i", fmt.Sprint(i)), f(b.now.UnixMilli(), v)))
		}
		if _, err := b.ing.Push(context.Background(), batch); err != nil && !errors.Is(err, ErrDiskFull) && !errors.Is(err, ErrFull) {
			b.t.Fatal(err)
		}
	}
	start := time.UnixMilli(1_700_006_400_000) // start of a window
	t.Run("series fill the memory", func(t *testing.T) {
		b := newDiskBench(t, smallDisk{dir: t.TempDir()})
		b.set(start)
		pushAll(b, 2000, 1)
		if err := b.ing.sealDue(); err != nil {
			t.Fatal(err)
		}
		b.ing.opts.MemoryBytes = b.ing.account.bytes.Load() * 100 / 86
		if n := ticks(b, 60, func(tick int) { pushAll(b, 2000, float64(tick)) }); n > 12 {
			t.Errorf("%d packs in an hour, want at most 12", n)
		}
	})
	t.Run("samples fill the memory", func(t *testing.T) {
		b := newDiskBench(t, smallDisk{dir: t.TempDir()})
		b.set(start)
		pushAll(b, 100, 1)
		b.ing.opts.MemoryBytes = 2 * b.ing.account.bytes.Load()
		rejected := 0
		n := ticks(b, 90, func(int) {
			for range 5 {
				b.set(b.now.Add(time.Second))
				pushAll(b, 100, rand.Float64())
			}
			if b.ing.account.bytes.Load() > b.ing.opts.MemoryBytes {
				rejected++
			}
		})
		if n == 0 || rejected > 20 {
			t.Errorf("%d packs, want some; over the budget at %d ticks, want at most 20", n, rejected)
		}
	})
	t.Run("ended series fill the memory", func(t *testing.T) {
		b := newDiskBench(t, smallDisk{dir: t.TempDir()})
		b.set(start)
		pushAll(b, 2000, 1)
		b.ing.opts.MemoryBytes = b.ing.account.bytes.Load()
		if n := ticks(b, 45, func(int) {}); n != 1 || b.ing.seriesCount() != 0 {
			t.Errorf("%d packs and %d series, want 1 and 0", n, b.ing.seriesCount())
		}
	})
	t.Run("other processes fill the disk", func(t *testing.T) {
		var left atomic.Int64
		left.Store(1 << 40)
		b := newDiskBench(t, smallDisk{dir: t.TempDir(), free: func(string) (int64, error) { return left.Load(), nil }})
		b.set(start)
		for range 3 {
			pushAll(b, 40_000, rand.Float64())
			b.set(b.now.Add(time.Second))
		}
		left.Store(3 << 20) // slightly more than the fixed part
		if n := ticks(b, 60, func(tick int) { pushAll(b, 100, float64(tick)) }); n != 1 {
			t.Errorf("%d packs in an hour, want 1", n)
		}
	})
}
