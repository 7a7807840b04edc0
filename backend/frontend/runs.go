package frontend

import (
	"context"
	"sync"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/util/annotations"
	"golang.org/x/sync/errgroup"

	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/shard"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/timing"
)

// task is a range of steps of one part to evaluate. Either all of its steps may be cached, or none.
type task struct {
	part  *part
	steps split.Range

	points   promql.Matrix
	warnings annotations.Annotations // set only in the first task of a run
	notes    []evaluation.Note
	storable bool // the answer can be cached with its annotations
	cost     evaluation.Cost
	readers  evaluation.Readers
}

// runDays is the maximum number of days of parts that are evaluated together. Every evaluation also
// reads the look-back before its first step, for which the long-term store decodes a whole day. A
// longer evaluation would occupy a slot for longer, and all of it is lost if its querier
// disappears.
const runDays = 7

// setRuns divides the tasks into runs: adjacent tasks are evaluated together, so that their
// look-backs are not read again. Annotations belong to a whole run, but an entry of the cache needs
// those of its own steps. So the tasks of an expression that had annotations before are evaluated
// one by one.
func (p *plan) setRuns() {
	alone := p.noted()
	for i := range p.tasks {
		t := &p.tasks[i]
		if last := len(p.runs) - 1; i > 0 && !alone && p.follows(t, p.runs[last]) {
			p.runs[last] = append(p.runs[last], t)
			continue
		}
		p.runs = append(p.runs, []*task{t})
	}
}

// follows reports whether a task can be appended to a run.
func (p *plan) follows(t *task, run []*task) bool {
	last := run[len(run)-1]
	near := t.part == last.part || t.part.full.End-run[0].part.full.Start < runDays*split.Day
	return near && last.steps.End+p.step == t.steps.Start
}

// noted reports whether a recent evaluation of the query's expression had annotations, or the
// expression is too long to record that.
func (p *plan) noted() bool {
	if len(p.q.text) > longestNoted {
		return true
	}
	_, noted := p.f.noted.Get(notedKey{p.id, p.q.text})
	return noted
}

// evaluate evaluates all runs, at most Options.Workers concurrently. It returns the result of the
// first run that failed, or nil.
func (p *plan) evaluate(ctx context.Context) *promql.Result {
	return concurrently(ctx, p.f.o.Workers, p.runs, p.evaluateRun)
}

// concurrently calls fn for each element of a list, at most limit calls at the same time. The first
// result with an error cancels the context of the other calls; concurrently returns it, or nil.
func concurrently[T any](ctx context.Context, limit int, list []T, fn func(context.Context, T) *promql.Result) *promql.Result {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(limit)
	var mu sync.Mutex
	var failed *promql.Result
	for _, one := range list {
		g.Go(func() error {
			res := fn(ctx, one)
			if res == nil || res.Err == nil {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			if failed == nil { // later ones may fail because this one canceled them
				failed = res
			}
			return res.Err
		})
	}
	_ = g.Wait() // the error is in failed
	return failed
}

// evaluateRun evaluates the tasks of a run together. If that exceeds a limit or the memory, it
// evaluates them one by one: whether a query succeeds must not depend on which of its parts are
// cached.
func (p *plan) evaluateRun(ctx context.Context, run []*task) *promql.Result {
	res := p.evaluateTasks(ctx, run)
	if len(run) == 1 || !p.f.o.Evaluator.TooLarge(res.Err) {
		return res
	}
	for i := range run {
		if res = p.evaluateTasks(ctx, run[i:i+1]); res.Err != nil {
			return res
		}
	}
	return res
}

// evaluateTasks evaluates adjacent tasks together, and sets the answer of each task.
func (p *plan) evaluateTasks(ctx context.Context, run []*task) *promql.Result {
	q := p.q
	steps := split.Range{Start: run[0].steps.Start, End: run[len(run)-1].steps.End}
	got, failed := p.evaluateSteps(ctx, steps)
	if failed != nil {
		return failed
	}
	notes, joinable := evaluation.NotesOf(got.warnings, q.text)
	if len(notes) > 0 && len(q.text) <= longestNoted {
		p.f.noted.Put(notedKey{p.id, q.text}, struct{}{})
	}
	storable := got.storable && joinable
	if len(run) > 1 && len(notes) > 0 {
		storable = false // the task to which an annotation belongs is unknown
	}
	p.answered.Add(1)
	run[0].warnings = got.warnings
	left, read := stepsIn(steps, p.step), got.cost.Read
	for _, t := range run {
		t.notes, t.storable, t.readers = notes, storable, got.readers
		n := stepsIn(t.steps, p.step)
		t.cost = got.cost // Series and Samples are counted for the whole run
		t.cost.Read = int64(float64(read) * (float64(n) / float64(left)))
		left, read = left-n, read-t.cost.Read
		if t.points = got.points; len(run) > 1 {
			t.points = split.Slice(got.points, t.steps.Start, t.steps.End)
		}
	}
	return &promql.Result{}
}

// evaluated is the answer for a range of steps.
type evaluated struct {
	points   promql.Matrix
	warnings annotations.Annotations
	cost     evaluation.Cost
	readers  evaluation.Readers
	storable bool // evaluated by processes with the versions of this one
}

// evaluateWhole evaluates a range of steps without shards. If the evaluation failed, it returns
// its result.
func (p *plan) evaluateWhole(ctx context.Context, steps split.Range) (*evaluated, *promql.Result) {
	got, query, failed := p.exec(ctx, steps, nil)
	if failed != nil && query != nil {
		p.q.close(query) // frees its memory before fewer steps are evaluated
	}
	return got, failed
}

// exec evaluates a range of steps: everything if `of` is nil, otherwise one shard.
func (p *plan) exec(ctx context.Context, steps split.Range, of *shard.Shard) (*evaluated, promql.Query, *promql.Result) {
	q := p.q
	query, err := p.f.o.Evaluator.NewPartQuery(ctx, q.storage, q.opts, q.text, q.times, steps, of)
	if err != nil {
		return nil, nil, &promql.Result{Err: err}
	}
	whole := timing.Of(ctx)
	own := whole.Child()
	got, failed := p.execQuery(timing.NewContext(ctx, own), query)
	whole.Merge(own.Report())
	if failed == nil {
		whole.AddPart(partOf(steps, of != nil, own.Report()))
	}
	return got, query, failed
}

// partOf returns the times of the evaluation of a range of steps.
func partOf(steps split.Range, ofShard bool, r timing.Report) timing.Part {
	return timing.Part{Start: steps.Start, End: steps.End, Shard: ofShard, Queue: r.Of(timing.Queue), Evaluation: r.Of(timing.Evaluation)}
}

// execQuery executes a query, which rangeQuery.Close closes.
func (p *plan) execQuery(ctx context.Context, query promql.Query) (*evaluated, *promql.Result) {
	p.q.mu.Lock()
	p.q.running = append(p.q.running, query)
	p.q.mu.Unlock()
	res := query.Exec(ctx)
	if res.Err != nil {
		return nil, res
	}
	points, err := res.Matrix()
	if err != nil {
		return nil, &promql.Result{Err: err}
	}
	out := &evaluated{points: points, warnings: res.Warnings, cost: p.costOf(query), readers: p.f.o.Evaluator.Readers(query), storable: true}
	if s, ok := query.(interface{ Storable() bool }); ok && !s.Storable() {
		out.storable = false // a process of another version evaluated it
	}
	return out, nil
}

// costOf returns the cost of an evaluation that ran.
func (p *plan) costOf(query promql.Query) evaluation.Cost {
	var cost evaluation.Cost
	cost.Series, cost.Samples = p.f.o.Evaluator.Cost(query)
	if s := query.Stats(); s != nil && s.Samples != nil {
		cost.Read = s.Samples.TotalSamples
	}
	return cost
}
