package ruler

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"

	"github.com/palliumhq/pallium/authn/tenant"
)

// TestSlots checks the times of evaluations: a constant offset of the group, or multiples of the
// interval if they are aligned.
func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(0, nil)
		defer b.close()
		aligned := group1("aligned", rulefmt.Rule{Record: "r", Expr: "up"})
		aligned.AlignEvaluationTime = true
		b.define("a", aligned)
		time.Sleep(40 * time.Second)
		want := []string{`a {__name__="r", a="b"} at 15000: 1`, `a {__name__="r", a="b"} at 30000: 1`}
		if got := b.take(); !slices.Equal(got, want) {
			t.Errorf("the aligned group wrote %q, want %q", got, want)
		}
		aligned.AlignEvaluationTime = false
		b.define("a", aligned)
		time.Sleep(40 * time.Second)
		b.Ruler.mu.Lock()
		slot := b.tenants["a"].groups["ns\x00aligned"].rules.EvalTimestamp(time.Now().UnixNano())
		b.Ruler.mu.Unlock()
		got := b.take()
		last := fmt.Sprintf(`a {__name__="r", a="b"} at %d: 1`, slot.UnixMilli()-b.start.UnixMilli())
		if len(got) < 2 || got[len(got)-1] != last || slot.UnixMilli()%15_000 == 0 {
			t.Errorf("without alignment the group wrote %q, want the last one %q", got, last)
		}
	})
}

// TestMissed checks that slots that pass during a slow evaluation are skipped and counted.
func TestMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(0, nil)
		defer time.Sleep(time.Minute) // so that the query in progress ends
		defer b.close()
		b.set(func() {
			b.query = func(ctx context.Context, id tenant.ID, expr string, at time.Time) (promql.Vector, error) {
				time.Sleep(50 * time.Second) // three slots pass
				return one(ctx, id, expr, at)
			}
		})
		b.define("a", group1("g", rulefmt.Rule{Record: "r", Expr: "up"}))
		time.Sleep(15*time.Second + 200*time.Second)
		synctest.Wait()
		due, done := b.metric("pallium_ruler_group_evaluations_due_total"), b.metric("pallium_ruler_group_evaluations_done_total")
		missed := b.metric("pallium_ruler_group_evaluations_missed_total")
		if done != 4 || missed < 8 || due != done+missed && due != done+missed+1 {
			t.Errorf("%v slots were due, %v done, %v missed; want 4 done, at least 8 missed, and at most one in progress", due, done, missed)
		}
	})
}

// TestLost checks the evaluations in progress of a share that must be released: while its lease is
// valid, they may continue for 10 seconds; otherwise they are canceled at once.
func TestLost(t *testing.T) {
	for _, c := range []struct {
		what  string
		takes time.Duration // duration of the query
		valid bool
		want  time.Duration
		kept  int // number of written samples
	}{
		{"ends in time", 4 * time.Second, true, 3 * time.Second, 1},
		{"canceled", time.Hour, true, 10 * time.Second, 0},
		{"lease has ended", time.Hour, false, 0, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(0, func(o *Options) { o.Count = 1 })
			defer b.close()
			b.set(func() {
				b.query = func(ctx context.Context, id tenant.ID, expr string, at time.Time) (promql.Vector, error) {
					select {
					case <-ctx.Done():
						return nil, ctx.Err()
					case <-time.After(c.takes):
						return one(ctx, id, expr, at)
					}
				}
			})
			d := group1("g", rulefmt.Rule{Record: "r", Expr: "up"})
			d.AlignEvaluationTime = true
			b.define("a", d)
			time.Sleep(16 * time.Second)
			if !c.valid {
				b.leases.set(0, 0)
			}
			began, ended := time.Now(), make(chan time.Time, 1)
			b.Lost(0, func() { ended <- time.Now() })
			if got := (<-ended).Sub(began); got != c.want {
				t.Errorf("%s: the evaluation ended after %v, want %v", c.what, got, c.want)
			}
			if pushed := b.take(); len(pushed) != c.kept || len(b.State("a")) != 0 {
				t.Errorf("%s: %q were written, want %d samples; state %v", c.what, pushed, c.kept, b.State("a"))
			}
		})
	}
}

// slotsOf returns the slots, in milliseconds since the start, of the samples of one series.
func slotsOf(t *testing.T, pushed []string, name string) []int {
	t.Helper()
	var out []int
	for _, text := range pushed {
		before, rest, _ := strings.Cut(text, " at ")
		if !strings.Contains(before, `"`+name+`"`) {
			continue
		}
		at, _, _ := strings.Cut(rest, ":")
		ms, err := strconv.Atoi(at)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, ms)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// TestWaiting checks that no slot of a group is skipped while takeovers of other groups take long, or while the lease of
// the group's share is not valid.
func TestWaiting(t *testing.T) {
	for _, c := range []struct {
		what       string
		concurrent int
		late       bool // whether slots are evaluated late
	}{
		{"takeovers, one evaluation at a time", 1, true},
		{"takeovers, two evaluations at a time", 2, false},
		{"no lease", 2, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(6*time.Second, func(o *Options) { o.Count = 1 })
			defer b.close()
			b.set(func() {
				b.bounds.Concurrent = c.concurrent
				b.query = func(ctx context.Context, id tenant.ID, expr string, at time.Time) (promql.Vector, error) {
					if expr == "slow" && b.metric("pallium_ruler_group_takeovers_total") < 2 {
						time.Sleep(40 * time.Second)
					}
					return one(ctx, id, expr, at)
				}
			})
			own := group1("own", rulefmt.Rule{Record: "own", Expr: "up"})
			own.AlignEvaluationTime = true
			b.define("a", own)
			time.Sleep(time.Minute)
			if c.what == "no lease" {
				time.Sleep(5 * time.Second) // the lease ends between two slots
				b.leases.set(0, 0)
				time.Sleep(40 * time.Second)
				b.leases.set(0, 1)
			} else {
				all := []Definition{own}
				for _, name := range []string{"c", "d"} {
					slow := group1(name, rulefmt.Rule{Record: name, Expr: "slow"})
					slow.Group.Interval = seconds(300)
					all = append(all, slow)
				}
				b.source.stored("a", all...)
				b.Wake("a")
			}
			time.Sleep(10 * time.Minute)
			got := slotsOf(t, b.take(), "own")
			if want := (got[len(got)-1]-got[0])/15_000 + 1; len(got) != want || want < 40 {
				t.Errorf("%s: %d slots were evaluated, want %d: %v", c.what, len(got), want, got)
			}
			if late := b.metric("pallium_ruler_group_evaluations_late_total"); (late > 0) != c.late {
				t.Errorf("%s: %v evaluations began late", c.what, late)
			}
			due, done := b.metric("pallium_ruler_group_evaluations_due_total"), b.metric("pallium_ruler_group_evaluations_done_total")
			if missed := b.metric("pallium_ruler_group_evaluations_missed_total"); missed != 0 || due < done || due > done+1 {
				t.Errorf("%s: %v slots were due, %v done, %v missed", c.what, due, done, missed)
			}
		})
	}
}
