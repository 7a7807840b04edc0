package memory

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
)

// attack is a request that once crashed a process with 4 GiB, or prevented responses to other
// tenants.
type attack struct {
	name string
	many int // concurrent requests in the second round
	do   func(r *run) reply
	// right checks a response of status 200; if it is nil, no response may have status 200.
	right func(body string) error
}

// reply is a response to the attacker.
type reply struct {
	code int
	body string
	err  error
}

const (
	attackSeries = 20_000
	attackPoints = 40 // of each series, 15 seconds apart
)

func attacks() []attack {
	bomb := `{a=~"(?:` + strings.Repeat("abcdefghij", 330) + `){1000}"}`
	long := `{a=~"` + strings.Repeat("x", 8<<20) + `"}`
	classes := `{a=~"` + strings.Repeat(`\\pL`, 15_000) + `"}`
	join := `label_replace(m{k="0"},"l0","0123456789","","")`
	for i := range 6 {
		join = fmt.Sprintf(`label_join(%s,"l%d",""%s)`, join, i+1, strings.Repeat(fmt.Sprintf(`,"l%d"`, i), 10))
	}
	slow := make(url.Values)
	for i := range 100 {
		slow.Add("match[]", fmt.Sprintf(`m{i=~".*(x.*){%d}x?"}`, 20+i%10))
	}
	var out []attack
	for _, to := range []string{"query", "query_exemplars", "format_query", "parse_query"} {
		out = append(out,
			attack{name: "regex bomb: " + to, many: 10, do: func(r *run) reply { return r.form(to, url.Values{"query": {bomb}}) }},
			attack{name: "classes: " + to, many: 10, do: func(r *run) reply { return r.form(to, url.Values{"query": {classes}}) }},
			attack{name: "8 MiB: " + to, many: 10, do: func(r *run) reply { return r.form(to, url.Values{"query": {long}}) }})
	}
	for _, to := range []string{"series", "labels", "admin/tsdb/delete_series"} {
		out = append(out,
			attack{name: "regex bomb: " + to, many: 10, do: func(r *run) reply { return r.form(to, url.Values{"match[]": {bomb}}) }},
			attack{name: "8 MiB: " + to, many: 10, do: func(r *run) reply { return r.form(to, url.Values{"match[]": {long}}) }})
	}
	return append(out,
		attack{name: "regex bomb: label values", many: 10, do: func(r *run) reply { return r.get("label/a/values", url.Values{"match[]": {bomb}}) }},
		attack{name: "regex bomb: remote read", many: 10, do: func(r *run) reply {
			return r.read(1, &prompb.LabelMatcher{Type: prompb.LabelMatcher_RE, Name: "a", Value: bomb[4 : len(bomb)-2]})
		}},
		attack{name: "8 MiB: remote read", many: 10, do: func(r *run) reply {
			return r.read(1, &prompb.LabelMatcher{Type: prompb.LabelMatcher_RE, Name: "a", Value: strings.Repeat("x", 8<<20)})
		}},
		attack{name: "nested label_join", many: 10, do: func(r *run) reply { return r.form("query", url.Values{"query": {"count(" + join + ")"}}) }},
		attack{name: "nested label_join of nothing", many: 10, do: func(r *run) reply {
			return r.form("query", url.Values{"query": {"count(" + strings.ReplaceAll(join, `m{k="0"}`, "vector(1)") + ")"}})
		}, right: anything},
		attack{name: "label_replace", many: 10, do: func(r *run) reply {
			return r.form("query", url.Values{"query": {`count(label_replace(m,"z","` + strings.Repeat("$1", 3000) + `","pad","(.*)"))`}})
		}, right: value(fmt.Sprint(attackSeries))},
		attack{name: "40 million samples", many: 20, do: func(r *run) reply { return r.ranged("m", 2000) }, right: points(attackSeries, 2000)},
		attack{name: "10 million samples", many: 100, do: func(r *run) reply { return r.ranged(`count(m{k=~"[0-4]"})`, 1000) }, right: value(fmt.Sprint(attackSeries / 2))},
		attack{name: "values", many: 10, do: func(r *run) reply { return r.ranged(`count(count_values("v", rate(m[1m]) * m))`, 2000) }, right: anything},
		attack{name: "sparse series", many: 10, do: func(r *run) reply { return r.ranged(`count(m + 0 > 38)`, 2000) }, right: anything},
		attack{name: "subquery", many: 10, do: func(r *run) reply {
			return r.form("query", url.Values{"query": {`count(max_over_time(m[10m:50ms]))`}})
		}, right: value(fmt.Sprint(attackSeries))},
		attack{name: "subquery of nothing", many: 8, do: func(r *run) reply {
			return r.form("query", url.Values{"query": {`max_over_time(vector(time())[120d:1s])`}})
		}},
		attack{name: "short ranges", many: 20, do: func(r *run) reply { return r.ranged(`count(rate(m{k=~"[01]"}[1m]) + 1)`, 9000) }, right: anything},
		attack{name: "topk by series", many: 4, do: func(r *run) reply {
			return r.form("query", url.Values{"query": {`count(topk by (i) (20000, m))`}})
		}},
		attack{name: "topk of an unknown k", many: 4, do: func(r *run) reply {
			return r.form("query", url.Values{"query": {`count(topk by (i) (scalar(count(m)), m))`}})
		}},
		attack{name: "deletion with a large regex", many: 10, do: func(r *run) reply {
			return r.form("admin/tsdb/delete_series", url.Values{"match[]": {`{a=~"(?:` + strings.Repeat("x", 90) + `){1000}"}`}})
		}},
		attack{name: "remote read of eight queries", many: 10, do: func(r *run) reply {
			return r.read(8, &prompb.LabelMatcher{Type: prompb.LabelMatcher_EQ, Name: "__name__", Value: "m"})
		}, right: anything},
		attack{name: "remote read of a thousand queries", many: 10, do: func(r *run) reply {
			return r.read(1000, &prompb.LabelMatcher{Type: prompb.LabelMatcher_EQ, Name: "__name__", Value: "m"})
		}},
		attack{name: "regexes in series", many: 10, do: func(r *run) reply { return r.form("series", slow) }, right: anything},
		attack{name: "snappy bombs", many: 90, do: func(r *run) reply { return r.bomb() }},
		attack{name: "canceled requests with slow regexes", many: 100, do: func(r *run) reply { return r.hangUp() }, right: anything},
	)
}

func anything(string) error { return nil }

// value checks that every value of a response is v.
func value(v string) func(string) error {
	return func(body string) error {
		found := strings.Count(body, `"`+v+`"]`)
		if all := strings.Count(body, `"]`); all == 0 || found != all {
			return fmt.Errorf("%d of %d values are %s, want all", found, all, v)
		}
		return nil
	}
}

// points checks the number of series and of their points in a response.
func points(series, steps int) func(string) error {
	return func(body string) error {
		if n := strings.Count(body, `{"metric":`); n != series {
			return fmt.Errorf("%d series, want %d", n, series)
		}
		if n := strings.Count(body, `"]`); n != series*steps {
			return fmt.Errorf("%d points, want %d", n, series*steps)
		}
		return nil
	}
}

func (r *run) form(endpoint string, params url.Values) reply {
	req, err := http.NewRequest(http.MethodPost, r.edge+"/prometheus/api/v1/"+endpoint, strings.NewReader(params.Encode()))
	if err != nil {
		return reply{err: err}
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r.send(req)
}

func (r *run) get(endpoint string, params url.Values) reply {
	req, err := http.NewRequest(http.MethodGet, r.edge+"/prometheus/api/v1/"+endpoint+"?"+params.Encode(), nil)
	if err != nil {
		return reply{err: err}
	}
	return r.send(req)
}

// ranged queries the time range that has samples, in the given number of steps.
func (r *run) ranged(query string, steps int) reply {
	end := r.last
	start := end.Add(-time.Duration(attackPoints-1) * 15 * time.Second)
	step := end.Sub(start) / time.Duration(steps-1)
	return r.form("query_range", url.Values{"query": {query}, "start": {stamp(start)}, "end": {stamp(end)}, "step": {fmt.Sprintf("%.9f", step.Seconds())}})
}

func stamp(t time.Time) string { return fmt.Sprintf("%.3f", float64(t.UnixMilli())/1000) }

// read sends a remote read request with the same query several times, for a response
// that is not streamed.
func (r *run) read(queries int, m *prompb.LabelMatcher) reply {
	msg := &prompb.ReadRequest{}
	for range queries {
		msg.Queries = append(msg.Queries, &prompb.Query{StartTimestampMs: 0, EndTimestampMs: r.last.UnixMilli(), Matchers: []*prompb.LabelMatcher{m}})
	}
	data, err := msg.Marshal()
	if err != nil {
		return reply{err: err}
	}
	req, err := http.NewRequest(http.MethodPost, r.edge+"/prometheus/api/v1/read", bytes.NewReader(snappy.Encode(nil, data)))
	if err != nil {
		return reply{err: err}
	}
	return r.send(req)
}

// hangUp sends a request that takes seconds for each value, and closes the connection.
func (r *run) hangUp() reply {
	ctx, cancel := context.WithTimeout(context.Background(), 700*time.Millisecond)
	defer cancel()
	slow := url.Values{"match[]": {`{__name__="slow",pad=~"(?:` + strings.Repeat("a?", 49) + `){200}[xyz]"}`}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.edge+"/prometheus/api/v1/series?"+slow.Encode(), nil)
	if err != nil {
		return reply{err: err}
	}
	rep := r.send(req)
	if ctx.Err() != nil {
		return reply{code: http.StatusOK, body: "hung up"}
	}
	return rep
}

// bomb pushes a body of 1.4 MB that decompresses to 30 MiB, with 80,000 invalid
// series.
func (r *run) bomb() reply {
	req, err := http.NewRequest(http.MethodPost, r.edge+"/api/v1/push", bytes.NewReader(r.bombBody))
	if err != nil {
		return reply{err: err}
	}
	return r.send(req)
}

func bombBody() []byte {
	msg := &prompb.WriteRequest{}
	value := strings.Repeat("a", 370)
	for range 80_000 {
		msg.Timeseries = append(msg.Timeseries, prompb.TimeSeries{Labels: []prompb.Label{{Name: "l", Value: value}}, Samples: []prompb.Sample{{Timestamp: 1, Value: 1}}})
	}
	data, err := msg.Marshal()
	if err != nil {
		panic(err)
	}
	return snappy.Encode(nil, data)
}
