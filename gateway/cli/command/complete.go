package command

import (
	"flag"
	"fmt"
	"io"
	"strings"
)

// completeWords is the hidden command that completion scripts call to list possible next
// words.
const completeWords = "__complete"

// Completion returns the command that prints completion scripts. It must be in the table
// whose commands the scripts complete.
func Completion(program string) Command {
	return Command{Name: "completion", Args: "bash|zsh|fish", About: "print a script for completion of commands and flags in a shell",
		Min: 1, Max: 1, Setup: func(*flag.FlagSet) Action { return completion(program) }}
}

// complete prints the possible completions of the last of the words, which may be empty.
// Each line has a word, a tab and the meaning of the word.
func (t *Table) complete(words []string, w io.Writer) {
	if len(words) == 0 {
		words = []string{""}
	}
	done, last := words[:len(words)-1], words[len(words)-1]
	if len(done) > 0 && done[0] == "help" {
		if done = done[1:]; strings.HasPrefix(last, "-") {
			return
		}
	}
	if len(done) == 0 && strings.HasPrefix(last, "-") {
		done = []string{t.Default}
	}
	if strings.HasPrefix(last, "-") {
		t.completeFlag(done, last, w)
		return
	}
	t.completeWord(strings.Join(done, " "), last, w)
	if c := t.named(strings.Join(done, " ")); c != nil && strings.Contains(c.Args, "|") {
		for _, word := range strings.Split(c.Args, "|") {
			if strings.HasPrefix(word, last) {
				fmt.Fprintf(w, "%s\t%s\n", word, c.About)
			}
		}
	}
}

// completeWord prints the next words, beginning with `last`, of the commands whose names begin with
// the words in `done`.
func (t *Table) completeWord(done, last string, w io.Writer) {
	prefix := ""
	if done != "" {
		prefix = done + " "
	}
	seen := map[string]bool{}
	for _, c := range t.all() {
		rest, ok := strings.CutPrefix(c.Name, prefix)
		word, _, more := strings.Cut(rest, " ")
		if !ok || seen[word] || !strings.HasPrefix(word, last) {
			continue
		}
		seen[word] = true
		about := c.About
		if more {
			about = "commands of " + strings.TrimSpace(prefix+word)
		}
		fmt.Fprintf(w, "%s\t%s\n", word, about)
	}
}

// completeFlag prints the flags, beginning with `last`, of the command with the longest name that
// `words` begin with.
func (t *Table) completeFlag(words []string, last string, w io.Writer) {
	c, _, err := t.find(words)
	if err != nil || c == nil {
		return
	}
	fs := flag.NewFlagSet(c.Name, flag.ContinueOnError)
	c.Setup(fs)
	typed := strings.TrimLeft(last, "-")
	dashes := last[:min(len(last)-len(typed), 2)]
	fs.VisitAll(func(f *flag.Flag) {
		if strings.HasPrefix(f.Name, typed) {
			_, usage := flag.UnquoteUsage(f)
			fmt.Fprintf(w, "%s%s\t%s\n", dashes, f.Name, usage)
		}
	})
}
