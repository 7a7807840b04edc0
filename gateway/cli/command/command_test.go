package command

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"
)

// bakery returns a table of commands that print their flags and arguments.
func bakery() *Table {
	cmd := func(name, args string, least, most int) Command {
		return Command{Name: name, Args: args, About: "about " + name, Min: least, Max: most, Setup: func(fs *flag.FlagSet) Action {
			oven := fs.String("oven", "small", "the `oven`")
			fs.Bool("slow", false, "slowly")
			fs.Int("loaves", 1, "how many")
			return func(_ context.Context, sh *Shell, args []string) error {
				fmt.Fprintf(sh.Out, "%s %s %v", name, *oven, args)
				switch {
				case len(args) > 0 && args[0] == "burnt":
					return errors.New("it is burnt")
				case len(args) > 0 && args[0] == "logged":
					return fmt.Errorf("x: %w", ErrReported)
				case len(args) > 0 && args[0] == "stopped":
					return fmt.Errorf("%w: half baked", ErrInterrupted)
				case len(args) > 0 && args[0] == "recipe":
					return Invalid(fmt.Errorf("recipe: no flour in %s", *oven))
				}
				return nil
			}
		}}
	}
	eat := cmd("bread delete", "LOAF", 1, 1)
	eat.Destroys = true
	return &Table{Program: "bakery", Default: "serve", Notes: "NOTES\n", Groups: []Group{
		{Title: "Servers", Commands: []Command{cmd("serve", "", 0, 0)}},
		{Title: "Bread", Commands: []Command{cmd("bread bake", "LOAF", 1, 1), cmd("bread list", "", 0, 0), eat, cmd("bread crumbs list", "", 0, 0),
			cmd("cake mix", "THING MORE...", 2, -1), cmd("version", "", 0, 0)}},
		{Title: "Other", Commands: []Command{Completion("bakery")}},
	}}
}

func TestRun(t *testing.T) {
	for _, tt := range []struct {
		line string
		code int
		want string // part of stdout, or of stderr if the code is not 0
	}{
		{"", 0, "serve small []"},
		{"-oven big", 0, "serve big []"},
		{"--oven=big", 0, "serve big []"},
		{"serve", 0, "serve small []"},
		{"serve now", 2, `bakery serve: unexpected argument "now"` + "\n\nUsage: bakery serve [FLAGS]\nRun 'bakery serve -h' for its flags.\n"},
		{"bread bake rye -oven big", 0, "bread bake big [rye]"},
		{"bread bake -oven big rye -slow", 0, "bread bake big [rye]"},
		{"bread bake -- -rye", 0, "bread bake small [-rye]"},
		{"bread bake", 2, "LOAF is missing"},
		{"bread bake a b", 2, `unexpected argument "b" after LOAF`},
		{"cake mix a", 2, "MORE... is missing"},
		{"cake mix", 2, "THING MORE... is missing"},
		{"cake mix a b c", 0, "cake mix small [a b c]"},
		{"bread bake burnt", 1, "bakery bread bake: it is burnt\n"},
		{"bread bake logged", 1, ""},
		{"bread bake stopped", 130, "bakery bread bake: interrupted: half baked\n"},
		{"bread bake recipe", 2, "bakery bread bake: recipe: no flour in small\n"},
		{"bread bake rye -ovn big", 2, "unknown flag -ovn; did you mean -oven?"},
		{"bread bake rye -zzz", 2, "unknown flag -zzz\n"},
		{"bread bake rye -oven", 2, "flag -oven needs a value"},
		{"bread bake rye -loaves many", 2, `invalid value "many" for flag -loaves`},
		{"bread bkae rye", 2, `unknown command "bakery bread bkae"; did you mean "bakery bread bake"?`},
		{"bread delet rye", 2, "unknown command \"bakery bread delet\"\n\nCommands of bread:\n  bread bake LOAF"},
		{"bread crumbs lst", 2, `did you mean "bakery bread crumbs list"?`},
		{"bread", 2, `"bakery bread" needs a command`},
		{"bread -oven x", 2, `"bakery bread" needs a command`},
		{"cake delete", 2, "Commands of cake:\n  cake mix"},
		{"braed delete", 2, `did you mean "bakery bread"?`},
		{"foo", 2, "unknown command \"bakery foo\"\n\nRun 'bakery help' for all commands.\n"},
		{"delete", 2, `unknown command "bakery delete"`},
		{"bread -h", 0, "Usage: bakery bread COMMAND [FLAGS]\n\n  bread bake LOAF    about bread bake\n"},
		{"bread bake -h", 0, "Usage: bakery bread bake LOAF [FLAGS]\n\nAbout bread bake.\n\nFlags:\n"},
		{"help", 0, "Servers:\n  serve  about serve\n\nBread:\n"},
		{"help", 0, "NOTES"},
		{"-h", 0, "Usage: bakery [COMMAND] [FLAGS]\n"},
		{"--help", 0, "Usage: bakery [COMMAND] [FLAGS]\n"},
		{"help bread", 0, "bread delete LOAF"},
		{"help bread crumbs", 0, "bread crumbs list"},
		{"help bread bake", 0, "-oven oven"},
		{"help bread bkae", 2, `did you mean "bakery bread bake"?`},
		{"help xyz", 2, "unknown command"},
		{"help bread bake rye", 2, "bakery: unexpected argument \"rye\" after \"bakery bread bake\"\n\nRun 'bakery help bread bake' for its flags.\n"},
		{"help -h", 0, "Usage: bakery [COMMAND] [FLAGS]\n"},
		{"help bread -h", 0, "bread delete LOAF"},
		{"help bread bake --help", 0, "-oven oven"},
		{"-version", 0, "version small []"},
		{"completion tcsh", 2, `unknown shell "tcsh"`},
		{"completion", 2, "bash|zsh|fish is missing"},
	} {
		var out, errs bytes.Buffer
		code := bakery().Run(t.Context(), strings.Fields(tt.line), Shell{Out: &out, Err: &errs})
		got := out.String()
		if tt.code != 0 {
			got = errs.String()
		}
		if code != tt.code || !strings.Contains(got, tt.want) || tt.code == 0 && errs.Len() > 0 {
			t.Errorf("bakery %s\nexit %d, want %d\nstdout: %s\nstderr: %s\nwant: %s", tt.line, code, tt.code, &out, &errs, tt.want)
		}
	}
}

func TestComplete(t *testing.T) {
	for _, tt := range []struct {
		words []string
		want  string // the words, without their descriptions
	}{
		{nil, "serve bread cake version completion"},
		{[]string{""}, "serve bread cake version completion"},
		{[]string{"b"}, "bread"},
		{[]string{"-o"}, "-oven"},
		{[]string{"bread", ""}, "bake list delete crumbs"},
		{[]string{"bread", "crumbs", ""}, "list"},
		{[]string{"bread", "bake", "-"}, "-loaves -oven -slow"},
		{[]string{"bread", "bake", "rye", "--sl"}, "--slow"},
		{[]string{"bread", "-"}, ""},
		{[]string{"xyz", ""}, ""},
		{[]string{"bread", "bake", ""}, ""},
		{[]string{"--o"}, "--oven"},
		{[]string{"bread", "bake", "--"}, "--loaves --oven --slow"},
		{[]string{"completion", ""}, "bash zsh fish"},
		{[]string{"completion", "z"}, "zsh"},
		{[]string{"help", ""}, "serve bread cake version completion"},
		{[]string{"help", "bread", "c"}, "crumbs"},
		{[]string{"help", "bread", "bake", "-"}, ""},
	} {
		var out, errs bytes.Buffer
		bakery().Run(t.Context(), append([]string{completeWords}, tt.words...), Shell{Out: &out, Err: &errs})
		var got []string
		for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
			word, means, _ := strings.Cut(line, "\t")
			if got = append(got, word); word != "" && means == "" {
				t.Errorf("%q: %q has no meaning", tt.words, word)
			}
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%q: %q, want %q", tt.words, got, tt.want)
		}
	}
}

// TestEmpty checks that empty arguments are rejected: they would select everything, or nothing.
func TestEmpty(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"bread", "bake", ""}, "LOAF is empty"},
		{[]string{"bread", "bake", "", "-oven", "big"}, "LOAF is empty"},
		{[]string{"cake", "mix", "", "b"}, "THING is empty"},
		{[]string{"cake", "mix", "a", "b", ""}, "MORE... is empty"},
		{[]string{"serve", ""}, `unexpected argument ""`},
	} {
		var out, errs bytes.Buffer
		if code := bakery().Run(t.Context(), tt.args, Shell{Out: &out, Err: &errs}); code != ExitUsage || !strings.Contains(errs.String(), tt.want) {
			t.Errorf("%q: exit %d, %s", tt.args, code, &errs)
		}
	}
}

// TestLongArguments checks that an error shortens a very long argument, whatever is wrong with it,
// and that it contains help texts completely.
func TestLongArguments(t *testing.T) {
	long := strings.Repeat("é", 60_000)
	for _, args := range [][]string{
		{long}, {"bread", long}, {"bread", "bake", "a", long}, {"serve", long}, {"-oven" + long}, {"bread", "bake", "a", "-loaves", long},
		{"help", long}, {"help", "bread", "bake", long}, {"completion", long}, {"bread", "bake", "recipe", "-oven", long},
	} {
		var out, errs bytes.Buffer
		code := bakery().Run(t.Context(), args, Shell{Out: &out, Err: &errs})
		if code != ExitUsage || errs.Len() > 10_000 || !strings.Contains(errs.String(), " ... ") {
			t.Errorf("%.20q: exit %d, %d bytes: %.300s", args, code, errs.Len(), &errs)
		}
	}
}

// TestLostOutput checks that nothing succeeds if its output cannot be written.
func TestLostOutput(t *testing.T) {
	for _, line := range []string{"", "serve", "help", "help bread", "help bread bake", "bread -h", "bread bake -h", "completion bash", "__complete b"} {
		var errs bytes.Buffer
		code := bakery().Run(t.Context(), strings.Fields(line), Shell{Out: broken{}, Err: &errs})
		if code != ExitFailed || !strings.Contains(errs.String(), "cannot write the output: disk full\n") {
			t.Errorf("bakery %s: exit %d, %s", line, code, &errs)
		}
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }
