package ruler

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/limits"
)

// bench is a ruler that holds all shares. A function returns the results of its queries.
type bench struct {
	*member
	source *fakeRules
	notes  *notifications
	reg    *prometheus.Registry

	mu     sync.Mutex
	query  func(ctx context.Context, id tenant.ID, expr string, at time.Time) (promql.Vector, error)
	push   func(*series.Batch) (series.Outcome, error)
	pushed []string // tenant, series, milliseconds since the start, value or "stale"
	bounds Bounds
	lim    limits.Limits
	start  time.Time
}

// one returns one series for every query.
func one(_ context.Context, _ tenant.ID, _ string, at time.Time) (promql.Vector, error) {
	return promql.Vector{{Metric: labels.FromStrings("a", "b"), T: at.UnixMilli(), F: 1}}, nil
}

func newBench(idle time.Duration, change func(*Options)) *bench {
	b := &bench{source: &fakeRules{}, notes: &notifications{}, reg: prometheus.NewRegistry(), query: one, start: time.Now(),
		bounds: Bounds{Concurrent: 4, Recording: true, Alerting: true}, lim: limits.Default()}
	o := options(nil, b.source, nil, b.notes)
	o.Registerer = b.reg
	o.Query = func(ctx context.Context, id tenant.ID, expr string, at time.Time) (promql.Vector, error) {
		b.mu.Lock()
		f := b.query
		b.mu.Unlock()
		return f(ctx, id, expr, at)
	}
	o.Select = func(tenant.ID) storage.Queryable { return storage.QueryableFunc(emptyQuerier) }
	o.Push = b.write
	o.Bounds = func(tenant.ID) Bounds { b.mu.Lock(); defer b.mu.Unlock(); return b.bounds }
	o.Limits = func(tenant.ID) *limits.Limits { b.mu.Lock(); defer b.mu.Unlock(); l := b.lim; return &l }
	if change != nil {
		change(&o)
	}
	b.member = startMember(o)
	synctest.Wait()
	for share := range o.Count {
		b.gain(share, 1, idle)
	}
	return b
}

func emptyQuerier(int64, int64) (storage.Querier, error) { return storage.NoopQuerier(), nil }

func (b *bench) write(_ context.Context, batch *series.Batch) (series.Outcome, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.push != nil {
		if out, err := b.push(batch); err != nil || len(out.Rejections) > 0 {
			return out, err
		}
	}
	for _, e := range batch.Entries {
		s := e.Samples[0]
		text := textOf(s.V, s.FH)
		if text != "stale" {
			text = fmt.Sprint(s.V)
		}
		b.pushed = append(b.pushed, fmt.Sprintf("%s %s at %d: %s", batch.Tenant, e.Labels, s.T-b.start.UnixMilli(), text))
	}
	return series.Outcome{}, nil
}

func (b *bench) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

// take returns the samples that were pushed since the last call.
func (b *bench) take() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.pushed
	b.pushed = nil
	return out
}

// define sets the groups of a tenant and makes the ruler read them.
func (b *bench) define(id tenant.ID, defs ...Definition) {
	b.source.set(id, defs...)
	b.Wake(id)
	synctest.Wait()
}

func group1(name string, list ...rulefmt.Rule) Definition {
	return Definition{Namespace: "ns", Group: rulefmt.RuleGroup{Name: name, Interval: seconds(15), Rules: list}}
}

// errorsOf returns the errors of a tenant's rules.
func (b *bench) errorsOf(id tenant.ID) string {
	var out []string
	for _, g := range b.State(id) {
		for _, r := range g.Rules {
			out = append(out, fmt.Sprintf("%s/%s: %s %s", g.Name, r.Name, r.Health, r.LastError))
		}
	}
	return strings.Join(out, "\n")
}

func (b *bench) metric(name string) float64 {
	families, err := b.reg.Gather()
	if err != nil {
		panic(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// TestManyTenants creates, changes and deletes the rules of 1,000 tenants, and checks that no groups,
// series of metrics or goroutines remain.
func TestManyTenants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(0, nil)
		defer b.close()
		synctest.Wait()
		base := runtime.NumGoroutine()
		id := func(i int) tenant.ID { return tenant.ID(fmt.Sprint("t", i)) }
		for i := range 1000 {
			b.source.set(id(i), group1("a", rulefmt.Rule{Record: "r", Expr: "up"}), group1("b", rulefmt.Rule{Alert: "A", Expr: "up"}))
		}
		time.Sleep(time.Minute)
		if n, size := b.metric("pallium_ruler_group_evaluations_done_total"), b.size(); n < 6000 || size != 2000 {
			t.Errorf("%v evaluations of %d groups, want at least 6000 of 2000", n, size)
		}
		for i := range 1000 {
			b.source.set(id(i), group1("a", rulefmt.Rule{Record: "r2", Expr: "up"}))
		}
		time.Sleep(time.Minute)
		if b.size() != 1000 {
			t.Errorf("%d groups after one of two was deleted, want 1000", b.size())
		}
		b.source.mu.Lock()
		for i := range 1000 {
			if i%2 == 0 {
				b.source.deleted[id(i)] = true
			} else {
				delete(b.source.sets, id(i))
			}
		}
		b.source.mu.Unlock()
		time.Sleep(15 * time.Second)
		synctest.Wait()
		b.take()
		time.Sleep(time.Minute)
		if pushed := b.take(); len(pushed) > 0 {
			t.Errorf("%d samples were written after the tenants were deleted, first %s", len(pushed), pushed[0])
		}
		b.Ruler.mu.Lock()
		defer b.Ruler.mu.Unlock()
		left := len(b.schedule.waiting) + len(b.schedule.turns) + b.schedule.active + len(b.tenants)
		if n := runtime.NumGoroutine(); left != 0 || n > base {
			t.Errorf("%d entries are left in the schedule, and %d goroutines, %d before", left, n, base)
		}
		if n := testutil.CollectAndCount(b.groups.EvalTotal) + testutil.CollectAndCount(b.groups.GroupInterval); n != 0 {
			t.Errorf("%d metrics of groups are left", n)
		}
	})
}

// TestHangingTenant checks that a tenant whose queries hang does not delay the others, although
// it has more groups than the ruler evaluates concurrently.
func TestHangingTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hanging atomic.Int32
		b := newBench(0, func(o *Options) { o.Concurrency = 8 })
		defer b.close()
		b.set(func() {
			b.query = func(ctx context.Context, id tenant.ID, expr string, at time.Time) (promql.Vector, error) {
				if id == "hangs" {
					hanging.Add(1)
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return one(ctx, id, expr, at)
			}
		})
		var many []Definition
		for i := range 20 {
			many = append(many, group1(fmt.Sprint("g", i), rulefmt.Rule{Record: "r", Expr: "up"}))
		}
		b.define("hangs", many...)
		time.Sleep(time.Minute)
		for i := range 10 {
			b.define(tenant.ID(fmt.Sprint("ok", i)), group1("g", rulefmt.Rule{Record: "r", Expr: "up"}))
		}
		time.Sleep(10 * time.Minute)
		b.take()
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if pushed := b.take(); len(pushed) != 10 || hanging.Load() != 4 {
			t.Errorf("%d groups of other tenants were evaluated in one interval, want 10; %d queries hang, want 4", len(pushed), hanging.Load())
		}
		if late := b.metric("pallium_ruler_group_evaluations_late_total"); late != 0 {
			t.Errorf("%v evaluations were late", late)
		}
	})
}

// TestNotEvaluated checks that rules that cannot be evaluated have an error with the reason, and that the other rules are
// still evaluated.
func TestNotEvaluated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(0, func(o *Options) {
			o.Parsers = func(s switches.Set) parser.Parser { return parser.NewParser(s.Parser()) }
		})
		defer b.close()
		b.set(func() { b.lim.PromQLExperimentalFunctions = true })
		unreadable := Definition{Namespace: "ns", Group: rulefmt.RuleGroup{Name: "d"}, Err: errors.New("checksum mismatch")}
		b.define("a", group1("a", rulefmt.Rule{Record: "r", Expr: "up"}, rulefmt.Rule{Alert: "A", Expr: "up"}),
			group1("b", rulefmt.Rule{Record: "s", Expr: "sort_by_label(up, \"a\")"}), group1("c", rulefmt.Rule{Record: "u", Expr: "up"}), unreadable)
		check := func(what string, want ...string) {
			t.Helper()
			time.Sleep(30 * time.Second)
			synctest.Wait()
			if got := b.errorsOf("a"); got != strings.Join(want, "\n") {
				t.Errorf("%s: errors are\n%s, want\n%s", what, got, strings.Join(want, "\n"))
			}
		}
		broken := "d/d: err the stored group cannot be read: checksum mismatch"
		check("as stored", "a/r: ok ", "a/A: ok ", "b/s: ok ", "c/u: ok ", broken)
		b.set(func() { b.lim.PromQLExperimentalFunctions = false })
		check("switch turned off", "a/r: ok ", "a/A: ok ",
			`b/s: err rule 1 (s): expr: 1:1: parse error: function "sort_by_label" is not enabled`, "c/u: ok ", broken)
		b.set(func() { b.lim.PromQLExperimentalFunctions, b.bounds.MaxGroups, b.bounds.Alerting = true, 2, false })
		many := "not evaluated: the tenant has 4 groups, max_rule_groups is 2; delete groups or raise the limit"
		check("limits lowered", "a/r: ok ", "a/A: err not evaluated: the limit alerting_rules is off for this tenant", "b/s: ok ",
			"c/u: err "+many, broken)
		b.set(func() { b.bounds = Bounds{MaxResults: 1, Recording: true, Alerting: true} })
		check("limits raised", "a/r: ok ", "a/A: ok ", "b/s: ok ", "c/u: ok ", broken)
		b.set(func() {
			b.query = func(context.Context, tenant.ID, string, time.Time) (promql.Vector, error) {
				return make(promql.Vector, 2), nil
			}
		})
		over := "err the rule returned 2 series, max_rule_results is 1; aggregate more, or raise the limit"
		check("too many results", "a/r: "+over, "a/A: "+over, "b/s: "+over, "c/u: "+over, broken)
	})
}

// TestFailures checks the errors and reasons of rules whose queries or writes fail.
func TestFailures(t *testing.T) {
	for _, c := range []struct {
		what   string
		query  error
		push   error
		reject bool
		reason string
		want   string
	}{
		{what: "query of the tenant", query: errors.New("too many samples"), reason: reasonUser, want: "too many samples"},
		{what: "query of the operator", query: errInjected, reason: reasonOperator, want: "injected failure"},
		{what: "write", push: errInjected, reason: reasonOperator, want: "write the results: injected failure"},
		{what: "rejected samples", reject: true, reason: reasonUser, want: "too many series (max_active_series): 1 samples rejected"},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(0, nil)
			defer b.close()
			b.set(func() {
				if c.query != nil {
					b.query = func(context.Context, tenant.ID, string, time.Time) (promql.Vector, error) { return nil, c.query }
				}
				b.push = func(*series.Batch) (out series.Outcome, err error) {
					if c.reject {
						out.Reject("max_active_series", "too many series", 1, nil)
					}
					return out, c.push
				}
			})
			b.define("a", group1("g", rulefmt.Rule{Record: "r", Expr: "up"}))
			want := "g/r: err " + c.want
			for range 60 { // while a write is repeated, the health is still ok
				time.Sleep(time.Second)
				if b.errorsOf("a") == want {
					break
				}
			}
			if got := b.errorsOf("a"); got != want {
				t.Errorf("%s: %s, want %s", c.what, got, want)
			}
			if n := testutil.ToFloat64(b.metrics.failures.WithLabelValues(c.reason)); n == 0 {
				t.Errorf("%s: no failure with the reason %s was counted", c.what, c.reason)
			}
		})
	}
}

// TestTemplateQueries checks the limit of the queries of templates.
func TestTemplateQueries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(0, nil)
		defer b.close()
		var queries atomic.Int32
		b.set(func() {
			b.query = func(ctx context.Context, id tenant.ID, expr string, at time.Time) (promql.Vector, error) {
				queries.Add(1)
				return one(ctx, id, expr, at)
			}
		})
		text := strings.Repeat(`{{ with query "x" }}{{ . | first | value }}{{ end }}`, 40)
		rule := rulefmt.Rule{Alert: "A", Expr: "up", Annotations: map[string]string{"a": text, "b": text, "c": text}}
		b.define("a", group1("g", rule))
		time.Sleep(16 * time.Second)
		alerts := b.State("a")[0].Rules[0].Alerts
		if n := queries.Load(); n != 101 || len(alerts) != 1 {
			t.Fatalf("%d queries and %d alerts, want 101 and 1", n, len(alerts))
		}
		if got := alerts[0].Annotations.Get("c"); !strings.Contains(got, "may run at most 100 queries") {
			t.Errorf("the annotation beyond the limit is %s", got)
		}
	})
}
