package blocked

import (
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
)

func TestMatch(t *testing.T) {
	tests := []struct {
		name, list, query, line string // line "" = not blocked
	}{
		{"empty list", "", "up", ""},
		{"empty query", "up", "", ""},
		{"lines without a pattern", "\n \t\n", "", ""},
		{"text", "up", "up", "up"},
		{"part of the query", "up", "up + up", ""},
		{"part of the text", "up + up", "up", ""},
		{"text is no regular expression", "u.", "up", ""},
		{"special characters", `sum(rate(a{b=~"c.*"}[5m]))`, `sum(rate(a{b=~"c.*"}[5m]))`, `sum(rate(a{b=~"c.*"}[5m]))`},
		{"case", "UP", "up", ""},
		{"second of the list", "a\nup\nb", "up", "up"},
		{"line breaks of Windows", "a\r\nup\r\n", "up", "up"},
		{"space at the ends", "  up ", "\n up\t", "up"},
		{"space inside", "up  +\tup", "up\n+   up", "up  +\tup"},
		{"space that is missing", "up + up", "up+up", ""},
		{"regular expression", "~u.", "up", "~u."},
		{"space after the tilde", "~ u.", "up", "~ u."},
		{"anchored at the end", "~u.", "upp", ""},
		{"anchored at the beginning", "~p", "up", ""},
		{"anchored alternatives", "~up|down", "up + down", ""},
		{"one of the alternatives", "~up|down", "down", "~up|down"},
		{"anywhere", "~.*node_load1.*", "sum(\n  node_load1{a=\"b\"}\n)", "~.*node_load1.*"},
		{"text before regular expressions", "~.*\nup", "up", "up"},
		{"begins with a minus", "-up", "-up", "-up"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := Parse(tt.list)
			if err != nil {
				t.Fatal(err)
			}
			if line, ok := l.Match(tt.query); line != tt.line || ok != (tt.line != "") {
				t.Errorf("blocked by %q, %v; want %q", line, ok, tt.line)
			}
		})
	}
	if line, ok := (*List)(nil).Match("up"); ok {
		t.Errorf("no list: blocked by %q", line)
	}
}

func TestParseErrors(t *testing.T) {
	tests := []struct{ name, list, says string }{
		{"no expression", "up\n~", "line 2: a regular expression is missing after ~"},
		{"invalid expression", "\n\n~a(", "line 3: error parsing regexp: missing closing )"},
		{"valid only inside parentheses", "~a)(?:b", "line 1: error parsing regexp: unexpected )"},
		{"too long", strings.Repeat("a", MaxBytes+1), "the list has 16385 bytes; the limit is 16384 bytes"},
		{"too many", strings.Repeat("a\n", MaxPatterns+1), "more than 100 patterns"},
		{"too large", "~" + strings.Repeat("(?:abcd){1000}", 20), "line 1: the regular expressions are too large"},
		{"too large together", strings.Repeat("~"+strings.Repeat("(?:abcd){1000}", 5)+"\n", 3), "line 3: the regular expressions are too large"},
		{"no UTF-8", "\xff", "not valid UTF-8"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Parse(tt.list); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want %q", err, tt.says)
			}
		})
	}
	if _, err := Parse(strings.Repeat("\n", MaxBytes)); err != nil {
		t.Errorf("empty lines: %v", err)
	}
}

// TestNoQueryBeginsWithTilde checks that every query can be in a list as a text.
func TestNoQueryBeginsWithTilde(t *testing.T) {
	for _, text := range []string{"~up", "~ up", "~1", `~"a"`, "=~up"} {
		if _, err := parser.NewParser(parser.Options{}).ParseExpr(text); err == nil {
			t.Errorf("%s is a PromQL expression", text)
		}
	}
}

// FuzzParse checks that a parsed list blocks its own texts, and that its regular expressions
// match as if each were alone.
func FuzzParse(f *testing.F) {
	f.Add("up\n~.*a.*|b\n", "sum(a)")
	f.Add("~(?i)UP\r\n \n", "up")
	f.Fuzz(func(t *testing.T, list, query string) {
		l, err := Parse(list)
		if err != nil {
			return
		}
		want := false
		for line := range strings.SplitSeq(list, "\n") {
			line = strings.TrimSpace(line)
			expr, isRegular := strings.CutPrefix(line, "~")
			switch {
			case line == "":
			case isRegular:
				want = want || whole(strings.TrimSpace(expr), normal(query))
			default:
				if _, ok := l.Match(" " + line + "\n"); !ok {
					t.Errorf("list %q does not block its own %q", list, line)
				}
				want = want || normal(line) == normal(query)
			}
		}
		if _, got := l.Match(query); got != want {
			t.Errorf("list %q blocks %q = %v, want %v", list, query, got, want)
		}
	})
}

// whole reports whether an expression matches a whole text.
func whole(expr, text string) bool {
	re := regexp.MustCompile(`(?s:\A(?:` + expr + `)\z)`)
	return re.MatchString(text)
}
