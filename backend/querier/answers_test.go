package querier

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"

	"github.com/palliumhq/pallium/authn/tenant"
	evaluations "github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/shard"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/timing"
	"github.com/palliumhq/pallium/policies/limits"
)

// TestSeriesByRemoteRead checks that a chunk querier reads chunks even with the hint of the series
// API, which a remote read can have.
func TestSeriesByRemoteRead(t *testing.T) {
	b := newBed(t)
	q, err := b.q.ChunkQuerier(start, start+60_000)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	q.Select(b.as("a"), true, &storage.SelectHints{Start: start, End: start + 60_000, Func: "series"}, everything)
	if b.source.last().LabelsOnly {
		t.Error("chunk querier requested only labels")
	}
}

// noExemplars is a source without exemplars.
type noExemplars struct{ *fakeSource }

func (noExemplars) Exemplars(context.Context, tenant.ID, int64, int64, [][]*labels.Matcher) ([]exemplar.QueryResult, error) {
	return nil, nil
}

// TestNoExemplars checks that the result without exemplars is an empty list, as
// in Prometheus, not null.
func TestNoExemplars(t *testing.T) {
	b := newBed(t)
	q, err := NewQueryable(noExemplars{b.source}, b.q.now, b.q.logger).ExemplarQuerier(b.as("a"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := q.Select(start, start+1, []*labels.Matcher{everything})
	if err != nil || got == nil || len(got) != 0 {
		t.Errorf("Select = %v, %v, want an empty list", got, err)
	}
}

// TestPartExceedsLimit checks that a part of a query that exceeds a limit holds no memory
// afterwards. The metric of exceeded limits counts only whole queries that failed: a part may be
// repeated with fewer steps.
func TestPartExceedsLimit(t *testing.T) {
	for limit, lim := range map[string]limits.Limits{
		"max_query_samples": {MaxQuerySamples: 1}, "max_query_series": {MaxQuerySeries: 1}, "max_memory_bytes": {MaxMemoryBytes: 1},
	} {
		b := newBed(t)
		b.lim = lim
		h := memory.NewAccount(1<<30, nil).Begin(memory.Request{Tenant: "a", Limit: lim.MaxMemoryBytes})
		defer h.Close()
		ctx := memory.NewContext(b.as("a"), h)
		whole := split.Times{Start: time.UnixMilli(start), End: b.now, Step: time.Hour}
		q, err := b.engine.NewPartQuery(ctx, b.q, nil, "up", whole, split.Range{Start: start, End: start + 5*3_600_000}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		res := q.Exec(ctx)
		if !b.engine.TooLarge(res.Err) {
			t.Fatalf("%s: %v", limit, res.Err)
		}
		if n := h.Used(); n != 0 {
			t.Errorf("%s: %d bytes are held", limit, n)
		}
		counted := func() float64 { return testutil.ToFloat64(b.engine.exceeded.WithLabelValues(limit)) }
		if n := counted(); n != 0 {
			t.Errorf("%s: counted %g times for a part", limit, n)
		}
		if b.engine.Failed(res.Err); counted() != 1 {
			t.Errorf("%s: counted %g times for its query", limit, counted())
		}
	}
}

// TestRootMemory checks that memory is taken for the engine's copy of the points of shards, and
// released after the evaluation.
func TestRootMemory(t *testing.T) {
	b := newBed(t)
	const text, steps, hour = "stddev(up)", 1000, 3_600_000
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(text)
	if err != nil {
		t.Fatal(err)
	}
	var piece promql.Matrix
	for i := range 100 {
		s := promql.Series{Metric: labels.FromStrings("__name__", "up", "i", fmt.Sprint(i))}
		for k := range int64(steps) {
			s.Floats = append(s.Floats, promql.FPoint{T: start + k*hour, F: 1})
		}
		piece = append(piece, s)
	}
	answer, err := shard.Analyze(expr)[0].Collect([]promql.Matrix{piece}, shard.Steps{Start: start, Step: hour, N: steps},
		func(int64) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	for limit, want := range map[int64]bool{1 << 20: false, 1 << 24: true} {
		h := memory.NewAccount(1<<30, nil).Begin(memory.Request{Tenant: "a", Limit: limit})
		ctx := memory.NewContext(b.as("a"), h)
		last := start + (steps-1)*hour
		whole := split.Times{Start: time.UnixMilli(start), End: time.UnixMilli(last), Step: time.Hour}
		q, err := b.engine.NewRootQuery(ctx, text, whole, split.Range{Start: start, End: last}, []shard.Answer{answer})
		if err != nil {
			t.Fatal(err)
		}
		if res := q.Exec(ctx); (res.Err == nil) != want || !want && !b.engine.TooLarge(res.Err) {
			t.Errorf("limit of %d bytes for points of %d: %v", limit, 100*steps*pointBytes, res.Err)
		}
		if n := h.Used(); n > 200_000 {
			t.Errorf("%d bytes are held after the query", n)
		}
		q.Close()
		h.Close()
	}
}

// TestSeriesMemory checks that memory is taken for listed labels, which are copies.
func TestSeriesMemory(t *testing.T) {
	b := newBed(t)
	list := oneADay(t, "up", 100)
	for i := range list {
		list[i].Labels = labels.FromStrings("__name__", "up", "long", fmt.Sprintf("%01000d", i))
	}
	b.source.data["a"] = list
	for limit, want := range map[int64]bool{50_000: false, 150_000: true} {
		h := memory.NewAccount(1<<30, nil).Begin(memory.Request{Tenant: "a", Limit: limit})
		_, err := b.engine.Series(memory.NewContext(b.as("a"), h), b.q, start, start+1, []*labels.Matcher{everything})
		if (err == nil) != want {
			t.Errorf("limit of %d bytes: %v", limit, err)
		}
		h.Close()
	}
}

// TestSeriesFault checks that an error of Series is not noted as a fault of the request.
func TestSeriesFault(t *testing.T) {
	b := newBed(t)
	b.source.err = errors.New("unreadable")
	ctx, fault := NoteFaults(b.as("a"))
	if _, err := b.engine.Series(ctx, b.q, start, start+1, []*labels.Matcher{everything}); err == nil || fault() != nil {
		t.Errorf("error %v, fault %v", err, fault())
	}
}

// TestChargeTakesAllOrNothing checks that Charge reserves nothing if there is not enough memory.
func TestChargeTakesAllOrNothing(t *testing.T) {
	m := promql.Matrix{{Metric: labels.FromStrings("a", "b"), Floats: make([]promql.FPoint, 1000)}}
	for limit := int64(1000); limit < 1<<20; limit *= 2 {
		h := memory.NewAccount(1<<30, nil).Begin(memory.Request{Tenant: "a", Limit: limit})
		err := (&Engine{}).Charge(memory.NewContext(context.Background(), h), m)
		if n := h.Used(); (err == nil) != (n > 0) {
			t.Errorf("limit of %d bytes: error %v, %d bytes held", limit, err, n)
		}
		h.Close()
	}
}

// TestEnded checks the error of a query that the memory account ended, either while it took memory
// (by the account) or at any other time (by the context). It is not a storage error, and no fault is
// noted, so that no other process evaluates the query again.
func TestEnded(t *testing.T) {
	for name, cancels := range map[string]bool{"by the account": false, "by the context": true} {
		b := newBed(t)
		account := memory.NewAccount(1<<30, nil)
		h := account.Begin(memory.Request{Tenant: "a"})
		ctx, fault := NoteFaults(memory.NewContext(b.as("a"), h))
		ctx, cancel := context.WithCancelCause(ctx)
		if cancels {
			h.OnEnd(cancel)
		}
		whole := split.Times{Start: time.UnixMilli(start), End: b.now, Step: time.Hour}
		q, err := b.engine.NewPartQuery(ctx, b.q, nil, "up", whole, split.Range{Start: start, End: start + 5*3_600_000}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Take(1 << 20); err != nil {
			t.Fatal(err)
		}
		account.EndHeaviest(1)
		res := q.Exec(ctx)
		var internal promql.ErrStorage
		if !errors.Is(res.Err, memory.ErrEnded) || errors.As(res.Err, &internal) || fault() != nil || b.engine.TooLarge(res.Err) {
			t.Errorf("%s: %T %v, fault %v", name, res.Err, res.Err, fault())
		}
		q.Close()
		cancel(nil)
		if h.Close(); account.Used() != 0 {
			t.Errorf("%s: %d bytes are held", name, account.Used())
		}
	}
}

// TestTooLarge checks for which errors TooLarge returns true.
func TestTooLarge(t *testing.T) {
	lim := &limits.Limits{}
	for _, tt := range []struct {
		name string
		err  error
		want bool
	}{
		{"none", nil, false},
		{"a limit", fmt.Errorf("query: %w", limits.MaxQuerySamples.Exceeded(lim, limits.More)), true},
		{"the limit of time", TimedOut(lim), false},
		{"no memory left", promql.ErrStorage{Err: fmt.Errorf("read: %w", memory.ErrFull)}, true},
		{"ended because memory was short", memory.ErrEnded, false},
		{"unreadable", promql.ErrStorage{Err: errors.New("the store is down")}, false},
	} {
		if got := (&Engine{}).TooLarge(tt.err); got != tt.want {
			t.Errorf("%s: too large = %t", tt.name, got)
		}
	}
}

// TestTimeOfEngine checks that the time of the engine is that of an evaluation without the time of
// its selections.
func TestTimeOfEngine(t *testing.T) {
	b := newBed(t)
	now := time.Unix(0, 0)
	r := timing.New(func() time.Time { now = now.Add(time.Second); return now })
	ctx := timing.NewContext(b.as("a"), r)
	q, err := b.engine.NewInstantQuery(ctx, b.q, nil, "up + up", b.now)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if res := q.Exec(ctx); res.Err != nil {
		t.Fatal(res.Err)
	}
	// The clock advances with each reading: begin, begin and end of two selections, and end.
	got := r.Report()
	if got.Of(timing.Selecting) != 2*time.Second || got.Of(timing.Evaluation) != 5*time.Second || got.Of(timing.Engine) != 3*time.Second {
		t.Errorf("selecting %s, engine %s, evaluation %s", got.Of(timing.Selecting), got.Of(timing.Engine), got.Of(timing.Evaluation))
	}
}

// TestCostOfQueries checks that queries of all kinds have a cost after they ran, and none before.
func TestCostOfQueries(t *testing.T) {
	b := newBed(t)
	ctx := b.as("a")
	first, last := time.UnixMilli(start), time.UnixMilli(start+60_000)
	instant, err1 := b.engine.NewInstantQuery(ctx, b.q, nil, "up", first)
	whole, err2 := b.engine.NewRangeQuery(ctx, b.q, nil, "up", first, last, time.Minute)
	part, err3 := b.engine.NewPartQuery(ctx, b.q, nil, "up", split.Times{Start: first, End: last, Step: time.Minute},
		split.Range{Start: start, End: start + 60_000}, nil)
	for i, q := range []promql.Query{instant, whole, part} {
		if err := []error{err1, err2, err3}[i]; err != nil {
			t.Fatal(err)
		}
		if n, samples := b.engine.Cost(q); n != 0 || samples != 0 {
			t.Errorf("query %d that did not run: %d series, %d samples", i, n, samples)
		}
		if res := q.Exec(ctx); res.Err != nil {
			t.Fatal(res.Err)
		}
		if n, samples := b.engine.Cost(q); n == 0 || samples == 0 {
			t.Errorf("query %d: %d series, %d samples", i, n, samples)
		}
		q.Close()
	}
}

// TestInseparable checks that the evaluation of a shard fails if its series have labels, other than
// the metric name, that functions drop.
func TestInseparable(t *testing.T) {
	for _, typed := range []bool{false, true} {
		b := newBed(t)
		if typed {
			list := b.source.data["a"]
			list[1].Labels = labels.FromStrings("__name__", "up", "__unit__", "s", "i", "1")
		}
		whole := split.Times{Start: time.UnixMilli(start), End: b.now, Step: time.Hour}
		q, err := b.engine.NewPartQuery(b.as("a"), b.q, nil, "abs(up)", whole, split.Range{Start: start, End: start + 5*3_600_000},
			&shard.Shard{Aggregation: shard.Everything, Of: 2})
		if err != nil {
			t.Fatal(err)
		}
		res := q.Exec(b.as("a"))
		var unreadable promql.ErrStorage
		if rejected := errors.As(res.Err, &unreadable) && errors.Is(unreadable.Err, evaluations.ErrNotSharded); rejected != typed {
			t.Errorf("with a unit label %t: error %v, want ErrNotSharded %[1]t", typed, res.Err)
		}
		q.Close()
	}
}
