package cli

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/palliumhq/pallium/gateway/cli/command"
)

type lossAnswer struct {
	Ingester string `json:"ingester"`
	Zone     string `json:"zone"`
	Tenant   string `json:"tenant"`
	Day      int64  `json:"day"`
	Window   int    `json:"window"`
}

func lossVerbs() []command.Command {
	return []command.Command{
		verb("loss list", "", "list windows whose samples were lost with a disk or log and are not yet uploaded by a replica", 0, 0, lossList),
		destroys(verb("loss accept", "DAY", "accept that a UTC day is compacted and queried without its lost samples", 1, 1,
			lossAccept)),
	}
}

func (s *session) losses(ctx context.Context) ([]lossAnswer, error) {
	all, _, err := items[lossAnswer](ctx, s, path("losses"), url.Values{})
	return all, err
}

func lossList(*flag.FlagSet) action {
	return func(ctx context.Context, s *session, _ []string) error {
		parsed, raw, err := items[lossAnswer](ctx, s, path("losses"), url.Values{})
		if err != nil {
			return err
		}
		if len(parsed) == 0 && s.format == "text" && !s.quiet {
			s.say("no samples are lost\n")
			return nil
		}
		name := func(l lossAnswer) string { return dateOf(l.Day) }
		return printList(s, parsed, raw, name, []string{"DAY", "WINDOW", "INGESTER", "ZONE", "TENANT"}, func(l lossAnswer) []string {
			tenant := l.Tenant
			if tenant == "" {
				tenant = "any"
			}
			return []string{dateOf(l.Day), windowOf(l.Window), l.Ingester, l.Zone, tenant}
		})
	}
}

func lossAccept(fs *flag.FlagSet) action {
	yes := yesFlag(fs)
	return func(ctx context.Context, s *session, args []string) error {
		n, err := parseDay(args[0])
		if err != nil {
			return err
		}
		windows, err := s.lostWindows(ctx, n)
		if err != nil {
			return err
		}
		warning := fmt.Sprintf("This permanently gives up the lost samples of %s of %s (day %d). Replicas that have copies upload them "+
			"automatically: 'pallium loss list' shows the windows that are still missing.", command.Counted(windows, "window"), dateOf(n), n)
		if err := s.Confirm(ctx, *yes, warning, args[0]); err != nil {
			return err
		}
		var result struct {
			Intents int `json:"intents"`
		}
		a, err := s.call(ctx, http.MethodPost, path("compact", "accept-loss")+"?day="+strconv.FormatInt(n, 10), "", nil, &result)
		if err != nil {
			return err
		}
		return s.print(a, strconv.Itoa(result.Intents), func() { s.say("accepted %s\n", lossesOf(result.Intents)) })
	}
}

func lossesOf(n int) string {
	if n == 1 {
		return "1 loss"
	}
	return fmt.Sprintf("%d losses", n)
}

// lostWindows returns the number of a day's windows with lost samples. If there are none, it
// returns an error that names the days that have such windows.
func (s *session) lostWindows(ctx context.Context, day int64) (int, error) {
	all, err := s.losses(ctx)
	if err != nil {
		return 0, err
	}
	windows := map[int]bool{}
	var days []string
	for _, l := range all {
		if l.Day == day {
			windows[l.Window] = true
		}
		days = append(days, dateOf(l.Day))
	}
	slices.Sort(days)
	switch {
	case len(windows) > 0:
		return len(windows), nil
	case len(days) == 0:
		return 0, fmt.Errorf("no samples of %s are lost, nor of any other day", dateOf(day))
	}
	return 0, fmt.Errorf("no samples of %s are lost, only of %s", dateOf(day), firstOf(slices.Compact(days), "pallium loss list"))
}
