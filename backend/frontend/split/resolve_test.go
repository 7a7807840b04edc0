package split

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
)

// TestResolve resolves expressions of a query from 600 to 4200 by 60 seconds.
func TestResolve(t *testing.T) {
	for _, c := range []struct {
		text, want string
		depends    bool
	}{
		{"x", "x", false},
		{"x @ 5", "x @ 5.000", false},
		{"x offset 5m", "x offset 5m", false},
		{"rate(x[(5m * 2)])", "rate(x[10m])", false},
		{"x @ start()", "x @ 600.000", true},
		{"x @ end() offset 1m", "x @ 4200.000 offset 1m", true},
		{"rate(x[5m] @ start())", "rate(x[5m] @ 600.000)", true},
		{"max_over_time(x[1h:5m] @ end())", "max_over_time(x[1h:5m] @ 4200.000)", true},
		{"max_over_time((x @ end())[1h:5m] @ start() offset -5m)", "max_over_time((x @ 4200.000)[1h:5m] @ 600.000 offset -5m)", true},
		{"rate(x[step()])", "rate(x[1m])", true},
		{"rate(x[max_of(step() * 4, 1m)])", "rate(x[4m])", true},
		{"rate(x[5m] offset (range() / 2))", "rate(x[5m] offset 30m)", true},
		{"x offset -(step())", "x offset -1m", true},
		{"max_over_time(x[range():step() * 5])", "max_over_time(x[1h:5m])", true},
		{"max_over_time(x[1h:5m] offset step())", "max_over_time(x[1h:5m] offset 1m)", true},
		{"vector(start())", "vector(600)", true},
		{"vector(end() + range() - step())", "vector(4200 + 3600 - 60)", true},
		{"sum by (a) (x @ start()) / on(b) (x > bool range())", "sum by (a) (x @ 600.000) / on (b) (x > bool 3600)", true},
		{"topk(range(), -x)", "topk(3600, -x)", true},
		{"quantile_over_time(step() / 100, x[5m])", "quantile_over_time(60 / 100, x[5m])", true},
		// The engine ignores start() in the parameter of an aggregation.
		{"topk(scalar(x @ start()), y)", "topk(scalar(x @ start()), y)", true},
	} {
		t.Run(c.text, func(t *testing.T) {
			expr, err := testParser().ParseExpr(c.text)
			must(t, err)
			where := positions(expr)
			r, err := Resolve(expr, time.Unix(600, 0), time.Unix(4200, 0), time.Minute)
			must(t, err)
			if got := r.Expr.String(); got != c.want || r.DependsOnStep != c.depends || r.Step != time.Minute {
				t.Errorf("got %s, depends on the step %v, want %s, %v", got, r.DependsOnStep, c.want, c.depends)
			}
			if got := positions(r.Expr); got != where {
				t.Errorf("positions\n%s\nwant\n%s", got, where)
			}
			checkAgain(t, r.Expr)
		})
	}
}

// positions returns the positions of all nodes except parentheses, which the engine removes.
func positions(expr parser.Expr) string {
	var b strings.Builder
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		e, ok := n.(parser.Expr)
		if !ok {
			return nil
		}
		if _, ok := e.(*parser.ParenExpr); ok {
			return nil
		}
		b.WriteString(e.PositionRange().StartPosInput(strings.Repeat(" ", 200), 0) + "\n")
		return nil
	})
	return b.String()
}

// checkAgain checks that an engine with other times does not change a resolved expression.
func checkAgain(t *testing.T, expr parser.Expr) {
	t.Helper()
	want := expr.String()
	again, err := promql.PreprocessExpr(expr, time.Unix(7e5, 0), time.Unix(8e5, 0), 7*time.Second)
	must(t, err)
	stripped := strip(again).String()
	if strings.Contains(want, "start()") { // see TestResolve
		return
	}
	if stripped != want {
		t.Errorf("a part evaluates %s, want %s", stripped, want)
	}
}

func TestResolveReportsErrors(t *testing.T) {
	for _, text := range []string{"rate(x[step() - 5m])", "rate(x[5m / (step() - 1m)])"} {
		expr, err := testParser().ParseExpr(text)
		must(t, err)
		if _, err := Resolve(expr, time.Unix(0, 0), time.Unix(60, 0), time.Minute); err == nil {
			t.Errorf("%s: no error", text)
		}
		p := Parser(testParser(), time.Unix(0, 0), time.Unix(60, 0), time.Minute)
		if _, err := p.ParseExpr(text); err == nil {
			t.Errorf("%s: the parser returns no error", text)
		}
	}
	if _, err := Parser(testParser(), time.Unix(0, 0), time.Unix(60, 0), time.Minute).ParseExpr("x +"); err == nil {
		t.Error("a syntax error is lost")
	}
}

// TestUnresolvedParts shows that each of these expressions has a different answer in parts if it is
// not resolved.
func TestUnresolvedParts(t *testing.T) {
	db := promqltest.LoadedStorage(t, "load 1m\n  x 0+1x300\n  y_total 0+1x60 0+7x200")
	for _, text := range []string{
		"x @ start()", "x @ end()", "max_over_time(x[1h:5m] @ end())", "max_over_time((x @ start())[1h:5m])",
		"rate(y_total[5m] @ end() offset 1m)", "x offset (range() / 4)", "rate(y_total[range() / 10])",
		"vector(start())", "vector(end())", "vector(range())", "x + end()", "sum_over_time(x[range():10m])",
	} {
		q := query{text: text, start: 10 * minute, end: 4*hour - 1, step: 10 * minute}
		want := ask(t, db, testParser(), q)
		if d := diff(q, want, askSplit(t, db, q, hour)); d != "" {
			t.Errorf("%s: %s", text, d)
		}
		var parts []promql.Matrix
		for _, r := range Parts(q.start, q.end, q.step, hour, 100) {
			parts = append(parts, ask(t, db, testParser(), query{text, r.Start, r.End, q.step}).matrix)
		}
		m, err := Merge(parts)
		must(t, err)
		if diffMatrix(want.matrix, m, sameBits) == "" {
			t.Errorf("%s: has the same answer even if it is not resolved", text)
		}
	}
}

// TestStepOfSinglePart checks that step() in a part with a single step is the step of the whole
// query. (For a single step, the engine would use 0.)
func TestStepOfSinglePart(t *testing.T) {
	db := promqltest.LoadedStorage(t, "load 1m\n  x 0+1x300")
	q := query{text: "vector(step())", start: 0, end: 3 * hour, step: hour}
	if d := diff(q, ask(t, db, testParser(), q), askSplit(t, db, q, hour)); d != "" {
		t.Error(d)
	}
}
