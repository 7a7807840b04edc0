package column

// sampled is the number of residuals from which the codec is chosen.
const sampled = 512

// eachSampled calls fn for ranges of [0, n) with a total length of at most
// sampled.
func eachSampled(n int, fn func(from, to int)) {
	const parts = 4
	if n <= sampled {
		fn(0, n)
		return
	}
	for i := range parts {
		from := (n - sampled/parts) * i / (parts - 1)
		fn(from, from+sampled/parts)
	}
}

// chooser chooses the codec of a series by comparing the estimated sizes of
// residuals.
type chooser struct {
	delta, dod, offset, previous [sampled]int64
}

// choose returns the codec for the integers x and the base of its stream.
// `before` has the integers of the previous series, or is nil; g is a common
// divisor of the differences to the first integer.
func (ch *chooser) choose(x, before []int64, g int64) (codec, int64) {
	n := len(x) - 1
	delta, dod, offset, previous := ch.delta[:0], ch.dod[:0], ch.offset[:0], ch.previous[:0]
	eachSampled(n, func(from, to int) {
		y := (x[from] - x[0]) / g
		last := (x[max(from, 1)]-x[0])/g - (x[max(from, 1)-1]-x[0])/g
		for i := from + 1; i <= to; i++ {
			next := (x[i] - x[0]) / g
			d := next - y
			delta = append(delta, d)
			dod = append(dod, d-last)
			offset = append(offset, next)
			y, last = next, d
		}
		if before != nil {
			for i := from; i < to; i++ {
				previous = append(previous, (x[i+1]-x[i])-(before[i+1]-before[i]))
			}
		}
	})
	best := codecDelta
	base, size := bestBase(delta)
	if b, s := bestBase(dod); s < size {
		best, base, size = codecDoD, b, s
	}
	if b, s := bestBase(offset); s < size {
		best, base, size = codecOffset, b, s
	}
	if before != nil {
		if b, s := bestBase(previous); s < size {
			best, base = codecPrevious, b
		}
	}
	return best, base
}

// residuals sets r to the codec's residuals of the integers x without the
// first, and returns the first step, which codecDoD stores separately.
func residuals(r []int64, c codec, x, before []int64, g int64) (first int64) {
	if c == codecPrevious {
		last := x[0] - before[0]
		for i := range r {
			w := x[i+1] - before[i+1]
			r[i] = w - last
			last = w
		}
		return 0
	}
	for i := range r {
		r[i] = x[i+1] - x[0]
	}
	// Divide after the subtraction of x[0]: when the bits of floats of both
	// signs wrap around, only differences to the first are multiples of g.
	if g != 1 {
		for i := range r {
			r[i] /= g
		}
	}
	if c == codecOffset {
		return 0
	}
	last := int64(0)
	for i, y := range r {
		r[i] = y - last
		last = y
	}
	if c == codecDelta {
		return 0
	}
	first = r[0]
	last = first
	for i, d := range r {
		r[i] = d - last
		last = d
	}
	return first
}
