// Package frontend compares the answers of a running Pallium to range queries with answers of
// Prometheus' engine over the same samples, while samples are written into days that are cached,
// series are deleted, days are compacted, limits change and the process restarts. A query is sent
// only after all changes that its answer must show have been acknowledged.
package frontend

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cortexproject/promqlsmith"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/palliumhq/pallium/test/kit/programs"
)

const (
	minute = int64(60_000)
	hour   = 60 * minute
	day    = 24 * hour
)

// wide are the limits of the tenant: samples of any age, and no rate limits.
var wide = []string{"past_grace=0s", "requests_per_second=0", "samples_per_second=0", "bytes_per_second=0", "max_query_samples=0"}

// system is a Pallium with a query frontend.
type system interface {
	urls() []string // of edges
	flush()
	compact()
	restart()              // of any process, without a clean stop
	cli(args ...string)    // runs an admin command
	metric(string) float64 // the sum over all processes
}

// world has the Pallium with the frontend, in some tests a second one without it, and all samples.
type world struct {
	t       *testing.T
	rnd     *rand.Rand
	seed    int64
	front   system
	plain   *programs.Pallium // nil: there is none
	tokens  []string          // of front and plain
	samples *samples
	engine  *promql.Engine
	parser  parser.Parser
	smith   *promqlsmith.PromQLSmith
	start   int64 // of the samples
	now     int64
	texts   []string // expressions that are used repeatedly
	compare struct{ exact, near, failed int }
}

func do(t *testing.T, req *http.Request) (int, string) {
	t.Helper()
	a := programs.Send(t, req)
	return a.Code, a.Body
}

// newWorld returns a world without a Pallium.
func newWorld(t *testing.T) *world {
	w := &world{t: t, seed: time.Now().UnixNano(), samples: &samples{series: map[string]*sampled{}}, parser: parser.NewParser(parser.Options{})}
	if s := os.Getenv("FRONTEND_SEED"); s != "" {
		w.seed, _ = strconv.ParseInt(s, 10, 64)
	}
	t.Logf("FRONTEND_SEED=%d", w.seed)
	w.rnd = rand.New(rand.NewSource(w.seed))
	w.engine = promql.NewEngine(promql.EngineOpts{MaxSamples: math.MaxInt, Timeout: time.Hour, LookbackDelta: 5 * time.Minute,
		EnableAtModifier: true, EnableNegativeOffset: true, Parser: w.parser, NoStepSubqueryIntervalFn: func(int64) int64 { return minute }})
	w.now = time.Now().UnixMilli()
	w.start = (w.now/hour - 4*24) * hour
	return w
}

// single is a single process.
type single struct{ *programs.Pallium }

func (s single) urls() []string             { return []string{s.Edge} }
func (s single) flush()                     { s.Flush() }
func (s single) compact()                   { s.Compact() }
func (s single) restart()                   { s.Kill(); s.Restart() }
func (s single) metric(name string) float64 { return s.Metric(name) }
func (s single) cli(args ...string) {
	if _, err := s.CLI(args...); err != nil {
		panic(err)
	}
}

// shards is a configuration with which the series of aggregations are divided even if there are few.
const shards = "frontend: {max_shards: 3, shard_points: 500}\n"

// startSingle starts two processes, with the frontend and without.
func (w *world) startSingle() {
	const common = "log: {level: warn}\nself_monitoring: {disabled: true}\n"
	front := programs.StartPallium(w.t, common+shards)
	w.front = single{front}
	w.plain = programs.StartPallium(w.t, common+"frontend: {enabled: false}\n")
	for _, p := range []*programs.Pallium{front, w.plain} {
		p.Tenant("t", wide...)
		w.tokens = append(w.tokens, p.Token("t", "metrics:read,metrics:write,metrics:delete"))
	}
	w.begin()
}

// begin writes the first samples.
func (w *world) begin() {
	w.fill()
	var all []labels.Labels
	for _, s := range w.samples.series {
		all = append(all, s.labels)
	}
	slices.SortFunc(all, labels.Compare)
	w.smith = promqlsmith.New(w.rnd, all, promqlsmith.WithEnableOffset(true), promqlsmith.WithEnableAtModifier(true),
		promqlsmith.WithAtModifierMaxTimestamp(w.now), promqlsmith.WithEnableVectorMatching(true), promqlsmith.WithMaxDepth(3))
}

// edges returns the URL of one edge of each Pallium.
func (w *world) edges() []string {
	list := []string{w.edge()}
	if w.plain != nil {
		list = append(list, w.plain.Edge)
	}
	return list
}

// edge returns the URL of an edge of the frontend.
func (w *world) edge() string {
	all := w.front.urls()
	return all[w.rnd.Intn(len(all))]
}

// fill writes four days of counters, gauges and native histograms. Some series end early, others
// begin late.
func (w *world) fill() {
	for i := range 6 {
		for _, name := range []string{"requests_total", "load", "latency"} {
			ls := labels.FromStrings("__name__", name, "job", fmt.Sprint("job-", i%2), "i", fmt.Sprint(i))
			var list []point
			from, to := w.start+minute, w.now-minute // not at the steps of queries, so that later samples change results
			switch i {
			case 3:
				to = w.start + 2*day
			case 4:
				from = w.start + day + 7*hour
			}
			for t, n := from, int64(0); t < to; t, n = t+4*minute, n+1 {
				switch name {
				case "requests_total":
					list = append(list, point{t: t, f: float64(n * int64(i+1) % 701)})
				case "load":
					list = append(list, point{t: t, f: 1 + math.Round(math.Sin(float64(n))*1000)/8}) // never -0, which protobuf drops
				default:
					if i < 2 {
						list = append(list, point{t: t, fh: tsdbutil.GenerateTestFloatHistogram(n * int64(i+1))})
					}
				}
			}
			if len(list) > 0 {
				w.push(ls, list...)
			}
		}
	}
}

func (w *world) push(ls labels.Labels, list ...point) {
	w.t.Helper()
	w.samples.push(w.t, w.edges(), w.tokens, ls, list)
}

// backfill writes a few samples at any time of the four days.
func (w *world) backfill() {
	name := []string{"requests_total", "load"}[w.rnd.Intn(2)]
	i := w.rnd.Intn(8)
	ls := labels.FromStrings("__name__", name, "job", fmt.Sprint("job-", i%2), "i", fmt.Sprint(i))
	var list []point
	for t := w.start + w.rnd.Int63n(4*day-hour); len(list) < 5; t += 3*minute + w.rnd.Int63n(minute) {
		if !w.samples.has(ls, t) && t < w.now {
			list = append(list, point{t: t, f: float64(w.rnd.Intn(1000))})
		} else if t >= w.now {
			break
		}
	}
	if len(list) > 0 {
		w.push(ls, list...)
	}
}

// live writes recent samples: either all at most 15 minutes old, or all at most three hours old.
func (w *world) live() {
	i := w.rnd.Intn(6)
	name := []string{"requests_total", "load"}[w.rnd.Intn(2)]
	ls := labels.FromStrings("__name__", name, "job", fmt.Sprint("job-", i%2), "i", fmt.Sprint(i))
	late := []int64{15 * minute, 3 * hour}[w.rnd.Intn(2)]
	for range 4 {
		if t := w.now - 1 - w.rnd.Int63n(late); !w.samples.has(ls, t) {
			w.push(ls, point{t: t, f: float64(w.rnd.Intn(1000))})
		}
	}
}

// mixed writes samples of different ages in one request: some that are late by hours and days, and in
// some calls also a current one and one that is late by minutes.
func (w *world) mixed() {
	i := w.rnd.Intn(6)
	ls := labels.FromStrings("__name__", "load", "job", fmt.Sprint("job-", i%2), "i", fmt.Sprint(i))
	var list []point
	for _, late := range []int64{0, 15 * minute, 3 * hour, day, 4 * day}[w.rnd.Intn(3):] {
		t := w.now - 1 - w.rnd.Int63n(late+1)
		if t > w.start && !w.samples.has(ls, t) && !slices.ContainsFunc(list, func(p point) bool { return p.t == t }) {
			list = append(list, point{t: t, f: float64(w.rnd.Intn(1000))})
		}
	}
	if len(list) > 0 {
		w.push(ls, list...)
	}
}

// remove deletes a part of some series.
func (w *world) remove() {
	value := fmt.Sprint(w.rnd.Intn(8))
	mint := w.start + w.rnd.Int63n(3*day)
	maxt := mint + w.rnd.Int63n(day)
	q := url.Values{"match[]": {fmt.Sprintf(`{i=%q}`, value)}, "start": {seconds(mint)}, "end": {seconds(maxt)}}
	for i, edge := range w.edges() {
		code, text := programs.Do(w.t, http.MethodPost, edge+"/prometheus/api/v1/admin/tsdb/delete_series?"+q.Encode(), w.tokens[i], "", nil)
		if code/100 != 2 {
			w.t.Fatalf("delete: %d %s", code, text)
		}
	}
	w.samples.remove("i", value, mint, maxt)
}

func seconds(ms int64) string { return strconv.FormatFloat(float64(ms)/1000, 'f', 3, 64) }

// virtual returns the time of the processes. Binaries with the tag skewed may have a faster
// clock, so that windows and bounds pass while a test runs.
func virtual(t *testing.T) int64 {
	t.Helper()
	now := time.Now().UnixMilli()
	speed, err := strconv.ParseFloat(os.Getenv("PALLIUM_CLOCK_SPEED"), 64)
	if err != nil {
		return now
	}
	base, err := strconv.ParseInt(os.Getenv("PALLIUM_CLOCK_BASE"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return base + int64(float64(now-base)*speed)
}

// disturb changes something on which cached results depend, or something that must not change them. It
// returns the name of the change, or "" if nothing was changed.
func (w *world) disturb(i int) string {
	w.now = virtual(w.t)
	switch w.rnd.Intn(18) {
	case 0, 1, 2:
		w.backfill()
		return "backfill"
	case 3:
		w.remove()
		return "delete"
	case 4:
		w.front.flush()
		return "flush"
	case 5:
		w.front.compact()
		return "compact"
	case 6:
		if i%5 == 0 {
			w.front.restart()
			return "restart"
		}
	case 8, 9, 10, 11, 12:
		w.live()
		return "live"
	case 16, 17:
		w.mixed()
		return "mixed"
	case 7:
		w.front.cli("limits", "set", "t", fmt.Sprintf("max_query_series=%d", 1000+w.rnd.Intn(1000)))
		return "limits"
	}
	return ""
}

// expression returns an expression: mostly one of a few that are used repeatedly, as by dashboards,
// so that cached results are used after changes that may make them stale.
func (w *world) expression() string {
	const dashboard = 12
	if len(w.texts) >= dashboard && w.rnd.Intn(12) > 0 {
		return w.texts[w.rnd.Intn(dashboard)]
	}
	text := w.newExpression()
	if len(w.texts) < dashboard {
		w.texts = append(w.texts, text)
	} else {
		w.texts[w.rnd.Intn(dashboard)] = text
	}
	return text
}

// newExpression returns an expression of promqlsmith, or one that is typical of dashboards.
func (w *world) newExpression() string {
	of := func(list ...string) string { return list[w.rnd.Intn(len(list))] }
	var text string
	switch w.rnd.Intn(4) {
	case 0:
		text = w.smith.WalkRangeQuery().String()
	case 1:
		text = fmt.Sprintf("%s by (%s) (%s(%s[%s]%s))", of("sum", "avg", "max", "min", "count"), of("job", "i", "job, i"),
			of("rate", "increase", "delta", "sum_over_time", "max_over_time", "last_over_time"), of("requests_total", "load"),
			of("10m", "1h", "3h", "1d"), of("", "", " offset 1h", " offset -20m", " @ start()", " @ end()"))
	case 2:
		text = fmt.Sprintf("%s%s", of("load", "requests_total", `load{job="job-1"}`, "latency", "abs(load)", "sum(load)", "topk(2, load)"),
			of("", "", " > 0", " * 2", " - load offset 1d"))
	default:
		text = of("histogram_quantile(0.9, sum(rate(latency[1h])))", "sum(rate(requests_total[5m:1m])) / sum(rate(requests_total[1h]))",
			"absent(load)", "histogram_count(latency)", `label_replace(load, "x", "$1", "i", "(.*)")`, "max_over_time(sum(load)[6h:10m])",
			"load and on (i) requests_total > 100", "time()", "stddev_over_time(load[6h])", "count_values(\"v\", load > 100)", "timestamp(load)")
	}
	if _, err := w.parser.ParseExpr(text); err != nil {
		return w.newExpression() // promqlsmith creates some invalid expressions
	}
	return text
}

// query is a range query.
type query struct {
	text             string
	start, end, step int64
}

func (w *world) query() query {
	q := query{text: w.expression(), step: []int64{10 * minute, 10 * minute, 10 * minute, 7 * minute, 2 * hour}[w.rnd.Intn(5)]}
	q.start = w.start + w.rnd.Int63n(3*day)
	if w.rnd.Intn(8) > 0 {
		q.start -= q.start % q.step
	}
	q.end = min(q.start+w.rnd.Int63n(3*day), w.now)
	if w.rnd.Intn(3) == 0 {
		q.end = w.now
	}
	return q
}

// ask returns the answer of an edge, normalized.
func (w *world) ask(edge, token string, q query, cacheControl string) (int, answer) {
	w.t.Helper()
	form := url.Values{"query": {q.text}, "start": {seconds(q.start)}, "end": {seconds(q.end)}, "step": {seconds(q.step)}}
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, edge+"/prometheus/api/v1/query_range",
		strings.NewReader(form.Encode()))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if cacheControl != "" {
		req.Header.Set("Cache-Control", cacheControl)
	}
	code, text := do(w.t, req)
	return code, normalize(w.t, text)
}

// expect returns the answer of Prometheus' engine.
func (w *world) expect(q query) (answer, error) {
	w.t.Helper()
	query, err := w.engine.NewRangeQuery(w.t.Context(), w.samples, nil, q.text, timestamp.Time(q.start), timestamp.Time(q.end),
		time.Duration(q.step)*time.Millisecond)
	if err != nil {
		return answer{}, err
	}
	defer query.Close()
	res := query.Exec(w.t.Context())
	if res.Err != nil {
		return answer{}, res.Err
	}
	warnings, infos := res.Warnings.AsStrings(q.text, 10, 10)
	raw, err := v1.JSONCodec{}.Encode(&v1.Response{Status: "success", Warnings: warnings, Infos: infos,
		Data: &v1.QueryData{ResultType: res.Value.Type(), Result: res.Value}})
	if err != nil {
		w.t.Fatal(err)
	}
	return normalize(w.t, string(raw)), nil
}

// answer is a response of the query API.
type answer struct {
	Status   string
	Error    string
	Warnings []string
	Infos    []string
	Data     struct {
		ResultType string
		Result     []struct {
			Metric     map[string]string
			Values     [][2]any
			Histograms [][2]any
		}
	}
}

func normalize(t *testing.T, text string) answer {
	t.Helper()
	var a answer
	if err := json.NewDecoder(io.LimitReader(strings.NewReader(text), 1<<28)).Decode(&a); err != nil {
		t.Fatalf("%v: %.300s", err, text)
	}
	slices.Sort(a.Warnings)
	slices.Sort(a.Infos)
	return a
}
