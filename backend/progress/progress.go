// Package progress tells work that makes no progress from work that takes long.
// A worker begins a task, the task travels in the context, and whatever ends a
// step of it (a call of a store that returned, a series that was written) says
// so. A task without a step for a minute is a metric and a log line.
package progress

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

const (
	// StallAfter is how long a task may be without a step.
	StallAfter = time.Minute
	checkEvery = 5 * time.Second
)

// Options of a Worker.
type Options struct {
	Metric  string // name of the gauge, in seconds
	Help    string
	Message string // of the log line

	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Worker does tasks of one kind, several at a time perhaps.
type Worker struct {
	o     Options
	mu    sync.Mutex
	tasks map[*Task]bool
}

// Task is one piece of work under way.
type Task struct {
	worker *Worker
	parent *Task        // of which this one is a part; nil: of none
	parts  atomic.Int32 // under way
	at     atomic.Pointer[string]
	last   atomic.Int64 // time of the last step, Unix nanoseconds
	warned time.Time    // when the log said last that it stalls; the worker's mu
}

// NewWorker returns a worker without tasks, and registers its gauge.
func NewWorker(o Options) *Worker {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	w := &Worker{o: o, tasks: map[*Task]bool{}}
	promauto.With(o.Registerer).NewGaugeFunc(prometheus.GaugeOpts{Name: o.Metric, Help: o.Help},
		func() float64 { return w.Stalled().Seconds() })
	return w
}

// key is that of the task in a context.
type key struct{}

// Begin begins a task. Steps are told by the returned context; End ends it. When
// ctx is of a task already, the new one is a part of it: a task with parts stalls
// only if they do.
func (w *Worker) Begin(ctx context.Context, what string) (context.Context, *Task) {
	t := &Task{worker: w}
	if p, ok := ctx.Value(key{}).(*Task); ok {
		t.parent = p
		p.parts.Add(1)
	}
	t.at.Store(&what)
	t.step()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tasks[t] = true
	return context.WithValue(ctx, key{}, t), t
}

// End ends the task.
func (t *Task) End() {
	if p := t.parent; p != nil {
		p.step()
		p.parts.Add(-1)
	}
	t.worker.mu.Lock()
	defer t.worker.mu.Unlock()
	delete(t.worker.tasks, t)
}

func (t *Task) step() { t.last.Store(t.worker.o.Now().UnixNano()) }

// Step says that the task of a context went on. Without one it does nothing.
func Step(ctx context.Context) {
	if t, ok := ctx.Value(key{}).(*Task); ok {
		t.step()
	}
}

// At says what the task of a context is at from now on, which is a step, too.
func At(ctx context.Context, what string) {
	if t, ok := ctx.Value(key{}).(*Task); ok {
		t.at.Store(&what)
		t.step()
	}
}

// stalled is how long the task has had no step, or 0 if that is not long or if it
// waits for its parts.
func (t *Task) stalled(now time.Time) time.Duration {
	if t.parts.Load() > 0 {
		return 0
	}
	if d := time.Duration(now.UnixNano() - t.last.Load()); d >= StallAfter {
		return d
	}
	return 0
}

// Stalled is how long the task that stalls longest has had no step; 0 if none
// stalls.
func (w *Worker) Stalled() time.Duration {
	now := w.o.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	var most time.Duration
	for t := range w.tasks {
		most = max(most, t.stalled(now))
	}
	return most
}

// Watch logs tasks that stall until ctx is done.
func (w *Worker) Watch(ctx context.Context) {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.Check()
		}
	}
}

// Check logs each task that stalls, once a minute at most.
func (w *Worker) Check() {
	now := w.o.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	for t := range w.tasks {
		d := t.stalled(now)
		if d == 0 || now.Sub(t.warned) < StallAfter {
			continue
		}
		t.warned = now
		w.o.Logger.Warn(w.o.Message, "at", *t.at.Load(), "without_progress", d.Round(time.Second))
	}
}
