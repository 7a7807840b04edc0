// Package blocked parses the list of queries that a tenant may not run, and compares queries with
// it. The list is a text with one pattern in each line: the text of a query or, after a tilde, a
// regular expression (RE2) that must match the whole text. No PromQL expression begins with a
// tilde.
//
// In queries and in texts of the list, white space at the ends is ignored, and any other run of
// white space is equal to one space. So line breaks in a query make no difference.
package blocked

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode/utf8"
)

// Limits of a list, which is compared with every query of its tenant.
const (
	MaxBytes        = 16 << 10
	MaxPatterns     = 100
	maxInstructions = 50_000 // of all regular expressions together; one takes about 40 bytes
)

// regular is the first character of a line with a regular expression.
const regular = "~"

// List is a parsed list. The zero List blocks nothing. It is safe for concurrent use.
type List struct {
	texts   map[string]string // the line of each normalized text
	regexps []pattern
}

type pattern struct {
	line   string
	regexp *regexp.Regexp
}

// Parse parses a list. Empty lines are ignored. The error for an invalid pattern names its line.
func Parse(text string) (*List, error) {
	if len(text) > MaxBytes {
		return nil, fmt.Errorf("the list has %d bytes; the limit is %d bytes", len(text), MaxBytes)
	}
	if !utf8.ValidString(text) {
		return nil, errors.New("the list is not valid UTF-8")
	}
	l := &List{texts: map[string]string{}}
	patterns, instructions := 0, 0
	number := 0
	for line := range strings.SplitSeq(text, "\n") {
		number++
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		if patterns++; patterns > MaxPatterns {
			return nil, fmt.Errorf("the list has more than %d patterns", MaxPatterns)
		}
		expr, isRegular := strings.CutPrefix(line, regular)
		if !isRegular {
			l.texts[normal(line)] = line
			continue
		}
		n, err := l.add(line, strings.TrimSpace(expr))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if instructions += n; instructions > maxInstructions {
			return nil, fmt.Errorf("line %d: the regular expressions are too large: use fewer repetitions (x{1000})", number)
		}
	}
	return l, nil
}

// add adds a regular expression and returns its size.
func (l *List) add(line, expr string) (instructions int, err error) {
	if expr == "" {
		return 0, fmt.Errorf("a regular expression is missing after %s", regular)
	}
	if _, err := syntax.Parse(expr, syntax.Perl); err != nil { // ")(" is valid inside parentheses
		return 0, err
	}
	anchored := "^(?s:" + expr + ")$"
	tree, err := syntax.Parse(anchored, syntax.Perl)
	if err != nil {
		return 0, err
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return 0, err
	}
	re, err := regexp.Compile(anchored)
	if err != nil {
		return 0, err
	}
	l.regexps = append(l.regexps, pattern{line, re})
	return len(prog.Inst), nil
}

// Match returns the line of the list that blocks a query; ok is false if none does.
func (l *List) Match(query string) (line string, ok bool) {
	if l == nil || len(l.texts) == 0 && len(l.regexps) == 0 {
		return "", false
	}
	query = normal(query)
	if line, ok := l.texts[query]; ok {
		return line, true
	}
	for _, p := range l.regexps {
		if p.regexp.MatchString(query) {
			return p.line, true
		}
	}
	return "", false
}

// normal returns a text in which runs of white space are one space.
func normal(text string) string { return strings.Join(strings.Fields(text), " ") }
