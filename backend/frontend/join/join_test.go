package join

import (
	"context"
	"errors"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/parser/posrange"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/prometheus/prometheus/util/stats"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/timing"
	"github.com/palliumhq/pallium/test/kit"
)

// world is an Engine over queries whose results the test sends.
type world struct {
	t      *testing.T
	e      *Engine
	timer  chan time.Time
	tenant tenant.ID
	begun  chan *running

	mu     sync.Mutex
	closed int
	fault  error // recorded by every query that ends
	noted  []error
}

// running is a query that runs until the test sends its result, or its context ends.
type running struct {
	ctx    context.Context
	result chan *promql.Result
}

type inner struct {
	w     *world
	stats *stats.Statistics
}

func (q *inner) Exec(ctx context.Context) *promql.Result {
	r := &running{ctx, make(chan *promql.Result)}
	q.w.begun <- r
	select {
	case res := <-r.result:
		return res
	case <-ctx.Done():
		timing.Of(ctx).Read(7)
		return &promql.Result{Err: promql.ErrQueryCanceled("x")}
	}
}
func (q *inner) Close()                      { q.w.mu.Lock(); q.w.closed++; q.w.mu.Unlock() }
func (q *inner) Cancel()                     {}
func (q *inner) String() string              { return "" }
func (q *inner) Statement() parser.Statement { return nil }
func (q *inner) Stats() *stats.Statistics    { return q.stats }

func (w *world) NewInstantQuery(context.Context, storage.Queryable, promql.QueryOpts, string, time.Time) (promql.Query, error) {
	return &inner{w, &stats.Statistics{Timers: stats.NewQueryTimers(), Samples: stats.NewQuerySamples(false)}}, nil
}

func (w *world) NewRangeQuery(ctx context.Context, s storage.Queryable, o promql.QueryOpts, text string, at, _ time.Time, _ time.Duration) (
	promql.Query, error) {
	return w.NewInstantQuery(ctx, s, o, text, at)
}

type uncachedKey struct{}

func newWorld(t *testing.T) *world {
	w := &world{t: t, timer: make(chan time.Time), tenant: "acme", begun: make(chan *running, 100)}
	w.e = New(Options{Engine: w, Timer: func(time.Duration) <-chan time.Time { return w.timer }, Registerer: prometheus.NewRegistry(),
		Request: func(context.Context) (evaluation.Request, error) {
			return evaluation.Request{Access: tenant.Access{Tenant: w.tenant, Policy: tenant.Unrestricted()}}, nil
		},
		Uncached: func(ctx context.Context) bool { return ctx.Value(uncachedKey{}) != nil },
		Faults: func(ctx context.Context) (context.Context, func() error) {
			return ctx, func() error { w.mu.Lock(); defer w.mu.Unlock(); return w.fault }
		},
		Unreadable:  func(_ context.Context, err error) { w.mu.Lock(); w.noted = append(w.noted, err); w.mu.Unlock() },
		Interrupted: func(ctx context.Context) *promql.Result { return &promql.Result{Err: context.Cause(ctx)} },
	})
	return w
}

// ask runs a query in the background; the channel receives its result.
func (w *world) ask(ctx context.Context, text string, start, step int64) <-chan *promql.Result {
	w.t.Helper()
	q, err := w.e.NewRangeQuery(ctx, nil, nil, text, time.Unix(start, 0), time.Unix(start+100, 0), time.Duration(step))
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan *promql.Result, 1)
	go func() {
		defer q.Close()
		done <- q.Exec(ctx)
	}()
	return done
}

// waiting waits until n queries wait in flights that have not started.
func (w *world) waiting(n int) {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		w.e.mu.Lock()
		got := 0
		for _, all := range w.e.flights {
			if all.waiting != nil {
				got += all.waiting.passengers
			}
		}
		w.e.mu.Unlock()
		if got == n {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("%d queries wait, want %d", got, n)
		}
	}
}

func (w *world) none() {
	w.t.Helper()
	select {
	case <-w.begun:
		w.t.Error("another query began")
	default:
	}
}

func scalar(v float64) *promql.Result { return &promql.Result{Value: promql.Scalar{V: v}} }

func valueOf(r *promql.Result) float64 {
	if s, ok := r.Value.(promql.Scalar); ok {
		return s.V
	}
	return math.NaN()
}

// TestJoin checks that queries that arrive while an equal query is running do not get its result,
// and that the next evaluation answers all of them.
func TestJoin(t *testing.T) {
	w := newWorld(t)
	first := w.ask(t.Context(), "x", 0, 1)
	one := <-w.begun
	var later []<-chan *promql.Result
	for range 5 {
		later = append(later, w.ask(t.Context(), "x", 0, 1))
	}
	w.waiting(5)
	w.none()
	one.result <- scalar(1)
	if v := valueOf(<-first); v != 1 {
		t.Errorf("first: %v", v)
	}
	two := <-w.begun
	last := w.ask(t.Context(), "x", 0, 1) // two has begun, so this one does not join it
	w.waiting(1)
	warned := scalar(2)
	warned.Warnings.Add(annotations.NewBadBucketLabelWarning("m", "l", posrange.PositionRange{}))
	two.result <- warned
	for _, done := range later {
		res := <-done
		if v := valueOf(res); v != 2 || len(res.Warnings) != 1 {
			t.Errorf("joined: %v, %v", v, res.Warnings)
		}
		res.Warnings.Add(errors.New("results truncated")) // as Prometheus' API does
	}
	three := <-w.begun
	three.result <- scalar(3)
	if v := valueOf(<-last); v != 3 {
		t.Errorf("last: %v", v)
	}
	w.done(7)
}

// done checks that each query was closed, and that no flight is left.
func (w *world) done(queries int) {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		closed := w.closed
		w.mu.Unlock()
		w.e.mu.Lock()
		left := len(w.e.flights)
		w.e.mu.Unlock()
		if closed == queries && left == 0 {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("%d queries closed, want %d; %d keys are left", closed, queries, left)
		}
	}
}

// TestWaitEnds checks that a query waits for a running equal query only for a bounded time.
func TestWaitEnds(t *testing.T) {
	w := newWorld(t)
	first := w.ask(t.Context(), "x", 0, 1)
	one := <-w.begun
	second := w.ask(t.Context(), "x", 0, 1)
	w.waiting(1)
	w.timer <- time.Time{}
	two := <-w.begun
	two.result <- scalar(2)
	if v := valueOf(<-second); v != 2 {
		t.Errorf("second: %v", v)
	}
	one.result <- scalar(1)
	<-first
	w.done(2)
}

// TestDifferent checks that only equal queries are joined.
func TestDifferent(t *testing.T) {
	w := newWorld(t)
	list := []<-chan *promql.Result{w.ask(t.Context(), "x", 0, 1), w.ask(t.Context(), "y", 0, 1), w.ask(t.Context(), "x", 1, 1),
		w.ask(t.Context(), "x", 0, 2), w.ask(context.WithValue(t.Context(), uncachedKey{}, true), "x", 0, 1), w.ask(evaluation.WithPrice(t.Context()), "x", 0, 1)}
	w.tenant = "other"
	list = append(list, w.ask(t.Context(), "x", 0, 1))
	var all []*running
	for range list {
		select {
		case r := <-w.begun:
			all = append(all, r)
		case <-time.After(10 * time.Second):
			t.Fatalf("only %d of %d queries have begun: the others wait for an equal one", len(all), len(list))
		}
	}
	for _, r := range all {
		r.result <- scalar(1)
	}
	for _, done := range list {
		<-done
	}
	w.done(len(list))
}

// TestLeave checks that a flight continues while any query waits for it, and is canceled when the
// last one has left.
func TestLeave(t *testing.T) {
	w := newWorld(t)
	first := w.ask(t.Context(), "x", 0, 1)
	one := <-w.begun
	ctx, cancel := context.WithCancel(t.Context())
	second, third := w.ask(ctx, "x", 0, 1), w.ask(t.Context(), "x", 0, 1)
	w.waiting(2)
	one.result <- scalar(1)
	<-first
	two := <-w.begun
	cancel()
	if res := <-second; !errors.Is(res.Err, context.Canceled) {
		t.Errorf("canceled: %v", res.Err)
	}
	if two.ctx.Err() != nil {
		t.Error("the flight was canceled although a query still waits for it")
	}
	two.result <- scalar(2)
	if v := valueOf(<-third); v != 2 {
		t.Errorf("third: %v", v)
	}

	ctx, cancel = context.WithCancel(t.Context())
	alone := w.ask(ctx, "x", 0, 1)
	three := <-w.begun
	cancel()
	<-alone
	<-three.ctx.Done()
	w.done(4)
}

// TestFaults checks that a fault is recorded for each joined query.
func TestFaults(t *testing.T) {
	w := newWorld(t)
	w.fault = errors.New("the store did not answer")
	first := w.ask(t.Context(), "x", 0, 1)
	one := <-w.begun
	second, third := w.ask(t.Context(), "x", 0, 1), w.ask(t.Context(), "x", 0, 1)
	w.waiting(2)
	one.result <- &promql.Result{Err: w.fault}
	<-first
	two := <-w.begun
	two.result <- &promql.Result{Err: w.fault}
	for _, done := range []<-chan *promql.Result{second, third} {
		if res := <-done; !errors.Is(res.Err, w.fault) {
			t.Errorf("error %v", res.Err)
		}
	}
	if len(w.noted) != 3 {
		t.Errorf("%d faults noted, want 3", len(w.noted))
	}
}

// TestInterruptedFirst checks that the timeout of the first query does not end a query that joined
// it.
func TestInterruptedFirst(t *testing.T) {
	w := newWorld(t)
	first := w.ask(t.Context(), "x", 0, 1)
	one := <-w.begun
	second, third := w.ask(t.Context(), "x", 0, 1), w.ask(t.Context(), "x", 0, 1)
	w.waiting(2)
	one.result <- scalar(1)
	<-first
	two := <-w.begun
	two.result <- &promql.Result{Err: promql.ErrQueryTimeout("x")}
	three := <-w.begun // the query that had joined, on its own
	three.result <- scalar(3)
	a, b := <-second, <-third
	if (a.Err == nil) == (b.Err == nil) {
		t.Errorf("errors %v, %v: want the timeout for the first only", a.Err, b.Err)
	}
	w.done(3)
}

// TestMemory checks that a flight has its own memory holding, which it releases at the end.
func TestMemory(t *testing.T) {
	w := newWorld(t)
	account := memory.NewAccount(1<<30, prometheus.NewRegistry())
	h := account.Begin(memory.Request{Tenant: "acme"})
	done := w.ask(memory.NewContext(t.Context(), h), "x", 0, 1)
	one := <-w.begun
	own := memory.FromContext(one.ctx)
	if err := own.Take(1 << 20); err != nil || h.Used() != 0 {
		t.Errorf("taken: %v; %d bytes of the request", err, h.Used())
	}
	h.Close()
	one.result <- scalar(1)
	<-done
	w.done(1)
	for end := time.Now().Add(10 * time.Second); account.Used() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d bytes are left", account.Used())
		}
	}
}

// TestTiming checks that the times of an evaluation are added once to every query that it answers.
func TestTiming(t *testing.T) {
	w := newWorld(t)
	first := w.ask(t.Context(), "x", 0, 1)
	running := <-w.begun
	var records []*timing.Record
	var done []<-chan *promql.Result
	for range 3 {
		r := timing.New(time.Now)
		records = append(records, r)
		done = append(done, w.ask(timing.NewContext(t.Context(), r), "x", 0, 1))
	}
	w.waiting(3)
	running.result <- &promql.Result{}
	<-first
	joined := <-w.begun
	timing.Of(joined.ctx).Add(timing.Index, time.Second)
	joined.result <- &promql.Result{}
	for i := range done {
		<-done[i]
		if got := records[i].Report().Of(timing.Index); got != time.Second {
			t.Errorf("query %d: %s", i, got)
		}
	}
}

// TestTimingOfEnded checks that a query that was ended has the times of its flight: all of them if
// the flight ended with it, those so far if other queries still wait for the flight.
func TestTimingOfEnded(t *testing.T) {
	w := newWorld(t)
	w.ask(t.Context(), "up", 0, 1)
	running := kit.Receive(t, "the first flight runs", w.begun)
	var records []*timing.Record
	var ends []context.CancelFunc
	var results []<-chan *promql.Result
	for i := range 2 {
		r := timing.New(kit.NewClock(time.Unix(0, 0)).Now)
		ctx, end := context.WithCancel(timing.NewContext(t.Context(), r))
		records, ends, results = append(records, r), append(ends, end), append(results, w.ask(ctx, "up", 0, 1))
		w.waiting(i + 1)
	}
	running.result <- &promql.Result{}
	shared := kit.Receive(t, "the shared flight runs", w.begun)
	timing.Of(shared.ctx).Add(timing.Queue, time.Second)
	for i, reads := range []int64{0, 1} {
		ends[i]()
		kit.Receive(t, "the query ends", results[i])
		if got := records[i].Report(); got.Of(timing.Queue) != time.Second || got.Reads != reads {
			t.Errorf("query %d: queue %s, %d reads, want 1s and %d", i, got.Of(timing.Queue), got.Reads, reads)
		}
	}
}

// TestTimingOfWait checks that the time for which a query waits for an equal one that is running
// counts as time in the queue, whether its flight starts or is canceled.
func TestTimingOfWait(t *testing.T) {
	for _, canceled := range []bool{false, true} {
		w := newWorld(t)
		w.ask(t.Context(), "up", 0, 1)
		running := kit.Receive(t, "the first flight runs", w.begun)
		clock := kit.NewClock(time.Unix(0, 0))
		r := timing.New(clock.Now)
		ctx, end := context.WithCancel(timing.NewContext(t.Context(), r))
		result := w.ask(ctx, "up", 0, 1)
		w.waiting(1)
		clock.Advance(300 * time.Millisecond)
		if canceled {
			end()
		} else {
			running.result <- &promql.Result{}
			kit.Receive(t, "the second flight runs", w.begun).result <- &promql.Result{}
		}
		kit.Receive(t, "the query ends", result)
		end()
		if got := r.Report().Of(timing.Queue); got != 300*time.Millisecond {
			t.Errorf("canceled %t: %s in the queue, want 300ms", canceled, got)
		}
	}
}
