package split

import (
	"reflect"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
)

// series returns a series with floats at the positive times and histograms at
// the negative ones.
func series(name string, times ...int64) promql.Series {
	s := promql.Series{Metric: labels.FromStrings("a", name)}
	for _, ts := range times {
		if ts < 0 {
			s.Histograms = append(s.Histograms, promql.HPoint{T: -ts, H: &histogram.FloatHistogram{Count: float64(ts)}})
			continue
		}
		s.Floats = append(s.Floats, promql.FPoint{T: ts, F: float64(ts)})
	}
	return s
}

func TestMerge(t *testing.T) {
	for name, c := range map[string]struct {
		parts []promql.Matrix
		want  promql.Matrix
		err   string
	}{
		"nothing":     {nil, promql.Matrix{}, ""},
		"empty parts": {[]promql.Matrix{nil, {}}, promql.Matrix{}, ""},
		"one part":    {[]promql.Matrix{{series("x", 1, 2)}}, promql.Matrix{series("x", 1, 2)}, ""},
		"joined":      {[]promql.Matrix{{series("x", 1, 2)}, {series("x", 3)}, {}, {series("x", 9)}}, promql.Matrix{series("x", 1, 2, 3, 9)}, ""},
		"histograms":  {[]promql.Matrix{{series("x", -1, -2)}, {series("x", -3)}}, promql.Matrix{series("x", -1, -2, -3)}, ""},
		"both":        {[]promql.Matrix{{series("x", 1, -2)}, {series("x", -3, 4)}}, promql.Matrix{series("x", 1, -2, -3, 4)}, ""},
		"sorted": {
			[]promql.Matrix{{series("y", 1)}, {series("x", 2), series("z", 2)}, {series("w", 3), series("y", 3)}},
			promql.Matrix{series("w", 3), series("x", 2), series("y", 1, 3), series("z", 2)}, "",
		},
		"same step": {
			[]promql.Matrix{{series("x", 1, 2)}, {series("x", 2)}}, nil,
			"internal error: parts of the split query overlap: part 1 starts at 2, an earlier one ends at 2",
		},
		"same step, histogram":   {[]promql.Matrix{{series("x", 1, 2)}, {series("x", -2)}}, nil, "part 1"},
		"same step, other label": {[]promql.Matrix{{series("x", 1, 2)}, {series("y", 2)}}, nil, "part 1"},
		"before":                 {[]promql.Matrix{{series("x", 5)}, {}, {series("x", 3)}}, nil, "part 2"},
		"twice in a part":        {[]promql.Matrix{{series("x", 5), series("x", 6)}}, nil, `internal error: part 0 of the split query has the series {a="x"} twice`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Merge(c.parts)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				return
			}
			must(t, err)
			if d := diffMatrix(c.want, got, sameBits); d != "" || got == nil {
				t.Errorf("result %v, difference %q", got, d)
			}
		})
	}
}

// TestMergeKeepsParts checks that Merge does not change a part whose slices have spare capacity.
func TestMergeKeepsParts(t *testing.T) {
	whole := promql.Matrix{series("x", 1, 2, 3, -1, -2, -3)}
	cut := promql.Matrix{whole[0]}
	cut[0].Floats, cut[0].Histograms = whole[0].Floats[:1], whole[0].Histograms[:1]
	got, err := Merge([]promql.Matrix{cut, {series("x", 7, -7)}})
	must(t, err)
	if d := diffMatrix(promql.Matrix{series("x", 1, 7, -1, -7)}, got, sameBits); d != "" {
		t.Error(d)
	}
	if want := (promql.Matrix{series("x", 1, 2, 3, -1, -2, -3)}); !reflect.DeepEqual(whole, want) {
		t.Errorf("the part changed to %v", whole)
	}
	if len(cut[0].Floats) != 1 {
		t.Errorf("the part changed to %v", cut)
	}
}

func TestSlice(t *testing.T) {
	m := promql.Matrix{series("x", 1, 3, 5), series("y", 5, 7), series("z", -1, 2, -3)}
	for _, c := range []struct {
		start, end int64
		want       promql.Matrix
	}{
		{0, 9, m},
		{1, 7, m},
		{2, 2, promql.Matrix{series("z", 2)}},
		{3, 5, promql.Matrix{series("x", 3, 5), series("y", 5), series("z", -3)}},
		{8, 9, promql.Matrix{}},
		{5, 3, promql.Matrix{}},
	} {
		if d := diffMatrix(c.want, Slice(m, c.start, c.end), sameBits); d != "" {
			t.Errorf("%d to %d: %s", c.start, c.end, d)
		}
	}
	if got := Slice(m, 3, 3); &got[0].Floats[0] != &m[0].Floats[1] || cap(got[0].Floats) != 1 {
		t.Error("the points are copied, or can be overwritten by append")
	}
}

func TestPick(t *testing.T) {
	m := promql.Matrix{series("x", 1, 2, 3, 4, 5), series("y", 2, 4), series("z", -1, -2, -3)}
	for _, c := range []struct {
		start, step int64
		want        promql.Matrix
	}{
		{1, 1, m},
		{1, 2, promql.Matrix{series("x", 1, 3, 5), series("z", -1, -3)}},
		{2, 2, promql.Matrix{series("x", 2, 4), series("y", 2, 4), series("z", -2)}},
		{-1, 3, promql.Matrix{series("x", 2, 5), series("y", 2), series("z", -2)}},
		{3, 0, promql.Matrix{series("x", 3), series("z", -3)}},
		{9, 1, promql.Matrix{}},
	} {
		if d := diffMatrix(c.want, Pick(m, c.start, c.step), sameBits); d != "" {
			t.Errorf("%d by %d: %s", c.start, c.step, d)
		}
	}
}
