package querier

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/limits"
)

// TestSubqueryBombs checks that subqueries for which the engine would allocate
// billions of steps are rejected, even without a limit.
func TestSubqueryBombs(t *testing.T) {
	for _, tt := range []struct {
		text     string
		samples  int // limit
		span     time.Duration
		rejected bool
	}{
		{`vector(1)[10000d:1ms]`, 0, 0, true},
		{`max_over_time(vector(1)[10000d:1ms])`, 50_000_000, 0, true},
		{`max_over_time(vector(1)[10000d:1ms] @ 0)`, 0, 0, true},
		{`max_over_time(vector(1)[1h:1s])`, 3000, 0, true},
		{`max_over_time(vector(1)[1h:1s])`, 8000, 0, false},
		{`max_over_time(vector(1)[1h:])`, 200, 0, false},
		{`max_over_time(vector(1)[4h:])`, 200, 0, true},
		{`max_over_time(vector(1)[1h:])`, 200, 3 * time.Hour, true},
		{`max_over_time(vector(1)[1h:] @ end())`, 200, 3 * time.Hour, false},
		{`max_over_time(max_over_time(vector(1)[1s:1ms])[1h:1m])`, 10_000, 0, true},
		{`max_over_time(max_over_time(vector(1)[1s:1ms] @ 0)[1h:1m])`, 10_000, 0, false},
		{`max_over_time(up[1y:1h])`, 0, 0, false},
	} {
		b := newBed(t)
		b.lim = limits.Limits{MaxQuerySamples: tt.samples}
		var res *promql.Result
		if tt.span > 0 {
			res = b.ranged(t, tt.text, tt.span, tt.span)
		} else {
			res = b.instant(b.as("a"), t, tt.text)
		}
		rejected := res.Err != nil && strings.Contains(res.Err.Error(), "a subquery has")
		if rejected != tt.rejected || res.Err != nil && !rejected {
			t.Errorf("%s with max_query_samples %d: error %v", tt.text, tt.samples, res.Err)
		}
	}
}

func TestLargeExpressions(t *testing.T) {
	p := NewParser(parser.Options{}, 100)
	for text, want := range map[string]bool{
		"1" + strings.Repeat("+1", 100):                               true,
		"1" + strings.Repeat("+1", 101):                               false,
		strings.Repeat("(", 101) + "1" + strings.Repeat(")", 101):     false,
		strings.Repeat("-", 8<<20) + "1":                              false,
		`up{a=~"` + strings.Repeat("x|", 10_000) + `"}`:               true,
		"sum by (" + strings.Repeat("a,", 10_000) + "a) (up)":         true,
		strings.Repeat("abs(", 101) + "up" + strings.Repeat(")", 101): false,
	} {
		if _, err := p.ParseExpr(text); (err == nil) != want {
			t.Errorf("%.20s... (%d bytes): error %v", text, len(text), err)
		}
	}
	all := NewParsers(100)(switches.Set{UnquotedUTF8Names: true})
	for _, text := range []string{"ü", "a.b", "sum by (ä.c) (a.b)"} {
		if _, err := all.ParseExpr(text + strings.Repeat("+ 1", 90)); err != nil {
			t.Errorf("%s with few operators: %v", text, err)
		}
		if _, err := all.ParseExpr(text + strings.Repeat("+ 1", 101)); err == nil || !strings.Contains(err.Error(), "operators") {
			t.Errorf("%s with 101 operators: error %v", text, err)
		}
	}
	if _, err := p.ParseExpr("up +"); err == nil || strings.Contains(err.Error(), "operators") {
		t.Errorf("syntax error: got %v", err)
	}
}
