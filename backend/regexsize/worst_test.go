package regexsize

import (
	"errors"
	"strings"
	"testing"
)

func r(s string, n int) string { return strings.Repeat(s, n) }

// pairs returns n pieces that begin with n different pairs of runes.
func pairs(n int, before, after string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(before + string(rune(0x4e00+4*i)) + string(rune(0x4e00+4*i+2)) + after)
	}
	return b.String()
}

// worst has patterns that cost much more to parse, print or prepare than their
// programs have instructions, found by measurement. With most repetitions a pattern
// takes about 0.2 seconds or 32 MB and must be rejected; with pass repetitions it
// must be accepted.
var worst = []struct {
	name       string
	pattern    func(n int) string
	pass, most int
}{
	{"classes that the printer checks completely", func(n int) string { return r("[^,]", n) }, 5, 60},
	{"the same, escaped", func(n int) string { return r(`\D`, n) }, 5, 60},
	{"classes that the printer checks partially", func(n int) string { return r(`\W`, n) }, 100, 8000},
	{"large classes", func(n int) string { return r(`\pL`, n) }, 10, 400},
	{"large classes as alternatives", func(n int) string { return r(`\pL|`, n) }, 10, 800},
	{"large classes in one", func(n int) string { return "[" + r(`\pL`, n) + "]" }, 10, 800},
	{"the same folded", func(n int) string { return "(?i)[" + r(`\p{Lu}`, n) + "]" }, 10, 800},
	{"large classes repeated", func(n int) string { return r(`\pL{50}`, n) }, 5, 400},
	{"folded ranges", func(n int) string { return "(?i)" + r(`[\x{100}-\x{ffff}]`, n) }, 3, 30},
	{"the same, unescaped", func(n int) string { return "(?i)" + r("[\u0100-\uffff]", n) }, 3, 30},
	{"in octal", func(n int) string { return "(?i)" + r(`[\101-\377]`, n) }, 10, 8000},
	{"in one class", func(n int) string { return "(?i)[" + r("\u0100-\uffff", n) + "]" }, 3, 30},
	{"small folded ranges", func(n int) string { return "(?i)" + r("[\u0400-\u04ff]", n) }, 10, 5000},
	{"folded inside a group", func(n int) string { return "(?m-s)(?U-i:(?i:" + r("[\u0100-\uffff]", n) + "))" }, 3, 30},
	{"folded Perl classes", func(n int) string { return "(?i)" + r(`\w`, n) }, 100, 25_000},
	{"an unterminated class name", func(n int) string { return "[" + r("[:", n) + "x]" }, 100, 20_000},
	{"common prefixes of classes", func(n int) string { return r("[ab]", n) + "|" + r("[ab]", n) }, 60, 3000},
	{"common prefixes of both", func(n int) string { return r("a[bc]", n) + "|" + r("a[bc]", n) }, 30, 2000},
	{"nested concatenations", func(n int) string { return r("(?:", n) + "a." + r("b.)", n) }, 100, 2000},
	{"nested alternatives", func(n int) string { return r("(?:", n) + "a." + r("|b.)", n) }, 100, 1500},
	{"many pieces nested", func(n int) string { return r("(?:", 300) + r("a.", n) + r(")", 300) }, 500, 3000},
	{"copies of strings", func(n int) string { return r("a", 1000) + r("[ab]", 8) + r("(x)", n) }, 5, 100},
	{"one string", func(n int) string { return r("a", n) + r("(x)", n) }, 100, 4000},
	{"long strings", func(n int) string { return r("a", n) + "[\u4e00-\u4eff]x" }, 1000, 25_000},
	{"long strings to normalize", func(n int) string { return "(?i)" + r("\ufdfa", n) + "[0-9][0-9]x" }, 10, 500},
	{"nested captures", func(n int) string { return r("("+r("a", 90), n) + "." + r(")", n) }, 20, 150},
	{"optional classes", func(n int) string { return pairs(n, "[", "]?") }, 50, 150},
	{"repeated classes", func(n int) string { return pairs(n, "[", "]*") }, 50, 150},
	{"nodes", func(n int) string { return r("a?", n) }, 10_000, 30_000},
	{"assertions", func(n int) string { return r("^", n) }, 10_000, 45_000},
	{"empty captures", func(n int) string { return r("()", n) }, 5000, 25_000},
	{"repetitions", func(n int) string { return r("x{1000}", n) }, 90, 100},
	{"optional repetitions", func(n int) string { return r("x{0,1000}", n) }, 40, 50},
	{"nested repetitions", func(n int) string { return r("(?:(?:a.b){31}){31}", n) }, 30, 40},
	{"repetitions of nothing", func(n int) string { return r("(?:){1000}", n) }, 90, 100},
	{"repetitions of an impossible class", func(n int) string { return r(`[^\x00-\x{10ffff}]{1000}`, n) }, 90, 100},
}

func TestWorstPatterns(t *testing.T) {
	for _, tt := range worst {
		if n, err := Pattern(tt.pattern(tt.pass), most); err != nil {
			t.Errorf("%s, %d repetitions: %d, %v, want no error", tt.name, tt.pass, n, err)
		}
		var large *TooLargeError
		if n, err := Pattern(tt.pattern(tt.most), most); !errors.As(err, &large) {
			t.Errorf("%s, %d repetitions: %d, %v, want a TooLargeError", tt.name, tt.most, n, err)
		}
	}
}
