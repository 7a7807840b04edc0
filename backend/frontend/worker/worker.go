// Package worker lends the slots of a querier to the query frontends of the ring, which send
// evaluations.
package worker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/semaphore"

	"github.com/palliumhq/pallium/backend/frontend/evaluation"
)

// Frontend is a query frontend of the ring.
type Frontend struct {
	ID   string
	Open func(ctx context.Context) (Stream, error)
}

// Stream is a slot that was lent to a frontend.
type Stream interface {
	// Next returns the next evaluation. It returns an error when the frontend has ended
	// the stream.
	Next() (*evaluation.Request, error)
	// Context ends when the stream has ended, for example since the evaluation was
	// canceled.
	Context() context.Context
	Answer(r *evaluation.Request, a *evaluation.Answer) error
	// Leave tells the frontend that this is the last evaluation. It may be called at the
	// same time as the other methods.
	Leave() error
	Close()
}

// Options configure a Worker.
type Options struct {
	// Frontends returns the current frontends.
	Frontends func(ctx context.Context) ([]Frontend, error)
	// Run runs an evaluation; release frees the answer.
	Run        func(ctx context.Context, r *evaluation.Request) (a *evaluation.Answer, release func())
	Slots      int // evaluations at the same time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Worker lends slots.
type Worker struct {
	o     Options
	slots *semaphore.Weighted

	mu      sync.Mutex
	lent    map[string]int // by frontend
	begun   bool
	ended   chan struct{} // closed when Run returns
	running prometheus.Gauge
}

// New returns a Worker.
func New(o Options) *Worker {
	auto := promauto.With(o.Registerer)
	auto.NewGauge(prometheus.GaugeOpts{Name: "pallium_querier_slots",
		Help: "Evaluations that the querier runs for query frontends at the same time."}).Set(float64(o.Slots))
	return &Worker{o: o, slots: semaphore.NewWeighted(int64(o.Slots)), lent: map[string]int{}, ended: make(chan struct{}),
		running: auto.NewGauge(prometheus.GaugeOpts{Name: "pallium_querier_running_evaluations",
			Help: "Evaluations that the querier is running for query frontends."})}
}

const (
	// interval is how often the frontends of the ring are compared with those that have
	// slots.
	interval = time.Second
	// retryAfter is the time until a slot whose frontend did not answer is lent again.
	retryAfter = 500 * time.Millisecond
)

// Run lends slots until ctx ends, and then returns when the evaluations that run have
// ended. Each frontend has an equal part of the slots, rounded up.
func (w *Worker) Run(ctx context.Context) {
	w.mu.Lock()
	w.begun = true
	w.mu.Unlock()
	defer close(w.ended)
	var running sync.WaitGroup
	defer running.Wait()
	timer := time.NewTicker(interval)
	defer timer.Stop()
	for {
		list, err := w.o.Frontends(ctx)
		if err != nil {
			w.o.Logger.Debug("reading the query frontends of the ring failed", "err", err)
		}
		for _, f := range list {
			for range w.missing(f.ID, (w.o.Slots+len(list)-1)/len(list)) {
				running.Go(func() { w.lend(ctx, f) })
			}
		}
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

// Wait waits until Run, if it was called, has returned, or ctx ends.
func (w *Worker) Wait(ctx context.Context) {
	w.mu.Lock()
	begun := w.begun
	w.mu.Unlock()
	if !begun {
		return
	}
	select {
	case <-w.ended:
	case <-ctx.Done():
	}
}

// missing returns how many slots are to be lent to a frontend in addition, and counts
// them.
func (w *Worker) missing(id string, want int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := max(want-w.lent[id], 0)
	w.lent[id] += n
	return n
}

// lend lends one slot to a frontend until the stream or ctx ends.
func (w *Worker) lend(ctx context.Context, f Frontend) {
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.lent[f.ID]--; w.lent[f.ID] == 0 {
			delete(w.lent, f.ID)
		}
	}()
	// Not canceled with ctx: an evaluation that runs is completed.
	s, err := f.Open(context.WithoutCancel(ctx))
	if err != nil {
		w.o.Logger.Debug("lending a slot to a query frontend failed", "frontend", f.ID, "err", err)
		pause(ctx)
		return
	}
	defer s.Close()
	stop := context.AfterFunc(ctx, func() {
		if s.Leave() != nil {
			s.Close()
		}
	})
	defer stop()
	for {
		r, err := s.Next()
		if err != nil {
			pause(ctx)
			return
		}
		if err := w.evaluate(s, r); err != nil {
			w.o.Logger.Debug("an answer for a query frontend was not sent", "frontend", f.ID, "err", err)
			return
		}
	}
}

func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(retryAfter):
	}
}

// evaluate runs an evaluation in a slot of the process, or in all of them if it must be
// alone: more slots may be lent than there are.
func (w *Worker) evaluate(s Stream, r *evaluation.Request) error {
	n := int64(1)
	if r.Alone {
		n = int64(w.o.Slots)
	}
	if err := w.slots.Acquire(s.Context(), n); err != nil {
		return err
	}
	defer w.slots.Release(n)
	w.running.Inc()
	defer w.running.Dec()
	a, release := w.o.Run(s.Context(), r)
	defer release()
	return s.Answer(r, a)
}
