package alertsctl

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// alert is an alert, as Alertmanager sends it.
type alert struct {
	Labels      map[string]string
	Fingerprint string
	StartsAt    time.Time
	Receivers   []struct{ Name string }
	Status      struct{ SilencedBy, InhibitedBy, MutedBy []string }
}

// state returns the reason for which no receiver is notified of an alert, or "active".
func (a *alert) state() string {
	var why []string
	for text, by := range map[string][]string{"silenced": a.Status.SilencedBy, "inhibited": a.Status.InhibitedBy, "muted": a.Status.MutedBy} {
		if len(by) > 0 {
			why = append(why, text)
		}
	}
	slices.Sort(why)
	return cmp.Or(strings.Join(why, ","), "active")
}

func alerts(fs *flag.FlagSet) action {
	o := outputFlags(fs, "the fingerprints")
	active := fs.Bool("active", false, "only alerts that are neither silenced nor inhibited")
	receiver := fs.String("receiver", "", "only alerts of receivers whose names match this `regex`")
	return func(ctx context.Context, c *client, args []string) error {
		if err := o.check(); err != nil {
			return err
		}
		matchers, err := parseMatchers(args)
		if err != nil {
			return err
		}
		query := url.Values{}
		filters(query, matchers)
		if *receiver != "" {
			query.Set("receiver", *receiver)
		}
		if *active {
			for _, name := range []string{"silenced", "inhibited"} {
				query.Set(name, "false")
			}
		}
		body, err := c.get(ctx, apiPath+"/alerts?"+query.Encode())
		if err != nil {
			return err
		}
		var list []alert
		if err := c.decode(body, &list); err != nil {
			return err
		}
		if o.format != "json" && !o.quiet {
			if err := c.findMuted(ctx, query, list); err != nil {
				return err
			}
		}
		return c.printAlerts(o, body, list)
	}
}

// findMuted sets MutedBy of the alerts that time intervals mute in all of their groups. Alertmanager's list of alerts does not
// have this, because a time interval mutes a route, and an alert may match several.
func (c *client) findMuted(ctx context.Context, query url.Values, list []alert) error {
	if !slices.ContainsFunc(list, func(a alert) bool { return a.state() == "active" }) {
		return nil
	}
	body, err := c.get(ctx, apiPath+"/alerts/groups?"+query.Encode())
	if err != nil {
		return err
	}
	var groups []struct{ Alerts []alert }
	if err := c.decode(body, &groups); err != nil {
		return err
	}
	muted, notified := map[string][]string{}, map[string]bool{} // by fingerprint
	for _, g := range groups {
		for i := range g.Alerts {
			a := &g.Alerts[i]
			muted[a.Fingerprint] = a.Status.MutedBy
			notified[a.Fingerprint] = notified[a.Fingerprint] || len(a.Status.MutedBy) == 0
		}
	}
	for i := range list {
		if !notified[list[i].Fingerprint] {
			list[i].Status.MutedBy = muted[list[i].Fingerprint]
		}
	}
	return nil
}

func (c *client) printAlerts(o *output, body []byte, list []alert) error {
	var rows [][]string
	for i := range list {
		a := &list[i]
		if o.quiet {
			fmt.Fprintln(c.Out, printable(a.Fingerprint))
			continue
		}
		var receivers []string
		for _, r := range a.Receivers {
			receivers = append(receivers, printable(r.Name))
		}
		rows = append(rows, []string{a.state(), stamp(a.StartsAt), strings.Join(receivers, ","), labelText(a.Labels)})
	}
	switch {
	case o.quiet:
		return nil
	case o.format == "json":
		return c.printJSON(body)
	case len(rows) == 0:
		_, err := fmt.Fprintln(c.Out, "there are no alerts")
		return err
	}
	return table(c.Out, []string{"STATE", "SINCE", "RECEIVERS", "LABELS"}, rows)
}

func status(fs *flag.FlagSet) action {
	o := outputFlags(fs, "")
	return func(ctx context.Context, c *client, _ []string) error {
		if err := o.check(); err != nil {
			return err
		}
		body, err := c.get(ctx, apiPath+"/status")
		if err != nil {
			return err
		}
		if o.format == "json" {
			return c.printJSON(body)
		}
		var s struct {
			Config      struct{ Original string }
			Uptime      time.Time
			VersionInfo struct{ Version string }
		}
		if err := c.decode(body, &s); err != nil {
			return err
		}
		if err := fields(c.Out, "Alertmanager", printable(s.VersionInfo.Version), "running since", stamp(s.Uptime)); err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.Out, "\n%s\n", strings.TrimSpace(s.Config.Original))
		return err
	}
}
