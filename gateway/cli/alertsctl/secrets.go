package alertsctl

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/palliumhq/pallium/gateway/cli/command"
	"github.com/palliumhq/pallium/gateway/cli/tenantclient"
)

// maxSecret is the maximum size of a secret.
const maxSecret = 16 << 10 // bytes

var secretName = regexp.MustCompile(`^[a-z0-9_-]{1,64}$`)

func checkSecretName(name string) error {
	if secretName.MatchString(name) {
		return nil
	}
	return command.Misused("%q is not the name of a secret: use up to 64 lower-case letters, digits, - and _", command.Shorten(name))
}

func setSecret(fs *flag.FlagSet) action {
	file := fs.String("value-file", "", "`file` with the value (default: standard input)")
	return func(ctx context.Context, c *client, args []string) error {
		if len(args) > 1 { // the error does not repeat the argument, which is probably the value
			return command.Misused("too many arguments: the value of a secret is not an argument, because others could see it: " +
				"write it to standard input, or name a file with -value-file")
		}
		if err := checkSecretName(args[0]); err != nil {
			return err
		}
		value, err := readValue(ctx, c.Shell, *file)
		switch {
		case err != nil:
			return fmt.Errorf("read the value: %w", err)
		case value == "":
			return fmt.Errorf("%w: the value is empty: write it to standard input, or name a file with -value-file", command.ErrUnchanged)
		case len(value) > maxSecret:
			return fmt.Errorf("%w: the value has more than %d bytes, which is the most", command.ErrUnchanged, maxSecret)
		}
		r := tenantclient.Request{Method: http.MethodPut, Path: secretsPath + "/" + args[0], Body: []byte(value),
			ContentType: "application/octet-stream"}
		if _, err := c.send(ctx, r); err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.Out, "stored the secret %s; configurations use it as secret://%[1]s\n", args[0])
		return err
	}
}

// readValue reads the value of a secret, without the line break at its end. On a terminal it is not shown.
func readValue(ctx context.Context, sh *command.Shell, file string) (string, error) {
	in := sh.In
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return "", err
		}
		defer func() { _ = f.Close() }() // it was only read
		in = f
	}
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return typed(ctx, sh, f)
	}
	text, err := command.Within(ctx, func() (string, error) {
		data, err := io.ReadAll(io.LimitReader(in, maxSecret+3))
		return string(data), err
	})
	if ctx.Err() != nil {
		return "", fmt.Errorf("%w: %w", command.ErrInterrupted, command.ErrUnchanged)
	}
	return strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r"), err
}

// maxTyped is the length of the longest line that package term reads, in characters. It ignores the rest of a longer line.
const maxTyped = 4096

// typed reads a line from a terminal without echo. It does not use term.ReadPassword, which ignores ^D.
func typed(ctx context.Context, sh *command.Shell, terminal *os.File) (string, error) {
	before, err := term.MakeRaw(int(terminal.Fd()))
	if err != nil {
		return "", err
	}
	screen := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{terminal, sh.Err}, "")
	line, err := command.Within(ctx, func() (string, error) { return screen.ReadPassword("Value, one line (not shown): ") })
	_ = term.Restore(int(terminal.Fd()), before) // the command ends anyway
	switch {
	case ctx.Err() != nil || errors.Is(err, io.EOF): // a signal, ^C or ^D
		fmt.Fprintln(sh.Err)
		return "", fmt.Errorf("%w: %w", command.ErrInterrupted, command.ErrUnchanged)
	case utf8.RuneCountInString(line) >= maxTyped:
		return "", fmt.Errorf("%w: a typed value may have at most %d characters: name a file with -value-file", command.ErrUnchanged, maxTyped-1)
	}
	return line, err
}

// secretNames returns the names of all secrets.
func (c *client) secretNames(ctx context.Context) (names []string, body []byte, err error) {
	if body, err = c.get(ctx, secretsPath); err != nil {
		return nil, nil, err
	}
	var answer struct{ Data []string }
	if err := c.decode(body, &answer); err != nil {
		return nil, nil, err
	}
	return answer.Data, body, nil
}

func listSecrets(fs *flag.FlagSet) action {
	o := outputFlags(fs, "the names")
	return func(ctx context.Context, c *client, _ []string) error {
		if err := o.check(); err != nil {
			return err
		}
		names, body, err := c.secretNames(ctx)
		switch {
		case err != nil:
			return err
		case o.format == "json":
			return c.printJSON(body)
		case len(names) == 0 && !o.quiet:
			_, err = fmt.Fprintln(c.Out, "there are no secrets")
			return err
		}
		for _, name := range names {
			fmt.Fprintln(c.Out, printable(name))
		}
		return nil
	}
}

func deleteSecret(fs *flag.FlagSet) action {
	yes := fs.Bool("yes", false, "do not ask for confirmation, for scripts")
	return func(ctx context.Context, c *client, args []string) error {
		name := args[0]
		if err := checkSecretName(name); err != nil {
			return err
		}
		names, _, err := c.secretNames(ctx)
		if err != nil {
			return err
		}
		if !slices.Contains(names, name) {
			return fmt.Errorf("secret %q does not exist; 'pallium alertmanager secret list' shows all secrets", name)
		}
		warning := "This deletes the secret " + name + ", unless the stored configuration uses it."
		if err := c.Confirm(ctx, *yes, warning, name); err != nil {
			return err
		}
		if _, err := c.call(ctx, http.MethodDelete, secretsPath+"/"+name); err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.Out, "deleted the secret %s\n", name)
		return err
	}
}
