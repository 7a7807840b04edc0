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

// noted reports whether evaluations of the query's expression had annotations.
func (p *plan) noted() bool {
	if len(p.q.text) > longestNoted {
		return true
	}
	_, noted := p.f.noted.Get(notedKey{p.id, p.q.text})
	return noted
}

// evaluate evaluates all runs, at most Options.Workers at the same time. It returns the result of
// the first one that failed, or nil.
func (p *plan) evaluate(ctx context.Context) *promql.Result {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(p.f.o.Workers)
	var mu sync.Mutex
	var failed *promql.Result
	for _, run := range p.runs {
		g.Go(func() error {
			res := p.evaluateRun(ctx, run)
			if res.Err == nil {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			if failed == nil { // later ones may fail because this one ended them
				failed = res
			}
			return res.Err
		})
	}
	_ = g.Wait() // the error is in failed
	return failed
}

// evaluateRun evaluates the tasks of a run together, or one by one if that exceeds a limit:
// whether a query succeeds must not depend on which of its parts are cached.
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

// evaluateTasks evaluates adjacent tasks together, and sets the answer of each.
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
		storable = false // it is not known to which task they belong
	}
	p.answered.Add(1)
	run[0].warnings = got.warnings
	left, read := stepsIn(steps, p.step), got.cost.Read
	for _, t := range run {
		t.notes, t.storable, t.readers = notes, storable, got.readers
		n := stepsIn(t.steps, p.step)
		t.cost = got.cost // series and samples are those of the whole run
		t.cost.Read = int64(float64(read) * (float64(n) / float64(left)))
		left, read = left-n, read-t.cost.Read
		if t.points = got.points; len(run) > 1 {
			t.points = split.Slice(got.points, t.steps.Start, t.steps.End)
		}
	}
	return &promql.Result{}
}

// evaluated is the answer for some steps.
type evaluated struct {
	points   promql.Matrix
	warnings annotations.Annotations
	cost     evaluation.Cost
	readers  evaluation.Readers
	storable bool // it is one of this version and these settings
}

// evaluateWhole evaluates some steps without dividing the series. It returns the result if that
// failed.
func (p *plan) evaluateWhole(ctx context.Context, steps split.Range) (*evaluated, *promql.Result) {
	got, query, failed := p.exec(ctx, steps, nil)
	if failed != nil && query != nil {
		p.q.close(query) // so that it holds nothing while fewer steps are evaluated
	}
	return got, failed
}

// exec evaluates some steps, or a shard of them.
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

// partOf returns the times of the evaluation of some steps.
func partOf(steps split.Range, ofShard bool, r timing.Report) timing.Part {
	return timing.Part{Start: steps.Start, End: steps.End, Shard: ofShard, Queue: r.Of(timing.Queue), Evaluation: r.Of(timing.Evaluation)}
}

// execQuery executes a query, which is closed with the whole one.
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
		out.storable = false // evaluated by another version
	}
	return out, nil
}

// costOf returns what an evaluation has read.
func (p *plan) costOf(query promql.Query) evaluation.Cost {
	var cost evaluation.Cost
	cost.Series, cost.Samples = p.f.o.Evaluator.Cost(query)
	if s := query.Stats(); s != nil && s.Samples != nil {
		cost.Read = s.Samples.TotalSamples
	}
	return cost
}
