package split

import (
	"math"
	"os"
	"strconv"
	"testing"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
)

// TestSplitEqualsWhole evaluates random queries as a whole and in parts, and compares the answers
// to the bit, unless the engine's own answers differ (Shape.Open).
//
// The environment variable SPLIT_QUERIES sets the number of queries, SPLIT_SEED another seed, or "now".
func TestSplitEqualsWhole(t *testing.T) {
	seed := seedOf(os.Getenv("SPLIT_SEED"))
	queries := 500
	if n, err := strconv.Atoi(os.Getenv("SPLIT_QUERIES")); err == nil {
		queries = n
	}
	t.Logf("seed %d, %d queries", seed, queries)
	db, names := dataset(t, seed)
	g := newGenerator(seed, names)
	counts := map[string]int{}
	for range queries {
		q := g.query()
		interval := []int64{hour, 2 * hour, 3 * hour}[g.Intn(3)]
		counts[compare(t, db, q, interval)]++
	}
	t.Logf("%v", counts)
	if counts["equal"] < queries/4 {
		t.Errorf("only %d of %d queries had several parts and an answer with series that was compared to the bit", counts["equal"], queries)
	}
}

// compare evaluates a query as a whole and in parts, compares the answers, and returns the outcome.
func compare(t *testing.T, db storage.Queryable, q query, interval int64) string {
	t.Helper()
	s := shapeOf(t, q)
	if !s.Splittable {
		return "not splittable"
	}
	want := ask(t, db, testParser(), q)
	got := askSplit(t, db, q, interval)
	if !s.Open {
		if d := diff(q, want, got); d != "" {
			t.Errorf("%s, in parts of %s: %s", q, ms(interval), d)
		}
		if want.err != nil {
			return "failed"
		}
		if q.start%3 == 0 { // only some queries: this takes as long as the rest
			checkReuse(t, db, q, s, want.matrix)
		}
		if len(Parts(q.start, q.end, q.step, interval, 1000)) < 2 {
			return "one part"
		}
		if len(want.matrix) == 0 {
			return "empty"
		}
		return "equal"
	}
	if (want.err == nil) != (got.err == nil) {
		t.Errorf("%s, in parts of %s: error %v, want %v", q, ms(interval), got.err, want.err)
	}
	if diffMatrix(want.matrix, got.matrix, about) != "" {
		// Prometheus does not give the same answer twice.
		return "open, different"
	}
	return "open, about equal"
}

// checkReuse compares parts of the answer of a query with the answers of queries for these parts:
// the steps from a later start, and every third step.
func checkReuse(t *testing.T, db storage.Queryable, q query, s Shape, whole promql.Matrix) {
	t.Helper()
	p := Parser(testParser(), at(q.start), at(q.end), ms(q.step))
	later := query{q.text, q.start + (q.end-q.start)/q.step/3*q.step, q.end, q.step}
	if d := diffMatrix(ask(t, db, p, later).matrix, Slice(whole, later.start, later.end), sameBits); d != "" {
		t.Errorf("%s, from %s: %s", q, at(later.start), d)
	}
	third := query{q.text, q.start, q.end, 3 * q.step}
	if s.DependsOnStep || !shapeOf(t, third).Splittable {
		return
	}
	if d := diffMatrix(ask(t, db, testParser(), third).matrix, Pick(whole, third.start, third.step), sameBits); d != "" {
		t.Errorf("%s, every third step: %s", q, d)
	}
}

func about(a, b float64) bool {
	return sameBits(a, b) || math.Abs(a-b) <= 1e-9*max(math.Abs(a), math.Abs(b))
}
