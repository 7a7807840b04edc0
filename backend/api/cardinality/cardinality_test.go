package cardinality

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/tsdb/index"

	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/policies/limits"
)

// FuzzParameters checks that parameters are either rejected with a ParameterError, or within their
// limits.
func FuzzParameters(f *testing.F) {
	for _, s := range []string{
		"", "limit=500&count_method=active", "limit=501", "limit=-1", "limit=99999999999999999999", "selector=up%7Ba=%22b%22%7D", "selector=up&selector=down",
		"selector=%7B%22%C3%A4%22=%22b%22%7D", "label_names[]=a&label_names[]=b&label_names[]=a", "label_names[]=", "label_names[]=%FF", "count_method=all", "selector=up%7B",
	} {
		f.Add(s)
	}
	a := New(Options{Parser: func(*http.Request) parser.Parser { return parser.NewParser(parser.Options{}) }})
	f.Fuzz(func(t *testing.T, query string) {
		form, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		p, err := a.parse(&http.Request{Form: form})
		var wrong *ParameterError
		if err != nil {
			if !errors.As(err, &wrong) || err.Error() == "" {
				t.Errorf("%q: %v is not a ParameterError", query, err)
			}
			return
		}
		if p.limit < 0 || p.limit > maxLimit {
			t.Errorf("%q: limit %d", query, p.limit)
		}
		if form.Get("selector") != "" && len(p.selector) == 0 && strings.Trim(form.Get("selector"), " \t\r\n{},#") != "" {
			t.Errorf("%q: no matchers", query)
		}
		for i, name := range p.names {
			if name == "" || !utf8.ValidString(name) || slices.Contains(p.names[:i], name) {
				t.Errorf("%q: label names %q", query, p.names)
			}
		}
		if p.active != (form.Get("count_method") == "active") {
			t.Errorf("%q: active %v", query, p.active)
		}
		if _, err := statusLimit(form); err != nil && !errors.As(err, &wrong) {
			t.Errorf("%q: %v is not a ParameterError", query, err)
		}
	})
}

// TestCountsLikePostings compares the counts of random series with those of Prometheus' own
// index.
func TestCountsLikePostings(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		c, p, n := newCounter(nil, nil), index.NewMemPostings(), 1+random.IntN(300)
		for i := range n {
			ls := labels.FromStrings("__name__", fmt.Sprint("m", random.IntN(5)), "i", fmt.Sprint(i), "job", fmt.Sprint(random.IntN(1+i)))
			if err := c.add(ls); err != nil {
				t.Fatal(err)
			}
			p.Add(1, ls) // the index does not need distinct references to count
		}
		want := p.Stats("__name__", 10000, labels.SizeOfLabels)
		s := statistics{series: newTop(10000), values: newTop(10000), memory: newTop(10000), pairs: newTop(10000)}
		s.add(c)
		if s.labelPairs != want.NumLabelPairs || c.series != uint64(n) {
			t.Fatalf("%d pairs of %d series, want %d of %d", s.labelPairs, c.series, want.NumLabelPairs, n)
		}
		same(t, s.series.stats(), want.CardinalityMetricsStats)
		same(t, s.values.stats(), want.CardinalityLabelStats)
		same(t, s.memory.stats(), want.LabelValueStats)
		same(t, s.pairs.stats(), want.LabelValuePairsStats)
	}
}

func same(t *testing.T, got []stat, want []index.Stat) {
	t.Helper()
	counts := map[string]uint64{}
	for _, w := range want {
		counts[w.Name] = w.Count
	}
	if len(got) != len(want) {
		t.Fatalf("%d entries, want %d", len(got), len(want))
	}
	for i, g := range got {
		if counts[g.Name] != g.Value || g.Value != want[i].Count {
			t.Fatalf("%v, want %v with %d", g, want[i], counts[g.Name])
		}
	}
}

// TestTop checks that a list has the entries with the highest counts, ties in alphabetical order,
// whatever the order of the pushes, and never keeps more than twice its limit.
func TestTop(t *testing.T) {
	for limit := range 8 {
		var entries []entry
		for i := range 40 {
			entries = append(entries, entry{name: fmt.Sprintf("n%02d", i), count: uint64(i / 4)})
		}
		all := newTop(40)
		for _, e := range entries {
			all.push(e)
		}
		want := fmt.Sprint(all.list()[:limit])
		if first := all.list()[:5]; fmt.Sprint(first) != "[{n36  9} {n37  9} {n38  9} {n39  9} {n32  8}]" {
			t.Fatalf("the first five are %v", first)
		}
		for range 20 {
			rand.Shuffle(len(entries), func(i, k int) { entries[i], entries[k] = entries[k], entries[i] })
			some := newTop(limit)
			for _, e := range entries {
				if some.push(e); len(some.kept) > 2*limit {
					t.Fatalf("limit %d: keeps %d", limit, len(some.kept))
				}
			}
			if got := fmt.Sprint(some.list()); got != want {
				t.Fatalf("limit %d: %s, want %s", limit, got, want)
			}
		}
	}
}

// TestCounterMemory checks that counting ends at the memory limit, and that a counter of given names
// does not count other names.
func TestCounterMemory(t *testing.T) {
	account := memory.NewAccount(1<<30, nil)
	h := account.Begin(memory.Request{Tenant: "a", Limit: 1 << 20})
	defer h.Close()
	all, some := newCounter(h, nil), newCounter(h, []string{"job"})
	var err error
	for i := 0; i < 1<<20 && err == nil; i++ {
		err = all.add(labels.FromStrings("i", fmt.Sprint(i), "job", "x"))
	}
	var exceeded *limits.Exceeded
	if !errors.As(err, &exceeded) || len(all.names["i"].values) > 1<<20/valueBytes+1 {
		t.Errorf("%v after %d values", err, len(all.names["i"].values))
	}
	for i := range 1000 {
		if err := some.add(labels.FromStrings("i", fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	if len(some.names) != 1 || some.series != 1000 || some.names["job"].series != 0 {
		t.Errorf("counted %d names of %d series", len(some.names), some.series)
	}
}
