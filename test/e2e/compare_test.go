package e2e

import (
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// result is a vector or matrix of the query API, by labels.
type result struct {
	kind   string
	scalar json.RawMessage // the JSON of a scalar or string
	series map[string]points
}

type points struct {
	Value      json.RawMessage
	Histogram  json.RawMessage
	Values     json.RawMessage
	Histograms json.RawMessage
}

// parseResult decodes the data of a query. Series are keyed by their labels as JSON,
// whose keys Go sorts.
func parseResult(data json.RawMessage) (result, error) {
	var d struct {
		ResultType string
		Result     json.RawMessage
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return result{}, err
	}
	r := result{kind: d.ResultType, series: map[string]points{}}
	if d.ResultType == "scalar" || d.ResultType == "string" {
		r.scalar = d.Result
		return r, nil
	}
	var list []struct {
		Metric map[string]string
		points
	}
	if err := json.Unmarshal(d.Result, &list); err != nil {
		return r, err
	}
	for _, s := range list {
		key, err := json.Marshal(s.Metric)
		if err != nil {
			return r, err
		}
		if _, twice := r.series[string(key)]; twice {
			return r, fmt.Errorf("series %s appears twice in the response", key)
		}
		r.series[string(key)] = s.points
	}
	return r, nil
}

// sameResult compares the data of two responses to a query. Raw samples must be
// exactly equal; computed values may differ in the last digits, since sums depend on
// the order of series.
func sameResult(got, want json.RawMessage, raw bool) error {
	g, err := parseResult(got)
	if err != nil {
		return err
	}
	w, err := parseResult(want)
	if err != nil {
		return err
	}
	if g.kind != w.kind || string(g.scalar) != string(w.scalar) {
		return fmt.Errorf("%s %s, want %s %s", g.kind, g.scalar, w.kind, w.scalar)
	}
	for key, p := range w.series {
		q, ok := g.series[key]
		if !ok {
			return fmt.Errorf("series %s is missing (%d of %d series)", key, len(g.series), len(w.series))
		}
		for _, pair := range [][2]json.RawMessage{{q.Value, p.Value}, {q.Values, p.Values}, {q.Histogram, p.Histogram}, {q.Histograms, p.Histograms}} {
			if string(pair[0]) == string(pair[1]) {
				continue
			}
			if raw || !near(pair[0], pair[1]) {
				return fmt.Errorf("series %s: %.300s, want %.300s", key, pair[0], pair[1])
			}
		}
	}
	for key := range g.series {
		if _, ok := w.series[key]; !ok {
			return fmt.Errorf("unexpected series %s", key)
		}
	}
	return nil
}

// near reports whether two JSON texts are equal except for numbers in strings that differ
// by a relative error of at most a billionth.
func near(a, b json.RawMessage) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	return nearValue(x, y)
}

func nearValue(x, y any) bool {
	switch x := x.(type) {
	case []any:
		y, ok := y.([]any)
		return ok && slices.EqualFunc(x, y, nearValue)
	case map[string]any:
		y, ok := y.(map[string]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for k, v := range x {
			if other, ok := y[k]; !ok || !nearValue(v, other) {
				return false
			}
		}
		return true
	case string:
		y, ok := y.(string)
		if !ok {
			return false
		}
		f, err1 := strconv.ParseFloat(x, 64)
		g, err2 := strconv.ParseFloat(y, 64)
		if err1 != nil || err2 != nil {
			return x == y
		}
		return f == g || math.IsNaN(f) && math.IsNaN(g) || math.Abs(f-g) <= 1e-9*max(math.Abs(f), math.Abs(g))
	}
	return x == y
}

// sameQuery sends a query to both and compares the responses.
func sameQuery(t testing.TB, got, want client, endpoint string, form url.Values, raw bool) error {
	t.Helper()
	w, err := want.data(t, endpoint, form)
	if err != nil {
		return err
	}
	g, err := got.data(t, endpoint, form)
	if err != nil {
		return err
	}
	if err := sameResult(g, w, raw); err != nil {
		return fmt.Errorf("%s: %s: %w", got.name, form.Get("query"), err)
	}
	return nil
}

// sameList compares responses that are lists, whose order Prometheus does not
// guarantee.
func sameList(t testing.TB, got, want client, endpoint string, form url.Values) error {
	t.Helper()
	var lists [2][]string
	for i, c := range []client{got, want} {
		data, err := c.data(t, endpoint, form)
		if err != nil {
			return err
		}
		var items []any
		if err := json.Unmarshal(data, &items); err != nil {
			return err
		}
		for _, item := range items {
			text, err := json.Marshal(item)
			if err != nil {
				return err
			}
			lists[i] = append(lists[i], string(text))
		}
		slices.Sort(lists[i])
	}
	for i := range lists {
		for _, item := range lists[i] {
			if _, ok := slices.BinarySearch(lists[1-i], item); !ok {
				return fmt.Errorf("%s %v: only the response of %s has %s", endpoint, form, []client{got, want}[i].name, item)
			}
		}
	}
	if len(lists[0]) != len(lists[1]) {
		return fmt.Errorf("%s %v: %d items, want %d", endpoint, form, len(lists[0]), len(lists[1]))
	}
	return nil
}

// names decodes a JSON list of strings, and removes blank ones.
func names(data json.RawMessage) ([]string, error) {
	var list []string
	err := json.Unmarshal(data, &list)
	return slices.DeleteFunc(list, func(s string) bool { return strings.TrimSpace(s) == "" }), err
}
