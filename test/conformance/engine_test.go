package conformance

import (
	"context"
	"math"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/stats"

	"github.com/palliumhq/pallium/test/kit/programs"
)

// engines run queries in this process, on the data that was also written to Pallium.
type engines struct {
	full    *promql.Engine // as in promqltest, with all features
	shipped *promql.Engine // as in Prometheus without feature flags, or with the flags that the switches set
}

func newEngines(t testing.TB, switched bool) engines {
	return engines{
		full: promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery),
		shipped: promqltest.NewTestEngineWithOpts(t, promql.EngineOpts{
			MaxSamples: 50_000_000, Timeout: 2 * time.Minute, EnableAtModifier: true, EnableNegativeOffset: true,
			NoStepSubqueryIntervalFn: func(int64) int64 { return time.Minute.Milliseconds() },
			EnableDelayedNameRemoval: switched,
			Parser: parser.NewParser(parser.Options{EnableExperimentalFunctions: switched, EnableBinopFillModifiers: switched,
				EnableUnquotedUTF8Names: switched}),
		}),
	}
}

// remote is a promql.QueryEngine that queries Pallium over HTTP, for one eval of a
// script.
type remote struct {
	t     *testing.T
	to    *loader
	local engines
	// except is set if the eval is expected to fail.
	except *exception
	// differed is set when a response differed from the full engine's result.
	differed string
}

// NewInstantQuery implements promql.QueryEngine.
func (r *remote) NewInstantQuery(_ context.Context, _ storage.Queryable, _ promql.QueryOpts, qs string, ts time.Time) (promql.Query, error) {
	return &query{remote: r, text: qs, start: ts}, nil
}

// NewRangeQuery implements promql.QueryEngine.
func (r *remote) NewRangeQuery(_ context.Context, _ storage.Queryable, _ promql.QueryOpts, qs string, start, end time.Time, step time.Duration) (promql.Query, error) {
	return &query{remote: r, text: qs, start: start, end: end, step: step}, nil
}

type query struct {
	*remote
	text       string
	start, end time.Time
	step       time.Duration // 0 for an instant query
}

func (q *query) Close()                      {}
func (q *query) Cancel()                     {}
func (q *query) Statement() parser.Statement { return nil }
func (q *query) Stats() *stats.Statistics    { return nil }
func (q *query) String() string              { return q.text }

// Exec implements promql.Query. For an eval that is expected to fail it returns the
// full engine's result, so that the script does not fail, and records whether
// Pallium's response differs.
func (q *query) Exec(ctx context.Context) *promql.Result {
	got := q.ask()
	if q.except == nil || q.except.unlessEqual && q.equal(ctx) {
		return got.result(func(ls labels.Labels, p histPoint) *histogram.FloatHistogram { return q.histogramOf(ctx, ls, p) })
	}
	full := q.run(ctx, q.local.full)
	if d := difference(got, answerOf(full, q.text)); d != "" {
		q.differed = d
	}
	if q.except.likePrometheus {
		want := answerOf(q.run(ctx, q.local.shipped), q.text)
		if d := difference(got.uncounted(), want.uncounted()); d != "" {
			q.t.Errorf("%s: excepted because %s, but Prometheus without the feature returns a different result: %s", q.text, q.except.reason, d)
		}
	}
	return full
}

// equal reports whether Prometheus with and without the features return the same result.
func (q *query) equal(ctx context.Context) bool {
	return difference(answerOf(q.run(ctx, q.local.shipped), q.text), answerOf(q.run(ctx, q.local.full), q.text)) == ""
}

// ask sends the query to Pallium.
func (q *query) ask() answer {
	params := url.Values{"query": {q.text}}
	endpoint := "query"
	if q.step > 0 {
		endpoint = "query_range"
		params.Set("start", seconds(q.start))
		params.Set("end", seconds(q.end))
		params.Set("step", strconv.FormatFloat(q.step.Seconds(), 'f', -1, 64))
	} else {
		params.Set("time", seconds(q.start))
	}
	_, body := programs.Do(q.t, "POST", q.to.url+"/prometheus/api/v1/"+endpoint, q.to.token,
		"application/x-www-form-urlencoded", strings.NewReader(params.Encode()))
	a, err := parseAnswer(body)
	if err != nil {
		q.t.Fatalf("%s %v: %v: %s", endpoint, params, err, body)
	}
	a.err = strings.TrimPrefix(a.err, `invalid parameter "query": `)
	return a
}

func seconds(t time.Time) string {
	return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64)
}

func (q *query) run(ctx context.Context, e *promql.Engine) *promql.Result {
	var inner promql.Query
	var err error
	if q.step > 0 {
		inner, err = e.NewRangeQuery(ctx, q.to.Storage, nil, q.text, q.start, q.end, q.step)
	} else {
		inner, err = e.NewInstantQuery(ctx, q.to.Storage, nil, q.text, q.start)
	}
	if err != nil {
		return &promql.Result{Err: err}
	}
	return inner.Exec(ctx) // not closed: its points are still used
}

// histogramOf returns the full engine's histogram if Pallium's has the same JSON,
// which omits schema, spans and counter reset hints; otherwise it returns a histogram
// that no script expects.
func (q *query) histogramOf(ctx context.Context, metric labels.Labels, p histPoint) *histogram.FloatHistogram {
	find := func(m labels.Labels, t int64, h *histogram.FloatHistogram) bool {
		return h != nil && t == p.t && labels.Equal(m, metric) && histPointOf(t, h).equal(p)
	}
	switch v := q.run(ctx, q.local.full).Value.(type) {
	case promql.Vector:
		for _, s := range v {
			if find(s.Metric, s.T, s.H) {
				return s.H
			}
		}
	case promql.Matrix:
		for _, s := range v {
			for _, h := range s.Histograms {
				if find(s.Metric, h.T, h.H) {
					return h.H
				}
			}
		}
	}
	q.t.Logf("%s: %s has a histogram that the reference engine does not return: %+v", q.text, metric, p)
	return &histogram.FloatHistogram{Schema: math.MaxInt32, Count: p.count, Sum: p.sum}
}
