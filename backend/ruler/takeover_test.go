package ruler

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"

	"github.com/palliumhq/pallium/authn/tenant"
)

// TestTakeoverNotifies checks that a takeover that evaluates slots late sends each alert once, in its state at the last
// slot: an alert that was resolved in between is not sent as active.
func TestTakeoverNotifies(t *testing.T) {
	const none = "resolved 0001-01-01"
	for _, c := range []struct {
		what   string
		hold   int
		active func(ago time.Duration) bool
		fails  time.Duration // evaluations during this last time fail
		want   int           // number of notifications
		firing bool
	}{
		{"active", 0, func(time.Duration) bool { return true }, 0, 1, true},
		{"became active", 0, func(ago time.Duration) bool { return ago < 10*time.Second }, 0, 1, true},
		{"resolved", 0, func(ago time.Duration) bool { return ago > 10*time.Second }, 0, 1, false},
		{"active and resolved between", 0, func(ago time.Duration) bool { return ago > 10*time.Second && ago < 15*time.Second }, 0, 1, false},
		{"resolved and pending again", 5, func(ago time.Duration) bool { return ago > 10*time.Second || ago < 4*time.Second }, 0, 1, false},
		{"resolved, and then the rule fails", 0, func(ago time.Duration) bool { return ago > 10*time.Second }, 5 * time.Second, 1, false},
		{"never active", 0, func(time.Duration) bool { return false }, 0, 0, false},
		{"pending", 300, func(time.Duration) bool { return true }, 0, 0, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				d := group1("g", rulefmt.Rule{Alert: "A", Expr: "up", For: seconds(c.hold)})
				d.Group.Interval = seconds(2)
				b := newBench(6*time.Second, func(o *Options) {
					o.Rules.(*fakeRules).stored("a", d)
					o.Query = func(ctx context.Context, id tenant.ID, expr string, at time.Time) (promql.Vector, error) {
						switch ago := start.Sub(at); {
						case ago < c.fails:
							return nil, errInjected
						case c.active(ago):
							v, err := one(ctx, id, expr, at)
							if ago >= 2*time.Second {
								v[0].F = 2 // not at the last slot
							}
							return v, err
						}
						return nil, nil
					}
				})
				defer b.close()
				synctest.Wait()
				list := b.notes.list
				if len(list) != c.want {
					t.Fatalf("%d notifications, want %d: %q", len(list), c.want, list)
				}
				for _, n := range list {
					if strings.Contains(n, none) != c.firing || c.firing && !strings.Contains(n, "{} 1 active") {
						t.Errorf("the notification is %s, want firing %v", n, c.firing)
					}
				}
			})
		})
	}
}

// TestNewGroup checks that a group that was stored after the ruler gained its share is evaluated from its next slot on, and is
// not taken over, although the ruler reads it soon after it gained the share.
func TestNewGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(0, nil)
		defer b.close()
		time.Sleep(3 * time.Second)
		d := group1("g", rulefmt.Rule{Alert: "A", Expr: "up"}, rulefmt.Rule{Record: "r", Expr: "up"})
		d.Group.Interval = seconds(1)
		stored := time.Now()
		b.define("a", d)
		if pushed := b.take(); len(pushed) != 0 {
			t.Errorf("a new group was evaluated at slots before it was stored: %q", pushed)
		}
		time.Sleep(2 * time.Second)
		a := b.State("a")[0].Rules[0].Alerts
		if len(a) != 1 || a[0].ActiveAt.Before(stored) || len(b.notes.list) == 0 {
			t.Errorf("alerts are %+v, want one that is active since the group was stored at %v", a, stored)
		}
	})
}

// TestTakeoverOrNew checks which groups are taken over.
func TestTakeoverOrNew(t *testing.T) {
	gained := time.Now()
	hold := &heldShare{gained: gained}
	at := func(d time.Duration) time.Time { return time.UnixMilli(gained.Add(d).UnixMilli()) }
	for _, c := range []struct {
		what   string
		before time.Time // field Written of the version that was read before; zero if none was read
		now    time.Time // field Written of the version that is read now
		want   bool
	}{
		{"unknown time", time.Time{}, time.Time{}, true},
		{"stored before", time.Time{}, at(-time.Second), true},
		{"stored in the same millisecond", time.Time{}, at(0), false},
		{"stored after", time.Time{}, at(time.Second), false},
		{"changed after", at(-time.Second), at(time.Second), true},
		{"stored and changed after", at(time.Second), at(2 * time.Second), false},
	} {
		d := group1("g")
		before := map[string]*definition{}
		if d.Written = c.before; !c.before.IsZero() {
			old := definitions("a", []Definition{d}, nil, 1)[0]
			before[old.key()] = old
		}
		d.Written = c.now
		g := create(&rulerTenant{id: "a"}, definitions("a", []Definition{d}, before, 1)[0], hold)
		if got := g.takeover != nil; got != c.want {
			t.Errorf("%s: the group is taken over: %v, want %v", c.what, got, c.want)
		}
	}
}
