package frontend

import (
	"math"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/palliumhq/pallium/test/kit/cluster"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// request is a request to the query API.
type request struct {
	path   string
	params url.Values
}

func instant(text string, more ...string) request { return of("query", text, more) }

func ranged(text string, more ...string) request { return of("query_range", text, more) }

func of(path, text string, more []string) request {
	p := url.Values{"query": {text}}
	for i := 0; i+1 < len(more); i += 2 {
		p.Set(more[i], more[i+1])
	}
	return request{path, p}
}

// alike returns requests to which a cluster with query frontends and a single process must give the
// same responses, including errors.
func (w *world) alike() []request {
	now, day1, day3 := seconds(w.now-2*hour), seconds(w.start+6*hour), seconds(w.start+2*day+6*hour)
	span := []string{"start", day1, "end", day3, "step", "600"}
	with := func(more ...string) []string { return append(append([]string{}, span...), more...) }
	list := []request{}
	for _, text := range []string{
		"load", "load offset 1d", "load @ " + day1, "sum(load @ end())", "load[20m]", "load[1h:10m] @ " + day3, "rate(requests_total[1h])[6h:30m]",
		"latency", "latency[20m]", "histogram_quantile(0.9, latency)", "histogram_count(latency)", "sum(latency)", "rate(latency[1h])",
		"special", "special[30m]", "special == special", "-special", "1/special", "custom", "custom[30m]", "absent(nothing)", "nothing", "nothing[1h]",
		`"text"`, `"\xff\x00"`, "1", "-0", "NaN", "1/0", "-1/0", "0/0", "time()", "scalar(nothing)", "vector(-0)", "topk(2, load)", "sort_desc(load)",
		"sort_by_label(load, \"i\")", "sort_by_label(count_values(\"v\", load), \"v\")", `label_replace(load, "x", "ü\xff", "", "")`, "timestamp(load)",
		"rate(load[1h])", "histogram_quantile(2, latency)", "sum(load) + sum(latency)", "load + on (job) requests_total",
		"load * on (job) group_left requests_total", `label_replace(load, "i", "1", "", "")`, "quantile(2, load)", "foo{", "sum(", "load[", "load[5m] + 1",
		"nothing()", "sum(load[5m:])", "info(load)", "limitk(1, load)", "mad_over_time(load[1h])", "{__name__=~\".+\"}", "{}", `{a=""}`, `{job!="x"}`,
		"load[100y]", "load offset 100y", "load @ 1e15", "load @ -1e15", "load[1000000d:1s]", "load[4d:1ms]", strings.Repeat("1+", 3000) + "1",
		strings.Repeat("(", 2000) + "1" + strings.Repeat(")", 2000), "load or " + strings.Repeat("load or ", 20) + "load", strings.Repeat("x", 70_000),
		"max_over_time(sum(load)[4d:1m])", "{\"load\"}", `{"ü"}`, "load{i=~\"(\"}", "sum by (ü) (load)", "holt_winters(load[1h], 2, 3)",
		"double_exponential_smoothing(load[1h], 2, 3)", "predict_linear(load[1h], 1e300)", "label_join(load, \"\", \"a\", \"b\")",
		"histogram_fraction(0, 1, latency)", "stddev(latency)", "min(latency)", "latency > 1", "avg_over_time(latency[1h])",
		"sum_over_time(custom[1h])", "changes(special[1h])", "delta(latency[1h])", "irate(latency[1h])",
	} {
		list = append(list, instant(text, "time", now), instant(text, "time", day1), ranged(text, span...))
	}
	return append(list,
		instant("load", "time", "x"), instant("load", "time", "1e30"), instant("load", "time", "-1e10"), instant(""),
		instant("load", "time", now+"5"), instant("load", "time", now, "limit", "2"), instant("load", "time", now, "limit", "-1"),
		instant("load", "time", now, "timeout", "x"),
		instant("load", "time", now, "timeout", "0s"), instant("load", "time", now, "lookback_delta", "1s"),
		instant("load", "time", now, "lookback_delta", "-1s"), instant("load", "time", now, "lookback_delta", "1ms"),
		instant("load", "time", now, "partial_response", "true"), instant("load", "time", now, "partial_response", "maybe"),
		ranged("load"), ranged("load", "start", day1, "end", day3), ranged("load", "start", day3, "end", day1, "step", "60"),
		ranged("load", "start", day1, "end", day3, "step", "0"), ranged("load", "start", day1, "end", day3, "step", "-1"),
		ranged("load", "start", day1, "end", day3, "step", "1"), ranged("load", "start", "0", "end", day3, "step", "1"),
		ranged("load", "start", "0", "end", day3, "step", "1d"), ranged("load", "start", "-1e9", "end", day3, "step", "30d"),
		ranged("load", "start", day1, "end", day1, "step", "600"), ranged("load", "start", day1, "end", day3, "step", "1000d"),
		ranged("load", "start", day1+"4", "end", day3+"7", "step", "600.0004"), ranged("load", "start", day1, "end", day3, "step", "0.0005"),
		ranged("load", with("limit", "2")...),
		ranged("load", with("lookback_delta", "1h")...), ranged("load", with("partial_response", "1")...), ranged("latency", with("limit", "1")...),
		instant("max_over_time(sum(rate(requests_total[1h]))[3d:100ms])", "time", now, "timeout", "50ms"),
		ranged("max_over_time(sum(rate(requests_total[1h]))[3d:1s])", with("timeout", "50ms")...),
	)
}

// special writes samples whose bits are easily lost.
func (w *world) special() {
	ls := labels.FromStrings("__name__", "special", "job", "job-0")
	custom := labels.FromStrings("__name__", "custom", "job", "job-0")
	values := []float64{math.NaN(), math.Inf(1), math.Inf(-1), math.SmallestNonzeroFloat64, math.MaxFloat64, math.Float64frombits(0x7ff8000000000abc),
		math.Float64frombits(value.StaleNaN), 1, math.Copysign(0, -1), 0.1}
	var list, hist []point
	for t, i := w.start+minute, 0; t < w.now; t, i = t+5*minute, i+1 {
		list = append(list, point{t: t, f: values[i%len(values)]})
		h := tsdbutil.GenerateTestCustomBucketsFloatHistogram(int64(i % 50))
		if i%17 == 16 {
			h.Sum = math.NaN()
		}
		if i%7 == 3 {
			h.CounterResetHint = histogram.GaugeType
		}
		hist = append(hist, point{t: t, fh: h})
	}
	w.push(ls, list...)
	w.push(custom, hist...)
}

// TestClusterLikeSingle checks that a cluster with query frontends gives the same responses as a
// single process, including errors.
func TestClusterLikeSingle(t *testing.T) {
	w := newWorld(t)
	w.startCluster(cluster.Options{})
	w.plain = programs.StartPallium(t, "log: {level: warn}\nself_monitoring: {disabled: true}\n")
	w.plain.Tenant("t", wide...)
	w.tokens = append(w.tokens, w.plain.Token("t", "metrics:read,metrics:write,metrics:delete"))
	w.begin()
	w.special()
	w.compareAll("no limits")
	for _, limit := range [][2]string{
		{"max_query_series=2", "max_query_series=0"}, {"max_query_samples=50", "max_query_samples=0"}, {"max_query_steps=100", "max_query_steps=0"},
		{"max_query_range=1h", "max_query_range=0s"}, {"max_query_length=10", "max_query_length=0"}, {"max_memory_bytes=100", "max_memory_bytes=0"},
	} {
		w.limit(limit[0])
		w.compareAll(limit[0])
		w.limit(limit[1])
	}
}

// limit sets a limit in the cluster and in the single process, and waits until all processes of the cluster
// apply it.
func (w *world) limit(text string) {
	w.t.Helper()
	w.front.cli("limits", "set", "t", text)
	single{w.plain}.cli("limits", "set", "t", text)
	time.Sleep(limitsDelay)
}

// limitsDelay is longer than the time until all backends apply a changed limit.
const limitsDelay = 6 * time.Second

// compareAll sends requests to both systems: all of them if there are no limits, otherwise
// only the first 60.
func (w *world) compareAll(name string) {
	w.t.Helper()
	list := w.alike()
	if name != "no limits" {
		list = list[:60]
	}
	codes := map[int]int{}
	for _, r := range list {
		a, b := w.send(w.edge(), w.tokens[0], r), w.send(w.plain.Edge, w.tokens[1], r)
		codes[a.Code]++
		retry := [2]string{a.Header.Get("Retry-After"), b.Header.Get("Retry-After")}
		if a.Code != b.Code || a.Body != b.Body || retry[0] != retry[1] {
			at := difference(a.Body, b.Body)
			w.t.Errorf("FRONTEND_SEED=%d, %s: %s %.300v\ncluster: %d, Retry-After %q, ...%.300s\n single: %d, Retry-After %q, ...%.300s", w.seed, name,
				r.path, r.params, a.Code, retry[0], a.Body[min(at, len(a.Body)):], b.Code, retry[1], b.Body[min(at, len(b.Body)):])
		}
	}
	w.t.Logf("%s: %d requests, by status %v", name, len(list), codes)
}

func (w *world) send(edge, token string, r request) programs.Answer {
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, edge+"/prometheus/api/v1/"+r.path, strings.NewReader(r.params.Encode()))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return programs.Send(w.t, req)
}
