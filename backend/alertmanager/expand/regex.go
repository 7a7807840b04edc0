package expand

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/palliumhq/pallium/backend/regexsize"
)

const (
	maxPattern      = 4 << 10 // bytes of a regular expression
	maxInstructions = 2_000   // instructions of its program
	maxCached       = 10_000  // total number of instructions of the cached programs
	matchesPerStep  = 64      // instructions that the matcher tries for a byte in the time of a step
	smallReplace    = 1 << 20 // maximum of instructions x bytes x bytes for a replacement without checks in between
)

// regexps caches the compiled regular expressions of an executor.
type regexps struct {
	known map[string]compiled
	size  int
}

type compiled struct {
	*regexp.Regexp
	size int
}

// compile returns a compiled regular expression, and counts the work of matching a text with it.
func (f functions) compile(pattern, text string) (compiled, error) {
	re, ok := f.regexps.known[pattern]
	if !ok {
		var err error
		if re, err = f.program(pattern); err != nil {
			return re, err
		}
	}
	return re, f.work(1 + re.cost(text))
}

// cost returns the maximum number of steps of one match in a text.
func (c compiled) cost(text string) int64 { return int64(c.size) * int64(len(text)+1) / matchesPerStep }

func (f functions) program(pattern string) (compiled, error) {
	if len(pattern) > maxPattern {
		return compiled{}, f.fail("a regular expression has %d bytes, the limit is %d: shorten it", len(pattern), maxPattern)
	}
	size, err := regexsize.Pattern(pattern, maxInstructions)
	if err != nil {
		return compiled{}, f.fail("the regular expression %.60q compiles to more than %d instructions: "+
			"use fewer or smaller repetitions ({n}), and fewer classes and alternatives", pattern, maxInstructions)
	}
	if err := f.work(int64(size)); err != nil {
		return compiled{}, err
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		return compiled{}, fmt.Errorf("the regular expression is not valid: %w", err)
	}
	if f.regexps.size += size + 1; f.regexps.size > maxCached {
		f.regexps.known, f.regexps.size = map[string]compiled{}, size+1
	}
	out := compiled{re, size + 1}
	f.regexps.known[pattern] = out
	return out, nil
}

func (f functions) match(pattern, s string) (bool, error) {
	re, err := f.compile(pattern, s)
	if err != nil {
		return false, err
	}
	return re.MatchString(s), nil
}

func (f functions) reReplaceAll(pattern, repl, text string) (string, error) {
	re, err := f.compile(pattern, text)
	if err != nil {
		return "", err
	}
	n := int64(len(text) + 1)
	if int64(re.size)*n*n > smallReplace || n*int64(len(repl)+1) > smallReplace {
		if err := f.rehearse(re, repl, text); err != nil {
			return "", err
		}
	}
	if err := f.room(n); err != nil {
		return "", err
	}
	out := re.ReplaceAllString(text, repl)
	return out, f.use(int64(len(out)))
}

// rehearse finds the matches without replacing them, and counts the work. A match may read the complete rest of the text,
// but most matches read little of it. Therefore each match counts as many steps as it takes microseconds, but at most the
// cost of the whole text, so that the load of the machine hardly matters. The work counts twice, because the replacement
// repeats it.
func (f functions) rehearse(re compiled, repl, text string) (err error) {
	if err := f.work(re.cost(text)); err != nil {
		return err
	}
	type stop struct{}
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(stop); !ok {
				panic(r)
			}
		}
	}()
	size := int64(len(text))
	submatches := int64(strings.Count(repl, "$"))
	last := f.now()
	re.ReplaceAllStringFunc(text, func(match string) string {
		size += int64(len(repl)) + submatches*int64(len(match))
		if err = f.room(size); err == nil {
			now := f.now()
			err = f.work(1 + 2*min(re.cost(text), now.Sub(last).Microseconds()))
			last = now
		}
		if err != nil {
			panic(stop{})
		}
		return ""
	})
	return err
}
