package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/palliumhq/pallium/gateway/cli/command"

	"go.yaml.in/yaml/v3"
)

// configCommands returns the commands that check a configuration, or print it with the
// defaults. They open no stores.
func configCommands() []command.Command {
	return []command.Command{
		{Name: "config check", Args: "FILE", About: "check a configuration file", Max: 1, Setup: func(fs *flag.FlagSet) command.Action {
			file := fs.String("config", "", "configuration `file` (YAML), instead of FILE")
			return func(_ context.Context, sh *command.Shell, args []string) error {
				switch {
				case len(args) == 1 && *file != "":
					return command.Misused("give FILE or -config, not both")
				case len(args) == 1:
					*file = args[0]
				case *file == "":
					return command.Misused("FILE is missing")
				}
				return useConfig(*file, true, sh.Out)
			}
		}},
		{Name: "config show", About: "print the configuration in effect, with defaults and without secrets",
			Setup: func(fs *flag.FlagSet) command.Action {
				file := fs.String("config", "", "configuration `file` (YAML)")
				return func(_ context.Context, sh *command.Shell, _ []string) error { return useConfig(*file, false, sh.Out) }
			}},
	}
}

// useConfig reads and checks a configuration, and writes the output of `pallium config`.
func useConfig(file string, check bool, stdout io.Writer) error {
	cfg, err := LoadConfig(file, os.LookupEnv)
	if err != nil {
		return err
	}
	if err := cfg.Check(); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if check {
		fmt.Fprintf(stdout, "%s can be used\n", file)
		return nil
	}
	return show(&cfg, stdout)
}

// show writes a configuration as YAML. Secrets are in environment variables and files, so
// only passwords in URLs have to be redacted.
func show(cfg *Config, w io.Writer) error {
	for _, list := range [][]string{cfg.Upstream.URLs, cfg.Upstream.WriteURLs} {
		for i := range list {
			list[i] = redacted(list[i])
		}
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(cfg); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	return enc.Close()
}

// redacted returns a URL without its password. In a text that is not a valid URL, for example
// because the password is not escaped, everything before the last @ is replaced.
func redacted(text string) string {
	if u, err := url.Parse(text); err == nil && u.Host != "" {
		return u.Redacted()
	}
	if at := strings.LastIndex(text, "@"); at >= 0 {
		return "xxxxx" + text[at:]
	}
	return text
}
