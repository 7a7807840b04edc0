package model

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/value"
)

func testTenant() *Tenant { return &Tenant{name: "t", series: newSeries(), views: map[*View]bool{}} }

// TestState checks sequences of operations on one time of one series.
func TestState(t *testing.T) {
	const at = 1_000_000
	of := func(v float64) []Sample { return []Sample{{0, at, &Value{V: v}}} }
	push := func(o Outcome, v float64) func(*Tenant) {
		return func(t *Tenant) {
			s := of(v)
			t.begin(s)
			t.finish(s, o, "")
		}
	}
	all := &deletion{selector: "model_a", matchers: parse("model_a"), mint: math.MinInt64, maxt: math.MaxInt64}
	remove := func(o Outcome) func(*Tenant) {
		return func(t *Tenant) {
			t.beginDeletion(all)
			t.finishDeletion(all, o, "")
		}
	}
	stale := math.Float64frombits(value.StaleNaN)
	for name, c := range map[string]struct {
		do   []func(*Tenant)
		want string // possible values
	}{
		"nothing":                      {nil, "nothing"},
		"acknowledged":                 {[]func(*Tenant){push(Acknowledged, 5)}, "5"},
		"rejected":                     {[]func(*Tenant){push(Rejected, 5)}, "nothing"},
		"failed":                       {[]func(*Tenant){push(Unknown, 5)}, "5 or nothing"},
		"larger one first":             {[]func(*Tenant){push(Acknowledged, 5), push(Acknowledged, -50)}, "5"},
		"larger one last":              {[]func(*Tenant){push(Acknowledged, -50), push(Acknowledged, 5)}, "5"},
		"marker":                       {[]func(*Tenant){push(Acknowledged, -50), push(Acknowledged, stale)}, "-50"},
		"larger write failed":          {[]func(*Tenant){push(Acknowledged, 5), push(Unknown, 7)}, "5 or 7"},
		"smaller write failed":         {[]func(*Tenant){push(Unknown, 3), push(Acknowledged, 5)}, "5"},
		"deleted":                      {[]func(*Tenant){push(Acknowledged, 5), remove(Acknowledged)}, "nothing"},
		"smaller after a deletion":     {[]func(*Tenant){push(Acknowledged, 5), remove(Acknowledged), push(Acknowledged, 3)}, "3"},
		"deletion failed":              {[]func(*Tenant){push(Acknowledged, 5), remove(Unknown)}, "5 or nothing"},
		"deletion of two failed":       {[]func(*Tenant){push(Acknowledged, 5), push(Acknowledged, 3), remove(Unknown)}, "3 or 5 or nothing"},
		"deletion failed and repeated": {[]func(*Tenant){push(Acknowledged, 5), remove(Unknown), remove(Acknowledged)}, "nothing"},
	} {
		tn := testTenant()
		for _, do := range c.do {
			do(tn)
		}
		v := tn.look()
		values, absent := v.expect(slacks{}).possible(v.series[0], at)
		o := texts(values, (*Value).json)
		slices.Sort(o)
		if absent {
			o = append(o, "")
		}
		if o.String() != c.want {
			t.Errorf("%s: %s, want %s", name, o, c.want)
		}
	}
}

// TestViewWhileWriting checks that a query may see the state before and after the writes that were
// in flight while it ran, and nothing that was sent later.
func TestViewWhileWriting(t *testing.T) {
	tn := testTenant()
	write := func(v float64) {
		s := []Sample{{0, 1000, &Value{V: v}}}
		tn.begin(s)
		tn.finish(s, Acknowledged, "")
	}
	write(1)
	v := tn.look()
	write(2)
	e := v.expect(slacks{})
	write(3)
	values, absent := e.possible(v.series[0], 1000)
	if got := texts(values, (*Value).json).String(); got != "1 or 2" || absent {
		t.Errorf("possible are %s, absent %t; want 1 or 2", got, absent)
	}
}

// TestComparisons checks that every kind of difference in a response is found.
func TestComparisons(t *testing.T) {
	tn := testTenant()
	samples := []Sample{{0, 1000, &Value{V: 1}}, {0, 2000, &Value{V: 2}}, {0, 3000, &Value{V: math.Float64frombits(value.StaleNaN)}}}
	tn.begin(samples)
	tn.finish(samples, Acknowledged, "")
	ls := tn.series[0].labels
	points := func(p ...point) []result { return []result{{ls, p}} }
	ms := parse(`{series="a"}`)
	for name, c := range map[string]struct {
		got  []result
		want string // part of the expected text; empty means no difference
	}{
		"right":       {points(point{1000, "1", nil}, point{2000, "2", nil}), ""},
		"short":       {points(point{1000, "1", nil}), ": 2"},
		"empty":       {nil, ": "},
		"wrong value": {points(point{1000, "1", nil}, point{2000, "3", nil}), ": 2"},
		"twice":       {points(point{1000, "1", nil}, point{1000, "1", nil}, point{2000, "2", nil}), "once"},
		"more":        {points(point{1000, "1", nil}, point{1500, "1", nil}, point{2000, "2", nil}), ": nothing"},
		"a marker":    {points(point{1000, "1", nil}, point{2000, "2", nil}, point{3000, "stale", nil}), ": nothing"},
		"unknown":     {append(points(point{1000, "1", nil}, point{2000, "2", nil}), result{tn.series[1].labels, nil}), "no such series"},
	} {
		v := tn.look()
		d := v.expect(slacks{}).raw(c.got, ms, 0, 5000, jsonText)
		if (d == nil) != (c.want == "") || d != nil && !strings.Contains(d.Expected, c.want) {
			t.Errorf("%s: %v", name, d)
		}
	}
	v := tn.look()
	e := v.expect(slacks{})
	for _, c := range []struct {
		at   int64
		over bool
		want string
	}{{1500, false, "1"}, {2000, false, "2"}, {3000, false, "nothing"}, {3000, true, "2"}, {999, false, "nothing"}, {500_000, false, "nothing"}} {
		if got := e.last(v.series[0], c.at-lookback, c.at, c.over).String(); got != c.want {
			t.Errorf("last at %d, staleness markers skipped %t: %s, want %s", c.at, c.over, got, c.want)
		}
	}
	if least, most := e.count(v.series[0], 1000, 3000); least != 1 || most != 1 {
		t.Errorf("count: %d to %d, want 1", least, most)
	}
}

// TestRetentionOfTheModel checks that around the cut a sample may be missing, that before the cut
// it must be missing, and that a sample that was once before the cut may be gone.
func TestRetentionOfTheModel(t *testing.T) {
	tn := testTenant()
	now := time.Now()
	old, cut, young := now.Add(-3*time.Hour).UnixMilli(), now.Add(-2*time.Hour).UnixMilli(), now.Add(-time.Hour).UnixMilli()
	samples := []Sample{{0, old, &Value{V: 1}}, {0, cut, &Value{V: 2}}, {0, young, &Value{V: 3}}}
	tn.begin(samples)
	tn.finish(samples, Acknowledged, "")
	s := slacks{clock: time.Minute}
	check := func(when string, want ...string) {
		t.Helper()
		v := tn.look()
		e := v.expect(s)
		for i, at := range []int64{old, cut, young} {
			values, absent := e.possible(v.series[0], at)
			o := texts(values, (*Value).json)
			if absent {
				o = append(o, "")
			}
			if o.String() != want[i] {
				t.Errorf("%s: sample %d: %s, want %s", when, i, o, want[i])
			}
		}
	}
	check("unlimited", "1", "2", "3")
	tn.setRetention(2*time.Hour, s.clock)
	check("two hours", "nothing", "2 or nothing", "3")
	tn.setRetention(0, s.clock)
	check("unlimited again", "1 or nothing", "2 or nothing", "3")
	tn.proven(0, old, samples[0].value) // a response had it, read from a copy
	tn.proven(0, young, samples[2].value)
	check("unlimited again, read once", "1 or nothing", "2 or nothing", "3")
	tn.proven(0, old, nil)
	check("unlimited again, not read", "nothing", "2 or nothing", "3")
}
