package ingester

import (
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/wal"
)

// TestFarFuture checks that samples in the far future prevent neither the deletion of
// the log nor the removal of their series from memory, whenever they arrive, and are
// not lost by crashes.
func TestFarFuture(t *testing.T) {
	b := newBench(t)
	b.halt()
	want := map[string][]series.Sample{}
	never, one, mixed := metric("never"), metric("far"), metric("mixed")
	ten := b.now.AddDate(10, 0, 0).UnixMilli()
	push := func(round int) {
		now := b.now.UnixMilli()
		b.push("a", entry(never, f(now, 1)))
		want[never.String()] = append(want[never.String()], f(now, 1))
		if round == 3 {
			b.push("a", entry(one, f(ten, 1)), entry(mixed, f(now, 1), f(ten, 2)))
			want[one.String()] = []series.Sample{f(ten, 1)}
			late := f(now-7*series.WindowMillis-1, 8) // goes into another pack of the same seal
			b.push("a", entry(never, late))
			want[never.String()] = append([]series.Sample{late}, want[never.String()]...)
			want[mixed.String()] = []series.Sample{f(now, 1), f(ten, 2)}
		}
		if round == 4 {
			b.push("a", entry(mixed, f(now, 4), f(ten+1, 3)))
			m := want[mixed.String()]
			want[mixed.String()] = []series.Sample{m[0], f(now, 4), m[1], f(ten+1, 3)}
		}
	}
	for round := range 12 {
		push(round)
		b.set(b.now.Add(2 * time.Hour))
		if round == 3 {
			b.crash()
			b.halt()
		}
		if err := b.ing.sealDue(); err != nil {
			t.Fatal(err)
		}
		if n := segments(t, b.dir); n > 3 {
			t.Fatalf("round %d: the log has %d segments, want at most 3", round, n)
		}
		same(t, fmt.Sprint("round ", round), b.read("a"), want)
	}
	if n := len(b.ing.seals.seals); n > 3 {
		t.Errorf("%d seals are recorded, want at most 3", n)
	}
	if n := b.ing.SeriesCount("a"); n > 1 {
		t.Errorf("%d series are in the head, want at most that of the last round", n)
	}
	for _, lp := range b.ing.packs.packs {
		far, near := 0, 0
		for _, sec := range lp.reader.Info().Sections {
			if sec.MaxTime >= ten {
				far++
			} else {
				near++
			}
		}
		if far > 0 && near > 0 {
			t.Errorf("a pack has days of the far future and other days, which would be kept until then")
		}
	}
}

// TestFarFutureReplayed checks that sealed samples of the far future are not
// replayed into the head from a segment that is kept for other samples.
func TestFarFutureReplayed(t *testing.T) {
	b := newBench(t)
	b.halt()
	now := b.now.UnixMilli()
	ten := b.now.AddDate(10, 0, 0).UnixMilli()
	b.push("a", entry(metric("now"), f(now, 1)), entry(metric("far"), f(ten, 2)))
	if err := b.ing.seal(series.WindowStart(now)); err != nil {
		t.Fatal(err)
	}
	b.crash()
	if got := b.ing.unsealed.all(); len(got) != 1 || !got[store.WindowOf(now)] {
		t.Errorf("windows in the head after a restart: %v, want only the current one", got)
	}
	same(t, "restarted", b.read("a"), map[string][]series.Sample{metric("now").String(): {f(now, 1)}, metric("far").String(): {f(ten, 2)}})
}

// TestSealLogKeepsNeededSegments compares the seal log with a brute-force model, with
// clocks that jump: no segment may be deleted while a sample in its epoch is not
// sealed or while its epoch is current. After all samples are sealed, no segment of
// an earlier epoch is needed.
func TestSealLogKeepsNeededSegments(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 1))
		l, err := openSealLog(filepath.Join(t.TempDir(), "sealed.json"))
		if err != nil {
			t.Fatal(err)
		}
		type sample struct {
			at wal.Place
			t  int64
		}
		var all []sample
		var done []seal
		now, at := int64(1000)*series.WindowMillis, wal.Place{Segment: 1, Epoch: 1}
		next := func(newEpoch bool) {
			if at.Segment++; newEpoch {
				at.Epoch = at.Segment
			}
		}
		for range 60 {
			now += r.Int64N(series.WindowMillis)
			if r.IntN(15) == 0 {
				now += (r.Int64N(9) - 4) * series.WindowMillis // the clock jumps
			}
			far := farFrom(time.UnixMilli(now))
			times := noTimes()
			for range 1 + r.IntN(3) {
				when := now - r.Int64N(3*series.WindowMillis)
				switch r.IntN(6) {
				case 0:
					when = now + r.Int64N(6*series.WindowMillis)
				case 1:
					when = now + r.Int64N(1000*series.WindowMillis)
				}
				times.add(when, far)
				all = append(all, sample{at, when})
			}
			l.note(at, times)
			if r.IntN(3) > 0 {
				if r.IntN(3) == 0 {
					next(r.IntN(2) == 0) // a full segment, or the border of a window
				}
				continue
			}
			everything := r.IntN(5) == 0
			next(everything)
			s := seal{BeforeSegment: at.Segment, BeforeTime: series.WindowStart(now - SealDelay.Milliseconds()), FromTime: far}
			if everything {
				s.BeforeTime = endOfTime
			}
			done = append(done, s)
			needed, err := l.add(s, at)
			if err != nil {
				t.Fatal(err)
			}
			if needed > at.Epoch {
				t.Fatalf("seed %d: first needed segment = %d, after the start %d of the current epoch", seed, needed, at.Epoch)
			}
			for _, smp := range all {
				covered := false
				for _, d := range done {
					covered = covered || d.covers(smp.at.Segment, smp.t)
				}
				if !covered && smp.at.Epoch < needed {
					t.Fatalf("seed %d: the epoch of segment %d may be deleted, but its sample at %d is in no pack", seed, smp.at.Segment, smp.t)
				}
				if c := l.covering(smp.at.Segment); !covered && c.has(smp.t) {
					t.Fatalf("seed %d: a sample counts as covered, but is in no pack", seed)
				}
			}
		}
		next(true)
		last := seal{BeforeSegment: at.Segment, BeforeTime: endOfTime, FromTime: farFrom(time.UnixMilli(now))}
		if needed, err := l.add(last, at); err != nil || needed != at.Segment {
			t.Fatalf("seed %d: after everything is sealed, first needed segment = %d, want %d; error %v", seed, needed, at.Segment, err)
		}
	}
}

// TestManyDays checks that samples of thousands of days are sealed into packs with
// a limited number of days each.
func TestManyDays(t *testing.T) {
	b := newBench(t)
	const days = 3*maxPackDays + 10
	e := entry(metric("m"))
	var want []series.Sample
	for day := range int64(days) {
		s := f(day*series.DayMillis+5, float64(day))
		e.Samples = append(e.Samples, s)
		want = append(want, s)
	}
	for i := len(e.Samples) - 1; i > 0; i -= 2 { // out of order
		e.Samples[i], e.Samples[i/2] = e.Samples[i/2], e.Samples[i]
	}
	b.push("b", e)
	b.push("a", entry(metric("m"), f(5, 0), f(days*series.DayMillis, 1)))
	b.flush()
	if n := b.ing.packCount(); n != 4 {
		t.Errorf("%d packs, want 4", n)
	}
	for _, lp := range b.ing.packs.packs {
		in := map[int64]bool{}
		for _, s := range lp.reader.Info().Sections {
			in[s.Day] = true
		}
		if len(in) > maxPackDays {
			t.Errorf("a pack has %d days, want at most %d", len(in), maxPackDays)
		}
	}
	same(t, "sealed", b.read("b"), map[string][]series.Sample{metric("m").String(): want})
}

// TestTimeBounds adds a million windows in any order, which would not finish with a
// linear search per sample.
func TestTimeBounds(t *testing.T) {
	const n = 1_000_000
	var b timeBounds
	for i := range int64(2 * n) {
		b.add(i * 7919 % n * series.WindowMillis)
	}
	if len(b.windows) != n || b.min != 0 || b.max != (n-1)*series.WindowMillis {
		t.Errorf("%d windows from %d to %d, want %d from 0 to %d", len(b.windows), b.min, b.max, n, int64(n-1)*series.WindowMillis)
	}
}

// TestDaysBeyondRowKeys checks that no intents are written for days that row keys
// cannot name.
func TestDaysBeyondRowKeys(t *testing.T) {
	b, l := withLongTerm(t)
	b.push("a", entry(metric("m"), f((schema.MaxDay+1)*series.DayMillis, 1), f(math.MaxInt64, 1)))
	upload(t, b)
	if len(l.openIntents()) != 0 {
		t.Errorf("intents %v, want none", l.openIntents())
	}
	b.flush()
	upload(t, b)
	if len(l.records()) != 1 || len(l.openIntents()) != 0 {
		t.Errorf("records %v, intents %v; want one record and no intents", l.records(), l.openIntents())
	}
}

// covers reports whether the seal covers samples at t in a segment.
func (s *seal) covers(segment int, t int64) bool {
	return segment < s.BeforeSegment && (t < s.BeforeTime || s.FromTime > 0 && t >= s.FromTime)
}
