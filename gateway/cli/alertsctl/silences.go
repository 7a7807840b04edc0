package alertsctl

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/alertmanager/pkg/labels"
	"github.com/prometheus/common/model"

	"github.com/palliumhq/pallium/gateway/cli/command"
	"github.com/palliumhq/pallium/gateway/cli/tenantclient"
)

// silences are the commands for silences.
type silences struct{ now func() time.Time }

// matcher is a matcher of a silence in JSON.
type matcher struct {
	Name    string `json:"name"`
	Value   string `json:"value"`
	IsRegex bool   `json:"isRegex"`
	IsEqual *bool  `json:"isEqual"` // nil is true
}

// String returns the matcher in the notation of Alertmanager.
func (m matcher) String() string {
	kind := map[[2]bool]labels.MatchType{{false, true}: labels.MatchEqual, {false, false}: labels.MatchNotEqual,
		{true, true}: labels.MatchRegexp, {true, false}: labels.MatchNotRegexp}[[2]bool{m.IsRegex, m.IsEqual == nil || *m.IsEqual}]
	return nameText(m.Name) + kind.String() + strconv.Quote(m.Value)
}

// silence is a silence in JSON. Status is only in responses.
type silence struct {
	ID        string            `json:"id,omitempty"`
	Matchers  []matcher         `json:"matchers"`
	StartsAt  time.Time         `json:"startsAt"`
	EndsAt    time.Time         `json:"endsAt"`
	CreatedBy string            `json:"createdBy"`
	Comment   string            `json:"comment"`
	Labels    map[string]string `json:"annotations,omitempty"`
	Status    *struct {
		State string `json:"state"`
	} `json:"status,omitempty"`
}

func (s *silence) matchers() string {
	var out []string
	for _, m := range s.Matchers {
		out = append(out, m.String())
	}
	return strings.Join(out, " ")
}

func (s *silence) state() string {
	if s.Status == nil {
		return "unknown"
	}
	return printable(s.Status.State)
}

var silenceID = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

func checkIDs(ids []string) error {
	for _, id := range ids {
		if !silenceID.MatchString(id) {
			return command.Misused("%q is not the ID of a silence; 'pallium silence list' shows the IDs", command.Shorten(id))
		}
	}
	return nil
}

// missing replaces the error for a silence that does not exist, which the server sends without a text. Other errors stay.
func missing(id string, err error) error {
	var rejected *tenantclient.Error
	if errors.As(err, &rejected) && rejected.Code == http.StatusNotFound {
		return fmt.Errorf("silence %s does not exist; 'pallium silence list -expired' shows all silences", id)
	}
	return err
}

// span parses -duration.
func span(text string) (time.Duration, error) {
	d, err := model.ParseDuration(text)
	switch {
	case text == "":
		return 0, command.Misused("-duration is missing: set for how long alerts are silenced, such as -duration 2h")
	case err != nil || d <= 0:
		return 0, command.Misused("-duration %q must be a duration greater than 0, such as 30m, 2h or 1d12h", command.Shorten(text))
	}
	return time.Duration(d), nil
}

// begin parses -start.
func (s silences) begin(text string) (time.Time, error) {
	now := s.now()
	if text == "" {
		return now, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Unix(seconds, 0), nil
	}
	if d, err := model.ParseDuration(text); err == nil {
		return now.Add(time.Duration(d)), nil
	}
	return now, command.Misused("-start %q must be a time such as 2026-12-01T22:00:00Z, Unix seconds, or a duration from now such as 1h",
		command.Shorten(text))
}

func (s silences) add(fs *flag.FlagSet) action {
	duration := fs.String("duration", "", "`duration` of the silence, such as 2h or 1d12h")
	comment := fs.String("comment", "", "`text` that says why")
	author := fs.String("author", "", "`name` of the person who silences the alerts (default $USER)")
	start := fs.String("start", "", "`time` when the silence begins: RFC 3339, Unix seconds, or a duration from now such as 1h (default now)")
	quiet := fs.Bool("q", false, "print only the ID, for scripts")
	return func(ctx context.Context, c *client, args []string) error {
		sil := silence{Comment: *comment, CreatedBy: cmp.Or(*author, c.Env("USER"))}
		switch {
		case len(args) == 0:
			return command.Misused("MATCHER is missing: write at least one, such as alertname=\"HighLatency\"")
		case *comment == "":
			return command.Misused("-comment is missing: say why alerts are silenced")
		case sil.CreatedBy == "":
			return command.Misused("-author is missing, and USER is not set: say who silences the alerts")
		}
		found, err := parseMatchers(args)
		if err != nil {
			return err
		}
		d, err := span(*duration)
		if err != nil {
			return err
		}
		if sil.StartsAt, err = s.begin(*start); err != nil {
			return err
		}
		if sil.EndsAt = sil.StartsAt.Add(d); !sil.EndsAt.After(s.now()) {
			return command.Misused("the silence would end at %s, which is in the past: set a later -start or a longer -duration", stamp(sil.EndsAt))
		}
		all := true
		for _, m := range found {
			equal := m.Type == labels.MatchEqual || m.Type == labels.MatchRegexp
			all = all && m.Matches("")
			sil.Matchers = append(sil.Matchers, matcher{m.Name, m.Value, m.Type == labels.MatchRegexp || m.Type == labels.MatchNotRegexp, &equal})
		}
		if all {
			return command.Misused("all matchers match alerts without these labels, so that nearly all alerts would be silenced: " +
				"add a matcher such as alertname=\"HighLatency\"")
		}
		id, err := c.put(ctx, sil)
		if err != nil {
			return err
		}
		return c.said(*quiet, id, "silenced until %s: %s", stamp(sil.EndsAt), sil.matchers())
	}
}

// said prints the ID of a silence and, unless quiet is set, what was done.
func (c *client) said(quiet bool, id, format string, args ...any) error {
	text := printable(id)
	if !quiet {
		text += ": " + fmt.Sprintf(format, args...)
	}
	_, err := fmt.Fprintln(c.Out, text)
	return err
}

// put creates or changes a silence and returns its ID.
func (c *client) put(ctx context.Context, s silence) (string, error) {
	s.Status = nil
	body, err := json.Marshal(s)
	if err != nil {
		return "", fmt.Errorf("encode the silence: %w", err)
	}
	out, err := c.send(ctx, tenantclient.Request{Method: http.MethodPost, Path: apiPath + "/silences", Body: body,
		ContentType: "application/json"})
	if err != nil {
		return "", err
	}
	var answer struct{ SilenceID string }
	if err := c.decode(out, &answer); err != nil {
		return "", err
	}
	return answer.SilenceID, nil
}

func (s silences) list(fs *flag.FlagSet) action {
	o := outputFlags(fs, "the IDs")
	expired := fs.Bool("expired", false, "also silences that have ended")
	return func(ctx context.Context, c *client, args []string) error {
		if err := o.check(); err != nil {
			return err
		}
		matchers, err := parseMatchers(args)
		if err != nil {
			return err
		}
		query := url.Values{"expired": {strconv.FormatBool(*expired)}}
		filters(query, matchers)
		body, err := c.get(ctx, apiPath+"/silences?"+query.Encode())
		if err != nil {
			return err
		}
		var list []silence
		if err := c.decode(body, &list); err != nil {
			return err
		}
		var rows [][]string
		for i := range list {
			l := &list[i]
			rows = append(rows, []string{printable(l.ID), l.state(), stamp(l.StartsAt), stamp(l.EndsAt), printable(l.CreatedBy), l.matchers(),
				printable(l.Comment)})
		}
		switch {
		case o.format == "json":
			return c.printJSON(body)
		case o.quiet:
			for _, row := range rows {
				fmt.Fprintln(c.Out, row[0])
			}
			return nil
		case len(rows) == 0:
			_, err = fmt.Fprintln(c.Out, "there are no silences")
			return err
		}
		return table(c.Out, []string{"ID", "STATE", "STARTS", "ENDS", "AUTHOR", "MATCHERS", "COMMENT"}, rows)
	}
}

// one reads the silence with an ID.
func (c *client) one(ctx context.Context, id string) (s silence, body []byte, err error) {
	if err := checkIDs([]string{id}); err != nil {
		return s, nil, err
	}
	if body, err = c.get(ctx, apiPath+"/silence/"+id); err != nil {
		return s, nil, missing(id, err)
	}
	return s, body, c.decode(body, &s)
}

func (s silences) show(fs *flag.FlagSet) action {
	o := outputFlags(fs, "the ID")
	return func(ctx context.Context, c *client, args []string) error {
		if err := o.check(); err != nil {
			return err
		}
		l, body, err := c.one(ctx, args[0])
		switch {
		case err != nil:
			return err
		case o.format == "json":
			return c.printJSON(body)
		case o.quiet:
			return c.said(true, l.ID, "")
		}
		return fields(c.Out, "ID", printable(l.ID), "state", l.state(), "matchers", l.matchers(), "starts", stamp(l.StartsAt),
			"ends", stamp(l.EndsAt), "author", printable(l.CreatedBy), "comment", printable(l.Comment))
	}
}

func (s silences) update(fs *flag.FlagSet) action {
	duration := fs.String("duration", "", "new `duration` of the silence, from now or, if it has not begun yet, from its beginning")
	comment := fs.String("comment", "", "new comment, a `text` that says why")
	quiet := fs.Bool("q", false, "print only the ID, for scripts")
	return func(ctx context.Context, c *client, args []string) error {
		if *duration == "" && *comment == "" {
			return command.Misused("-duration is missing: set -duration, -comment or both")
		}
		var d time.Duration
		if *duration != "" {
			var err error
			if d, err = span(*duration); err != nil {
				return err
			}
		}
		l, _, err := c.one(ctx, args[0])
		if err != nil {
			return err
		}
		if l.state() == "expired" {
			return fmt.Errorf("silence %s has ended at %s: add a new one with 'pallium silence add'", l.ID, stamp(l.EndsAt))
		}
		if now := s.now(); d > 0 && l.StartsAt.After(now) {
			l.EndsAt = l.StartsAt.Add(d)
		} else if d > 0 {
			l.EndsAt = now.Add(d)
		}
		l.Comment = cmp.Or(*comment, l.Comment)
		id, err := c.put(ctx, l)
		if err != nil {
			return missing(l.ID, err)
		}
		return c.said(*quiet, id, "silenced until %s: %s", stamp(l.EndsAt), l.matchers())
	}
}

func (s silences) expire(fs *flag.FlagSet) action {
	quiet := fs.Bool("q", false, "print only the IDs, for scripts")
	return func(ctx context.Context, c *client, args []string) error {
		if err := checkIDs(args); err != nil {
			return err
		}
		var errs []error
		for _, id := range args {
			if _, err := c.call(ctx, http.MethodDelete, apiPath+"/silence/"+id); err != nil {
				errs = append(errs, missing(id, err))
				if ctx.Err() != nil {
					break
				}
				continue
			}
			if err := c.said(*quiet, id, "expired"); err != nil {
				return err
			}
		}
		return errors.Join(errs...)
	}
}
