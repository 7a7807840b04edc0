package ruler

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// TestChangeWhileRestored checks that an alert continues if its group is changed between the first evaluation
// after a long gap and the restoration.
func TestChangeWhileRestored(t *testing.T) {
	for _, change := range []string{"none", "group", "limit"} {
		synctest.Test(t, func(t *testing.T) {
			d := newDatabase(t)
			now, idle := time.Now(), 10*time.Minute
			since := now.Add(-40 * time.Minute)
			d.activeSince(since, now.Add(-idle))
			alert := rulefmt.Rule{Alert: "A", Expr: "up", For: seconds(1200)}
			source := &fakeRules{}
			source.stored("a", group1("g", alert))
			b := newBench(idle, func(o *Options) {
				o.Rules, o.Deleted = source, source.isDeleted
				o.Select = func(tenant.ID) storage.Queryable { return d }
			})
			b.source = source
			defer b.close()
			b.set(func() {
				b.push = func(batch *series.Batch) (series.Outcome, error) { return d.push(t.Context(), batch) }
			})
			synctest.Wait()
			if n := len(b.State("a")[0].Rules[0].Alerts); n != 1 {
				t.Fatalf("%d alerts after the first evaluation", n)
			}
			switch change {
			case "group":
				b.define("a", group1("g", alert, rulefmt.Rule{Record: "new", Expr: "up"}))
			case "limit":
				b.set(func() { b.bounds.Recording = false })
				b.Wake("a")
				synctest.Wait()
			}
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			a := b.State("a")[0].Rules[0].Alerts[0]
			if a.State != "firing" {
				t.Errorf("change %s: the alert that fired before the gap is %s since %v, want firing since %v", change, a.State, a.ActiveAt, since)
			}
		})
	}
}

// TestPartlyRejected checks that a series that ends gets a staleness marker, even if another series of the rule is always
// rejected.
func TestPartlyRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(0, nil)
		defer b.close()
		end := time.Now().Add(time.Minute)
		b.set(func() {
			b.query = func(_ context.Context, _ tenant.ID, _ string, at time.Time) (promql.Vector, error) {
				v := promql.Vector{{Metric: labels.FromStrings("a", "rejected"), T: at.UnixMilli(), F: 1}}
				if at.Before(end) {
					v = append(v, promql.Sample{Metric: labels.FromStrings("a", "ends"), T: at.UnixMilli(), F: 1})
				}
				return v, nil
			}
		})
		written, stale := 0, 0
		b.set(func() {
			b.push = func(batch *series.Batch) (series.Outcome, error) {
				var out series.Outcome
				for _, e := range batch.Entries {
					switch {
					case e.Labels.Get("a") == "rejected":
						out.Reject("max_active_series", "too many series", 1, nil)
					case textOf(e.Samples[0].V, nil) == "stale":
						stale++
					default:
						written++
					}
				}
				return out, nil
			}
		})
		b.define("a", group1("g", rulefmt.Rule{Record: "r", Expr: "up"}))
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if written == 0 || stale != 1 {
			t.Errorf("the series that ended has %d samples and %d staleness markers, want 1 marker", written, stale)
		}
		if got, want := b.errorsOf("a"), "g/r: err too many series (max_active_series): 1 samples rejected"; got != want {
			t.Errorf("the state is %s, want %s", got, want)
		}
	})
}

// TestLapsedLease checks that the samples of a slot are written if the lease is not valid for a moment during the
// evaluation, because a renewal takes too long.
func TestLapsedLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(0, func(o *Options) { o.Count = 1 })
		defer b.close()
		var lapse atomic.Bool
		b.set(func() {
			b.query = func(ctx context.Context, id tenant.ID, expr string, at time.Time) (promql.Vector, error) {
				if lapse.Swap(false) {
					b.leases.set(0, 0)
					time.AfterFunc(time.Second, func() { b.leases.set(0, 1) })
				}
				return one(ctx, id, expr, at)
			}
		})
		b.define("a", group1("g", rulefmt.Rule{Record: "r", Expr: "up"}))
		time.Sleep(time.Minute)
		lapse.Store(true)
		b.take()
		time.Sleep(time.Minute)
		if got := slotsOf(t, b.take(), "r"); len(got) != 4 {
			t.Errorf("samples of the slots %v were written in a minute, want 4", got)
		}
		if got := b.errorsOf("a"); got != "g/r: ok " {
			t.Errorf("the state is %s", got)
		}
	})
}

// TestBlockedForLong checks that the time in which a group was not evaluated does not count for the `for` of an alert.
func TestBlockedForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(0, nil)
		defer b.close()
		groups := []Definition{group1("a", rulefmt.Rule{Record: "r", Expr: "up"}),
			group1("g", rulefmt.Rule{Alert: "A", Expr: "up", For: seconds(1200)})}
		b.define("a", groups...)
		time.Sleep(time.Minute)
		b.set(func() { b.bounds.MaxGroups = 1 })
		time.Sleep(time.Hour)
		b.set(func() { b.bounds.MaxGroups = 0 })
		time.Sleep(time.Minute)
		synctest.Wait()
		if a := b.State("a")[1].Rules[0].Alerts[0]; a.State != "pending" {
			t.Errorf("the alert is %s since %v after its group was not evaluated for an hour, want pending", a.State, a.ActiveAt)
		}
	})
}

// computing makes the first queries of the tenant `slow` take a minute, even if their context ends, like a template with much
// work. Their result is one series with the label a="abandoned" and the value 7.
func computing(b *bench) {
	var begun sync.Map
	b.set(func() {
		b.query = func(ctx context.Context, id tenant.ID, expr string, at time.Time) (promql.Vector, error) {
			if _, again := begun.LoadOrStore(expr, true); again || id != "slow" {
				return one(ctx, id, expr, at)
			}
			time.Sleep(time.Minute)
			return promql.Vector{{Metric: labels.FromStrings("a", "abandoned"), T: at.UnixMilli(), F: 7}}, nil
		}
	})
	b.define("slow", group1("g", rulefmt.Rule{Record: "r", Expr: "up"}), group1("h", rulefmt.Rule{Alert: "A", Expr: "down"}))
}

// checkAbandoned checks that an abandoned evaluation wrote no samples and sent no alerts.
func checkAbandoned(t *testing.T, b *bench) {
	t.Helper()
	time.Sleep(2 * time.Minute)
	synctest.Wait()
	for _, p := range b.take() {
		if strings.Contains(p, "abandoned") {
			t.Errorf("an abandoned evaluation wrote %s", p)
		}
	}
	for _, n := range b.notes.list {
		if strings.Contains(n, " 7 active ") {
			t.Errorf("an abandoned evaluation sent %s", n)
		}
	}
}

// TestStopWithSlowTenant checks that Run returns although an evaluation of a tenant cannot be interrupted.
func TestStopWithSlowTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(0, nil)
		computing(b)
		b.define("a", group1("g", rulefmt.Rule{Record: "r", Expr: "up"}))
		time.Sleep(20 * time.Second)
		began := time.Now()
		b.close()
		if took := time.Since(began); took > grace+abandonAfter {
			t.Errorf("Run returned %s after the end of its context, want at most %s", took, grace+abandonAfter)
		}
		checkAbandoned(t, b)
	})
}

// TestLeaveWithSlowTenant checks that a share can be released while an evaluation of a tenant cannot be interrupted, and that
// this evaluation writes nothing, even if the ruler gains the share again.
func TestLeaveWithSlowTenant(t *testing.T) {
	for _, again := range []uint64{0, 1, 2} { // number under which the share is gained again; 0: it is not
		synctest.Test(t, func(t *testing.T) {
			b := newBench(0, func(o *Options) { o.Count = 1 })
			defer b.close()
			computing(b)
			b.define("a", group1("g", rulefmt.Rule{Record: "r", Expr: "up"}))
			time.Sleep(20 * time.Second)
			b.take()
			began := time.Now()
			b.release(0)
			if took := time.Since(began); took > grace+abandonAfter {
				t.Errorf("the share could be released after %s, want at most %s", took, grace+abandonAfter)
			}
			if again > 0 {
				b.gain(0, again, 0)
			}
			time.Sleep(5 * time.Second)
			if n, _ := samplesOf(b.take(), "r"); (n > 0) != (again > 0) {
				t.Errorf("%d samples were written after the share was gained with number %d", n, again)
			}
			checkAbandoned(t, b)
		})
	}
}
