package rulesctl

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/prometheus/common/model"

	"github.com/palliumhq/pallium/gateway/cli/command"
)

// pollEvery is the interval at which -wait reads the progress.
const pollEvery = 2 * time.Second

// progress is the progress of a backfill, as the gateway sends it.
type progress struct {
	State      string
	Start, End time.Time
	Done       float64
	Samples    int64
	Failed     int64 `json:"failedEvaluations"`
	Error      string
}

// backfill starts, shows or stops the evaluation of a group for a time in the past.
func backfill(fs *flag.FlagSet) action {
	start := fs.String("start", "", "first `time` to evaluate: RFC 3339, Unix seconds, or a duration such as 7d before now; "+
		"without it the progress is shown")
	end := fs.String("end", "", "last `time` to evaluate (default now)")
	wait := fs.Bool("wait", false, "wait until the backfill has ended")
	stop := fs.Bool("stop", false, "stop and delete the backfill; the samples that it has written stay")
	return func(ctx context.Context, c *client, args []string) error {
		at := path(args...) + "/backfill"
		switch {
		case *stop && (*start != "" || *wait):
			return command.Misused("-stop cannot be combined with -start and -wait")
		case *end != "" && *start == "":
			return command.Misused("-end needs -start")
		case *stop:
			if _, err := c.call(ctx, http.MethodDelete, at, nil); err != nil {
				return err
			}
			_, err := fmt.Fprintf(c.Out, "stopped the backfill of %s\n", quoted(args))
			return err
		}
		if *start != "" {
			form := url.Values{}
			for name, text := range map[string]string{"start": *start, "end": *end} {
				if text != "" {
					form.Set(name, ago(text, time.Now()))
				}
			}
			if _, err := c.call(ctx, http.MethodPost, at+"?"+form.Encode(), nil); err != nil {
				return err
			}
		}
		return c.follow(ctx, at, quoted(args), *wait)
	}
}

// ago converts a duration, such as 1h, to the time before now by that duration. It returns any other text unchanged.
func ago(text string, now time.Time) string {
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		return text
	}
	d, err := model.ParseDuration(text)
	if err != nil {
		return text
	}
	return now.Add(-time.Duration(d)).UTC().Format(time.RFC3339)
}

// follow prints the progress of a backfill. If `wait` is set, it repeats this until the backfill has ended.
func (c *client) follow(ctx context.Context, at, what string, wait bool) error {
	last := ""
	for {
		body, err := c.call(ctx, http.MethodGet, at, nil)
		if err != nil {
			return err
		}
		var answer struct{ Data progress }
		if err := json.Unmarshal(body, &answer); err != nil || answer.Data.State == "" {
			return c.Undecodable(nil)
		}
		p := &answer.Data
		text := fmt.Sprintf("%s, %s to %s: %s, %.0f%%, %d samples", what, p.Start.Format(time.RFC3339), p.End.Format(time.RFC3339), p.State,
			100*p.Done, p.Samples)
		if p.Failed > 0 {
			text += fmt.Sprintf(", %d failed evaluations", p.Failed)
		}
		if p.Error != "" && p.State != "failed" {
			text += " (" + p.Error + ")"
		}
		if text != last {
			fmt.Fprintln(c.Out, text)
			last = text
		}
		switch {
		case p.State == "failed":
			return errors.New("the backfill failed: " + p.Error)
		case p.State != "running" || !wait:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: the backfill continues", command.ErrInterrupted)
		case <-time.After(pollEvery):
		}
	}
}
