package cli

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/palliumhq/pallium/gateway/cli/command"
)

type asideAnswer struct {
	Ingester string `json:"ingester"`
	Tenant   string `json:"tenant"`
	Day      int64  `json:"day"`
	Window   int    `json:"window"`
	Series   int64  `json:"series"`
	Samples  int64  `json:"samples"`
	Bytes    int64  `json:"bytes"`
	Reason   string `json:"reason"`
	Dropped  string `json:"dropped"`
}

func asideVerbs() []command.Command {
	return []command.Command{
		verb("aside list", "", "list series that were set aside because no pack could hold them", 0, 0, asideList),
		destroys(verb("aside drop", "", "delete the series that one ingester set aside for a tenant and window", 0, 0, asideDrop)),
	}
}

func asideList(*flag.FlagSet) action {
	return func(ctx context.Context, s *session, _ []string) error {
		head := []string{"TENANT", "DAY", "WINDOW", "INGESTER", "SERIES", "SAMPLES", "BYTES", "REASON"}
		name := func(a asideAnswer) string {
			return fmt.Sprintf("%s %s %d %s", a.Tenant, dateOf(a.Day), a.Window, a.Ingester)
		}
		return list(ctx, s, path("aside"), url.Values{}, name, head, func(a asideAnswer) []string {
			reason := a.Reason
			if a.Dropped != "" {
				reason = "being deleted"
			}
			return []string{a.Tenant, dateOf(a.Day), strconv.Itoa(a.Window), a.Ingester, strconv.FormatInt(a.Series, 10),
				strconv.FormatInt(a.Samples, 10), strconv.FormatInt(a.Bytes, 10), reason}
		})
	}
}

// setAside returns the record of the series that an ingester set aside for a tenant and window, or an
// error that names the records that exist.
func (s *session) setAside(ctx context.Context, key asideAnswer) (found asideAnswer, err error) {
	all, _, err := items[asideAnswer](ctx, s, path("aside"), url.Values{})
	if err != nil {
		return found, err
	}
	var flags []string
	for _, a := range all {
		if a.Tenant == key.Tenant && a.Day == key.Day && a.Window == key.Window && a.Ingester == key.Ingester {
			return a, nil
		}
		flags = append(flags, fmt.Sprintf("-tenant %s -day %s -window %d -ingester %s",
			quoted(a.Tenant), dateOf(a.Day), a.Window, quoted(a.Ingester)))
	}
	none := fmt.Sprintf("no series of tenant %q in window %d of %s are set aside by ingester %q",
		command.Shorten(key.Tenant), key.Window, dateOf(key.Day), command.Shorten(key.Ingester))
	if len(flags) == 0 {
		return found, fmt.Errorf("%s; no other series are set aside either", none)
	}
	return found, fmt.Errorf("%s; series are set aside for: %s", none, firstOf(flags, "pallium aside list"))
}

func asideDrop(fs *flag.FlagSet) action {
	tenant := fs.String("tenant", "", "`tenant` of the series")
	date := fs.String("day", "", "UTC `day`, such as 2026-11-30")
	window := fs.Int("window", -1, "`number` of the two-hour window, from 0 to 11")
	ingester := fs.String("ingester", "", "`instance` of the ingester that set them aside")
	yes := yesFlag(fs)
	return func(ctx context.Context, s *session, _ []string) error {
		switch {
		case *tenant == "":
			return command.Misused("-tenant is missing; 'pallium aside list' shows all series that are set aside")
		case *date == "":
			return command.Misused("-day is missing; 'pallium aside list' shows all series that are set aside")
		case *window < 0 || *window > 11:
			return command.Misused("-window must be a number from 0 to 11; 'pallium aside list' shows all series that are set aside")
		case *ingester == "":
			return command.Misused("-ingester is missing; 'pallium aside list' shows all series that are set aside")
		}
		n, err := parseDay(*date)
		if err != nil {
			return err
		}
		q := url.Values{"tenant": {*tenant}, "day": {strconv.FormatInt(n, 10)}, "window": {strconv.Itoa(*window)},
			"ingester": {*ingester}}
		found, err := s.setAside(ctx, asideAnswer{Tenant: *tenant, Day: n, Window: *window, Ingester: *ingester})
		if err != nil {
			return err
		}
		warning := fmt.Sprintf("This permanently deletes %d series of tenant %s with %d samples that ingester %s set aside in window %d of %s.",
			found.Series, *tenant, found.Samples, *ingester, *window, dateOf(n))
		if err := s.Confirm(ctx, *yes, warning, *tenant); err != nil {
			return err
		}
		var result struct {
			Message string      `json:"message"`
			Dropped asideAnswer `json:"dropped"`
		}
		a, err := s.call(ctx, http.MethodPost, path("aside", "drop")+"?"+q.Encode(), "", nil, &result)
		if err != nil {
			return err
		}
		return s.print(a, strconv.FormatInt(result.Dropped.Series, 10), func() {
			s.say("dropped %d series with %d samples; %s\n", result.Dropped.Series, result.Dropped.Samples, result.Message)
		})
	}
}
