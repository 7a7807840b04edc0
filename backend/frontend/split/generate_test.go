package split

import (
	"fmt"
	"math/rand"
	"strings"
	"time"

	"github.com/cortexproject/promqlsmith"
	"github.com/prometheus/prometheus/model/labels"
)

// generator generates expressions: about a third with promqlsmith, which knows the whole grammar of
// an earlier Prometheus version, and the others with its own grammar, which prefers expressions that
// move windows or make steps depend on each other.
type generator struct {
	*rand.Rand
	smith *promqlsmith.PromQLSmith
}

func newGenerator(seed int64, series []labels.Labels) *generator {
	r := rand.New(rand.NewSource(seed))
	ops := []promqlsmith.Option{
		promqlsmith.WithEnableOffset(true), promqlsmith.WithEnableAtModifier(true),
		promqlsmith.WithAtModifierMaxTimestamp(base + dataHours*hour),
		promqlsmith.WithEnableVectorMatching(true),
		promqlsmith.WithMaxDepth(3),
	}
	return &generator{Rand: r, smith: promqlsmith.New(r, series, ops...)}
}

func (g *generator) of(choices ...string) string { return choices[g.Intn(len(choices))] }

// query returns a random query.
func (g *generator) query() query {
	step := []int64{minute, 2 * minute, 5 * minute, 7*minute + 1, 30 * minute, 3 * hour}[g.Intn(6)]
	start := base + g.Int63n(dataHours*hour)
	if g.Intn(3) == 0 {
		start -= start % step
	}
	q := query{start: start, step: step, end: start + min(g.Int63n(dataHours*hour), 100*step)}
	if g.Intn(3) == 0 {
		q.text = g.smith.WalkRangeQuery().String()
	} else {
		q.text = g.vector(3)
	}
	if _, err := testParser().ParseExpr(q.text); err != nil {
		return g.query() // promqlsmith generates some expressions that are no longer valid
	}
	return q
}

func (g *generator) duration() string {
	return g.of("1m", "3m", "5m", "7m", "20m", "1h", "2h30m", "(step() * 2)", "max_of(step(), 5m)", "(range() / 4)")
}

func (g *generator) metric() string {
	return g.of("requests_total", "temp", "up", "limit", "latency", "sizes", "mixed", "duration_bucket",
		`{__name__=~"first_total|second_total"}`, `requests_total{job="j1"}`, `temp{pod=~"p[1-4]"}`, "nothing")
}

func (g *generator) modifiers() string {
	var b strings.Builder
	if g.Intn(5) == 0 {
		b.WriteString(" @ " + g.of("start()", "end()", fmt.Sprintf("%.3f", float64(base+g.Int63n(dataHours*hour))/1000)))
	}
	if g.Intn(4) == 0 {
		b.WriteString(" offset " + g.of("1m", "30m", "3h", "-10m", "-1h", "step()", "(range() / 2)", "-(step() + 1)"))
	}
	return b.String()
}

func (g *generator) ranged(depth int) string {
	if depth > 0 && g.Intn(4) == 0 {
		return fmt.Sprintf("(%s)[%s:%s]%s", g.vector(depth-1), g.duration(), g.of("", "1m", "5m", "7m", "step()"), g.modifiers())
	}
	return fmt.Sprintf("%s[%s]%s", g.metric(), g.duration(), g.modifiers())
}

func (g *generator) vector(depth int) string {
	if depth <= 0 {
		return g.metric() + g.of("", "", "", "", " smoothed") + g.modifiers()
	}
	depth--
	switch g.Intn(12) {
	case 0, 1, 2:
		return fmt.Sprintf("%s(%s)", g.of("rate", "increase", "delta", "irate", "idelta", "sum_over_time", "avg_over_time", "max_over_time",
			"last_over_time", "count_over_time", "changes", "resets", "deriv", "stddev_over_time", "absent_over_time",
			"mad_over_time", "ts_of_max_over_time", "first_over_time"), g.ranged(depth))
	case 3:
		return fmt.Sprintf("%s(%s[%s] %s%s)", g.of("rate", "increase", "delta"), g.metric(), g.duration(),
			g.of("anchored", "smoothed"), g.modifiers())
	case 4, 5, 6:
		return g.aggregation(depth)
	case 7, 8:
		return fmt.Sprintf("(%s) %s (%s)", g.vector(depth), g.of("+", "-", "*", "/", "> bool", "<", "==", "and", "or", "unless",
			"/ on(pod)", "* on(pod) group_left", "+ ignoring(job, zone)", "- on(pod) fill(0)", "and on(pod)"), g.vector(depth))
	case 9:
		return fmt.Sprintf("%s %s %s", g.vector(depth), g.of("+", "*", ">", "/", ">="), g.of("2", "time()", "step()", "scalar(up)", "0.1"))
	case 10:
		return g.call(depth)
	}
	return g.of("-", "") + "(" + g.vector(depth) + ")"
}

func (g *generator) aggregation(depth int) string {
	by := g.of("", "by (pod) ", "by (job) ", "without (pod) ", "by (job, zone) ", "by (le) ")
	in := g.vector(depth)
	if g.Intn(4) == 0 { // groups of another aggregation, with equal values
		in = g.of("sum", "max", "avg") + g.of(" by (pod) ", " by (job, zone) ", " without (pod) ") +
			g.of("(up)", "(temp)", "(-limit)", "("+in+")")
	}
	switch op := g.of("sum", "avg", "min", "max", "count", "group", "stddev", "sum", "avg", "topk", "bottomk", "limitk", "quantile",
		"count_values", "limit_ratio"); op {
	case "topk", "bottomk", "limitk":
		return fmt.Sprintf("%s %s(%s, %s)", op, by, g.of("1", "3", "3", "scalar(up)", "-1"), in)
	case "quantile":
		return fmt.Sprintf("quantile %s(%s, %s)", by, g.of("0.3", "0.9", "2", "scalar(temp)"), in)
	case "count_values":
		return fmt.Sprintf("count_values %s(\"v\", %s)", by, in)
	case "limit_ratio":
		return fmt.Sprintf("limit_ratio %s(%s, %s)", by, g.of("0.5", "-0.3", "7"), in)
	default:
		return fmt.Sprintf("%s %s(%s)", op, by, in)
	}
}

func (g *generator) call(depth int) string {
	in := g.vector(depth)
	switch g.Intn(12) {
	case 0, 1:
		return fmt.Sprintf("%s(%s)", g.of("abs", "ceil", "sgn", "timestamp", "absent", "hour", "sqrt"), in)
	case 2:
		return fmt.Sprintf("histogram_quantile(%s, %s)", g.of("0.5", "0.9", "2", "scalar(up)"), g.of(in, "latency", "duration_bucket",
			"sum by (le) (rate(duration_bucket[20m]))", "sum(rate(latency[20m]))"))
	case 3, 4:
		return fmt.Sprintf("%s(%s)", g.of("histogram_count", "histogram_sum", "histogram_avg"), g.of(in, "latency", "sum(latency)",
			"sum(rate(latency[7m]))", "increase(sizes[20m])"))
	case 5:
		return fmt.Sprintf(`label_replace(%s, "%s", "$1", "pod", "(.).*")`, in, g.of("pod", "new", "__name__"))
	case 6:
		return fmt.Sprintf(`label_join(%s, "%s", "-", "job", "pod")`, in, g.of("pod", "new"))
	case 7:
		return fmt.Sprintf("%s(%s)", g.of("sort", "sort_desc"), in)
	case 8:
		return fmt.Sprintf("vector(%s)", g.of("time()", "scalar(up)", "start()", "range()", "pi()", "end() - time()"))
	case 9:
		return fmt.Sprintf("quantile_over_time(%s, %s)", g.of("0.5", "scalar(up)", "2"), g.ranged(depth))
	case 10:
		return fmt.Sprintf("predict_linear(%s, %s)", g.ranged(depth), g.of("3600", "step()"))
	}
	return fmt.Sprintf("clamp(%s, %s, 5)", in, g.of("0", "scalar(up)"))
}

// seedOf returns the seed of a test run: a fixed number if env is empty, the number in env, or the
// current time if env is another text, such as "now".
func seedOf(env string) int64 {
	if env == "" {
		return 16
	}
	var n int64
	if _, err := fmt.Sscan(env, &n); err != nil {
		return time.Now().UnixNano()
	}
	return n
}
