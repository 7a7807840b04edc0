// Package regexsize computes how large the program of a regular expression would be, before it is
// compiled: Go's compiler has no limit that is low enough for a server, and Prometheus compiles
// while it parses. The cost is computed in two steps. A scan of the text charges for constructs
// that are expensive to parse; only a pattern within the limit is parsed. The size of its program
// is then computed from the parsed tree by formula, without expanding repetitions.
package regexsize

import (
	"fmt"
	"regexp/syntax"
)

// flags are the flags with which Prometheus parses a matcher.
const flags = syntax.Perl | syntax.DotNL

// frame is the cost of every pattern: ^ and $, the instructions for a match and for
// a failure, and an allowance for the memory of a compiled pattern of any length,
// so that thousands of short patterns are not free.
const frame = 4 + 8

const (
	bytesInUnit = 8    // bytes of a pattern that cost at least one instruction
	freeNodes   = 1000 // nodes of the parsed tree that are free; a node takes 200 bytes, and Prometheus parses a pattern twice
)

// TooLargeError is the error for regular expressions with more instructions than allowed.
type TooLargeError struct {
	Most    int    // instructions allowed
	Pattern string // the first 60 bytes of the pattern that exceeded the limit
}

// Error implements error.
func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the regular expression %q, together with the others of the request, compiles to more than %d instructions: "+
		"use fewer or smaller repetitions ({n}), fewer Unicode classes (\\pL), no (?i) with wide ranges, or fewer alternatives",
		e.Pattern, e.Most)
}

func tooLarge(pattern string, most int) *TooLargeError {
	const shown = 60
	return &TooLargeError{Most: most, Pattern: pattern[:min(len(pattern), shown)]}
}

// InstructionBytes is the memory per instruction, in bytes, of the program, of the
// data derived from it, and of the machine that runs it.
const InstructionBytes = 256

// Pattern returns the number of instructions of the program of ^(?s:pattern)$, plus
// the other costs of parsing and preparing it, in instructions. It returns a
// *TooLargeError if the sum exceeds most. An invalid pattern counts 0: compiling it
// later reports the error, at a cost that the scan of the text has limited.
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

// nodes returns the number of nodes of a tree.
func nodes(re *syntax.Regexp) int64 {
	n := int64(1)
	for _, sub := range re.Sub {
		n += nodes(sub)
	}
	return n
}

// parse parses a pattern as a matcher does or, if that fails, as label_replace
// does, which first puts the pattern into a group: "a)|(b" is valid only there.
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
