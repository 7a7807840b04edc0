package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// configCommand runs `pallium config check FILE` and `pallium config show [-config FILE]`,
// which check a configuration, or print it with the defaults. It opens no stores.
func configCommand(args []string, stdout, stderr io.Writer) int {
	const usage = "Usage: pallium config check FILE\n       pallium config show [-config FILE]\n"
	if len(args) == 0 || args[0] != "check" && args[0] != "show" {
		fmt.Fprint(stderr, usage)
		return 2
	}
	fs := flag.NewFlagSet("pallium config "+args[0], flag.ContinueOnError)
	fs.SetOutput(stderr)
	file := fs.String("config", "", "configuration `file` (YAML)")
	if err := fs.Parse(args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	check := args[0] == "check"
	if check && fs.NArg() == 1 && *file == "" {
		*file = fs.Arg(0)
	} else if fs.NArg() > 0 || check && *file == "" {
		fmt.Fprint(stderr, usage)
		return 2
	}
	if err := useConfig(*file, check, stdout); err != nil {
		fmt.Fprintln(stderr, "pallium:", err)
		return 1
	}
	return 0
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
