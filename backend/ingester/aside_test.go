package ingester

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/policies/limits"
)

// impossible returns the labels of a series that the encoder rejects, because packs
// have no empty label values. The distributor would reject them too.
func impossible(name string) labels.Labels {
	b := labels.NewScratchBuilder(2)
	b.Add("__name__", name)
	b.Add("empty", "")
	return b.Labels()
}

func (b *bench) flush() {
	b.t.Helper()
	if err := b.ing.Flush(); err != nil {
		b.t.Fatalf("flush: %v", err)
	}
}

// halt stops the goroutines of the ingester; its methods still work.
func (b *bench) halt() {
	b.ing.background.Stop()
}

func asideFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "aside", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestSetAside checks that series that no pack can hold do not prevent the sealing of
// other series or the deletion of the log, and that all series can be read as before,
// also after restarts.
func TestSetAside(t *testing.T) {
	b := newBench(t)
	now := b.now.UnixMilli()
	h := tsdbutil.GenerateTestHistogram(3)
	bad, far := impossible("bad"), metric("far")
	const farT = math.MaxInt64 - 5 // no pack can have this day
	b.push("a", entry(metric("good"), f(now, 1)), entry(bad, f(now-series.WindowMillis, 1), f(now, 2), series.Sample{T: now + 1, H: h.Copy()}))
	b.push("a", entry(bad, f(now-1, 7))) // out of order
	b.push("b", entry(metric("good"), f(now, 5)), entry(far, f(farT, 1), f(math.MaxInt64, 2)))
	want := map[string][]series.Sample{
		metric("good").String(): {f(now, 1)},
		bad.String():            {f(now-series.WindowMillis, 1), f(now-1, 7), f(now, 2), {T: now + 1, H: h}},
	}
	wantB := map[string][]series.Sample{metric("good").String(): {f(now, 5)}, far.String(): {f(farT, 1), f(math.MaxInt64, 2)}}
	check := func(when string) {
		t.Helper()
		same(t, when, b.read("a"), want)
		same(t, when, b.read("b"), wantB)
		req := series.Request{Tenant: "a", MinTime: now, MaxTime: now}
		names, _, err := b.ing.LabelNames(context.Background(), req)
		if err != nil || !slices.Equal(names, []string{"__name__", "empty"}) {
			t.Errorf("%s: label names %v, %v", when, names, err)
		}
		values, _, err := b.ing.LabelValues(context.Background(), "__name__", req)
		if err != nil || !slices.Equal(values, []string{"bad", "good"}) {
			t.Errorf("%s: label values %v, %v", when, values, err)
		}
		req.MinTime, req.MaxTime = now-series.WindowMillis+1, now-2
		if got := readAll(t, b.ing, req); len(got[bad.String()]) > 1 {
			t.Errorf("%s: a read of the time between the samples returned %v, want at most one sample", when, got)
		}
	}
	check("pushed")
	for round := range 3 {
		b.flush()
		if n := len(asideFiles(t, b.dir)); n != 3 { // two windows of bad, one of far
			t.Fatalf("round %d: %d files, want 3: %v", round, n, asideFiles(t, b.dir))
		}
		if n := segments(t, b.dir); n != 1 {
			t.Errorf("round %d: the log has %d segments, want 1", round, n)
		}
		check("sealed")
		b.crash()
		check("restarted")
		if n := b.ing.seriesCount(); n != 0 {
			t.Errorf("round %d: %d series are in the head again, want 0", round, n)
		}
		// More samples of the same windows are added to the files.
		v := f(now+10+int64(round), float64(round))
		b.push("a", entry(bad, v))
		want[bad.String()] = append(want[bad.String()], v)
	}
	if got := b.ing.Aside(); len(got) != 3 || got[0].Tenant != "a" || got[2].Tenant != "b" || got[2].Window.Day != schema.MaxDay {
		t.Errorf("records: %+v", got)
	}
}

// TestSetAsideReplayed checks that after a crash between writing the files and
// cutting the log, the same files are written again.
func TestSetAsideReplayed(t *testing.T) {
	b := newBench(t)
	now := b.now.UnixMilli()
	bad := impossible("bad")
	b.push("a", entry(bad, f(now, 1), f(now+1, 2)))
	b.halt()
	if err := os.CopyFS(filepath.Join(b.dir, "log"), os.DirFS(filepath.Join(b.dir, "wal"))); err != nil {
		t.Fatal(err)
	}
	b.flush()
	before := readFiles(t, asideFiles(t, b.dir))
	_ = b.ing.Close()
	for _, gone := range []string{"sealed.json", "wal"} {
		if err := os.RemoveAll(filepath.Join(b.dir, gone)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(filepath.Join(b.dir, "log"), filepath.Join(b.dir, "wal")); err != nil {
		t.Fatal(err)
	}
	b.open()
	want := map[string][]series.Sample{bad.String(): {f(now, 1), f(now+1, 2)}}
	same(t, "replayed", b.read("a"), want)
	b.flush()
	if after := readFiles(t, asideFiles(t, b.dir)); !slices.Equal(after, before) {
		t.Error("the files are not the same")
	}
	same(t, "sealed again", b.read("a"), want)
}

func readFiles(t *testing.T, paths []string) []string {
	t.Helper()
	var out []string
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p+"\n"+string(data))
	}
	return out
}

// TestSetAsideOneOfMany checks that only the series of a large section that cannot be
// stored are set aside.
func TestSetAsideOneOfMany(t *testing.T) {
	b := newBench(t)
	now := b.now.UnixMilli()
	want := map[string][]series.Sample{}
	var entries []series.Entry
	for i := range 700 {
		ls := metric("m", "i", "x"+strings.Repeat("x", i))
		if i%300 == 150 {
			ls = impossible("m" + strings.Repeat("y", i))
		}
		entries = append(entries, entry(ls, f(now, float64(i))))
		want[ls.String()] = []series.Sample{f(now, float64(i))}
	}
	b.push("a", entries...)
	b.flush()
	if n := len(asideFiles(t, b.dir)); n != 2 {
		t.Errorf("%d files, want 2", n)
	}
	same(t, "sealed", b.read("a"), want)
}

// TestAsideDamage checks that a file that cannot be read fails only the queries of
// its tenant and time, whatever the damage.
func TestAsideDamage(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"header":  func(d []byte) []byte { d[20] ^= 1; return d },
		"magic":   func(d []byte) []byte { d[7] = '2'; return d },
		"samples": func(d []byte) []byte { d[len(d)-8] ^= 1; return d },
		"short":   func(d []byte) []byte { return d[:len(d)-1] },
		"longer":  func(d []byte) []byte { return append(d, 0) },
		"empty":   func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			now := b.now.UnixMilli()
			b.push("a", entry(impossible("bad"), f(now, 1)), entry(metric("good"), f(now, 1), f(now+series.WindowMillis, 2)))
			b.push("b", entry(metric("good"), f(now, 1)))
			b.flush()
			for _, when := range []string{"running", "restarted"} {
				file := asideFiles(t, b.dir)[0]
				if when == "running" {
					data, err := os.ReadFile(file)
					if err == nil {
						err = os.WriteFile(file, damage(data), 0o600)
					}
					if err != nil {
						t.Fatal(err)
					}
				} else {
					b.crash()
				}
				req := series.Request{Tenant: "a", MinTime: now, MaxTime: now}
				if _, _, err := b.ing.Select(context.Background(), req); !errors.Is(err, errAside) {
					t.Errorf("%s: select: error %v, want errAside", when, err)
				}
				if name == "header" {
					if _, _, err := b.ing.LabelNames(context.Background(), req); !errors.Is(err, errAside) {
						t.Errorf("%s: label names: error %v, want errAside", when, err)
					}
				}
				same(t, "another tenant", b.read("b"), map[string][]series.Sample{metric("good").String(): {f(now, 1)}})
				req.MinTime, req.MaxTime = now+series.WindowMillis, now+series.WindowMillis
				same(t, "another time", readAll(t, b.ing, req), map[string][]series.Sample{metric("good").String(): {f(now+series.WindowMillis, 2)}})
			}
			// Later samples are written to another file.
			b.push("a", entry(impossible("bad"), f(now+1, 2)))
			b.flush()
			if n := len(asideFiles(t, b.dir)); n != 2 {
				t.Errorf("%d files, want the damaged one and another", n)
			}
		})
	}
}

// TestAsideQuota checks that a tenant whose disk space is full is rejected and
// others are not, and that samples acknowledged before are kept.
func TestAsideQuota(t *testing.T) {
	b := newBench(t)
	_ = b.ing.Close()
	o := b.options()
	o.AsideBytes = 2 * asideCharge
	var err error
	if b.ing, err = Open(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	now := b.now.UnixMilli()
	want := map[string][]series.Sample{}
	for _, name := range []string{"x", "y", "z"} {
		b.push("a", entry(impossible(name), f(now, 1)))
		want[impossible(name).String()] = []series.Sample{f(now, 1)}
	}
	b.flush()
	_, err = b.ing.Push(context.Background(), &series.Batch{Tenant: "a", Entries: []series.Entry{entry(metric("m"), f(now, 1))}})
	if !errors.Is(err, ErrAside) {
		t.Errorf("push of the tenant whose space is full: error %v, want ErrAside", err)
	}
	b.push("b", entry(metric("m"), f(now, 1)))
	same(t, "acknowledged", b.read("a"), want)
	b.lim = limits.Limits{Retention: limits.Duration(time.Hour)}
	b.set(b.now.Add(2 * time.Hour))
	if err := b.ing.Sweep(); err != nil {
		t.Fatal(err)
	}
	b.push("a", entry(metric("m"), f(b.now.UnixMilli(), 1)))
	if n := len(asideFiles(t, b.dir)); n != 0 {
		t.Errorf("%d files are older than the retention, want 0", n)
	}
}

// TestAsideRemoval checks that files and their records are removed when their
// tenant is deleted, when an active deletion covers all of their samples, and when an
// operator drops them. A deletion that is not active removes nothing.
func TestAsideRemoval(t *testing.T) {
	bad := impossible("bad")
	for name, tc := range map[string]struct {
		do    func(b *bench, l *longTerm)
		empty bool // all files and records are removed
		reads int  // samples returned by a read
	}{
		"tenant deleted": {func(b *bench, _ *longTerm) {
			b.ing.opts.Deleted = func(context.Context, tenant.ID) (bool, error) { return true, nil }
			if err := b.ing.Sweep(); err != nil {
				b.t.Fatal(err)
			}
		}, true, 0},
		"deletion of the tenant unknown": {func(b *bench, _ *longTerm) {
			b.ing.opts.Deleted = func(context.Context, tenant.ID) (bool, error) { return true, errors.New("down") }
			if err := b.ing.Sweep(); err == nil {
				b.t.Error("Sweep returned no error while the deletions of tenants could not be read")
			}
		}, false, 1},
		"series deleted": {func(b *bench, l *longTerm) {
			ts := schema.NewTombstone(1, 0, math.MaxInt64, [][]*labels.Matcher{{labels.MustNewMatcher(labels.MatchEqual, "__name__", "bad")}}, 0)
			ts.State = schema.Active
			if err := b.ing.Delete("a", ts); err != nil {
				b.t.Fatal(err)
			}
			l.change(func() { l.deletions["a"] = []schema.Tombstone{ts} })
		}, true, 0},
		"deletion pending": {func(b *bench, _ *longTerm) {
			if err := b.ing.Delete("a", schema.NewTombstone(1, 0, math.MaxInt64, [][]*labels.Matcher{{labels.MustNewMatcher(labels.MatchEqual, "__name__", "bad")}}, 0)); err != nil {
				b.t.Fatal(err)
			}
		}, false, 0},
		"older deletion": {func(_ *bench, l *longTerm) {
			l.change(func() {
				l.deletions["a"] = []schema.Tombstone{schema.NewTombstone(0, 0, math.MaxInt64, [][]*labels.Matcher{{labels.MustNewMatcher(labels.MatchEqual, "__name__", "bad")}}, 0)}
			})
		}, false, 1},
		"other series deleted": {func(_ *bench, l *longTerm) {
			l.change(func() {
				l.deletions["a"] = []schema.Tombstone{schema.NewTombstone(1, 0, math.MaxInt64, [][]*labels.Matcher{{labels.MustNewMatcher(labels.MatchEqual, "__name__", "m")}}, 0)}
			})
		}, false, 1},
		"dropped": {func(_ *bench, l *longTerm) {
			for k, a := range l.records() {
				a.Dropped = 1
				l.change(func() { l.asides[k] = a })
			}
		}, true, 0},
		"dropped before another sample was added": {func(b *bench, l *longTerm) {
			for k, a := range l.records() {
				a.Dropped = 1
				l.change(func() { l.asides[k] = a })
			}
			b.push("a", entry(bad, f(b.now.UnixMilli()+1, 2)))
			b.flush()
		}, false, 2},
	} {
		t.Run(name, func(t *testing.T) {
			b, l := withLongTerm(t)
			b.halt()
			b.push("a", entry(bad, f(b.now.UnixMilli(), 1)))
			b.flush()
			upload(t, b)
			if len(l.records()) != 1 || len(l.openIntents()) != 0 {
				t.Fatalf("records %v, intents %v", l.records(), l.openIntents())
			}
			tc.do(b, l)
			b.set(b.now.Add(asideReadEvery))
			if err := b.ing.dropCompacted(context.Background()); err != nil {
				t.Fatal(err)
			}
			upload(t, b)
			if got := len(b.read("a")[bad.String()]); got != tc.reads {
				t.Errorf("read %d samples, want %d", got, tc.reads)
			}
			files := len(asideFiles(t, b.dir))
			if (files == 0) != tc.empty || (len(l.records()) == 0) != tc.empty {
				t.Errorf("%d files and %d records are left; want 0 and 0: %t", files, len(l.records()), tc.empty)
			}
			for _, a := range l.records() {
				if a.Dropped != 0 {
					t.Error("the record is still marked as dropped")
				}
			}
		})
	}
}

// TestAsideAfterDeletion checks that samples set aside before a deletion are
// deleted, and samples set aside after it are not.
func TestAsideAfterDeletion(t *testing.T) {
	b := newBench(t)
	now := b.now.UnixMilli()
	bad := impossible("bad")
	b.push("a", entry(bad, f(now, 1)))
	if err := b.ing.Delete("a", schema.NewTombstone(1, 0, math.MaxInt64, [][]*labels.Matcher{{labels.MustNewMatcher(labels.MatchEqual, "__name__", "bad")}}, 0)); err != nil {
		t.Fatal(err)
	}
	b.push("a", entry(bad, f(now, 2)))
	for _, step := range []func(){func() {}, b.flush, b.crash} {
		step()
		same(t, "after the deletion", b.read("a"), map[string][]series.Sample{bad.String(): {f(now, 2)}})
	}
}

// TestAsideRetried checks that series that a pack accepts at the next start are
// moved into packs with the deletion number of their files.
func TestAsideRetried(t *testing.T) {
	b, l := withLongTerm(t)
	now := b.now.UnixMilli()
	day := now - now%series.DayMillis
	want := map[string][]series.Sample{}
	b.halt()
	b.ing.sealMu.Lock()
	for i, at := range []int64{day, day + series.WindowMillis, day + series.DayMillis} {
		ls := metric("late", "i", "1")
		chunks, err := series.Encode([]series.Sample{f(at, float64(i)), f(at+1, 1)})
		if err != nil {
			t.Fatal(err)
		}
		h := b.ing.asideHeader("a", ls, store.WindowOf(at), "as a test")
		h.deletion = uint64(i / 2)
		if err := b.ing.aside.keep(h, chunks); err != nil {
			t.Fatal(err)
		}
		want[ls.String()] = append(want[ls.String()], f(at, float64(i)), f(at+1, 1))
	}
	b.ing.sealMu.Unlock()
	bad := impossible("bad")
	b.push("a", entry(bad, f(now, 1)))
	want[bad.String()] = []series.Sample{f(now, 1)}
	b.flush()
	upload(t, b)
	if len(l.records()) != 4 {
		t.Fatalf("records: %v", l.records())
	}
	b.crash()
	b.halt()
	if err := b.ing.retryAside(context.Background()); err != nil {
		t.Fatal(err)
	}
	same(t, "retried", b.read("a"), want)
	if n := len(asideFiles(t, b.dir)); n != 1 {
		t.Errorf("%d files are left, want only that of the impossible series", n)
	}
	numbers := map[uint64]int{}
	for _, r := range b.ing.packs.retain("a", math.MinInt64, math.MaxInt64) {
		for _, s := range r.Info().Sections {
			numbers[s.Deletion]++
		}
		_ = r.Release()
	}
	if numbers[0] != 1 || numbers[1] != 1 {
		t.Errorf("sections by deletion number: %v, want one each for 0 and 1", numbers)
	}
	upload(t, b)
	if len(l.records()) != 1 {
		t.Errorf("records %v, want only that of the impossible series", l.records())
	}
}

// TestAsideMetrics checks the tenant label and the values of the metrics.
func TestAsideMetrics(t *testing.T) {
	b := newBench(t)
	_ = b.ing.Close()
	o := b.options()
	reg := prometheus.NewRegistry()
	o.Registerer = reg
	var err error
	if b.ing, err = Open(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	b.push("a", entry(impossible("bad"), f(b.now.UnixMilli(), 1)))
	b.flush()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, mf := range families {
		if strings.HasPrefix(mf.GetName(), "pallium_ingester_aside_") && !strings.HasSuffix(mf.GetName(), "_limit_bytes") {
			m := mf.GetMetric()
			if len(m) != 1 || m[0].GetLabel()[0].GetValue() != "a" || m[0].GetGauge().GetValue() <= 0 {
				t.Errorf("metric %s: %v, want one positive value for tenant a", mf.GetName(), m)
			}
			found++
			// The metric must have the value that is compared with the limit on writes.
			if mf.GetName() == "pallium_ingester_aside_bytes" && int64(m[0].GetGauge().GetValue()) != b.ing.aside.charge["a"] {
				t.Errorf("metric %v, want %d bytes", m[0], b.ing.aside.charge["a"])
			}
		}
	}
	if found != 2 {
		t.Errorf("%d metrics, want 2", found)
	}
}

// FuzzAside decodes arbitrary bytes as a file: the result must be an error, or data
// that is the same after it is encoded and decoded again.
func FuzzAside(f *testing.F) {
	h := asideHeader{tenant: "a", ingester: "i", window: store.Window{Day: 19_000, Number: 3}, deletion: 2, since: 7, reason: "r", labels: impossible("bad")}
	fh := tsdbutil.GenerateTestFloatHistogram(1)
	chunks, err := series.Encode([]series.Sample{{T: 1, V: 1}, {T: 2, H: tsdbutil.GenerateTestHistogram(1)}, {T: 3, FH: fh}, {T: 4, FH: &histogram.FloatHistogram{}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encodeAside(&h, chunks))
	f.Add([]byte(asideMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		read := func(data []byte) (asideHeader, []series.Chunk, error) {
			r := &asideReader{r: bytes.NewReader(data), left: int64(len(data))}
			h, err := r.header()
			if err != nil {
				return h, nil, err
			}
			chunks, err := r.chunks(&h)
			return h, chunks, err
		}
		h, chunks, err := read(data)
		if err != nil {
			return
		}
		for i := range chunks {
			it := series.Iterator(chunks[i:i+1], nil)
			for n := 0; n < 1000 && it.Next() != 0; n++ {
			}
		}
		again := h
		h2, chunks2, err := read(encodeAside(&again, chunks))
		if err != nil && len(chunks) > 0 {
			t.Fatalf("encoded again it cannot be decoded: %v", err)
		}
		if len(chunks2) != len(chunks) || len(chunks) > 0 && (!labels.Equal(h2.labels, h.labels) || h2.tenant != h.tenant || h2.window != h.window || h2.deletion != h.deletion) {
			t.Fatalf("%+v became %+v", h, h2)
		}
	})
}

// TestPendingWindowsDuringUploads checks that the pending windows can be counted, as by the
// command that removes the ingester from the ring, while uploads change the records of series
// set aside. The race detector finds a violation.
func TestPendingWindowsDuringUploads(t *testing.T) {
	b, _ := withLongTerm(t)
	b.halt()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				b.ing.PendingWindows()
			}
		}
	}()
	for i := range 20 {
		b.push("a", entry(impossible(fmt.Sprint("bad", i)), f(b.now.UnixMilli(), 1)))
		b.flush()
		upload(t, b)
	}
	close(stop)
	<-stopped
	if n := len(b.ing.Aside()); n == 0 {
		t.Error("no series is set aside: the test covers nothing")
	}
}

// TestAsidePath checks that the name of a file has its tenant and window, also before 1970, and
// that other names are rejected.
func TestAsidePath(t *testing.T) {
	for _, day := range []int64{-20_000, -1, 0, 20_787} {
		for _, number := range []int{0, 9, 11} {
			want := store.Window{Day: day, Number: number}
			id, w, err := parseAsidePath(asideName("a-b", want, metric("m")))
			if err != nil || id != "a-b" || w != want {
				t.Errorf("%+v: %q, %+v, %v", want, id, w, err)
			}
		}
	}
	for _, name := range []string{"a/1-02", "a/-02-abc", "a/1-12-abc", "a/1--1-abc", "a/--1-02-abc", "a/x-02-abc", "a/abc", "a/", "a/--"} {
		if id, w, err := parseAsidePath(name); err == nil {
			t.Errorf("%s: %q, %+v", name, id, w)
		}
	}
}
