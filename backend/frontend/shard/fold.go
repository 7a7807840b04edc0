package shard

import (
	"math"
	"slices"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/schema"
	"github.com/prometheus/prometheus/util/kahansum"
)

// fold aggregates floats as Prometheus' engine does (promql/engine.go of v0.316, evaluator.aggregation),
// but series by series. COUNT differs: its inputs are the counts of the shards, and fold adds them.
type fold struct {
	op       parser.ItemType
	grouping []string // ascending
	without  bool
	key      []string // labels in the key of a group, or, if without is set, labels not in it; ascending
	steps    Steps
	take     func(bytes int64) error
	err      error // of take

	groups []*group // in the order in which they appeared
	index  map[string]*group
	buf    []byte
	lb     *labels.Builder
}

// group is the state of a group at each step.
type group struct {
	labels labels.Labels
	count  []float64 // number of values so far
	value  []float64 // result so far; the sum without its compensation for sum and avg
	c      []float64 // compensation; only for sum and avg
	mean   []float64 // for avg, at steps where the sum overflowed; nil before the first overflow
	over   []bool    // whether the sum overflowed; nil before the first overflow
}

// groupStepBytes is the memory of a group for each step: count, value, c, and the point of the
// result. groupBytes is an estimate of the fixed memory of a group.
const (
	groupStepBytes = 5 * 8
	groupBytes     = 500
)

func newFold(op parser.ItemType, steps Steps, take func(bytes int64) error) *fold {
	return &fold{op: op, steps: steps, take: take, index: map[string]*group{}, lb: labels.NewBuilder(labels.EmptyLabels())}
}

// addAll adds the points of all series, each to its group.
func (f *fold) addAll(pieces []promql.Matrix, groupOf func(labels.Labels) *group) error {
	for _, m := range pieces {
		for i := range m {
			g := groupOf(m[i].Metric)
			if f.err != nil {
				return f.err
			}
			f.add(g, m[i].Floats)
		}
	}
	return nil
}

// groupBy sets the labels of the aggregation.
func (f *fold) groupBy(grouping []string, without bool) {
	f.grouping, f.without = slices.Sorted(slices.Values(grouping)), without
	f.key = f.grouping
	if without { // like the engine, group without the metric name, the type and the unit
		f.key = append(slices.Clone(grouping), model.MetricNameLabel, model.MetricTypeLabel, model.MetricUnitLabel)
		slices.Sort(f.key)
	}
}

// whole returns the group with exactly these labels.
func (f *fold) whole(ls labels.Labels) *group {
	f.buf = ls.Bytes(f.buf)
	return f.at(func() labels.Labels { return ls })
}

// group returns the group of a series by the grouping labels.
func (f *fold) group(ls labels.Labels) *group {
	switch {
	case f.without:
		f.buf = ls.BytesWithoutLabels(f.buf, f.key...)
	default:
		f.buf = ls.BytesWithLabels(f.buf, f.key...)
	}
	return f.at(func() labels.Labels {
		f.lb.Reset(ls)
		switch {
		case f.without:
			f.lb.Del(f.grouping...)
			schema.Metadata{}.SetToLabels(f.lb) // deletes name, type and unit
		case len(f.grouping) > 0:
			f.lb.Keep(f.grouping...)
		default:
			return labels.EmptyLabels()
		}
		return f.lb.Labels()
	})
}

// at returns the group whose key is in f.buf. It creates a missing group with the labels that fn
// returns. It returns nil if take failed.
func (f *fold) at(fn func() labels.Labels) *group {
	g, ok := f.index[string(f.buf)]
	if ok {
		return g
	}
	n := f.steps.N
	if f.err = f.take(int64(n)*groupStepBytes + groupBytes); f.err != nil {
		return nil
	}
	g = &group{count: make([]float64, n), value: make([]float64, n)}
	if f.op == parser.SUM || f.op == parser.AVG {
		g.c = make([]float64, n)
	}
	f.index[string(f.buf)] = g
	g.labels = fn()
	f.groups = append(f.groups, g)
	return g
}

// add adds the points of a series to a group.
func (f *fold) add(g *group, points []promql.FPoint) {
	for _, p := range points {
		i := int((p.T - f.steps.Start) / f.steps.Step)
		if g.count[i]++; g.count[i] == 1 {
			g.value[i] = p.F
			continue
		}
		switch f.op {
		case parser.SUM:
			g.value[i], g.c[i] = kahansum.Inc(p.F, g.value[i], g.c[i])
		case parser.AVG:
			g.average(i, p.F, f.steps.N)
		case parser.COUNT:
			g.value[i] += p.F
		case parser.MAX:
			if g.value[i] < p.F || math.IsNaN(g.value[i]) {
				g.value[i] = p.F
			}
		case parser.MIN:
			if g.value[i] > p.F || math.IsNaN(g.value[i]) {
				g.value[i] = p.F
			}
		}
	}
}

// average adds a value to the sum at step i, or to the mean if the sum overflows or has overflowed.
func (g *group) average(i int, v float64, n int) {
	count := g.count[i]
	if g.over == nil || !g.over[i] {
		value, c := kahansum.Inc(v, g.value[i], g.c[i])
		if !math.IsInf(value, 0) {
			g.value[i], g.c[i] = value, c
			return
		}
		if g.over == nil {
			g.over, g.mean = make([]bool, n), make([]float64, n)
		}
		g.over[i] = true
		g.mean[i] = g.value[i] / (count - 1)
		g.c[i] /= count - 1
	}
	q := (count - 1) / count
	g.mean[i], g.c[i] = kahansum.Inc(v/count, q*g.mean[i], q*g.c[i])
}

// final returns the value of a group at step i.
func (f *fold) final(g *group, i int) float64 {
	switch {
	case f.op == parser.SUM:
		return g.value[i] + g.c[i]
	case f.op == parser.AVG && g.over != nil && g.over[i]:
		return g.mean[i] + g.c[i]
	case f.op == parser.AVG:
		return g.value[i]/g.count[i] + g.c[i]/g.count[i]
	}
	return g.value[i]
}

// result returns the series of the groups that have a value, in the order in which the groups
// appeared.
func (f *fold) result() promql.Matrix {
	out := make(promql.Matrix, 0, len(f.groups))
	for _, g := range f.groups {
		s := promql.Series{Metric: g.labels}
		for i, n := range g.count {
			if n > 0 {
				if s.Floats == nil {
					s.Floats = make([]promql.FPoint, 0, f.steps.N-i)
				}
				s.Floats = append(s.Floats, promql.FPoint{T: f.steps.Start + int64(i)*f.steps.Step, F: f.final(g, i)})
			}
		}
		if len(s.Floats) > 0 {
			out = append(out, s)
		}
	}
	return out
}
