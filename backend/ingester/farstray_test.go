package ingester

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/wal"
)

// TestSingleFarFutureSample checks that after a single sample of the far future is sealed,
// the series' current samples are in order again: none is rejected, and duplicates
// are detected.
func TestSingleFarFutureSample(t *testing.T) {
	b := newBench(t)
	b.halt()
	b.set(time.UnixMilli(series.WindowStart(b.now.UnixMilli())))
	start := b.now.UnixMilli()
	m, fl := metric("h"), metric("f")
	ten := b.now.AddDate(10, 0, 0).UnixMilli()
	b.push("a", entry(m, counted(start, 1)), entry(fl, f(start, 1)))
	b.push("a", entry(m, counted(ten, 2)), entry(fl, f(ten, 1)))
	b.push("a", entry(m, counted(start+500, 2)), entry(fl, f(start+500, 1)))
	if err := b.ing.seal(start); err != nil { // only the far samples: the series stay in the head
		t.Fatal(err)
	}
	want := map[string][]series.Sample{m.String(): {counted(start, 1), counted(start+500, 2)}, fl.String(): {f(start, 1), f(start+500, 1)}}
	for i := range int64(7000) {
		at := start + (i+1)*1000
		out := b.push("a", entry(m, counted(at, i+2)), entry(fl, f(at, 1)))
		if kept(out) != 2 || len(out.Rejections) != 0 {
			t.Fatalf("sample %d: %+v", i, out)
		}
		want[m.String()] = append(want[m.String()], counted(at, i+2))
		want[fl.String()] = append(want[fl.String()], f(at, 1))
	}
	if out := b.push("a", entry(fl, f(start+7_000_000, 0))); len(out.Repeats) != 1 || out.Repeats[0].Different != 1 {
		t.Errorf("second value at the newest timestamp: %+v", out)
	}
	want[m.String()] = append(want[m.String()], counted(ten, 2))
	want[fl.String()] = append(want[fl.String()], f(ten, 1))
	same(t, "open", b.read("a"), want)
	b.flush()
	same(t, "sealed", b.read("a"), want)
	b.crash()
	same(t, "restarted", b.read("a"), want)
}

// TestSealLogClockSetBack checks that samples that arrived while the clock was
// years ahead keep the log no longer than others after the clock was corrected.
func TestSealLogClockSetBack(t *testing.T) {
	l, err := openSealLog(filepath.Join(t.TempDir(), "sealed.json"))
	if err != nil {
		t.Fatal(err)
	}
	const hour = int64(3600_000)
	now, years := 1_000_000*hour, 1_040_000*hour
	times := noTimes()
	times.add(now, years+4*hour) // the clock is wrong: the far future begins after this time
	times.add(years, years+4*hour)
	l.note(wal.Place{Segment: 1, Epoch: 1}, times)
	for i := range 5 {
		at := now + int64(i)*2*hour
		needed, err := l.add(seal{BeforeSegment: 2 + i, BeforeTime: at, FromTime: at + 4*hour}, wal.Place{Segment: 2 + i, Epoch: 2 + i})
		if err != nil {
			t.Fatal(err)
		}
		if sealed := needed == 2+i; sealed != (at > now+4*hour-1) {
			t.Errorf("seal %d: first needed segment = %d", i, needed)
		}
	}
}
