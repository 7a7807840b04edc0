// Package cli implements the commands for the admin API: pallium tenant, token, policy,
// limits and the operator's commands. It sends HTTP requests to a running Pallium and
// stores nothing.
package cli

import (
	"context"
	"flag"
	"path/filepath"

	"github.com/palliumhq/pallium/gateway/cli/command"
)

// Groups returns the commands that talk to a running Pallium.
func Groups() []command.Group {
	return []command.Group{
		{Title: "Tenants and credentials", Commands: join(tenantVerbs(), tokenVerbs(), policyVerbs(), limitsVerbs())},
		{Title: "Operation", Commands: join(operatorVerbs(), queryVerbs(), lossVerbs(), ringVerbs(), asideVerbs(), auditVerbs())},
	}
}

func join(lists ...[]command.Command) (out []command.Command) {
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

// action runs a command with its positional arguments.
type action func(ctx context.Context, s *session, args []string) error

// session is one run of a command: the server to talk to and the output format.
type session struct {
	*command.Shell
	quiet   bool
	format  string
	url     string
	dataDir string
	patient bool // no timeout for requests
}

// verb returns a command with the flags of a session in addition to its own.
func verb(name, args, about string, least, most int, setup func(*flag.FlagSet) action) command.Command {
	return command.Command{Name: name, Args: args, About: about, Min: least, Max: most, Setup: func(fs *flag.FlagSet) command.Action {
		s := &session{}
		s.flags(fs)
		act := setup(fs)
		return func(ctx context.Context, sh *command.Shell, args []string) error {
			if err := checkFlags(fs); err != nil {
				return err
			}
			s.Shell = sh
			s.findServer()
			if err := s.check(); err != nil {
				return err
			}
			return act(ctx, s, args)
		}
	}}
}

// checkFlags rejects flags that are set to an empty text, such as an unset variable of the shell:
// they would select the default, or everything. -display-name and -plan may be empty: that removes
// the current value.
func checkFlags(fs *flag.FlagSet) (err error) {
	fs.Visit(func(f *flag.Flag) {
		value, ok := f.Value.(flag.Getter)
		if ok && value.Get() == "" && f.Name != "display-name" && f.Name != "plan" {
			err = command.Misused("-%s is empty: set a value, or leave the flag out", f.Name)
		}
	})
	return err
}

// destroys marks a command that is never suggested for a mistyped one.
func destroys(c command.Command) command.Command {
	c.Destroys = true
	return c
}

func (s *session) flags(fs *flag.FlagSet) {
	fs.BoolVar(&s.quiet, "q", false, "print only the bare value, for scripts")
	fs.StringVar(&s.format, "o", "text", "output `format`: text, or json for the complete response of the server")
	fs.StringVar(&s.url, "admin-url", "", "`URL` of the admin listener (default $PALLIUM_ADMIN_URL, or http://127.0.0.1:9010)")
	fs.StringVar(&s.dataDir, "data-dir", "data",
		"`directory` with the admin-token file, if neither PALLIUM_ADMIN_TOKEN nor PALLIUM_ADMIN_TOKEN_FILE is set")
}

// findServer sets the default of -admin-url.
func (s *session) findServer() {
	if s.url == "" {
		s.url = s.Env("PALLIUM_ADMIN_URL")
	}
	if s.url == "" {
		s.url = "http://127.0.0.1:9010"
	}
}

func (s *session) check() error {
	switch {
	case s.format != "text" && s.format != "json":
		return command.Misused("-o %s is not supported: use text or json", command.Shorten(s.format))
	case s.quiet && s.format == "json":
		return command.Misused("-q and -o json cannot be combined: use one of them")
	}
	return s.checkURL()
}

// tokenFile returns the file in which `pallium all` stores the admin token that it
// generated.
func (s *session) tokenFile() string { return filepath.Join(s.dataDir, "admin-token") }
