package shard

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/palliumhq/pallium/backend/series"
)

const (
	minute = int64(60_000)
	points = 40 // of a series
)

// db is a storage with the series of a range, sorted by labels.
type db struct {
	points promql.Matrix
	within series.LabelRange
}

func (d db) Querier(int64, int64) (storage.Querier, error) { return dbQuerier{db: d}, nil }

type dbQuerier struct {
	querier
	db db
}

func (q dbQuerier) Select(_ context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	out := &seriesSet{i: -1}
	for _, s := range q.db.points {
		if q.db.within.Contains(s.Metric) && !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(s.Metric.Get(m.Name)) }) {
			out.points = append(out.points, s)
		}
	}
	return out
}

// random returns a storage: x has series in groups, some of which have labels that sort before
// the name, and values that overflow, cancel out or are not numbers; h has native histograms,
// mixed has both; le has buckets.
func random(rnd *rand.Rand) db {
	values := []float64{1e308, -1e308, math.Inf(1), math.Inf(-1), math.NaN(), 0, math.Copysign(0, -1), 1e-300, 1e16, -1e16, 0.1, 0.2, 3}
	var d db
	for i := range 24 {
		for _, name := range []string{"x", "y", "h", "mixed", "le", "typed"} {
			set := map[string]string{"__name__": name, "i": strconv.Itoa(i), "job": strconv.Itoa(i % 3)}
			if i%4 == 0 {
				set["A"] = strconv.Itoa(i % 5) // sorts before the name
			}
			if name == "typed" {
				set["__type__"] = strconv.Itoa(i % 2)
			}
			if name == "le" {
				set["le"] = []string{"0.1", "1", "+Inf"}[i%3]
			}
			s := promql.Series{Metric: labels.FromMap(set)}
			wild, count := i%5 == 1, 0.0
			for k := range int64(points) {
				t := k * minute
				switch {
				case rnd.Intn(6) == 0: // a gap
				case name == "h" || name == "mixed" && i%2 == 0:
					s.Histograms = append(s.Histograms, promql.HPoint{T: t, H: tsdbutil.GenerateTestFloatHistogram(k)})
				case wild && name != "le":
					s.Floats = append(s.Floats, promql.FPoint{T: t, F: values[rnd.Intn(len(values))]})
				default:
					count += rnd.Float64()
					s.Floats = append(s.Floats, promql.FPoint{T: t, F: count})
				}
			}
			d.points = append(d.points, s)
		}
	}
	slices.SortFunc(d.points, func(a, b promql.Series) int { return labels.Compare(a.Metric, b.Metric) })
	return d
}

var plain = parser.NewParser(parser.Options{EnableExperimentalFunctions: true})

func evaluate(t *testing.T, p parser.Parser, q storage.Queryable, text string, lookback time.Duration) *promql.Result {
	t.Helper()
	e := promql.NewEngine(promql.EngineOpts{MaxSamples: math.MaxInt, Timeout: time.Hour, LookbackDelta: lookback, Parser: p,
		EnableAtModifier: true, EnableNegativeOffset: true, NoStepSubqueryIntervalFn: func(int64) int64 { return minute }})
	query, err := e.NewRangeQuery(t.Context(), q, nil, text, timestamp.Time(0), timestamp.Time((points-1)*minute), time.Minute)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	t.Cleanup(query.Close)
	return query.Exec(t.Context())
}

func none(int64) error { return nil }

// divided evaluates an expression with the series of each leaf in n ranges.
func divided(t *testing.T, d db, leaves []*Leaf, text string, n int) *promql.Result {
	t.Helper()
	var answers []Answer
	var notes annotations.Annotations
	for _, l := range leaves {
		var all []labels.Labels
		for _, s := range d.points {
			if !slices.ContainsFunc(l.Matchers(), func(m *labels.Matcher) bool { return !m.Matches(s.Metric.Get(m.Name)) }) {
				all = append(all, s.Metric)
			}
		}
		var pieces []promql.Matrix
		for _, s := range l.Shards(series.LabelRanges(all, n)) {
			res := evaluate(t, Parser(plain, &s), db{d.points, s.Range}, text, 5*time.Minute)
			if res.Err != nil {
				return res
			}
			m, err := res.Matrix()
			if err != nil {
				t.Fatal(err)
			}
			pieces = append(pieces, m)
			notes.Merge(res.Warnings)
		}
		a, err := l.Collect(pieces, Steps{Start: 0, Step: minute, N: points}, none)
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, a)
	}
	if m, ok := Whole(answers); ok {
		return &promql.Result{Value: m, Warnings: notes}
	}
	p, stored := Root(plain, answers)
	res := evaluate(t, p, stored, text, time.Millisecond)
	res.Warnings = notes.Merge(res.Warnings)
	return res
}

// expressions are divided, into this number of leaves. Those of the second half were wrong in
// shards of other systems.
var expressions = map[string]int{
	"sum(x)": 1, "sum by (job) (x)": 1, "sum without (i) (x)": 1, "sum without (i) (typed)": 1, "sum without (i, A) (rate(x[5m]))": 1, "avg(x)": 1, "avg by (A) (x)": 1,
	"min(x)": 1, "max by (job) (x)": 1, "count by (job, A) (x > 1)": 1, "group(x)": 1, "stddev(x)": 1, "stdvar by (job) (x)": 1,
	"quantile by (job) (0.9, x)": 1, "quantile(2, x)": 1, "topk(3, x)": 1, "bottomk by (job) (1, rate(x[5m]))": 1, "limitk(4, x)": 1,
	"limit_ratio(0.5, x)": 1, `count_values("v", x > 1)`: 1, "x": 1, "rate(x[5m])": 1, "abs(x) * 2": 1, "(sum(x))": 1, "-sum(x)": 1,
	"max_over_time(rate(x[5m])[10m:1m])": 1, "sum(x) / sum(y)": 2, "sum by (job) (x) / on (job) group_left sum by (job, A) (y)": 2,
	"topk(2, sum by (i) (rate(x[5m])))": 1, "sum(max by (job) (x))": 1, "max(sum by (job) (x))": 1, "avg(count by (job) (x))": 1,
	"sum(x) > 3 or avg(y)": 2, "label_replace(sum by (i) (x), \"j\", \"$1\", \"i\", \"(.*)\")": 1, "round(sum by (job) (x))": 1,
	"sum(timestamp(x))": 1, "sum(x) + time()": 1, "sum(x offset 3m)": 1, "sum(x offset -3m)": 1, "sum by (__name__) (x)": 1, "scalar(sum(x)) + sum(y)": 2,
	"sort(sum by (job) (x))": 1, "max(h)": 1, "count(h)": 1, "min(mixed)": 1, "sum by (A) (time() - x)": 1, "sum(sgn(clamp(x, -1, 1)))": 1,

	"sum(x) > bool 1": 1, "sum(x > bool 1)": 1, "1 < bool sum(x)": 1, "avg(avg_over_time(x[6m:1m]))": 1, "sum(-x)": 1, "avg(-x)": 1,
	"avg by (job) (x) * on (job) group_left avg by (job, A) (y)": 2, "avg without (job) (x)": 1, "sum(h)": 1, "sum by (job) (rate(h[5m]))": 1,
	"avg(h)": 1, "sum(mixed)": 1, "avg by (job) (mixed)": 1, "sum by (i) (mixed)": 1, "histogram_quantile(0.9, sum by (le) (rate(le[5m])))": 1,
	"histogram_quantile(0.5, sum(rate(h[5m])))": 1, "histogram_quantile(0.9, sum by (job, le) (le))": 1, "vector(1) + sum(x)": 1,
	"sum(x * time())": 1, "max(x * 0)": 1, "min(x * -0)": 1, "count(x) == bool 24": 1, "quantile(0.5, mixed)": 1,
}

// TestExact compares the answers of shards with those of the whole expression: every bit, and
// annotations as the API prints them.
func TestExact(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewSource(seed))
	for range 3 {
		d := random(rnd)
		for text, want := range expressions {
			expr, err := plain.ParseExpr(text)
			if err != nil {
				t.Fatal(err)
			}
			leaves := Analyze(expr)
			if len(leaves) != want {
				t.Errorf("%s: %d leaves, want %d", text, len(leaves), want)
				continue
			}
			whole := evaluate(t, plain, d, text, 5*time.Minute)
			for _, n := range []int{1, 2, 3, 24} {
				same(t, fmt.Sprintf("%s in %d shards", text, n), text, divided(t, d, leaves, text, n), whole)
			}
		}
	}
}

// open are expressions for which the engine adds values in the order of a Go map.
var open = []string{"sum(-x)", "avg(-x)", "sum by (A) (time() - x)", "sum(x * time())", "max(x * 0)", "min(x * -0)",
	"sum(sgn(clamp(x, -1, 1)))", "sum(timestamp(x))", "avg(count by (job) (x))"}

func same(t *testing.T, name, text string, got, want *promql.Result) {
	t.Helper()
	if got.Err != nil || want.Err != nil {
		if got.Err == nil || want.Err == nil || got.Err.Error() != want.Err.Error() {
			t.Errorf("%s: error %v, want %v", name, got.Err, want.Err)
		}
		return
	}
	g, w := got.Value.(promql.Matrix), want.Value.(promql.Matrix)
	if slices.Contains(open, text) {
		if len(g) != len(w) {
			t.Errorf("%s: %d series, want %d", name, len(g), len(w))
		}
	} else if bits(g) != bits(w) {
		t.Errorf("%s:\n got %.1500s\nwant %.1500s", name, bits(g), bits(w))
	}
	gw, gi := got.Warnings.AsStrings(text, 0, 0)
	ww, wi := want.Warnings.AsStrings(text, 0, 0)
	for _, list := range [][]string{gw, gi, ww, wi} {
		slices.Sort(list)
	}
	if !slices.Equal(gw, ww) || !slices.Equal(gi, wi) {
		t.Errorf("%s: annotations %q %q, want %q %q", name, gw, gi, ww, wi)
	}
}

// bits prints values with all bits, but any NaN as NaN.
func bits(m promql.Matrix) string {
	out := ""
	for _, s := range m {
		out += s.Metric.String()
		for _, p := range s.Floats {
			if math.IsNaN(p.F) {
				out += fmt.Sprintf(" %d:NaN", p.T)
			} else {
				out += fmt.Sprintf(" %d:%x", p.T, math.Float64bits(p.F))
			}
		}
		for _, p := range s.Histograms {
			out += fmt.Sprintf(" %d:%s", p.T, p.H)
		}
		out += "\n"
	}
	return out
}

// TestNotDivided has expressions whose series are evaluated together.
func TestNotDivided(t *testing.T) {
	for _, text := range []string{
		"1 < bool 0", "time()", "vector(1)", "vector(time())", "sum(vector(1))", "absent(x)", "absent(sum(x))", "absent_over_time(x[5m])",
		"sum(absent(x))", "scalar(x)", "sum(x) + scalar(y)", "sum(x * scalar(y))", "sum(x / y)", "sum(x or y)", "sum(x) + y", "x + sum(y)",
		"x + y", "histogram_quantile(0.9, le)", "sum(histogram_quantile(0.9, le))", "histogram_count(sum(h))", "histogram_avg(sum(h))", "timestamp(sum(h))",
		`sum({__name__=~"x|y"})`, `sum({job="1"})`, "sum(x @ 60)", "sum(sum_over_time(x[5m:1m] @ 60))", "sum(x @ start())", "max_over_time(sum(x)[5m:1m])",
		"topk(scalar(y), x)", "quantile(scalar(sum(y)), x)", `sum(label_replace(x, "a", "b", "c", "d"))`, `sum(label_join(x, "a", "b"))`,
		"sum(sort(x))", "sort(x)", "info(sum(x))", "sum(info(x))", "sum(sum_over_time(sum(x)[5m:1m]))", "hour()", "sum(hour())", "1", "sum(x) + sum(absent(y))",
	} {
		expr, err := plain.ParseExpr(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if leaves := Analyze(expr); leaves != nil {
			t.Errorf("%s: %d leaves", text, len(leaves))
		}
	}
}

// TestNoMemory checks that an answer is not collected beyond the memory there is.
func TestNoMemory(t *testing.T) {
	full := errors.New("full")
	expr, err := plain.ParseExpr("sum by (i) (x)")
	if err != nil {
		t.Fatal(err)
	}
	piece := promql.Matrix{}
	for i := range 10 {
		piece = append(piece, promql.Series{Metric: labels.FromStrings("i", strconv.Itoa(i)), Floats: []promql.FPoint{{T: 0, F: 1}}})
	}
	left := int64(5 * (groupBytes + groupStepBytes))
	_, err = Analyze(expr)[0].Collect([]promql.Matrix{piece}, Steps{Step: 1, N: 1}, func(n int64) error {
		if left -= n; left < 0 {
			return full
		}
		return nil
	})
	if !errors.Is(err, full) {
		t.Errorf("error %v", err)
	}
}

// TestUnknownAggregation checks that a shard of another expression is an error.
func TestUnknownAggregation(t *testing.T) {
	if _, err := Parser(plain, &Shard{Aggregation: 3}).ParseExpr("sum(x)"); err == nil {
		t.Error("no error")
	}
}

func TestWork(t *testing.T) {
	work := func(text string, steps int64) int64 {
		expr, err := plain.ParseExpr(text)
		if err != nil {
			t.Fatal(err)
		}
		return Analyze(expr)[0].Work(steps, time.Hour, 15*time.Second)
	}
	if got := work("sum(x)", 60); got != 60+240 {
		t.Errorf("work %d of a selector", got)
	}
	if got := work("sum(rate(x[1d]))", 60); got != 60*(1+5760/16)+240 {
		t.Errorf("work %d of a range", got)
	}
}
