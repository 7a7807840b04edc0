package querier

import (
	"fmt"
	"math/rand"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/switches"
)

var withExperimental = parser.Options{EnableExperimentalFunctions: true, EnableBinopFillModifiers: true}

// labelBed returns a bed with series of several metrics with labels of several lengths, and the
// largest size in bytes of the labels of a series.
func labelBed(t testing.TB) (*bed, int64) {
	t.Helper()
	b := newBed(t)
	b.engine = NewEngine(switches.Only(NewParser(withExperimental, MaxOperators)), nil, prometheus.NewRegistry())
	var largest int64
	var all []series.WithChunks
	add := func(v float64, ls ...string) {
		chunks, err := series.Encode([]series.Sample{{T: b.now.Add(-time.Minute).UnixMilli(), V: v}})
		if err != nil {
			t.Fatal(err)
		}
		l := labels.FromStrings(ls...)
		largest = max(largest, int64(l.ByteSize()))
		all = append(all, series.WithChunks{Labels: l, Chunks: chunks})
	}
	for i := range 4 {
		pod := fmt.Sprintf("pod-%d-%s", i, strings.Repeat("x", 10*i))
		add(float64(i)/3, "__name__", "m", "job", "j", "instance", fmt.Sprint(i), "pod", pod, "ns", strings.Repeat("n", 40-10*i))
		add(-5e-324, "__name__", "n", "job", "j", "instance", fmt.Sprint(i), "zone", strings.Repeat("z", 80), "a_b", "c")
		add(1, "__name__", "target_info", "job", "j", "instance", fmt.Sprint(i), "version", strings.Repeat("v", 70), "os", "linux")
		add(1, "__name__", "other_info", "job", "j", "instance", fmt.Sprint(i), "cluster", strings.Repeat("c", 75), "disk", "ssd")
		for le := range 3 {
			add(float64(le+1), "__name__", "h_bucket", "instance", fmt.Sprint(i), "le", fmt.Sprint(le))
		}
	}
	b.source.data["a"] = all
	return b, largest
}

func largestLabels(t testing.TB, res *promql.Result) int64 {
	t.Helper()
	v, ok := res.Value.(promql.Vector)
	if !ok {
		t.Fatalf("result has type %T", res.Value)
	}
	var most int64
	for _, s := range v {
		most = max(most, int64(s.Metric.ByteSize()))
	}
	return most
}

func boundOf(t testing.TB, text string) *labelBound {
	t.Helper()
	e, err := parser.NewParser(withExperimental).ParseExpr(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return newLabelBound(e)
}

func nestedJoins(levels int) string {
	q := `label_replace(m, "l0", "0123456789", "", "")`
	for i := range levels {
		q = fmt.Sprintf(`label_join(%s, "l%d", ""%s)`, q, i+1, strings.Repeat(fmt.Sprintf(`, "l%d"`, i), 10))
	}
	return q
}

func TestLabelBound(t *testing.T) {
	for _, tt := range []struct {
		text  string
		times int64 // maximum ratio of the bound to the actual size
	}{
		{`label_replace(m, "short", "$1", "pod", "(.*)")`, 3},
		{`label_replace(m, "short", "${1}", "pod", "(.*)")`, 3},
		{`label_replace(m, "short", "$1-$1-$$-$1", "pod", "(.*)")`, 3},
		{`label_replace(m, "short", "${name}.$name.$", "pod", "(?P<name>.*)")`, 4},
		{`label_replace(m, "short", "${a-b}$é${", "pod", "(.*)")`, 6},
		{`label_replace(m, "pod", "$1", "pod", "pod-(.*)")`, 4},
		{`label_replace(m, "pod", "x", "pod", "nothing")`, 4},
		{`label_replace(m, "pod", "x", "job", ".*")`, 4},
		{`label_replace(m, "pod", "x", "none", "")`, 4},
		{`label_replace(m, "x", "` + strings.Repeat("y", 3000) + `", "", "")`, 2},
		{`label_replace(m, "z", "` + strings.Repeat("$1", 3000) + `", "pod", "(.*)")`, 4},
		{`label_replace(label_replace(m, "a", "$1$1", "pod", "(.*)"), "b", "$1$1$1", "a", "(.*)")`, 4},
		{`label_replace(label_replace(m, "a", "$1$1", "pod", "(.*)"), "pod", "", "", "")`, 4},
		{`label_join(m, "all", "-", "job", "instance", "pod", "ns")`, 3},
		{`label_join(m, "all", "", "none", "neither")`, 4},
		{`label_join(m, "all", "` + strings.Repeat("s", 1000) + `", "job", "pod", "ns")`, 2},
		{`label_join(m, "pod", ",", "pod", "pod", "pod")`, 3},
		{`label_join(label_join(m, "pod", ",", "pod", "pod", "pod"), "pod", "", "pod", "pod", "pod")`, 4},
		{`label_join(vector(1), "a", "", "b")`, 100},
		{`label_join(label_replace(vector(1), "b", "0123456789", "", ""), "a", "", "b", "b", "b", "b", "b", "b", "b", "b", "b", "b")`, 4},
		{`label_join(absent(m{x="` + strings.Repeat("y", 1000) + `"}), "a", "", "x", "x", "x")`, 2},
		{`label_join(sum by (pod) (m), "a", "", "pod", "pod")`, 5},
		{`sum by (a) (label_join(m, "a", "", "pod", "pod", "pod", "pod", "pod", "pod"))`, 5},
		{`sum without (pod) (label_join(m, "a", "", "pod", "pod"))`, 4},
		{`label_join(m, "m1", "", "job", "instance", "pod", "ns", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "o", "p")`, 4},
		{`topk(scalar(label_join(m{instance="1"}, "a", "", "pod", "pod")) + 2, m)`, 5},
		{`count_values("v", m)`, 40},
		{`count_values("v", n)`, 2},
		{`count_values without () ("v", n)`, 3},
		{`count_values by (zone) ("zone", n)`, 3},
		{`label_join(count_values("v", n), "w", "", "v", "v", "v")`, 2},
		{`m * on (job, instance) group_left (zone) n`, 3},
		{`m * on (job, instance) group_left (zone, a_b, none) n`, 3},
		{`n * on (job, instance) group_right (zone, a_b) m`, 3},
		{`m * on (job, instance) group_left (z) label_join(n, "z", "", "zone", "zone", "zone")`, 3},
		{`label_join(m * on (job, instance) group_left (zone) n, "x", "", "zone", "zone", "pod", "pod")`, 3},
		{`m * on (job, instance) group_left (zone) (n * on (job, instance) group_left (version) target_info)`, 4},
		{`(m * on (job, instance) group_left (zone) n) * on (job, instance) group_left (version) target_info`, 4},
		{`label_join(m, "a", "", "pod", "pod") or label_join(n, "a", "", "zone", "zone", "zone")`, 4},
		{`label_join(m or n, "a", "", "pod", "zone")`, 4},
		{`m and on () label_join(n, "a", "", "zone")`, 4},
		{`m + on (job, instance) fill_left (0) label_join(n{instance="1"}, "job", "", "zone", "zone")`, 4},
		{`max_over_time(label_join(m, "a", "", "pod", "pod")[5m:1m])`, 3},
		{`-(label_join((m), ("a"), (""), ("pod"), "pod"))`, 3},
		{`label_join(m @ end(), "a", "", "pod", "pod")`, 3},
		{`info(m)`, 3},
		{`info(m, {__name__="other_info"})`, 3},
		{`info(m, {__name__=~"target_info|other_info"})`, 3},
		{`label_join(info(m, {__name__=~"target_info|other_info"}), "x", "", "cluster", "cluster", "version")`, 4},
		{`histogram_quantiles(h_bucket, "quantile", 0.123456789012345678, 0.5)`, 5},
		{nestedJoins(1), 2},
		{nestedJoins(3), 2},
		{nestedJoins(4), 2},
	} {
		b, largest := labelBed(t)
		res := b.instant(b.as("a"), t, tt.text)
		if res.Err != nil {
			t.Errorf("%s: %v", tt.text, res.Err)
			continue
		}
		bound := boundOf(t, tt.text)
		if bound == nil {
			t.Errorf("%s: newLabelBound = nil", tt.text)
			continue
		}
		got, reached := bound.bytes(largest), largestLabels(t, res)
		if got < reached || got > tt.times*max(reached, 40) {
			t.Errorf("%.100s: bound = %d, want %d, which the largest series has, to %d", tt.text, got, reached, tt.times*max(reached, 40))
		}
	}
}

// TestLabelBoundShort checks that the bound of an ordinary label_replace is
// about twice the size of the labels.
func TestLabelBoundShort(t *testing.T) {
	got := boundOf(t, `label_replace(x, "short", "$1", "pod", "(.*)")`).bytes(10_000)
	if got < 20_000 || got > 20_020 {
		t.Errorf("bound = %d, want about twice the labels", got)
	}
	joined := boundOf(t, `label_join(x, "all", "/", "a", "b", "c", "d")`).bytes(10_000)
	if joined < 20_000 || joined > 20_020 {
		t.Errorf("bound of a join = %d, want about twice the labels: together they are not larger than those of the series", joined)
	}
}

// TestLabelBoundAtLeast checks the bound of expressions that repeat labels: it must be at least the
// size that a series reaches if all its text is in the repeated label.
func TestLabelBoundAtLeast(t *testing.T) {
	names := ""
	for i := range maxTerms + 4 {
		names += fmt.Sprintf(`, "n%d"`, i)
	}
	for _, tt := range []struct {
		text        string
		least, most int64
	}{
		{`label_join(label_replace(x, "pod", "", "job", ""), "z", "", "pod", "pod")`, 3, 4},
		{`label_join(label_replace(x, "pod", "", "job", "a|b"), "z", "", "pod", "pod")`, 3, 4},
		{`label_join(label_replace(x, "pod", "", "job", ".*"), "z", "", "pod", "pod")`, 1, 2},
		{`label_join(label_replace(x, "pod", "", "", ""), "z", "", "pod", "pod")`, 1, 2},
		{`label_join(x, "a", "", "p", "p", "p") * on (i) group_right (a) y`, 4, 6},
		{`y * on (i) group_left (a) label_join(x, "a", "", "p", "p", "p")`, 4, 6},
		{`label_join(info(sum by (job) (x)), "z", "", "data", "data", "data")`, 5, 6},
		{`label_join(info(x), "z", "", "data", "data", "data")`, 5, 9},
		{`label_join(x, "z", ""` + names + names + names + `)`, 4, 5},
		{`label_join(label_join(x, "z", ""` + names + names + `), "y", "", "z", "z", "z")`, 13, 14},
		{`label_join(x or label_join(y, "a", "", "p", "p", "p"), "z", "", "a")`, 7, 9},
		{`label_join(label_join(y, "a", "", "p", "p", "p") or x, "z", "", "a")`, 7, 9},
		{`label_join(sum by (p) (x or label_join(y, "p", "", "q", "q", "q")), "z", "", "p")`, 6, 8},
		{`label_join(sum by (p, q) (x), "z", "", "p", "q")`, 2, 3},
		{`label_join(sum by (q) (x), "z", "", "p", "p", "p")`, 1, 2},
	} {
		const largest = 1_000_000 // so that the text of the query is negligible
		if got := boundOf(t, tt.text).bytes(largest) / largest; got < tt.least || got > tt.most {
			t.Errorf("%s: bound = %d times the labels, want %d to %d", tt.text, got, tt.least, tt.most)
		}
	}
}

// TestLabelBoundBombs checks the bound of short expressions that, without one, use up the memory of
// the process.
func TestLabelBoundBombs(t *testing.T) {
	const large = 10 << 20
	for text, least := range map[string]int64{
		nestedJoins(6):  10_000_000,
		nestedJoins(30): maxLabelBytes,
		`label_replace({__name__=~"m1"}, "z", "` + strings.Repeat("$1", 3000) + `", "pod", "(.*)")`: 300_000,
		`count(` + nestedJoins(6) + `)`:                       10_000_000,
		`topk(scalar(` + nestedJoins(6) + `), m)`:             10_000_000,
		`absent(` + nestedJoins(6) + `)`:                      10_000_000,
		`up unless on () (` + nestedJoins(6) + `)`:            10_000_000,
		`max_over_time((` + nestedJoins(6) + `)[1h:1m])`:      10_000_000,
		`sum by (job) (` + nestedJoins(6) + `)`:               10_000_000,
		`label_replace(` + nestedJoins(6) + `,"l6","","","")`: 10_000_000,
	} {
		got := boundOf(t, text).bytes(100)
		if got < least || got > max(large*2, least) {
			t.Errorf("%.80s: bound = %d", text, got)
		}
	}
	h := boundOf(t, `label_join(count_values("v", x), "w", "", "v", "v")`)
	h.histogram = 50_000
	if got := h.bytes(100); got < 150_000 || got > 160_000 {
		t.Errorf("bound with histograms of 50,000 bytes = %d", got)
	}
}

func TestNoLabelsMade(t *testing.T) {
	for _, text := range []string{
		`up`, `1`, `"a"`, `sum by (a) (rate(up[5m]))`, `topk(3, up)`, `m / on (job) n`, `m * on (job) group_left () n`, `m or n and o unless p`,
		`absent(up{a="b"})`, `absent_over_time(up{a="b"}[5m])`, `histogram_quantile(0.9, sum by (le) (h))`, `vector(time())`,
		`max_over_time(rate(up[5m])[1h:1m])`, `sort_by_label(up, "a")`, `quantile(0.5, up)`, `-up`, `label_replace_x{count_values="a"}`,
	} {
		if b := boundOf(t, text); b != nil {
			t.Errorf("%s: bound = %d, want none", text, b.bytes(100))
		}
	}
}

// labelGenerator generates nested expressions that create labels.
type labelGenerator struct{ *rand.Rand }

func (g labelGenerator) name() string {
	return []string{"job", "instance", "pod", "ns", "zone", "a", "b", "c", "version", "v"}[g.Intn(10)]
}

// other returns a label name that is not used for matching series.
func (g labelGenerator) other() string {
	for {
		if name := g.name(); name != "instance" {
			return name
		}
	}
}

func (g labelGenerator) expr(depth int) string {
	if depth == 0 {
		return []string{"m", "n", "target_info", `m{instance="3"}`, "vector(1)"}[g.Intn(5)]
	}
	sub := func() string { return g.expr(g.Intn(depth)) }
	switch g.Intn(9) {
	case 0, 1:
		templates := []string{"$1", "$1$2", "x$1-${2}", "$$", "text", "", "${1}$1$1"}
		patterns := []string{"(.*)", "((.*))", "(.)(.*)", "(a|j).*", "x"}
		return fmt.Sprintf(`label_replace(%s, %q, %q, %q, %q)`, sub(), g.name(), templates[g.Intn(len(templates))], g.name(), patterns[g.Intn(len(patterns))])
	case 2, 3:
		q := fmt.Sprintf(`label_join(%s, %q, %q`, sub(), g.name(), []string{"", "-", "<separator>"}[g.Intn(3)])
		for range 1 + g.Intn(4) {
			q += fmt.Sprintf(", %q", g.name())
		}
		return q + ")"
	case 4:
		return fmt.Sprintf(`count_values by (%s, %s) (%q, %s)`, g.name(), g.name(), g.name(), sub())
	case 5:
		return fmt.Sprintf(`(%s) * on (instance) group_left (%s, %s) topk by (instance) (1, %s)`, sub(), g.other(), g.other(), sub())
	case 6:
		return fmt.Sprintf(`(%s or %s)`, sub(), sub())
	case 7:
		return fmt.Sprintf(`sum %s (%s, %s) (%s)`, []string{"by", "without"}[g.Intn(2)], g.name(), g.name(), sub())
	}
	return fmt.Sprintf(`max_over_time((%s)[2m:1m])`, sub())
}

func TestGeneratedLabels(t *testing.T) {
	b, largest := labelBed(t)
	g := labelGenerator{rand.New(rand.NewSource(11))}
	made := 0
	for range 3000 {
		text := g.expr(5)
		res := b.instant(b.as("a"), t, text)
		if res.Err != nil {
			continue // labels that are equal, or match more than once
		}
		bound, reached := boundOf(t, text), largestLabels(t, res)
		if reached == 0 {
			continue
		}
		limit := largest
		if bound != nil {
			limit = bound.bytes(largest)
			made++
		}
		if reached > limit {
			t.Fatalf("%s\nhas %d bytes of labels, bound = %d", text, reached, limit)
		}
	}
	if made < 500 {
		t.Errorf("only %d expressions that can create labels had a result with labels", made)
	}
}
