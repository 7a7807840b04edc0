package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/gateway/admin"
	"github.com/palliumhq/pallium/gateway/admin/operator"
)

// cluster is a backend that records commands.
type cluster struct {
	did   []string
	empty bool // nothing is lost, set aside or in the ring
}

func (c *cluster) note(format string, args ...any) {
	c.did = append(c.did, fmt.Sprintf(format, args...))
}

func (c *cluster) Flush(_ context.Context, instance string) (operator.Task, error) {
	return func(context.Context) (map[string]any, error) { c.note("flush %q", instance); return nil, nil }, nil
}

func (c *cluster) Compact(_ context.Context, instance string, all bool) (operator.Task, error) {
	return func(context.Context) (map[string]any, error) { c.note("compact %q %v", instance, all); return nil, nil }, nil
}

func (c *cluster) AcceptLoss(_ context.Context, day int64) (int, error) {
	c.note("accept %d", day)
	return 2, nil
}

func (c *cluster) Erasure(_ context.Context, id tenant.ID) (*operator.Erasure, error) {
	if id != "gone" {
		return nil, nil
	}
	return &operator.Erasure{Tenant: id, Objects: 5, Rows: true}, nil
}

func (c *cluster) Asides(context.Context) ([]operator.Aside, error) {
	if c.empty {
		return nil, nil
	}
	return []operator.Aside{{AsideKey: operator.AsideKey{Ingester: "ingester-1", Tenant: "a", Day: 20_000, Window: 3}, Series: 7, Samples: 70, Reason: "too large"}}, nil
}

func (c *cluster) DropAside(_ context.Context, k operator.AsideKey) (operator.Aside, bool, error) {
	c.note("drop %s %s %d %d", k.Tenant, k.Ingester, k.Day, k.Window)
	return operator.Aside{AsideKey: k, Series: 7}, false, nil
}

func (c *cluster) Status(context.Context) (json.RawMessage, error) {
	return json.RawMessage(`{"processes":[{"instance":"b-1","error":"connection refused"},
		{"instance":"i-1","ingester":{"ID":"i-1","HeadBytes":3145728,"Tenants":[{"Tenant":"a","Series":4},{"Tenant":"b","Series":5}],"Packs":[{}]}},
		{"instance":"c-1","compactor":{"Day":-1,"lastRun":"2026-11-30T01:02:03Z","lastError":"the bucket is full","expired":7,"Waiting":[{"Day":20000,"Reason":"an upload is pending"}],
			"Failing":[{"Tenant":"a","Day":20001,"error":"pack is damaged"}]}},
		{"instance":"q-1","queries":[{"id":"00ff","tenant":"acme","path":"/prometheus/api/v1/query_range","query":"sum(up)\u001b[2J","start":"1","end":"2","step":"15s","since":"2026-11-30T01:02:03Z","running":true},
			{"id":"11ee","tenant":"acme","path":"/prometheus/api/v1/read","since":"2026-11-30T01:02:04Z"}]}],
		"members":[{"id":"i-1","state":"ACTIVE","roles":["ingester"],"tokens":128,"share":0.25,"sinceHeartbeat":"1s","unhealthy":true}]}`), nil
}

func (c *cluster) EndQuery(_ context.Context, id string) (json.RawMessage, error) {
	if id == "gone" {
		return nil, nil
	}
	c.note("end %s", id)
	return json.RawMessage(`{"id":"` + id + `","tenant":"acme","query":"sum(up)"}`), nil
}

func (c *cluster) Members(context.Context) ([]operator.Member, error) {
	if c.empty {
		return nil, nil
	}
	return []operator.Member{{ID: "ingester-1", Zone: "zone-a", State: "ACTIVE", Roles: []string{"ingester"}, Tokens: 128, Share: 0.5, Since: "1.2s"},
		{ID: "alive"}, {ID: "x\x1b[2J", State: operator.Untrusted}}, nil
}

func (c *cluster) Losses(context.Context) ([]operator.Loss, error) {
	if c.empty {
		return nil, nil
	}
	return []operator.Loss{{Ingester: "ingester-2", Zone: "zone-b", Day: 20_000, Window: 11}, {Ingester: "ingester-1", Tenant: "a", Day: 20_000, Window: 11},
		{Ingester: "ingester-1", Tenant: "a", Day: 20_003, Window: 0}}, nil
}

func (c *cluster) LostIngesters(context.Context) ([]operator.Loss, error) { return nil, nil }

func (c *cluster) Forget(_ context.Context, id string, force bool) (int, error) {
	if id == "alive" && !force {
		return 0, admin.Fail(409, "force", "instance alive still sends heartbeats: stop it first")
	}
	c.note("forget %s %v", id, force)
	if id == "alive" {
		return 0, nil
	}
	return 4, nil
}

func (c *cluster) Leave(_ context.Context, id string, wait bool) error {
	if id == "needed" {
		return admin.Conflict("instance", "ingester needed cannot leave: writes need this ingester")
	}
	c.note("leave %s %v", id, wait)
	return nil
}

// TestOperator checks that each of the operator's commands executes, and that destructive
// ones do nothing before they are confirmed.
func TestOperator(t *testing.T) {
	c := &cluster{}
	s := newShellWith(t, operator.New(operator.Options{Backend: c, Ring: c, Logger: slog.New(slog.DiscardHandler), Background: func(do func(context.Context)) { do(context.Background()) }}).Routes)
	for _, tt := range []struct {
		line  string
		typed string
		code  int
		want  string
		did   string
	}{
		{line: "flush", want: "all samples acknowledged before the flush", did: `flush ""`},
		{line: "flush -instance i -background", want: "started", did: `flush "i"`},
		{line: "compact", want: "compacted", did: `compact "" false`},
		{line: "compact -instance c -expire-all -q -yes", want: "done\n", did: `compact "c" true`},
		{line: "compact -expire-all", code: 1, want: "Compactors report 7 days that are waiting because of this limit."},
		{line: "compact -expire-all", typed: "y\n", code: 1, want: `nothing was changed: "y" was typed instead of "expire-all"`},
		{line: "compact -expire-all", typed: "expire-all\n", want: "compacted", did: `compact "" true`},
		{line: "status", want: "ingester i-1: 9 series of 2 tenants in the head, 3 MiB; 1 local pack\n"},
		{line: "status", want: "b-1: connection refused\n"},
		{line: "status", want: "compactor c-1: idle, last run 2026-11-30T01:02:03Z\n  the bucket is full\n" +
			"  7 days beyond retention not deleted yet, because the number of deletions in 24 hours is limited; if the clock is right, 'pallium compact -expire-all' deletes them now\n" +
			"  2024-10-04 is waiting: an upload is pending\n  compaction of 2024-10-05 of tenant a fails: pack is damaged\n"},
		{line: "status", want: "ACTIVE, unhealthy"},
		{line: "query list", want: `00ff  acme    2026-11-30T01:02:03Z  running  q-1       1 to 2 by 15s  "sum(up)\x1b[2J"`},
		{line: "query list", want: "11ee  acme    2026-11-30T01:02:04Z  waiting  q-1                      /prometheus/api/v1/read\n"},
		{line: "query list", want: "queries are missing, b-1: connection refused\n"},
		{line: "query list -q", want: "00ff\n11ee\n"},
		{line: "query end 00ff", want: "ended query 00ff of tenant acme: sum(up)\n", did: "end 00ff"},
		{line: "query end gone", code: 1, want: "'pallium query list' shows the queries in progress"},
		{line: "query end", code: 2, want: "ID"},
		{line: "loss list", want: "2024-10-04  22:00-24:00  ingester-2  zone-b  any\n"},
		{line: "loss list", want: "2024-10-07  00:00-02:00  ingester-1          a\n"},
		{line: "loss list -q", want: "2024-10-04\n2024-10-04\n2024-10-07\n"},
		{line: "loss list -o json", want: `"ingester": "ingester-2"`},
		{line: "loss accept 2024-10-04", code: 1, want: "lost samples of 1 window of 2024-10-04 (day 20000)"},
		{line: "loss accept 2024-10-04", code: 1, want: "use -yes in scripts"},
		{line: "loss accept 2024-10-04", typed: "yes\n", code: 1, want: `nothing was changed: "yes" was typed instead of "2024-10-04"`},
		{line: "loss accept 2024-10-04", typed: "2024-10-04\n", want: "accepted 2 losses", did: "accept 20000"},
		{line: "loss accept 2024-10-04 -yes", want: "accepted 2 losses", did: "accept 20000"},
		{line: "loss accept 20000 -yes", code: 2, want: `"20000" is not a UTC day: write it as 2026-11-30; day 20000 of logs is 2024-10-04`},
		{line: "loss accept yesterday", code: 2, want: `"yesterday" is not a UTC day: write it as 2026-11-30`},
		{line: "erasure show gone", want: "objects erased:"},
		{line: "erasure show a", code: 1, want: `tenant "a" is not a deleted tenant`},
		{line: "ring list", want: "ingester-1  ingester  ACTIVE     zone-a  1.2s            50.0%"},
		{line: "ring list", want: `"x\x1b[2J"            UNTRUSTED`},
		{line: "ring list -o json", want: `"sinceHeartbeat": "1.2s"`},
		{line: "ring leave i", want: "i has left the cluster", did: "leave i true"},
		{line: "ring leave i -background", want: "started", did: "leave i false"},
		{line: "ring leave needed", code: 1, want: "pallium ring leave: ingester needed cannot leave: writes need this ingester (request "},
		{line: "ring leave", code: 2, want: "INSTANCE is missing"},
		{line: "ring forget ingester-1", code: 1, want: "nothing was changed"},
		{line: "ring forget ingester-1", typed: "ingester-1", want: "replicas must upload their copies of 4 windows", did: "forget ingester-1 false"},
		{line: "ring forget -yes x\x1b[2J", want: `removed "x\x1b[2J" from the ring; replicas must upload their copies of 4 windows`, did: "forget x\x1b[2J false"},
		{line: "ring forget -yes x\x1b[2J", want: "replicas must upload their copies of 4 windows", did: "forget x\x1b[2J false"},
		{line: "ring forget alive -yes", code: 1, want: "still sends heartbeats: stop it first; -force removes it anyway"},
		{line: "ring forget alive -yes -force", want: "removed alive from the ring; it had no pending windows\n", did: "forget alive true"},
		{line: "ring forget alive -yes -force", want: "If the process still runs, it joins again with its next heartbeat", did: "forget alive true"},
		{line: "aside list", want: "a       2024-10-04  3       ingester-1  7       70       0      too large"},
		{line: "aside drop", code: 2, want: "-tenant is missing"},
		{line: "aside drop -tenant a -day 20000 -window 3 -ingester ingester-1 -yes", code: 2, want: "day 20000 of logs is 2024-10-04"},
		{line: "aside drop -tenant a -day 2024-10-04", code: 2, want: "-window must be a number from 0 to 11"},
		{line: "aside drop -tenant a -day 2024-10-04 -window 3", code: 2, want: "-ingester is missing; 'pallium aside list'"},
		{line: "aside drop -tenant a -day 2024-10-04 -window x", code: 2, want: `invalid value "x" for flag -window`},
		{line: "aside drop -tenant a -day 2024-10-04 -window 3 -ingester ingester-1", code: 1, want: "This permanently deletes 7 series of tenant a with 70 samples that ingester ingester-1 set aside"},
		{line: "aside drop -tenant a -day 2024-10-04 -window 3 -ingester ingester-1", code: 1, want: "nothing was changed"},
		{line: "aside drop -tenant a -day 2024-10-04 -window 3 -ingester ingester-1", typed: "a\r\n", want: "dropped 7 series", did: "drop a ingester-1 20000 3"},
	} {
		c.did, s.typed = nil, tt.typed
		code, out, errs := s.run(tt.line)
		got := out
		if tt.code != 0 {
			got = errs
		}
		if code != tt.code || !strings.Contains(got, tt.want) || strings.Join(c.did, ";") != tt.did {
			t.Errorf("pallium %s\nexit %d, want %d; did %v, want %q\nstdout: %s\nstderr: %s\nwant: %s", tt.line, code, tt.code, c.did, tt.did, out, errs, tt.want)
		}
	}
}

// TestUnknownNames checks destructive commands for something that does not exist: with and without
// -yes, they fail before they ask for a confirmation, and the error names what exists.
func TestUnknownNames(t *testing.T) {
	c := &cluster{}
	s := newShellWith(t, operator.New(operator.Options{Backend: c, Ring: c, Logger: slog.New(slog.DiscardHandler)}).Routes)
	const drop = "aside drop -day 2024-10-04 "
	const existing = `; series are set aside for: -tenant a -day 2024-10-04 -window 3 -ingester ingester-1`
	for _, tt := range []struct {
		line  string
		empty bool
		want  string
	}{
		{"loss accept 2024-10-05", false, "pallium loss accept: no samples of 2024-10-05 are lost, only of 2024-10-04, 2024-10-07\n"},
		{"loss accept 2024-10-05", true, "pallium loss accept: no samples of 2024-10-05 are lost, nor of any other day\n"},
		{"ring forget i", false, `pallium ring forget: instance "i" is not in the ring; its members are ingester-1, alive, "x\x1b[2J"` + "\n"},
		{"ring forget -force i", true, `pallium ring forget: instance "i" is not in the ring, which is empty` + "\n"},
		{drop + "-tenant b -window 3 -ingester ingester-1", false,
			`pallium aside drop: no series of tenant "b" in window 3 of 2024-10-04 are set aside by ingester "ingester-1"` + existing + "\n"},
		{drop + "-tenant a -window 4 -ingester ingester-1", false, existing},
		{drop + "-tenant a -window 3 -ingester ingester-2", false, existing},
		{"aside drop -day 2024-10-05 -tenant a -window 3 -ingester ingester-1", false, existing},
		{drop + "-tenant a -window 3 -ingester ingester-1", true, "; no other series are set aside either\n"},
	} {
		for _, yes := range []string{"", " -yes"} {
			c.empty = tt.empty
			code, out, errs := s.run(tt.line + yes)
			if code != 1 || out != "" || !strings.Contains(errs, tt.want) || strings.Contains(errs, "This ") || len(c.did) > 0 {
				t.Errorf("pallium %s%s: exit %d, did %v\n%s%s\nwant: %s", tt.line, yes, code, c.did, out, errs, tt.want)
			}
		}
	}
	c.empty = true
	if out := s.must("loss list"); out != "no samples are lost\n" {
		t.Errorf("loss list: %q", out)
	}
	if out := s.must("loss list -q") + s.must("loss list -o json"); out != "{\n  \"items\": []\n}\n" {
		t.Errorf("loss list for scripts: %q", out)
	}
}

// TestFirstOf checks that a long list of names is shortened.
func TestFirstOf(t *testing.T) {
	if got := firstOf([]string{"1", "2", "3", "4", "5", "6", "7"}, "pallium ring list"); got != "1, 2, 3, 4, 5 and 2 more: 'pallium ring list' shows all" {
		t.Errorf("firstOf of seven names = %q", got)
	}
}

// TestOneProcess checks that without a cluster commands for the ring fail, and commands for losses
// work.
func TestOneProcess(t *testing.T) {
	s := newShellWith(t, operator.New(operator.Options{Backend: &cluster{empty: true}, Logger: slog.New(slog.DiscardHandler)}).Routes)
	for line, want := range map[string]string{
		"ring list": "has no ring", "ring forget ingester-1": "has no ring", "loss accept 2024-10-04": "no samples of 2024-10-04 are lost",
	} {
		if code, _, errs := s.run(line); code != 1 || !strings.Contains(errs, want) || strings.Contains(errs, "This permanently") {
			t.Errorf("%s: exit %d, %s", line, code, errs)
		}
	}
	if out := s.must("loss list"); out != "no samples are lost\n" {
		t.Errorf("loss list: %q", out)
	}
}

// TestDeleteTenant checks that the deletion of a tenant shows what is lost and requires
// the tenant's name.
func TestDeleteTenant(t *testing.T) {
	s := newShell(t)
	s.must("token issue -create-tenant -tenant a -scopes metrics:read -name dashboards")
	s.must("token issue -tenant a -scopes metrics:write -name prometheus")
	for _, typed := range []string{"", "yes\n", "b\n", "a b\n"} {
		s.typed = typed
		code, _, errs := s.run("tenant delete a")
		if code != 1 || !strings.Contains(errs, "nothing was changed") {
			t.Errorf("typed %q: exit %d, %s", typed, code, errs)
		}
		for _, want := range []string{"all its samples", "2 active API keys (", "prometheus", "2 access policies", "can never be used again", "Type a to continue: "} {
			if !strings.Contains(errs, want) {
				t.Errorf("the warning does not contain %q: %s", want, errs)
			}
		}
	}
	s.typed = "a\n"
	if code, out, _ := s.run("tenant delete a"); code != 0 || out != "deleted a\n" {
		t.Errorf("exit %d, %s", code, out)
	}
}

// TestBlockedQueries checks that an operator can set, see and remove a list of queries.
func TestBlockedQueries(t *testing.T) {
	s := newShell(t)
	s.must("tenant create a")
	if out := s.must("limits show a"); !strings.Contains(out, "(no query is blocked)") {
		t.Errorf("without a list: %s", out)
	}
	code, out, _ := s.runArgs("limits", "set", "a", "blocked_queries=a > 1\n~.*{b=\"c\"}.*")
	if want := `blocked_queries: (no query is blocked) -> a > 1\n~.*{b="c"}.*` + "\n"; code != 0 || out != want {
		t.Errorf("set: %d %q, want %q", code, out, want)
	}
	for _, line := range []string{"limits show a", "limits show a -q", "tenant show a"} {
		if out := s.must(line); !strings.Contains(out, `a > 1\n~.*{b="c"}.*`) {
			t.Errorf("%s: %q", line, out)
		}
	}
	if code, _, errs := s.runArgs("limits", "set", "a", "blocked_queries=a\n~("); code != 2 || !strings.Contains(errs, "limit blocked_queries: line 2: error parsing regexp") {
		t.Errorf("invalid list: %d %s", code, errs)
	}
	if out := s.must("limits set a blocked_queries="); !strings.Contains(out, "-> (no query is blocked)") {
		t.Errorf("removed: %q", out)
	}
	if out := s.must("limits describe"); !strings.Contains(out, "blocked_queries (queries, default empty; empty means no query is blocked)\n") {
		t.Errorf("describe: %s", out)
	}
}

// TestChanges checks commands that change existing objects.
func TestChanges(t *testing.T) {
	s := newShell(t)
	s.must("tenant create a -display-name A -limit max_query_steps=5")
	s.must("limits plans create gold -limit max_active_series=7")
	if out := s.must("tenant set a -plan gold"); out != "plan: (none) -> gold\n" {
		t.Errorf("set plan: %q", out)
	}
	if out := s.must("tenant set a -plan gold"); out != "tenant a is unchanged\n" {
		t.Errorf("set the same plan: %q", out)
	}
	if out := s.must("tenant set a -display-name B"); out != "display name: A -> B\n" {
		t.Errorf("set display name: %q", out)
	}
	out := s.must("limits show a")
	for _, want := range []string{"max_active_series", "plan gold", "override", "default"} {
		if !strings.Contains(out, want) {
			t.Errorf("limits show does not contain %q: %s", want, out)
		}
	}
	if out := s.must(`tenant set a -plan=`); out != "plan: gold -> (none)\n" || strings.Contains(s.must("limits show a"), "plan gold") {
		t.Errorf("remove the plan: %q", out)
	}
	if code, _, errs := s.run("tenant set a"); code != 2 || !strings.Contains(errs, "limits set") {
		t.Errorf("nothing to set: %d %s", code, errs)
	}
	s.must("tenant create b")
	s.must("policy create p -tenants a -scopes metrics:read")
	if out := s.must("policy set p -tenants a,b -scopes metrics:read,metrics:write"); out != "tenants: a -> a,b\nscopes: metrics:read -> metrics:read,metrics:write\n" {
		t.Errorf("policy set: %q", out)
	}
	if out := s.must("policy set p -tenants b,a"); out != "access policy p is unchanged\n" {
		t.Errorf("policy set: %q", out)
	}
	if code, _, errs := s.run("policy set p"); code != 2 || !strings.Contains(errs, "nothing to change: set -tenants") {
		t.Errorf("policy set without flags: %d %s", code, errs)
	}
	s.must("token issue -policy p -name n")
	id := strings.TrimSpace(s.must("token list -q"))
	if out := s.must("token show " + id); !strings.Contains(out, "active") || !strings.Contains(out, "a, b") {
		t.Errorf("token show: %s", out)
	}
	s.must("token issue -tenant b -scopes metrics:read -name other")
	if out := s.must("token list -name n -q"); out != id+"\n" {
		t.Errorf("token list of a name: %s", out)
	}
	if out := s.must("token list -tenant b -name other -o json"); !strings.Contains(out, `"other"`) || strings.Contains(out, id) {
		t.Errorf("token list of a name: %s", out)
	}
	if out := s.must("token list -tenant a -name other -o json"); out != "{\n  \"items\": []\n}\n" {
		t.Errorf("token list of a name: %s", out)
	}
	s.must("token delete -yes " + strings.TrimSpace(s.must("token list -name other -q")))
	s.must("token delete -yes " + id)
	if out := s.must("token list -q"); out != "" {
		t.Errorf("a deleted token is listed: %s", out)
	}
	if code, _, errs := s.run("token rotate x -grace 31d"); code != 2 || !strings.Contains(errs, "the maximum is 30d") {
		t.Errorf("a long grace: %d %s", code, errs)
	}
}

// TestWrapped checks that only a line with a single word is longer than the width.
func TestWrapped(t *testing.T) {
	text := strings.Repeat("word ", 40) + strings.Repeat("x", 90) + " end"
	lines := strings.Split(strings.TrimSuffix(wrapped(text, "  ", 40), "\n"), "\n")
	if got := strings.Join(strings.Fields(strings.Join(lines, " ")), " "); got != strings.Join(strings.Fields(text), " ") {
		t.Errorf("wrapped text has other words: %s", got)
	}
	if i := slices.IndexFunc(lines, func(l string) bool { return len(l) > 40 && !strings.Contains(l, "xxx") || !strings.HasPrefix(l, "  ") }); i >= 0 {
		t.Errorf("line %d: %q", i, lines[i])
	}
}

// TestDays checks that only dates are accepted as days.
func TestDays(t *testing.T) {
	for text, want := range map[string]int64{"1970-01-01": 0, "2024-10-04": 20_000, "2261-12-31": 106_650} {
		if got, err := parseDay(text); err != nil || got != want || dateOf(got) != text {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "2026", "-5", "20000", "106651", "1969-12-31", "2024-10-4", "2024-02-30", "2024-10-04T00:00:00Z", "today"} {
		got, err := parseDay(text)
		if err == nil || !strings.Contains(err.Error(), "is not a UTC day: write it as 2026-11-30") {
			t.Errorf("%q: day %d, error %v; want an error with an example", text, got, err)
			continue
		}
		if hint := strings.Contains(err.Error(), "of logs is"); hint != (text == "20000") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
