package cli

import (
	"context"
	"flag"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/palliumhq/pallium/gateway/cli/command"
)

type queryAnswer struct {
	ID       string    `json:"id"`
	Tenant   string    `json:"tenant"`
	Path     string    `json:"path"`
	Text     string    `json:"query"`
	Start    string    `json:"start"`
	End      string    `json:"end"`
	Step     string    `json:"step"`
	Since    time.Time `json:"since"`
	Running  bool      `json:"running"`
	instance string
}

func queryVerbs() []command.Command {
	return []command.Command{
		verb("query list", "", "list the queries of tenants that are in progress, the oldest first", 0, 0, queryList),
		verb("query end", "ID", "end a query; its client gets an error that says so", 1, 1, queryEnd),
	}
}

func queryList(*flag.FlagSet) action {
	return func(ctx context.Context, s *session, _ []string) error {
		var st struct {
			Processes []struct {
				Instance string
				Error    string
				Queries  []queryAnswer
			}
			RingError string
		}
		a, err := s.call(ctx, http.MethodGet, path("status"), "", nil, &st)
		if err != nil {
			return err
		}
		var rows [][]string
		var ids, missing []string
		for _, p := range st.Processes {
			if p.Error != "" {
				missing = append(missing, p.Instance+": "+p.Error)
			}
			for i := range p.Queries {
				q := &p.Queries[i]
				q.instance = p.Instance
				ids, rows = append(ids, q.ID), append(rows, q.row())
			}
		}
		if st.RingError != "" {
			missing = append(missing, "ring: "+st.RingError)
		}
		return s.print(a, strings.Join(ids, "\n"), func() {
			if len(rows) == 0 {
				s.say("no queries are in progress\n")
			} else {
				s.sayTable([]string{"ID", "TENANT", "SINCE", "STATE", "INSTANCE", "RANGE", "QUERY"}, rows)
			}
			for _, m := range missing {
				s.say("queries are missing, %s\n", printable(m)) // texts from other processes may contain control characters
			}
		})
	}
}

// row returns the query as a row of a table.
func (q *queryAnswer) row() []string {
	state := "waiting"
	if q.Running {
		state = "running"
	}
	times := q.Start
	if q.End != "" {
		times += " to " + q.End
	}
	if q.Step != "" {
		times += " by " + q.Step
	}
	text := q.Text
	if text == "" {
		text = q.Path
	}
	return []string{q.ID, q.Tenant, q.Since.UTC().Format(time.RFC3339), state, printable(q.instance), printable(times), printable(text)}
}

func queryEnd(*flag.FlagSet) action {
	return func(ctx context.Context, s *session, args []string) error {
		var result struct {
			Query queryAnswer `json:"query"`
		}
		a, err := s.call(ctx, http.MethodPost, path("queries", "end")+"?"+url.Values{"id": {args[0]}}.Encode(), "", nil, &result)
		if err != nil {
			return err
		}
		q := &result.Query
		return s.print(a, q.ID, func() { s.say("ended query %s of tenant %s: %s\n", q.ID, q.Tenant, printable(q.Text)) })
	}
}
