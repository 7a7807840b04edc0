package ingester

import (
	"testing"
	"time"

	"github.com/palliumhq/pallium/backend/clock"
	"github.com/palliumhq/pallium/policies/limits"
)

// guarded gives the ingester a clock guard, and returns a function that advances
// the clock. The guard treats any other change of the bench's clock as a wrong clock.
func (b *bench) guarded() (pass func(time.Duration)) {
	var running time.Duration
	b.ing.opts.Clock = clock.New(clock.Options{Now: b.ing.opts.Now, Running: func() time.Duration { return running }})
	return func(d time.Duration) {
		running += d
		b.set(b.now.Add(d))
	}
}

// packsOfDays seals one pack on each of the given number of days.
func (b *bench) packsOfDays(days int) {
	b.t.Helper()
	for range days {
		b.push("a", entry(metric("x"), f(b.now.UnixMilli(), 1)))
		if err := b.ing.Flush(); err != nil {
			b.t.Fatal(err)
		}
		b.set(b.now.Add(24 * time.Hour))
	}
}

func (b *bench) sweepTo(what string, want int) {
	b.t.Helper()
	for range 2 {
		if err := b.ing.Sweep(); err != nil {
			b.t.Fatal(err)
		}
	}
	if n := b.ing.packCount(); n != want {
		b.t.Errorf("%s: %d packs, want %d", what, n, want)
	}
}

// TestSweepWithWrongClock checks that no local pack is deleted while the clock is
// ahead, and that packs are deleted when they are due.
func TestSweepWithWrongClock(t *testing.T) {
	b := newBench(t)
	b.lim.Retention = limits.Duration(5 * 24 * time.Hour)
	b.packsOfDays(2)
	pass := b.guarded()
	right := b.now
	b.set(right.AddDate(0, 0, 400))
	b.sweepTo("400 days ahead", 2)
	b.set(right)
	b.sweepTo("corrected", 2)
	pass(5 * 24 * time.Hour)
	b.sweepTo("five days later", 0)
}

// TestSweepIsBounded checks how many local packs a sweep deletes. When packs are due
// only because time passed, at most two days or a tenth of all days, whichever is more,
// are deleted in 24 hours. Packs due because the retention was lowered are deleted at
// once.
func TestSweepIsBounded(t *testing.T) {
	b := newBench(t)
	b.lim.Retention = limits.Duration(100 * 24 * time.Hour)
	b.packsOfDays(30)
	b.set(b.now.AddDate(0, 0, 85))
	pass := b.guarded()
	b.sweepTo("first", 27)
	pass(23 * time.Hour)
	b.sweepTo("less than a day later", 27)
	pass(time.Hour)
	b.sweepTo("a day later", 25)
	b.lim.Retention = limits.Duration(98 * 24 * time.Hour)
	b.sweepTo("retention lowered by some days", 23) // the two days due by the lower retention are deleted at once; days due by time still wait
	b.lim.Retention = limits.Duration(24 * time.Hour)
	b.sweepTo("retention lowered to a day", 11) // days due by time still wait
}
