// Package command runs the commands of a program from a table. Help, suggestions for
// mistyped words and shell completion are derived from the same table. It is built on
// package flag and not on cobra, kong or urfave/cli, because these require two dashes for
// flags of more than one letter, and existing unit files and manifests have -config,
// -target and others with one dash.
package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/palliumhq/pallium/policies/nearest"
)

// Exit codes.
const (
	ExitOK     = 0
	ExitFailed = 1 // the command failed
	ExitUsage  = 2 // the command line or the configuration is wrong

	ExitInterrupted = 130 // a signal ended the command, as shells report an interrupt
)

// Shell has the standard streams and the environment of a command.
type Shell struct {
	In       io.Reader
	Out, Err io.Writer
	Env      func(string) string
}

// Action runs a command with the arguments that are not flags.
type Action func(ctx context.Context, sh *Shell, args []string) error

// Command is one command, such as "token issue".
type Command struct {
	Name  string // one to three words; the first is the noun
	Args  string // as shown in the usage, such as "TENANT KEY=VALUE..."
	About string // one line for help
	// Min and Max are the number of arguments; a Max of -1 is any number.
	Min, Max int
	// Destroys marks a command that is never suggested for a mistyped word.
	Destroys bool
	// Setup declares the flags and returns the function that runs the command.
	Setup func(fs *flag.FlagSet) Action
}

// Group has the commands under one heading of the help text.
type Group struct {
	Title    string
	Commands []Command
}

// Table has all commands of a program.
type Table struct {
	Program string
	Groups  []Group
	Default string // the command that runs when the first word is a flag, or missing
	Notes   string // the end of the help text
}

// usageError is a mistake in the command line.
type usageError struct{ message string }

func (e *usageError) Error() string { return e.message }

// Misused returns an error for a wrong command line. Run prints it together with the usage.
// The middle of a very long text is left out.
func Misused(format string, args ...any) error {
	return &usageError{brief(fmt.Sprintf(format, args...))}
}

// brief leaves out the middle of a text that is very long because it repeats a very long
// argument.
func brief(text string) string {
	const most, part = 8000, 200 // bytes
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:part], "") + " ... " + strings.ToValidUTF8(text[len(text)-part:], "")
}

// invalidError ends a command with ExitUsage, without printing the usage.
type invalidError struct{ error }

func (e invalidError) Unwrap() error { return e.error }

// Invalid marks an error in a file that a command read, such as its configuration: the
// command ends with ExitUsage.
func Invalid(err error) error {
	if err == nil {
		return nil
	}
	return invalidError{err}
}

// briefWords leaves out the middle of very long words in a very long error: errors repeat
// paths and URLs, and no valid path of a file is that long.
func briefWords(text string) string {
	const most, part = 5000, 200 // bytes
	if len(text) <= most {
		return text
	}
	words := strings.Split(text, " ")
	for i, w := range words {
		if len(w) > most {
			words[i] = strings.ToValidUTF8(w[:part], "") + " ... " + strings.ToValidUTF8(w[len(w)-part:], "")
		}
	}
	return strings.Join(words, " ")
}

// ErrReported ends a command with ExitFailed and prints nothing, because the reason is
// already in its output or log.
var ErrReported = errors.New("command failed; see the error above")

// ErrInterrupted is wrapped by the error of a command that a signal interrupted; the exit
// code is ExitInterrupted.
var ErrInterrupted = errors.New("interrupted")

// Run runs the command line and returns the exit code of the process.
func (t *Table) Run(ctx context.Context, args []string, sh Shell) int {
	sh.Out = &output{w: sh.Out}
	code := t.dispatch(ctx, args, sh)
	if err := sh.Lost(); err != nil && code == ExitOK {
		fmt.Fprintf(sh.Err, "%s: %s\n", t.Program, err)
		return ExitFailed
	}
	return code
}

func (t *Table) dispatch(ctx context.Context, args []string, sh Shell) int {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") && !isHelp(args[0]) && !isVersion(args[0]) {
		args = append([]string{t.Default}, args...)
	}
	switch {
	case args[0] == "help" || isHelp(args[0]):
		return t.help(args[1:], &sh)
	case isVersion(args[0]):
		args[0] = "version"
	case args[0] == completeWords:
		t.complete(args[1:], sh.Out)
		return ExitOK
	}
	c, rest, err := t.find(args)
	if err != nil {
		fmt.Fprintf(sh.Err, "%s: %s\n", t.Program, err)
		return ExitUsage
	}
	if c == nil { // NOUN -h
		return t.help(args[:1], &sh)
	}
	return t.run(ctx, c, rest, &sh)
}

func isHelp(arg string) bool {
	return arg == "-h" || arg == "-help" || arg == "--help"
}

func isVersion(arg string) bool { return arg == "-version" || arg == "--version" }

func (t *Table) run(ctx context.Context, c *Command, args []string, sh *Shell) int {
	fs := flag.NewFlagSet(c.Name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	act := c.Setup(fs)
	positional, err := parse(fs, args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(sh.Out, t.usageOf(c, fs))
		return ExitOK
	}
	if err == nil {
		err = c.checkArgs(positional)
	}
	if err == nil {
		err = act(ctx, sh, positional)
	}
	return t.report(c, err, sh.Err)
}

// report prints an error and returns the exit code.
func (t *Table) report(c *Command, err error, w io.Writer) int {
	var misuse *usageError
	var invalid invalidError
	switch {
	case err == nil:
		return ExitOK
	case errors.Is(err, ErrReported):
		return ExitFailed
	case errors.As(err, &misuse):
		fmt.Fprintf(w, "%s %s: %s\n\n%s\nRun '%s %s -h' for its flags.\n", t.Program, c.Name, err, t.line(c), t.Program, c.Name)
		return ExitUsage
	}
	fmt.Fprintf(w, "%s %s: %s\n", t.Program, c.Name, briefWords(err.Error()))
	switch {
	case errors.As(err, &invalid):
		return ExitUsage
	case errors.Is(err, ErrInterrupted):
		return ExitInterrupted
	}
	return ExitFailed
}

func (t *Table) line(c *Command) string {
	words := []string{t.Program, c.Name, "[FLAGS]"}
	if c.Args != "" {
		words = slices.Insert(words, 2, c.Args)
	}
	return "Usage: " + strings.Join(words, " ")
}

// parse reads flags before, between and after the other arguments.
func parse(fs *flag.FlagSet, args []string) (positional []string, err error) {
	for {
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, Misused("%s", explain(fs, err))
		}
		if fs.NArg() == 0 {
			return positional, nil
		}
		positional = append(positional, fs.Arg(0))
		args = fs.Args()[1:]
	}
}

// explain rewords an error of package flag like the other errors of the command line, with
// a suggestion for an unknown flag.
func explain(fs *flag.FlagSet, err error) string {
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		var known []string
		fs.VisitAll(func(f *flag.Flag) { known = append(known, f.Name) })
		if near := nearest.Word(name, known); near != "" {
			return fmt.Sprintf("unknown flag -%s; did you mean -%s?", name, near)
		}
		return fmt.Sprintf("unknown flag -%s", name)
	}
	if name, ok := strings.CutPrefix(text, "flag needs an argument: -"); ok {
		return fmt.Sprintf("flag -%s needs a value", name)
	}
	return strings.TrimSuffix(text, ": parse error")
}

func (c *Command) checkArgs(args []string) error {
	n := len(args)
	if i := slices.Index(args, ""); i >= 0 && c.Max != 0 {
		names := strings.Fields(c.Args)
		return Misused("%s is empty", names[min(i, len(names)-1)])
	}
	switch {
	case n >= c.Min && (c.Max < 0 || n <= c.Max):
		return nil
	case c.Max == 0:
		return Misused("unexpected argument %q", args[0])
	case c.Max > 0 && n > c.Max:
		return Misused("unexpected argument %q after %s", args[c.Max], c.Args)
	}
	return Misused("%s is missing", strings.Join(strings.Fields(c.Args)[min(n, len(strings.Fields(c.Args))-1):], " "))
}

// all lists the commands in order.
func (t *Table) all() []*Command {
	var out []*Command
	for i := range t.Groups {
		for j := range t.Groups[i].Commands {
			out = append(out, &t.Groups[i].Commands[j])
		}
	}
	return out
}

// named returns the command with a name, or nil.
func (t *Table) named(name string) *Command {
	for _, c := range t.all() {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// find returns the command with the longest name that the arguments begin with, and the
// remaining arguments. It returns nil for NOUN -h.
func (t *Table) find(args []string) (*Command, []string, error) {
	words := 0
	for words < len(args) && words < 3 && !strings.HasPrefix(args[words], "-") {
		words++
	}
	for n := words; n > 0; n-- {
		if c := t.named(strings.Join(args[:n], " ")); c != nil {
			return c, args[n:], nil
		}
	}
	if words < len(args) && isHelp(args[words]) && len(t.below(args[0])) > 0 {
		return nil, nil, nil
	}
	return nil, nil, Misused("%s", t.unknown(args[:words]))
}
