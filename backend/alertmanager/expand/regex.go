package expand

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/palliumhq/pallium/backend/regexsize"
)

const (
	maxPattern      = 4 << 10 // bytes of a regular expression
	maxInstructions = 2_000   // of its program
	maxCached       = 10_000  // instructions of the programs that are kept
	matchesPerStep  = 64      // instructions that are tried at a byte in the time of a step
	smallReplace    = 1 << 20 // instructions times bytes times bytes that need no checks in between
)

// regexps keeps the compiled regular expressions of an executor.
type regexps struct {
	known map[string]compiled
	size  int
}

type compiled struct {
	*regexp.Regexp
	size int
}

// compile returns a regular expression, and counts its work on a text.
func (f functions) compile(pattern, text string) (compiled, error) {
	re, ok := f.regexps.known[pattern]
	if !ok {
		var err error
		if re, err = f.program(pattern); err != nil {
			return re, err
		}
	}
	if err := f.work(1 + int64(re.size)*int64(len(text)+1)/matchesPerStep); err != nil || !heavy(re, text) {
		return re, err
	}
	return re, f.clock(longestGap) // from here on, all time is that of the expression
}

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
	ok := re.MatchString(s)
	return ok, f.after(re, s)
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
	if err := f.use(int64(len(out))); err != nil {
		return "", err
	}
	return out, f.after(re, text)
}

// rehearse looks for the matches without replacing them. Each match may look at all of the rest of the text, and may
// make the result longer, so that the clock is read and the result is counted in between.
func (f functions) rehearse(re compiled, repl, text string) (err error) {
	if err := f.work(int64(re.size) * int64(len(text)+1) / matchesPerStep); err != nil {
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
	re.ReplaceAllStringFunc(text, func(match string) string {
		size += int64(len(repl)) + submatches*int64(len(match))
		if err = f.room(size); err == nil {
			if err = f.work(1); err == nil {
				err = f.clock(noGap)
			}
		}
		if err != nil {
			panic(stop{})
		}
		return ""
	})
	return err
}

// after reads the clock after a call that may have taken long.
func (f functions) after(re compiled, text string) error {
	if !heavy(re, text) {
		return nil
	}
	return f.clock(noGap)
}

// heavy reports whether a regular expression may take long for a text.
func heavy(re compiled, text string) bool {
	const long = 1 << 16
	return int64(re.size)*int64(len(text)) >= long
}
