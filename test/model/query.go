package model

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
)

// query is one query to one process, and the check of its response.
type query struct {
	rnd    *rand.Rand
	client *client
	edges  []string
	view   *View
	slacks slacks
	// without has the kinds of queries that are not used.
	without map[string]bool

	edge     string
	kind     string
	selector string
	matchers []*labels.Matcher
	from, to int64 // the query reads the range (from, to]
	text     string
	answer   response
	results  []result
}

// selectors returns the selectors of queries and deletions.
func selectors() []string {
	return []string{
		`model_a`,
		`model_b`,
		`{"model_é"}`,
		`{__name__=~"model_.+"}`,
		`{__name__=~"model_.+",even="yes"}`,
		`{__name__=~"model_.+",even=""}`,
		`model_a{series="a"}`,
		`{series=~"[b-e]",__name__!=""}`,
		`{series!="c",even!="yes",__name__=~"model_a|model_b"}`,
		`{series="e"}`,
		`{series="j"}`,
	}
}

// kinds returns the kinds of queries by name.
func kinds() map[string]func(*query, context.Context) *Difference {
	return map[string]func(*query, context.Context) *Difference{
		"range selector": (*query).rangeSelector, "instant": (*query).instant, "range": (*query).rangeQuery,
		"count_over_time": (*query).count, "last_over_time": (*query).lastOverTime, "series": (*query).series,
		"labels": (*query).names, "label values": (*query).values, "remote read": (*query).samples, "streamed read": (*query).chunks,
		"asked twice": (*query).twice,
	}
}

const lookback = 5 * 60 * 1000

// ask sends the query and compares the response. If the response is not 200, the query
// failed and the Difference is nil: the caller decides whether the failure is allowed.
func (q *query) ask(ctx context.Context) *Difference {
	q.edge = q.edges[q.rnd.Intn(len(q.edges))]
	list := selectors()
	q.selector = list[q.rnd.Intn(len(list))]
	q.matchers = parse(q.selector)
	now := time.Now().UnixMilli()
	q.to = now + 2*60_000
	if q.rnd.Intn(2) == 0 {
		q.to = q.someTime(now) + []int64{0, 0, 1, -1, lookback, lookback - 1, 60_000}[q.rnd.Intn(7)]
	}
	spans := []int64{1, 60_000, lookback, 3_600_000, 2 * 3_600_000, dayMillis, 3 * dayMillis, 14 * dayMillis, 14 * dayMillis}
	q.from = q.to - spans[q.rnd.Intn(9)]
	names := []string{
		"range selector", "range selector", "range selector", "instant", "range", "count_over_time", "last_over_time",
		"series", "labels", "label values", "remote read", "remote read", "streamed read", "streamed read", "asked twice",
	}
	names = slices.DeleteFunc(names, func(name string) bool { return q.without[name] })
	q.kind = names[q.rnd.Intn(len(names))]
	return kinds()[q.kind](q, ctx)
}

// someTime returns the time of a random sample of a random series, or now if the series has none.
func (q *query) someTime(now int64) int64 {
	q.view.t.mu.Lock() // a writer may add to the view
	defer q.view.t.mu.Unlock()
	s := q.view.series[q.rnd.Intn(len(q.view.series))]
	if ts := s.times(0, now+lookback); len(ts) > 0 {
		return ts[q.rnd.Intn(len(ts))]
	}
	return now
}

func (q *query) String() string {
	return fmt.Sprintf("%s %s of %s: %s in (%s, %s]", q.edge, q.kind, q.view.t.name, q.text, at(q.from), at(q.to))
}

// get sends a request to the API and reports whether the response is 200.
func (q *query) get(ctx context.Context, path string, params url.Values) bool {
	q.text = path + " " + params.Encode()
	if text := params.Get("query"); text != "" {
		q.text = path + " " + text
	}
	q.answer = q.client.do(ctx, http.MethodGet, q.edge+"/prometheus/api/v1/"+path+"?"+params.Encode(), q.view.t.token, nil)
	return q.answer.code == http.StatusOK
}

// evaluate runs an instant query, or a range query if there are steps.
func (q *query) evaluate(ctx context.Context, text string, steps ...int64) (bool, *Difference) {
	var ok bool
	if len(steps) == 0 {
		ok = q.get(ctx, "query", url.Values{"query": {text}, "time": {seconds(q.to)}})
	} else {
		ok = q.get(ctx, "query_range", url.Values{"query": {text}, "start": {seconds(steps[0])}, "end": {seconds(steps[len(steps)-1])},
			"step": {seconds(steps[1] - steps[0])}})
	}
	if !ok {
		return false, nil
	}
	var err error
	if q.results, err = decodeQuery(q.answer.body); err != nil {
		return false, unreadable(err)
	}
	return true, nil
}

func unreadable(err error) *Difference {
	return &Difference{Expected: "a valid response", Got: "a response that cannot be decoded: " + err.Error()}
}

func seconds(ms int64) string { return strconv.FormatFloat(float64(ms)/1000, 'f', 3, 64) }

// ranged returns the selector with the range of the query.
func (q *query) ranged() string { return fmt.Sprintf("%s[%dms]", q.selector, q.to-q.from) }

func (q *query) rangeSelector(ctx context.Context) *Difference {
	ok, d := q.evaluate(ctx, q.ranged())
	if !ok {
		return d
	}
	return q.view.expect(q.slacks).raw(q.results, q.matchers, q.from+1, q.to, jsonText)
}

func (q *query) instant(ctx context.Context) *Difference {
	ok, d := q.evaluate(ctx, q.selector)
	if !ok {
		return d
	}
	return q.view.expect(q.slacks).steps(q.results, q.matchers, []int64{q.to}, lookback, false)
}

func (q *query) lastOverTime(ctx context.Context) *Difference {
	ok, d := q.evaluate(ctx, "last_over_time("+q.ranged()+")")
	if !ok {
		return d
	}
	return q.view.expect(q.slacks).steps(q.results, q.matchers, []int64{q.to}, q.to-q.from, true)
}

func (q *query) rangeQuery(ctx context.Context) *Difference {
	n := int64(2 + q.rnd.Intn(30))
	step := []int64{1, 1000, 15_000, 15_001, 3_600_000}[q.rnd.Intn(5)]
	var steps []int64
	for i := range n {
		steps = append(steps, q.to-(n-1-i)*step)
	}
	q.from = steps[0] - lookback
	ok, d := q.evaluate(ctx, q.selector, steps...)
	if !ok {
		return d
	}
	return q.view.expect(q.slacks).steps(q.results, q.matchers, steps, lookback, false)
}

// count checks count_over_time, which drops the metric name.
func (q *query) count(ctx context.Context) *Difference {
	ok, d := q.evaluate(ctx, "count_over_time("+q.ranged()+")")
	if !ok {
		return d
	}
	series, d := byLabels(q.results)
	if d != nil {
		return d
	}
	e := q.view.expect(q.slacks)
	for _, s := range q.view.selected(q.matchers) {
		key := s.labels.DropReserved(func(name string) bool { return name == model.MetricNameLabel }).String()
		n := 0
		if r := series[key]; r != nil {
			n, _ = strconv.Atoi(r.points[0].value) // text that is not a number is a difference
		}
		delete(series, key)
		if least, most := e.count(s, q.from, q.to); n < least || n > most {
			return s.differs(always, fmt.Sprintf("%d to %d samples", least, most), fmt.Sprint(n))
		}
	}
	return unexpected(series)
}

func (q *query) samples(ctx context.Context) *Difference { return q.read(ctx, false) }

func (q *query) chunks(ctx context.Context) *Difference { return q.read(ctx, true) }

func (q *query) read(ctx context.Context, chunks bool) *Difference {
	q.text = q.selector
	var err error
	q.answer, q.results, err = q.client.remoteRead(ctx, q.edge, q.view.t.token, chunks, q.from+1, q.to, q.matchers)
	if err != nil {
		return unreadable(err)
	}
	if q.answer.code != http.StatusOK {
		return nil
	}
	return q.view.expect(q.slacks).raw(q.results, q.matchers, q.from+1, q.to, (*Value).text)
}

// lists requests a list, such as the label names, for the range of the query.
func (q *query) lists(ctx context.Context, path string, match bool) (json.RawMessage, bool, *Difference) {
	params := url.Values{"start": {seconds(q.from + 1)}, "end": {seconds(q.to)}}
	if match {
		params.Set("match[]", q.selector)
	} else {
		q.matchers = nil
	}
	if !q.get(ctx, path, params) {
		return nil, false, nil
	}
	var a struct{ Data json.RawMessage }
	if err := json.Unmarshal(q.answer.body, &a); err != nil {
		return nil, false, unreadable(err)
	}
	return a.Data, true, nil
}

func (q *query) series(ctx context.Context) *Difference {
	data, ok, d := q.lists(ctx, "series", true)
	if !ok {
		return d
	}
	var sets []map[string]string
	if err := json.Unmarshal(data, &sets); err != nil {
		return unreadable(err)
	}
	var got []string
	for _, set := range sets {
		got = append(got, labels.FromMap(set).String())
	}
	return q.view.expect(q.slacks).list(got, q.matchers, q.from+1, q.to, func(ls labels.Labels) []string { return []string{ls.String()} })
}

func (q *query) names(ctx context.Context) *Difference {
	return q.strings(ctx, "labels", func(ls labels.Labels) (out []string) {
		ls.Range(func(l labels.Label) { out = append(out, l.Name) })
		return out
	})
}

func (q *query) values(ctx context.Context) *Difference {
	name := []string{"series", model.MetricNameLabel, "even"}[q.rnd.Intn(3)]
	return q.strings(ctx, "label/"+name+"/values", func(ls labels.Labels) []string {
		if v := ls.Get(name); v != "" {
			return []string{v}
		}
		return nil
	})
}

func (q *query) strings(ctx context.Context, path string, of func(labels.Labels) []string) *Difference {
	data, ok, d := q.lists(ctx, path, q.rnd.Intn(2) == 0)
	if !ok {
		return d
	}
	var got []string
	if err := json.Unmarshal(data, &got); err != nil {
		return unreadable(err)
	}
	return q.view.expect(q.slacks).list(got, q.matchers, q.from+1, q.to, of)
}

// twice sends the same query to every edge, with expressions whose result depends on the order of
// series. The responses must be equal, unless something may have changed in between; see certain.
func (q *query) twice(ctx context.Context) *Difference {
	form := []string{"%s", "topk(2, count_over_time(%s))", "avg(last_over_time(%s))", "sum(avg_over_time(%s))"}[q.rnd.Intn(4)]
	text := fmt.Sprintf(form, q.ranged())
	var answers []string
	for i := range 2 * len(q.edges) {
		q.edge = q.edges[i%len(q.edges)]
		if ok, d := q.evaluate(ctx, text); !ok {
			return d
		}
		got, _, _ := strings.Cut(string(q.answer.body), `,"warnings"`)
		got, _, _ = strings.Cut(got, `,"infos"`)
		answers = append(answers, got)
	}
	certain := q.certain()
	for _, got := range answers {
		if certain && got != answers[0] {
			return &Difference{Expected: "the same response as before: " + answers[0], Got: got}
		}
	}
	return nil
}

// certain reports whether only one response is right.
func (q *query) certain() bool {
	e := q.view.expect(q.slacks)
	if q.view.doubts {
		return false
	}
	for _, s := range q.view.selected(q.matchers) {
		for _, t := range s.times(q.from+1, q.to) {
			if values, absent := e.possible(s, t); len(values) > 1 || absent && len(values) > 0 {
				return false
			}
		}
	}
	return true
}
