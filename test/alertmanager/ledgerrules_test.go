package alertmanager

import (
	"strings"
	"testing"
	"time"
)

// TestLedger checks that the ledger finds the events that must not happen, and nothing else. Times are in seconds.
func TestLedger(t *testing.T) {
	start := time.Unix(1_000_000_000, 0)
	at := func(n int) time.Time { return start.Add(time.Duration(n) * time.Second) }
	type event struct {
		second  int
		episode int
		firing  bool
	}
	fires, resolved := func(s, e int) event { return event{s, e, true} }, func(s, e int) event { return event{s, e, false} }
	one := trouble{begin: at(0), end: at(10), after: afterProcess}
	all := trouble{begin: at(0), end: at(100), after: afterProcess, total: true}
	store := trouble{begin: at(0), end: at(100), after: afterStore, store: true}
	for _, c := range []struct {
		name     string
		states   []event
		received []event
		troubles []trouble
		silenced bool
		want     string // expected finding; empty if none is expected
	}{
		{name: "each state once", states: []event{fires(0, 1), resolved(60, 1), fires(120, 2)},
			received: []event{fires(5, 1), resolved(65, 1), fires(125, 2)}},
		{name: "a state that was not notified", states: []event{fires(0, 1), resolved(60, 1)},
			received: []event{fires(5, 1)}, want: "missed: g 1 resolved"},
		{name: "a first state that was not notified", states: []event{fires(0, 1)}, want: "missed: g 1 firing"},
		{name: "too short", states: []event{fires(0, 1), resolved(10, 1)}},
		{name: "resolved although it fires", states: []event{fires(0, 1), resolved(60, 1), fires(70, 2)},
			received: []event{fires(5, 1), resolved(65, 1)}, want: "missed: g 2 firing"},
		{name: "delayed by a fault of a process", states: []event{fires(0, 1), resolved(60, 1)}, troubles: []trouble{one}},
		{name: "too late after a fault of a process", states: []event{fires(0, 1)}, troubles: []trouble{one}, want: "missed: g 1 firing"},
		{name: "delayed by a fault of all", states: []event{fires(0, 1), resolved(160, 1)}, troubles: []trouble{all}},
		{name: "delayed by two that overlap", states: []event{fires(0, 1), resolved(79, 1)},
			troubles: []trouble{one, {begin: at(5), end: at(6)}}},
		{name: "of a state that was never", states: []event{fires(0, 1)}, received: []event{fires(5, 1), fires(6, 2)},
			want: "never existed: g 2 firing"},
		{name: "of a state to come", states: []event{fires(0, 1), resolved(20, 1)}, received: []event{fires(5, 1), resolved(19, 1)},
			want: "never existed: g 1 resolved"},
		{name: "resolved and never notified before", states: []event{fires(0, 1), resolved(10, 1)}, received: []event{resolved(15, 1)},
			want: "never existed: g 1 resolved"},
		{name: "resolved twice and not notified in between", states: []event{fires(0, 1), resolved(10, 1), fires(20, 2), resolved(30, 2)},
			received: []event{fires(5, 1), resolved(15, 1), resolved(35, 2)}, want: "never existed: g 2 resolved"},
		{name: "twice without a fault", states: []event{fires(0, 1)}, received: []event{fires(5, 1), fires(25, 1)}, want: "repeated: g 1 firing"},
		{name: "twice after a fault", states: []event{fires(0, 1)}, received: []event{fires(5, 1), fires(45, 1)}, troubles: []trouble{one}},
		{name: "twice long after a fault", states: []event{fires(0, 1)}, received: []event{fires(5, 1), fires(90, 1)}, troubles: []trouble{one},
			want: "repeated: g 1 firing"},
		{name: "silenced", states: []event{fires(0, 1), resolved(60, 1)}, silenced: true},
		{name: "while it was silenced", states: []event{fires(0, 1)}, received: []event{fires(15, 1)}, silenced: true,
			want: "silenced: g 1 firing"},
		{name: "while silences could not be read", states: []event{fires(0, 1)}, received: []event{fires(125, 1)}, silenced: true,
			troubles: []trouble{store}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := &ledger{silences: map[string][2]time.Time{}, arrived: make(chan struct{})}
			for _, s := range c.states {
				l.begin(&state{group: "g", episode: s.episode, firing: s.firing, begin: at(s.second), silenced: c.silenced})
			}
			for _, r := range c.received {
				l.answer(l.got(receipt{group: "g", episode: r.episode, firing: r.firing, at: at(r.second)}))
			}
			for _, fault := range c.troubles {
				l.troubles = append(l.troubles, &fault)
			}
			if c.silenced {
				l.silence("g", at(0), at(200))
			}
			got := l.findings(at(0), at(160))
			if c.want == "" && len(got) == 0 {
				return
			}
			if c.want == "" || len(got) != 1 || !strings.HasPrefix(got[0], c.want) {
				t.Errorf("findings %q, want one that begins with %q, or none if it is empty", got, c.want)
			}
		})
	}
}
