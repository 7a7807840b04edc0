package chaos

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
)

// TestLedger checks that the checker detects every kind of fault.
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
		{"with a sample without a response", []readSeries{{a, at(1, 2, 3)}, hist}, ""},
		{"a sample missing", []readSeries{{a, at(1, 3)}, hist}, "acknowledged but is missing"},
		{"a series missing", []readSeries{hist}, "acknowledged but is missing"},
		{"a rejected sample", []readSeries{{a, at(1, 2, 4)}, hist}, "rejected but was read"},
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

// TestHostileLedger checks that the ledger of hostile tenants detects every kind of fault.
func TestHostileLedger(t *testing.T) {
	ls := hostileLabels("a", "1")
	stale := math.Float64frombits(value.StaleNaN)
	h := intHistogram(1, 0, 2, 5)
	floats := func(v float64, ts ...int64) []point {
		var out []point
		for _, at := range ts {
			out = append(out, point{t: at, v: v})
		}
		return out
	}
	l := newHostileLedger("alpha")
	for _, p := range [][]point{floats(7, 1, 3, 4, 5), floats(stale, 2), floats(8, 2), floats(9, 3), {{t: 4, h: h}}} {
		l.note([]hostileSeries{{labels: ls, points: p}}, true)
	}
	l.note([]hostileSeries{{labels: ls, points: floats(7, 6)}}, false)
	l.note([]hostileSeries{{labels: hostileLabels("b", "1"), points: floats(7, 5)}}, true)
	l.remove("a", 5, 5, true)
	l.remove("b", 5, 5, false)
	all := slices.Concat(floats(7, 1), floats(9, 3), floats(8, 2), []point{{t: 4, h: h}})
	tests := []struct {
		name string
		got  []point
		want string
	}{
		{"all", all, ""},
		{"with a sample that was not acknowledged", slices.Concat(all, floats(7, 6)), ""},
		{"the smaller of two floats", slices.Concat(floats(7, 1, 3), all[2:]), "lost a conflict"},
		{"a sample missing", all[1:], "acknowledged but is missing"},
		{"a deleted sample", slices.Concat(all, floats(7, 5)), "but was read"},
		{"a sample twice", slices.Concat(all, floats(7, 1)), "read twice"},
		{"a wrong value", slices.Concat(all[1:], floats(6, 1)), "a value that was not sent"},
		{"a staleness marker that wins", slices.Concat(all[:2], floats(stale, 2), all[3:]), "lost a conflict"},
		{"a float that wins over a histogram", slices.Concat(all[:3], floats(7, 4)), "lost a conflict"},
		{"another histogram", slices.Concat(all[:3], []point{{t: 4, h: intHistogram(1, 0, 2, 6)}}), "a value that was not sent"},
		{"a float histogram", slices.Concat(all[:3], []point{{t: 4, fh: h.ToFloat(nil)}}), "a value that was not sent"},
	}
	for _, tt := range tests {
		wrong := l.compare("a", []readSeries{{ls, tt.got}})
		if (wrong.n == 0) != (tt.want == "") || !strings.Contains(wrong.text, tt.want) {
			t.Errorf("%s: %d faults, want %q: %s", tt.name, wrong.n, tt.want, wrong.text)
		}
	}
	if wrong := l.compare("b", nil); wrong.n != 0 {
		t.Errorf("deletion without a response: %s", wrong.text)
	}
}
