// Package regexsize tells how large the program of a regular expression would
// be, before anything compiles it: Go's compiler has no bound that a server
// could live with, and Prometheus compiles while it parses. The count is made
// in two steps. A scan of the text charges for what is already expensive to
// parse; only a pattern that passes it is parsed, and its program is counted on
// the parsed tree by formula, without expanding a repetition.
package regexsize

import (
	"fmt"
	"regexp/syntax"
)

// flags are those with which Prometheus parses a matcher.
const flags = syntax.Perl | syntax.DotNL

// frame is what surrounds every pattern: ^ and $, the instructions for a match
// and for a failure, and an allowance for what a compiled pattern occupies
// however short it is, so that thousands of short ones are not free.
const frame = 4 + 8

const (
	bytesInUnit = 8    // bytes of a pattern that are not read for less than one instruction
	freeNodes   = 1000 // nodes of the parsed tree that count nothing: each takes 200 bytes, twice
)

// TooLargeError says that regular expressions have more instructions than are
// allowed.
type TooLargeError struct {
	Most    int    // instructions allowed
	Pattern string // at most the first 60 bytes of the pattern that exceeded them
}

// Error implements error.
func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the regular expression %q, with the others of the request, compiles to more than %d instructions: "+
		"use fewer or smaller repetitions ({n}, \\pL, (?i) over wide ranges) or fewer alternatives", e.Pattern, e.Most)
}

func tooLarge(pattern string, most int) *TooLargeError {
	const shown = 60
	return &TooLargeError{Most: most, Pattern: pattern[:min(len(pattern), shown)]}
}

// InstructionBytes is what an instruction takes in memory: the program, what else is
// made of it, and the machine that runs it.
const InstructionBytes = 256

// Pattern returns the number of instructions of the program of
// ^(?s:pattern)$, and the equivalent in instructions of what else it costs to
// parse and prepare it. Above most it stops and returns a *TooLargeError. A
// pattern that is no regular expression counts 0: whoever compiles it says what
// is wrong, and cannot spend much on it, since the scan of the text was passed.
func Pattern(pattern string, most int) (int, error) {
	if len(pattern)/bytesInUnit > most {
		return 0, tooLarge(pattern, most)
	}
	text := scanText(pattern, most)
	if text > most {
		return 0, tooLarge(pattern, most)
	}
	re := parse(pattern)
	if re == nil {
		return 0, nil
	}
	n, limit := int64(text)+frame, int64(most)
	prog := program(re)
	for _, add := range []func() int64{
		func() int64 { return prog.n },
		func() int64 { return max(0, nodes(re)-freeNodes) },
		func() int64 { return classes(re, limit-n) },
		func() int64 { return setMatches(re) },
		func() int64 { return onePass(re, prog) },
	} {
		if n += add(); n > limit {
			return 0, tooLarge(pattern, most)
		}
	}
	return int(n), nil
}

// nodes counts the nodes of a tree.
func nodes(re *syntax.Regexp) int64 {
	n := int64(1)
	for _, sub := range re.Sub {
		n += nodes(sub)
	}
	return n
}

// parse parses a pattern as a matcher does, and if that fails as label_replace
// does, which puts it into a group first: "a)|(b" is a pattern only there.
func parse(pattern string) *syntax.Regexp {
	re, err := syntax.Parse(pattern, flags)
	if err != nil {
		re, err = syntax.Parse("^(?s:"+pattern+")$", syntax.Perl)
	}
	if err != nil {
		return nil
	}
	return re
}
