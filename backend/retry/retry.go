// Package retry retries failed reads of a shared store, and hedges slow ones: if a read takes
// longer than 95% of the recent reads of its kind, a second identical read is sent, and the
// first response is used. Packages objects/retried and rows/retried apply it to the ports.
package retry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/palliumhq/pallium/backend/latency"
)

const (
	// Tries is how many calls of the store one read makes at most, hedges included.
	Tries = 4

	// firstPause is the longest pause before the second try; each further one is three times
	// as long, so that a read survives one or two seconds in which a store cannot be reached.
	// Half of each pause is random.
	firstPause  = 200 * time.Millisecond
	pauseFactor = 3

	// minHedge is the shortest time after which a read is hedged: hedging does not
	// help a store that responds faster.
	minHedge = 20 * time.Millisecond

	// A hedge needs a token. Each read adds hedgeShare tokens, up to hedgeBurst. In the usual
	// state of a store, 5% of the reads are slower than the p95. The share is higher, because
	// with exactly 5% there would often be no token left for a read that hangs. If the store
	// becomes slower, hedges add at most a tenth to its reads.
	hedgeShare = 0.1
	hedgeBurst = 20
)

// errStalled is the error of a try that was canceled because the store did not
// respond in time.
var errStalled = errors.New("the store did not respond")

// Options configure the reads of one store.
type Options struct {
	Store string // label of the metrics: "objects" or "rows"
	Kinds []string
	// Permanent reports whether a retry would fail with the same error. After the
	// caller's context is done, no error is retried.
	Permanent  func(error) bool
	Registerer prometheus.Registerer // nil: none
}

// Reads is the state that the reads of one store share. It is safe for concurrent use.
type Reads struct {
	permanent func(error) bool
	recent    map[string]*latency.Recent // by kind; never written after New
	retries   *prometheus.CounterVec
	hedges    *prometheus.CounterVec

	mu     sync.Mutex
	tokens float64 // see hedgeShare
}

// New returns the state for the reads of a store. All stores of one registry use metrics of the
// same name, with the label "store".
func New(o Options) *Reads {
	r := &Reads{permanent: o.Permanent, recent: map[string]*latency.Recent{}, tokens: hedgeBurst}
	labels := prometheus.Labels{"store": o.Store}
	auto := promauto.With(o.Registerer)
	r.retries = auto.NewCounterVec(prometheus.CounterOpts{
		Name: "pallium_store_read_retries_total", ConstLabels: labels,
		Help: "Retries of reads of a shared store, by result: success, failure, or permanent (an error for which a further retry is useless).",
	}, []string{"kind", "result"})
	r.hedges = auto.NewCounterVec(prometheus.CounterOpts{
		Name: "pallium_store_read_hedges_total", ConstLabels: labels,
		Help: "Second reads sent because the first took longer than 95% of recent ones: won (its response was used), lost, failed; " +
			"limited: not sent, because too many reads were slow.",
	}, []string{"kind", "result"})
	for _, k := range o.Kinds {
		r.recent[k] = &latency.Recent{}
		for _, result := range []string{"success", "failure", "permanent"} {
			r.retries.WithLabelValues(k, result)
		}
		for _, result := range []string{"won", "lost", "failed", "limited"} {
			r.hedges.WithLabelValues(k, result)
		}
	}
	return r
}

// Read describes one read.
type Read struct {
	Kind string // one of Options.Kinds
	// Stall is how long a try waits for its response before it is canceled and counts as
	// failed.
	Stall time.Duration
	// Alone is set for a read that must not be hedged.
	Alone bool
}

// Do calls try, up to Tries times, until it succeeds, and returns its result. At most two
// tries run concurrently. When one succeeds, the other is canceled, and may still be
// running when Do returns. release cancels the context of the successful try; the caller must
// call it when it no longer needs the result. If Do fails, it returns the error of the last
// try, and release is nil.
//
// Do pauses before each retry. If a pause would end after the deadline of ctx, Do returns at once.
func Do[T any](ctx context.Context, r *Reads, read Read, try func(context.Context) (T, error)) (
	answer T, release context.CancelFunc, err error) {
	r.earn()
	for tried := 0; ; {
		was := tried
		answer, release, tried, err = once(ctx, r, read, tried, try)
		if was > 0 {
			r.retries.WithLabelValues(read.Kind, r.result(ctx, err)).Inc()
		}
		if err == nil || tried >= Tries || !r.Helps(ctx, err) || !Pause(ctx, tried) {
			return answer, release, err
		}
	}
}

func (r *Reads) result(ctx context.Context, err error) string {
	switch {
	case err == nil:
		return "success"
	case r.Helps(ctx, err):
		return "failure"
	}
	return "permanent"
}

// Helps reports whether a read that failed with the error should be retried.
func (r *Reads) Helps(ctx context.Context, err error) bool {
	return ctx.Err() == nil && !errors.Is(err, context.Canceled) && !r.permanent(err)
}

// Pause waits before a read that was tried the given number of times is retried. It
// returns false if ctx ends before the pause does: without waiting if the deadline of ctx
// is that early.
func Pause(ctx context.Context, tried int) bool {
	longest := firstPause
	for range tried - 1 {
		longest *= pauseFactor
	}
	d := longest/2 + rand.N(longest/2)
	if at, ok := ctx.Deadline(); ok && time.Until(at) <= d {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// outcome is the result of one try.
type outcome[T any] struct {
	n      int // 0 for the first of the tries of one call of once; the others are hedges
	answer T
	err    error
}

// once makes one try, and hedges it if it is slow, until one of them succeeds or all have
// failed. tried is the number of tries made before; once returns the number of tries so far.
func once[T any](ctx context.Context, r *Reads, read Read, tried int, try func(context.Context) (T, error)) (
	answer T, release context.CancelFunc, _ int, err error) {
	began := time.Now()
	outcomes := make(chan outcome[T], Tries) // with space for all tries, so that a canceled try does not block
	var cancels []context.CancelFunc
	running := 0
	launch := func() {
		cancels = append(cancels, start(ctx, read, len(cancels), try, outcomes))
		tried, running = tried+1, running+1
	}
	launch()
	h := r.newHedge(read)
	defer h.stop()
	for {
		var hedge <-chan time.Time
		if running == 1 && tried < Tries {
			hedge = h.due()
		}
		select {
		case <-hedge:
			if r.spend(read) {
				launch()
			}
			h.again()
		case <-ctx.Done():
			cancelAll(cancels, -1)
			return answer, nil, tried, fmt.Errorf("read (%s): %w", read.Kind, ctx.Err())
		case o := <-outcomes:
			running--
			r.countHedge(read, o.n > 0, o.err, running > 0)
			if o.err == nil {
				cancelAll(cancels, o.n)
				// Record the time of the whole read. The time of a hedge alone would not show
				// that the first try was slow, and each hedge would lower the p95.
				r.recent[read.Kind].Add(time.Since(began))
				return o.answer, cancels[o.n], tried, nil
			}
			if running == 0 || !r.Helps(ctx, o.err) {
				cancelAll(cancels, -1)
				return answer, nil, tried, o.err
			}
			h.again()
		}
	}
}

// cancelAll cancels all tries but one.
func cancelAll(cancels []context.CancelFunc, except int) {
	for i, cancel := range cancels {
		if i != except {
			cancel()
		}
	}
}

// countHedge counts the outcome of a try if it is a hedge, or if a hedge of it is still running
// (other).
func (r *Reads) countHedge(read Read, hedge bool, err error, other bool) {
	switch {
	case hedge && err != nil:
		r.hedges.WithLabelValues(read.Kind, "failed").Inc()
	case hedge:
		r.hedges.WithLabelValues(read.Kind, "won").Inc()
	case other && err == nil:
		r.hedges.WithLabelValues(read.Kind, "lost").Inc()
	}
}

// start begins a try in a new goroutine, and returns a function that cancels it.
func start[T any](ctx context.Context, read Read, n int, try func(context.Context) (T, error), to chan<- outcome[T]) context.CancelFunc {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		stall := time.AfterFunc(read.Stall, func() { cancel(errStalled) })
		answer, err := try(ctx)
		if !stall.Stop() && errors.Is(context.Cause(ctx), errStalled) {
			err = fmt.Errorf("read (%s): %w for %s", read.Kind, errStalled, read.Stall)
		}
		to <- outcome[T]{n, answer, err}
	}()
	return func() { cancel(nil) }
}

// hedge is the timer for hedging a read.
type hedge struct {
	after time.Duration
	timer *time.Timer // nil: never
}

// newHedge returns the timer for hedging a read that starts now.
func (r *Reads) newHedge(read Read) *hedge {
	p95, ok := r.recent[read.Kind].P95()
	if !ok || read.Alone {
		return &hedge{}
	}
	h := &hedge{after: max(p95, minHedge)}
	h.timer = time.NewTimer(h.after)
	return h
}

// due returns a channel that receives when a hedge is due, or nil if the read is
// never hedged.
func (h *hedge) due() <-chan time.Time {
	if h.timer == nil {
		return nil
	}
	return h.timer.C
}

// again restarts the timer: a hedge may have failed while the first try hangs, and a token may
// be available later.
func (h *hedge) again() {
	if h.timer != nil {
		h.timer.Reset(h.after)
	}
}

func (h *hedge) stop() {
	if h.timer != nil {
		h.timer.Stop()
	}
}

// earn adds the tokens of one read.
func (r *Reads) earn() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tokens = min(r.tokens+hedgeShare, hedgeBurst)
}

// spend takes a token for a hedge. If there is none, it returns false and counts the
// hedge as limited.
func (r *Reads) spend(read Read) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tokens < 1 {
		r.hedges.WithLabelValues(read.Kind, "limited").Inc()
		return false
	}
	r.tokens--
	return true
}
