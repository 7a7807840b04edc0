package schema

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
)

func contains(err error, want string) bool { return strings.Contains(err.Error(), want) }

// testPage is a page, given by its series.
type testPage struct {
	series     []map[string]string
	mint, maxt int64
}

// columns passes the columns of a page to a SummariesBuilder.
func (p *testPage) columns(yield func(string, []string, bool)) {
	values := map[string]map[string]bool{}
	have := map[string]int{}
	for _, s := range p.series {
		for n, v := range s {
			if values[n] == nil {
				values[n] = map[string]bool{}
			}
			values[n][v] = true
			have[n]++
		}
	}
	for _, n := range sortedKeys(values) {
		yield(n, sortedKeys(values[n]), have[n] < len(p.series))
	}
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func summariesOf(t testing.TB, c *Codec, pages []testPage) *Summaries {
	t.Helper()
	b := NewSummariesBuilder()
	for i := range pages {
		b.AddPage(len(pages[i].series), pages[i].mint, pages[i].maxt, pages[i].columns)
	}
	s, err := c.DecodeSummaries(b.Encode(c))
	if err != nil {
		t.Fatal(err)
	}
	if s.Len() != len(pages) {
		t.Fatalf("%d pages, want %d", s.Len(), len(pages))
	}
	return s
}

func (p *testPage) matches(ms []*labels.Matcher) bool {
	return slices.ContainsFunc(p.series, func(s map[string]string) bool {
		return !slices.ContainsFunc(ms, func(m *labels.Matcher) bool { return !m.Matches(s[m.Name]) })
	})
}

var matcherValues = []string{"", "v-00001", "v-00777", "V-00001", "v-00", "x", "v-00001|v-00002", "v-0000[1-3]", "v-00.*", ".*", ".+", "v-001.+", "(?i)V-00001", "(?i)v-00.*",
	"()", "|v-00003", "a.*|v-.*", "w.*", "u.*", "[^v].*", ".*7", "v-(00001|00777)", "(?i:V)-00002", "v-00001.*|", "ſ.*", "(?i)k.*", "K", "k", "\xff", "v.*0|x"}

// TestNoPageIsMissed compares MayMatch with the series of pages, for matchers of all types, and pages with
// few, many or long values and with series that lack a label.
func TestNoPageIsMissed(t *testing.T) {
	const seed = 9
	c := testCodec(t)
	var maybe, really int
	for round := range 40 {
		rng := rand.New(rand.NewPCG(seed, uint64(round)))
		var pages []testPage
		for range 1 + rng.IntN(4) {
			p := testPage{mint: rng.Int64N(lastMillis)}
			p.maxt = p.mint + rng.Int64N(lastMillis-p.mint+1)
			distinct := []int{1, 3, 60, 200, 1500}
			n := 1 + rng.IntN(300)
			few, many := distinct[rng.IntN(3)], distinct[3+rng.IntN(2)]
			low := rng.IntN(900)
			for range n {
				s := map[string]string{"const": "v-00001", "few": fmt.Sprintf("v-%05d", rng.IntN(few)), "many": fmt.Sprintf("v-%05d", low+rng.IntN(many))}
				if rng.IntN(3) == 0 {
					s["some"] = fmt.Sprintf("v-%05d", rng.IntN(many))
				}
				if rng.IntN(50) == 0 {
					s["odd"] = matcherValues[1+rng.IntN(len(matcherValues)-1)]
				}
				s["long"] = strings.Repeat("v", 900) + fmt.Sprint(rng.IntN(9))
				p.series = append(p.series, s)
			}
			pages = append(pages, p)
		}
		s := summariesOf(t, c, pages)
		for range 600 {
			var ms []*labels.Matcher
			for range 1 + rng.IntN(2) {
				name := []string{"const", "few", "many", "some", "odd", "long", "none"}[rng.IntN(7)]
				value := matcherValues[rng.IntN(len(matcherValues))]
				if name == "long" {
					value = strings.Repeat("v", 900) + fmt.Sprint(rng.IntN(12))
				}
				ms = append(ms, labels.MustNewMatcher(labels.MatchType(rng.IntN(4)), name, value))
			}
			for i := range pages {
				got, want := s.MayMatch(i, 0, lastMillis, ms), pages[i].matches(ms)
				if want && !got {
					t.Fatalf("seed %d, round %d: page %d has a series that matches %v, but MayMatch() = false", seed, round, i, ms)
				}
				if got {
					maybe++
				}
				if want {
					really++
				}
			}
		}
	}
	t.Logf("MayMatch returned true %d times; pages matched %d times", maybe, really)
	if maybe > really*13/10 {
		t.Errorf("MayMatch returned true %d times, but pages matched only %d times", maybe, really)
	}
}

func TestSummariesOfTime(t *testing.T) {
	c := testCodec(t)
	s := summariesOf(t, c, []testPage{{series: []map[string]string{{"a": "b"}}, mint: 1000, maxt: 2000}, {series: []map[string]string{{}}, mint: lastMillis, maxt: lastMillis}})
	for _, k := range []struct {
		page       int
		mint, maxt int64
		want       bool
	}{{0, 0, 999, false}, {0, 0, 1000, true}, {0, 2000, 5000, true}, {0, 2001, 5000, false}, {0, 1500, 1500, true}, {1, lastMillis, 1 << 60, true}, {1, 0, lastMillis - 1, false}} {
		if got := s.MayMatch(k.page, k.mint, k.maxt, nil); got != k.want {
			t.Errorf("page %d in %d to %d: %v", k.page, k.mint, k.maxt, got)
		}
	}
}

// TestSummariesAndTheName checks that matchers of the metric name do not exclude pages, which may lack the
// label because they are of one metric.
func TestSummariesAndTheName(t *testing.T) {
	c := testCodec(t)
	s := summariesOf(t, c, []testPage{{series: []map[string]string{{"a": "b"}}, maxt: 1}})
	for _, m := range []*labels.Matcher{labels.MustNewMatcher(labels.MatchEqual, "__name__", "up"), labels.MustNewMatcher(labels.MatchRegexp, "__name__", "u.+"), labels.MustNewMatcher(labels.MatchNotEqual, "__name__", "")} {
		if !s.MayMatch(0, 0, 1, []*labels.Matcher{m}) {
			t.Errorf("%s excludes a page", m)
		}
	}
}

// TestFilter checks the false positive rate of the filter of a full page.
func TestFilter(t *testing.T) {
	var values []string
	for i := range 2048 {
		values = append(values, fmt.Sprintf("pod-%d", i*7))
	}
	c := columnSummary{low: "", high: "\xff", bloom: bloomOf(values)}
	for _, v := range values {
		if !c.mayHave(v) {
			t.Fatalf("%s is not in its filter", v)
		}
	}
	wrong, n := 0, 100_000
	for i := range n {
		if c.mayHave(fmt.Sprintf("other-%d", i)) {
			wrong++
		}
	}
	t.Logf("filter of %d bytes for %d values: %.2f %% false", len(c.bloom), len(values), 100*float64(wrong)/float64(n))
	if wrong > n*2/100 {
		t.Errorf("%d of %d absent values pass the filter", wrong, n)
	}
}

// TestSummariesSize checks the size of the summaries of a metric with 200,000 series. A metric with a
// million series has 489 pages, and their summaries should have less than 1 MiB.
func TestSummariesSize(t *testing.T) {
	c := testCodec(t)
	rng := rand.New(rand.NewPCG(3, 0))
	const pods, perPage = 20_000, 2048
	b := NewSummariesBuilder()
	n := 0
	for at := 0; at < 200_000; at += perPage {
		p := testPage{mint: 0, maxt: lastMillis}
		for i := at; i < at+perPage; i++ {
			pod := i / 50 // sorted by labels: a page has some 40 pods
			p.series = append(p.series, map[string]string{
				"container": fmt.Sprintf("app-%d", pod/200), "instance": fmt.Sprintf("10.0.%d.%d:8080", pod/256, pod%256), "job": "apps",
				"le": fmt.Sprint(i % 50), "namespace": fmt.Sprintf("team-%d", pod/1000), "pod": fmt.Sprintf("app-%d-%x", pod/200, uint32(pod)*2654435761), "zone": string(rune('a' + rng.IntN(3))),
			})
		}
		b.AddPage(len(p.series), p.mint, p.maxt, p.columns)
		n++
	}
	cell := b.Encode(c)
	t.Logf("%d pages: %d bytes, %d for each", n, len(cell), len(cell)/n)
	if len(cell)/n > 1<<20/489 {
		t.Errorf("summaries of %d pages have %d bytes", n, len(cell))
	}
}
