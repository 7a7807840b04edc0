package conformance

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/almost"
	"github.com/prometheus/prometheus/util/annotations"
)

// epsilon is the relative error that promqltest allows.
const epsilon = 0.000001

// answer is a response of the query HTTP API. Results of an engine in this process are
// converted to the same form for comparison.
type answer struct {
	err             string
	warnings, infos []string
	kind            parser.ValueType
	text            string // value of a string
	series          []line // a scalar is one series without labels
}

type line struct {
	metric labels.Labels
	floats []promql.FPoint
	hists  []histPoint
}

// histPoint is a histogram as the API returns it: without schema, spans and counter
// reset hint.
type histPoint struct {
	t          int64
	count, sum float64
	buckets    []bucket // non-empty buckets
}

type bucket struct {
	boundaries int
	lower      float64
	upper      float64
	count      float64
}

// Types of the API's JSON.
type (
	wireAnswer struct {
		Status, Error   string
		Warnings, Infos []string
		Data            struct {
			ResultType parser.ValueType
			Result     json.RawMessage
		}
	}
	wireSeries struct {
		Metric     map[string]string
		Value      *wirePoint
		Histogram  *wirePoint
		Values     []wirePoint
		Histograms []wirePoint
	}
	wirePoint struct {
		t     int64
		value json.RawMessage
	}
	wireHistogram struct {
		Count, Sum string
		Buckets    [][4]json.RawMessage
	}
)

// UnmarshalJSON decodes [seconds, value].
func (p *wirePoint) UnmarshalJSON(data []byte) error {
	var pair [2]json.RawMessage
	if err := json.Unmarshal(data, &pair); err != nil {
		return err
	}
	seconds, err := strconv.ParseFloat(string(pair[0]), 64)
	if err != nil {
		return fmt.Errorf("time %s: %w", pair[0], err)
	}
	p.t, p.value = int64(roundHalfAway(seconds*1000)), pair[1]
	return nil
}

func roundHalfAway(f float64) float64 {
	if f < 0 {
		return float64(int64(f - 0.5))
	}
	return float64(int64(f + 0.5))
}

func (p *wirePoint) float() (promql.FPoint, error) {
	v, err := number(p.value)
	return promql.FPoint{T: p.t, F: v}, err
}

func number(raw json.RawMessage) (float64, error) {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return 0, err
	}
	return strconv.ParseFloat(s, 64)
}

func (p *wirePoint) histogram() (histPoint, error) {
	var w wireHistogram
	if err := json.Unmarshal(p.value, &w); err != nil {
		return histPoint{}, err
	}
	h := histPoint{t: p.t}
	var err error
	if h.count, err = strconv.ParseFloat(w.Count, 64); err != nil {
		return h, err
	}
	if h.sum, err = strconv.ParseFloat(w.Sum, 64); err != nil {
		return h, err
	}
	for _, b := range w.Buckets {
		var out bucket
		if err := json.Unmarshal(b[0], &out.boundaries); err != nil {
			return h, err
		}
		for i, dst := range []*float64{&out.lower, &out.upper, &out.count} {
			if *dst, err = number(b[i+1]); err != nil {
				return h, err
			}
		}
		h.buckets = append(h.buckets, out)
	}
	return h, nil
}

// parseAnswer decodes a response body of the query API.
func parseAnswer(body string) (answer, error) {
	var w wireAnswer
	if err := json.Unmarshal([]byte(body), &w); err != nil {
		return answer{}, err
	}
	a := answer{err: w.Error, warnings: w.Warnings, infos: w.Infos, kind: w.Data.ResultType}
	if w.Status != "success" {
		if w.Error == "" {
			return a, fmt.Errorf("error response without text: %s", body)
		}
		return a, nil
	}
	switch a.kind {
	case parser.ValueTypeString, parser.ValueTypeScalar:
		var p wirePoint
		if err := json.Unmarshal(w.Data.Result, &p); err != nil {
			return a, err
		}
		if a.kind == parser.ValueTypeString {
			return a, json.Unmarshal(p.value, &a.text)
		}
		f, err := p.float()
		a.series = []line{{floats: []promql.FPoint{f}}}
		return a, err
	}
	var list []wireSeries
	if err := json.Unmarshal(w.Data.Result, &list); err != nil {
		return a, err
	}
	for _, s := range list {
		l, err := s.line()
		if err != nil {
			return a, err
		}
		a.series = append(a.series, l)
	}
	return a, nil
}

func (s *wireSeries) line() (line, error) {
	l := line{metric: labels.FromMap(s.Metric)}
	if s.Value != nil {
		s.Values = append(s.Values, *s.Value)
	}
	if s.Histogram != nil {
		s.Histograms = append(s.Histograms, *s.Histogram)
	}
	for i := range s.Values {
		p, err := s.Values[i].float()
		if err != nil {
			return l, err
		}
		l.floats = append(l.floats, p)
	}
	for i := range s.Histograms {
		p, err := s.Histograms[i].histogram()
		if err != nil {
			return l, err
		}
		l.hists = append(l.hists, p)
	}
	return l, nil
}

// answerOf converts an engine's result to the form of the API.
func answerOf(r *promql.Result, query string) answer {
	if r.Err != nil {
		return answer{err: r.Err.Error()}
	}
	a := answer{kind: r.Value.Type()}
	a.warnings, a.infos = r.Warnings.AsStrings(query, 10, 10)
	switch v := r.Value.(type) {
	case promql.String:
		a.text = v.V
	case promql.Scalar:
		a.series = []line{{floats: []promql.FPoint{{T: v.T, F: v.V}}}}
	case promql.Vector:
		for _, s := range v {
			l := line{metric: s.Metric}
			if s.H != nil {
				l.hists = []histPoint{histPointOf(s.T, s.H)}
			} else {
				l.floats = []promql.FPoint{{T: s.T, F: s.F}}
			}
			a.series = append(a.series, l)
		}
	case promql.Matrix:
		for _, s := range v {
			l := line{metric: s.Metric, floats: slices.Clone(s.Floats)}
			for _, p := range s.Histograms {
				l.hists = append(l.hists, histPointOf(p.T, p.H))
			}
			a.series = append(a.series, l)
		}
	}
	return a
}

func histPointOf(t int64, h *histogram.FloatHistogram) histPoint {
	p := histPoint{t: t, count: h.Count, sum: h.Sum}
	for it := h.AllBucketIterator(); it.Next(); {
		b := it.At()
		if b.Count == 0 {
			continue
		}
		boundaries := map[[2]bool]int{{false, true}: 0, {true, false}: 1, {false, false}: 2, {true, true}: 3}[[2]bool{b.LowerInclusive, b.UpperInclusive}]
		p.buckets = append(p.buckets, bucket{boundaries: boundaries, lower: b.Lower, upper: b.Upper, count: b.Count})
	}
	return p
}

// counted is the part of an info annotation that says how many samples were fixed, and in which
// range of time. A query that is divided has other numbers; see package backend/frontend/split.
var counted = regexp.MustCompile(`over \d+ samples from \S+ to \S+`)

// uncounted returns the answer without the numbers and times of samples in info annotations.
func (a answer) uncounted() answer {
	infos := slices.Clone(a.infos)
	for i := range infos {
		infos[i] = counted.ReplaceAllString(infos[i], "over N samples")
	}
	a.infos = infos
	return a
}

// difference describes where two answers differ; "" means that they are equal. The
// order of series is ignored.
func difference(got, want answer) string {
	if got.err != want.err {
		return fmt.Sprintf("error %q, want %q", got.err, want.err)
	}
	for _, pair := range [][2][]string{{got.warnings, want.warnings}, {got.infos, want.infos}} {
		g, w := slices.Sorted(slices.Values(pair[0])), slices.Sorted(slices.Values(pair[1]))
		if !slices.Equal(g, w) {
			return fmt.Sprintf("annotations %q, want %q", g, w)
		}
	}
	if got.kind != want.kind || got.text != want.text || len(got.series) != len(want.series) {
		return fmt.Sprintf("%s %q of %d series, want %s %q of %d", got.kind, got.text, len(got.series), want.kind, want.text, len(want.series))
	}
	g, w := sorted(got.series), sorted(want.series)
	for i := range g {
		if d := g[i].difference(w[i]); d != "" {
			return fmt.Sprintf("%s: %s", g[i].metric, d)
		}
	}
	return ""
}

func sorted(list []line) []line {
	return slices.SortedFunc(slices.Values(list), func(a, b line) int { return labels.Compare(a.metric, b.metric) })
}

func (l line) difference(want line) string {
	if !labels.Equal(l.metric, want.metric) {
		return fmt.Sprintf("want %s", want.metric)
	}
	sameFloat := func(a, b promql.FPoint) bool { return a.T == b.T && almost.Equal(a.F, b.F, epsilon) }
	if !slices.EqualFunc(l.floats, want.floats, sameFloat) {
		return fmt.Sprintf("%v, want %v", l.floats, want.floats)
	}
	if !slices.EqualFunc(l.hists, want.hists, histPoint.equal) {
		return fmt.Sprintf("%v, want %v", l.hists, want.hists)
	}
	return ""
}

func (p histPoint) equal(o histPoint) bool {
	sameBucket := func(a, b bucket) bool {
		return a.boundaries == b.boundaries && almost.Equal(a.lower, b.lower, epsilon) &&
			almost.Equal(a.upper, b.upper, epsilon) && almost.Equal(a.count, b.count, epsilon)
	}
	return p.t == o.t && almost.Equal(p.count, o.count, epsilon) && almost.Equal(p.sum, o.sum, epsilon) &&
		slices.EqualFunc(p.buckets, o.buckets, sameBucket)
}

// note is a warning or info annotation of an HTTP response.
type note struct {
	text string
	kind error
}

func (n note) Error() string { return n.text }
func (n note) Unwrap() error { return n.kind }

// result converts the answer to the form that promqltest checks. histogramOf returns
// the histogram of a point.
func (a answer) result(histogramOf func(labels.Labels, histPoint) *histogram.FloatHistogram) *promql.Result {
	if a.err != "" {
		return &promql.Result{Err: fmt.Errorf("%s", a.err)}
	}
	r := &promql.Result{Warnings: annotations.Annotations{}}
	for _, w := range a.warnings {
		r.Warnings[w] = note{w, annotations.PromQLWarning}
	}
	for _, i := range a.infos {
		r.Warnings[i] = note{i, annotations.PromQLInfo}
	}
	switch a.kind {
	case parser.ValueTypeString:
		r.Value = promql.String{V: a.text}
	case parser.ValueTypeScalar:
		r.Value = promql.Scalar{T: a.series[0].floats[0].T, V: a.series[0].floats[0].F}
	case parser.ValueTypeVector:
		v := promql.Vector{}
		for _, s := range a.series {
			for _, p := range s.floats {
				v = append(v, promql.Sample{Metric: s.metric, T: p.T, F: p.F})
			}
			for _, p := range s.hists {
				v = append(v, promql.Sample{Metric: s.metric, T: p.t, H: histogramOf(s.metric, p)})
			}
		}
		r.Value = v
	default:
		m := promql.Matrix{}
		for _, s := range a.series {
			out := promql.Series{Metric: s.metric, Floats: s.floats}
			for _, p := range s.hists {
				out.Histograms = append(out.Histograms, promql.HPoint{T: p.t, H: histogramOf(s.metric, p)})
			}
			m = append(m, out)
		}
		r.Value = m
	}
	return r
}
