package quota

import (
	"math"
	"time"

	"github.com/palliumhq/pallium/policies/budget"
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
)

// reserve estimates what an admitted write with a body of so many bytes costs and
// takes it from the budget, unless others have put that in debt meanwhile. What it
// returns must be given to done.
func (st *state) reserve(now time.Time, l *limits.Limits, length int64) (float64, *Rejection) {
	st.mu.Lock()
	defer st.mu.Unlock()
	r := st.scaled(l)
	if f := st.checkSamples(now, l, &r); f != nil {
		st.use.rejected++
		st.asked[budget.Samples] += st.perWrite
		return 0, f
	}
	if r.samples <= 0 || st.untold || length == 0 {
		return 0, nil
	}
	n := float64(length) * st.ratio()
	st.samples.take(now, r.samples, r.sampleBurst, n)
	st.reserved += n
	return n, nil
}

func (st *state) ratio() float64 {
	if st.perByte == 0 {
		return firstPerByte
	}
	return st.perByte
}

// learn notes what a write came to. What it cost beside its samples, such as a day
// that is compacted again, says nothing about the length of bodies.
func (st *state) learn(o Outcome) {
	st.perWrite += (float64(max(o.Samples, 0)+o.Beside) - st.perWrite) / 8
	if o.Read <= 0 || o.Samples <= 0 {
		return
	}
	ratio := math.Min(math.Max(float64(o.Samples)/float64(o.Read), leastPerByte), mostPerByte)
	if st.perByte == 0 {
		st.perByte = ratio
		return
	}
	st.perByte += (ratio - st.perByte) / 8
}

// Untold is the number of samples of a write that a backend took without saying how
// many there were. Its writes are held to bytes only.
const Untold = -1

// settle charges what a write came to in place of what was reserved for it.
func (st *state) settle(now time.Time, r *rates, reserved float64, o Outcome) {
	switch {
	case o.Samples == Untold:
		st.untold = true
	case o.Samples > 0:
		st.untold = false
	}
	st.reserved -= reserved
	if cost := float64(max(o.Samples, 0)+o.Beside) - reserved; cost != 0 {
		st.samples.take(now, r.samples, r.sampleBurst, cost)
	}
}
