package chaos

import (
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
)

// TestLedger sees that the checker finds what it is there to find.
func TestLedger(t *testing.T) {
	a, b := labels.FromStrings("__name__", "chaos_float", "id", "a"), labels.FromStrings("__name__", "chaos_histogram", "id", "b")
	l := newLedger("alpha")
	l.note([]entry{{a, []int64{1, 2}}, {b, []int64{1}}}, acked)
	l.note([]entry{{a, []int64{1, 3}}}, sent)
	l.note([]entry{{a, []int64{4}}}, never)
	at := func(ts ...int64) []point {
		var out []point
		for _, t := range ts {
			out = append(out, point{t: t, v: floatOf(a.String(), t)})
		}
		return out
	}
	hist := readSeries{b, []point{{t: 1, h: histogramOf(b.String(), 1)}}}
	tests := []struct {
		name string
		got  []readSeries
		want string
	}{
		{"all", []readSeries{{a, at(1, 2)}, hist}, ""},
		{"and what was not answered", []readSeries{{a, at(1, 2, 3)}, hist}, ""},
		{"a sample missing", []readSeries{{a, at(1, 3)}, hist}, "acknowledged and is missing"},
		{"a series missing", []readSeries{hist}, "acknowledged and is missing"},
		{"a refused sample", []readSeries{{a, at(1, 2, 4)}, hist}, "refused and is there"},
		{"an unknown sample", []readSeries{{a, at(1, 2, 9)}, hist}, "never sent"},
		{"an unknown series", []readSeries{{a, at(1, 2)}, hist, {labels.FromStrings("__name__", "chaos_float", "id", "c"), at(1)}}, "never sent"},
		{"a wrong value", []readSeries{{a, []point{{t: 1, v: -7}, at(2)[0]}}, hist}, "wrong value"},
		{"a wrong histogram", []readSeries{{a, at(1, 2)}, {b, []point{{t: 1, h: histogramOf(b.String(), 2)}}}}, "wrong value"},
		{"a float for a histogram", []readSeries{{a, at(1, 2)}, {b, []point{{t: 1, v: 1}}}}, "wrong value"},
		{"a sample twice", []readSeries{{a, slices.Concat(at(1, 2), at(2))}, hist}, "read twice"},
	}
	for _, tt := range tests {
		wrong := l.compare(tt.got, nil)
		if (wrong.n == 0) != (tt.want == "") || !strings.Contains(wrong.text, tt.want) {
			t.Errorf("%s: %d faults, want %q: %s", tt.name, wrong.n, tt.want, wrong.text)
		}
	}
	if wrong := l.compare([]readSeries{{a, at(1)}, hist}, map[sampleKey]bool{{a.String(), 2}: true}); wrong.n != 0 {
		t.Errorf("an excused sample: %s", wrong.text)
	}
}
