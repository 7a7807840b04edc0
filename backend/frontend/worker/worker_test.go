package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/backend/frontend/evaluation"
)

// stream is a slot at a frontend that sends the evaluations that the test puts into requests.
type stream struct {
	ctx      context.Context
	cancel   context.CancelFunc
	requests chan *evaluation.Request
	left     chan struct{}
	once     sync.Once
	broken   bool
	began    *atomic.Int64
}

func (s *stream) Next() (*evaluation.Request, error) {
	select {
	case r := <-s.requests:
		return r, nil
	case <-s.left: // the frontend ends the stream of a querier that leaves
		return nil, errors.New("ended")
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}
func (s *stream) Context() context.Context { return s.ctx }
func (s *stream) Answer(*evaluation.Request, *evaluation.Answer) error {
	if s.broken {
		return errors.New("canceled")
	}
	return nil
}
func (s *stream) Began() error { s.began.Add(1); return nil }
func (s *stream) Leave() error { s.once.Do(func() { close(s.left) }); return nil }
func (s *stream) Close()       { s.cancel() }

// world is a worker with some frontends.
type world struct {
	mu        sync.Mutex
	frontends []string
	unhealthy string
	opened    atomic.Int64
	open      map[string]int // slots by frontend
	requests  chan *evaluation.Request
	running   atomic.Int64
	most      atomic.Int64
	alone     atomic.Bool // an evaluation that must run alone did not
	hold      chan struct{}
	began     atomic.Int64
	broken    atomic.Bool // answers cannot be sent
	once      bool        // only the first call of list returns the frontends
}

func (w *world) change(unhealthy string, frontends ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unhealthy, w.frontends = unhealthy, frontends
}

func (w *world) list(context.Context) ([]Frontend, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []Frontend
	list := w.frontends
	if w.once {
		w.frontends = nil
	}
	for _, id := range list {
		out = append(out, Frontend{ID: id, Unhealthy: id == w.unhealthy, Open: func(ctx context.Context) (Stream, error) {
			if id == "away" {
				return nil, errors.New("not available")
			}
			w.opened.Add(1)
			w.mu.Lock()
			w.open[id]++
			w.mu.Unlock()
			s := &stream{requests: w.requests, left: make(chan struct{}), broken: w.broken.Load(), began: &w.began}
			s.ctx, s.cancel = context.WithCancel(ctx)
			context.AfterFunc(s.ctx, func() { w.mu.Lock(); w.open[id]--; w.mu.Unlock() })
			return s, nil
		}})
	}
	return out, nil
}

func (w *world) run(_ context.Context, r *evaluation.Request) (*evaluation.Answer, func()) {
	n := w.running.Add(1)
	for most := w.most.Load(); n > most && !w.most.CompareAndSwap(most, n); most = w.most.Load() {
	}
	if r.Alone && n > 1 {
		w.alone.Store(true)
	}
	w.hold <- struct{}{}
	if r.Alone && w.running.Load() > 1 {
		w.alone.Store(true)
	}
	return &evaluation.Answer{}, func() { w.running.Add(-1) }
}

func newWorld(frontends ...string) *world {
	return &world{frontends: frontends, open: map[string]int{}, requests: make(chan *evaluation.Request), hold: make(chan struct{})}
}

func (w *world) worker(slots int) *Worker {
	return New(Options{Frontends: w.list, Run: w.run, Slots: slots, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
}

func (w *world) until(t *testing.T, want string) {
	t.Helper()
	w.untilAny(t, want)
}

func (w *world) untilAny(t *testing.T, want ...string) {
	t.Helper()
	var got string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		w.mu.Lock()
		got = fmt.Sprint(w.open)
		w.mu.Unlock()
		if slices.Contains(want, got) {
			return
		}
	}
	t.Fatalf("slots %s, want %s", got, want)
}

// TestShares checks that each frontend gets its part of the slots, even one that joins later, and
// that an unavailable frontend does not affect the others.
func TestShares(t *testing.T) {
	w := newWorld("a", "b", "away")
	worker := w.worker(15)
	ctx, cancel := context.WithCancel(t.Context())
	go worker.Run(ctx)
	w.until(t, "map[a:5 b:5]")
	w.mu.Lock()
	w.frontends = []string{"a", "b", "c"}
	w.mu.Unlock()
	w.until(t, "map[a:5 b:5 c:5]")
	cancel()
	worker.Wait(t.Context())
	w.until(t, "map[a:0 b:0 c:0]")
	w.worker(1).Wait(t.Context()) // never ran
}

// TestLeastPart checks the number of slots of each frontend.
func TestLeastPart(t *testing.T) {
	for _, tt := range []struct{ slots, frontends, want int }{{1, 1, 1}, {1, 5, 1}, {3, 2, 3}, {4, 2, 4}, {8, 1, 8}, {8, 2, 4}, {9, 2, 5}, {8, 4, 4}, {40, 3, 14}} {
		if got := newWorld().worker(tt.slots).part(tt.frontends); got != tt.want {
			t.Errorf("%d slots for %d frontends: %d each, want %d", tt.slots, tt.frontends, got, tt.want)
		}
	}
}

// TestPartsAgain checks that a frontend loses the slots that it got while another one was absent,
// and that an unhealthy frontend, which may never return, does not reduce the slots of the others.
func TestPartsAgain(t *testing.T) {
	w := newWorld("a")
	worker := w.worker(16)
	ctx, cancel := context.WithCancel(t.Context())
	go worker.Run(ctx)
	w.until(t, "map[a:16]")
	w.requests <- &evaluation.Request{}
	w.change("", "a", "b")
	w.untilAny(t, "map[a:8 b:8]", "map[a:9 b:8]") // a slot that runs an evaluation completes it first
	<-w.hold
	w.until(t, "map[a:8 b:8]")
	w.change("b", "a", "b")
	w.until(t, "map[a:16 b:8]")
	w.change("", "a", "b")
	w.until(t, "map[a:8 b:8]")
	cancel()
	worker.Wait(t.Context())
}

// TestCanceled checks that a slot is lent again at once after its evaluation was canceled:
// otherwise a tenant that cancels queries would use up the slots of all tenants.
func TestCanceled(t *testing.T) {
	w := newWorld("a")
	worker := w.worker(1)
	w.broken.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	w.once = true // so that only the same slot is lent again
	go worker.Run(ctx)
	for i := range 50 {
		select {
		case w.requests <- &evaluation.Request{}:
			<-w.hold
		case <-time.After(20 * time.Second):
			t.Fatalf("the slot was lent %d times", i)
		}
	}
	if n := w.opened.Load(); n < 50 {
		t.Errorf("%d streams for 50 canceled evaluations", n)
	}
	cancel()
	worker.Wait(t.Context())
}

// TestSlots checks that a querier runs no more evaluations than it has slots, although more are
// lent, and that an evaluation that must run alone does.
func TestSlots(t *testing.T) {
	w := newWorld("a", "b", "c")
	ctx, cancel := context.WithCancel(t.Context())
	worker := w.worker(4)
	go worker.Run(ctx)
	w.until(t, "map[a:4 b:4 c:4]")
	var sent sync.WaitGroup
	for i := range 30 {
		sent.Go(func() { w.requests <- &evaluation.Request{Alone: i%10 == 0} })
	}
	for range 30 {
		<-w.hold
	}
	sent.Wait()
	cancel()
	worker.Wait(t.Context())
	if n := w.began.Load(); n != 3 {
		t.Errorf("%d calls of Began for evaluations that must run alone, want 3", n)
	}
	if w.most.Load() > 4 || w.alone.Load() {
		t.Errorf("%d concurrent evaluations, want at most 4; one that must run alone did not: %v", w.most.Load(), w.alone.Load())
	}
}

// TestLeaves checks that a querier that stops completes its running evaluations.
func TestLeaves(t *testing.T) {
	w := newWorld("a")
	worker := w.worker(2)
	ctx, cancel := context.WithCancel(t.Context())
	go worker.Run(ctx)
	w.until(t, "map[a:2]")
	w.requests <- &evaluation.Request{}
	cancel()
	ended, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	worker.Wait(ended)
	if w.running.Load() != 1 {
		t.Error("the evaluation ended early")
	}
	<-w.hold
	worker.Wait(t.Context())
	if w.running.Load() != 0 {
		t.Error("Wait returned before the evaluation ended")
	}
}
