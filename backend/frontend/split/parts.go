package split

// Range is a part of a query: the times of its first and last step in
// milliseconds. Both are steps of the query.
type Range struct {
	Start, End int64
}

// Day is the smallest interval of a split, in milliseconds.
const Day = 24 * 60 * 60 * 1000

// Parts divides the steps start, start+step, ... up to end, in milliseconds, into parts that end
// before the next multiple of interval (from the Unix epoch, so UTC). Every step is in exactly one
// part, and no part is empty. If there would be more parts than `most`, the interval is multiplied by
// an integer. There are no parts if end is before start, and one if step or interval is not
// positive or `most` is less than two.
//
// The loop is over steps and not over boundaries: a loop over boundaries with special cases, as in
// Cortex and Thanos, easily loses the last step of a range.
func Parts(start, end, step, interval int64, most int) []Range {
	if end < start {
		return nil
	}
	if step <= 0 {
		return []Range{{start, start}}
	}
	// The difference of two int64 fits a uint64, and start plus the difference is correct modulo
	// 2^64.
	steps := (uint64(end) - uint64(start)) / uint64(step) // number of steps after the first
	last := start + int64(steps*uint64(step))
	if interval <= 0 || most < 2 || steps == 0 {
		return []Range{{start, last}}
	}
	if interval = widen(start, last, interval, steps, uint64(most)); interval == 0 {
		return []Range{{start, last}}
	}
	var parts []Range
	for first := start; ; {
		to := last
		// The distance to the next boundary is at most interval, even if the boundary itself
		// overflows an int64.
		left := uint64(interval - mod(first, interval))
		if uint64(last)-uint64(first) >= left {
			to = first + int64((left-1)/uint64(step)*uint64(step))
		}
		parts = append(parts, Range{first, to})
		if to == last {
			return parts
		}
		first = to + step
	}
}

// widen returns a multiple of interval, the smallest or nearly so, with which there are not more
// parts than `most`, which must be at least 2. It returns 0 if the multiple overflows an int64.
func widen(start, last, interval int64, steps, most uint64) int64 {
	boundaries := uint64(floor(last, interval) - floor(start, interval))
	if steps < most || boundaries < most {
		return interval
	}
	// Every n-th boundary remains. That may be one more than boundaries/n, rounded down, so the
	// second try is for one part less.
	for _, groups := range []uint64{most, most - 1} {
		n := boundaries/groups + 1
		if n > uint64((1<<63-1)/interval) {
			break
		}
		wide := interval * int64(n)
		if uint64(floor(last, wide)-floor(start, wide)) < most {
			return wide
		}
	}
	return 0
}

// floor returns a/b rounded down; b is positive.
func floor(a, b int64) int64 {
	if q := a / b; a%b >= 0 {
		return q
	}
	return a/b - 1
}

// mod returns a - b*floor(a, b), which is never negative.
func mod(a, b int64) int64 {
	if r := a % b; r >= 0 {
		return r
	}
	return a%b + b
}

// maxDays is the longest interval in days: longer ones are useless, and their milliseconds could
// overflow.
const maxDays = 1 << 20

// Interval returns the interval of a split in milliseconds: n days, if every part reads n days in
// addition to its own (at least one). So all parts together read at most twice the days that the
// whole query reads: a query over d days has at most d/n+2 parts, which read d+n*(d/n+2) = 2*(d+n)
// days.
//
// The interval depends only on the expression: when the range of a dashboard moves, the boundaries
// of its parts stay the same.
func (s Shape) Interval() int64 {
	days := int64(0)
	if s.Moves {
		days = addSat(days, daysOf(addSat(s.Before, s.After)))
	}
	if s.Fixed != nil {
		days = addSat(days, daysOf(subSat(s.Fixed.To, s.Fixed.After)))
	}
	return Day * min(max(days, 1), maxDays)
}

// daysOf returns a duration in milliseconds in days, rounded up.
func daysOf(ms int64) int64 {
	return max(floor(addSat(ms, Day-1), Day), 0)
}
