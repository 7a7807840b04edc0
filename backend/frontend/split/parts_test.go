package split

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

func TestParts(t *testing.T) {
	const d = int64(Day)
	for name, c := range map[string]struct {
		start, end, step, interval int64
		most                       int
		want                       []Range
	}{
		"one step":                     {5, 5, 1000, d, 10, []Range{{5, 5}}},
		"one step on a boundary":       {d, d, 1000, d, 10, []Range{{d, d}}},
		"no step":                      {5, 5, 0, d, 10, []Range{{5, 5}}},
		"end before start":             {6, 5, 1, d, 10, nil},
		"within a day":                 {5, 100, 10, d, 10, []Range{{5, 95}}},
		"ends before a boundary":       {0, d - 1, 1000, d, 10, []Range{{0, d - 1000}}},
		"ends on a boundary":           {0, d, 1000, d, 10, []Range{{0, d - 1000}, {d, d}}},
		"starts on a boundary":         {d, 2*d + 1, d / 2, d, 10, []Range{{d, d + d/2}, {2 * d, 2 * d}}},
		"starts before a boundary":     {d - 1, d + 1, 1, d, 10, []Range{{d - 1, d - 1}, {d, d + 1}}},
		"step not aligned":             {d - 5, d + 20, 7, d, 10, []Range{{d - 5, d - 5}, {d + 2, d + 16}}},
		"step equal to the interval":   {7, 2*d + 7, d, d, 10, []Range{{7, 7}, {d + 7, d + 7}, {2*d + 7, 2*d + 7}}},
		"step longer than interval":    {7, 6 * d, 2 * d, d, 10, []Range{{7, 7}, {2*d + 7, 2*d + 7}, {4*d + 7, 4*d + 7}}},
		"step longer than range":       {7, 8, 2 * d, d, 10, []Range{{7, 7}}},
		"before the epoch":             {-d - 1, 1, d / 2, d, 10, []Range{{-d - 1, -d - 1}, {-d/2 - 1, -1}}},
		"no interval":                  {0, 3 * d, d, 0, 10, []Range{{0, 3 * d}}},
		"at most one":                  {0, 3 * d, d, d, 1, []Range{{0, 3 * d}}},
		"wider for the bound":          {0, 6*d - 1, d, d, 3, []Range{{0, d}, {2 * d, 3 * d}, {4 * d, 5 * d}}},
		"wider, not aligned":           {d, 6*d - 1, d, d, 3, []Range{{d, d}, {2 * d, 3 * d}, {4 * d, 5 * d}}},
		"wider, needs one more":        {d, 7*d - 1, d, d, 3, []Range{{d, 2 * d}, {3 * d, 5 * d}, {6 * d, 6 * d}}},
		"wider on both sides of epoch": {-3 * d, 3 * d, d, d, 2, []Range{{-3 * d, -d}, {0, 3 * d}}},
		"few steps need no wider parts": {
			0, 100 * d, 50 * d, d, 3, []Range{{0, 0}, {50 * d, 50 * d}, {100 * d, 100 * d}},
		},
		"whole time, no interval is wide enough": {
			math.MinInt64, math.MaxInt64, 1 << 62, 1, 2, []Range{{math.MinInt64, 1 << 62}},
		},
		"whole time": {
			math.MinInt64, math.MaxInt64, math.MaxInt64, d, 10,
			[]Range{{math.MinInt64, math.MinInt64}, {-1, -1}, {math.MaxInt64 - 1, math.MaxInt64 - 1}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := Parts(c.start, c.end, c.step, c.interval, c.most)
			if !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// checkParts returns an error if the parts of a range are wrong.
func checkParts(parts []Range, start, end, step, interval int64, most int) error {
	if len(parts) > max(most, 1) {
		return fmt.Errorf("%d parts, at most %d", len(parts), most)
	}
	next := start
	for i, p := range parts {
		if p.Start != next || p.End < p.Start || p.End > end || (uint64(p.End)-uint64(p.Start))%uint64(step) != 0 {
			return fmt.Errorf("part %d is %v, expected to start at %d", i, p, next)
		}
		if i+1 < len(parts) {
			if floor(p.End, interval) == floor(p.End+step, interval) {
				return fmt.Errorf("part %d ends at %d, not before a boundary", i, p.End)
			}
			next = p.End + step
			continue
		}
		if uint64(end)-uint64(p.End) >= uint64(step) {
			return fmt.Errorf("the last part ends at %d, a step or more before the end", p.End)
		}
	}
	return nil
}

func FuzzParts(f *testing.F) {
	f.Add(int64(0), int64(100), int64(7), int64(10), uint8(5))
	f.Add(int64(math.MinInt64), int64(math.MaxInt64), int64(math.MaxInt64), int64(1), uint8(200))
	f.Add(int64(-5), int64(5), int64(1), int64(math.MaxInt64), uint8(2))
	f.Add(base, base+31*Day, hour, int64(Day), uint8(31))
	f.Fuzz(func(t *testing.T, start, end, step, interval int64, most uint8) {
		if step <= 0 || interval <= 0 || end < start {
			return
		}
		parts := Parts(start, end, step, interval, int(most))
		if len(parts) == 0 {
			t.Fatal("no parts")
		}
		if err := checkParts(parts, start, end, step, interval, int(most)); err != nil {
			t.Fatalf("%v: %v", parts, err)
		}
	})
}

func TestIntervalBoundsDays(t *testing.T) {
	for _, c := range []struct {
		shape Shape
		days  int64
	}{
		{Shape{}, 1},
		{Shape{Moves: true, Before: 5 * minute}, 1},
		{Shape{Moves: true, Before: Day}, 1},
		{Shape{Moves: true, Before: Day + 1}, 2},
		{Shape{Moves: true, Before: 15 * Day}, 15},
		{Shape{Moves: true, Before: 15 * Day, After: 2 * Day}, 17},
		{Shape{Moves: true, Before: 30*Day + 5*minute, After: -30 * Day}, 1},
		{Shape{Moves: true, Before: 5 * minute, Fixed: &Window{After: base - 7*Day, To: base}}, 8},
		{Shape{Fixed: &Window{After: base - 7*Day, To: base}}, 7},
		{Shape{Moves: true, Before: math.MaxInt64, After: math.MaxInt64}, maxDays},
		{Shape{Fixed: &Window{After: math.MinInt64, To: math.MaxInt64}}, maxDays},
	} {
		if got := c.shape.Interval(); got != c.days*Day {
			t.Errorf("%+v: interval of %d days, want %d", c.shape, got/Day, c.days)
		}
		if c.days == maxDays {
			continue
		}
		for _, days := range []int64{1, 2, 3, 10, 30, 31, 400} {
			for _, phase := range []int64{0, 1, Day / 2, 3 * Day, 5*Day - 1} {
				checkDays(t, c.shape, base+phase, base+phase+days*Day)
			}
		}
	}
}

// checkDays checks that the parts of a range together read at most twice as many days as the whole
// range.
func checkDays(t *testing.T, s Shape, start, end int64) {
	t.Helper()
	extra := int64(0)
	if s.Moves {
		extra += daysOf(s.Before + s.After)
	}
	if s.Fixed != nil {
		extra += daysOf(s.Fixed.To - s.Fixed.After)
	}
	own := floor(end, Day) - floor(start, Day) + 1
	sum := int64(0)
	for _, p := range Parts(start, end, 1000*minute, s.Interval(), math.MaxInt) {
		sum += floor(p.End, Day) - floor(p.Start, Day) + 1 + extra
	}
	if whole := own + extra; sum > 2*whole {
		t.Errorf("%+v from %d to %d: parts read %d days, the whole query %d", s, start, end, sum, whole)
	}
}
