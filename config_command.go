package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"github.com/palliumhq/pallium/authn"
	"github.com/palliumhq/pallium/gateway/cli/command"
	"github.com/palliumhq/pallium/gateway/conn"
)

// configCommands returns the commands that check a configuration file, or print it with the
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
				}
				if *file == "" {
					return command.Misused("FILE is missing or empty: name the configuration file")
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
		return command.Invalid(err)
	}
	if err := cfg.Check(); err != nil {
		return command.Invalid(inFile(file, err))
	}
	if check {
		if err := cfg.checkFiles(); err != nil {
			return command.Invalid(inFile(file, err))
		}
		fmt.Fprintf(stdout, "%s is valid\n", file)
		return nil
	}
	return show(&cfg, stdout)
}

// inFile returns the errors of a configuration with the name of its file.
func inFile(file string, err error) error {
	if file == "" {
		return fmt.Errorf("configuration: %w", err)
	}
	return fmt.Errorf("configuration %s: %w", file, err)
}

// checkFiles reads the certificate of the edge and the key sets of issuers, which must be valid when a server
// starts.
func (c *Config) checkFiles() error {
	var errs error
	if c.TLS.CertFile != "" {
		cert := conn.Certificate{CertFile: c.TLS.CertFile, KeyFile: c.TLS.KeyFile}
		errs = cert.Load()
	}
	o := authn.Options{Config: c.Auth, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(), Now: time.Now}
	_, err := authn.New(o)
	return errors.Join(errs, err)
}

// show writes a configuration as YAML. Secrets are in environment variables and files, so
// only passwords in URLs have to be redacted.
func show(cfg *Config, w io.Writer) error {
	for _, list := range [][]string{cfg.Upstream.URLs, cfg.Upstream.WriteURLs, cfg.Cluster.Redis.Addresses, cfg.Cluster.CacheRedis.Addresses} {
		for i := range list {
			list[i] = redacted(list[i])
		}
	}
	var doc yaml.Node
	err := doc.Encode(cfg)
	redactURLs(&doc)
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err = errors.Join(err, enc.Encode(&doc)); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	return enc.Close()
}

// redactURLs removes the passwords of all URLs in a document.
func redactURLs(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && strings.Contains(n.Value, "://") {
		n.Value = redacted(n.Value)
	}
	for _, c := range n.Content {
		redactURLs(c)
	}
}

// redacted returns a URL without its password. In a text that is not a valid URL with a host, for
// example because the password is not escaped, everything before the last @ is replaced.
func redacted(text string) string {
	if u, err := url.Parse(text); err == nil && u.Host != "" {
		return u.Redacted()
	}
	if at := strings.LastIndex(text, "@"); at >= 0 {
		return "xxxxx" + text[at:]
	}
	return text
}
