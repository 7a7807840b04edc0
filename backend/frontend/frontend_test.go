package frontend

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/backend/timing"
	"github.com/palliumhq/pallium/policies/limits"
)

// expressions has all kinds of expressions that a plan distinguishes.
var expressions = []string{
	"load", "sum(load)", "sum by (job) (rate(requests_total[10m]))", "rate(requests_total[1h])", "avg_over_time(load[2h]) > 0",
	"load offset 1h", "load offset -30m", "sum(rate(requests_total[30m])) / count(load)", "topk(2, load)", "absent(load)",
	"latency", "histogram_quantile(0.9, rate(latency[1h]))", "max_over_time(rate(requests_total[10m])[1h:5m])",
	"load @ 1772500000", "load @ start()", "sum(load) - sum(load @ end())", "time()", "vector(1)", "load and on (i) requests_total",
	`label_replace(load, "x", "$1", "i", "(.*)")`, "count_values(\"v\", round(load))", "increase(requests_total[1d])",
	"quantile_over_time(0.5, load[3h])", "stddev(load)", "load[5m:1m] offset 10m", "sum(sum by (i) (load))", "-load", "load * 2 > bool 1",
	"rate(load[10m])", "histogram_count(latency)", `{__name__=~"load|requests_total"}`, "max_over_time(load[2d])", "timestamp(load)",
}

// TestAnswers runs random queries over random ranges, while samples are written with any timestamp,
// the bound moves, days are published and retention changes. It compares each answer with that of
// the engine for the whole range.
func TestAnswers(t *testing.T) {
	seed, n := time.Now().UnixNano(), 400
	if s := os.Getenv("FRONTEND_SEED"); s != "" {
		seed, _ = strconv.ParseInt(s, 10, 64)
	}
	if s := os.Getenv("FRONTEND_QUERIES"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	t.Logf("FRONTEND_SEED=%d", seed)
	for _, shards := range []int{1, 3} {
		t.Run(fmt.Sprint(shards, " shards"), func(t *testing.T) { testAnswers(t, seed, n, shards) })
	}
}

func testAnswers(t *testing.T, seed int64, n, shards int) {
	rnd := rand.New(rand.NewSource(seed))
	w := newWorld(t)
	w.fill()
	w.divideSeries(shards)
	steps := []int64{5 * minute, 7 * minute, 30 * minute, 2 * hour}
	for i := range n {
		text := expressions[rnd.Intn(len(expressions))]
		if text == "load[5m:1m] offset 10m" {
			text = "sum_over_time(load[5m:1m] offset 10m)"
		}
		step := steps[rnd.Intn(len(steps))]
		start := origin + rnd.Int63n(4*day)/hour*hour
		if rnd.Intn(4) == 0 {
			start += rnd.Int63n(hour)
		}
		w.ask(text, start, start+rnd.Int63n(3*day), step)
		switch rnd.Intn(12) {
		case 0:
			w.write(origin+rnd.Int63n(5*day), rnd.Float64(), "__name__", "load", "i", fmt.Sprint(rnd.Intn(6)))
		case 1:
			at := w.bound + rnd.Int63n(8*hour) // if it is after the recent bound, it is not counted as a change
			w.write(at, rnd.Float64(), "__name__", "requests_total", "job", "job-0", "i", "7")
		case 2:
			w.bound += rnd.Int63n(hour)
			w.recent = max(w.recent, w.bound+rnd.Int63n(5*hour))
		case 3:
			w.store.Days = []series.DayVersion{{Day: origin/day + rnd.Int63n(4), Digest: [16]byte{byte(i)}}}
		case 4:
			w.keep = time.Duration(rnd.Int63n(5*day)) * time.Millisecond
		}
		if t.Failed() {
			t.Fatalf("query %d of FRONTEND_SEED=%d, step %d", i, seed, step)
		}
	}
	if w.cache.found == 0 {
		t.Error("no part was found in the cache")
	}
	if (w.sharded.Load() > 0) != (shards > 1) {
		t.Errorf("%d evaluations of shards with at most %d shards per leaf", w.sharded.Load(), shards)
	}
}

// TestShards checks which evaluations are divided by series.
func TestShards(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		change     func(*world)
		want       int64 // shards
	}{
		{"an aggregation", "sum(load)", nil, 3},
		{"two aggregations", "sum(load) / sum(requests_total)", nil, 6},
		{"one series", "sum(latency)", nil, 0},
		{"few points", "sum(load)", func(w *world) { w.front.o.ShardPoints = 1 << 40 }, 0},
		{"delayed removal of names", "sum(load)", func(w *world) { w.switchTo(switches.Set{DelayedNameRemoval: true}) }, 0},
		{"switched off", "sum(load)", func(w *world) { w.front.o.MaxShards = 1 }, 0},
		{"queriers of an older version", "sum(load)", func(w *world) { w.old = true }, 3},
		{"queriers of an older version, remembered", "sum(load)", func(w *world) {
			w.old = true
			w.ask("sum(load)", origin, origin+day, hour)
			w.lists.Store(0)
			w.noLists = true
			w.changes++
		}, 3},
		{"not divisible", "load + load", nil, 0},
		{"the series are known from an earlier query", "sum(load)", func(w *world) {
			w.ask("sum(load)", origin, origin+day, hour)
			w.lists.Store(0)
			w.sharded.Store(0)
			w.changes++
			w.noLists = true
		}, 3},
		{"the series were listed too long ago", "sum(load)", func(w *world) {
			w.ask("sum(load)", origin, origin+day, hour)
			w.now += 11 * minute
			w.sharded.Store(0)
			w.changes++
			w.wantLists = 2
		}, 3},
		{"few points in an earlier query", "sum(load)", func(w *world) {
			w.front.o.ShardPoints = 1 << 20
			w.ask("sum(load)", origin, origin+day, hour)
			w.lists.Store(0)
			w.noLists = true
		}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.fill()
			w.divideSeries(3)
			if tt.change != nil {
				tt.change(w)
			}
			if res := w.ask(tt.text, origin, origin+2*day, hour); res.Err != nil {
				t.Fatal(res.Err)
			}
			if n := w.sharded.Load(); n != tt.want {
				t.Errorf("%d evaluations of shards, want %d", n, tt.want)
			}
			if n := w.lists.Load(); w.noLists && n > 0 || w.wantLists > 0 && n != w.wantLists {
				t.Errorf("the series were listed %d times", n)
			}
		})
	}
}

// TestLimitsOfShards checks that the limit on samples applies to the whole query, not to each shard.
func TestLimitsOfShards(t *testing.T) {
	w := newWorld(t)
	w.fill()
	w.divideSeries(2)
	one := w.ask("sum(load)", origin, origin+day, hour)
	if one.Err != nil {
		t.Fatal(one.Err)
	}
	w.changes++                // so that it is evaluated again
	w.most = w.peak.Load() + 1 // more than a shard needs
	if res := w.ask("sum(load)", origin, origin+day, hour); !w.TooLarge(res.Err) {
		t.Errorf("result %v, want the error of a limit", res.Err)
	}
}

// TestLimitOfWhole checks that a query whose evaluation without shards is within the limit on samples
// succeeds, even if its shards together exceed the limit: the engine has the arguments of two
// aggregations in memory one after the other.
func TestLimitOfWhole(t *testing.T) {
	w := newWorld(t)
	w.fill()
	const text = "sum(load) / sum(requests_total)"
	w.ask(text, origin+hour, origin+day, hour)
	w.most = w.peak.Load()
	w.divideSeries(2)
	w.changes++
	if res := w.ask(text, origin+hour, origin+day, hour); res.Err != nil {
		t.Errorf("the query needs %d samples, which is the limit: %v", w.most, res.Err)
	}
	if w.sharded.Load() != 4 {
		t.Errorf("%d evaluations of shards, want 4", w.sharded.Load())
	}
}

// TestErrorOfRoot checks that a query with shards has the same error as without if the error is one
// of the expression outside its aggregations. Such an error may name the first series of an answer,
// and shards return groups in another order.
func TestErrorOfRoot(t *testing.T) {
	w := newWorld(t)
	w.fill()
	w.divideSeries(2)
	for k := range 6 {
		w.write(origin+2*hour, 1, "__name__", "y", "i", strconv.Itoa(k), "job", strconv.Itoa(5-k))
	}
	const text = "sum(load) * on () max by (job) (y)"
	ctx := t.Context()
	whole, err := w.engine.NewRangeQuery(ctx, sorted{Queryable: w.db}, nil, text,
		timestamp.Time(origin+2*hour), timestamp.Time(origin+3*hour), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()
	want := whole.Exec(ctx).Err
	if res := w.ask(text, origin+2*hour, origin+3*hour, minute); want == nil || res.Err == nil || res.Err.Error() != want.Error() {
		t.Errorf("error %v, want %v", res.Err, want)
	}
	if w.sharded.Load() == 0 {
		t.Error("no shard was evaluated")
	}
}

// TestTypeLabels checks that queries of series with a type label, which functions drop, are not
// divided: the engine would not notice equal series that are in different shards.
func TestTypeLabels(t *testing.T) {
	w := newWorld(t)
	w.divideSeries(3)
	for i := range int64(20) {
		at := origin + hour + i*5*minute
		w.write(at, float64(i), "__name__", "typed_total", "__type__", "counter", "i", "1")
		w.write(at, float64(i), "__name__", "typed_total", "i", "1")
		w.write(at, float64(i), "__name__", "typed_total", "i", "2")
	}
	for _, text := range []string{"sum(rate(typed_total[10m]))", "abs(typed_total)", "sum(typed_total)", "sum without (i) (typed_total)"} {
		res := w.ask(text, origin+hour, origin+3*hour, 5*minute)
		if wantErr := !strings.HasPrefix(text, "sum") || strings.Contains(text, "rate"); (res.Err != nil) != wantErr ||
			wantErr && res.Err.Error() != "vector cannot contain metrics with the same labelset" {
			t.Errorf("%s: error %v", text, res.Err)
		}
	}
	if n := w.sharded.Load(); n > 0 {
		t.Errorf("%d shards", n)
	}
}

// TestRememberedSeries checks that series are remembered only if their labels are small: a tenant
// could have thousands of expressions with hundreds of leaves.
func TestRememberedSeries(t *testing.T) {
	for label, want := range map[int]bool{100: true, 20_000: false} { // bytes
		w := newWorld(t)
		w.divideSeries(3)
		for i := range 3 {
			w.write(origin+hour, 1, "__name__", "load", "i", strconv.Itoa(i), "long", strings.Repeat("x", label))
		}
		w.ask("sum(load)", origin+hour, origin+2*hour, minute)
		if known, ok := w.front.selected.Get(notedKey{"t", "sum(load)"}); !ok || (known.samples != nil) != want {
			t.Errorf("labels of %d bytes: remembered: %.200v", label, known)
		}
		w.changes++
		if w.ask("sum(load)", origin+hour, origin+2*hour, minute); w.sharded.Load() != 6 || (w.lists.Load() == 1) != want {
			t.Errorf("labels of %d bytes: %d shards, listed %d times", label, w.sharded.Load(), w.lists.Load())
		}
	}
}

// again runs a query twice and returns how many steps the second one evaluated.
func (w *world) again(text string, start, end, step int64) int64 {
	w.t.Helper()
	w.ask(text, start, end, step)
	before := w.steps.Load()
	w.ask(text, start, end, step)
	return w.steps.Load() - before
}

// TestKept checks which steps of a repeated query are evaluated again.
func TestKept(t *testing.T) {
	start, end := origin, origin+3*day // all before the bound
	steps := func(from, to int64) int64 { return (to-from)/hour + 1 }
	for _, tt := range []struct {
		name, text string
		start, end int64
		change     func(*world)
		want       int64
	}{
		{"days before the bound", "sum(load)", start, end, nil, 0},
		{"a query that is not divided", `label_replace(load, "x", "$1", "i", "(.*)")`, start, end, nil, 0},
		{"the last day is not settled", "sum(load)", start, origin + 5*day, nil, steps(origin+4*day, origin+5*day)},
		{"a negative offset", "sum(load offset -1d)", start, origin + 4*day, nil, steps(origin+3*day, origin+4*day)},
		{"@ after the bound", "sum(load @ 1772900000)", start, end, nil, steps(start, end)},
		{"@ before the bound", "sum(load @ 1772500000)", start, end, nil, 0},
		{"no samples", "time()", start, end, nil, steps(start, end)},
		{"no series", "sum(nothing)", start, end, nil, 0},
		{"retention cuts the first day", "sum(load)", start, end, func(w *world) { w.keep = 98 * time.Hour },
			steps(origin, origin+day)},
		{"versions cannot be read", "sum(load)", start, end, func(w *world) { w.noVer = errors.New("down") }, steps(start, end)},
		{"annotations of days that were evaluated together", "rate(load[10m])", start, end, nil, steps(start, end)},
		{"annotations of days that were evaluated separately", "rate(load[10m])", start, end, func(w *world) { w.ask("rate(load[10m])", start, end, hour) }, 0},
		{"recent samples", "sum(load)", start, origin + 5*day, func(w *world) { w.recent = origin + 4*day + 8*hour },
			steps(origin+4*day+8*hour, origin+5*day)},
		{"around 1970", "sum(load)", -2 * day, 2 * day, nil, 0},
		{"around 1970, no samples", "pi()", -2 * hour, hour, nil, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.fill()
			if tt.change != nil {
				tt.change(w)
			}
			if got := w.again(tt.text, tt.start, tt.end, hour); got != tt.want {
				t.Errorf("%d steps were evaluated again, want %d", got, tt.want)
			}
		})
	}
}

// TestSwitches checks that a result is used only with the PromQL switches with which it was
// evaluated, and that a query with delayed name removal is not divided. It compares the answers
// with those of an engine with the switches.
func TestSwitches(t *testing.T) {
	start, end := origin, origin+3*day
	all := (end-start)/hour + 1
	late := switches.Set{DelayedNameRemoval: true}
	const named = `label_replace(-load, "x", "$1", "__name__", "(.*)")` // has the label only with late
	w := newWorld(t)
	w.fill()
	for i, tt := range []struct {
		text         string
		on           switches.Set
		steps, parts int64 // evaluated
	}{
		{named, switches.Set{}, all, 1},
		{named, switches.Set{}, 0, 0},
		{named, late, all, 1},
		{named, late, 0, 0},
		{named, switches.Set{}, 0, 0},
		{named, switches.Set{TypeAndUnitLabels: true}, all, 1},
		{"load + fill(0) load", switches.Set{BinopFillModifiers: true}, all, 1},
		{"load + fill(0) load", switches.Set{BinopFillModifiers: true}, 0, 0},
		{"ü.b or max(load)", switches.Set{UnquotedUTF8Names: true}, all, 1},
		{"limitk(1, sum(load))", switches.Set{ExperimentalFunctions: true}, all, 1},
		{`-{__name__=~"load|other"}`, late, all, 1},
		{`sort_by_label(-{__name__=~"load|other"}, "i")`, switches.Set{ExperimentalFunctions: true, DelayedNameRemoval: true}, all, 1},
	} {
		w.switchTo(tt.on)
		steps, parts := w.steps.Load(), w.parts.Load()
		w.ask(tt.text, start, end, hour)
		if s, p := w.steps.Load()-steps, w.parts.Load()-parts; s != tt.steps || p != tt.parts {
			t.Errorf("%d: %s with %q: %d steps in %d parts were evaluated, want %d in %d", i, tt.text, tt.on, s, p, tt.steps, tt.parts)
		}
	}
	w.switchTo(late)
	w.ask("sum(load)", start, end, hour)
	steps := w.steps.Load()
	w.ask("sum(load)", start, end-hour, hour)
	if got := w.steps.Load() - steps; got != all-1 {
		t.Errorf("a query with delayed name removal used the result of another range: %d steps were evaluated", got)
	}
}

// TestStale changes each component of the versions, and checks whether steps are evaluated again. It
// compares the answers with those of the engine.
func TestStale(t *testing.T) {
	start, end := origin, origin+3*day-hour
	perDay := day / hour
	for _, tt := range []struct {
		name   string
		change func(*world)
		want   int64
	}{
		{"a late sample", func(w *world) { w.write(origin+day, 99, "__name__", "load", "i", "9") }, 3 * perDay},
		{"another day's catalog", func(w *world) {
			w.store.Days = []series.DayVersion{{Day: origin/day + 2, Digest: [16]byte{1}}}
		}, perDay + 1}, // and the part whose look-back is in that day
		{"a deletion", func(w *world) { w.store.Deletions = [16]byte{1} }, 3 * perDay},
		{"nothing", func(*world) {}, 0},
		{"a sample after the bound", func(w *world) { w.write(w.bound, 1, "__name__", "load", "i", "0") }, 0},
		{"a sample after the recent bound", func(w *world) { w.write(w.recent, 1, "__name__", "load", "i", "0") }, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.fill()
			w.recent = w.bound + hour
			w.ask("sum(load)", start, end, hour)
			tt.change(w)
			before := w.steps.Load()
			w.ask("sum(load)", start, end, hour)
			if got := w.steps.Load() - before; (got == 0) != (tt.want == 0) || got > 3*perDay {
				t.Errorf("%d steps were evaluated again, want about %d", got, tt.want)
			}
		})
	}
}

// TestRecent checks that a sample between the bound and the recent bound makes only recent cached
// steps unusable. If the bound has moved since, these steps stay recent until they are cached again
// as settled.
func TestRecent(t *testing.T) {
	w := newWorld(t)
	w.fill()
	start, end := origin+2*day, origin+4*day+5*hour // days begin an hour after origin, origin+day, ...
	w.recent = origin + 4*day + 10*hour
	evaluated := func(when string, want int64) {
		t.Helper()
		before := w.steps.Load()
		w.ask("sum(load)", start, end, hour)
		if got := w.steps.Load() - before; got != want {
			t.Errorf("%s: %d steps were evaluated, want %d", when, got, want)
		}
	}
	late := func(at int64) { w.write(at, float64(w.late), "__name__", "load", "i", "9") }
	evaluated("first", 54)
	evaluated("again", 0)
	late(w.bound + 2*hour)
	evaluated("after a late sample", 29) // the last day, and the day before, whose last step is at the bound
	w.bound += 10 * hour
	evaluated("after the bound has moved", 0) // and stores the day
	w.recent += 10 * hour
	late(w.recent - hour)
	evaluated("after a late sample that is later than all steps", 0)
	late(w.bound - 9*hour)
	evaluated("after a late sample of the day", 54)
	start, end = origin+2*day, origin+2*day+10*hour
	w.ask("max(load)", start, end-5*hour, hour)
	late(w.bound + hour)
	w.ask("max(load)", start, end, hour)
	before := w.steps.Load()
	w.ask("max(load)", start, end, hour)
	if w.steps.Load() != before {
		t.Error("a settled entry did not grow after a late sample on which it does not depend")
	}
}

// TestRuns checks how many evaluations a query needs, because adjacent parts are evaluated together.
func TestRuns(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		start, end int64
		change     func(*world)
		want       int64 // evaluations
	}{
		{"a few days", "sum(load)", origin, origin + 3*day, nil, 1},
		{"with recent steps", "sum(load)", origin, origin + 5*day, nil, 1},
		{"eight days", "sum(load)", origin - 5*day, origin + 3*day, nil, 2},
		{"a part that is wider than a run", "sum_over_time(load[15d])", origin, origin + 5*day, nil, 1},
		{"a day in the middle is cached", "sum(load)", origin, origin + 3*day, func(w *world) {
			w.ask("sum(load)", origin+hour, origin+day, hour)
			w.parts.Store(0)
		}, 2},
		{"annotations", "rate(load[10m])", origin, origin + 3*day, func(w *world) {
			w.ask("rate(load[10m])", origin, origin+day, hour)
			w.parts.Store(0)
			w.changes++
		}, 4},
		{"all parts together exceed a limit", "sum(load)", origin, origin + 2*day, func(w *world) { w.longest = 24 }, 4}, // one fails
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.fill()
			if tt.change != nil {
				tt.change(w)
			}
			if res := w.ask(tt.text, tt.start, tt.end, hour); res.Err != nil {
				t.Fatal(res.Err)
			}
			if n := w.parts.Load(); n != tt.want {
				t.Errorf("%d evaluations, want %d", n, tt.want)
			}
			if n := w.closed.Load(); n != 1 && w.longest > 0 {
				t.Errorf("%d evaluations that exceeded the limit were closed, want 1", n)
			}
			if w.failed > 0 {
				t.Error("counted as a query that exceeded a limit")
			}
		})
	}
	w := newWorld(t)
	w.fill()
	w.longest = 23 // a part has 24 steps
	var exceeded *limits.Exceeded
	if res := w.ask("sum(load)", origin, origin+2*day, hour); !errors.As(res.Err, &exceeded) {
		t.Errorf("a part exceeds a limit: %v", res.Err)
	}
	if w.failed != 1 {
		t.Errorf("a query that exceeds a limit is counted %d times", w.failed)
	}
}

// TestChangedMeanwhile checks that an answer is not cached if a sample was written or its day was
// published during its evaluation, whether or not the evaluation read the change.
func TestChangedMeanwhile(t *testing.T) {
	w := newWorld(t)
	w.fill()
	w.evaluate = func() {
		w.evaluate = nil
		w.changes++
	}
	w.front.o.Workers = 1
	w.ask("sum(load)", origin, origin+2*day, hour)
	if w.cache.puts != 0 {
		t.Errorf("%d answers were cached", w.cache.puts)
	}
	w.ask("sum(load)", origin, origin+2*day, hour)
	if w.cache.puts == 0 {
		t.Error("no answer was cached when nothing changed")
	}
	w.changes++
	before := w.cache.puts
	w.evaluate = func() {
		w.evaluate = nil
		w.store.Days = []series.DayVersion{{Day: origin/day + 1, Digest: [16]byte{1}}}
	}
	w.ask("min(load)", origin+day, origin+2*day-2*hour, hour)
	if w.cache.puts != before {
		t.Error("an answer was cached though its day was published meanwhile")
	}
	w.recent = w.bound + 4*hour
	before = w.cache.puts
	w.evaluate = func() {
		w.evaluate = nil
		w.late++
	}
	w.ask("max(load)", w.bound+2*hour, w.bound+3*hour, hour)
	if w.cache.puts != before {
		t.Error("an answer was cached though a recent sample was written meanwhile")
	}
}

// TestUnjoinable checks that annotations with a state that were received as text can be returned
// only if they come from a single evaluation.
func TestUnjoinable(t *testing.T) {
	answer := evaluation.Answer{Notes: []evaluation.Note{{Raw: "r"}}}
	for _, tt := range []struct {
		name        string
		evaluations int64
		kept        *entry
		want        bool
	}{{"one evaluation", 1, nil, false}, {"two", 2, nil, true}, {"one and a kept part", 1, &entry{}, true}} {
		p := &plan{parts: []part{{}, {kept: tt.kept}}, tasks: []task{{warnings: answer.Result().Warnings}, {}}}
		p.answered.Store(tt.evaluations)
		if got := p.unjoinable(); got != tt.want {
			t.Errorf("%s: unjoinable %t", tt.name, got)
		}
	}
}

// TestGrows checks that a dashboard whose range moves evaluates only new steps, and that the cache entry
// grows.
func TestGrows(t *testing.T) {
	w := newWorld(t)
	w.fill()
	from, to := origin+10*hour, origin+34*hour
	w.ask("sum(load)", from, to, hour)
	for i := range int64(12) {
		before := w.steps.Load()
		w.ask("sum(load)", from+i*hour, to+i*hour, hour)
		if got := w.steps.Load() - before; got > 1 {
			t.Errorf("moved by %d hours: %d steps evaluated, want 1 at most", i, got)
		}
	}
	before := w.steps.Load()
	w.ask("sum(load)", from, to, hour)
	w.ask("sum(load)", from+3*hour, to+9*hour, hour)
	if got := w.steps.Load() - before; got != 0 {
		t.Errorf("%d steps of cached ranges were evaluated", got)
	}
}

// TestLimitOnHit checks that a cached answer is not used if its cost exceeds a limit: the steps
// that the query needs are evaluated, and may be within the limit.
func TestLimitOnHit(t *testing.T) {
	w := newWorld(t)
	w.fill()
	if w.again("sum(load)", origin, origin+2*day, hour) != 0 {
		t.Fatal("nothing was cached: the test checks nothing")
	}
	w.most = 3
	before := w.steps.Load()
	w.ask("sum(load)", origin, origin+2*day, hour)
	if w.steps.Load() == before {
		t.Error("an answer was used that would exceed a limit")
	}
}

// TestOldEntry checks that a cached answer is not used after maxAge.
func TestOldEntry(t *testing.T) {
	w := newWorld(t)
	w.fill()
	if w.again("sum(load)", origin, origin+2*day, hour) != 0 {
		t.Fatal("nothing was cached: the test checks nothing")
	}
	w.now += 25 * hour
	before := w.steps.Load()
	w.ask("sum(load)", origin, origin+2*day, hour)
	if w.steps.Load() == before {
		t.Error("an answer was used a day later")
	}
}

// TestFewSteps checks that a long range with few steps has few parts.
func TestFewSteps(t *testing.T) {
	w := newWorld(t)
	w.fill()
	w.ask("sum(load)", origin-900*day, origin+3*day, day)
	if n := w.parts.Load(); n > 45 {
		t.Errorf("%d parts for 903 steps", n)
	}
}

// TestExtremeTimes compares answers for times near and beyond the limits of int64 nanoseconds.
func TestExtremeTimes(t *testing.T) {
	w := newWorld(t)
	w.fill()
	for _, r := range [][2]int64{{-9_223_372_036_855_000, -9_223_372_036_854_000}, {9_223_372_036_854, 9_223_372_036_900}, {-5 * day, 5 * day}} {
		w.ask("load or load @ -9000000000", r[0], r[1], max((r[1]-r[0])/10, 1))
	}
}

// TestNotesAreKeptOnce checks that an entry that grows has each annotation once.
func TestNotesAreKeptOnce(t *testing.T) {
	w := newWorld(t)
	w.fill()
	for i := range int64(20) {
		w.ask("rate(load[10m])", origin+hour, origin+(3+i)*hour, hour)
	}
	for _, value := range w.cache.last {
		if e, err := decodeEntry(w.cache.lastKey, value, hour); err == nil && len(e.notes) > 1 {
			t.Errorf("%d notes: %v", len(e.notes), e.notes)
		}
	}
	if len(w.cache.last) == 0 {
		t.Error("nothing was cached")
	}
}

// TestWithoutCache checks that a query without the cache neither reads nor fills it.
func TestWithoutCache(t *testing.T) {
	w := newWorld(t)
	w.fill()
	ctx := WithoutCache(context.Background())
	w.askWith(ctx, "sum(load)", origin, origin+2*day, hour)
	if w.cache.puts != 0 || w.reads != 0 {
		t.Errorf("%d answers were cached, versions were read %d times", w.cache.puts, w.reads)
	}
	w.ask("sum(load)", origin, origin+2*day, hour)
	before := w.steps.Load()
	w.askWith(ctx, "sum(load)", origin, origin+2*day, hour)
	if w.steps.Load() == before {
		t.Error("the cache was used")
	}
}

// TestAnnotationsOfSteps checks that an annotation of some steps of a cached day is not returned for other
// steps.
func TestAnnotationsOfSteps(t *testing.T) {
	w := newWorld(t)
	// A float among histograms causes a warning at the steps that read both.
	for i := range int64(40) {
		w.writeHistogram(origin+hour+i*30*minute, tsdbutil.GenerateTestFloatHistogram(i), "__name__", "mixed")
	}
	w.write(origin+3*hour+minute, 1, "__name__", "mixed")
	whole := w.ask("rate(mixed[1h])", origin+hour, origin+20*hour, 30*minute)
	if len(whole.Warnings) == 0 {
		t.Fatal("no warning: the test checks nothing")
	}
	w.ask("rate(mixed[1h])", origin+10*hour, origin+20*hour, 30*minute)
	w.ask("rate(mixed[1h])", origin+hour, origin+20*hour, 30*minute)
}

// TestFailure checks that the error of a part is the error of the query, and that nothing is cached.
func TestFailure(t *testing.T) {
	w := newWorld(t)
	w.fill()
	res := w.ask(`label_replace(load, "i", "x", "i", ".*")`, origin, origin+2*day, hour)
	if res.Err == nil || w.cache.puts != 0 {
		t.Errorf("error = %v, %d answers cached", res.Err, w.cache.puts)
	}
	res = w.ask(`load + on () load`, origin, origin+2*day, hour)
	if res.Err == nil || w.cache.puts != 0 {
		t.Errorf("error = %v, %d answers cached", res.Err, w.cache.puts)
	}
}

// TestZonesOfReads checks that an answer is cached with the ingesters that answered all of its
// reads, and that it is used while enough of these ingesters are available.
func TestZonesOfReads(t *testing.T) {
	w := newWorld(t)
	w.fill()
	const text = "sum(requests_total)"
	ask := func() (fromCache bool) {
		t.Helper()
		before := w.parts.Load()
		w.ask(text, origin+day, origin+2*day, 10*minute)
		return w.parts.Load() == before
	}
	w.members = []string{"a", "b", "c"}
	w.readers = evaluation.Readers{Any: true, IDs: []string{"c"}}
	if ask(); ask() {
		t.Error("cached an answer that was read from one zone")
	}
	w.readers = evaluation.Readers{Any: true, IDs: []string{"b", "c"}}
	if ask(); !ask() {
		t.Error("did not keep an answer that was read from two zones")
	}
	w.members = []string{"b", "c"}
	if !ask() {
		t.Error("did not use the answer while the third zone is down")
	}
	w.members = []string{"a", "b"}
	if ask() {
		t.Error("used the answer of zones b and c, of which c is down")
	}
	w.readers = evaluation.Readers{Any: true, IDs: []string{"a", "b"}}
	if ask(); !ask() {
		t.Error("did not keep the answer of zones a and b")
	}
}

// TestKey checks that everything that changes the result of a part, other than what its version
// covers, is in its key.
func TestKey(t *testing.T) {
	type input struct {
		id                     tenant.ID
		policy, engine, syntax string
		lookback               time.Duration
		step, start, interval  int64
		text                   string
		fixed                  bool
		end                    int64
	}
	base := input{id: "acme", policy: "all", engine: "1", syntax: "", lookback: time.Minute, step: minute, start: origin + 2*hour, interval: day, text: "x",
		end: origin + day}
	key := func(in input) string {
		f := &Frontend{o: Options{Switches: in.engine}}
		p := &plan{q: &rangeQuery{text: in.text, times: split.Times{Start: timestamp.Time(in.start), End: timestamp.Time(in.end)}}, f: f, id: in.id,
			policy: in.policy, syntax: in.syntax, step: in.step}
		return p.key(split.Range{Start: in.start, End: in.start + hour}, in.interval, in.lookback, in.fixed)
	}
	for name, change := range map[string]func(*input){
		"tenant": func(in *input) { in.id = "acm" }, "policy": func(in *input) { in.policy = `{team="a"}` },
		"version": func(in *input) { in.engine = "2" }, "switches": func(in *input) { in.syntax = "promql_x" },
		"look-back": func(in *input) { in.lookback++; in.lookback = in.lookback.Truncate(time.Second) + time.Second },
		"step":      func(in *input) { in.step *= 2 }, "phase": func(in *input) { in.start += 30_000 },
		"width": func(in *input) { in.interval *= 2 }, "day": func(in *input) { in.start += day }, "text": func(in *input) { in.text = "y" },
		"end of an undivided query":      func(in *input) { in.fixed = true },
		"same text of tenant and policy": func(in *input) { in.id, in.policy = "acmea", "ll" },
	} {
		in := base
		change(&in)
		if key(in) == key(base) {
			t.Errorf("%s: the same key", name)
		}
	}
	a, b := base, base
	a.fixed, b.fixed, b.end = true, true, a.end+minute
	if key(a) == key(b) {
		t.Error("two undivided queries with different ends: the same key")
	}
	if again := base; key(again) != key(base) {
		t.Error("one query: two keys")
	}
	later := base
	later.start, later.end = base.start+hour, base.end+hour // of the same day
	if key(later) != key(base) {
		t.Error("the same day of two queries: two keys")
	}
}

// TestTiming checks the measurements of a query: the numbers of cached and evaluated steps, and the
// parts, with one part for each shard.
func TestTiming(t *testing.T) {
	w := newWorld(t)
	w.fill()
	ask := func(shards int, text string, start, end int64) timing.Report {
		t.Helper()
		w.divideSeries(shards)
		r := timing.New(time.Now)
		if res := w.askWith(timing.NewContext(t.Context(), r), text, start, end, 10*minute); res.Err != nil {
			t.Fatal(res.Err)
		}
		return r.Report()
	}
	start, end := origin+hour, origin+2*day+hour // two days
	steps := (end-start)/(10*minute) + 1
	first := ask(1, "load", start, end-10*minute)
	if first.Cached != 0 || first.Evaluated != steps-1 || len(first.Parts) != 1 || first.Parts[0].Start != start || first.Parts[0].End != end-10*minute {
		t.Errorf("nothing is cached: %+v", first)
	}
	again := ask(1, "load", start, end+6*hour)
	cached := int64(0)
	for _, p := range again.Parts {
		if p.Cached {
			cached += (p.End-p.Start)/(10*minute) + 1
		}
	}
	if again.Cached != steps-1 || cached != again.Cached || again.Evaluated == 0 || len(again.Parts) != 3 || again.Of(timing.Cache) <= 0 {
		t.Errorf("two days are cached: %+v", again)
	}
	divided := ask(3, "sum(load)", start, end)
	shards := 0
	for _, p := range divided.Parts {
		if p.Shard {
			shards++
		}
	}
	if shards < 2 || divided.Evaluated != steps {
		t.Errorf("shards: %+v", divided)
	}
}
