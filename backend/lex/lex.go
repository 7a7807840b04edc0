// Package lex reads the tokens of PromQL for checks of a text before it is parsed.
package lex

import (
	"unicode"
	"unicode/utf8"

	"github.com/prometheus/prometheus/promql/parser"
)

// New returns a lexer of an expression or a selector, which reads at least as far as a parser with
// any options. Prometheus' exported lexer does not support EnableUnquotedUTF8Names: it ends with an
// error at an unquoted UTF-8 name, so checks would miss the rest of the text.
//
// The tokens have their positions in text, but names may have other characters.
func New(text string) *parser.Lexer { return parser.Lex(plainNames(text)) }

// plainNames replaces non-ASCII letters, and dots in names, by the same number of ASCII bytes that
// are allowed in unquoted names. It does not change strings and comments.
func plainNames(text string) string {
	var out []byte // nil: nothing was replaced so far
	var s scanner
	for i := 0; i < len(text); {
		r, w := utf8.DecodeRuneInString(text[i:])
		at, before := i, s.in
		i += w
		if !s.next(r) {
			continue
		}
		if out == nil {
			out = []byte(text)
		}
		for j := range w {
			out[at+j] = 'a'
		}
		if before == number { // a letter ends a number
			out[at] = ' '
		}
	}
	if out == nil {
		return text
	}
	return string(out)
}

// token is the kind of token that the scanner is in.
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
	quote    rune // opening quote of the current string
	escaped  bool // the next character of the string is escaped
	brackets bool // a colon between [ and ] is not part of a name
}

// next processes a character, and reports whether it belongs to a name and is accepted only with
// unquoted UTF-8 names.
func (s *scanner) next(r rune) bool {
	if s.in == quoted || s.in == comment {
		s.skip(r)
		return false
	}
	switch {
	case r != utf8.RuneError && r >= utf8.RuneSelf && unicode.IsLetter(r):
		s.in = name
		return true
	case r == '.' && s.in != other:
		return s.in == name // in a number, the number continues
	case r == ':' && !s.brackets, s.in == other && begins(r):
		s.in = name
	case begins(r): // the current token continues
	case '0' <= r && r <= '9':
		if s.in == other {
			s.in = number
		}
	default:
		s.end(r)
	}
	return false
}

// begins reports whether a name may begin with a character of ASCII.
func begins(r rune) bool { return r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' }

// skip processes a character of a string or a comment.
func (s *scanner) skip(r rune) {
	switch {
	case s.in == comment:
		if r == '\n' || r == '\r' {
			s.in = other
		}
	case s.escaped:
		s.escaped = false
	case r == '\\' && s.quote != '`':
		s.escaped = true
	case r == s.quote:
		s.in = other
	}
}

// end processes a character that ends names and numbers.
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
