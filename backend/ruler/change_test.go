package ruler

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
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

// samplesOf counts the pushed values and staleness markers of a metric.
func samplesOf(pushed []string, metric string) (values, stale int) {
	for _, p := range pushed {
		if strings.Contains(p, fmt.Sprintf("__name__=%q", metric)) {
			if strings.HasSuffix(p, ": stale") {
				stale++
			} else {
				values++
			}
		}
	}
	return values, stale
}

// TestChange checks that a changed group keeps the state of its unchanged rules, and that the
// series of a removed rule get staleness markers at the next evaluation.
func TestChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(0, nil)
		defer b.close()
		alert := rulefmt.Rule{Alert: "A", Expr: "up", For: seconds(60)}
		b.define("a", group1("g", alert, rulefmt.Rule{Record: "old", Expr: "up"}))
		time.Sleep(40 * time.Second)
		before := *b.State("a")[0].Rules[0].Alerts[0].ActiveAt
		b.take()
		b.define("a", group1("g", rulefmt.Rule{Record: "new", Expr: "up"}, alert))
		if got := b.State("a")[0].Rules; len(got) != 2 || got[0].Name != "new" || got[0].Health != "unknown" || got[1].Alerts[0].State != "pending" {
			t.Errorf("state after the change is %+v", got)
		}
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if a := b.State("a")[0].Rules[1].Alerts[0]; !a.ActiveAt.Equal(before) {
			t.Errorf("the alert is active since %v, want %v", a.ActiveAt, before)
		}
		pushed := b.take()
		if values, stale := samplesOf(pushed, "old"); values != 0 || stale != 1 {
			t.Errorf("the removed rule has %d samples and %d staleness markers, want 0 and 1", values, stale)
		}
		if values, _ := samplesOf(pushed, "new"); values != 1 {
			t.Errorf("the new rule has %d samples, want 1", values)
		}
	})
}

// TestDeletedGroup checks that the series of a deleted group get staleness markers after two
// intervals, except for series that another group continues. They get no markers when the group
// moves to another ruler, when the ruler stops, or when the tenant is deleted.
func TestDeletedGroup(t *testing.T) {
	for _, c := range []struct {
		what   string
		end    func(*bench)
		marked string
	}{
		{"deleted", func(b *bench) { b.define("a") }, "one two"},
		{"renamed", func(b *bench) {
			b.define("a", group1("other", rulefmt.Rule{Record: "one", Expr: "up"}))
		}, "two"},
		{"moved", func(b *bench) {
			for share := range b.opts.Count {
				b.release(share)
			}
		}, ""},
		{"stopped", func(b *bench) { b.close() }, ""},
		{"tenant deleted", func(b *bench) {
			b.source.mu.Lock()
			defer b.source.mu.Unlock()
			b.source.deleted["a"] = true
		}, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			var b *bench
			d := newDatabase(t)
			b = newBench(0, func(o *Options) {
				o.Select = func(tenant.ID) storage.Queryable { return d }
			})
			defer b.close()
			b.define("a", group1("g", rulefmt.Rule{Record: "one", Expr: "up"}, rulefmt.Rule{Record: "two", Expr: "up"}))
			time.Sleep(40 * time.Second)
			b.take()
			deleted := time.Now()
			c.end(b)
			if c.what == "renamed" {
				d.append(labels.FromStrings("__name__", "one", "a", "b"), time.Now().Add(5*time.Second).UnixMilli(), 1, nil)
			}
			time.Sleep(29 * time.Second)
			synctest.Wait()
			early := b.take()
			time.Sleep(time.Minute)
			synctest.Wait()
			var marked []string
			for _, metric := range []string{"one", "two"} {
				if _, stale := samplesOf(early, metric); stale != 0 {
					t.Errorf("%s: %s has a staleness marker before two intervals have passed", c.what, metric)
				}
			}
			for _, p := range b.pushed {
				if strings.HasSuffix(p, ": stale") {
					marked = append(marked, p)
				}
			}
			var want []string
			for _, metric := range strings.Fields(c.marked) {
				want = append(want, fmt.Sprintf("a {__name__=%q, a=\"b\"} at %d: stale", metric, deleted.Sub(b.start).Milliseconds()))
			}
			if slices.Sort(marked); !slices.Equal(marked, want) {
				t.Errorf("%s: staleness markers are %q, want %q", c.what, marked, want)
			}
		})
	}
}

// TestDeletedTenant checks that the rules of a deleted tenant stop within 10 seconds.
func TestDeletedTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(0, nil)
		defer b.close()
		b.define("a", Definition{Namespace: "ns", Group: rulefmt.RuleGroup{Name: "g", Interval: seconds(1),
			Rules: []rulefmt.Rule{{Record: "r", Expr: "up"}}}})
		time.Sleep(5 * time.Second)
		b.source.mu.Lock()
		b.source.deleted["a"] = true
		b.source.mu.Unlock()
		time.Sleep(10*time.Second + time.Millisecond)
		b.take()
		time.Sleep(time.Minute)
		if pushed := b.take(); len(pushed) != 0 || len(b.State("a")) != 0 {
			t.Errorf("10 s after the tenant was deleted, %d samples were written, state %v", len(pushed), b.State("a"))
		}
	})
}

// TestStateJSON checks that the state is encoded as Prometheus encodes it.
func TestStateJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(0, nil)
		defer b.close()
		d := group1("g", rulefmt.Rule{Record: "r", Expr: "up", Labels: map[string]string{"x": "y"}},
			rulefmt.Rule{Alert: "A", Expr: "up>0", For: seconds(60), KeepFiringFor: seconds(90), Annotations: map[string]string{"t": "{{ $value }}"}})
		d.Group.Limit = 7
		b.define("a", d)
		check := func(want string) {
			t.Helper()
			got, err := json.Marshal(b.State("a"))
			if err != nil || string(got) != want {
				t.Errorf("state is encoded as\n%s, %v, want\n%s", got, err, want)
			}
		}
		check(`[{"name":"g","file":"ns","rules":[{"name":"r","query":"up","labels":{"x":"y"},"health":"unknown","evaluationTime":0,` +
			`"lastEvaluation":"0001-01-01T00:00:00Z","type":"recording"},{"state":"unknown","name":"A","query":"up \u003e 0","duration":60,` +
			`"keepFiringFor":90,"labels":{},"annotations":{"t":"{{ $value }}"},"alerts":[],"health":"unknown","evaluationTime":0,` +
			`"lastEvaluation":"0001-01-01T00:00:00Z","type":"alerting"}],"interval":15,"limit":7,"evaluationTime":0,` +
			`"lastEvaluation":"0001-01-01T00:00:00Z"}]`)
		time.Sleep(16 * time.Second)
		synctest.Wait()
		at := b.State("a")[0].LastEvaluation.Format(time.RFC3339Nano)
		active := b.State("a")[0].Rules[1].Alerts[0].ActiveAt.Format(time.RFC3339Nano)
		check(`[{"name":"g","file":"ns","rules":[{"name":"r","query":"up","labels":{"x":"y"},"health":"ok","evaluationTime":0,` +
			`"lastEvaluation":"` + at + `","type":"recording"},{"state":"pending","name":"A","query":"up \u003e 0","duration":60,` +
			`"keepFiringFor":90,"labels":{},"annotations":{"t":"{{ $value }}"},"alerts":[{"labels":{"a":"b","alertname":"A"},"annotations":{"t":"1"},` +
			`"state":"pending","activeAt":"` + active + `","value":"1e+00"}],"health":"ok","evaluationTime":0,` +
			`"lastEvaluation":"` + at + `","type":"alerting"}],"interval":15,"limit":7,"evaluationTime":0,"lastEvaluation":"` + at + `"}]`)
	})
}

// failingReads fails the first reads of a database.
type failingReads struct {
	*database
	left int
}

func (f *failingReads) Querier(mint, maxt int64) (storage.Querier, error) {
	q, err := f.database.Querier(mint, maxt)
	if f.left--; err == nil && f.left >= 0 {
		return failingQuerier{q}, nil
	}
	return q, err
}

type failingQuerier struct{ storage.Querier }

func (failingQuerier) Select(context.Context, bool, *storage.SelectHints, ...*labels.Matcher) storage.SeriesSet {
	return storage.ErrSeriesSet(errInjected)
}

// TestRestoreFails checks that a takeover with failing reads is repeated until the state of the
// alert is restored, after a short gap and after a long one.
func TestRestoreFails(t *testing.T) {
	for _, c := range []struct {
		what     string
		idle     time.Duration
		failures int
	}{{"short gap", 0, 3}, {"long gap", 10 * time.Minute, 2}} {
		synctest.Test(t, func(t *testing.T) {
			d := newDatabase(t)
			f := &failingReads{database: d, left: c.failures}
			now := time.Now()
			since := now.Add(-20 * time.Minute)
			d.activeSince(since, now.Add(-c.idle))
			source := &fakeRules{}
			source.stored("a", group1("g", rulefmt.Rule{Alert: "A", Expr: "up", For: seconds(3600)}))
			b := newBench(c.idle, func(o *Options) {
				o.Rules, o.Deleted = source, source.isDeleted
				o.Select = func(tenant.ID) storage.Queryable { return f }
				o.UserError = nil
			})
			defer b.close()
			b.set(func() {
				b.push = func(batch *series.Batch) (series.Outcome, error) { return d.push(t.Context(), batch) }
			})
			synctest.Wait()
			if got := b.errorsOf("a"); c.idle == 0 && got != "g/A: err injected failure" {
				t.Errorf("%s: after the first failure the state is %s", c.what, got)
			}
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			if f.left > 0 {
				t.Fatalf("%s: the read was not repeated: %d failures are left", c.what, f.left)
			}
			active := b.State("a")[0].Rules[0].Alerts[0].ActiveAt
			want := since.Add(c.idle) // Prometheus does not count the time without a ruler
			if diff := active.Sub(want).Abs(); diff > 2*time.Minute || c.idle == 0 && diff > 15*time.Second {
				t.Errorf("%s: the alert is active since %v, want %v", c.what, active, want)
			}
			if got := b.errorsOf("a"); got != "g/A: ok " {
				t.Errorf("%s: in the end the state is %s", c.what, got)
			}
		})
	}
}

// TestSlowTakeover checks that slots that pass while a takeover evaluates earlier slots are evaluated, too.
func TestSlowTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := group1("g", rulefmt.Rule{Record: "r", Expr: "up"})
		d.Group.Interval = seconds(2)
		b := newBench(6*time.Second, func(o *Options) {
			o.Rules.(*fakeRules).stored("a", d)
			query := o.Query
			o.Query = func(ctx context.Context, id tenant.ID, expr string, at time.Time) (promql.Vector, error) {
				time.Sleep(900 * time.Millisecond)
				return query(ctx, id, expr, at)
			}
		})
		defer b.close()
		time.Sleep(time.Minute)
		times := map[string]bool{}
		first, last := 1<<60, 0
		for _, text := range b.take() {
			_, rest, _ := strings.Cut(text, " at ")
			at, _, _ := strings.Cut(rest, ":")
			ms, err := strconv.Atoi(at)
			if err != nil {
				t.Fatal(err)
			}
			times[at] = true
			first, last = min(first, ms), max(last, ms)
		}
		if want := (last-first)/2000 + 1; len(times) != want || want < 30 {
			t.Errorf("%d slots were written from %d to %d ms, want %d", len(times), first, last, want)
		}
	})
}
