// Package alertsctl implements the commands `pallium alertmanager` and `pallium silence`, with which tenants configure
// and use their Alertmanager. It sends requests to a gateway, with a key of the tenant. Without a server, it checks
// configurations in the same way as the server.
package alertsctl

import (
	"context"
	"flag"
	"net/http"
	"time"

	"github.com/palliumhq/pallium/gateway/cli/command"
	"github.com/palliumhq/pallium/gateway/cli/tenantclient"
)

// Paths of the API.
const (
	configPath  = "/api/v1/alerts"
	secretsPath = "/api/v1/alerts/secrets"
	// receiversPath is the path of the list of receivers with their last attempts to notify. Alertmanager's own API
	// does not have these attempts.
	receiversPath = "/api/v1/alerts/receivers"
	apiPath       = "/alertmanager/api/v2"
)

// Group returns the commands. now is the clock for the times of silences.
func Group(now func() time.Time) command.Group {
	s := silences{now}
	return command.Group{Title: "Alertmanager of a tenant (with a key of the tenant)", Commands: []command.Command{
		verb("alertmanager load", "FILE [TEMPLATE...]", "check and store a configuration of Alertmanager and its template files", 0, -1, load),
		verb("alertmanager get", "", "print the stored configuration, or write it and its template files to a directory", 0, 0, get),
		destroys(verb("alertmanager delete", "", "delete the stored configuration and its template files", 0, 0, remove)),
		{Name: "alertmanager verify", Args: "FILE [TEMPLATE...]", About: "check a configuration and its template files, without a server",
			Min: 0, Max: -1, Setup: verify},
		{Name: "alertmanager test", Args: "[FILE]", Min: 0, Max: 1, Setup: test,
			About: "show which routes and receivers an alert goes to, in a file (- is standard input) or in the stored configuration"},
		verb("alertmanager secret set", "NAME", "store a secret, whose value is read from standard input or a file", 1, -1, setSecret),
		verb("alertmanager secret list", "", "list the names of secrets", 0, 0, listSecrets),
		destroys(verb("alertmanager secret delete", "NAME", "delete a secret", 1, 1, deleteSecret)),
		verb("alertmanager status", "", "show the version and the running configuration", 0, 0, status),
		verb("alertmanager receivers", "", "list the receivers, with the last attempt to notify and its error", 0, 0, receivers),
		verb("alertmanager alerts", "[MATCHER...]", "list the alerts in the Alertmanager", 0, -1, alerts),
		verb("silence add", "MATCHER...", "silence the alerts that all matchers match", 0, -1, s.add),
		verb("silence list", "[MATCHER...]", "list silences", 0, -1, s.list),
		verb("silence show", "ID", "show a silence", 1, 1, s.show),
		verb("silence update", "ID", "change when a silence ends, or its comment", 1, 1, s.update),
		destroys(verb("silence expire", "ID...", "end silences now", 1, -1, s.expire)),
	}}
}

// destroys marks a command that is never suggested for a mistyped one.
func destroys(c command.Command) command.Command {
	c.Destroys = true
	return c
}

// client sends requests to a gateway.
type client struct{ tenantclient.Client }

func newClient(fs *flag.FlagSet) *client {
	c := &client{tenantclient.Client{Scopes: "alerts:read,alerts:write",
		Shows: "'pallium alertmanager get', 'pallium alertmanager secret list' and 'pallium silence list' show what is stored"}}
	c.Flags(fs)
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
			if err := checkFlags(fs); err != nil {
				return err
			}
			return act(ctx, c, args)
		}
	}}
}

// checkFlags rejects flags that are set to an empty text, for example from an unset variable of the shell. Otherwise
// the flag would be ignored without notice.
func checkFlags(fs *flag.FlagSet) (err error) {
	fs.Visit(func(f *flag.Flag) {
		if value, ok := f.Value.(flag.Getter); ok && value.Get() == "" {
			err = command.Misused("-%s is empty: set a value, or leave the flag out", f.Name)
		}
	})
	return err
}

// call sends a request without a body. The URL and the key are checked only here, so that wrong arguments of a command are
// reported first.
func (c *client) call(ctx context.Context, method, path string) ([]byte, error) {
	return c.send(ctx, tenantclient.Request{Method: method, Path: path})
}

// send checks the URL and the key, and sends a request.
func (c *client) send(ctx context.Context, r tenantclient.Request) ([]byte, error) {
	if err := c.Prepare(); err != nil {
		return nil, err
	}
	return c.Call(ctx, r)
}

// get returns the body of a resource.
func (c *client) get(ctx context.Context, path string) ([]byte, error) {
	return c.call(ctx, http.MethodGet, path)
}
