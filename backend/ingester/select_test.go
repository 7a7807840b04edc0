package ingester

import (
	"fmt"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/series"
)

// TestLabelRange checks that the selections of the label ranges together contain each series
// exactly once. Some series are in the head, some in a local pack and some in both.
func TestLabelRange(t *testing.T) {
	b := newBench(t)
	now := b.now.UnixMilli()
	var all []labels.Labels
	for i := range 12 {
		all = append(all, metric("x", "i", fmt.Sprintf("%02d", i)))
	}
	for i, ls := range all {
		if i%2 == 0 {
			b.push("a", entry(ls, f(now, 1)))
		}
	}
	if err := b.ing.Flush(); err != nil {
		t.Fatal(err)
	}
	for i, ls := range all {
		if i%3 != 0 {
			b.push("a", entry(ls, f(now+1, 1)))
		}
	}
	// Series 3 and 9 were not pushed.
	all = slices.DeleteFunc(all, func(ls labels.Labels) bool { return ls.Get("i") == "03" || ls.Get("i") == "09" })
	for _, only := range []bool{false, true} {
		var got []labels.Labels
		for _, r := range series.LabelRanges(all, 4) {
			sel, _, err := b.ing.Select(t.Context(), series.Request{Tenant: "a", MaxTime: now + 1000, Range: r, LabelsOnly: only})
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range sel.Series {
				got = append(got, s.Labels)
			}
			sel.Release()
		}
		if !slices.EqualFunc(got, all, labels.Equal) {
			t.Errorf("labels only %v: the ranges together have %v, want %v", only, got, all)
		}
	}
}
