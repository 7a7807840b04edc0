package split

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"
)

// inWindows returns a storage with only the samples that, according to the shape, the steps from
// start to end read.
func inWindows(db storage.Queryable, s Shape, start, end int64) storage.Queryable {
	return only{db, func(ts int64) bool {
		if s.Fixed != nil && ts > s.Fixed.After && ts <= s.Fixed.To {
			return true
		}
		return s.Moves && ts > subSat(start, s.Before) && ts <= addSat(end, s.After)
	}}
}

// TestNothingOutsideWindows evaluates random expressions at up to four steps, with all samples and
// with only the samples in their windows.
func TestNothingOutsideWindows(t *testing.T) {
	seed := seedOf(os.Getenv("SPLIT_SEED")) + 1
	queries := 200
	if n, err := strconv.Atoi(os.Getenv("SPLIT_QUERIES")); err == nil {
		queries = n
	}
	t.Logf("seed %d, %d queries", seed, queries)
	data, names := dataset(t, seed)
	db := only{data, func(int64) bool { return true }}
	g := newGenerator(seed, names)
	compared := 0
	for range queries {
		q := g.query()
		if q.end = q.start + q.step*g.Int63n(3); strings.Contains(q.text, "range()") {
			q.end += q.step // a range of 0 is an error
		}
		s := shapeOf(t, q)
		if s.Open {
			continue // not even two evaluations of the same data are equal
		}
		want := ask(t, db, testParser(), q)
		got := ask(t, inWindows(db, s, q.start, q.end), testParser(), q)
		if want.err != nil || got.err != nil {
			// If there are several steps, an error may come from a subquery between two steps.
			if q.start == q.end && (want.err == nil) != (got.err == nil) {
				t.Errorf("%s: error %v, want %v", q, got.err, want.err)
			}
			continue
		}
		if d := diffMatrix(want.matrix, got.matrix, sameBits); d != "" {
			t.Errorf("%s with samples in (t-%s, t+%s], %v: %s", q, ms(s.Before), ms(s.After), s.Fixed, d)
		}
		if len(want.matrix) > 0 && (s.Moves || s.Fixed != nil) {
			compared++
		}
	}
	if t.Logf("%d read samples and had an answer with series", compared); compared < queries/4 {
		t.Errorf("only %d of %d queries read samples and had an answer with series", compared, queries)
	}
}

// TestWindowsAreTight removes the first or the last sample of a window, and checks whether the value
// changes.
func TestWindowsAreTight(t *testing.T) {
	db := promqltest.LoadedStorage(t, "load 1m\n  x 0+1x600")
	const step = 300 * minute
	for _, c := range []struct {
		text        string
		first, last bool // which ends of the window change the value
	}{
		{"x", false, true}, {"x offset 1h", false, true}, {"x offset -1h", false, true}, {"x @ 7200", false, true},
		{"sum_over_time(x[10m])", true, true}, {"sum_over_time(x[10m] offset 30m)", true, true},
		{"sum_over_time(x[10m] offset -30m)", true, true}, {"sum_over_time(x[10m] @ 7200)", true, true},
		{"sum_over_time(x[10m:1m])", false, true}, {"sum_over_time(x[10m:1m] offset -3m)", false, true},
		// The first step of a subquery is up to one step after the start of its range.
		{"sum_over_time(sum_over_time(x[10m])[1h:1m])", false, true}, {"sum_over_time(sum_over_time(x[10m])[1h:1m] @ 9000)", false, true},
		{"sum_over_time(x[10m]) + x offset -2m", true, true}, {"sum_over_time(x[10m]) + x @ 60", true, true},
	} {
		q := query{text: c.text, start: step, end: step, step: minute}
		s := shapeOf(t, q)
		want := ask(t, inWindows(db, s, step, step), testParser(), q).matrix
		w, _ := s.Reads(step, step)
		if s.Moves {
			w = Window{After: step - s.Before, To: step + s.After}
		}
		for ts, tight := range map[int64]bool{w.After + minute: c.first, w.To: c.last} {
			rest := only{inWindows(db, s, step, step), func(at int64) bool { return at != ts }}
			if got := ask(t, rest, testParser(), q).matrix; (diffMatrix(want, got, sameBits) != "") != tight {
				t.Errorf("%s: the sample at %s changes the value: %v", c.text, ms(ts), !tight)
			}
		}
	}
}

// TestWindowsHaveOldestSample keeps only the oldest sample of a window, and checks that it is read,
// and that the one before it is not.
func TestWindowsHaveOldestSample(t *testing.T) {
	db := promqltest.LoadedStorage(t, "load 1m\n  x 0+1x600")
	const step = 300 * minute
	for text, slack := range map[string]int64{
		"x": 0, "x offset 1h": 0, "x smoothed": 0, "count_over_time(x[10m])": 0,
		"sum_over_time(x[10m:1m])": minute, "max_over_time(last_over_time(x[7m])[10m:2m] offset 1m)": minute,
	} {
		q := query{text: text, start: step, end: step, step: minute}
		s := shapeOf(t, q)
		// The window begins a millisecond after a sample, so its oldest sample is a minute later.
		// The first step of a subquery may be after the start of its range.
		oldest := step - s.Before + minute + slack
		alone := only{db, func(ts int64) bool { return ts == oldest }}
		if got := ask(t, alone, testParser(), q).matrix; len(got) != 1 {
			t.Errorf("%s: the sample at the beginning of the window is not read", text)
		}
		before := only{db, func(ts int64) bool { return ts <= step-s.Before }}
		if got := ask(t, before, testParser(), q).matrix; len(got) != 0 {
			t.Errorf("%s: a sample before the window is read", text)
		}
	}
}
