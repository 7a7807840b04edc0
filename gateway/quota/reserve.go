package quota

import (
	"math"
	"time"

	"github.com/palliumhq/pallium/policies/budget"
	"github.com/palliumhq/pallium/policies/limits"
)

// The number of samples of a write is known only from its response. Until then it is
// estimated from the length of the body and reserved, because otherwise any number of
// concurrent writes would use the same budget.
const (
	// firstPerByte is the estimate of samples per byte for a tenant's first writes:
	// a compressed sample with its labels takes about 30 bytes. It is rather low, so
	// that a new sender is not rejected for samples that it does not send.
	firstPerByte = 1. / 32
	// The bounds of the learned ratio, because a sender can craft its bodies.
	leastPerByte, mostPerByte = 1. / 256, 1.
)

// reserve estimates the samples of an admitted write with a body of length bytes and
// takes them from the budget, unless other writes have put the budget in debt meanwhile.
// The result must be passed to done.
func (st *state) reserve(now time.Time, l *limits.Limits, length int64) (float64, *Rejection) {
	st.mu.Lock()
	defer st.mu.Unlock()
	r := st.scaled(l)
	if f := st.checkSamples(now, l, &r); f != nil {
		st.use.rejected++
		st.asked[budget.Samples] += st.perWrite
		return 0, f
	}
	if r.samples <= 0 || st.unreported || length == 0 {
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

// learn updates the estimates with the outcome of a write. Costs in addition to samples, such as
// for a day that must be compacted again, count for perWrite only, because they do not depend on the
// length of the body.
func (st *state) learn(o Outcome) {
	st.perWrite += (float64(max(o.Samples, 0)+o.Extra) - st.perWrite) / 8
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

// UnknownSamples is the number of samples of a write that a backend accepted without reporting
// their number. The limit of samples does not apply to such writes.
const UnknownSamples = -1

// replaceReservation replaces the reservation of a write by its actual cost.
func (st *state) replaceReservation(now time.Time, r *rates, reserved float64, o Outcome) {
	switch {
	case o.Samples == UnknownSamples:
		st.unreported = true
	case o.Samples > 0:
		st.unreported = false
	}
	st.reserved -= reserved
	if cost := float64(max(o.Samples, 0)+o.Extra) - reserved; cost != 0 {
		st.samples.take(now, r.samples, r.sampleBurst, cost)
	}
}
