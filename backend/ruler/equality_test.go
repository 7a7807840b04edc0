package ruler

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"

	"github.com/palliumhq/pallium/backend/rulestate"
)

const testTenant = "t1"

// inPrometheus evaluates groups as Prometheus does after a reload, from a time on for a while.
// If restart is set, it evaluates them as after a restart: it also evaluates the last evaluation time before `from`,
// and restores alerts after the second evaluation.
func inPrometheus(t *testing.T, d *database, groups []rulefmt.RuleGroup, n *notifications, from, to time.Time, restart bool) []*rules.Group {
	t.Helper()
	external, err := url.Parse("http://example.com")
	if err != nil {
		t.Fatal(err)
	}
	o := &rules.ManagerOptions{ExternalURL: external, QueryFunc: d.query, AppendableV2: reference{d}, Queryable: d, Context: t.Context(),
		NotifyFunc: func(_ context.Context, expr string, alerts ...*rules.Alert) { n.add(expr, alerts) },
		Logger:     slog.New(slog.DiscardHandler), ResendDelay: resendDelay, Metrics: rules.NewGroupMetrics(nil),
		OutageTolerance: outageTolerance, ForGracePeriod: forGracePeriod}
	type step struct {
		at      time.Time
		g       *rules.Group
		restore bool
	}
	var steps []step
	var out []*rules.Group
	for _, def := range groups {
		g := rules.NewGroup(rules.GroupOptions{Name: def.Name, File: testTenant + "/ns", Interval: time.Duration(def.Interval), Limit: def.Limit,
			Rules: rulesOf(t, def, !restart), QueryOffset: (*time.Duration)(def.QueryOffset), Opts: o})
		out = append(out, g)
		first := g.EvalTimestamp(from.UnixNano())
		if !restart {
			first = first.Add(g.Interval())
		}
		for at := first; !at.After(to); at = at.Add(g.Interval()) {
			steps = append(steps, step{at, g, restart && at.Equal(first.Add(g.Interval()))})
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int { return a.at.Compare(b.at) })
	for _, s := range steps {
		rules.DefaultEvalIterationFunc(t.Context(), s.g, s.at)
		if s.restore {
			s.g.RestoreForState(s.at)
		}
	}
	return out
}

// rulesOf returns the rules of a group as Prometheus' manager creates them.
func rulesOf(t *testing.T, def rulefmt.RuleGroup, restored bool) []rules.Rule {
	t.Helper()
	p := parser.NewParser(parser.Options{})
	var list []rules.Rule
	for _, r := range def.Rules {
		expr, err := p.ParseExpr(r.Expr)
		if err != nil {
			t.Fatal(err)
		}
		set := rules.FromMaps(def.Labels, r.Labels)
		if r.Record != "" {
			list = append(list, rules.NewRecordingRule(r.Record, expr, set))
			continue
		}
		list = append(list, rules.NewAlertingRule(r.Alert, expr, time.Duration(r.For), time.Duration(r.KeepFiringFor), set,
			labels.FromMap(r.Annotations), labels.EmptyLabels(), "http://example.com", restored, slog.New(slog.DiscardHandler)))
	}
	return list
}

// member is one of several rulers over a database.
type member struct {
	*Ruler
	leases *fakeLeases
	stop   context.CancelFunc
	done   chan struct{}
}

func startMember(o Options) *member {
	leases := &fakeLeases{}
	o.Shares = leases
	ctx, cancel := context.WithCancel(context.Background())
	m := &member{Ruler: New(o), leases: leases, stop: cancel, done: make(chan struct{})}
	go func() {
		m.Run(ctx)
		close(m.done)
	}()
	return m
}

func (m *member) gain(share int, number uint64, idle time.Duration) {
	m.leases.set(share, number)
	m.Gained(share, number, idle)
}

// release leaves a share and waits until its evaluations have ended.
func (m *member) release(share int) {
	ended := make(chan struct{})
	m.Lost(share, sync.OnceFunc(func() { close(ended) }))
	<-ended
	m.leases.set(share, 0)
}

func (m *member) close() {
	m.stop()
	<-m.done
}

// describe returns the alerts of groups as text.
func describe(groups []rulestate.Group) string {
	out := ""
	for _, g := range groups {
		for _, r := range g.Rules {
			out += fmt.Sprintf("%s %s %s %q\n", g.Name, r.Name, r.Health, r.LastError)
			if r.Type == rulestate.Recording {
				continue
			}
			for _, a := range r.Alerts {
				out += fmt.Sprintf("  %v %v %s %v %s\n", a.Labels, a.Annotations, a.State, a.ActiveAt, a.Value)
			}
		}
	}
	return out
}

// TestEquality compares the evaluations of rules during an hour with those of Prometheus over an
// equal database: recorded samples, which must be equal bit by bit, staleness markers, alerts and
// notifications. In one case one ruler evaluates the rules. In others, groups move between rulers at
// random times, because a ruler stops or crashes. In the last, all rulers are stopped for ten
// minutes, which is compared with a restart of Prometheus.
func TestEquality(t *testing.T) {
	for _, moves := range []string{"none", "stop", "crash", "restart"} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprint(moves, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { equality(t, seed, moves) })
			})
		}
	}
}

func equality(t *testing.T, seed uint64, moves string) {
	const length, pause = 240 * 15 * time.Second, 10 * time.Minute
	start := time.Now()
	groups := loadGroups(t, "equality.yaml")
	if moves == "crash" || moves == "restart" {
		// A rule that reads results of another group sees them only after that group was taken over, too.
		mixed := &groups[len(groups)-1]
		mixed.Rules = slices.DeleteFunc(mixed.Rules, func(r rulefmt.Rule) bool { return r.Alert == "AnyFiring" })
	}
	ours, theirs := newDatabase(t), newDatabase(t)
	for _, d := range []*database{ours, theirs} {
		// There are no samples from before the rules existed, because a takeover may repeat evaluations at such times.
		d.input(seed, start, start.Add(length+time.Minute))
	}
	source, n, want := &fakeRules{}, &notifications{}, &notifications{}
	m := startMember(options(ours, source, nil, n))
	synctest.Wait()
	for share := range m.opts.Count {
		m.gain(share, 1, 0)
	}
	source.set(testTenant, define("ns", groups...)...)
	m.Wake(testTenant)
	synctest.Wait()
	end := start.Add(length + 3*time.Second)
	var state []*rules.Group
	switch moves {
	case "none":
		time.Sleep(time.Until(end))
		state = inPrometheus(t, theirs, groups, want, start, end, false)
	case "restart":
		time.Sleep(length / 4)
		m.close()
		inPrometheus(t, theirs, groups, want, start, time.Now(), false)
		time.Sleep(pause)
		again := time.Now()
		m = startMember(options(ours, source, nil, n))
		synctest.Wait()
		for share := range m.opts.Count {
			m.gain(share, 2, pause)
		}
		time.Sleep(time.Until(end))
		state = inPrometheus(t, theirs, groups, want, again, end, true)
	default:
		m = move(t, m, ours, source, n, rand.New(rand.NewPCG(seed, 3)), moves == "crash", end)
		state = inPrometheus(t, theirs, groups, want, start, end, false)
	}
	synctest.Wait()
	got := m.State(testTenant)
	m.close()
	compare(t, ours, theirs, n, want, moves == "none")
	wantState := []rulestate.Group{}
	for _, g := range state {
		s := rulestate.Group{Name: g.Name()}
		for _, rule := range g.Rules() {
			s.Rules = append(s.Rules, stateOf(rule))
		}
		wantState = append(wantState, s)
	}
	slices.SortFunc(wantState, func(a, b rulestate.Group) int { return strings.Compare(a.Name, b.Name) })
	if got, want := describe(got), describe(wantState); got != want {
		t.Errorf("state is\n%s, want\n%s", got, want)
	}
}

// compare compares recorded samples and notifications with those of Prometheus. If `every` is set,
// it compares all notifications, otherwise only the starts and ends of alerts.
func compare(t *testing.T, ours, theirs *database, got, want *notifications, every bool) {
	t.Helper()
	if d := differences(ours.recorded, theirs.recorded); d != "" {
		t.Fatalf("recorded samples differ:\n%s", d)
	}
	if every && !slices.Equal(got.list, want.list) {
		t.Errorf("%d notifications differ from the %d of Prometheus", len(got.list), len(want.list))
	}
	for name, list := range want.changes {
		if got := got.changes[name]; !slices.Equal(got, list) {
			t.Errorf("alert %s was notified as\n%v, want\n%v", name, got, list)
		}
	}
	if len(got.changes) != len(want.changes) || len(want.changes) < 20 {
		t.Errorf("%d alerts were notified, want %d, and at least 20", len(got.changes), len(want.changes))
	}
}

// move makes groups move between rulers at random times until `end`.
func move(t *testing.T, m *member, d *database, source *fakeRules, n *notifications, rng *rand.Rand, crash bool, end time.Time) *member {
	t.Helper()
	time.Sleep(2 * time.Minute) // so that a takeover does not repeat evaluations at times before the rules existed
	for number := uint64(2); ; number++ {
		pause := time.Duration(rng.Int64N(int64(4 * time.Minute)))
		if time.Until(end) < pause+time.Minute {
			time.Sleep(time.Until(end))
			return m
		}
		time.Sleep(pause)
		next := startMember(options(d, source, nil, n))
		synctest.Wait()
		idle := time.Duration(0)
		for share := range m.opts.Count {
			if crash {
				m.leases.set(share, 0)
			} else {
				m.release(share)
			}
		}
		if crash {
			m.close()
			wait := 10*time.Second + time.Duration(rng.Int64N(int64(5*time.Second)))
			time.Sleep(wait)
			idle = wait - 8*time.Second
		}
		for share := range next.opts.Count {
			next.gain(share, number, idle)
		}
		synctest.Wait()
		m.close()
		m = next
	}
}
