package querier

import (
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/promql/parser"
)

// TestCopies checks, for each selector of an expression, how many matrices of the size of its
// selection the engine holds at once.
func TestCopies(t *testing.T) {
	b := newBed(t)
	for _, tt := range []struct {
		text   string
		copies []int64
	}{
		{`up`, []int64{1}},
		{`-up`, []int64{1}},
		{`(up)`, []int64{1}},
		{`rate(up[5m])`, []int64{1}}, // writes its result while it reads
		{`abs(up)`, []int64{2}},
		{`abs(rate(up[5m]))`, []int64{2}},
		{`label_join(up, "a", ",", "b", "c", "d")`, []int64{5}}, // like functions that return several series for one
		{`up + 1`, []int64{2}},
		{`up * on (i) up`, []int64{2, 2}},
		{`up or rate(up[5m])`, []int64{2, 2}},
		{`sum(up)`, []int64{1}},
		{`sum by (i) (up)`, []int64{1}},
		{`sum without (i) (up)`, []int64{2}},
		{`topk(5, up)`, []int64{2}},
		{`sum(up + up)`, []int64{2, 2}},
		{`max_over_time(up[1h:1m])`, []int64{2}},
	} {
		e, err := parser.NewParser(parser.Options{}).ParseExpr(tt.text)
		if err != nil {
			t.Fatal(err)
		}
		lim := b.lim
		q := &query{engine: b.engine, lim: &lim, start: b.now.Add(-time.Hour), end: b.now, step: time.Minute}
		var got []int64
		for _, s := range q.shapeOf(e).selectors {
			got = append(got, s.copies)
		}
		if !slices.Equal(got, tt.copies) {
			t.Errorf("%s: copies = %v, want %v", tt.text, got, tt.copies)
		}
	}
}
