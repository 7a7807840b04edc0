package backfill

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/util/teststorage"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// input contains samples every minute for four hours: of series that begin, end, and begin again, of counters, and of
// native histograms.
const input = `load 1m
	up{job="a",pod="1"} 1x240
	up{job="a",pod="2"} 1x60 _x60 1x120
	up{job="b",pod="3"} _x30 0x10 _x200
	requests_total{job="a"} 0+5x240
	requests_total{job="b"} 0+1x100 0+2x140
	latency{job="a"} {{schema:0 count:3 sum:5 buckets:[1 2]}}x240
	flapping 1 _ 1 _ _ _ _ _ _ _ 1x20 stale _x5 1x20
`

// group is a group whose rules use each other, fail at some slots, change labels, and end.
const group = `
interval: 1m
labels: {source: rules, drop: x}
rules:
- {record: "job:up:count", expr: "count by (job) (up)"}
- {record: "job:up:ratio", expr: "job:up:count / on () group_left () count(up)"}
- {record: "job:requests:rate5m", expr: "sum by (job) (rate(requests_total[5m]))", labels: {drop: "", kind: r}}
- {record: "job:requests:avg", expr: "avg_over_time(job:requests:rate5m[10m:])"}
- {alert: Ignored, expr: "up == 0"}
- {record: "latency:rate", expr: "rate(latency[5m])"}
- {record: "flapping:is", expr: "flapping"}
- {record: "duplicates", expr: "up * 0", labels: {pod: all}}
- {record: "manymany", expr: "up * on (job) up"}
- {record: "limited", expr: "up"}
- {record: "number", expr: "vector(time())"}
`

// stateful is a group whose rules read samples that they or later rules recorded at earlier slots, or depend on the end of
// the query.
const stateful = `
interval: 1m
labels: {source: rules}
rules:
- {record: "counter", expr: "(sum(counter offset 1m) or vector(0)) + 1"}
- {record: "later:before", expr: "later offset 1m"}
- {record: "at:end", expr: "requests_total @ end()"}
- {record: "query:times", expr: "start() + end() + range() + step()"}
- {record: "query:step", expr: "count_over_time(up[3m + step()])"}
- {record: "query:range", expr: "sum(up offset (1m + range()))"}
- {record: "any", expr: "count({source=\"rules\"})"}
- {record: "later", expr: "sum(up)"}
`

// world is a TSDB with the input and an engine.
type world struct {
	t       *testing.T
	storage *teststorage.TestStorage
	engine  *promql.Engine
}

func newWorld(t *testing.T) *world {
	return &world{t: t, storage: promqltest.LoadedStorage(t, input, func(o *tsdb.Options) { o.OutOfOrderTimeWindow = 1 << 40 }), engine: promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery)}
}

func parsed(t *testing.T, group string) rulefmt.RuleGroup {
	file, errs := rulefmt.Parse([]byte("groups:\n- name: g"+strings.ReplaceAll(group, "\n", "\n  ")), false, model.UTF8Validation,
		parser.NewParser(parser.Options{EnableExperimentalFunctions: true}), nil)
	if errs != nil {
		t.Fatal(errs)
	}
	return file.Groups[0]
}

// live evaluates the group at each slot, as Prometheus does.
func (w *world) live(g rulefmt.RuleGroup, offset time.Duration, slots []time.Time) {
	opts := &rules.ManagerOptions{QueryFunc: rules.EngineQueryFunc(w.engine, w.storage), AppendableV2: w.storage, Queryable: w.storage,
		Context: w.t.Context()}
	var list []rules.Rule
	for _, r := range g.Rules {
		if r.Record == "" {
			continue
		}
		expr, err := parser.NewParser(parser.Options{EnableExperimentalFunctions: true}).ParseExpr(r.Expr)
		if err != nil {
			w.t.Fatal(err)
		}
		list = append(list, rules.NewRecordingRule(r.Record, expr, rules.FromMaps(g.Labels, r.Labels)))
	}
	group := rules.NewGroup(rules.GroupOptions{Name: "g", File: "f", Interval: time.Minute, Rules: list, Opts: opts, QueryOffset: &offset, Limit: g.Limit})
	for _, slot := range slots {
		group.Eval(w.t.Context(), slot)
	}
}

// push writes entries into the TSDB.
func (w *world) push(_ context.Context, _ *Group, entries []series.Entry) error {
	app := w.storage.AppenderV2(w.t.Context())
	for _, e := range entries {
		for _, s := range e.Samples {
			if _, err := app.Append(0, e.Labels, 0, s.T, s.V, s.H, s.FH, storage.AOptions{}); err != nil {
				return errors.Join(err, app.Rollback())
			}
		}
	}
	return app.Commit()
}

// ranges evaluates a range query, or an instant query if it has one step.
func (w *world) ranges(ctx context.Context, _ tenant.ID, expr string, start, end time.Time, step time.Duration) (promql.Matrix, error) {
	if start.Equal(end) {
		v, err := rules.EngineQueryFunc(w.engine, w.storage)(ctx, expr, start)
		return MatrixOf(v), err
	}
	q, err := w.engine.NewRangeQuery(ctx, w.storage, nil, expr, start, end, step)
	if err != nil {
		return nil, err
	}
	res := q.Exec(ctx)
	m, _ := res.Value.(promql.Matrix)
	return m, res.Err
}

// recorded returns all samples of recorded series as text, sorted.
func (w *world) recorded() []string {
	q, err := w.storage.Querier(math.MinInt64, math.MaxInt64)
	if err != nil {
		w.t.Fatal(err)
	}
	defer q.Close()
	var out []string
	set := q.Select(w.t.Context(), true, nil, labels.MustNewMatcher(labels.MatchEqual, "source", "rules"))
	for set.Next() {
		it := set.At().Iterator(nil)
		for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
			line := set.At().Labels().String()
			if kind == chunkenc.ValFloat {
				t, v := it.At()
				line += fmt.Sprintf(" %d %x", t, math.Float64bits(v))
				if value.IsStaleNaN(v) {
					line += " stale"
				}
			} else {
				t, h := it.AtFloatHistogram(nil)
				line += fmt.Sprintf(" %d %v", t, h)
			}
			out = append(out, line)
		}
	}
	if set.Err() != nil {
		w.t.Fatal(set.Err())
	}
	return out
}

// ofQuery reports whether an error is one of the engine, and not one that this package returns.
func ofQuery(err error) bool {
	var limit *LimitError
	var duplicate *DuplicateError
	return !errors.As(err, &limit) && !errors.As(err, &duplicate)
}

// TestLikeLive checks that a backfill writes the samples that Prometheus would have recorded, in one
// run, and in runs that are interrupted after each block and repeat the last block.
func TestLikeLive(t *testing.T) {
	for _, offset := range []time.Duration{0, 90 * time.Second} {
		for _, repeat := range []bool{false, true} {
			t.Run(fmt.Sprintf("offset %s, repeated %v", offset, repeat), func(t *testing.T) {
				g := parsed(t, group)
				g.Limit = 2 // `limited` has three series while three pods are up
				first := time.Unix(13, 0).Add(10 * time.Minute)
				var slots []time.Time
				for i := range 220 {
					slots = append(slots, first.Add(time.Duration(i)*time.Minute))
				}
				want, got := newWorld(t), newWorld(t)
				want.live(g, offset, slots)
				b := New(Options{Range: got.ranges, Push: got.push, Tenant: ofQuery})
				// The blocks are smaller than usual, so that there are several.
				failed := 0
				for i := 0; i < len(slots); {
					end := min(i+37, len(slots)-1)
					job := &Group{Tenant: "a", Rules: g.Rules, Labels: g.Labels, Limit: g.Limit, Interval: time.Minute, Offset: offset,
						First: slots[i], Last: slots[end]}
					for range 2 {
						last, r, err := b.Block(t.Context(), job, i > 0)
						if err != nil || !last.Equal(slots[end]) {
							t.Fatalf("block from slot %d to %d: ended at %v, %v", i, end, last, err)
						}
						failed += r.Failed
						if !repeat {
							break
						}
					}
					i = end + 1
				}
				a, b2 := want.recorded(), got.recorded()
				for i := range max(len(a), len(b2)) {
					if i >= len(a) || i >= len(b2) || a[i] != b2[i] {
						t.Fatalf("sample %d differs: live %q, backfill %q (%d and %d samples)", i, at(a, i), at(b2, i), len(a), len(b2))
					}
				}
				if stale := strings.Count(strings.Join(a, "\n"), "stale"); len(a) < 2000 || stale < 5 || failed == 0 {
					t.Errorf("the comparison has only %d samples, %d staleness markers and %d failed evaluations", len(a), stale, failed)
				}
			})
		}
	}
}

// TestStateful checks that a backfill writes the samples that Prometheus would have recorded for rules that depend on the
// results of earlier slots, and so cannot be evaluated with a query over several slots.
func TestStateful(t *testing.T) {
	g := parsed(t, stateful)
	var slots []time.Time
	for i := range 60 {
		slots = append(slots, time.Unix(600, 0).Add(time.Duration(i)*time.Minute))
	}
	want, got := newWorld(t), newWorld(t)
	want.live(g, 0, slots)
	b := New(Options{Range: got.ranges, Push: got.push, Tenant: func(error) bool { return true }})
	for i := 0; i < len(slots); i += 20 {
		job := &Group{Rules: g.Rules, Labels: g.Labels, Interval: time.Minute, First: slots[i], Last: slots[i+19]}
		if _, r, err := b.Block(t.Context(), job, i > 0); err != nil || r.Failed > 0 {
			t.Fatal(r, err)
		}
	}
	a, c := want.recorded(), got.recorded()
	for i := range max(len(a), len(c)) {
		if at(a, i) != at(c, i) {
			t.Fatalf("sample %d differs: live %q, backfill %q (%d and %d samples)", i, at(a, i), at(c, i), len(a), len(c))
		}
	}
}

// TestSlotBySlot checks which groups are evaluated slot by slot.
func TestSlotBySlot(t *testing.T) {
	for _, tt := range []struct {
		exprs []string // of the rules r0, r1 and so on
		want  bool
	}{
		{[]string{"up", "r0", "sum(r1)"}, false}, {[]string{"up", "rate(r0[5m]) + {__name__=~\"r0|up\"}"}, false}, {[]string{"r0 offset 1m"}, true},
		{[]string{"r1", "up"}, true}, {[]string{"{job=\"a\"}"}, true}, {[]string{"{__name__=~\"r.*\"}"}, true}, {[]string{"{__name__!=\"r0\",a=\"b\"}"}, false},
		{[]string{"up @ start()"}, true}, {[]string{"max_over_time(up[5m:1m] @ end())"}, true}, {[]string{"up @ 100"}, false}, {[]string{"sum("}, true},
		{[]string{"up + start()"}, true}, {[]string{"end()"}, true}, {[]string{"vector(range())"}, true}, {[]string{"step()"}, true},
		{[]string{"rate(up[step() + 1m])"}, true}, {[]string{"up offset (range() + 1m)"}, true}, {[]string{"max_over_time(up[1h:1m + step()])"}, true},
		{[]string{"max_over_time(up[range() + 1m:1m] offset (1m + step()))"}, true}, {[]string{"rate(up[5m] offset -1m)"}, false},
	} {
		var rules []rulefmt.Rule
		for i, e := range tt.exprs {
			rules = append(rules, rulefmt.Rule{Record: fmt.Sprint("r", i), Expr: strings.ReplaceAll(e, `\"`, `"`)})
		}
		if got := slotBySlot(append(rules, rulefmt.Rule{Alert: "A", Expr: "r0"})); got != tt.want {
			t.Errorf("%q: %v", tt.exprs, got)
		}
	}
}

func at(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return "nothing"
}

// TestBlocks checks the size of blocks, and that the last one ends at the last slot.
func TestBlocks(t *testing.T) {
	for _, tt := range []struct {
		interval   time.Duration
		last, want time.Duration
		expr       string
	}{
		{time.Minute, time.Hour, time.Hour, "y"}, {time.Minute, 24 * time.Hour, 359 * time.Minute, "y"}, {time.Second, time.Hour, 999 * time.Second, "y"},
		{24 * time.Hour, 72 * time.Hour, 0, "y"}, {time.Minute, 90 * time.Second, time.Minute, "y"}, {time.Minute, 0, 0, "y"},
		{time.Minute, 24 * time.Hour, 199 * time.Minute, "x offset 1m"}, // slot by slot
	} {
		var steps int
		b := New(Options{Push: nil, Range: func(_ context.Context, _ tenant.ID, _ string, start, end time.Time, step time.Duration) (promql.Matrix, error) {
			steps += int(end.Sub(start)/step) + 1
			return nil, nil
		}})
		start := time.Unix(1000, 0)
		g := &Group{Interval: tt.interval, First: start, Last: start.Add(tt.last), Rules: []rulefmt.Rule{{Record: "x", Expr: tt.expr}}}
		last, _, err := b.Block(t.Context(), g, false)
		if err != nil || last.Sub(start) != tt.want || steps != int(tt.want/tt.interval)+1 {
			t.Errorf("interval %s, %s: the block has %s and %d steps, %v; want %s", tt.interval, tt.last, last.Sub(start), steps, err, tt.want)
		}
	}
}

// TestFailures checks which errors end a block: errors that the tenant did not cause, and a rule that always fails.
func TestFailures(t *testing.T) {
	unavailable, wrong := errors.New("unavailable"), errors.New("wrong")
	g := &Group{Interval: time.Minute, First: time.Unix(0, 0), Last: time.Unix(0, 0).Add(5 * time.Hour), Rules: []rulefmt.Rule{{Record: "x", Expr: "y"}}}
	for _, isWrong := range []bool{false, true} {
		cause := unavailable
		if isWrong {
			cause = wrong
		}
		queries := 0
		b := New(Options{Tenant: func(err error) bool { return errors.Is(err, wrong) },
			Range: func(context.Context, tenant.ID, string, time.Time, time.Time, time.Duration) (promql.Matrix, error) {
				queries++
				return nil, cause
			}})
		_, r, err := b.Block(t.Context(), g, false)
		if !errors.Is(err, cause) || errors.Is(err, ErrFails) != isWrong {
			t.Errorf("%v: Block returned %v", cause, err)
		}
		if !isWrong && queries != 1 || isWrong && (queries > 3*maxFailed || r.Failed != maxFailed+1) {
			t.Errorf("%v: %d queries, %d failed evaluations", cause, queries, r.Failed)
		}
	}
	b := New(Options{Tenant: func(error) bool { return false },
		Push: func(context.Context, *Group, []series.Entry) error { return unavailable },
		Range: func(context.Context, tenant.ID, string, time.Time, time.Time, time.Duration) (promql.Matrix, error) {
			return promql.Matrix{{Metric: labels.FromStrings("a", "b"), Floats: []promql.FPoint{{T: 60_000, F: 1}}}}, nil
		}})
	if _, r, err := b.Block(t.Context(), g, false); !errors.Is(err, unavailable) || r.Samples != 0 {
		t.Errorf("Block with writes that fail: %+v, %v", r, err)
	}
}
