package model

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// slacks says how precisely the model knows the system's timing. clock is the largest
// difference between clocks, limits the longest time until a change of limits has reached
// every process.
type slacks struct{ clock, limits time.Duration }

// Difference is a difference between a response and the model.
type Difference struct {
	Series, Expected, Got string
	Log                   []string // the last operations on the series
}

func (d *Difference) String() string {
	return fmt.Sprintf("series:   %s\nexpected: %s\ngot:      %s\nlast operations on the series:\n  %s",
		d.Series, d.Expected, d.Got, strings.Join(d.Log, "\n  "))
}

// options are the values that a response may have at one time; "" means none.
type options []string

func (o options) has(s string) bool { return slices.Contains(o, s) }

func (o options) String() string {
	var out []string
	for _, s := range o {
		if s == "" {
			s = "nothing"
		}
		out = append(out, s)
	}
	return strings.Join(out, " or ")
}

// expectation describes the possible contents of a response.
type expectation struct {
	v            *View
	nothing, all int64 // see View.cuts
}

// expect must be called when the response has arrived: samples sent after that cannot
// be in it.
func (v *View) expect(s slacks) expectation {
	v.t.mu.Lock()
	defer v.t.mu.Unlock()
	delete(v.t.views, v)
	nothing, all := v.cuts(s.clock, s.limits)
	return expectation{v, nothing, all}
}

// possible returns the values that a series may have at a time, and whether it may
// have none.
func (e expectation) possible(s *Series, t int64) ([]*Value, bool) {
	if t < e.nothing {
		return nil, true
	}
	values, absent := s.cells[t].possible()
	return values, absent || t < e.all
}

// times returns the times of a series in a range, the last first.
func (s *Series) times(mint, maxt int64) []int64 {
	var out []int64
	for t := range s.cells {
		if mint <= t && t <= maxt {
			out = append(out, t)
		}
	}
	slices.SortFunc(out, func(a, b int64) int { return int(b - a) })
	return out
}

// selected returns the series that the matchers select.
func (v *View) selected(matchers []*labels.Matcher) []*Series {
	var out []*Series
	for _, s := range v.series {
		if matches(matchers, s.labels) {
			out = append(out, s)
		}
	}
	return out
}

// byLabels maps the series of a response by their labels.
func byLabels(got []result) (map[string]*result, *Difference) {
	out := map[string]*result{}
	for i := range got {
		key := got[i].labels.String()
		if out[key] != nil {
			return nil, &Difference{Series: key, Expected: "a series once", Got: "two series with these labels"}
		}
		out[key] = &got[i]
	}
	return out, nil
}

// raw compares the samples of a response with all samples of the model in the range.
// render returns the text of a value in the response, or "" if the response omits the
// value.
func (e expectation) raw(got []result, matchers []*labels.Matcher, mint, maxt int64, render func(*Value) string) *Difference {
	series, d := byLabels(got)
	if d != nil {
		return d
	}
	for _, s := range e.v.selected(matchers) {
		key := s.labels.String()
		r := series[key]
		delete(series, key)
		if r == nil {
			r = &result{}
		}
		if d := e.rawSeries(s, r, mint, maxt, render); d != nil {
			return d
		}
	}
	return unexpected(series)
}

// unexpected returns a difference for one of the given series, or nil if there are none. The model
// does not have these series, or the matchers do not select them.
func unexpected(series map[string]*result) *Difference {
	for key := range series {
		return &Difference{Series: key, Expected: "no such series", Got: fmt.Sprint(series[key].points)}
	}
	return nil
}

func (e expectation) rawSeries(s *Series, r *result, mint, maxt int64, render func(*Value) string) *Difference {
	got := map[int64]string{}
	for _, p := range r.points {
		if other, twice := got[p.t]; twice {
			return s.differs(p.t, at(p.t)+" once", fmt.Sprintf("%s has %s and %s", at(p.t), other, p.value))
		}
		got[p.t] = p.value
		if p.t < mint || p.t > maxt || s.cells[p.t] == nil {
			return s.differs(p.t, at(p.t)+": nothing", p.value)
		}
	}
	for _, t := range s.times(mint, maxt) {
		values, absent := e.possible(s, t)
		o := texts(values, render)
		if absent {
			o = append(o, "")
		}
		if !o.has(got[t]) {
			return s.differs(t, at(t)+": "+o.String(),
				orNothing(got[t])+fmt.Sprintf(" (the response has %d of %d samples of the series)", len(got), len(s.times(mint, maxt))))
		}
	}
	return nil
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

func texts(values []*Value, render func(*Value) string) options {
	var o options
	for _, v := range values {
		if text := render(v); !o.has(text) {
			o = append(o, text)
		}
	}
	return o
}

func (s *Series) differs(t int64, expected, got string) *Difference {
	return &Difference{Series: s.labels.String(), Expected: expected, Got: got, Log: s.about(t)}
}

// jsonText returns a value's text in range vectors, which omit staleness markers.
func jsonText(v *Value) string {
	if v.stale() {
		return ""
	}
	return v.json()
}

// last returns the possible values of the last sample in (from, to]. With overStale,
// staleness markers are skipped.
func (e expectation) last(s *Series, from, to int64, overStale bool) options {
	var o options
	for _, t := range s.times(from+1, to) {
		values, absent := e.possible(s, t)
		for _, v := range values {
			text := jsonText(v)
			if text == "" && overStale {
				absent = true
			} else if !o.has(text) {
				o = append(o, text)
			}
		}
		if !absent {
			return o
		}
	}
	return append(o, "")
}

// steps compares an instant query, or each step of a range query.
func (e expectation) steps(got []result, matchers []*labels.Matcher, steps []int64, lookback int64, overStale bool) *Difference {
	series, d := byLabels(got)
	if d != nil {
		return d
	}
	for _, s := range e.v.selected(matchers) {
		key := s.labels.String()
		values := map[int64]string{}
		if r := series[key]; r != nil {
			for _, p := range r.points {
				values[p.t] = p.value
			}
		}
		delete(series, key)
		for _, t := range steps {
			o := e.last(s, t-lookback, t, overStale)
			if !o.has(values[t]) {
				return s.differs(always, fmt.Sprintf("at %s: %s", at(t), o), orNothing(values[t]))
			}
			delete(values, t)
		}
		if len(values) > 0 {
			return s.differs(always, fmt.Sprintf("%d steps", len(steps)), fmt.Sprintf("more points: %v", values))
		}
	}
	return unexpected(series)
}

// count returns how many samples other than staleness markers a series may have in
// (from, to], at least and at most.
func (e expectation) count(s *Series, from, to int64) (least, most int) {
	for _, t := range s.times(from+1, to) {
		values, absent := e.possible(s, t)
		some, all := false, !absent
		for _, v := range values {
			some = some || !v.stale()
			all = all && !v.stale()
		}
		if some {
			most++
		}
		if some && all {
			least++
		}
	}
	return least, most
}

// listed returns the series that a list of a range must contain, and those that it may
// contain in addition.
func (e expectation) listed(matchers []*labels.Matcher, mint, maxt int64) (must, may []*Series) {
	for _, s := range e.v.selected(matchers) {
		certain := false
		for _, t := range s.times(mint, maxt) {
			if _, absent := e.possible(s, t); !absent {
				certain = true
				break
			}
		}
		if certain {
			must = append(must, s)
			continue
		}
		for day := range s.days {
			if day >= floorDay(max(mint, e.nothing, 0)) && day <= floorDay(maxt) {
				may = append(may, s)
				break
			}
		}
	}
	return must, may
}

// list compares a list of names, values or series. For each series, the function `of`
// returns the items that the series adds to the list.
func (e expectation) list(got []string, matchers []*labels.Matcher, mint, maxt int64, of func(labels.Labels) []string) *Difference {
	must, may := e.listed(matchers, mint, maxt)
	allowed := map[string]bool{}
	for _, s := range append(slices.Clone(must), may...) {
		for _, text := range of(s.labels) {
			allowed[text] = true
		}
	}
	for _, s := range must {
		for _, text := range of(s.labels) {
			if !slices.Contains(got, text) {
				return s.differs(always, text, "missing in "+strings.Join(got, " "))
			}
		}
	}
	seen := map[string]bool{}
	for _, text := range got {
		if !allowed[text] || seen[text] {
			var names []string
			for name := range allowed {
				names = append(names, name)
			}
			sort.Strings(names)
			return &Difference{
				Series:   text,
				Expected: "at most these, each once: " + strings.Join(names, " "),
				Got:      strings.Join(got, " "),
				Log:      e.v.logs(text, of),
			}
		}
		seen[text] = true
	}
	return nil
}

// logs returns the last operations on the first series that would add the text to a list.
func (v *View) logs(text string, of func(labels.Labels) []string) []string {
	for _, s := range v.series {
		if slices.Contains(of(s.labels), text) {
			return s.about(always)
		}
	}
	return nil
}
