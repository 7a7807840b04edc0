package ruler

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/switches"
)

// slowParser takes a second for each expression "large".
type slowParser struct {
	parser.Parser
	parsed *atomic.Int32
}

func (p slowParser) ParseExpr(text string) (parser.Expr, error) {
	p.parsed.Add(1)
	if text == "large" {
		time.Sleep(time.Second)
	}
	return p.Parser.ParseExpr(text)
}

// TestLargeRules checks that a tenant whose rules take a minute to parse delays neither changes of other tenants nor
// evaluations, and that only a changed rule is parsed again.
func TestLargeRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var parsed atomic.Int32
		b := newBench(0, func(o *Options) {
			p := slowParser{parser.NewParser(parser.Options{}), &parsed}
			o.Parsers = func(switches.Set) parser.Parser { return p }
		})
		defer b.close()
		var large []Definition
		for i := range 60 {
			large = append(large, group1(fmt.Sprint("g", i), rulefmt.Rule{Record: "r", Expr: "large"}))
		}
		b.source.set("large", large...)
		b.Wake("large")
		time.Sleep(time.Second)
		b.define("a", group1("g", rulefmt.Rule{Record: "r", Expr: "up"}))
		if len(b.State("a")) != 1 {
			t.Error("the rules of a tenant were not read while those of another tenant were parsed")
		}
		time.Sleep(50 * time.Second)
		synctest.Wait()
		if n, _ := samplesOf(b.take(), "r"); n < 3 || b.metric("pallium_ruler_group_evaluations_late_total") != 0 {
			t.Errorf("%d samples, and %v late evaluations while rules are parsed", n, b.metric("pallium_ruler_group_evaluations_late_total"))
		}
		time.Sleep(time.Minute)
		if n := len(b.State("large")); n != 60 || parsed.Load() != 61 {
			t.Errorf("%d groups are evaluated, and %d rules were parsed, want 60 and 61", n, parsed.Load())
		}
		large[3].Group.Rules = []rulefmt.Rule{{Record: "r", Expr: "up"}}
		b.source.set("large", large...)
		b.Wake("large")
		time.Sleep(time.Minute)
		if n := parsed.Load(); n != 62 {
			t.Errorf("%d rules were parsed after one of them was changed, want one", n-61)
		}
	})
}

// TestTasks checks that urgent tasks are done first, that a tenant has one task at a time, that work that is added while a task
// is running is not lost, and that repeated wakes do not make the queues grow.
func TestTasks(t *testing.T) {
	r := New(options(nil, nil, nil, nil))
	listed := func(id tenant.ID) { r.enqueue(id, false, func(t *task) { t.listed = true }) }
	next := func(want tenant.ID, woken, listed bool) {
		t.Helper()
		if id, do, ok := r.nextTask(); ok != (want != "") || id != want || do.woken != woken || do.listed != listed {
			t.Errorf("the next task is %q %+v, want %q, woken %v, listed %v", id, do, want, woken, listed)
		}
	}
	listed("a")
	listed("b")
	for range 1000 {
		r.Wake("b")
	}
	next("b", true, true)
	for range 1000 {
		r.Wake("b")
		listed("b")
	}
	if n := len(r.tasks.urgent) + len(r.tasks.regular); n > 4 {
		t.Errorf("%d entries are queued for two tenants", n)
	}
	next("a", false, true)
	next("", false, false)
	r.taskDone("a")
	r.Wake("b")
	r.taskDone("b")
	next("b", true, true)
	r.taskDone("b")
	next("", false, false)
	if n := len(r.tasks.byTenant); n != 0 {
		t.Errorf("%d tasks are left", n)
	}
}

// TestKnownTexts checks that the function `known` of a read returns the groups that the ruler has, for their texts only.
func TestKnownTexts(t *testing.T) {
	a := group1("a", rulefmt.Rule{Record: "r", Expr: "up"})
	a.Text = "text of a"
	failed := group1("failed")
	failed.Text, failed.Err = "text of failed", errInjected
	source := &textRules{fakeRules: &fakeRules{}}
	source.set("t", a, failed)
	r := New(options(nil, source.fakeRules, &fakeLeases{}, nil))
	r.opts.Rules = source
	for version := range 2 {
		r.sync(t.Context(), "t", task{listed: true, version: fmt.Sprint(version)})
	}
	for text, want := range map[[3]string]bool{{"ns", "a", "text of a"}: true, {"ns", "a", "other"}: false, {"ns", "b", "text of a"}: false,
		{"ns", "failed", "text of failed"}: false} {
		if d := source.known(text[0], text[1], text[2]); (d != nil) != want || want && len(d.Group.Rules) != 1 {
			t.Errorf("%q is known as %v, want %v", text, d, want)
		}
	}
}

// textRules records the function `known` of the last read.
type textRules struct {
	*fakeRules
	known func(namespace, name, text string) *Definition
}

func (s *textRules) Groups(ctx context.Context, id tenant.ID, known func(namespace, name, text string) *Definition) (Set, error) {
	s.known = known
	return s.fakeRules.Groups(ctx, id, known)
}

// TestStateWhileEvaluated reads the state of alerts while they are evaluated and their group is changed. The race detector
// finds unprotected accesses.
func TestStateWhileEvaluated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(0, nil)
		defer b.close()
		b.set(func() {
			b.query = func(_ context.Context, _ tenant.ID, _ string, at time.Time) (promql.Vector, error) {
				var out promql.Vector
				for i := range 300 {
					if rand.IntN(3) > 0 {
						out = append(out, promql.Sample{Metric: labels.FromStrings("i", fmt.Sprint(i)), T: at.UnixMilli(), F: 1})
					}
				}
				return out, nil
			}
		})
		alert := rulefmt.Rule{Alert: "A", Expr: "up", KeepFiringFor: seconds(30)}
		var reads atomic.Int32
		var readers sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		for range 2 {
			readers.Go(func() {
				for ctx.Err() == nil {
					for _, g := range b.State("a") {
						reads.Add(int32(min(1, len(g.Rules[0].Alerts))))
					}
					time.Sleep(time.Second)
				}
			})
		}
		for i := range 60 {
			d := group1("g", alert, rulefmt.Rule{Record: fmt.Sprint("r", i), Expr: "up"})
			d.Group.Interval = seconds(1)
			d.AlignEvaluationTime = true
			b.define("a", d)
			time.Sleep(2 * time.Second)
		}
		cancel()
		readers.Wait()
		if reads.Load() < 100 {
			t.Errorf("%d states had alerts, want more", reads.Load())
		}
	})
}

// TestReadersDelayEvaluation checks that an evaluation waits until the alerts of replaced rules are copied, and that neither
// other tenants nor the state wait.
func TestReadersDelayEvaluation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(0, nil)
		defer b.close()
		alert := rulefmt.Rule{Alert: "A", Expr: "up"}
		b.define("a", group1("g", alert))
		time.Sleep(20 * time.Second)
		copied := b.shown("a")[0]
		b.define("a", group1("g", alert, rulefmt.Rule{Record: "r", Expr: "up"}))
		b.define("b", group1("g", rulefmt.Rule{Record: "other", Expr: "up"}))
		time.Sleep(20 * time.Second)
		synctest.Wait()
		pushed := b.take()
		if n, _ := samplesOf(pushed, "r"); n != 0 {
			t.Error("the changed group was evaluated while alerts of its rules were copied")
		}
		if n, _ := samplesOf(pushed, "other"); n == 0 || len(b.State("a")[0].Rules) != 2 {
			t.Error("another tenant or the state waited until alerts were copied")
		}
		copied.readers.Done()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if n, _ := samplesOf(b.take(), "r"); n == 0 {
			t.Error("the changed group was not evaluated after the alerts were copied")
		}
	})
}
