package frontend

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/prometheus/prometheus/util/stats"

	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/timing"
)

// rangeQuery is a range query that is answered in parts. The embedded query is the whole query; it
// runs only if the query cannot be divided, or if the annotations of its parts cannot be joined.
type rangeQuery struct {
	promql.Query
	f       *Frontend
	storage storage.Queryable
	opts    promql.QueryOpts
	text    string
	times   split.Times

	mu      sync.Mutex
	cancel  context.CancelFunc
	running []promql.Query // the evaluated parts; they own the points of the answer until Close
}

// Exec implements promql.Query.
func (q *rangeQuery) Exec(ctx context.Context) *promql.Result {
	p, ok := q.plan(ctx)
	if !ok {
		return q.Query.Exec(ctx)
	}
	if err := q.f.o.Evaluator.Check(q.Query); err != nil {
		return q.f.o.Evaluator.Failed(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	q.mu.Lock()
	q.cancel = cancel
	q.mu.Unlock()
	return p.run(ctx)
}

// Cancel implements promql.Query.
func (q *rangeQuery) Cancel() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.Query.Cancel()
	if q.cancel != nil {
		q.cancel()
	}
}

// Close implements promql.Query.
func (q *rangeQuery) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.Query.Close()
	for _, r := range q.running {
		r.Close()
	}
	q.running = nil
}

// close closes a part whose answer is not used.
func (q *rangeQuery) close(part promql.Query) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.running, part); i >= 0 { // otherwise Close was called
		q.running = slices.Delete(q.running, i, i+1)
		part.Close()
	}
}

// run answers the query: it reads steps from the cache and evaluates the others.
func (p *plan) run(ctx context.Context) *promql.Result {
	timer := p.q.Stats().Timers.GetTimer(stats.ExecTotalTime).Start()
	defer timer.Stop()
	p.lookUp(ctx)
	if err := p.charge(ctx); err != nil {
		return p.f.o.Evaluator.Failed(err)
	}
	if failed := p.evaluate(ctx); failed != nil {
		if p.f.o.Evaluator.TooLarge(failed.Err) {
			return p.f.o.Evaluator.Failed(failed.Err)
		}
		return failed
	}
	if p.unjoinable() {
		return p.q.Query.Exec(ctx)
	}
	notes := annotations.Annotations{}
	var pieces []promql.Matrix
	for i := range p.parts {
		part := &p.parts[i]
		if part.kept != nil {
			evaluation.Annotate(&notes, part.kept.notes)
		}
		for _, piece := range part.answer() {
			pieces = append(pieces, piece.points)
		}
	}
	p.keep(ctx) // before annotations are merged, which changes them
	for i := range p.tasks {
		notes.Merge(p.tasks[i].warnings)
	}
	m, err := split.Merge(pieces)
	if err != nil {
		return &promql.Result{Err: err}
	}
	p.count(ctx)
	return &promql.Result{Value: m, Warnings: notes}
}

// unjoinable reports whether the answer has several pieces, and annotations which were received as
// text and cannot be joined.
func (p *plan) unjoinable() bool {
	if p.answered.Load() == 1 && !slices.ContainsFunc(p.parts, func(part part) bool { return part.kept != nil }) {
		return false
	}
	return slices.ContainsFunc(p.tasks, func(t task) bool { return evaluation.Unjoinable(t.warnings) })
}

// charge accounts for the memory of the kept answers.
func (p *plan) charge(ctx context.Context) error {
	for i := range p.parts {
		part := &p.parts[i]
		if part.kept == nil {
			continue
		}
		steps := intersect(part.kept.steps, part.steps)
		if err := p.f.o.Evaluator.Charge(ctx, split.Slice(part.kept.points, steps.Start, steps.End)); err != nil {
			return err
		}
	}
	return nil
}

// count adds the cost to the statistics of the query, and the steps to the metrics.
func (p *plan) count(ctx context.Context) {
	samples := p.q.Stats().Samples
	kept, evaluated := int64(0), int64(0)
	for i := range p.parts {
		if e := p.parts[i].kept; e != nil {
			steps := intersect(e.steps, p.parts[i].steps)
			kept += stepsIn(steps, p.step)
			timing.Of(ctx).AddPart(timing.Part{Start: steps.Start, End: steps.End, Cached: true})
			samples.TotalSamples += e.cost.Read
			samples.PeakSamples = max(samples.PeakSamples, int(e.cost.Samples))
		}
	}
	for i := range p.tasks {
		t := &p.tasks[i]
		evaluated += stepsIn(t.steps, p.step)
		samples.TotalSamples += t.cost.Read
		samples.PeakSamples = max(samples.PeakSamples, int(t.cost.Samples))
	}
	timing.Of(ctx).Steps(kept, evaluated)
	p.f.metrics.steps.WithLabelValues("cache").Add(float64(kept))
	p.f.metrics.steps.WithLabelValues("evaluated").Add(float64(evaluated))
}

// piece is the answer for a range of steps.
type piece struct {
	steps  split.Range
	points promql.Matrix
}

// answer returns the pieces of a part in order.
func (part *part) answer() []piece {
	var out []piece
	if e := part.kept; e != nil {
		steps := intersect(e.steps, part.steps)
		out = append(out, piece{steps, split.Slice(e.points, steps.Start, steps.End)})
	}
	for _, t := range part.tasks {
		out = append(out, piece{t.steps, t.points})
	}
	sortPieces(out)
	return out
}

func sortPieces(list []piece) {
	slices.SortFunc(list, func(a, b piece) int { return cmp.Compare(a.steps.Start, b.steps.Start) })
}

func intersect(a, b split.Range) split.Range {
	return split.Range{Start: max(a.Start, b.Start), End: min(a.End, b.End)}
}

func empty(r split.Range) bool { return r.End < r.Start }

func stepsIn(r split.Range, step int64) int64 {
	if empty(r) {
		return 0
	}
	return (r.End-r.Start)/step + 1
}
