package conformance

import (
	"regexp"
	"strings"
)

// block is one command of a script with the lines that belong to it.
type block struct {
	kind string // load, eval or clear
	line int    // in its file, from 1
	text string
}

var command = regexp.MustCompile(`^(load|eval|clear)(_[a-z_]+)?(\s|$)`)

// padded is the block alone in a file, at the line where it stood, so that what
// promqltest says of it names the right line.
func (b block) padded() string { return strings.Repeat("\n", b.line-1) + b.text + "\n" }

// blocks splits a script into its commands. A command ends before the next one,
// and at a line that is empty or a comment, as promqltest reads it.
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
		if !open { // promqltest will reject it
			out = append(out, block{kind: "eval", line: i + 1, text: line})
			continue
		}
		out[len(out)-1].text += "\n" + line
	}
	return out
}
