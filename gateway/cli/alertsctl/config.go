package alertsctl

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/palliumhq/pallium/backend/alertmanager/tenantconfig"
	"github.com/palliumhq/pallium/gateway/cli/command"
	"github.com/palliumhq/pallium/gateway/cli/tenantclient"
)

// load stores a configuration. Only the server checks it, because it knows the limits and the secrets of the tenant.
func load(*flag.FlagSet) action {
	return func(ctx context.Context, c *client, args []string) error {
		d, err := document(c.Shell, args)
		if err != nil {
			return err
		}
		body, err := c.send(ctx, tenantclient.Request{Method: http.MethodPost, Path: configPath, ContentType: "application/yaml", Body: d.YAML()})
		var rejected *tenantclient.Error
		if errors.As(err, &rejected) {
			return fmt.Errorf("%w: %s", command.ErrUnchanged, inWords(rejected.Text))
		}
		if err != nil {
			return err
		}
		var answer struct{ Warnings []string }
		if err := c.decode(body, &answer); err != nil {
			return err
		}
		warn(c.Shell, answer.Warnings)
		_, err = fmt.Fprintf(c.Out, "stored the configuration with %s\n", command.Counted(len(d.Templates), "template file"))
		return err
	}
}

func warn(sh *command.Shell, warnings []string) {
	for _, w := range warnings {
		fmt.Fprintf(sh.Err, "warning: %s\n", inWords(w))
	}
}

// stored returns the stored configuration.
func (c *client) stored(ctx context.Context) (d tenantconfig.Document, err error) {
	body, err := c.get(ctx, configPath)
	var rejected *tenantclient.Error
	if errors.As(err, &rejected) && rejected.Code == http.StatusNotFound {
		return d, fmt.Errorf("%w; 'pallium alertmanager load' stores a configuration", err)
	}
	if err != nil {
		return d, err
	}
	if d, err = tenantconfig.ParseDocument(body); err != nil {
		return d, c.Undecodable(err)
	}
	return d, nil
}

func get(fs *flag.FlagSet) action {
	dir := fs.String("dir", "", "`directory` to which the configuration is written, as "+configName+", and its template files")
	overwrite := fs.Bool("overwrite", false, "with -dir: replace files that are there already")
	return func(ctx context.Context, c *client, _ []string) error {
		if *overwrite && *dir == "" {
			return command.Misused("-overwrite needs -dir")
		}
		d, err := c.stored(ctx)
		if err != nil {
			return err
		}
		if *dir == "" {
			if n := len(d.Templates); n > 0 {
				fmt.Fprintf(c.Err, "%s not printed: -dir writes all files\n", command.Counted(n, "template file"))
			}
			_, err = fmt.Fprint(c.Out, d.Config)
			return err
		}
		names, err := write(*dir, d, *overwrite)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.Out, "wrote %s\n", strings.Join(names, "\nwrote "))
		return err
	}
}

func remove(fs *flag.FlagSet) action {
	yes := fs.Bool("yes", false, "do not ask for confirmation, for scripts")
	return func(ctx context.Context, c *client, _ []string) error {
		d, err := c.stored(ctx)
		if err != nil {
			return err
		}
		warning := fmt.Sprintf("This deletes the configuration of the Alertmanager (%d bytes)", len(d.Config))
		for _, name := range slices.Sorted(maps.Keys(d.Templates)) {
			warning += "\n  and the template file " + printable(name)
		}
		if err := c.Confirm(ctx, *yes, warning+"\nNobody is notified of alerts afterwards.", "delete"); err != nil {
			return err
		}
		if _, err := c.call(ctx, http.MethodDelete, configPath); err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.Out, "deleted the configuration")
		return err
	}
}
