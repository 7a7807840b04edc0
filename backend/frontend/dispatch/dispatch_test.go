package dispatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/stats"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/frontend"
	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/queue"
	"github.com/palliumhq/pallium/backend/frontend/shard"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/timing"
	"github.com/palliumhq/pallium/policies/limits"
)

// engine is an Engine whose queries have a fixed result.
type engine struct {
	frontend.Evaluator // nil: its other methods are not called
	mu                 sync.Mutex
	noted              []error
	failed             int            // queries counted as failed
	here               *promql.Result // of queries that this process evaluates
	began              chan struct{}  // gets a value when a query begins in this process; may be nil
}

type fixed struct {
	e     *engine
	stats *stats.Statistics
}

func (f *fixed) Exec(ctx context.Context) *promql.Result {
	if f.e.began != nil {
		f.e.began <- struct{}{}
		<-ctx.Done()
		return f.e.Interrupted(ctx)
	}
	f.stats.Samples.TotalSamples = 7
	return f.e.here
}
func (f *fixed) Close()                      {}
func (f *fixed) Cancel()                     {}
func (f *fixed) String() string              { return "fixed" }
func (f *fixed) Statement() parser.Statement { return nil }
func (f *fixed) Stats() *stats.Statistics    { return f.stats }

func (e *engine) NewInstantQuery(context.Context, storage.Queryable, promql.QueryOpts, string, time.Time) (promql.Query, error) {
	return &fixed{e, &stats.Statistics{Timers: stats.NewQueryTimers(), Samples: stats.NewQuerySamples(false)}}, nil
}
func (e *engine) NewRangeQuery(ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, start, _ time.Time,
	_ time.Duration) (promql.Query, error) {
	return e.NewInstantQuery(ctx, q, opts, text, start)
}

func (e *engine) NewPartQuery(ctx context.Context, q storage.Queryable, opts promql.QueryOpts, text string, whole split.Times,
	_ split.Range, _ *shard.Shard) (promql.Query, error) {
	return e.NewInstantQuery(ctx, q, opts, text, whole.Start)
}

func (e *engine) Check(promql.Query) error { return nil }
func (e *engine) Failed(err error) *promql.Result {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failed++
	return &promql.Result{Err: err}
}

var errTooLarge = errors.New("too large")

func (e *engine) TooLarge(err error) bool          { return errors.Is(err, errTooLarge) }
func (e *engine) Cost(promql.Query) (int64, int64) { return 0, 0 }
func (e *engine) Interrupted(ctx context.Context) *promql.Result {
	return &promql.Result{Err: promql.ErrQueryCanceled(context.Cause(ctx).Error())}
}
func (e *engine) Unreadable(_ context.Context, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.noted = append(e.noted, err)
}
func (e *engine) Request(context.Context) (evaluation.Request, error) {
	return evaluation.Request{Access: tenant.Access{Tenant: "acme", Policy: tenant.Unrestricted()}}, nil
}

// querierSlot is a slot that evaluates with a function of the test.
type querierSlot struct {
	name    string
	leaving chan struct{}
	do      func(ctx context.Context, r *evaluation.Request) (*evaluation.Answer, error)
}

func (s *querierSlot) Querier() string          { return s.name }
func (s *querierSlot) Leaving() <-chan struct{} { return s.leaving }
func (s *querierSlot) Evaluate(ctx context.Context, r *evaluation.Request) (*evaluation.Answer, error) {
	return s.do(ctx, r)
}

// world is a dispatcher, its clock, and a record of the evaluations that its slots got.
type world struct {
	t      *testing.T
	d      *Dispatcher
	engine *engine
	timer  chan time.Time
	reg    *prometheus.Registry

	mu   sync.Mutex
	now  time.Time
	seen []string // querier of each evaluation, with the suffix " alone" if it must run alone
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, engine: &engine{}, timer: make(chan time.Time), now: time.Unix(1_800_000_000, 0)}
	clock := func() time.Time {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.now
	}
	reg := prometheus.NewRegistry()
	w.reg = reg
	w.d = New(Options{Engine: w.engine, Queue: queue.New(queue.Options{MaxShare: 1, Now: clock, Registerer: reg}), Switches: "v1",
		Timer: func(time.Duration) <-chan time.Time { return w.timer }, Now: clock, Logger: slog.New(slog.DiscardHandler), Registerer: reg})
	return w
}

// slot adds a slot that evaluates with do, until the test or the slot ends.
func (w *world) slot(name string, do func(context.Context, *evaluation.Request) (*evaluation.Answer, error)) *querierSlot {
	s := &querierSlot{name: name, leaving: make(chan struct{})}
	s.do = func(ctx context.Context, r *evaluation.Request) (*evaluation.Answer, error) {
		w.mu.Lock()
		note := name
		if r.Alone {
			note += " alone"
		}
		w.seen = append(w.seen, note)
		w.mu.Unlock()
		return do(ctx, r)
	}
	before := w.d.o.Queue.Workers()
	go func() { _ = w.d.Serve(w.t.Context(), s) }()
	w.until(func() bool { return w.d.o.Queue.Workers() == before+1 })
	return s
}

func (w *world) until(ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			w.t.Fatal("timed out")
		}
		time.Sleep(time.Millisecond)
	}
}

func (w *world) exec(ctx context.Context, text string) *promql.Result {
	w.t.Helper()
	q, err := w.d.NewInstantQuery(ctx, nil, nil, text, w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	defer q.Close()
	return q.Exec(ctx)
}

func answer(v float64) (*evaluation.Answer, error) {
	return &evaluation.Answer{Value: promql.Scalar{V: v}, Switches: "v1", Joinable: true, Cost: evaluation.Cost{Read: 5}}, nil
}

func ok(context.Context, *evaluation.Request) (*evaluation.Answer, error) { return answer(1) }

func dies(context.Context, *evaluation.Request) (*evaluation.Answer, error) {
	return nil, ErrQuerierEnded
}

var errFault = errors.New("the store did not answer")

func TestAnswer(t *testing.T) {
	w := newWorld(t)
	w.slot("a", ok)
	q, err := w.d.NewInstantQuery(t.Context(), nil, nil, "x", w.now)
	if err != nil {
		t.Fatal(err)
	}
	res := q.Exec(t.Context())
	if s, is := res.Value.(promql.Scalar); res.Err != nil || !is || s.V != 1 {
		t.Errorf("result %v, %v", res.Value, res.Err)
	}
	if n := q.Stats().Samples.TotalSamples; n != 5 {
		t.Errorf("%d samples read, want 5", n)
	}
	if own := q.(*query); !own.Storable() {
		t.Error("the answer of the same version is not storable")
	}
	w.d.o.Switches = "v2"
	if q.(*query).Storable() {
		t.Error("the answer of another version is storable")
	}
}

// TestTooLargePart checks that a part which is too large is not counted as a failed query (its
// query may succeed with smaller parts), but a whole query is.
func TestTooLargePart(t *testing.T) {
	w := newWorld(t)
	w.slot("a", func(context.Context, *evaluation.Request) (*evaluation.Answer, error) {
		return &evaluation.Answer{Err: errTooLarge}, nil
	})
	times := split.Times{Start: w.now, End: w.now.Add(time.Hour), Step: time.Minute}
	for want, make := range []func() (promql.Query, error){
		func() (promql.Query, error) {
			return w.d.NewPartQuery(t.Context(), nil, nil, "x", times, split.Range{Start: 0, End: 1}, nil)
		},
		func() (promql.Query, error) {
			return w.d.NewRangeQuery(t.Context(), nil, nil, "x", times.Start, times.End, times.Step)
		},
	} {
		q, err := make()
		if err != nil {
			t.Fatal(err)
		}
		if res := q.Exec(t.Context()); !errors.Is(res.Err, errTooLarge) || w.engine.failed != want {
			t.Errorf("error %v, counted %d times, want %d", res.Err, w.engine.failed, want)
		}
		q.Close()
	}
}

// TestHere checks that a query is evaluated by a slot of the same process.
func TestHere(t *testing.T) {
	w := newWorld(t)
	w.engine.here = &promql.Result{Value: promql.Scalar{V: 3}}
	go w.d.ServeHere(t.Context())
	if res := w.exec(t.Context(), "x"); res != w.engine.here {
		t.Errorf("result %v", res)
	}
}

// TestStatistics checks that a query with statistics for each step is evaluated in this process,
// because queriers do not send statistics. The query waits for a slot of this process. If this
// process has no slots, it is evaluated without one.
func TestStatistics(t *testing.T) {
	w := newWorld(t)
	w.engine.here = &promql.Result{Value: promql.Scalar{V: 3}}
	query := func(opts promql.QueryOpts) promql.Query {
		q, err := w.d.NewInstantQuery(t.Context(), nil, opts, "x", w.now)
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	statistics := promql.NewPrometheusQueryOpts(true, 0, nil)
	w.slot("a", ok)
	if res := query(statistics).Exec(t.Context()); res != w.engine.here || len(w.seen) > 0 {
		t.Errorf("result %v, evaluations by queriers %v; want the result of this process", res, w.seen)
	}

	ctx := evaluation.WithPrice(t.Context()) // the same for a query whose cost is counted
	priced, err := w.d.NewInstantQuery(ctx, nil, nil, "x", w.now)
	if err != nil {
		t.Fatal(err)
	}
	if res := priced.Exec(ctx); res != w.engine.here || len(w.seen) > 0 {
		t.Errorf("result %v, evaluations by queriers %v; want the result of this process", res, w.seen)
	}

	w = newWorld(t)
	w.engine.here, w.engine.began = &promql.Result{}, make(chan struct{})
	busy, cancel := context.WithCancel(t.Context())
	go w.d.ServeHere(t.Context())
	keeps, waits := query(nil), query(statistics)
	go keeps.Exec(busy)
	<-w.engine.began
	go waits.Exec(t.Context())
	w.until(func() bool {
		select {
		case <-w.engine.began:
			t.Fatal("evaluated without a slot")
		default:
		}
		return w.waiting() == 1
	})
	cancel()
	<-w.engine.began
}

// waiting returns how many evaluations wait for a slot.
func (w *world) waiting() (n float64) {
	w.t.Helper()
	families, err := w.reg.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "pallium_frontend_queue_jobs" {
				n += m.GetGauge().GetValue()
			}
		}
	}
	return n
}

// TestQuerierEnds checks that a query is repeated once after its querier disappeared, alone and by
// another querier.
func TestQuerierEnds(t *testing.T) {
	w := newWorld(t)
	var once sync.Once
	first := ""
	either := func(name string) func(context.Context, *evaluation.Request) (*evaluation.Answer, error) {
		return func(context.Context, *evaluation.Request) (a *evaluation.Answer, err error) {
			a, err = answer(1)
			once.Do(func() { first, a, err = name, nil, ErrQuerierEnded })
			return a, err
		}
	}
	w.slot("a", either("a"))
	w.slot("a", either("a")) // a second slot of the querier that disappears
	w.slot("b", either("b"))
	w.slot("b", either("b"))
	if res := w.exec(t.Context(), "x"); res.Err != nil {
		t.Fatal(res.Err)
	}
	want := "[a b alone]"
	if first == "b" {
		want = "[b a alone]"
	}
	if got := fmt.Sprint(w.seen); got != want {
		t.Errorf("evaluations by %s, want %s", got, want)
	}
}

// TestSuspect checks that a query during which two queriers disappeared is rejected for
// five minutes, and others are not.
func TestSuspect(t *testing.T) {
	w := newWorld(t)
	w.slot("a", dies)
	w.slot("b", dies)
	if res := w.exec(t.Context(), "x"); !errors.Is(res.Err, errSuspect) {
		t.Fatalf("error %v", res.Err)
	}
	w.until(func() bool { return w.d.o.Queue.Workers() == 0 })
	w.slot("c", ok)
	n := len(w.seen)
	if res := w.exec(t.Context(), "x"); !errors.Is(res.Err, errSuspect) || len(w.seen) != n {
		t.Errorf("the suspect query: error %v after %d further evaluations, want errSuspect after 0", res.Err, len(w.seen)-n)
	}
	if res := w.exec(t.Context(), "y"); res.Err != nil {
		t.Errorf("another query: %v", res.Err)
	}
	w.mu.Lock()
	w.now = w.now.Add(5*time.Minute + time.Second)
	w.mu.Unlock()
	if res := w.exec(t.Context(), "x"); res.Err != nil {
		t.Errorf("the query after five minutes: %v", res.Err)
	}
}

// TestNotBegun checks that a query is not suspect if a querier disappeared while the query waited
// there to run alone: another query may have ended that querier.
func TestNotBegun(t *testing.T) {
	w := newWorld(t)
	w.slot("a", dies)
	w.slot("b", func(context.Context, *evaluation.Request) (*evaluation.Answer, error) { return nil, ErrNotBegun })
	done := make(chan *promql.Result)
	go func() { done <- w.exec(t.Context(), "x") }()
	w.until(func() bool { return w.d.o.Queue.Workers() == 0 })
	w.slot("c", ok)
	if res := <-done; res.Err != nil {
		t.Errorf("error %v", res.Err)
	}
	if got := strings.Join(w.seen, ", "); !strings.HasSuffix(got, "c alone") {
		t.Errorf("evaluations %s", got)
	}
}

// TestRepeats checks after which errors an evaluation is repeated on another querier.
func TestRepeats(t *testing.T) {
	lim := limits.Limits{MaxQuerySamples: 1}
	for name, tt := range map[string]struct {
		err     error
		fault   error
		repeats bool
	}{
		"unreadable": {promql.ErrStorage{Err: errFault}, errFault, true},
		"no memory":  {promql.ErrStorage{Err: errFault}, nil, true},
		"execution":  {errors.New("vector cannot contain metrics with the same labelset"), nil, false},
		"ended":      {memory.ErrEnded, nil, false},
		"limit":      {limits.MaxQuerySamples.Exceeded(&lim, limits.More), nil, false},
		"timeout":    {promql.ErrQueryTimeout("x"), errFault, false},
		"canceled":   {promql.ErrQueryCanceled("x"), errFault, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			fail := func(context.Context, *evaluation.Request) (*evaluation.Answer, error) {
				return &evaluation.Answer{Err: tt.err, Fault: tt.fault}, nil
			}
			w.slot("a", fail)
			w.slot("b", fail)
			res := w.exec(t.Context(), "x")
			if res.Err == nil || res.Err.Error() != tt.err.Error() {
				t.Errorf("error %v, want %v", res.Err, tt.err)
			}
			want := 1
			if tt.repeats {
				want = 2
			}
			if len(w.seen) != want || want == 2 && w.seen[0] == w.seen[1] {
				t.Errorf("evaluations by %v, want %d queriers", w.seen, want)
			}
			if noted := len(w.engine.noted); noted != map[bool]int{true: 1, false: 0}[tt.fault != nil] {
				t.Errorf("%d faults noted", noted)
			}
		})
	}
}

// TestRepeatSucceeds checks that a fault of the first attempt is not recorded if the second succeeds.
func TestRepeatSucceeds(t *testing.T) {
	w := newWorld(t)
	var once sync.Once
	either := func(context.Context, *evaluation.Request) (a *evaluation.Answer, err error) {
		a, err = answer(1)
		once.Do(func() { a = &evaluation.Answer{Err: promql.ErrStorage{Err: errFault}, Fault: errFault} })
		return a, err
	}
	w.slot("a", either)
	w.slot("b", either)
	if res := w.exec(t.Context(), "x"); res.Err != nil || len(w.engine.noted) > 0 || len(w.seen) != 2 {
		t.Errorf("error %v, noted %v, evaluations by %v", res.Err, w.engine.noted, w.seen)
	}
}

// TestCancel checks that a canceled query ends while it waits and while it runs.
func TestCancel(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan *promql.Result)
	go func() { done <- w.exec(ctx, "x") }()
	cancel(errFault)
	if res := <-done; res.Err == nil || res.Err.Error() != promql.ErrQueryCanceled(errFault.Error()).Error() {
		t.Errorf("waiting: %v", res.Err)
	}

	began := make(chan struct{})
	w.slot("a", func(ctx context.Context, _ *evaluation.Request) (*evaluation.Answer, error) {
		close(began)
		<-ctx.Done()
		return nil, ErrSlotBroken
	})
	ctx, cancel = context.WithCancelCause(t.Context())
	go func() { done <- w.exec(ctx, "x") }()
	<-began
	cancel(errFault)
	if res := <-done; res.Err == nil || res.Err.Error() != promql.ErrQueryCanceled(errFault.Error()).Error() {
		t.Errorf("running: %v", res.Err)
	}
	w.until(func() bool { return w.d.o.Queue.Workers() == 0 }) // the slot has ended

	w.engine.began = make(chan struct{})
	go w.d.ServeHere(t.Context())
	ctx, cancel = context.WithCancelCause(t.Context())
	go func() { done <- w.exec(ctx, "x") }()
	<-w.engine.began
	cancel(errFault)
	if res := <-done; res.Err == nil {
		t.Error("running here: no error")
	}
}

// TestNoQuerier checks that a waiting query fails if no querier has been connected for five seconds,
// and that a running query does not.
func TestNoQuerier(t *testing.T) {
	w := newWorld(t)
	done := make(chan *promql.Result)
	pass := func(d time.Duration) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.now = w.now.Add(d)
	}
	pass(time.Hour)
	gone := w.slot("q", ok) // disconnects just before the query, so the five seconds begin now
	close(gone.leaving)
	w.until(func() bool { return w.d.o.Queue.Workers() == 0 })
	go func() { done <- w.exec(t.Context(), "x") }()
	w.timer <- time.Time{}
	pass(noQuerierWait - time.Second)
	w.timer <- time.Time{} // received, so the query still waits
	w.timer <- time.Time{}
	pass(time.Second)
	var res *promql.Result
	select {
	case res = <-done: // it read the clock after the last second had passed
	case w.timer <- time.Time{}:
		res = <-done
	}
	var internal promql.ErrStorage
	if !errors.As(res.Err, &internal) || !errors.Is(w.engine.noted[0], ErrNoQuerier) {
		t.Errorf("error %v, noted %v", res.Err, w.engine.noted)
	}

	held := make(chan struct{})
	w.slot("a", func(context.Context, *evaluation.Request) (*evaluation.Answer, error) {
		<-held
		return answer(1)
	})
	go func() { done <- w.exec(t.Context(), "x") }()
	w.timer <- time.Time{}
	close(held)
	if res := <-done; res.Err != nil {
		t.Errorf("a query that runs: %v", res.Err)
	}
}

// TestLeave checks that a slot that leaves completes its evaluation and then ends, and that Drain
// ends idle slots.
func TestLeave(t *testing.T) {
	w := newWorld(t)
	began, held := make(chan struct{}), make(chan struct{})
	s := w.slot("a", func(context.Context, *evaluation.Request) (*evaluation.Answer, error) {
		close(began)
		<-held
		return answer(1)
	})
	done := make(chan *promql.Result)
	go func() { done <- w.exec(t.Context(), "x") }()
	<-began
	close(s.leaving)
	close(held)
	if res := <-done; res.Err != nil {
		t.Error(res.Err)
	}
	w.until(func() bool { return w.d.o.Queue.Workers() == 0 })
	w.slot("b", ok)
	w.d.Drain()
	w.d.Drain()
	w.until(func() bool { return w.d.o.Queue.Workers() == 0 })
}

// TestCosts checks that estimates follow the number of samples that an expression has read.
func TestCosts(t *testing.T) {
	c := newCosts()
	at := time.Unix(0, 0)
	r := &evaluation.Request{Text: "x"}
	r.Times.Start, r.Times.End, r.Times.Step = at, at.Add(time.Hour), time.Minute
	if got := c.estimate(r); got != costBase+61*costPerStep {
		t.Errorf("estimate %d", got)
	}
	c.learn(r, 61_000)
	if got := c.estimate(r); got != costBase+61_000 {
		t.Errorf("estimate %d after 61,000 were read", got)
	}
	r.Times.Step = 0
	if got := c.estimate(r); got != costBase+1000 {
		t.Errorf("estimate %d of an instant", got)
	}
	r.Access.Tenant = "other"
	if got := c.estimate(r); got != costBase+costPerStep {
		t.Errorf("estimate %d of another tenant", got)
	}
}

// TestTiming checks that the time in the queue is measured, and that the measurements of the querier
// are added, also if the evaluation failed.
func TestTiming(t *testing.T) {
	for _, failed := range []error{nil, errFault} {
		w := newWorld(t)
		r := timing.New(time.Now)
		done := make(chan *promql.Result)
		go func() { done <- w.exec(timing.NewContext(t.Context(), r), "x") }()
		w.until(func() bool { return w.waiting() == 1 })
		w.mu.Lock()
		w.now = w.now.Add(3 * time.Second)
		w.mu.Unlock()
		w.slot("a", func(context.Context, *evaluation.Request) (*evaluation.Answer, error) {
			a, err := answer(1)
			a.Err = failed
			a.Timing.Times[timing.Queue], a.Timing.Times[timing.Index], a.Timing.Reads = time.Second, 5*time.Second, 7
			return a, err
		})
		<-done
		if got := r.Report(); got.Of(timing.Queue) != 4*time.Second || got.Of(timing.Index) != 5*time.Second || got.Reads != 7 {
			t.Errorf("error %v: %+v", failed, got)
		}
	}
}

// TestTimingOfEnded checks that the time in the queue is measured for a query that ends before a
// slot takes it, and for one that ends while a slot evaluates it.
func TestTimingOfEnded(t *testing.T) {
	for _, taken := range []bool{false, true} {
		w := newWorld(t)
		r := timing.New(time.Now)
		ctx, end := context.WithCancel(timing.NewContext(t.Context(), r))
		done := make(chan *promql.Result)
		go func() { done <- w.exec(ctx, "x") }()
		w.until(func() bool { return w.waiting() == 1 })
		w.mu.Lock()
		w.now = w.now.Add(3 * time.Second)
		w.mu.Unlock()
		if taken {
			began := make(chan struct{})
			w.slot("a", func(ctx context.Context, _ *evaluation.Request) (*evaluation.Answer, error) {
				close(began)
				<-ctx.Done()
				return nil, ErrSlotBroken
			})
			<-began
		}
		end()
		<-done
		if got := r.Report().Of(timing.Queue); got != 3*time.Second {
			t.Errorf("taken %t: %s in the queue, want 3s", taken, got)
		}
	}
}
