package ingester

import (
	"time"
)

const (
	// earlyCheckEvery is the minimum time between two estimates of the bytes that an
	// early seal would free, and between two early seals for the disk.
	earlyCheckEvery = 30 * time.Second
	// earlyInterval is the minimum time between two early seals for memory,
	// pressedInterval the same at sharePercent and above. Each seal that fails or
	// frees less than half of the expected bytes doubles the interval, up to
	// longestInterval.
	earlyInterval   = 2 * time.Minute
	pressedInterval = earlyCheckEvery
	longestInterval = 30 * time.Minute
	// earlyPart is the divisor for the part of the memory budget that an early seal
	// must be expected to free: if active series use the memory rather than samples,
	// a seal would only write packs.
	earlyPart = 16
	// earlyLogBytes is how many bytes of the log an early seal must be able to delete
	// when the disk is nearly full.
	earlyLogBytes = 1 << 20
	// dropInterval is the minimum time between two searches for series that can be
	// removed without a seal.
	dropInterval = time.Minute
)

// earlySeals is the state of seals before a window's end. It is used by one
// goroutine.
type earlySeals struct {
	checked time.Time // when the bytes that a seal would free were last estimated
	disk    time.Time // last early seal for the disk
	memory  time.Time // last early seal for memory
	misses  int       // consecutive seals that failed or freed too little
	dropped time.Time // last search for series to remove
}

// interval returns the minimum time between two early seals for memory.
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

// since returns the absolute time between two moments, so that it works if the
// clock was set back.
func since(now, then time.Time) time.Duration { return now.Sub(then).Abs() }

// sealEarly seals the whole head before its window ends if memory or disk are
// nearly full and the seal is expected to free enough. It reports whether it tried to.
func (ing *Ingester) sealEarly(now time.Time) (bool, error) {
	e := &ing.early
	memory := ing.filled(pressurePercent) && since(now, e.memory) >= e.interval(ing.filled(sharePercent))
	disk := ing.disk.near() && since(now, e.disk) >= earlyCheckEvery
	if !memory && !disk || since(now, e.checked) < earlyCheckEvery {
		return false, nil
	}
	e.checked = now
	if freed := ing.log.Bytes() - ing.keptBytes.Load(); disk && freed >= earlyLogBytes {
		ing.opts.Logger.Warn("disk is nearly full: sealing early", "free", ing.disk.left.Load(), "reserve", ing.disk.reserve(), "log", freed)
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
	ing.opts.Logger.Warn("head is near its memory budget: sealing early",
		"bytes", ing.account.bytes.Load(), "budget", ing.opts.MemoryBytes, "expected_freed", expected)
	e.memory = now
	ing.metrics.earlySeals.WithLabelValues("memory").Inc()
	before := ing.account.freed.Load()
	err := ing.seal(endOfTime)
	e.dropped = now
	if freed := ing.account.freed.Load() - before; err != nil || freed < expected/2 {
		e.misses++
		ing.opts.Logger.Warn("early seal failed or freed less than half of the expected memory: delaying the next one",
			"freed", freed, "expected_freed", expected,
			"next_after", e.interval(ing.filled(sharePercent)))
	} else {
		e.misses = 0
	}
	return err
}

// freeable estimates the bytes that a seal would free: the memory of series without a
// sample since the given time (Unix milliseconds), which are removed except for their
// reservation, and, of other series, what they use in addition to their labels and one
// new chunk.
func (ing *Ingester) freeable(since int64) int64 {
	total := int64(0)
	for _, th := range ing.heads() {
		th.each(func(s *memSeries) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.lastT < since {
				total += s.counted - reservationBytes
				return
			}
			total += max(0, s.counted-s.bareSize()-openBytes-freshBytes)
		})
	}
	return total
}

// dropPressed removes sealed series that may leave the head sooner while memory is
// short, and reserved series whose reservation expired.
func (ing *Ingester) dropPressed(now time.Time) {
	e := &ing.early
	pressed := ing.filled(pressurePercent)
	if !pressed && ing.account.reserved.Load() == 0 || since(now, e.dropped) < dropInterval {
		return
	}
	e.dropped = now
	if !pressed { // not pressed: series are removed after the next seal
		for _, th := range ing.heads() {
			th.sweepReservations(now)
		}
		return
	}
	ing.sealMu.Lock()
	defer ing.sealMu.Unlock()
	ing.dropIdle(idleTimesAt(now, ing.idleAfter()))
}
