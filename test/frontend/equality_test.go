package frontend

import (
	"encoding/json"
	"math"
	"net/http"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/timestamp"

	"github.com/palliumhq/pallium/backend/frontend/split"
)

// TestEquality sends FRONTEND_QUERIES random queries (default 150) and compares the answers with
// answers of Prometheus' engine. Each query is sent to the frontend twice, to the frontend without
// its cache, and to a process without a frontend.
func TestEquality(t *testing.T) {
	n := 150
	if s := os.Getenv("FRONTEND_QUERIES"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	w := newWorld(t)
	w.startSingle()
	w.run(n)
	kept := w.front.metric(`pallium_frontend_steps_total{source="cache"}`)
	evaluated := w.front.metric(`pallium_frontend_steps_total{source="evaluated"}`)
	shards := w.front.metric("pallium_frontend_shards_total")
	t.Logf("%d answers exactly equal, %d equal except for the last bits, %d errors; since the last restart %.0f steps from the cache, "+
		"%.0f evaluated, %.0f shards", w.compare.exact, w.compare.near, w.compare.failed, kept, evaluated, shards)
	if shards == 0 {
		t.Error("no series were divided")
	}
	if w.compare.exact < n {
		t.Errorf("only %d answers were exactly equal, want at least %d", w.compare.exact, n)
	}
}

// run checks n queries, most of them after a disturbance.
func (w *world) run(n int) {
	before := "start"
	for i := range n {
		if did := w.disturb(i); did != "" {
			before = did
		}
		w.check(i, before)
		if w.t.Failed() {
			return
		}
	}
}

// check sends one query in all ways and compares the answers.
func (w *world) check(i int, before string) {
	w.t.Helper()
	q := w.query()
	want, err := w.expect(q)
	open := w.open(q)
	type way struct{ name, edge, token, control string }
	ways := []way{
		{"frontend", w.edge(), w.tokens[0], ""}, {"frontend again", w.edge(), w.tokens[0], ""},
		{"frontend, no-store", w.edge(), w.tokens[0], "no-store"},
	}
	if w.plain != nil {
		ways = append(ways, way{"no frontend", w.plain.Edge, w.tokens[1], ""})
	}
	for _, ask := range ways {
		code, got := w.ask(ask.edge, ask.token, q, ask.control)
		switch {
		case err != nil && code == http.StatusUnprocessableEntity:
			w.compare.failed++
		case err != nil || code != http.StatusOK:
			w.t.Errorf("FRONTEND_SEED=%d, query %d after %s, %s: %+v: %d %s, want %v", w.seed, i, before, ask.name, q, code, got.Error, err)
		case reflect.DeepEqual(got, want):
			w.compare.exact++
		case open && near(got, want):
			w.compare.near++
		default:
			g, _ := json.Marshal(got)
			e, _ := json.Marshal(want)
			at := difference(string(g), string(e))
			w.t.Errorf("FRONTEND_SEED=%d, query %d after %s, %s: %+v\n got ...%.400s\nwant ...%.400s", w.seed, i, before, ask.name, q, g[at:], e[at:])
		}
	}
}

func difference(a, b string) int {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	return max(0, i-100)
}

// open reports whether the last bits of the answer are undefined in Prometheus, too.
func (w *world) open(q query) bool {
	expr, err := w.parser.ParseExpr(q.text)
	if err != nil {
		return false
	}
	step := time.Duration(q.step) * time.Millisecond
	r, err := split.Resolve(expr, timestamp.Time(q.start), timestamp.Time(q.end), step)
	if err != nil {
		return false
	}
	s := split.Analyze(r, split.Options{Lookback: 5 * time.Minute, SubqueryStep: time.Minute})
	return s.Open || s.OnlyOrder
}

// near reports whether two answers are equal except for the last bits of floats. It compares the number of
// histograms, and not their values.
func near(a, b answer) bool {
	if len(a.Data.Result) != len(b.Data.Result) {
		return false
	}
	for i := range a.Data.Result {
		x, y := &a.Data.Result[i], &b.Data.Result[i]
		if !reflect.DeepEqual(x.Metric, y.Metric) || len(x.Values) != len(y.Values) || len(x.Histograms) != len(y.Histograms) {
			return false
		}
		for k := range x.Values {
			if x.Values[k][0] != y.Values[k][0] || !nearText(x.Values[k][1], y.Values[k][1]) {
				return false
			}
		}
	}
	return true
}

func nearText(a, b any) bool {
	x, errX := strconv.ParseFloat(strings.TrimSpace(a.(string)), 64)
	y, errY := strconv.ParseFloat(strings.TrimSpace(b.(string)), 64)
	return errX == nil && errY == nil && (x == y || math.IsNaN(x) && math.IsNaN(y) || math.Abs(x-y) <= 1e-9*max(math.Abs(x), math.Abs(y)))
}
