package command

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/palliumhq/pallium/policies/nearest"
)

// help prints the help text of everything, of a noun or of one command.
func (t *Table) help(words []string, sh *Shell) int {
	words = slices.DeleteFunc(slices.Clone(words), isHelp)
	if len(words) == 0 {
		fmt.Fprint(sh.Out, t.everything())
		return ExitOK
	}
	name := strings.Join(words, " ")
	if c := t.named(name); c != nil {
		fs := flag.NewFlagSet(c.Name, flag.ContinueOnError)
		c.Setup(fs)
		fmt.Fprint(sh.Out, t.usageOf(c, fs))
		return ExitOK
	}
	if list := t.below(name); len(list) > 0 {
		fmt.Fprintf(sh.Out, "Usage: %[1]s %[2]s COMMAND [FLAGS]\n\n%[3]s\nRun '%[1]s help %[2]s COMMAND' for its flags.\n",
			t.Program, name, t.list(list))
		return ExitOK
	}
	text := t.unknown(words)
	if c, rest, err := t.find(words); err == nil && c != nil {
		text = fmt.Sprintf("unexpected argument %q after %q\n\nRun '%s help %s' for its flags.", rest[0], t.Program+" "+c.Name, t.Program, c.Name)
	}
	fmt.Fprintf(sh.Err, "%s: %s\n", t.Program, brief(text))
	return ExitUsage
}

func (t *Table) everything() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: %s [COMMAND] [FLAGS]\n", t.Program)
	for _, g := range t.Groups {
		var list []*Command
		for i := range g.Commands {
			list = append(list, &g.Commands[i])
		}
		fmt.Fprintf(&b, "\n%s:\n%s", g.Title, t.list(list))
	}
	fmt.Fprintf(&b, "\nRun '%s help COMMAND' for the flags of a command.\n", t.Program)
	if t.Notes != "" {
		b.WriteString("\n" + t.Notes)
	}
	return b.String()
}

// list returns a table of commands as text.
func (t *Table) list(list []*Command) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, c := range list {
		fmt.Fprintf(w, "  %s\t%s\n", strings.TrimSpace(c.Name+" "+c.Args), c.About)
	}
	_ = w.Flush() // to memory
	return b.String()
}

func (t *Table) usageOf(c *Command, fs *flag.FlagSet) string {
	var b strings.Builder
	about := strings.ToUpper(c.About[:1]) + c.About[1:]
	fmt.Fprintf(&b, "%s\n\n%s.\n", t.line(c), about)
	flags := 0
	fs.VisitAll(func(*flag.Flag) { flags++ })
	if flags > 0 {
		b.WriteString("\nFlags:\n")
		fs.SetOutput(&b)
		fs.PrintDefaults()
	}
	return b.String()
}

// below returns the commands whose names consist of the given words and at least one more.
func (t *Table) below(words string) []*Command {
	return slices.DeleteFunc(t.all(), func(c *Command) bool { return !strings.HasPrefix(c.Name, words+" ") })
}

// unknown returns the error text for words that are not a command. If the first word is not
// a noun, it suggests a similar noun; otherwise it suggests a similar command of that noun,
// but none that Destroys.
func (t *Table) unknown(words []string) string {
	given := strings.Join(words, " ")
	if list := t.below(given); len(list) > 0 {
		return fmt.Sprintf("%q needs a command\n\nCommands of %s:\n%s", t.Program+" "+given, given, strings.TrimRight(t.list(list), "\n"))
	}
	for n := len(words) - 1; n > 0; n-- {
		prefix := strings.Join(words[:n], " ")
		list := t.below(prefix)
		if len(list) == 0 {
			continue
		}
		return fmt.Sprintf("unknown command %q%s\n\nCommands of %s:\n%s",
			t.Program+" "+strings.Join(words[:n+1], " "), t.suggest(words[n], prefix, list), prefix, strings.TrimRight(t.list(list), "\n"))
	}
	var nouns []string
	for _, c := range t.all() {
		if noun, _, verbs := strings.Cut(c.Name, " "); verbs || !c.Destroys {
			nouns = append(nouns, noun)
		}
	}
	text := fmt.Sprintf("unknown command %q", t.Program+" "+words[0])
	if near := nearest.Word(words[0], append(nouns, "help")); near != "" {
		text += fmt.Sprintf("; did you mean %q?", t.Program+" "+near)
	}
	return text + fmt.Sprintf("\n\nRun '%s help' for all commands.", t.Program)
}

// suggest returns a suggestion of a command whose name begins with `prefix` and continues with a
// word similar to `word`, or "".
func (t *Table) suggest(word, prefix string, list []*Command) string {
	var next []string
	for _, c := range list {
		if !c.Destroys {
			w, _, _ := strings.Cut(strings.TrimPrefix(c.Name, prefix+" "), " ")
			next = append(next, w)
		}
	}
	if near := nearest.Word(word, next); near != "" {
		return fmt.Sprintf("; did you mean %q?", t.Program+" "+prefix+" "+near)
	}
	return ""
}
