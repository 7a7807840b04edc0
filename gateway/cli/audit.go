package cli

import (
	"context"
	"flag"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/palliumhq/pallium/gateway/cli/command"
)

type eventAnswer struct {
	Time      string `json:"time"`
	RequestID string `json:"requestId"`
	Actor     string `json:"actor"`
	Action    string `json:"action"`
	Path      string `json:"path"`
	Source    string `json:"source"`
	Status    int    `json:"status"`
	Target    string `json:"target"`
}

func auditVerbs() []command.Command {
	return []command.Command{verb("audit list", "", "list requests that made or tried to make a change, newest first", 0, 0, auditList)}
}

const maxEvents = 500 // the largest page of the API

func auditList(fs *flag.FlagSet) action {
	most := fs.Int("n", 50, "`number` of requests, at most "+strconv.Itoa(maxEvents))
	return func(ctx context.Context, s *session, _ []string) error {
		if *most < 1 || *most > maxEvents {
			return command.Misused("-n %d must be a number from 1 to %d", *most, maxEvents)
		}
		var page struct {
			Items []eventAnswer `json:"items"`
		}
		q := url.Values{"pageSize": {strconv.Itoa(*most)}}
		a, err := s.call(ctx, http.MethodGet, path("audit-events")+"?"+q.Encode(), "", nil, &page)
		if err != nil {
			return err
		}
		var rows [][]string
		var requests []string
		for _, e := range page.Items {
			method, _, _ := strings.Cut(e.Action, " ")
			status := "unknown" // no outcome is recorded, for example while the request is in progress
			if e.Status != 0 {
				status = strconv.Itoa(e.Status)
			}
			what := e.Path
			if e.Target != "" {
				what = e.Target // the object that was created
			}
			requests = append(requests, e.RequestID)
			rows = append(rows, []string{e.Time, status, method, what, e.Actor, e.Source, e.RequestID})
		}
		return s.print(a, strings.Join(requests, "\n"), func() {
			s.sayTable([]string{"TIME", "STATUS", "METHOD", "PATH", "ACTOR", "SOURCE", "REQUEST"}, rows)
		})
	}
}
