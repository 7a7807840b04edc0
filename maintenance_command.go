package main

import (
	"context"
	"flag"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/gateway/cli/command"
)

// maintenanceCommands returns the commands that open the stores directly.
func maintenanceCommands() []command.Command {
	list := []command.Command{
		{Name: "migrate up", About: "bring tables and layout of the stores to this version",
			Setup: func(fs *flag.FlagSet) command.Action { return maintain(fs, migrateTo(false)) }},
		{Name: "migrate status", About: "show the version of the stores and the pending steps",
			Setup: func(fs *flag.FlagSet) command.Action { return maintain(fs, migrateTo(true)) }},
		{Name: "verify", About: "check the long-term store, and repair its index with -rebuild-index", Setup: verify},
	}
	for i := range list {
		list[i] = interrupted(list[i])
	}
	return list
}

// maintenance works on the configured stores.
type maintenance func(ctx context.Context, sh *command.Shell, cfg Config, o Options) error

// maintain declares the flags of a command that opens the stores and returns its action.
func maintain(fs *flag.FlagSet, do maintenance) command.Action {
	config := fs.String("config", "", "configuration `file` (YAML)")
	dataDir := fs.String("data-dir", "", "`directory` for data (default ./data)")
	return func(ctx context.Context, sh *command.Shell, _ []string) error {
		ownerOnly()
		cfg, err := configuration(*config, func(c *Config) { override(&c.DataDir, *dataDir) })
		if err != nil {
			return command.Invalid(err)
		}
		return do(ctx, sh, cfg, Options{Version: versionText(), Logger: newLogger(cfg.Log, sh.Err)})
	}
}

func migrateTo(look bool) maintenance {
	return func(ctx context.Context, sh *command.Shell, cfg Config, o Options) error {
		return Migrate(ctx, cfg, o, look, sh.Out)
	}
}

func verify(fs *flag.FlagSet) command.Action {
	var v VerifyOptions
	fs.BoolVar(&v.Data, "data", false, "read and decode all of every pack, not only its index at the end")
	fs.BoolVar(&v.Rebuild, "rebuild-index", false, "first rebuild the index from the packs")
	fs.Func("tenant", "check this `tenant` only; may be repeated", func(s string) error {
		id, err := tenant.ParseID(s)
		v.Tenants = append(v.Tenants, id)
		return err
	})
	return maintain(fs, func(ctx context.Context, sh *command.Shell, cfg Config, o Options) error {
		return Verify(ctx, cfg, o, v, sh.Out, newProgressBar(sh.Err, time.Now))
	})
}
