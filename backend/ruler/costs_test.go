package ruler

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"

	"github.com/palliumhq/pallium/authn/tenant"
)

// seriesOf returns n samples with a label `a` of `size` bytes and `more` other labels.
func seriesOf(n, size, more int) promql.Vector {
	var out promql.Vector
	for i := range n {
		b := labels.NewBuilder(labels.FromStrings("a", fmt.Sprintf("%0*d", size, i)))
		for j := range more {
			b.Set(fmt.Sprint("l", j), "x")
		}
		out = append(out, promql.Sample{Metric: b.Labels(), F: 1})
	}
	return out
}

// TestTemplateCosts checks that a rule fails if expanding its templates for all of its results would take too
// much memory or time, and that a query in a template fails if its results are larger than estimated.
func TestTemplateCosts(t *testing.T) {
	const tooMuch, tooLong = "alerts of the rule can become longer than the limit of 67108864 bytes", "alerts may take more than 50000000 steps"
	long := map[string]string{}
	for i := range 4 {
		long[fmt.Sprint("x", i)] = strings.Repeat("x", 30_000)
	}
	usual := map[string]string{"summary": "{{ $labels.a }} is {{ $value | humanize }}", "description": "VALUE = {{ $value }}\n  LABELS = {{ $labels }}"}
	ranges := map[string]string{"x": "{{ range query `q` }}{{ if match `(ab|cd){1,20}e` .Labels.a }}{{ end }}{{ end }}"}
	hist := seriesOf(1, 1, 0)
	hist[0].H = &histogram.FloatHistogram{PositiveBuckets: make([]float64, 200)}
	for _, c := range []struct {
		what         string
		annotations  map[string]string
		groupLabels  map[string]string
		first, inner promql.Vector
		err, text    string // of the rule; part of an annotation
	}{
		{what: "usual", annotations: usual, first: seriesOf(2000, 20, 10)},
		{what: "long texts", annotations: long, first: seriesOf(600, 1, 0), err: tooMuch},
		{what: "few long texts", annotations: long, first: seriesOf(100, 1, 0)},
		{what: "long label values", annotations: usual, first: seriesOf(200, 20_000, 0), err: tooMuch},
		{what: "many labels", annotations: usual, first: seriesOf(200, 1, 400), err: tooMuch},
		{what: "template of the group", groupLabels: map[string]string{"x": long["x0"]}, first: seriesOf(3000, 1, 0), err: tooMuch},
		{what: "regular expression in a range", annotations: ranges, first: seriesOf(1000, 1, 0), err: tooLong},
		{what: "few results of a query", annotations: map[string]string{"x": "{{ range query `q` }}ok{{ end }}"}, first: seriesOf(1, 1, 0),
			inner: seriesOf(100, 100, 10), text: "okokok"},
		{what: "many results of a query", annotations: ranges, first: seriesOf(1, 1, 0), inner: seriesOf(101, 1, 0), text: "returned 101 series; at most 100"},
		{what: "long results of a query", annotations: ranges, first: seriesOf(1, 1, 0), inner: seriesOf(1, 1025, 0), text: "of 1025 bytes; at most 1024"},
		{what: "large results of a query", annotations: ranges, first: seriesOf(1, 1, 0), inner: seriesOf(100, 800, 0), text: "at most 65536 are allowed"},
		{what: "histogram", annotations: ranges, first: seriesOf(1, 1, 0), inner: hist, text: "a histogram of 9696 bytes"},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(0, nil)
			defer b.close()
			b.set(func() {
				b.query = func(_ context.Context, _ tenant.ID, expr string, _ time.Time) (promql.Vector, error) {
					if expr == "q" {
						return c.inner, nil
					}
					return c.first, nil
				}
			})
			d := group1("g", rulefmt.Rule{Alert: "A", Expr: "up", Annotations: c.annotations})
			d.Group.Labels = c.groupLabels
			b.define("a", d)
			time.Sleep(time.Minute)
			synctest.Wait()
			rule := b.State("a")[0].Rules[0]
			if c.err == "" && (rule.LastError != "" || len(rule.Alerts) != len(c.first)) || !strings.Contains(rule.LastError, c.err) {
				t.Errorf("%s: error %q, %d alerts, want %q", c.what, rule.LastError, len(rule.Alerts), c.err)
			}
			if c.text != "" && (len(rule.Alerts) == 0 || !strings.Contains(rule.Alerts[0].Annotations.Get("x"), c.text)) {
				t.Errorf("%s: the alerts are %.300v, want %s", c.what, rule.Alerts, c.text)
			}
		})
	}
}
