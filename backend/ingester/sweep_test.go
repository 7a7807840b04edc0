package ingester

import (
	"testing"
	"time"

	"github.com/palliumhq/pallium/backend/clock"
	"github.com/palliumhq/pallium/policies/limits"
)

// guarded gives the ingester a clock that a test lets run, and that tells when the
// bench's moved otherwise.
func (b *bench) guarded() (pass func(time.Duration)) {
	var running time.Duration
	b.ing.opts.Clock = clock.New(clock.Options{Now: b.ing.opts.Now, Running: func() time.Duration { return running }})
	return func(d time.Duration) {
		running += d
		b.set(b.now.Add(d))
	}
}

// packsOfDays seals a pack on each of so many days.
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

// TestSweepWithWrongClock: no local pack goes while the clock is ahead, and they go
// when it is their time.
func TestSweepWithWrongClock(t *testing.T) {
	b := newBench(t)
	b.lim.Retention = limits.Duration(5 * 24 * time.Hour)
	b.packsOfDays(2)
	pass := b.guarded()
	right := b.now
	b.set(right.AddDate(0, 0, 400))
	b.sweepTo("400 days ahead", 2)
	b.set(right)
	b.sweepTo("right again", 2)
	pass(5 * 24 * time.Hour)
	b.sweepTo("five days later", 0)
}

// TestSweepIsBounded: of packs that only the time made due those of two days, or of a
// tenth, go in 24 hours; after a lower retention they go at once.
func TestSweepIsBounded(t *testing.T) {
	b := newBench(t)
	b.lim.Retention = limits.Duration(100 * 24 * time.Hour)
	b.packsOfDays(30)
	b.set(b.now.AddDate(0, 0, 85))
	pass := b.guarded()
	b.sweepTo("first", 27)
	pass(23 * time.Hour)
	b.sweepTo("not a day later", 27)
	pass(time.Hour)
	b.sweepTo("a day later", 25)
	b.lim.Retention = limits.Duration(98 * 24 * time.Hour)
	b.sweepTo("lower by some days", 23) // two days more are due, and what waited still does
	b.lim.Retention = limits.Duration(24 * time.Hour)
	b.sweepTo("low", 11) // what waited waits on
}
