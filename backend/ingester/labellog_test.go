package ingester

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wal"
)

// loggedSeries is the content of one segment of a log.
type loggedSeries struct {
	labelsOnly
	labels map[uint64]string
	used   map[uint64][]int64 // timestamps of samples by reference
}

func (l *loggedSeries) tenant(tenant.ID) error { return nil }
func (l *loggedSeries) known(uint64) bool      { return false }
func (l *loggedSeries) series(ref uint64, ls labels.Labels) error {
	l.labels[ref] = ls.String()
	return nil
}

func (l *loggedSeries) float(ref uint64, t int64, _ float64) error {
	l.used[ref] = append(l.used[ref], t)
	return nil
}

// logOf returns the content of the log's segments, and their epochs.
func (b *bench) logOf() (segments map[int]*loggedSeries, epochs map[int]int) {
	b.t.Helper()
	segments, epochs = map[int]*loggedSeries{}, map[int]int{}
	_, err := wal.Replay(b.t.Context(), b.dir+"/wal", 0, wal.Reader{
		Segment: func(at wal.Place) error {
			segments[at.Segment] = &loggedSeries{labels: map[uint64]string{}, used: map[uint64][]int64{}}
			epochs[at.Segment] = at.Epoch
			return nil
		},
		Record: func(at wal.Place, rec []byte) error { return decodeRecord(rec, segments[at.Segment]) },
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return segments, epochs
}

// checkLabels checks every sample in the log that no seal covers: its labels must
// be in its epoch, at or before its segment, and after a checkpoint in two
// segments.
func (b *bench) checkLabels(when string, twice bool) {
	b.t.Helper()
	segments, epochs := b.logOf()
	for number, seg := range segments {
		covered := b.ing.seals.covering(number)
		for ref, times := range seg.used {
			if !slices.ContainsFunc(times, func(t int64) bool { return !covered.has(t) }) {
				continue
			}
			first, copies := false, 0
			for other, o := range segments {
				if _, ok := o.labels[ref]; !ok {
					continue
				}
				if epochs[other] == epochs[number] && other <= number {
					first = true
				}
				if other >= epochs[number] { // an older epoch may be deleted
					copies++
				}
			}
			if !first {
				b.t.Fatalf("%s: segment %d of epoch %d has a sample of series %d, but the epoch has no labels of it up to this segment", when, number, epochs[number], ref)
			}
			if twice && copies < 2 {
				b.t.Fatalf("%s: the labels of series %d, with samples in segment %d of epoch %d, are in %d segments", when, ref, number, epochs[number], copies)
			}
		}
	}
}

// TestLabelsOfEveryEpoch runs pushes, late samples, seals of windows and of the
// whole head, failing seals, borders of windows, full segments, failing syncs and
// crashes in any order, deleting all covered segments: no segment may need labels
// of an older epoch, and after a checkpoint all labels must be in two segments.
func TestLabelsOfEveryEpoch(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			b := newBench(t)
			b.lim.MaxActiveSeries = 0
			rng := rand.New(rand.NewPCG(seed, 7))
			want := map[string]map[int64]float64{}
			push := func() {
				for range 1 + rng.IntN(20) {
					ls := metric("m", "i", fmt.Sprint(rng.IntN(40)))
					at := b.now.UnixMilli() - int64(rng.IntN(3))*rng.Int64N(2*series.WindowMillis) + int64(rng.IntN(60_000))
					if want[ls.String()] == nil {
						want[ls.String()] = map[int64]float64{}
					}
					if _, ok := want[ls.String()][at]; ok {
						continue
					}
					v := rng.Float64()
					b.push("a", entry(ls, f(at, v)))
					want[ls.String()][at] = v
				}
			}
			steps := map[string]func(){
				"push": push, "push more": push,
				"a minute":   func() { b.set(b.now.Add(time.Minute)) },
				"an hour":    func() { b.set(b.now.Add(time.Hour)) },
				"tick":       func() { b.must(b.ing.sealDue()) },
				"flush":      func() { b.must(b.ing.Flush()) },
				"full":       func() { _, err := b.ing.log.Split(); b.must(err) },
				"checkpoint": func() { b.checkpoint(); b.checkLabels("after a checkpoint", true) },
				"crash":      b.crash,
				"failed seal": func() {
					push()
					b.failingSeal(func() {
						if err := b.ing.Flush(); err == nil {
							t.Fatal("the seal succeeded")
						}
					})
				},
			}
			names := slices.Sorted(maps.Keys(steps))
			for range 60 {
				name := names[rng.IntN(len(names))]
				steps[name]()
				b.checkLabels(name, false)
			}
			b.crash()
			b.checkSamples(want)
		})
	}
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// failingSeal runs fn while packs cannot be written.
func (b *bench) failingSeal(fn func()) {
	b.t.Helper()
	dir := b.dir + "/l0"
	if err := os.Rename(dir, dir+".away"); err != nil && !errors.Is(err, os.ErrNotExist) {
		b.t.Fatal(err)
	}
	b.must(os.WriteFile(dir, nil, 0o600))
	fn()
	b.must(os.Remove(dir))
	b.must(os.Rename(dir+".away", dir))
}

// checkSamples compares the samples of tenant a with the expected ones by series
// and timestamp.
func (b *bench) checkSamples(want map[string]map[int64]float64) {
	b.t.Helper()
	got := b.read("a")
	for name, samples := range want {
		list := got[name]
		if len(list) != len(samples) {
			b.t.Fatalf("%s has %d samples, want %d", name, len(list), len(samples))
		}
		for _, s := range list {
			if v, ok := samples[s.T]; !ok || v != s.V {
				b.t.Fatalf("%s at %d is %v; expected: %v, %v", name, s.T, s.V, ok, v)
			}
		}
	}
	if len(got) != len(want) {
		b.t.Fatalf("%d series, want %d", len(got), len(want))
	}
}

// TestLabelsTwicePerEpoch checks that the labels of a series are in two segments of each
// epoch, however many segments the epoch has and however often the series is sent. So the
// size of the log per sample does not depend on the number of segments.
func TestLabelsTwicePerEpoch(t *testing.T) {
	b := newBench(t)
	now := b.now.UnixMilli()
	for round := range int64(8) {
		for push := range int64(3) {
			for i := range 5 * (round + 1) { // five of them are new
				b.push("a", entry(metric("m", "i", fmt.Sprint(i)), f(now+1000*round+10*push+i, 1)))
			}
		}
		b.checkpoint() // in a segment of its own
		if round == 4 {
			_, err := b.ing.log.Cut()
			b.must(err)
		}
	}
	copies := map[string]int{} // by epoch and reference
	segments, epochs := b.logOf()
	for number, seg := range segments {
		for ref := range seg.labels {
			copies[fmt.Sprintf("series %d in epoch %d", ref, epochs[number])]++
		}
	}
	if len(segments) < 9 || len(copies) != 25+40 {
		t.Fatalf("%d segments, want at least 9; labels of %d series and epochs, want 65: %v", len(segments), len(copies), copies)
	}
	for which, n := range copies {
		if n != 2 {
			t.Errorf("the labels of %s are in %d segments, want 2", which, n)
		}
	}
}

// TestDamageToAnyRecord checks that if labels are in two segments, damage to any
// one record loses only the samples of that record.
func TestDamageToAnyRecord(t *testing.T) {
	write := func(b *bench) (want []string) {
		for i := range 4 {
			b.set(b.now.Add(time.Second))
			for _, name := range []string{"a", "b"} {
				ls := metric(name)
				b.push("t", entry(ls, f(b.now.UnixMilli(), float64(i))))
				want = append(want, fmt.Sprint(ls, " ", b.now.UnixMilli()))
			}
		}
		first := b.ing.log.Segment()
		b.checkpoint()
		if b.ing.log.Segment() == first {
			t.Fatal("the checkpoint is in the same segment")
		}
		b.push("t", entry(metric("a"), f(b.now.UnixMilli(), 9)))
		return append(want, fmt.Sprint(metric("a"), " ", b.now.UnixMilli()))
	}
	for record := range 10 { // eight pushes, the checkpoint, a push
		b := newBench(t)
		want := write(b)
		segment := b.ing.log.Segment()
		if record < 8 {
			b.damage(segment-1, record)
			want = slices.Delete(want, record, record+1)
		} else {
			b.damage(segment, record-8)
			if record == 9 {
				want = want[:8]
			}
		}
		b.crash()
		var got []string
		for name, list := range b.read("t") {
			for _, s := range list {
				got = append(got, fmt.Sprint(name, " ", s.T))
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("damage to record %d: read %v, want %v", record, got, want)
		}
	}
}

// TestSamplesWithoutLabels checks that if damage lost all labels of samples, reads
// of their tenant and time fail until an operator accepts the loss, also after the
// log is deleted, and other reads do not fail.
func TestSamplesWithoutLabels(t *testing.T) {
	b := newBench(t)
	day := series.Day(b.now.UnixMilli())
	b.push("hurt", entry(metric("m"), f(b.now.UnixMilli(), 1)))
	b.push("other", entry(metric("m"), f(b.now.UnixMilli(), 1)))
	lost := f(b.now.UnixMilli()+5, 2)
	b.push("hurt", entry(metric("m"), lost)) // its labels were only in the first record
	b.damage(b.ing.log.Segment(), 0)
	b.crash()
	check := func(when string, wantLost bool) {
		t.Helper()
		read := func(id tenant.ID, mint, maxt int64) error {
			req := series.Request{Tenant: id, MinTime: mint, MaxTime: maxt, Matchers: []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "__name__", "m")}}
			_, _, err := b.ing.Select(context.Background(), req)
			_, _, err2 := b.ing.LabelNames(context.Background(), req)
			_, _, err3 := b.ing.LabelValues(context.Background(), "__name__", req)
			if errors.Is(err, series.ErrLost) != errors.Is(err2, series.ErrLost) || errors.Is(err, series.ErrLost) != errors.Is(err3, series.ErrLost) {
				t.Errorf("%s: %v, labels %v, %v", when, err, err2, err3)
			}
			return err
		}
		if err := read("hurt", lost.T-1, lost.T); errors.Is(err, series.ErrLost) != wantLost {
			t.Errorf("%s: read of the lost time: %v", when, err)
		}
		if err := read("hurt", lost.T+1, lost.T+1000); err != nil {
			t.Errorf("%s: read of another time: %v", when, err)
		}
		if err := read("other", 0, series.MaxTime); err != nil {
			t.Errorf("%s: read of another tenant: %v", when, err)
		}
	}
	check("after the crash", true)
	b.must(b.ing.Flush())
	b.crash()
	check("after the log is deleted", true)
	if n, err := b.ing.AcceptLoss(day + 1); n != 0 || err != nil {
		t.Errorf("accepted for another day: %d, %v", n, err)
	}
	check("another day was accepted", true)
	if n, err := b.ing.AcceptLoss(day); n != 1 || err != nil {
		t.Errorf("accepted: %d, %v, want 1", n, err)
	}
	check("after the loss was accepted", false)
	b.crash()
	check("after another start", false)
}

// TestDamageWithReplicas checks that an ingester with replicas reports damaged
// windows.
func TestDamageWithReplicas(t *testing.T) {
	b := &bench{t: t, dir: t.TempDir(), replicas: 3}
	var reported []int64
	failing := false
	b.damaged = func(_ context.Context, windows []int64) error {
		if failing {
			return errors.New("long-term store unavailable")
		}
		reported = windows
		return nil
	}
	b.set(time.UnixMilli(1_700_000_000_000))
	b.open()
	t.Cleanup(func() { _ = b.ing.Close() })
	now := b.now.UnixMilli()
	b.push("a", entry(metric("m"), f(now, 1)))
	b.push("a", entry(metric("m"), f(now-series.WindowMillis, 2)))
	b.damage(b.ing.log.Segment(), 0)
	failing = true
	if _, err := Open(context.Background(), b.options()); err == nil {
		t.Error("the start succeeded although the loss could not be recorded")
	}
	failing = false
	b.crash()
	// The damaged record is next to the remaining one, which has no labels now. The
	// windows in which the file was written are reported too.
	if want := series.WindowStart(now - series.WindowMillis); !slices.Contains(reported, want) {
		t.Errorf("reported windows %v, want %d among them", reported, want)
	}
	if got := b.read("a"); len(got) != 0 {
		t.Errorf("read %v, want no samples", got)
	}
}

// TestOldLog checks that a log in the format PLWAL001 is replayed, with and without
// damage, and so are records written after it.
func TestOldLog(t *testing.T) {
	b := newBench(t)
	b.must(b.ing.Close())
	data, err := os.ReadFile("testdata/old.wal")
	b.must(err)
	b.must(os.RemoveAll(b.dir + "/wal"))
	b.must(os.MkdirAll(b.dir+"/wal", 0o700))
	b.must(os.WriteFile(b.logPath(1), data, 0o600))
	b.open()
	start := int64(1_700_000_000_000) // as in the test of the old version
	want := map[string]map[int64]float64{}
	for i := range 50 {
		name := metric("m", "i", fmt.Sprint(i%7)).String()
		if want[name] == nil {
			want[name] = map[int64]float64{}
		}
		want[name][start+int64(i)] = float64(i) * 1.1
	}
	b.checkSamples(want)
	ls := metric("m", "i", "3")
	b.push("a", entry(ls, f(start+1000, 5)))
	want[ls.String()][start+1000] = 5
	b.crash()
	b.checkSamples(want)
	b.damage(1, 3) // the first sample of the series, with the first labels
	delete(want[ls.String()], start+3)
	b.crash()
	b.checkSamples(want)
	b.must(b.ing.Flush())
	b.crash()
	b.checkSamples(want)
	if _, err := os.Stat(b.logPath(1)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old segment exists after a seal: %v", err)
	}
}
