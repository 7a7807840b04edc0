package alertsctl

import (
	"context"
	"flag"
	"fmt"
	"time"
)

// receiver is a receiver with the last attempts of its integrations, in the server's JSON.
type receiver struct {
	Name         string
	Active       bool
	Integrations []integration
}

// integration is an integration of a receiver.
type integration struct {
	Name                      string
	Index                     int
	LastNotifyAttempt         time.Time
	LastNotifyAttemptDuration string
	LastNotifyAttemptError    string
	FailedNotifyAttempts      int
}

func receivers(fs *flag.FlagSet) action {
	o := outputFlags(fs, "")
	return func(ctx context.Context, c *client, _ []string) error {
		if err := o.check(); err != nil {
			return err
		}
		body, err := c.get(ctx, receiversPath)
		if err != nil {
			return err
		}
		if o.format == "json" {
			return c.printJSON(body)
		}
		var answer struct {
			Data     []receiver
			Warnings []string
		}
		if err := c.decode(body, &answer); err != nil {
			return err
		}
		warn(c.Shell, answer.Warnings)
		return c.printReceivers(answer.Data)
	}
}

// printReceivers prints a table. Errors are its last column, because they may be long.
func (c *client) printReceivers(list []receiver) error {
	var rows [][]string
	for i := range list {
		r := &list[i]
		if len(r.Integrations) == 0 {
			rows = append(rows, []string{printable(r.Name), "-", "-", r.result(nil), ""})
		}
		for n := range r.Integrations {
			in := &r.Integrations[n]
			last, why := "-", ""
			if !in.LastNotifyAttempt.IsZero() {
				last = stamp(in.LastNotifyAttempt)
			}
			if in.LastNotifyAttemptError != "" {
				why = printable(in.LastNotifyAttemptError)
			}
			rows = append(rows, []string{printable(r.Name), fmt.Sprintf("%s[%d]", printable(in.Name), in.Index), last, r.result(in), why})
		}
	}
	return table(c.Out, []string{"RECEIVER", "INTEGRATION", "LAST ATTEMPT", "RESULT", "ERROR"}, rows)
}

// result returns the result of an integration's last attempt in a few words. The integration is nil if the receiver has
// none.
func (r *receiver) result(in *integration) string {
	switch {
	case in == nil:
		return "notifies nobody"
	case in.FailedNotifyAttempts > 1:
		return fmt.Sprintf("failed %d times", in.FailedNotifyAttempts)
	case in.FailedNotifyAttempts == 1:
		return "failed"
	case in.LastNotifyAttemptError != "":
		return "delayed"
	case !in.LastNotifyAttempt.IsZero():
		return "sent"
	case !r.Active:
		return "no route leads to it"
	}
	return "no attempt"
}
