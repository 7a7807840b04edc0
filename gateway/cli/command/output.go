package command

import (
	"fmt"
	"io"
	"strings"
)

// output is a command's standard output. It stores the first write error, so that a command
// whose output was lost does not exit with 0.
type output struct {
	w   io.Writer
	err error
}

func (o *output) Write(b []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.w.Write(b)
	if err != nil {
		o.err = fmt.Errorf("cannot write the output: %w", err)
	}
	return n, o.err
}

// Lost returns the first error of writing to Out, or nil.
func (sh *Shell) Lost() error {
	if o, ok := sh.Out.(*output); ok {
		return o.err
	}
	return nil
}

// Unwrapped returns the standard output that was given to Run.
func (sh *Shell) Unwrapped() io.Writer {
	if o, ok := sh.Out.(*output); ok {
		return o.w
	}
	return sh.Out
}

// Counted returns a number and the noun that it counts, in the plural unless it is 1.
func Counted(n int, noun string) string {
	switch {
	case n == 1:
	case strings.HasSuffix(noun, "cy"):
		noun = strings.TrimSuffix(noun, "y") + "ies"
	case noun != "series":
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}
