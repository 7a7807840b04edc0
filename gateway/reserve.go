package gateway

import (
	"math"
	"time"

	"github.com/palliumhq/pallium/policies/limits"
)

// What a write costs in samples is known only from its answer. Until then it is
// estimated from the body's length and reserved: else any number of writes at the
// same time would find the same budget.
const (
	// firstPerByte is samples per byte of a tenant's first writes: compressed, a
	// sample takes about 30 bytes with its labels. It is rather too low, so that
	// a new sender is not turned away for what it does not send.
	firstPerByte = 1. / 32
	// What is learned is kept within these, since a sender can shape its bodies.
	leastPerByte, mostPerByte = 1. / 256, 1.

	// A body of unknown length counts as what the tenant's writes have on average,
	// but not as less than leastUnknown; before any as firstUnknown.
	leastUnknown, firstUnknown = 100, 1000
)

// reserve estimates what a write costs and takes it from the budget.
func (st *tenantState) reserve(now time.Time, l *limits.Limits, length int64) float64 {
	r := st.scaled(l)
	if r.samples <= 0 || st.untold {
		return 0
	}
	n := float64(length) * st.ratio()
	switch {
	case length == 0:
		return 0
	case length < 0 && st.perWrite == 0:
		n = firstUnknown
	case length < 0:
		n = math.Max(st.perWrite, leastUnknown)
	}
	st.samples.take(now, r.samples, r.sampleBurst, n)
	st.reserved += n
	return n
}

func (st *tenantState) ratio() float64 {
	if st.perByte == 0 {
		return firstPerByte
	}
	return st.perByte
}

// learn notes what a write of so many bytes came to.
func (st *tenantState) learn(bytes int64, samples float64) {
	st.perWrite += (samples - st.perWrite) / 8
	if bytes <= 0 {
		return
	}
	ratio := math.Min(math.Max(samples/float64(bytes), leastPerByte), mostPerByte)
	if st.perByte == 0 {
		st.perByte = ratio
		return
	}
	st.perByte += (ratio - st.perByte) / 8
}

// untold is the number of samples of a write that a backend took without saying how
// many there were. Its writes are held to bytes only.
const untold = -1

// settle charges what a write came to in place of what was reserved for it.
func (st *tenantState) settle(now time.Time, r *rates, reserved float64, samples int64) {
	if samples == untold {
		st.untold, samples = true, 0
	} else if samples > 0 {
		st.untold = false
	}
	st.reserved -= reserved
	if cost := float64(samples) - reserved; cost != 0 {
		st.samples.take(now, r.samples, r.sampleBurst, cost)
	}
}
