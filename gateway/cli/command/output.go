package command

import (
	"fmt"
	"io"
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
