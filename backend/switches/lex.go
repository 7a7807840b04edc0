package switches

import (
	"unicode"
	"unicode/utf8"

	"github.com/prometheus/prometheus/promql/parser"
)

// Lex returns a lexer of an expression or a selector for checks before it is parsed. It reads
// as far as any parser, whatever the switches: Prometheus' lexer for others ends at an
// unquoted name in UTF-8 with an error, and would not see what follows.
//
// The positions of the tokens are those in the text, but names have other characters.
func Lex(text string) *parser.Lexer { return parser.Lex(plainNames(text)) }

// plainNames replaces letters beyond ASCII, and dots in names, by as many bytes of ASCII that
// may be in a name without quotes. It does not change strings and comments.
func plainNames(text string) string {
	var out []byte // nil: nothing was replaced so far
	var s scanner
	for i, w := 0, 0; i < len(text); i += w {
		var r rune
		r, w = utf8.DecodeRuneInString(text[i:])
		before := s.in
		if !s.next(r) {
			continue
		}
		if out == nil {
			out = []byte(text)
		}
		for j := range w {
			out[i+j] = 'a'
		}
		if before == number { // a letter ends a number
			out[i] = ' '
		}
	}
	if out == nil {
		return text
	}
	return string(out)
}

// token is what the scanner is in.
type token int

const (
	other token = iota
	name
	number
	quoted
	comment
)

// scanner finds the names in a text.
type scanner struct {
	in       token
	quote    rune // of the string
	escaped  bool // the next character of the string has no meaning
	brackets bool // a colon between [ and ] is not part of a name
}

// next reads a character, and reports whether it is one of a name that only the lexer with
// names in UTF-8 accepts.
func (s *scanner) next(r rune) bool {
	switch {
	case s.in == quoted:
		s.string(r)
	case s.in == comment:
		if r == '\n' {
			s.in = other
		}
	case r != utf8.RuneError && r >= utf8.RuneSelf && unicode.IsLetter(r):
		s.in = name
		return true
	case r == '.' && s.in != other:
		return s.in == name // otherwise it goes on
	case r == '_', 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', r == ':' && !s.brackets:
		if s.in == other || r == ':' {
			s.in = name
		}
	case '0' <= r && r <= '9':
		if s.in == other {
			s.in = number
		}
	default:
		s.end(r)
	}
	return false
}

// string reads a character of a string.
func (s *scanner) string(r rune) {
	switch {
	case s.escaped:
		s.escaped = false
	case r == '\\' && s.quote != '`':
		s.escaped = true
	case r == s.quote:
		s.in = other
	}
}

// end reads a character that ends names and numbers.
func (s *scanner) end(r rune) {
	s.in = other
	switch r {
	case '"', '\'', '`':
		s.in, s.quote = quoted, r
	case '#':
		s.in = comment
	case '[', ']':
		s.brackets = r == '['
	}
}
