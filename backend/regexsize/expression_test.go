package regexsize

import (
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
)

func TestExpression(t *testing.T) {
	long := strings.Repeat("x", 1000)
	for _, tt := range []struct {
		promql  string
		counted int // number of counted patterns of 1,000 bytes
	}{
		{``, 0},
		{`up`, 0},
		{`up{a="` + long + `"}`, 0},
		{`up{a!="` + long + `"}`, 0},
		{`up{a=~"` + long + `"}`, 1},
		{`up{a!~'` + long + `'}`, 1},
		{"up{a=~`" + long + "`}", 1},
		{`{"quoted name"=~"` + long + `"}`, 1},
		{`{"metric", "a b"!~"` + long + `", b="` + long + `"}`, 1},
		{"up{a=~ # \"" + long + "\"\n \"" + long + "\"}", 1},
		{"# {a=~\"" + long + "\"}\nup", 0},
		{`sum by (x) (rate(up{a=~"` + long + `"}[5m])) / up{b!~"` + long + `"}`, 2},
		{`up{a=~"\u0078` + long[1:] + `"}`, 1},
		{"up{a=~\"\\x78" + long[1:] + "\"}", 1},
		{`label_replace(up, "a", "$1", "b", "` + long + `")`, 1},
		{`label_replace(label_replace(up, "a", "$1", "b", "` + long + `"), "a", "$1", "b", '` + long + `')`, 2},
		{`label_replace(up{a="` + long + `"}, "a", "$1", "b", "(c)")`, 1},
		{"label_replace\n# a comment\n(up, \"a\", \"$1\", \"b\", ((\"" + long + "\")))", 1},
		{`count_values("` + long + `", up)`, 1},
		{`COUNT_VALUES by (a) ("` + long + `", up)`, 1},
		{`label_replace_x{a="` + long + `"}`, 0},
		{`label_join(up, "` + long + `", ",", "a")`, 0},
		{`my:label_replace{a="` + long + `"}`, 0},
		{`up{a=~"` + long + `"} ~ {b=~"` + long + `"}`, 1},            // invalid from ~ on
		{`up{a=~"` + long + `"} + {b=~"` + long, 1},                   // an unterminated string
		{`up{a=~"` + long + `",} + {b=~"` + long + `"`, 2},            // an error that only the parser finds
		{`up{a=~"\q` + long + `"}`, 0},                                // cannot be unquoted
		{`up{a=~"(` + long + `"}`, 0},                                 // invalid regular expression
		{`up{a=~` + "\"a\" \"" + long + "\"}", 0},                     // the second string is not a pattern
		{`größe.b{ключ.a=~"` + long + `"} + ü{b=~"` + long + `"}`, 2}, // names of promql_unquoted_utf8_names
		{`up{a=~b,c="` + long + `"}`, 0},                              // not a pattern
		{`up{a=~"` + long + `",a=~"` + long + `"} and on() {__name__=~"` + long + `"}`, 3},
	} {
		n, err := Expression(tt.promql, most)
		if err != nil || n/1000 != tt.counted {
			t.Errorf("%s: %d, %v; want %d patterns", tt.promql, n, err, tt.counted)
		}
	}
}

func TestExpressionTooLarge(t *testing.T) {
	bomb := "(?:" + strings.Repeat("abcdefghij", 330) + "){1000}"
	part := strings.Repeat("x", 30_000)
	for promql, passes := range map[string]bool{
		`up{a=~"` + bomb + `"}`:                                                         false,
		`{a=~"` + part + `",b=~"` + part + `",c=~"` + part + `"}`:                       true,
		`{a=~"` + part + `",b=~"` + part + `",c=~"` + part + `"} + {a=~"` + part + `"}`: false,
		`ü.b{c.d=~"` + bomb + `"}`:                                                      false,
		`label_replace(ü.b, "a", "$1", "b", "` + bomb + `")`:                            false,
		`{a="` + bomb + `"}`:                                                            true,
		`label_replace(up, "a", "$1", "b", "a)|` + bomb + `|(?:b")`:                     false,
		`{` + strings.Repeat(`a=~".",`, 9000) + `}`:                                     false,
		`{` + strings.Repeat(`a=~"`+"[^,]"+`",`, 200) + `}`:                             false,
	} {
		_, err := Expression(promql, most)
		var large *TooLargeError
		if (err == nil) != passes || err != nil && (!errors.As(err, &large) || large.Most != most) {
			t.Errorf("%.60s: %v", promql, err)
		}
	}
}

// FuzzExpression compares Expression with the sum over the matchers that the parser
// finds.
func FuzzExpression(f *testing.F) {
	f.Add(`sum(up{a=~"x.*",b!~'y'}) + label_replace(up, "a", "$1", "b", "(.*)")`)
	f.Add("{\"a b\"=~`x`} # comment")
	p := parser.NewParser(parser.Options{EnableExperimentalFunctions: true})
	f.Fuzz(func(t *testing.T, promql string) {
		if len(promql) > 1000 {
			return
		}
		n, err := Expression(promql, 20_000)
		if err != nil {
			return
		}
		e, err := p.ParseExpr(promql)
		if err != nil {
			return
		}
		want := 0
		for _, selector := range parser.ExtractSelectors(e) {
			for _, m := range selector {
				if m.GetRegexString() != "" {
					one, err := Pattern(m.GetRegexString(), 20_000)
					if err != nil {
						t.Fatalf("%q: %v", promql, err)
					}
					want += one
				}
			}
		}
		if n < want {
			t.Fatalf("Expression(%q) = %d, its matchers %d", promql, n, want)
		}
	})
}
