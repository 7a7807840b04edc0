package lex

import (
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
)

// TestTokens checks that the tokens of texts are complete, with the positions in the text.
func TestTokens(t *testing.T) {
	for text, want := range map[string]string{
		`up + 1.5`:           `up|+|1.5`,
		`größe.in.bytes + x`: `größe.in.bytes|+|x`,
		`ü`:                  `ü`,
		`日本.語{ключ=~"знач.ение"}`:                     `日本.語|{|ключ|=~|"знач.ение"|}`,
		`sum by (ä.b) (a.b.c)`:                        `sum|by|(|ä.b|)|(|a.b.c|)`,
		`a.b[5m] * 1.5e3 / 0.5`:                       `a.b|[|5m|]|*|1.5e3|/|0.5`,
		`job:ü.b:rate5m.x - .5`:                       `job:ü.b:rate5m.x|-|.5`,
		`rate(x.y[1.5]) > 1h30m`:                      `rate|(|x.y|[|1.5|]|)|>|1h30m`,
		`{"a.ü"="\u00fc.b"} # comment.ü`:              `{|"a.ü"|=|"\u00fc.b"|}|# comment.ü`,
		"x1.5.y or `ü\\n`":                            "x1.5.y|or|`ü\\n`",
		`5mü + 1`:                                     "5m|\xbc|+|1",
		`:. + :1.5.x`:                                 `:.|+|:1.5.x`,
		"'a\\'ü.b' - x.y":                             "'a\\'ü.b'|-|x.y",
		"a # b.ü\r + ü":                               "a|# b.ü|+|ü", // as in Prometheus' lexer, both \r and \n end a comment
		`x @ 1.5 offset 5m`:                           `x|@|1.5|offset|5m`,
		`a.b and on (c.ü) d.e unless ignoring(f.g) h`: `a.b|and|on|(|c.ü|)|d.e|unless|ignoring|(|f.g|)|h`,
	} {
		var got []string
		l := New(text)
		for {
			var item parser.Item
			l.NextItem(&item)
			if item.Typ == parser.EOF {
				break
			}
			if item.Typ == parser.ERROR {
				t.Errorf("%s: %s after %q", text, item.Val, got)
				break
			}
			token := text[item.Pos:][:len(item.Val)]
			if item.Typ == parser.STRING && item.Val != token {
				t.Errorf("%s: string %s, want %s", text, item.Val, token)
			}
			got = append(got, token)
		}
		if tokens := strings.Join(got, "|"); tokens != want {
			t.Errorf("%s: got %s, want %s", text, tokens, want)
		}
	}
}

// FuzzTokens checks that every expression that a parser with all switches accepts is read to its
// end, and that positions are within the text.
func FuzzTokens(f *testing.F) {
	for _, s := range []string{`ü.b + 1.5`, `sum by (ä.b) (a.b.c{ключ=~"знач"}[5m:1.5s])`, `5mü`, `a:.b`, `x.1.y`, "\xffü", `1.ü`, `0x1ü`, `"ü`, `#ü`, `a.b{c.d="e"}[5m+step()]`,
		"a #\rü", "a{#\r\nü=~'b'}", "a # c\r + ü{b=~'c'}"} {
		f.Add(s)
	}
	p := parser.NewParser(parser.Options{EnableUnquotedUTF8Names: true, EnableExperimentalFunctions: true, EnableBinopFillModifiers: true})
	f.Fuzz(func(t *testing.T, text string) {
		l := New(text)
		for {
			var item parser.Item
			l.NextItem(&item)
			if item.Typ == parser.ERROR {
				if _, err := p.ParseExpr(text); err == nil {
					t.Errorf("%q is an expression, but its tokens end at %d: %s", text, item.Pos, item.Val)
				}
				return
			}
			if item.Typ == parser.EOF {
				return
			}
			if int(item.Pos)+len(item.Val) > len(text) {
				t.Errorf("%q: token at %d of %d bytes", text, item.Pos, len(item.Val))
			}
		}
	})
}
