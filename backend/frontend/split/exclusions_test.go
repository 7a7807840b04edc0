package split

import (
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"
)

// groups returns series of two groups. In the order of labels, the first series is of group b. This
// series ends with the first hour, so that group a comes first in the second hour. The arguments a
// and b are the sums of the groups in the second hour.
func groups(a, b string) string {
	return "load 10m\n" +
		"  x{a=\"1\",g=\"b\"} 1x5 _x20\n" +
		"  x{a=\"2\",g=\"a\"} " + a + "x20\n" +
		"  x{a=\"3\",g=\"b\"} " + b + "x20\n"
}

// TestExclusions shows that queries that Analyze does not allow to split would have other answers in
// parts.
func TestExclusions(t *testing.T) {
	for name, c := range map[string]struct {
		load     string
		text     string
		step     int64
		start    int64
		end      int64
		reason   string
		only     bool
		unhinted bool
	}{
		"warning of sort": {
			load: "load 10m\n  x 1x20", text: "sort(x)", step: hour, end: 3 * hour, reason: "sort warns",
		},
		"info reads the series of the whole range": {
			load: "load 10m\n  x{job=\"a\",instance=\"i\"} 1x5 _x20\n  y{job=\"b\"} 1x20\n" +
				"  target_info{job=\"a\",instance=\"i\",d=\"1\"} 1x5 {{schema:0 sum:1 count:1 buckets:[1]}}x15",
			text: "info(x)", step: 10 * minute, end: 3 * hour, reason: "info joins",
		},
		"largest value of a parameter": {
			load: "load 10m\n  x 1x20\n  k 2x5 3x20", text: "quantile(scalar(k), x)",
			step: 10 * minute, end: 2 * hour, reason: "parameter of quantile",
		},
		"range of a parameter": {
			load: "load 10m\n  x 1x20\n  k -1e19x5 1x20", text: "topk(scalar(k), x)", step: 10 * minute, end: 2 * hour, reason: "parameter of topk",
		},
		"ratio": {
			load: "load 10m\n  x 1x20\n  k 2x5 3x20", text: "limit_ratio(scalar(k), x)",
			step: 10 * minute, end: 2 * hour, reason: "parameter of limit_ratio",
		},
		"parameter of a fixed aggregation": {
			load: "load 10m\n  x{a=\"1\"} 1x20\n  x{a=\"2\"} 2x20\n  k 1x5 2x20", text: "topk(scalar(k), x @ 0)", step: 10 * minute, end: 2 * hour,
			reason: "parameter of topk",
		},
		"error between the windows of a subquery": {
			load: "load 1m\n  a 1x200\n  b{n=\"1\"} _x29 1x3 _x200\n  b{n=\"2\"} _x29 1x3 stale",
			text: "max_over_time((a + on() b)[5m:1m])", step: hour, end: 2 * hour, reason: "outside of its ranges",
		},
		"@ in a subquery with offset": {
			load: "load 1m\n  x 0+1x300", text: "max_over_time((x @ 6000)[7m:30m] offset -1m)", step: 7 * minute, end: 4 * hour, reason: "@ inside",
		},
		"@ in a subquery with @": {
			load: "load 1m\n  x 0+1x300", text: "max_over_time((x @ 7200)[65m:5m] @ 3600)", step: 7 * minute, end: 4 * hour, reason: "@ inside",
		},
		"ties of topk": {
			load: groups("5", "5"), text: "topk(1, sum by (g) (x))",
			step: 10 * minute, end: 2*hour - 1, reason: "topk depends", only: true,
		},
		"ties of limitk": {
			load: groups("5", "5"), text: "limitk(1, sum by (g) (x))",
			step: 10 * minute, end: 2*hour - 1, reason: "limitk depends", only: true,
		},
		"ties of bottomk": {
			load: groups("5", "5"), text: "bottomk(1, sum by (g) (x))", step: 10 * minute, end: 2*hour - 1, reason: "bottomk depends", only: true,
		},
		"-0 of max": {
			load: groups("0", "-0"), text: "1 / max(max by (g) (x))",
			step: 10 * minute, end: 2*hour - 1, reason: "max depends", only: true,
		},
		"-0 of min": {
			load: groups("0", "-0"), text: "1 / min(min by (g) (x))",
			step: 10 * minute, end: 2*hour - 1, reason: "min depends", only: true,
		},
		"-0 of quantile": {
			load: groups("0", "-0"), text: "1 / quantile(1, min by (g) (x))",
			step: 10 * minute, end: 2*hour - 1, reason: "quantile depends", only: true,
		},
		"sum of floats":  {load: bits, text: "sum(sum by (g) (x))", step: 10 * minute, end: 2*hour - 1, reason: "sum depends", only: true},
		"mean of floats": {load: bits, text: "avg(sum by (g) (x))", step: 10 * minute, end: 2*hour - 1, reason: "avg depends", only: true},
		"variance of floats": {
			load: groups("3.3", "6.1") + "  x{a=\"4\",g=\"c\"} 2.6x20\n", text: "stdvar(sum by (g) (x))", step: 10 * minute, end: 2*hour - 1,
			reason: "stdvar depends", only: true,
		},
		"deviation of floats": {
			load: groups("3.3", "6.1") + "  x{a=\"4\",g=\"c\"} 2.6x20\n", text: "stddev(sum by (g) (x))", step: 10 * minute, end: 2*hour - 1,
			reason: "stddev depends", only: true,
		},
		"order of a subquery": {
			load: groups("5", "5"), text: "topk(1, max_over_time(sum by (g) (x)[10m:10m]))", step: 10 * minute, end: 2*hour - 1,
			reason: "topk depends", only: true,
		},
		"order below a label function": {
			load: groups("5", "5"), text: `topk(1, label_replace(sum by (g) (x), "h", "$1", "g", "(.*)"))`, step: 10 * minute, end: 2*hour - 1,
			reason: "topk depends", only: true,
		},
		"counter resets of sum": {
			load: resets, text: "histogram_count(sum(h))", step: minute, end: hour + 10*minute, reason: "sum of histograms", unhinted: true,
		},
		"counter resets of avg": {
			load: resets, text: "histogram_sum(avg(h))", step: minute, end: hour + 10*minute, reason: "avg of histograms", unhinted: true,
		},
		"counter resets of +": {
			load: resets, text: `histogram_count(h{a="1"} + on() h{a="2"})`, step: minute, end: hour + 10*minute,
			reason: "+ of histograms", unhinted: true,
		},
		"counter resets of -": {
			load: resets, text: `histogram_avg(h{a="1"} - on() h{a="2"})`, step: minute, end: hour + 10*minute,
			reason: "- of histograms", unhinted: true,
		},
		"counter resets of a window": {
			load: resets, text: "histogram_count(sum_over_time(h[11m]))",
			step: 10 * minute, end: hour, reason: "sum_over_time of histograms", unhinted: true,
		},
		"counter resets of the mean of a window": {
			load: resets, text: "absent(avg_over_time(h[11m]))", step: 10 * minute, end: hour, reason: "avg_over_time of histograms", unhinted: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := storage.Queryable(only{promqltest.LoadedStorage(t, c.load), func(int64) bool { return true }})
			if c.unhinted {
				db = unhinted{db}
			}
			q := query{text: c.text, start: c.start, end: c.end, step: c.step}
			s := shapeOf(t, q)
			if s.Splittable || s.OnlyOrder != c.only || !strings.Contains(s.Reason, c.reason) {
				t.Errorf("splittable %v, only order %v, reason %q", s.Splittable, s.OnlyOrder, s.Reason)
			}
			if d := diff(q, ask(t, db, testParser(), q), askSplit(t, db, q, hour)); d == "" {
				t.Error("the split gives the same answer")
			} else {
				t.Log(d)
			}
		})
	}
}

// bits are groups whose sum depends on the order, even if it is compensated: next to 1e100, the
// compensation has to add 1 and twice 2^-53. In the second hour, the 1 is that of group b, which is
// first in the order of the whole query, and last but one in the order of the second part.
const bits = `load 10m
  x{a="1",g="b"} 1x5 _x20
  x{a="2",g="a"} 1e100x20
  x{a="3",g="c"} 1.1102230246251565e-16x20
  x{a="4",g="d"} 1.1102230246251565e-16x20
  x{a="5",g="b"} 1x20
  x{a="6",g="e"} -1e100x20
`

// resets are two histograms. The first has a counter reset at the first step of the second hour.
const resets = `load 10m
  h{a="1"} {{schema:0 sum:5 count:5 buckets:[5]}}x5 {{schema:0 sum:1 count:1 buckets:[1]}}x20
  h{a="2"} {{schema:0 sum:5 count:5 buckets:[5]}}x20
`
