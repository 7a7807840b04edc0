package frontend

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/timestamp"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/tsdbutil"
	"github.com/prometheus/prometheus/util/teststorage"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/cache"
	"github.com/palliumhq/pallium/backend/cache/memory"
	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/shard"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/limits"
)

const (
	minute = int64(60_000)
	hour   = 60 * minute
	day    = 24 * hour
)

// origin is the start of the samples; a day begins an hour later.
var origin = timestamp.FromTime(time.Date(2026, 3, 1, 23, 0, 0, 0, time.UTC))

// world is a frontend over Prometheus' engine and storage. The test writes the samples and sets the
// versions.
type world struct {
	t      testing.TB
	db     *teststorage.TestStorage
	engine *promql.Engine
	parser parser.Parser
	syntax switches.Set // of the tenant
	front  *Frontend
	cache  *spy

	now       int64
	bound     int64
	changes   uint64
	recent    int64  // the recent bound; if it is before the bound, there is none
	late      uint64 // changes between the bound and the recent bound
	store     series.StoreVersion
	noVer     error
	readers   evaluation.Readers // of all evaluations
	members   []string           // available ingesters, each in its own domain; nil: one ingester
	keep      time.Duration
	most      int64        // samples; 0 = no limit
	longest   int64        // maximum number of steps of an evaluation; 0 = no limit
	closed    atomic.Int64 // evaluations that exceeded longest and were closed
	failed    int          // queries that exceeded a limit
	evaluate  func()       // called before each evaluation of a part; may be nil
	parts     atomic.Int64
	steps     atomic.Int64
	reads     int // number of reads of versions
	shards    int // maximum number of shards of an aggregation; must be set before frontend is called
	sharded   atomic.Int64
	old       bool         // queriers ignore shards
	lists     atomic.Int64 // number of lists of series
	noLists   bool         // the series must not be listed
	wantLists int64        // how often the series must be listed; 0: any number
	peak      atomic.Int64 // the most samples of one evaluation
}

// spy counts the calls of a cache.
type spy struct {
	cache.Cache
	puts, found int
	last        [][]byte // values of the last key
	lastKey     string
}

func (s *spy) Get(ctx context.Context, id tenant.ID, keys []string) map[string][]byte {
	out := s.Cache.Get(ctx, id, keys)
	s.found += len(out)
	return out
}

func (s *spy) Put(ctx context.Context, id tenant.ID, key string, value []byte) {
	s.puts++
	if s.lastKey != key {
		s.last = nil
	}
	s.lastKey, s.last = key, append(s.last, value)
	s.Cache.Put(ctx, id, key, value)
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, parser: parser.NewParser(parser.Options{}), now: origin + 5*day, bound: origin + 4*day}
	w.db = teststorage.New(t, func(o *tsdb.Options) {
		o.OutOfOrderTimeWindow = 10 * day
		o.MinBlockDuration, o.MaxBlockDuration = 100*day, 100*day
	})
	w.engine = promql.NewEngine(w.options(w.parser))
	w.cache = &spy{Cache: memory.New(64<<20, prometheus.NewRegistry())}
	w.front = w.frontend(w.cache)
	return w
}

func (w *world) frontend(c cache.Cache) *Frontend {
	return New(Options{
		MaxShards: w.shards, ShardPoints: 1,
		Evaluator: w, Parsers: parserOf, Syntax: func(context.Context) switches.Set { return w.syntax }, Cache: c, Engine: split.Options{Lookback: 5 * time.Minute, SubqueryStep: time.Minute},
		Versions: w.versions, Workers: 2, Now: func() time.Time { return timestamp.Time(w.now) }, Registerer: prometheus.NewRegistry(),
	})
}

func parserOf(s switches.Set) parser.Parser { return parser.NewParser(s.Parser()) }

// divideSeries divides the series of aggregations into up to n shards.
func (w *world) divideSeries(n int) {
	w.shards = n
	w.front = w.frontend(w.cache)
}

// switchTo changes the switches of the tenant.
func (w *world) switchTo(s switches.Set) {
	w.syntax, w.parser = s, parserOf(s)
	w.engine = promql.NewEngine(w.options(w.parser))
}

func (w *world) options(p parser.Parser) promql.EngineOpts {
	o := promql.EngineOpts{MaxSamples: math.MaxInt, Timeout: time.Hour, LookbackDelta: 5 * time.Minute, EnableAtModifier: true,
		EnableNegativeOffset: true, Parser: p, NoStepSubqueryIntervalFn: func(int64) int64 { return minute }}
	w.syntax.Engine(&o)
	return o
}

func (w *world) versions(_ context.Context, _ tenant.ID, mint, maxt int64) (series.Versions, error) {
	w.reads++
	if w.noVer != nil {
		return series.Versions{}, w.noVer
	}
	v := series.Versions{Domains: map[string]int{}, Needed: 1}
	members := w.members
	if members == nil {
		members = []string{"i"}
	} else {
		v.Needed, v.Domains = 2, map[string]int{"a": 1, "b": 1, "c": 1}
	}
	for _, id := range members {
		v.Domains[id] = 1
		v.Ingesters = append(v.Ingesters, series.IngesterVersion{Instance: id, Epoch: 1, Changes: w.changes, Recent: w.late,
			Bound: w.bound, RecentBound: w.recent, Domain: id})
	}
	v.Store = w.store.Within(mint/day, maxt/day)
	return v, nil
}

// write stores a sample, and counts it in the versions as an ingester would.
func (w *world) write(t int64, v float64, ls ...string) {
	w.t.Helper()
	app := w.db.Appender(w.t.Context())
	if _, err := app.Append(0, labels.FromStrings(ls...), t, v); err != nil {
		w.t.Fatal(err)
	}
	w.commit(app, t)
}

func (w *world) writeHistogram(t int64, h *histogram.FloatHistogram, ls ...string) {
	w.t.Helper()
	app := w.db.Appender(w.t.Context())
	if _, err := app.AppendHistogram(0, labels.FromStrings(ls...), t, nil, h); err != nil {
		w.t.Fatal(err)
	}
	w.commit(app, t)
}

func (w *world) commit(app storage.Appender, t int64) {
	w.t.Helper()
	if err := app.Commit(); err != nil {
		w.t.Fatal(err)
	}
	switch {
	case t < w.bound:
		w.changes++
	case t < w.recent:
		w.late++
	}
}

// fill writes four days of a few series: counters and gauges, one that ends after a day,
// one that begins later, and a native histogram.
func (w *world) fill() {
	w.t.Helper()
	app := w.db.Appender(w.t.Context())
	for i := int64(0); i < 4*day/(5*minute); i++ {
		t := origin + i*5*minute
		for j := range 4 {
			if j == 2 && i > 300 || j == 3 && i < 500 {
				continue
			}
			ls := labels.FromStrings("__name__", "requests_total", "job", fmt.Sprint("job-", j%2), "i", fmt.Sprint(j))
			w.must(app.Append(0, ls, t, float64(i*int64(j+1)%977)))
			ls = labels.FromStrings("__name__", "load", "i", fmt.Sprint(j))
			w.must(app.Append(0, ls, t, math.Sin(float64(i))*float64(j+1)/3))
		}
		if i%3 == 0 {
			h := tsdbutil.GenerateTestFloatHistogram(i / 3)
			w.must(app.AppendHistogram(0, labels.FromStrings("__name__", "latency"), t, nil, h))
		}
	}
	if err := app.Commit(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) must(_ storage.SeriesRef, err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// ask returns the answer of the frontend, after comparing it with that of the engine.
func (w *world) ask(text string, start, end, step int64) *promql.Result {
	w.t.Helper()
	return w.askWith(w.t.Context(), text, start, end, step)
}

func (w *world) askWith(ctx context.Context, text string, start, end, step int64) *promql.Result {
	w.t.Helper()
	ctx = tenant.NewContext(ctx, tenant.Access{Tenant: "t", Policy: tenant.Unrestricted()})
	from, to, by := timestamp.Time(start), timestamp.Time(end), time.Duration(step)*time.Millisecond
	q, err := w.front.NewRangeQuery(ctx, sorted{Queryable: w.db}, nil, text, from, to, by)
	if err != nil {
		w.t.Fatalf("%s: %v", text, err)
	}
	got := q.Exec(ctx)
	want, err := w.engine.NewRangeQuery(ctx, sorted{Queryable: w.db}, nil, text, from, to, by)
	if err != nil {
		w.t.Fatal(err)
	}
	defer want.Close()
	if got.Err == nil {
		equal(w.t, text, got, want.Exec(ctx))
	}
	w.t.Cleanup(q.Close)
	return got
}

// equal compares two answers exactly, annotations as the API prints them.
func equal(t testing.TB, text string, got, want *promql.Result) {
	t.Helper()
	if want.Err != nil {
		t.Errorf("%s: no error, want %v", text, want.Err)
		return
	}
	if g, w := got.Value.String(), want.Value.String(); g != w {
		t.Errorf("%s:\n got %.2000s\nwant %.2000s", text, g, w)
	}
	gw, gi := got.Warnings.AsStrings(text, 0, 0)
	ww, wi := want.Warnings.AsStrings(text, 0, 0)
	for _, list := range [][]string{gw, gi, ww, wi} {
		slices.Sort(list)
	}
	if !slices.Equal(gw, ww) || !slices.Equal(gi, wi) {
		t.Errorf("%s: annotations %q %q, want %q %q", text, gw, gi, ww, wi)
	}
}

// NewInstantQuery implements Evaluator: world is the evaluator, too.

func (w *world) NewInstantQuery(
	ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, at time.Time,
) (promql.Query, error) {
	return w.engine.NewInstantQuery(ctx, q, opts, text, at)
}

func (w *world) NewRangeQuery(
	ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, start, end time.Time, step time.Duration,
) (promql.Query, error) {
	return w.engine.NewRangeQuery(ctx, q, opts, text, start, end, step)
}

func (w *world) NewPartQuery(
	ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, whole split.Times, part split.Range, of *shard.Shard,
) (promql.Query, error) {
	if w.evaluate != nil {
		w.evaluate()
	}
	w.parts.Add(1)
	if n := stepsIn(part, whole.Step.Milliseconds()); w.longest > 0 && n > w.longest {
		return tooLong{closed: &w.closed}, nil
	}
	w.steps.Add(stepsIn(part, whole.Step.Milliseconds()))
	o := w.options(split.Parser(w.parser, whole.Start, whole.End, whole.Step))
	if w.most > 0 {
		o.MaxSamples = int(w.most)
	}
	if of != nil {
		if w.sharded.Add(1); w.old {
			return oldQuerier{}, nil
		}
		o.Parser, q = shard.Parser(o.Parser, of), sorted{q, of.Range}
	}
	return promql.NewEngine(o).NewRangeQuery(ctx, q, opts, text, timestamp.Time(part.Start), timestamp.Time(part.End), whole.Step)
}

func (w *world) NewRootQuery(ctx context.Context, text string, whole split.Times, part split.Range, answers []shard.Answer) (
	promql.Query, error,
) {
	p, stored := shard.Root(split.Parser(w.parser, whole.Start, whole.End, whole.Step), answers)
	return promql.NewEngine(w.options(p)).NewRangeQuery(ctx, stored, promql.NewPrometheusQueryOpts(false, time.Millisecond, nil), text,
		timestamp.Time(part.Start), timestamp.Time(part.End), whole.Step)
}

func (w *world) Series(ctx context.Context, q storage.Queryable, mint, maxt int64, matchers []*labels.Matcher) ([]labels.Labels, error) {
	w.lists.Add(1)
	from, err := q.Querier(mint, maxt)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	var out []labels.Labels
	set := from.Select(ctx, true, nil, matchers...)
	for set.Next() {
		out = append(out, set.At().Labels())
	}
	return out, set.Err()
}

// sorted is a storage that returns the series of a range, sorted by labels as Pallium's does.
type sorted struct {
	storage.Queryable
	within series.LabelRange
}

func (s sorted) Querier(mint, maxt int64) (storage.Querier, error) {
	q, err := s.Queryable.Querier(mint, maxt)
	return sortedQuerier{q, s.within}, err
}

type sortedQuerier struct {
	storage.Querier
	within series.LabelRange
}

func (q sortedQuerier) Select(ctx context.Context, _ bool, hints *storage.SelectHints, ms ...*labels.Matcher) storage.SeriesSet {
	return &within{q.Querier.Select(ctx, true, hints, ms...), q.within}
}

// within is the series of a range.
type within struct {
	storage.SeriesSet
	r series.LabelRange
}

func (w *within) Next() bool {
	for w.SeriesSet.Next() {
		if w.r.Contains(w.At().Labels()) {
			return true
		}
	}
	return false
}

// oldQuerier is the query of a shard that a querier of an older version evaluated.
type oldQuerier struct{ promql.Query }

func (oldQuerier) Exec(context.Context) *promql.Result {
	return &promql.Result{Err: promql.ErrStorage{Err: evaluation.ErrNotSharded}}
}

func (oldQuerier) Close() {}

// tooLong is an evaluation that exceeds a limit.
type tooLong struct {
	promql.Query
	closed *atomic.Int64
}

func (tooLong) Exec(context.Context) *promql.Result {
	return &promql.Result{Err: limits.MaxQuerySamples.Exceeded(&limits.Limits{}, limits.More)}
}

func (q tooLong) Close() { q.closed.Add(1) }

func (w *world) TooLarge(err error) bool {
	var exceeded *limits.Exceeded
	var tooMany promql.ErrTooManySamples
	return errors.As(err, &exceeded) || errors.As(err, &tooMany)
}

func (w *world) Check(promql.Query) error { return nil }

func (w *world) CheckCost(_ context.Context, _, samples int64) error {
	if w.most > 0 && samples > w.most {
		return limits.MaxQuerySamples.Exceeded(&limits.Limits{}, limits.More)
	}
	return nil
}

func (w *world) Readers(promql.Query) evaluation.Readers { return w.readers }

func (w *world) Cost(q promql.Query) (series, samples int64) {
	w.peak.Store(max(w.peak.Load(), int64(q.Stats().Samples.PeakSamples)))
	return 1, int64(q.Stats().Samples.PeakSamples)
}

func (w *world) Take(context.Context, int64) error { return nil }

func (w *world) Charge(context.Context, promql.Matrix) error { return nil }

func (w *world) Failed(err error) *promql.Result {
	w.failed++
	return &promql.Result{Err: err}
}

func (w *world) Retention(context.Context) (time.Duration, error) { return w.keep, nil }
