package split

import (
	"fmt"
	"math"
	"sort"

	"github.com/prometheus/prometheus/promql"
)

// Merge joins the results of consecutive parts of a query: the points of equal series, floats and
// histograms, in the order of the parts, and the series sorted by labels, as the engine sorts the
// result of a range query. It returns an error if a part has a series twice, or a point that is not
// after all points of earlier parts, since then a step would be doubled or lost. It does not change
// the parts, and the result may share their points.
func Merge(parts []promql.Matrix) (promql.Matrix, error) {
	if err := checkOrder(parts); err != nil {
		return nil, err
	}
	out := promql.Matrix{}
	index := map[string]int{} // by labels, in out
	seen := map[string]int{}  // by labels: number of the last part with the series, from 1
	var buf []byte
	for i, part := range parts {
		for _, s := range part {
			buf = s.Metric.Bytes(buf)
			if seen[string(buf)] == i+1 {
				return nil, fmt.Errorf("internal error: part %d of the split query has the series %s twice", i, s.Metric)
			}
			seen[string(buf)] = i + 1
			at, ok := index[string(buf)]
			if !ok {
				index[string(buf)] = len(out)
				out = append(out, clip(s))
				continue
			}
			// The slices were clipped, so append does not write to the part.
			out[at].Floats = append(out[at].Floats, s.Floats...)
			out[at].Histograms = append(out[at].Histograms, s.Histograms...)
		}
	}
	sort.Sort(out)
	return out, nil
}

// checkOrder returns an error if a part has a point that is not after all
// points of the parts before it.
func checkOrder(parts []promql.Matrix) error {
	last, found := int64(math.MinInt64), false
	for i, part := range parts {
		first, to, points := bounds(part)
		if !points {
			continue
		}
		if found && first <= last {
			return fmt.Errorf("internal error: parts of the split query overlap: part %d starts at %d, an earlier one ends at %d", i, first, last)
		}
		last, found = to, true
	}
	return nil
}

// bounds returns the times of the first and the last point of a matrix, and whether it has points.
func bounds(m promql.Matrix) (first, last int64, points bool) {
	first, last = math.MaxInt64, math.MinInt64
	for _, s := range m {
		if n := len(s.Floats); n > 0 {
			first, last, points = min(first, s.Floats[0].T), max(last, s.Floats[n-1].T), true
		}
		if n := len(s.Histograms); n > 0 {
			first, last, points = min(first, s.Histograms[0].T), max(last, s.Histograms[n-1].T), true
		}
	}
	return first, last, points
}

// clip returns a series to which points can be appended without changing s.
func clip(s promql.Series) promql.Series {
	s.Floats = s.Floats[:len(s.Floats):len(s.Floats)]
	s.Histograms = s.Histograms[:len(s.Histograms):len(s.Histograms)]
	return s
}

// Slice returns the points of m from start to end, both included, in
// milliseconds, without series that have none. The points are shared with m.
func Slice(m promql.Matrix, start, end int64) promql.Matrix {
	out := promql.Matrix{}
	for _, s := range m {
		s.Floats = between(s.Floats, start, end, func(p promql.FPoint) int64 { return p.T })
		s.Histograms = between(s.Histograms, start, end, func(p promql.HPoint) int64 { return p.T })
		if len(s.Floats)+len(s.Histograms) > 0 {
			out = append(out, s)
		}
	}
	return out
}

// between returns the sorted points from start to end.
func between[P any](points []P, start, end int64, at func(P) int64) []P {
	from := sort.Search(len(points), func(i int) bool { return at(points[i]) >= start })
	to := sort.Search(len(points), func(i int) bool { return at(points[i]) > end })
	if from >= to {
		return nil
	}
	return points[from:to:to]
}

// Pick returns the points of m at start, start+step, start+2*step and so on, in milliseconds,
// without series that have none. Histograms are shared with m. So the answer of a query becomes
// that of the same query with a longer step, if its shape is splittable with both steps and does
// not depend on the step. If step is not positive, there is only the point at start.
func Pick(m promql.Matrix, start, step int64) promql.Matrix {
	keep := func(t int64) bool {
		return t == start || t > start && step > 0 && (uint64(t)-uint64(start))%uint64(step) == 0
	}
	out := promql.Matrix{}
	for _, s := range m {
		picked := promql.Series{Metric: s.Metric, DropName: s.DropName}
		for _, p := range s.Floats {
			if keep(p.T) {
				picked.Floats = append(picked.Floats, p)
			}
		}
		for _, p := range s.Histograms {
			if keep(p.T) {
				picked.Histograms = append(picked.Histograms, p)
			}
		}
		if len(picked.Floats)+len(picked.Histograms) > 0 {
			out = append(out, picked)
		}
	}
	return out
}
