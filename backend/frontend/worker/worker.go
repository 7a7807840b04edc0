// Package worker lends the slots of a querier to the query frontends of the ring, which send
// evaluations.
package worker

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/semaphore"

	"github.com/palliumhq/pallium/backend/frontend/evaluation"
)

// Frontend is a query frontend of the ring.
type Frontend struct {
	ID string
	// Unhealthy frontends get no further slots. Their open streams stay open: they may still send
	// evaluations.
	Unhealthy bool
	Open      func(ctx context.Context) (Stream, error)
}

// Stream is a slot that was lent to a frontend.
type Stream interface {
	// Next returns the next evaluation. It returns an error when the frontend has ended
	// the stream.
	Next() (*evaluation.Request, error)
	// Context ends when the stream has ended, for example because the frontend canceled the
	// evaluation.
	Context() context.Context
	Answer(r *evaluation.Request, a *evaluation.Answer) error
	// Began tells the frontend that an evaluation that waited to run alone begins now.
	Began() error
	// Leave tells the frontend to send no further evaluation. It may be called concurrently with
	// the other methods.
	Leave() error
	Close()
}

// Options configure a Worker.
type Options struct {
	// Frontends returns the current frontends.
	Frontends func(ctx context.Context) ([]Frontend, error)
	// Run runs an evaluation; release frees the answer.
	Run        func(ctx context.Context, r *evaluation.Request) (a *evaluation.Answer, release func())
	Slots      int // maximum number of concurrent evaluations
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Worker lends slots.
type Worker struct {
	o     Options
	slots *semaphore.Weighted

	mu      sync.Mutex
	lent    map[string][]*loan // by frontend
	begun   bool
	ended   chan struct{} // closed when Run returns
	running prometheus.Gauge
}

// loan is a slot that is lent.
type loan struct{ leave context.CancelFunc } // ends it after its evaluation

// New returns a Worker.
func New(o Options) *Worker {
	auto := promauto.With(o.Registerer)
	auto.NewGauge(prometheus.GaugeOpts{Name: "pallium_querier_slots",
		Help: "Maximum number of evaluations that the querier runs concurrently for query frontends."}).Set(float64(o.Slots))
	return &Worker{o: o, slots: semaphore.NewWeighted(int64(o.Slots)), lent: map[string][]*loan{}, ended: make(chan struct{}),
		running: auto.NewGauge(prometheus.GaugeOpts{Name: "pallium_querier_running_evaluations",
			Help: "Evaluations that the querier is running for query frontends."})}
}

const (
	// interval is how often Run reads the frontends of the ring and adjusts their slots.
	interval = time.Second
	// retryAfter is the minimum time before a slot is lent again after a failed Open or Next.
	retryAfter = 500 * time.Millisecond
)

// Run lends slots until ctx ends. It returns when the running evaluations have ended, too.
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
		list = slices.DeleteFunc(list, func(f Frontend) bool { return f.Unhealthy })
		for _, f := range list {
			w.adjust(ctx, f, w.part(len(list)), &running)
		}
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

// leastPart is the minimum number of slots of a frontend: with fewer, the limits of its queue for
// tenants and classes could leave no slot free.
const leastPart = 4

// part returns the number of slots that each of n frontends gets: an equal part of all slots,
// rounded up, but at least leastPart (or all, if there are fewer). So more slots may be lent than
// exist; evaluations in excess wait in the querier.
func (w *Worker) part(n int) int {
	return max((w.o.Slots+n-1)/n, min(leastPart, w.o.Slots))
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

// adjust lends further slots to a frontend, or ends excess loans, until the frontend has n slots. Excess
// loans exist after another frontend was temporarily absent: if they did not end, evaluations of one
// frontend would wait for evaluations of another.
func (w *Worker) adjust(ctx context.Context, f Frontend, n int, running *sync.WaitGroup) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.lent[f.ID]) > n {
		w.lent[f.ID][n].leave()
		w.forget(f.ID, w.lent[f.ID][n])
	}
	for len(w.lent[f.ID]) < n {
		own, leave := context.WithCancel(ctx)
		l := &loan{leave}
		w.lent[f.ID] = append(w.lent[f.ID], l)
		running.Go(func() {
			for w.lend(own, f) {
			}
			leave()
			w.mu.Lock()
			defer w.mu.Unlock()
			w.forget(f.ID, l)
		})
	}
}

// forget removes a loan. It is called with w.mu held.
func (w *Worker) forget(id string, l *loan) {
	w.lent[id] = slices.DeleteFunc(w.lent[id], func(o *loan) bool { return o == l })
	if len(w.lent[id]) == 0 {
		delete(w.lent, id)
	}
}

// lend lends one slot to a frontend until the stream or ctx ends. It reports whether the caller
// should lend the slot again: true if the stream was opened and ctx has not ended. (A stream often
// ends because the frontend canceled an evaluation.)
func (w *Worker) lend(ctx context.Context, f Frontend) (again bool) {
	// Not canceled with ctx: an evaluation that runs is completed.
	s, err := f.Open(context.WithoutCancel(ctx))
	if err != nil {
		w.o.Logger.Debug("lending a slot to a query frontend failed", "frontend", f.ID, "err", err)
		pause(ctx)
		return false
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
			return ctx.Err() == nil
		}
		if err := w.evaluate(s, r); err != nil {
			w.o.Logger.Debug("an answer for a query frontend was not sent", "frontend", f.ID, "err", err)
			return ctx.Err() == nil
		}
	}
}

func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(retryAfter):
	}
}

// evaluate runs an evaluation in a slot of the process, or in all slots if it must run alone. It
// waits until the slots are free, since more slots may be lent than exist.
func (w *Worker) evaluate(s Stream, r *evaluation.Request) error {
	n := int64(1)
	if r.Alone {
		n = int64(w.o.Slots)
	}
	if err := w.slots.Acquire(s.Context(), n); err != nil {
		return err
	}
	defer w.slots.Release(n)
	if r.Alone {
		if err := s.Began(); err != nil {
			return err
		}
	}
	w.running.Inc()
	defer w.running.Dec()
	a, release := w.o.Run(s.Context(), r)
	defer release()
	return s.Answer(r, a)
}
