package cli

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"unicode"

	"github.com/palliumhq/pallium/gateway/cli/command"
)

type ringAnswer struct {
	Members []memberAnswer `json:"members"`
}

type memberAnswer struct {
	ID        string   `json:"id"`
	Address   string   `json:"address"`
	Zone      string   `json:"zone"`
	Roles     []string `json:"roles"`
	State     string   `json:"state"`
	Unhealthy bool     `json:"unhealthy"`
	Since     string   `json:"sinceHeartbeat"`
	Tokens    int      `json:"tokens"`
	Share     float64  `json:"share"`
}

func ringVerbs() []command.Command {
	return []command.Command{
		verb("ring list", "", "list the members of the ring", 0, 0, ringList),
		destroys(verb("ring leave", "INSTANCE", "make an ingester upload everything and leave the cluster", 1, 1, ringLeave)),
		destroys(verb("ring forget", "INSTANCE", "remove an instance that will not come back", 1, 1, ringForget)),
	}
}

var memberHead = []string{"INSTANCE", "ROLES", "STATE", "ZONE", "LAST HEARTBEAT", "SHARE", "ADDRESS"}

func memberRows(list []memberAnswer) (rows [][]string) {
	for _, m := range list {
		state, share := m.State, ""
		if m.Unhealthy {
			state += ", unhealthy"
		}
		if m.Tokens > 0 {
			share = fmt.Sprintf("%.1f%%", m.Share*100)
		}
		rows = append(rows, []string{printable(m.ID), strings.Join(m.Roles, ","), state, m.Zone, m.Since, share, m.Address})
	}
	return rows
}

// printable returns an ID as it is, or quoted if it has characters that a terminal would interpret:
// anyone who can write to Redis can choose the ID of an untrusted entry.
func printable(id string) string {
	if strings.ContainsFunc(id, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(id)
	}
	return id
}

func ringList(*flag.FlagSet) action {
	return func(ctx context.Context, s *session, _ []string) error {
		var r ringAnswer
		a, err := s.call(ctx, http.MethodGet, path("ring"), "", nil, &r)
		if err != nil {
			return err
		}
		return s.table(a, memberHead, memberRows(r.Members))
	}
}

func ringLeave(fs *flag.FlagSet) action {
	background := fs.Bool("background", false, "return immediately instead of waiting until it has left")
	return func(ctx context.Context, s *session, args []string) error {
		return s.task(ctx, path("ring", "leave"), instanceOf(args[0]), *background, args[0]+" has left the cluster")
	}
}

// inRing returns an error that names the members of the ring if an instance is not among
// them.
func (s *session) inRing(ctx context.Context, id string) error {
	var r ringAnswer
	if _, err := s.call(ctx, http.MethodGet, path("ring"), "", nil, &r); err != nil {
		return err
	}
	var names []string
	for _, m := range r.Members {
		if m.ID == id {
			return nil
		}
		names = append(names, printable(m.ID))
	}
	if len(names) == 0 {
		return fmt.Errorf("instance %q is not in the ring, which is empty", command.Shorten(id))
	}
	return fmt.Errorf("instance %q is not in the ring; its members are %s", command.Shorten(id), firstOf(names, "pallium ring list"))
}

func ringForget(fs *flag.FlagSet) action {
	force := fs.Bool("force", false, "also remove an instance that still sends heartbeats")
	yes := yesFlag(fs)
	return func(ctx context.Context, s *session, args []string) error {
		if err := s.inRing(ctx, args[0]); err != nil {
			return err
		}
		warning := fmt.Sprintf("This removes %s from the ring. If it is an ingester, its disk counts as lost: samples that it did not upload "+
			"must be uploaded by its replicas. For an ingester that still runs, use 'pallium ring leave', which uploads everything first.",
			printable(args[0]))
		if err := s.Confirm(ctx, *yes, warning, args[0]); err != nil {
			return err
		}
		q := instanceOf(args[0])
		if *force {
			q.Set("force", "true")
		}
		var result struct {
			Windows int `json:"pendingWindows"`
		}
		a, err := s.call(ctx, http.MethodPost, path("ring", "forget")+"?"+q.Encode(), "", nil, &result)
		if err != nil {
			return err
		}
		return s.print(a, strconv.Itoa(result.Windows), func() {
			pending := "it had no pending windows"
			if result.Windows > 0 {
				pending = fmt.Sprintf("replicas must upload their copies of %s that it may not have uploaded ('pallium loss list' shows them)",
					command.Counted(result.Windows, "window"))
			}
			s.say("removed %s from the ring; %s\n", printable(args[0]), pending)
			if *force {
				s.say("If the process still runs, it joins again with its next heartbeat: stop it.\n")
			}
		})
	}
}
