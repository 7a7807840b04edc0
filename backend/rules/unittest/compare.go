package unittest

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	promrules "github.com/prometheus/prometheus/rules"
)

// compareAlerts returns the difference between the firing alerts and the expected ones, or "".
func (w *world) compareAlerts(t *alertTest) string {
	var got, want []string
	for _, g := range w.groups {
		for _, r := range g.Rules() {
			rule, ok := r.(*promrules.AlertingRule)
			if !ok || rule.Name() != t.Alertname {
				continue
			}
			for _, a := range rule.ActiveAlerts() {
				if a.State == promrules.StateFiring {
					got = append(got, alertText(a.Labels, a.Annotations))
				}
			}
		}
	}
	for _, a := range t.ExpAlerts {
		lb := labels.NewBuilder(labels.FromMap(a.Labels))
		lb.Set(labels.AlertName, t.Alertname)
		want = append(want, alertText(lb.Labels(), labels.FromMap(a.Annotations)))
	}
	slices.Sort(got)
	slices.Sort(want)
	if slices.Equal(got, want) {
		return ""
	}
	return fmt.Sprintf("alert %s at %s:\n  expected: %s\n  got:      %s", t.Alertname, t.EvalTime, list(want), list(got))
}

func alertText(ls, annotations labels.Labels) string {
	return ls.String() + " annotations " + annotations.String()
}

func list(texts []string) string {
	if len(texts) == 0 {
		return "nothing"
	}
	return strings.Join(texts, "\n            ")
}

// point is a sample of a result.
type point struct {
	labels    labels.Labels
	value     float64
	histogram string
}

func (p point) text() string {
	if p.histogram != "" {
		return p.labels.String() + " " + p.histogram
	}
	return p.labels.String() + " " + strconv.FormatFloat(p.value, 'g', -1, 64)
}

// compareExpr returns the difference between the result of an expression and the expected one, or "".
func (w *world) compareExpr(ctx context.Context, t *exprTest) string {
	where := fmt.Sprintf("expression %q at %s", t.Expr, t.EvalTime)
	got, err := w.query(ctx, t.Expr, w.StartTimestamp.Add(time.Duration(t.EvalTime)))
	if err != nil {
		return fmt.Sprintf("%s: %v", where, err)
	}
	var want []point
	for _, s := range t.ExpSamples {
		p, err := w.expected(&s)
		if err != nil {
			return fmt.Sprintf("%s: expected sample %q: %v", where, s.Labels, err)
		}
		want = append(want, p)
	}
	order := func(a, b point) int { return labels.Compare(a.labels, b.labels) }
	slices.SortStableFunc(got, order)
	slices.SortStableFunc(want, order)
	if slices.EqualFunc(got, want, w.same) {
		return ""
	}
	return fmt.Sprintf("%s:\n  expected: %s\n  got:      %s", where, list(texts(want)), list(texts(got)))
}

func texts(points []point) []string {
	var out []string
	for _, p := range points {
		out = append(out, p.text())
	}
	return out
}

// same reports whether two samples are equal; with fuzzy_compare, values may differ in the last bit.
func (w *world) same(a, b point) bool {
	if !labels.Equal(a.labels, b.labels) || a.histogram != b.histogram {
		return false
	}
	if a.value == b.value || a.histogram != "" {
		return true
	}
	return w.fuzzy && (math.Nextafter(a.value, math.Inf(-1)) == b.value || math.Nextafter(a.value, math.Inf(1)) == b.value)
}

func (w *world) query(ctx context.Context, expr string, at time.Time) ([]point, error) {
	q, err := w.engine.NewInstantQuery(ctx, w.db, nil, expr, at)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	res := q.Exec(ctx)
	if res.Err != nil {
		return nil, res.Err
	}
	var out []point
	switch v := res.Value.(type) {
	case promql.Vector:
		for _, s := range v {
			out = append(out, point{labels: s.Metric, value: s.F, histogram: histogramText(s.H)})
		}
	case promql.Scalar:
		out = append(out, point{value: v.V})
	default:
		return nil, fmt.Errorf("the result is a %s, not a vector or scalar", v.Type())
	}
	return out, nil
}

func (w *world) expected(s *expectedSample) (point, error) {
	ls, err := w.parser.ParseMetric(s.Labels)
	p := point{labels: ls, value: s.Value}
	if err != nil || s.Histogram == "" {
		return p, err
	}
	_, values, err := w.parser.ParseSeriesDesc("{} " + s.Histogram)
	switch {
	case err != nil:
		return p, err
	case len(values) != 1 || values[0].Histogram == nil:
		return p, fmt.Errorf("%q is not one histogram", s.Histogram)
	}
	p.value, p.histogram = 0, histogramText(values[0].Histogram)
	return p, nil
}

func histogramText(h *histogram.FloatHistogram) string {
	if h == nil {
		return ""
	}
	return h.Copy().Compact(0).TestExpression()
}
