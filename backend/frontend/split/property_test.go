package split

import (
	"math"
	"os"
	"strconv"
	"testing"

	"github.com/prometheus/prometheus/storage"
)

// TestSplitEqualsWhole evaluates random queries in one and in parts, and
// compares the answers to the bit.
//
// SPLIT_QUERIES is the number of queries, SPLIT_SEED another seed, or "now".
func TestSplitEqualsWhole(t *testing.T) {
	seed := seedOf(os.Getenv("SPLIT_SEED"))
	queries := 700
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
		t.Errorf("only %d of %d queries were compared to the bit", counts["equal"], queries)
	}
}

// compare evaluates a query in one and in parts and returns what became of it.
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

func about(a, b float64) bool {
	return sameBits(a, b) || math.Abs(a-b) <= 1e-9*max(math.Abs(a), math.Abs(b))
}
