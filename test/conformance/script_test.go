package conformance

import (
	"regexp"
	"strings"
)

// block is one command of a script with its lines.
type block struct {
	kind string // load, eval or clear
	line int    // line number in the file, from 1
	text string
}

var command = regexp.MustCompile(`^(load|eval|clear)(_[a-z_]+)?(\s|$)`)

// padded returns the block alone in a file, at its original line, so that promqltest's
// messages have the right line number.
func (b block) padded() string { return strings.Repeat("\n", b.line-1) + b.text + "\n" }

// blocks splits a script into its commands. A command ends before the next one, and at
// an empty line or a comment, as in promqltest.
func blocks(script string) []block {
	var out []block
	open := false
	for i, line := range strings.Split(script, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			open = false
			continue
		}
		if m := command.FindStringSubmatch(line); m != nil {
			out = append(out, block{kind: m[1], line: i + 1, text: line})
			open = true
			continue
		}
		if !open { // promqltest will reject this line
			out = append(out, block{kind: "eval", line: i + 1, text: line})
			continue
		}
		out[len(out)-1].text += "\n" + line
	}
	return out
}
