package quota

import (
	"math"
	"time"
)

// bucket is a token bucket that can go into debt, because the cost of a request is often
// known only after it was served. Rate and size are passed with every call, so that
// changed limits take effect immediately. Its owner's lock guards it.
type bucket struct {
	tokens float64
	last   time.Time
	used   bool // whether tokens is valid
}

// fill adds the tokens since the last call and returns the bucket's size. A burst of 0 is
// the tokens of one second.
func (b *bucket) fill(now time.Time, rate float64, burst int) float64 {
	size := float64(burst)
	if size <= 0 {
		size = math.Max(rate, 1)
	}
	switch d := now.Sub(b.last); {
	case !b.used:
		b.tokens, b.last, b.used = size, now, true
	case d > 0:
		b.tokens += d.Seconds() * rate
		b.last = now
	}
	b.tokens = math.Min(b.tokens, size)
	return size
}

// open reports whether the bucket admits another request: it must hold more than 0 tokens, and not
// fewer than `least`. If it does not admit one, `wait` is the time until it will. A rate of 0 is
// unlimited.
func (b *bucket) open(now time.Time, rate float64, burst int, least float64) (wait time.Duration, ok bool) {
	if rate <= 0 {
		return 0, true
	}
	b.fill(now, rate, burst)
	if b.tokens >= least && b.tokens > 0 {
		return 0, true
	}
	const longest = 1e6 // seconds; more would overflow a Duration
	seconds := math.Min((math.Max(least, 0)-b.tokens)/rate, longest)
	return time.Duration(seconds * float64(time.Second)), false
}

// take removes n tokens and may put the bucket into debt.
func (b *bucket) take(now time.Time, rate float64, burst int, n float64) {
	if rate <= 0 {
		b.used = false // unlimited: a later limit starts with a full bucket
		return
	}
	b.fill(now, rate, burst)
	b.tokens -= n
}

// credit fills a bucket before its rate changes.
func (b *bucket) credit(now time.Time, rate float64, burst int) {
	if rate > 0 && b.used {
		b.fill(now, rate, burst)
	}
}

// full reports whether the bucket is full, as if never used.
func (b *bucket) full(now time.Time, rate float64, burst int) bool {
	if rate <= 0 || !b.used {
		return true
	}
	return b.fill(now, rate, burst) <= b.tokens
}
