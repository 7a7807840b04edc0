// Package cli is the admin API from the shell: pallium tenant, token, policy
// and limits. It speaks HTTP to a running Pallium and keeps no state; main
// hands it arguments and environment.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/palliumhq/pallium/policies/limits"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // the server rejected or could not be reached
	exitUsage  = 2 // the command line is wrong
)

// verb is one command, such as "token issue". setup declares its flags and
// returns what runs it with the arguments that are no flags.
type verb struct {
	name  string // with the group: "token issue"
	args  string // as usage shows them
	about string
	count int // of arguments; -1 = one or more
	setup func(fs *flag.FlagSet) action
}

type action func(ctx context.Context, s *session, args []string) error

func verbs() []verb {
	var all []verb
	all = append(all, tenantVerbs()...)
	all = append(all, tokenVerbs()...)
	all = append(all, policyVerbs()...)
	return append(all, limitsVerbs()...)
}

// usageError is a mistake in the command line.
type usageError struct{ message string }

func (e *usageError) Error() string { return e.message }

func misused(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// Run runs one command and returns the exit code of the process. args begin
// with the command: "tenant", "create", ...
func Run(ctx context.Context, args []string, env func(string) string, stdout, stderr io.Writer) int {
	v, rest, err := find(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, groupUsage(args[0]))
		return exitOK
	}
	if err != nil {
		group := ""
		if len(args) > 0 {
			group = args[0]
		}
		fmt.Fprintf(stderr, "pallium: %s\n\n%s", err, groupUsage(group))
		return exitUsage
	}
	fs, s, act := prepare(v, env, stdout)
	positional, err := parse(fs, rest)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, verbUsage(v, fs))
		return exitOK
	}
	if err == nil {
		err = checkArgs(v, s, positional)
	}
	if err == nil {
		err = act(ctx, s, positional)
	}
	var misuse *usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &misuse):
		fmt.Fprintf(stderr, "pallium %s: %s\n\n%s", v.name, err, verbUsage(v, fs))
		return exitUsage
	default:
		fmt.Fprintf(stderr, "pallium %s: %s\n", v.name, err)
		return exitFailed
	}
}

// find looks up the command. "limits plans list" is the one with three words.
func find(args []string) (verb, []string, error) {
	words := 0
	for words < len(args) && words < 3 && !strings.HasPrefix(args[words], "-") {
		words++
	}
	for n := words; n >= 2; n-- {
		name := strings.Join(args[:n], " ")
		for _, v := range verbs() {
			if v.name == name {
				return v, args[n:], nil
			}
		}
	}
	if words < len(args) && words > 0 && isHelp(args[words]) {
		return verb{}, nil, flag.ErrHelp
	}
	if words < 2 {
		return verb{}, nil, misused("which command?")
	}
	given := strings.Join(args[:min(words, 2)], " ")
	if given == "limits plans" {
		given = strings.Join(args[:words], " ")
	}
	var names []string
	for _, v := range verbs() {
		names = append(names, v.name)
	}
	return verb{}, nil, misused("there is no command %q; did you mean %q?", "pallium "+given, "pallium "+limits.Nearest(given, names))
}

func isHelp(arg string) bool {
	return arg == "-h" || arg == "-help" || arg == "--help"
}

// prepare makes the flags of a verb, the common ones among them.
func prepare(v verb, env func(string) string, stdout io.Writer) (*flag.FlagSet, *session, action) {
	s := &session{env: env, out: stdout}
	fs := flag.NewFlagSet(v.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	fs.BoolVar(&s.quiet, "q", false, "print the bare value only, for scripts")
	fs.StringVar(&s.format, "o", "text", "output `format`: text, or json for the server's whole answer")
	fs.StringVar(&s.url, "admin-url", "http://127.0.0.1:9010", "`URL` of the admin listener")
	fs.StringVar(&s.dataDir, "data-dir", "data",
		"`directory` with the admin-token file, if neither PALLIUM_ADMIN_TOKEN nor PALLIUM_ADMIN_TOKEN_FILE is set")
	act := v.setup(fs)
	return fs, s, act
}

// parse reads flags before, between and behind the other arguments.
func parse(fs *flag.FlagSet, args []string) (positional []string, err error) {
	for {
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, misused("%s", explain(fs, err))
		}
		if fs.NArg() == 0 {
			return positional, nil
		}
		positional = append(positional, fs.Arg(0))
		args = fs.Args()[1:]
	}
}

// explain adds the nearest flag to what package flag says of an unknown one.
func explain(fs *flag.FlagSet, err error) string {
	name, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	if !ok {
		return err.Error()
	}
	var known []string
	fs.VisitAll(func(f *flag.Flag) { known = append(known, f.Name) })
	return fmt.Sprintf("there is no flag -%s; did you mean -%s?", name, limits.Nearest(name, known))
}

func checkArgs(v verb, s *session, args []string) error {
	if s.format != "text" && s.format != "json" {
		return misused("-o %s: the formats are text and json", s.format)
	}
	if s.quiet && s.format == "json" {
		return misused("-q and -o json exclude each other")
	}
	want := v.args
	if want == "" {
		want = "no arguments"
	}
	if v.count >= 0 && len(args) != v.count || v.count < 0 && len(args) == 0 {
		return misused("it takes %s, and got %d arguments", want, len(args))
	}
	return nil
}

func groupUsage(group string) string {
	var b strings.Builder
	b.WriteString("Usage:\n")
	known := false
	for _, v := range verbs() {
		known = known || strings.HasPrefix(v.name, group+" ")
	}
	for _, v := range verbs() {
		if !known || strings.HasPrefix(v.name, group+" ") {
			fmt.Fprintf(&b, "  %-42s %s\n", "pallium "+strings.TrimSpace(v.name+" "+v.args), v.about)
		}
	}
	b.WriteString("\nRun any of them with -h for its flags.\n")
	return b.String()
}

func verbUsage(v verb, fs *flag.FlagSet) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage: pallium %s [FLAGS]\n  %s\n\nFlags:\n", strings.TrimSpace(v.name+" "+v.args), v.about)
	fs.SetOutput(&b)
	fs.PrintDefaults()
	return b.String()
}

// tokenFile is where `pallium all` leaves the admin token it made.
func (s *session) tokenFile() string { return filepath.Join(s.dataDir, "admin-token") }
