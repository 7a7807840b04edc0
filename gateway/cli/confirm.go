package cli

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/palliumhq/pallium/gateway/cli/command"
)

// yesFlag declares the flag of commands that ask for confirmation.
func yesFlag(fs *flag.FlagSet) *bool {
	return fs.Bool("yes", false, "do not ask for confirmation, for scripts")
}

// errUnchanged is wrapped by errors of commands that ended before they sent a change.
var errUnchanged = errors.New("nothing was changed")

// confirm shows what a command is about to destroy and requires the user to type a word,
// which must not be empty.
func (s *session) confirm(ctx context.Context, yes bool, warning, word string) error {
	if yes {
		return nil
	}
	typed, err := s.question(ctx, fmt.Sprintf("%s\nType %s to continue: ", strings.TrimRight(warning, "\n"), word))
	switch {
	case err != nil:
		return err
	case typed == word && word != "":
		return nil
	}
	return fmt.Errorf("%w: %q was typed instead of %q", errUnchanged, shorten(typed), word)
}

// ask prints a question and returns nil if the user types y or yes, else errUnchanged.
func (s *session) ask(ctx context.Context, yes bool, question string) error {
	if yes {
		return nil
	}
	typed, err := s.question(ctx, question+" [y/N] ")
	if err != nil {
		return err
	}
	if low := strings.ToLower(typed); low == "y" || low == "yes" {
		return nil
	}
	return errUnchanged
}

// question prints a question and returns the line that the user types.
func (s *session) question(ctx context.Context, text string) (string, error) {
	fmt.Fprint(s.Err, text)
	line, err := within(ctx, func() (string, error) {
		line, err := bufio.NewReader(io.LimitReader(s.In, 4096)).ReadString('\n')
		return strings.TrimSpace(line), err
	})
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(s.Err)
		return "", fmt.Errorf("%w: %w", command.ErrInterrupted, errUnchanged)
	case err != nil && line == "":
		fmt.Fprintln(s.Err)
		return "", fmt.Errorf("%w: no confirmation was typed; use -yes in scripts", errUnchanged)
	}
	return line, nil
}

// within runs a function that cannot be canceled, such as a read from a terminal. Once ctx
// is done, it returns the error of ctx without waiting for the function.
func within[T any](ctx context.Context, do func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := do()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// shorten limits how much of a text is repeated in an error.
func shorten(s string) string {
	const most = 200 // bytes
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
