package ingester

import (
	"time"
)

const (
	// earlyLook is the least time between two looks at what an early seal would
	// free, and between two early seals for the disk.
	earlyLook = 30 * time.Second
	// earlyInterval is the least time between two early seals for memory, pressedInterval
	// the same from sharePercent on. Each that frees less than half of what it was
	// to free doubles it, up to longestInterval.
	earlyInterval   = 2 * time.Minute
	pressedInterval = earlyLook
	longestInterval = 30 * time.Minute
	// earlyPart is the part of the memory budget that an early seal has to free:
	// when active series fill it rather than samples, sealing would only write packs.
	earlyPart = 16
	// earlyLogBytes is how much log an early seal has to be able to delete when the
	// disk is nearly full.
	earlyLogBytes = 1 << 20
	// dropInterval is the least time between two looks for series that can leave
	// without a seal.
	dropInterval = time.Minute
)

// earlySeals remembers the seals before a window's end. It is used by one
// goroutine.
type earlySeals struct {
	looked  time.Time // when what one would free was last counted
	disk    time.Time // the last one for the disk
	memory  time.Time // the last one for memory
	misses  int       // how many in a row freed too little
	dropped time.Time // when series that can leave were last looked for
}

// interval is the least time between the last early seal for memory and the next.
func (e *earlySeals) interval(pressed bool) time.Duration {
	d := earlyInterval
	if pressed {
		d = pressedInterval
	}
	for range e.misses {
		if d *= 2; d >= longestInterval {
			return longestInterval
		}
	}
	return d
}

// since is the time between two moments, also when the clock was set back.
func since(now, then time.Time) time.Duration { return now.Sub(then).Abs() }

// sealEarly seals everything before its window ends when memory or disk are
// nearly full and that frees a good part of it, and reports whether it did.
func (ing *Ingester) sealEarly(now time.Time) (bool, error) {
	e := &ing.early
	memory := ing.filled(pressurePercent) && since(now, e.memory) >= e.interval(ing.filled(sharePercent))
	disk := ing.disk.near() && since(now, e.disk) >= earlyLook
	if !memory && !disk || since(now, e.looked) < earlyLook {
		return false, nil
	}
	e.looked = now
	if freed := ing.log.Bytes() - ing.keptBytes.Load(); disk && freed >= earlyLogBytes {
		ing.opts.Logger.Warn("disk is nearly full, sealing early", "free", ing.disk.left.Load(), "reserve", ing.disk.reserve(), "log", freed)
		e.disk = now
		ing.metrics.earlySeals.WithLabelValues("disk").Inc()
		return true, ing.seal(endOfTime)
	}
	if !memory {
		return false, nil
	}
	expected := ing.freeable(now.Add(-pressedIdle).UnixMilli())
	if expected < ing.opts.MemoryBytes/earlyPart {
		return false, nil
	}
	return true, ing.sealForMemory(now, expected)
}

func (ing *Ingester) sealForMemory(now time.Time, expected int64) error {
	e := &ing.early
	ing.opts.Logger.Warn("head is near its memory budget, sealing early",
		"bytes", ing.account.bytes.Load(), "budget", ing.opts.MemoryBytes, "expected_freed", expected)
	e.memory = now
	ing.metrics.earlySeals.WithLabelValues("memory").Inc()
	before := ing.account.freed.Load()
	err := ing.seal(endOfTime)
	e.dropped = now
	if freed := ing.account.freed.Load() - before; err != nil || freed < expected/2 {
		e.misses++
		ing.opts.Logger.Warn("early seal freed less memory than expected, the next one waits longer", "freed", freed, "expected_freed", expected,
			"next_after", e.interval(ing.filled(sharePercent)))
	} else {
		e.misses = 0
	}
	return err
}

// freeable is about how much memory a seal would free for some time: series
// without a sample since a time, which leave, and what other series have beyond
// the chunk that they begin with their next sample.
func (ing *Ingester) freeable(since int64) int64 {
	total := int64(0)
	for _, th := range ing.heads() {
		th.each(func(s *memSeries) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.lastT < since {
				total += s.counted - placeBytes
				return
			}
			total += max(0, s.counted-s.bareSize()-openBytes-freshBytes)
		})
	}
	return total
}

// dropPressed takes series out of the head that are sealed already and leave
// sooner while memory is short, and drops places whose time is over.
func (ing *Ingester) dropPressed(now time.Time) {
	e := &ing.early
	pressed := ing.filled(pressurePercent)
	if !pressed && ing.account.places.Load() == 0 || since(now, e.dropped) < dropInterval {
		return
	}
	e.dropped = now
	if !pressed { // series leave after the next seal
		for _, th := range ing.heads() {
			th.sweepPlaces(now)
		}
		return
	}
	ing.sealMu.Lock()
	defer ing.sealMu.Unlock()
	ing.dropIdle(idleTimesAt(now, ing.idleAfter()))
}
