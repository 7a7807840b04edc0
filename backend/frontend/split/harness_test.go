package split

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
)

const (
	minute = int64(60_000)
	hour   = 60 * minute
	// base is the time of the first sample of the tests: 2026-03-01, 00:00 UTC.
	base     = int64(1_772_323_200_000)
	lookback = 5 * time.Minute
)

var testOptions = Options{Lookback: lookback, SubqueryStep: time.Minute}

func testParser() parser.Parser {
	return parser.NewParser(parser.Options{EnableExperimentalFunctions: true, EnableBinopFillModifiers: true})
}

func testEngine(p parser.Parser) *promql.Engine {
	return promql.NewEngine(promql.EngineOpts{
		MaxSamples: 50_000_000, Timeout: time.Hour, LookbackDelta: lookback,
		EnableAtModifier: true, EnableNegativeOffset: true, Parser: p,
		NoStepSubqueryIntervalFn: func(int64) int64 { return minute },
	})
}

func at(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// query is a range query, in milliseconds.
type query struct {
	text             string
	start, end, step int64
}

func (q query) String() string {
	return fmt.Sprintf("%s from %s to %s by %s", q.text, at(q.start).Format(time.RFC3339), at(q.end).Format(time.RFC3339), ms(q.step))
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// answer is the result of a query.
type answer struct {
	matrix promql.Matrix
	notes  annotations.Annotations
	err    error
}

// ask evaluates the steps from start to end of a query with the engine.
func ask(t testing.TB, db storage.Queryable, p parser.Parser, q query) answer {
	t.Helper()
	eng := testEngine(p)
	qry, err := eng.NewRangeQuery(context.Background(), db, nil, q.text, at(q.start), at(q.end), ms(q.step))
	if err != nil {
		t.Fatalf("%s: %v", q, err)
	}
	res := qry.Exec(context.Background())
	if res.Err != nil {
		return answer{err: res.Err}
	}
	m, err := res.Matrix()
	if err != nil {
		t.Fatalf("%s: %v", q, err)
	}
	return answer{matrix: m, notes: res.Warnings}
}

// askSplit evaluates a query in parts.
func askSplit(t testing.TB, db storage.Queryable, q query, interval int64) answer {
	t.Helper()
	var all answer
	var parts []promql.Matrix
	for _, r := range Parts(q.start, q.end, q.step, interval, 1000) {
		p := Parser(testParser(), at(q.start), at(q.end), ms(q.step))
		got := ask(t, db, p, query{q.text, r.Start, r.End, q.step})
		if got.err != nil {
			return got
		}
		parts = append(parts, got.matrix)
		all.notes.Merge(got.notes)
	}
	all.matrix, all.err = Merge(parts)
	return all
}

// shapeOf analyzes a query.
func shapeOf(t testing.TB, q query) Shape {
	t.Helper()
	expr, err := testParser().ParseExpr(q.text)
	if err != nil {
		t.Fatalf("%s: %v", q.text, err)
	}
	r, err := Resolve(expr, at(q.start), at(q.end), ms(q.step))
	if err != nil {
		t.Fatalf("%s: %v", q.text, err)
	}
	return Analyze(r, testOptions)
}

// diff returns the difference of two answers to the same query. It returns "" if both have an error,
// or if they are equal in series, times, the bits of all values except NaN, and annotations.
func diff(q query, want, got answer) string {
	if want.err != nil || got.err != nil {
		if want.err != nil && got.err != nil {
			return ""
		}
		return fmt.Sprintf("error %v, want %v", got.err, want.err)
	}
	if d := diffMatrix(want.matrix, got.matrix, sameBits); d != "" {
		return d
	}
	return diffNotes(q, want.notes, got.notes)
}

func sameBits(a, b float64) bool {
	return math.Float64bits(a) == math.Float64bits(b) || math.IsNaN(a) && math.IsNaN(b)
}

func diffMatrix(want, got promql.Matrix, same func(a, b float64) bool) string {
	if len(want) != len(got) {
		return fmt.Sprintf("%d series, want %d", len(got), len(want))
	}
	for i := range want {
		w, g := want[i], got[i]
		if !labels.Equal(w.Metric, g.Metric) {
			return fmt.Sprintf("series %s, want %s", g.Metric, w.Metric)
		}
		if d := diffSeries(w, g, same); d != "" {
			return fmt.Sprintf("series %s: %s", w.Metric, d)
		}
	}
	return ""
}

func diffSeries(w, g promql.Series, same func(a, b float64) bool) string {
	if len(w.Floats) != len(g.Floats) || len(w.Histograms) != len(g.Histograms) {
		return fmt.Sprintf("%d floats and %d histograms, want %d and %d",
			len(g.Floats), len(g.Histograms), len(w.Floats), len(w.Histograms))
	}
	for i, p := range w.Floats {
		if o := g.Floats[i]; o.T != p.T || !same(p.F, o.F) {
			return fmt.Sprintf("%v, want %v", o, p)
		}
	}
	for i, p := range w.Histograms {
		if o := g.Histograms[i]; o.T != p.T || !o.H.Equals(p.H) {
			return fmt.Sprintf("%v, want %v", o, p)
		}
	}
	return ""
}

var (
	position = regexp.MustCompile(` \(\d+:\d+\)$`)
	forced   = regexp.MustCompile(`over -?\d+ samples`)
	mismatch = regexp.MustCompile(`incompatible (sample types|bucket layout) encountered for binary operator.*`)
)

// diffNotes compares annotations, except for the details that the package comment excludes.
func diffNotes(q query, want, got annotations.Annotations) string {
	w, g := notesOf(q, want), notesOf(q, got)
	if !slices.Equal(w, g) {
		return fmt.Sprintf("annotations\n  %s\nwant\n  %s", strings.Join(g, "\n  "), strings.Join(w, "\n  "))
	}
	return ""
}

func notesOf(q query, notes annotations.Annotations) []string {
	w, i := notes.AsStrings(q.text, 0, 0)
	all := slices.Concat(w, i)
	for i := range all {
		all[i] = forced.ReplaceAllString(position.ReplaceAllString(all[i], ""), "over N samples")
		if mismatch.MatchString(all[i]) {
			all[i] = "incompatible samples of a binary operator"
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
