package regexsize

import (
	"errors"
	"fmt"
	"math/rand"
	"regexp"
	"regexp/syntax"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/labels"
)

const most = 100_000

// instructions returns the number of instructions of a pattern compiled as
// Prometheus does.
func instructions(t testing.TB, pattern string) int {
	t.Helper()
	re, err := syntax.Parse("^(?s:"+pattern+")$", syntax.Perl)
	if err != nil {
		t.Fatalf("%q: %v", pattern, err)
	}
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		t.Fatal(err)
	}
	return len(prog.Inst)
}

func check(t *testing.T, pattern string, allowed int) {
	t.Helper()
	n, err := Pattern(pattern, most)
	if err != nil {
		t.Fatal(err)
	}
	if real := instructions(t, pattern); n < real || n > real+allowed {
		t.Errorf("Pattern(%q) = %d, want about %d", pattern, n, real)
	}
}

func TestOrdinaryPatterns(t *testing.T) {
	for _, pattern := range []string{
		``, `a`, `api|web`, `.*`, `.+`, `api-.*`, `.*\.example\.com:\d+`, `5..`, `[45]..`, `node-[0-9]{1,3}`, `(?:a|b|c)+`,
		`GET|POST|PUT`, `10\.\d{1,3}\.\d{1,3}\.\d{1,3}:9100`, `(a)(b)(c)`, `^foo$`, `foo|`, `|foo`, `a{0}`, `a{1}`, `a{2,}`, `a{1,}`, `a{0,}`,
		`(?:a?){2,5}`, `(?:a*)*`, `(?:a*)+`, `(?:a+)*`, `(?:a+)+`, `(?:a+?)+`, `(?:)*`, `(?:){3}`, `(?:a{0}b?){2,4}?`, `\bfoo\b`, `(?m)^a$`,
		`(?i)get|post`, `(?i:Warning)`, `\Qa.b\E`, `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, `[[:alnum:]_]+`, `\w+\s\d`, `(?P<name>x){2,3}`,
		`(?:a|b?){2,3}`, `x{2}{3}|y`[:4], `[^\x00-\x{10FFFF}]{3}`, `(?:[^a]){2,3}`, "\u00e4|\u00f6",
	} {
		check(t, pattern, 12)
	}
}

// TestNegatedClasses checks the extra cost of classes, which the printer causes: the classes of a
// large dashboard must still be allowed.
func TestNegatedClasses(t *testing.T) {
	for _, pattern := range []string{`[^,]+`, `[^/]+/[^/]+/[^/]+`, `\S+`, `\D+`, `\pL+`, `(?i)[a-z\x{400}-\x{4ff}]+`} {
		check(t, pattern, 7000)
	}
}

// generator generates patterns with nodes of every kind.
type generator struct{ *rand.Rand }

func (g generator) pattern(depth int) string {
	leaves := []string{"a", "bc", ".", "[a-d]", `\d`, "x", `\b`, "^", "$", "(?:)", "[ab]", "é", "Kk", "_"}
	if depth == 0 {
		return leaves[g.Intn(len(leaves))]
	}
	sub := func() string { return g.pattern(g.Intn(depth)) }
	lazy := []string{"", "?"}[g.Intn(2)]
	switch g.Intn(12) {
	case 0:
		return "(?:" + sub() + ")*" + lazy
	case 1:
		return "(?:" + sub() + ")+" + lazy
	case 2:
		return "(?:" + sub() + ")?" + lazy
	case 3:
		return "(" + sub() + ")"
	case 4:
		return fmt.Sprintf("(?:%s){%d}%s", sub(), g.Intn(4), lazy)
	case 5:
		return fmt.Sprintf("(?:%s){%d,}%s", sub(), g.Intn(4), lazy)
	case 6:
		least := g.Intn(4)
		return fmt.Sprintf("(?:%s){%d,%d}%s", sub(), least, least+g.Intn(4), lazy)
	case 7, 8:
		return sub() + "|" + sub() + "|" + sub()
	case 9:
		return "(?i:" + sub() + ")"
	}
	return sub() + sub() + sub()
}

func TestGeneratedPatterns(t *testing.T) {
	g := generator{rand.New(rand.NewSource(7))}
	for range 20_000 {
		pattern := g.pattern(5)
		re, err := syntax.Parse(pattern, flags)
		if err != nil {
			continue // repetitions nested too deeply
		}
		// The size of the program alone is exact; everything else is an extra cost.
		prog, err := syntax.Compile(re.Simplify())
		if err != nil {
			t.Fatal(err)
		}
		if n := program(re).n; int(n) != len(prog.Inst)-2 {
			t.Fatalf("program(%q) = %d instructions, want %d", pattern, n, len(prog.Inst)-2)
		}
		if real := instructions(t, pattern); !strings.Contains(pattern, "(?i") {
			check(t, pattern, 512+real/10)
		}
	}
}

// TestDashboardVariable checks the pattern that Grafana sends for "all" of 1,000
// values.
func TestDashboardVariable(t *testing.T) {
	names := make([]string, 1000)
	for i := range names {
		names[i] = regexp.QuoteMeta(fmt.Sprintf("very-long-service-name.region-%d.cluster.example.com:%012d", i%7, i*7919))
	}
	pattern := strings.Join(names, "|")
	if len(names[0]) < 60 {
		t.Fatalf("name of %d bytes, want at least 60", len(names[0]))
	}
	check(t, pattern, 10_000)
	check(t, "("+pattern+")", 10_000)
	for i := range names { // without a common prefix
		names[i] = fmt.Sprintf("%03d%s", i, names[i])
	}
	check(t, strings.Join(names, "|"), 10_000)
}

func TestTooLarge(t *testing.T) {
	for _, tt := range []struct {
		pattern string
		most    int
	}{
		{"(?:" + strings.Repeat("abcdefghij", 330) + "){1000}", most},
		{strings.Repeat("x", 1<<20), most},
		{strings.Repeat("a|", 4<<20), most},
		{"abcdefghijk", 10},
		{"abc", 0}, {"", 0}, {"", -5},
	} {
		n, err := Pattern(tt.pattern, tt.most)
		var large *TooLargeError
		if !errors.As(err, &large) || large.Most != tt.most || n != 0 {
			t.Errorf("Pattern(%.20q) = %d, %v", tt.pattern, n, err)
		}
		if err != nil && len(err.Error()) > 400 {
			t.Errorf("error of %d bytes", len(err.Error()))
		}
	}
}

func TestInvalidPatterns(t *testing.T) {
	for _, pattern := range []string{"(", "a)", "[", `\`, "a**", "x{1001}", "(?z)", `\p{Nothing}`, "[z-a]", "[[:nothing:]]", "\xff", `\8`, "[", "[^", `[\`, `\x{`, `\x`, "(?", `\p{`, `\Qa`[:2]} {
		if n, err := Pattern(pattern, most); err != nil || n > 20 {
			t.Errorf("Pattern(%q) = %d, %v", pattern, n, err)
		}
	}
	// label_replace wraps the pattern before parsing it.
	for _, pattern := range []string{"a)|(?:b", `(?:` + strings.Repeat("a", 100) + `){50})|(b`, `a{50}\Q`} {
		if n, err := Pattern(pattern, most); err != nil || n < 4 {
			t.Errorf("Pattern(%q) = %d, %v", pattern, n, err)
		}
	}
	if _, err := Pattern(`a)|(?:`+strings.Repeat("b", 3000)+`){1000}|(?:`, most); err == nil {
		t.Error("an expensive pattern that is valid only inside a group is accepted")
	}
}

func FuzzPattern(f *testing.F) {
	for _, w := range worst {
		if p := w.pattern(3); len(p) < 2000 {
			f.Add(p)
		}
	}
	f.Add(`(?i)[^a-z\pL\x{100}-\x{200}\077[:alpha:]]{2,5}(?P<n>\Qx\E|[]-])`)
	f.Fuzz(func(t *testing.T, pattern string) {
		const small = 20_000
		if len(pattern) > 4096 {
			return
		}
		n, err := Pattern(pattern, small)
		if err != nil {
			return
		}
		re, err := syntax.Parse("^(?s:"+pattern+")$", syntax.Perl)
		if err != nil {
			// Patterns that are not valid UTF-8 may be matched as plain text.
			if _, err := labels.NewFastRegexMatcher(pattern); err == nil && n == 0 && utf8.ValidString(pattern) {
				t.Fatalf("Pattern(%q) = 0, but it is valid", pattern)
			}
			return
		}
		prog, err := syntax.Compile(re.Simplify())
		if err != nil {
			t.Fatal(err)
		}
		if n < len(prog.Inst) {
			t.Fatalf("Pattern(%q) = %d, want at least %d", pattern, n, len(prog.Inst))
		}
	})
}
