package split

import (
	"math"
	"testing"
	"time"
)

// TestSplittable checks that expressions that are usual in dashboards are splittable.
func TestSplittable(t *testing.T) {
	for _, text := range []string{
		"x", "rate(x[5m])", "sum(rate(x[5m]))", "sum by (a) (rate(x[5m])) / sum by (a) (rate(y[5m]))", "topk(5, rate(x[5m]))",
		"topk(5, x)", "histogram_quantile(0.9, sum by (le) (rate(x_bucket[5m])))", "histogram_quantile(0.9, sum(rate(x[5m])))",
		"histogram_count(rate(x[5m]))", "histogram_sum(sum(rate(x[5m])))", "histogram_avg(increase(x[5m]) + increase(y[5m]))",
		"1 - avg(rate(x[5m]))", "max(sum by (a) (x))", "count(count by (a) (x))", "max_over_time(rate(x[5m])[1h:1m])",
		"absent(x)", "absent_over_time(x[5m])", "x and on(a) y", "x unless y", "x or y", "x offset 1w", "x @ 100", "x > 5",
		"label_replace(x, \"a\", \"b\", \"c\", \"d\")", "sum(x) / scalar(sum(y))", "time() - timestamp(x)", "predict_linear(x[1h], 3600)",
		"quantile(0.9, x)", "topk(2 + 3, x)", "sum(absent_over_time(sum by (a) (x)[10m:]))", "limitk(2, x)", "limit_ratio(0.5, x)",
		"avg by (a) (x)", "sum(sum(x))", "min by (b) (sum by (a, b) (rate(x[5m])))", "rate(x[5m] smoothed)", "increase(x[5m] anchored)",
		"sum_over_time((x > 5)[1h:])", "count_values(\"v\", x)", "max_over_time((x @ 100)[1h:5m])",
	} {
		q := query{text: text, start: base, end: base + 2*Day, step: minute}
		s := shapeOf(t, q)
		if !s.Splittable || s.Reason != "" || s.OnlyOrder || s.DependsOnStep {
			t.Errorf("%s: %+v", text, s)
		}
	}
}

func TestNotSplittable(t *testing.T) {
	for text, reason := range map[string]string{
		"start_timestamp(x)":      "the function start_timestamp is not known to be splittable",
		"sort_by_label(x, \"a\")": "sort_by_label warns only if a range has more than one step",
		"sum(sort_desc(x))":       "sort_desc warns only if a range has more than one step",
		"x + on(a) info(y)":       "info joins the series of the whole range",
		"max_over_time(x[1m:1m])": "the range of a subquery is shorter than the step, and the subquery is also evaluated " +
			"outside of its ranges",
		"max_over_time(max_over_time(x[1m:])[1h:2m])": "the range of a subquery is shorter than the step, and the subquery is also evaluated " +
			"outside of its ranges",
		"topk(scalar(k), sum by (a) (x))": "the parameter of topk is checked for all steps at once",
		"sum(avg by (a) (x))": "sum depends on the order of the groups of another aggregation, " +
			"which depends on the range",
	} {
		q := query{text: text, start: base, end: base + 2*Day, step: 5 * minute}
		if s := shapeOf(t, q); s.Splittable || s.Reason != reason {
			t.Errorf("%s: %+v", text, s)
		}
	}
}

// TestUnknownSubqueryStep checks that a subquery without a step is not assumed to have a short one.
func TestUnknownSubqueryStep(t *testing.T) {
	expr, err := testParser().ParseExpr("max_over_time(max_over_time(x[1h:5m])[1h:])")
	must(t, err)
	r, err := Resolve(expr, at(base), at(base+Day), time.Minute)
	must(t, err)
	if !Analyze(r, testOptions).Splittable {
		t.Error("not splittable with a step of a minute")
	}
	if Analyze(r, Options{Lookback: lookback}).Splittable {
		t.Error("splittable with an unknown step")
	}
}

func TestOpen(t *testing.T) {
	for text, open := range map[string]bool{
		"sum(rate(x[5m]))": false, "sum(abs(x))": true, "topk(1, x * 2)": true, "count(abs(x))": false, "max(abs(x))": true,
		"max(sum by (a) (abs(x)))": true, "sum(topk(2, x))": true, "abs(sum(x))": false, "sum(x) + sum(y)": false,
		"sum(sum(x) + sum(y))": false, "sum(sum(x) or sum(y))": true, "sum(sum by (a) (abs(x)))": true, "sum(-x)": false,
	} {
		q := query{text: text, start: base, end: base + 2*Day, step: minute}
		if s := shapeOf(t, q); s.Open != open || !s.Splittable {
			t.Errorf("%s: %+v", text, s)
		}
	}
}

// TestWindows checks the window of each kind of selector. The look-back is 5 minutes.
func TestWindows(t *testing.T) {
	for text, want := range map[string]Shape{
		"time()":                               {},
		"x":                                    {Moves: true, Before: 5 * minute},
		"x smoothed":                           {Moves: true, Before: 5 * minute, After: 5 * minute},
		"x offset 1h":                          {Moves: true, Before: 65 * minute, After: -60 * minute},
		"x offset -1h":                         {Moves: true, Before: -55 * minute, After: 60 * minute},
		"rate(x[10m])":                         {Moves: true, Before: 10 * minute},
		"rate(x[10m] anchored)":                {Moves: true, Before: 15 * minute},
		"rate(x[10m] smoothed)":                {Moves: true, Before: 15 * minute, After: 5 * minute},
		"rate(x[10m] offset 1h)":               {Moves: true, Before: 70 * minute, After: -60 * minute},
		"x + x offset 1h":                      {Moves: true, Before: 65 * minute},
		"x + x offset -1h":                     {Moves: true, Before: 5 * minute, After: 60 * minute},
		"x @ 60":                               {Fixed: &Window{After: -4 * minute, To: minute}},
		"x @ 60 offset -1m":                    {Fixed: &Window{After: -3 * minute, To: 2 * minute}},
		"rate(x[10m] @ 60)":                    {Fixed: &Window{After: -9 * minute, To: minute}},
		"x @ 60 + x @ 600":                     {Fixed: &Window{After: -4 * minute, To: 10 * minute}},
		"x + x @ 60":                           {Moves: true, Before: 5 * minute, Fixed: &Window{After: -4 * minute, To: minute}},
		"max_over_time(x[1h:5m])":              {Moves: true, Before: 65 * minute},
		"max_over_time(vector(time())[1h:5m])": {},
		"max_over_time(rate(x[10m] offset 1m)[1h:5m] offset 3m)": {Moves: true, Before: 74 * minute, After: -4 * minute},
		"max_over_time(rate(x[10m] offset 1m)[1h:5m] @ 3600)":    {Fixed: &Window{After: -11 * minute, To: 59 * minute}},
		"max_over_time((x + x @ 60)[1h:5m])": {
			Moves: true, Before: 65 * minute, Fixed: &Window{After: -4 * minute, To: minute},
		},
		"max_over_time((x @ 60)[1h:5m] @ 3600)":          {Fixed: &Window{After: -4 * minute, To: minute}},
		"max_over_time(max_over_time(x[1h:5m])[2h:10m])": {Moves: true, Before: 185 * minute},
		"info(x)": {Moves: true, Before: math.MaxInt64, After: math.MaxInt64},
		"x offset 250y + x offset -250y": {
			Moves: true, Before: 250*365*Day + 5*minute, After: 250 * 365 * Day,
		},
	} {
		s := shapeOf(t, query{text: text, start: base, end: base + hour, step: minute})
		if s.Moves != want.Moves || s.Before != want.Before || s.After != want.After || !sameWindow(s.Fixed, want.Fixed) {
			t.Errorf("%s: %+v %v, want %+v %v", text, s, s.Fixed, want, want.Fixed)
		}
	}
}

func sameWindow(a, b *Window) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}

func TestReads(t *testing.T) {
	for _, c := range []struct {
		s     Shape
		want  Window
		reads bool
	}{
		{Shape{}, Window{math.MinInt64, math.MinInt64}, false},
		{Shape{Moves: true, Before: 5, After: -1}, Window{95, 199}, true},
		{Shape{Fixed: &Window{7, 9}}, Window{7, 9}, true},
		{Shape{Moves: true, Before: 5, Fixed: &Window{7, 9}}, Window{7, 200}, true},
		{Shape{Moves: true, Before: math.MaxInt64, After: math.MaxInt64}, Window{100 - math.MaxInt64, math.MaxInt64}, true},
	} {
		if got, reads := c.s.Reads(100, 200); got != c.want || reads != c.reads {
			t.Errorf("%+v: %+v %v, want %+v", c.s, got, reads, c.want)
		}
	}
}

func TestSaturation(t *testing.T) {
	const lo, hi = math.MinInt64, math.MaxInt64
	for _, c := range []struct{ a, b, sum, sub int64 }{
		{1, 2, 3, -1}, {hi, 1, hi, hi - 1}, {lo, -1, lo, lo + 1}, {hi, hi, hi, 0}, {lo, lo, lo, 0}, {0, lo, lo, hi},
		{-1, lo, lo, hi}, {1, lo, lo + 1, hi}, {-5, hi, hi - 5, lo}, {lo, hi, -1, lo}, {hi, lo, -1, hi},
	} {
		if got := addSat(c.a, c.b); got != c.sum {
			t.Errorf("%d + %d = %d, want %d", c.a, c.b, got, c.sum)
		}
		if got := subSat(c.a, c.b); got != c.sub {
			t.Errorf("%d - %d = %d, want %d", c.a, c.b, got, c.sub)
		}
	}
}
