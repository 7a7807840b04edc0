package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrUnchanged is wrapped by errors of commands that ended before they sent a change.
var ErrUnchanged = errors.New("nothing was changed")

// Confirm shows what a command is about to destroy and requires the user to type a word,
// which must not be empty.
func (sh *Shell) Confirm(ctx context.Context, yes bool, warning, word string) error {
	if yes {
		return nil
	}
	typed, err := sh.question(ctx, fmt.Sprintf("%s\nType %s to continue: ", strings.TrimRight(warning, "\n"), word))
	switch {
	case err != nil:
		return err
	case typed == word && word != "":
		return nil
	}
	return fmt.Errorf("%w: %q was typed instead of %q", ErrUnchanged, Shorten(typed), word)
}

// Ask prints a question and returns nil if the user types y or yes, else ErrUnchanged.
func (sh *Shell) Ask(ctx context.Context, yes bool, question string) error {
	if yes {
		return nil
	}
	typed, err := sh.question(ctx, question+" [y/N] ")
	if err != nil {
		return err
	}
	if low := strings.ToLower(typed); low == "y" || low == "yes" {
		return nil
	}
	return ErrUnchanged
}

// question prints a question and returns the line that the user types.
func (sh *Shell) question(ctx context.Context, text string) (string, error) {
	fmt.Fprint(sh.Err, text)
	line, err := Within(ctx, func() (string, error) {
		line, err := bufio.NewReader(io.LimitReader(sh.In, 4096)).ReadString('\n')
		return strings.TrimSpace(line), err
	})
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(sh.Err)
		return "", fmt.Errorf("%w: %w", ErrInterrupted, ErrUnchanged)
	case err != nil && line == "":
		fmt.Fprintln(sh.Err)
		return "", fmt.Errorf("%w: no confirmation was typed; use -yes in scripts", ErrUnchanged)
	}
	return line, nil
}

// Within runs a function that cannot be canceled, such as a read from a terminal. Once ctx
// is done, it returns the error of ctx without waiting for the function.
func Within[T any](ctx context.Context, do func() (T, error)) (T, error) {
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

// Shorten returns the beginning of a text, to be quoted in an error.
func Shorten(s string) string {
	const most = 200 // bytes
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
