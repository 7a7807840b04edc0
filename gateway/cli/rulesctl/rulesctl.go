// Package rulesctl implements the commands `pallium rules`, with which tenants load their rules from files. It sends
// requests to a gateway, with a key of the tenant, and stores nothing.
package rulesctl

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/backend/rules"
	"github.com/palliumhq/pallium/gateway/cli/command"
)

// Group returns the commands. The parser `check` accepts all optional parts of PromQL, because only
// the server knows which ones the tenant may use. `builtin` is the content of the file with the rules
// on Pallium's own metrics.
func Group(check parser.Parser, builtin []byte) command.Group {
	f := files{parser: check, builtin: builtin}
	return command.Group{Title: "Rules of a tenant (with a key of the tenant)", Commands: []command.Command{
		verb("rules list", "", "list groups of rules", 0, 0, list),
		verb("rules get", "NAMESPACE GROUP", "print a group of rules as YAML", 2, 2, get),
		verb("rules load", "[FILE...]", "create and replace the groups of files, or of -builtin", 0, -1, f.load),
		verb("rules diff", "[FILE...]", "compare the groups of files, or of -builtin, with the server", 0, -1, f.diff),
		{Name: "rules check", Args: "FILE...", About: "check files of rules, without a server", Min: 1, Max: -1, Setup: f.check},
		{Name: "rules test", Args: "FILE...", About: "run unit tests of rules in promtool's format, without a server",
			Min: 1, Max: -1, Setup: f.test},
		verb("rules backfill", "NAMESPACE GROUP", "evaluate the recording rules of a group for the past, or show the progress", 2, 2, backfill),
		destroys(verb("rules delete", "NAMESPACE [GROUP]", "delete a group, or all groups of a namespace", 1, 2, remove)),
	}}
}

func destroys(c command.Command) command.Command {
	c.Destroys = true
	return c
}

// action runs a command with a client of the gateway.
type action func(ctx context.Context, c *client, args []string) error

// verb returns a command with the flags of the client in addition to its own.
func verb(name, args, about string, least, most int, setup func(*flag.FlagSet) action) command.Command {
	return command.Command{Name: name, Args: args, About: about, Min: least, Max: most, Setup: func(fs *flag.FlagSet) command.Action {
		c := newClient(fs)
		act := setup(fs)
		return func(ctx context.Context, sh *command.Shell, args []string) error {
			c.Shell = sh
			if err := c.Prepare(); err != nil {
				return err
			}
			return act(ctx, c, args)
		}
	}}
}

func list(fs *flag.FlagSet) action {
	namespace := fs.String("namespace", "", "only the groups of this `namespace`")
	return func(ctx context.Context, c *client, _ []string) error {
		groups, err := c.groups(ctx)
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(c.Out, 0, 8, 2, ' ', 0)
		fmt.Fprintln(w, "NAMESPACE\tGROUP\tINTERVAL\tRULES")
		n := 0
		for i := range groups {
			g := &groups[i]
			if *namespace != "" && g.Namespace != *namespace {
				continue
			}
			n++
			interval := "default"
			if g.Interval > 0 {
				interval = g.Interval.String()
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\n", printable(g.Namespace), printable(g.Name), interval, len(g.Rules))
		}
		if n == 0 {
			_, err = fmt.Fprintln(c.Out, "there are no groups of rules")
			return err
		}
		return w.Flush()
	}
}

func get(*flag.FlagSet) action {
	return func(ctx context.Context, c *client, args []string) error {
		body, err := c.call(ctx, "GET", path(args...), nil)
		if err != nil {
			return err
		}
		_, err = c.Out.Write(body)
		return err
	}
}

func remove(fs *flag.FlagSet) action {
	yes := fs.Bool("yes", false, "do not ask for confirmation, for scripts")
	return func(ctx context.Context, c *client, args []string) error {
		groups, err := c.groups(ctx)
		if err != nil {
			return err
		}
		var lost []string
		for i := range groups {
			if g := &groups[i]; g.Namespace == args[0] && (len(args) == 1 || g.Name == args[1]) {
				lost = append(lost, fmt.Sprintf("group %q of namespace %q (%s)", g.Name, g.Namespace, command.Counted(len(g.Rules), "rule")))
			}
		}
		if len(lost) == 0 {
			return fmt.Errorf("%s does not exist; 'pallium rules list' shows all groups", quoted(args))
		}
		warning := "This deletes:\n  " + strings.Join(lost, "\n  ")
		if err := c.Confirm(ctx, *yes, warning, args[len(args)-1]); err != nil {
			return err
		}
		if _, err := c.call(ctx, "DELETE", path(args...), nil); err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.Out, "deleted %s\n", strings.Join(lost, "\ndeleted "))
		return err
	}
}

func quoted(args []string) string {
	if len(args) == 1 {
		return fmt.Sprintf("namespace %q", args[0])
	}
	return fmt.Sprintf("group %q of namespace %q", args[1], args[0])
}

func are(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

// printable returns a name for a table; it contains no tabs and line breaks.
func printable(name string) string {
	if rules.CheckName("name", name) != nil || strings.HasPrefix(name, " ") || strings.HasSuffix(name, " ") {
		return fmt.Sprintf("%q", name)
	}
	return name
}
