package frontend

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"

	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/shard"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/series"
)

const (
	// sampleInterval is the assumed interval between two samples of a series.
	sampleInterval = 15 * time.Second
	// countedMillis limits the range of times whose series are listed to choose the shards. The range
	// ends at the last sample time that the steps read.
	countedMillis = 24 * 60 * 60 * 1000
)

// evaluateSteps evaluates a range of steps. It divides expressions with much work into shards. If a
// shard cannot be evaluated alone, a limit is exceeded, or the rest of the expression has an error,
// it evaluates the steps again without shards: whether a query succeeds, and with which error it
// fails, must not depend on shards.
func (p *plan) evaluateSteps(ctx context.Context, steps split.Range) (*evaluated, *promql.Result) {
	if ranges := p.ranges(ctx, steps); ranges != nil {
		got, again, failed := p.evaluateShards(ctx, steps, ranges)
		switch {
		case failed == nil:
			return got, nil
		case notSharded(failed.Err):
			p.remember(&selection{together: true, at: p.f.o.Now()})
		case !again && !p.f.o.Evaluator.TooLarge(failed.Err):
			return nil, failed
		}
	}
	got, failed := p.evaluateWhole(ctx, steps)
	if failed == nil && len(p.leaves) > 0 && !p.together() {
		p.remember(&selection{counts: slices.Repeat([]int64{got.cost.Series}, len(p.leaves)), at: p.f.o.Now()})
	}
	return got, failed
}

// notSharded reports whether a shard could not be evaluated alone: a process of an older version
// ignored it, or its series have labels that functions drop (see shard.Inseparable).
func notSharded(err error) bool {
	var unreadable promql.ErrStorage
	return errors.As(err, &unreadable) && errors.Is(unreadable.Err, evaluation.ErrNotSharded)
}

// selection describes the series that the leaves of an expression select.
type selection struct {
	// counts has the number of series of each leaf. If the series were not listed, it has an upper
	// bound: the number of series of the selector that selected the most.
	counts []int64
	// samples has series of each leaf, ascending, at equal distances in the list of all. It is nil if
	// the series were not listed, or if these ones are larger than maxSampleBytes.
	samples [][]labels.Labels
	at      time.Time // when the series were listed or counted
	// together is set if the expression must not be divided until selectionAge has passed. If it is
	// set, only the field `at` is used in addition.
	together bool
}

const (
	// minSamples is the number of series of a leaf that are remembered, unless Options.MaxShards is
	// larger or the leaf has fewer.
	minSamples = 16
	// maxSampleBytes is the maximum size of the series that are remembered for an expression, which
	// may have hundreds of leaves. No query is charged for this memory.
	maxSampleBytes = 32 << 10
	// selectionAge is how long remembered series are used to choose ranges. With older ones, the
	// shards may be of unequal size.
	selectionAge = 10 * time.Minute
)

// bytes returns the size of the labels in samples.
func (s *selection) bytes() uint64 {
	n := uint64(0)
	for _, list := range s.samples {
		for _, ls := range list {
			n += ls.ByteSize()
		}
	}
	return n
}

// remember stores the selection of the expression, unless the expression is too long.
func (p *plan) remember(s *selection) {
	if len(p.q.text) <= longestNoted {
		p.f.selected.Put(notedKey{p.id, p.q.text}, s)
	}
}

// together reports whether a remembered selection says that the expression must not be divided.
func (p *plan) together() bool {
	known, ok := p.f.selected.Get(notedKey{p.id, p.q.text})
	return ok && known.together && p.f.o.Now().Sub(known.at).Abs() <= selectionAge
}

// sampleOf returns a new slice with at most n elements of a list, at equal distances.
func sampleOf(list []labels.Labels, n int) []labels.Labels {
	n = min(n, len(list))
	out := make([]labels.Labels, n)
	for i := range out {
		out[i] = list[len(list)*i/n]
	}
	return out
}

// shardsOf returns the number of shards for a leaf with count series. Less than two means that the
// leaf is not divided.
func (p *plan) shardsOf(leaf *shard.Leaf, count int64, steps split.Range) int {
	window, _ := p.shape.Reads(steps.Start, steps.End)
	read := time.Duration(min(window.To, maxTime)-max(window.After, -maxTime)) * time.Millisecond
	each := leaf.Work(stepsIn(steps, p.step), read, sampleInterval)
	return int(min(saturated(count, each)/p.f.o.ShardPoints, int64(p.f.o.MaxShards), count))
}

// saturated returns the product of two numbers, at most 1<<62.
func saturated(a, b int64) int64 {
	const most = int64(1) << 62
	if b > 0 && a > most/b {
		return most
	}
	return a * b
}

// ranges returns the ranges of series of each leaf, or nil if no leaf is divided. The answer is the
// same for any ranges, so a remembered selection need not be exact.
func (p *plan) ranges(ctx context.Context, steps split.Range) [][]series.LabelRange {
	if len(p.leaves) == 0 || p.f.o.MaxShards < 2 || p.together() {
		return nil
	}
	known, ok := p.f.selected.Get(notedKey{p.id, p.q.text})
	if ok && !known.together && !p.divided(known, steps) {
		return nil
	}
	if !ok || known.samples == nil || p.f.o.Now().Sub(known.at).Abs() > selectionAge {
		if known = p.list(ctx, steps); known == nil || known.together || !p.divided(known, steps) {
			return nil
		}
	}
	out := make([][]series.LabelRange, len(p.leaves))
	for i, leaf := range p.leaves {
		out[i] = series.LabelRanges(known.samples[i], p.shardsOf(leaf, known.counts[i], steps))
	}
	return out
}

// divided reports whether any leaf is divided.
func (p *plan) divided(s *selection, steps split.Range) bool {
	for i, leaf := range p.leaves {
		if p.shardsOf(leaf, s.counts[i], steps) > 1 {
			return true
		}
	}
	return false
}

// list lists the series that the leaves select, and remembers their number and some of them. If the
// expression must not be divided, list sets only the fields `together` and `at` of the selection. It
// returns nil after an error: the steps are then evaluated without shards.
func (p *plan) list(ctx context.Context, steps split.Range) *selection {
	held := memory.FromContext(ctx).Part()
	defer held.Close()
	ctx = memory.NewContext(ctx, held)
	window, _ := p.shape.Reads(steps.Start, steps.End)
	s := &selection{at: p.f.o.Now()}
	for _, leaf := range p.leaves {
		all, err := p.f.o.Evaluator.Series(ctx, p.q.storage, max(window.After+1, window.To-countedMillis), window.To, leaf.Matchers())
		if err != nil {
			return nil
		}
		if slices.ContainsFunc(all, shard.Inseparable) {
			s = &selection{together: true, at: s.at}
			break
		}
		s.counts = append(s.counts, int64(len(all)))
		s.samples = append(s.samples, sampleOf(all, max(minSamples, p.f.o.MaxShards)))
	}
	kept := *s
	if s.bytes() > maxSampleBytes {
		kept.samples = nil // the next evaluation lists the series again
	}
	p.remember(&kept)
	return s
}

// shardTask is a shard of a leaf and its answer.
type shardTask struct {
	leaf  int
	of    shard.Shard
	query promql.Query
	got   *evaluated
}

// evaluateShards evaluates a range of steps in shards, one for each range of series of each leaf.
// The result `again` is true if the answers of the shards could not be collected, or if the rest of the
// expression failed: without shards, the steps may succeed, or fail with another error.
func (p *plan) evaluateShards(ctx context.Context, steps split.Range, ranges [][]series.LabelRange) (
	out *evaluated, again bool, failed *promql.Result,
) {
	held := memory.FromContext(ctx).Part() // for the answers of the shards
	defer held.Close()
	tasks, failed := p.execShards(memory.NewContext(ctx, held), steps, ranges)
	shares := false
	defer func() {
		if shares {
			return // rangeQuery.Close closes the queries of the shards
		}
		for _, t := range tasks {
			if t.query != nil {
				p.q.close(t.query)
			}
		}
	}()
	if failed != nil {
		return nil, false, failed
	}
	out = &evaluated{storable: true}
	answers, err := p.collect(tasks, steps, held, out)
	if err != nil {
		return nil, true, &promql.Result{Err: err}
	}
	if err := p.f.o.Evaluator.CheckCost(ctx, out.cost.Series, out.cost.Samples); err != nil {
		return nil, false, &promql.Result{Err: err}
	}
	if m, ok := shard.Whole(answers); ok {
		if err := p.f.o.Evaluator.Charge(ctx, m); err != nil {
			return nil, false, &promql.Result{Err: err}
		}
		out.points = m
	} else if failed = p.evaluateRoot(ctx, steps, answers, out); failed != nil {
		return nil, true, failed
	}
	shares = slices.ContainsFunc(answers, func(a shard.Answer) bool { return a.Shares() })
	return out, false, nil
}

// evaluateRoot evaluates an expression with the answers of its leaves, and adds the answer to out.
func (p *plan) evaluateRoot(ctx context.Context, steps split.Range, answers []shard.Answer, out *evaluated) *promql.Result {
	root, err := p.f.o.Evaluator.NewRootQuery(ctx, p.q.text, p.q.times, steps, answers)
	if err != nil {
		return &promql.Result{Err: err}
	}
	got, failed := p.execQuery(ctx, root)
	if failed != nil {
		p.q.close(root)
		return failed
	}
	out.points = got.points
	out.warnings.Merge(got.warnings)
	return nil
}

// execShards evaluates all shards, at most Options.MaxShards concurrently.
func (p *plan) execShards(ctx context.Context, steps split.Range, ranges [][]series.LabelRange) ([]*shardTask, *promql.Result) {
	var tasks []*shardTask
	for i, leaf := range p.leaves {
		for _, of := range leaf.Shards(ranges[i]) {
			tasks = append(tasks, &shardTask{leaf: i, of: of})
		}
	}
	p.f.metrics.shards.Add(float64(len(tasks)))
	failed := concurrently(ctx, p.f.o.MaxShards, tasks, func(ctx context.Context, t *shardTask) (res *promql.Result) {
		t.got, t.query, res = p.exec(ctx, steps, &t.of)
		return res
	})
	return tasks, failed
}

// collect joins the answers of the shards into one answer for each leaf. It adds the costs of the
// shards to out, and merges their readers, warnings and storable flags into it.
func (p *plan) collect(tasks []*shardTask, steps split.Range, held *memory.Holding, out *evaluated) ([]shard.Answer, error) {
	at := shard.Steps{Start: steps.Start, Step: p.step, N: int(stepsIn(steps, p.step))}
	answers := make([]shard.Answer, 0, len(p.leaves))
	for i, leaf := range p.leaves {
		var pieces []promql.Matrix
		selected := int64(0)
		for _, t := range tasks {
			if t.leaf != i {
				continue
			}
			pieces = append(pieces, t.got.points)
			selected += t.got.cost.Series
			out.cost.Samples += t.got.cost.Samples // as if one engine had all of them in memory
			out.cost.Read += t.got.cost.Read
			out.readers = out.readers.And(t.got.readers)
			out.storable = out.storable && t.got.storable
			out.warnings.Merge(t.got.warnings)
		}
		out.cost.Series = max(out.cost.Series, selected)
		answer, err := leaf.Collect(pieces, at, held.Take)
		if err != nil {
			return nil, err
		}
		answers = append(answers, answer)
	}
	return answers, nil
}
