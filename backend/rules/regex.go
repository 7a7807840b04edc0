package rules

import (
	"fmt"
	"regexp/syntax"
	"text/template/parse"

	"github.com/palliumhq/pallium/backend/regexsize"
)

// replaced estimates the result of reReplaceAll or match, and adds the steps of the regular expression, which is
// compiled for each call.
func (w *walk) replaced(name string, c *parse.CommandNode, args []value) (value, error) {
	pattern, err := literal(c, 1, "regular expression", name)
	if err != nil {
		return value{}, err
	}
	if len(pattern) > maxPatternText {
		return value{}, fmt.Errorf("the regular expression of %s has %d bytes, the limit is %d", name, len(pattern), maxPatternText)
	}
	compile, instructions, err := program(name, pattern)
	if err != nil {
		return value{}, err
	}
	input := 0.
	if len(args) > 0 {
		input = args[len(args)-1].size
	}
	if input > maxMatched {
		return value{}, fmt.Errorf("the text of %s can become longer than the limit of %d bytes: shorten it", name, maxMatched)
	}
	steps, result := instructions*(input+1), value{size: EstimatedNumber}
	if name == "reReplaceAll" {
		with, err := literal(c, 2, "replacement", name)
		if err != nil {
			return value{}, err
		}
		steps *= rescans(pattern, input)
		result.size = (input + 1) * float64(len(with)+1) // the replacement may be inserted before each byte
	}
	return result, w.work(compile + steps)
}

// program returns the steps for compiling a regular expression, and the number of instructions of the compiled program.
func program(name, pattern string) (compile, instructions float64, err error) {
	large := fmt.Errorf("the regular expression of %s compiles to more than %d instructions: "+
		"use fewer or smaller repetitions ({n}), and fewer classes and alternatives", name, maxPattern)
	n, err := regexsize.Pattern(pattern, maxCompile)
	if err != nil {
		return 0, 0, large
	}
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return 0, 0, fmt.Errorf("the regular expression of %s is not valid: %w", name, err)
	}
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return 0, 0, fmt.Errorf("the regular expression of %s cannot be compiled: %w", name, err)
	}
	if len(prog.Inst) > maxPattern {
		return 0, 0, large
	}
	return float64(n), float64(len(prog.Inst)), nil
}

// literal returns an argument that must be a literal text, so that its cost is known.
func literal(c *parse.CommandNode, i int, what, name string) (string, error) {
	if len(c.Args) <= i {
		return "", fmt.Errorf("the %s of %s must be a literal text", what, name)
	}
	s, ok := c.Args[i].(*parse.StringNode)
	if !ok {
		return "", fmt.Errorf("the %s of %s must be a literal text, not %s", what, name, c.Args[i])
	}
	return s.Text, nil
}

// rescans returns how often reReplaceAll may read a byte. If a short match and a longer one begin at the same position, as with
// a(.*b)?, the search for the longer match may read the text to its end for each match.
func rescans(pattern string, size float64) float64 {
	const share = 16 // not all positions are matches, because matches are usually longer than one byte
	re, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil || sequence(re) {
		return 1
	}
	return max(1, size/share)
}

// sequence reports whether a regular expression is a sequence of characters and of repetitions of characters. A search
// that reads beyond a match of such an expression extends the match, so that the same text is not read again for the next
// match.
func sequence(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpAlternate:
		return false
	case syntax.OpStar, syntax.OpPlus, syntax.OpQuest, syntax.OpRepeat:
		inner := re.Sub[0]
		for inner.Op == syntax.OpCapture {
			inner = inner.Sub[0]
		}
		return character(inner)
	}
	for _, sub := range re.Sub {
		if !sequence(sub) {
			return false
		}
	}
	return true
}

// character reports whether a regular expression matches exactly one character.
func character(re *syntax.Regexp) bool {
	switch re.Op {
	case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return true
	case syntax.OpLiteral:
		return len(re.Rune) == 1
	}
	return false
}
