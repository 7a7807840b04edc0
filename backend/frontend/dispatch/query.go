package dispatch

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/prometheus/promql"

	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/queue"
	"github.com/palliumhq/pallium/backend/timing"
)

// query is a query that a slot evaluates. Only slots of this process run the embedded query.
type query struct {
	promql.Query
	d       *Dispatcher
	request evaluation.Request
	local   bool               // not evaluation.Portable: the answer of another process would be incomplete
	answer  *evaluation.Answer // of another process; nil before Exec, or if no other process answered
}

// Storable reports whether the answer may be cached: it was evaluated in this process, or by a process
// with the same versions.
func (q *query) Storable() bool { return q.answer == nil || q.answer.Switches == q.d.o.Switches }

// task is one attempt to evaluate a query.
type task struct {
	query *query
	ctx   context.Context //nolint:containedctx // the context of the query, for the slot that takes the task
	alone bool
	done  chan struct{} // closed when the attempt has ended

	// Set before done is closed. An attempt in this process has a result.
	querier string
	began   time.Time
	answer  *evaluation.Answer
	result  *promql.Result
	ended   bool // the querier disappeared during the evaluation
	unbegun bool // the querier disappeared before it began the evaluation
}

// read returns the number of samples that the attempt has read; -1 if that is unknown.
func (t *task) read() int64 {
	switch {
	case t.answer != nil && t.answer.Err == nil:
		return t.answer.Cost.Read
	case t.result != nil:
		if s := t.query.Stats(); s != nil && s.Samples != nil {
			return s.Samples.TotalSamples
		}
	}
	return -1
}

// waited adds to the times of the query the time from `pushed` until a slot took the task, or until
// now if no slot took it. The task must be done or removed from the queue.
func (t *task) waited(pushed time.Time) {
	end := t.began
	if end.IsZero() {
		end = t.query.d.o.Now()
	}
	timing.Of(t.ctx).Add(timing.Queue, end.Sub(pushed))
}

// Exec implements promql.Query.
func (q *query) Exec(ctx context.Context) *promql.Result {
	if err := q.d.Evaluator.Check(q.Query); err != nil {
		return q.d.Failed(err)
	}
	if q.d.suspects.has(&q.request) {
		q.d.metrics.suspects.Inc()
		return &promql.Result{Err: errSuspect}
	}
	if q.local && q.d.here.Load() == 0 {
		return q.Query.Exec(ctx)
	}
	var t *task
	var avoid string
	deaths, repeated := 0, false
	for {
		var res *promql.Result
		if t, res = q.attempt(ctx, avoid, deaths > 0); res != nil {
			return res
		}
		if ctx.Err() != nil && t.result == nil {
			return q.d.o.Engine.Interrupted(ctx)
		}
		switch {
		case t.unbegun:
			q.d.metrics.repeated.WithLabelValues("querier_ended").Inc()
		case t.ended:
			if deaths++; deaths > 1 {
				q.d.suspects.add(&q.request)
				q.d.metrics.suspects.Inc()
				q.d.o.Logger.Error("two queriers disappeared while they evaluated a query; rejecting it for 5 minutes",
					"tenant", q.request.Access.Tenant, "query", q.request.Text)
				return &promql.Result{Err: errSuspect}
			}
			q.d.metrics.repeated.WithLabelValues("querier_ended").Inc()
		case t.answer != nil && !repeated && repeatable(t.answer):
			repeated = true
			q.d.metrics.repeated.WithLabelValues("unreadable").Inc()
		default:
			return q.finish(ctx, t)
		}
		avoid = t.querier
	}
}

// attempt waits until a slot has evaluated the query. It returns res if no slot took the query: its context
// ended, or no querier was connected.
func (q *query) attempt(ctx context.Context, avoid string, alone bool) (t *task, res *promql.Result) {
	d := q.d
	t = &task{query: q, ctx: ctx, alone: alone, done: make(chan struct{})}
	job := &queue.Job{Tenant: q.request.Access.Tenant, Class: q.request.Class, Cost: d.costs.estimate(&q.request),
		Avoid: avoid, Value: t}
	pushed := d.o.Now()
	d.o.Queue.Push(job)
	noQuerier := d.o.Timer(noQuerierWait)
	for {
		select {
		case <-t.done:
			t.waited(pushed)
			return t, nil
		case <-noQuerier:
			without := d.o.Queue.Without()
			noQuerier = d.o.Timer(max(noQuerierWait-without, time.Second))
			if without >= noQuerierWait && d.o.Queue.Remove(job) {
				t.waited(pushed)
				d.warnNoQuerier()
				d.o.Engine.Unreadable(ctx, ErrNoQuerier)
				return nil, &promql.Result{Err: promql.ErrStorage{Err: ErrNoQuerier}}
			}
		case <-ctx.Done():
			if d.o.Queue.Remove(job) {
				t.waited(pushed)
				return nil, d.o.Engine.Interrupted(ctx)
			}
			<-t.done // the attempt ends with its context
			t.waited(pushed)
			return t, nil
		}
	}
}

// noQuerierWait is the time without a connected querier after which queries fail. Short gaps are
// normal: queriers restart, and canceled evaluations end streams.
const noQuerierWait = 5 * time.Second

// finish returns the result of the last attempt.
func (q *query) finish(ctx context.Context, t *task) *promql.Result {
	if n := t.read(); n >= 0 {
		q.d.costs.learn(&q.request, n)
	}
	if t.result != nil {
		return t.result
	}
	q.answer = t.answer
	timing.Of(ctx).Merge(t.answer.Timing)
	if t.answer.Fault != nil {
		q.d.o.Engine.Unreadable(ctx, t.answer.Fault)
	}
	switch {
	case q.request.Part != nil && q.d.TooLarge(t.answer.Err): // the whole query is counted as failed, not its parts
		return &promql.Result{Err: t.answer.Err}
	case t.answer.Err != nil:
		return q.d.Failed(t.answer.Err)
	}
	t.answer.Cost.Report(q.Query)
	return t.answer.Result()
}

// repeatable reports whether another querier may succeed: this one could not read the data, or had no
// memory left.
func repeatable(a *evaluation.Answer) bool {
	var timeout promql.ErrQueryTimeout
	var canceled promql.ErrQueryCanceled
	var unreadable promql.ErrStorage
	switch {
	case a.Err == nil, errors.As(a.Err, &timeout), errors.As(a.Err, &canceled):
		return false
	}
	return a.Fault != nil || errors.As(a.Err, &unreadable)
}
