// Package progress distinguishes work that is stuck from work that takes long. A
// worker begins a task and passes it in the context; code that completes a step of
// it (a call to a store that returned, a series that was written) calls Step. A
// task without a step for a minute is exported as a metric and logged.
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
	// StallAfter is the time without a step after which a task counts as stalled.
	StallAfter = time.Minute
	checkEvery = 5 * time.Second
)

// Options configure a Worker.
type Options struct {
	Metric  string // name of the gauge, in seconds
	Help    string
	Message string // of the log line

	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Worker runs tasks of one kind, possibly several at a time.
type Worker struct {
	o     Options
	mu    sync.Mutex
	tasks map[*Task]bool
}

// Task is one task in progress.
type Task struct {
	worker *Worker
	parent *Task        // the task that this one is a part of; nil = none
	parts  atomic.Int32 // number of parts in progress
	at     atomic.Pointer[string]
	last   atomic.Int64 // time of the last step, Unix nanoseconds
	warned time.Time    // when the stall was logged last; guarded by the worker's mu
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

// key is the context key of a task.
type key struct{}

// Begin begins a task. Code with the returned context reports its steps; End ends
// it. If ctx has a task already, the new one is a part of it: a task with parts
// stalls only if its parts stall.
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

// Step reports a step of the context's task, if it has one.
func Step(ctx context.Context) {
	if t, ok := ctx.Value(key{}).(*Task); ok {
		t.step()
	}
}

// At reports a step of the context's task, and sets the description of its next
// one.
func At(ctx context.Context, what string) {
	if t, ok := ctx.Value(key{}).(*Task); ok {
		t.at.Store(&what)
		t.step()
	}
}

// stalled returns the time since the task's last step, or 0 if it is below
// StallAfter or if the task waits for parts.
func (t *Task) stalled(now time.Time) time.Duration {
	if t.parts.Load() > 0 {
		return 0
	}
	if d := time.Duration(now.UnixNano() - t.last.Load()); d >= StallAfter {
		return d
	}
	return 0
}

// Stalled returns the longest time since the last step of a stalled task, or 0 if
// no task is stalled.
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

// Watch logs stalled tasks until ctx is done.
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

// Check logs each stalled task, at most once a minute.
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
