package frontend

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"golang.org/x/sync/errgroup"

	"github.com/palliumhq/pallium/backend/frontend/evaluation"
	"github.com/palliumhq/pallium/backend/frontend/shard"
	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/series"
)

const (
	// sampleInterval is a usual interval between two samples of a series.
	sampleInterval = 15 * time.Second
	// countedMillis is the range of times, up to the last step, whose series are counted: those
	// of a day are in one row of the index for each metric.
	countedMillis = 24 * 60 * 60 * 1000
)

// evaluateSteps evaluates some steps: by ranges of series at the same time if there are many. If
// that exceeds a limit or the rest of the expression has an error, everything is evaluated:
// whether a query succeeds, and with which error it fails, must not depend on shards.
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

// notSharded reports whether a shard could not be evaluated: by a process of an older version, or
// since series are equal without the labels that functions drop.
func notSharded(err error) bool {
	var unreadable promql.ErrStorage
	return errors.As(err, &unreadable) && errors.Is(unreadable.Err, evaluation.ErrNotSharded)
}

// selection is what the leaves of an expression select: the numbers of series, and some of these
// at equal distances, ascending; none if the series were not listed.
type selection struct {
	counts  []int64
	samples [][]labels.Labels
	at      time.Time
	// together is set if the series must be evaluated together until selectionAge; the other
	// fields but at are not set.
	together bool
}

const (
	// mostSamples is the maximum number of series that are remembered of a leaf.
	mostSamples = 16
	// mostSampleBytes is the maximum size of the series that are remembered of an expression, which
	// may have hundreds of leaves: the memory of all is not that of a query.
	mostSampleBytes = 32 << 10
	// selectionAge is how long the remembered series are used to choose ranges. Older ones may
	// have become an unequal division.
	selectionAge = 10 * time.Minute
)

// bytes returns the size of the series that s has.
func (s *selection) bytes() uint64 {
	n := uint64(0)
	for _, list := range s.samples {
		for _, ls := range list {
			n += ls.ByteSize()
		}
	}
	return n
}

// remember notes what the leaves of the expression select.
func (p *plan) remember(s *selection) {
	if len(p.q.text) <= longestNoted {
		p.f.selected.Put(notedKey{p.id, p.q.text}, s)
	}
}

// together reports whether it is known that the series must be evaluated together.
func (p *plan) together() bool {
	known, ok := p.f.selected.Get(notedKey{p.id, p.q.text})
	return ok && known.together && p.f.o.Now().Sub(known.at).Abs() <= selectionAge
}

// sampleOf returns at most n of a list, at equal distances, in a slice of its own.
func sampleOf(list []labels.Labels, n int) []labels.Labels {
	n = min(n, len(list))
	out := make([]labels.Labels, n)
	for i := range out {
		out[i] = list[len(list)*i/n]
	}
	return out
}

// shardsOf returns among how many evaluations this number of series of a leaf is divided.
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

// ranges returns the ranges of series of each leaf, or nil if the series are not divided. The
// answer does not depend on the ranges, so they may depend on what was seen before.
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

// divided reports whether the series of a leaf are to be divided.
func (p *plan) divided(s *selection, steps split.Range) bool {
	for i, leaf := range p.leaves {
		if p.shardsOf(leaf, s.counts[i], steps) > 1 {
			return true
		}
	}
	return false
}

// list lists the series that the leaves select, and remembers some. It returns nil if that
// failed: evaluating everything reports the error.
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
		s.samples = append(s.samples, sampleOf(all, max(mostSamples, p.f.o.MaxShards)))
	}
	kept := *s
	if s.bytes() > mostSampleBytes {
		kept.samples = nil // they are listed again
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

// evaluateShards evaluates some steps by ranges of the series of each leaf. After a failure, again
// is set if that was not of a shard: evaluating everything may have another result.
func (p *plan) evaluateShards(ctx context.Context, steps split.Range, ranges [][]series.LabelRange) (
	out *evaluated, again bool, failed *promql.Result,
) {
	held := memory.FromContext(ctx).Part() // for the answers of the shards
	defer held.Close()
	tasks, failed := p.execShards(memory.NewContext(ctx, held), steps, ranges)
	shares := false
	defer func() {
		if shares {
			return // they are closed with the query
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

// execShards evaluates all shards, some at the same time.
func (p *plan) execShards(ctx context.Context, steps split.Range, ranges [][]series.LabelRange) ([]*shardTask, *promql.Result) {
	var tasks []*shardTask
	for i, leaf := range p.leaves {
		for _, of := range leaf.Shards(ranges[i]) {
			tasks = append(tasks, &shardTask{leaf: i, of: of})
		}
	}
	p.f.metrics.shards.Add(float64(len(tasks)))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(p.f.o.MaxShards)
	var mu sync.Mutex
	var failed *promql.Result
	for _, t := range tasks {
		g.Go(func() error {
			var res *promql.Result
			if t.got, t.query, res = p.exec(ctx, steps, &t.of); res == nil {
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
	return tasks, failed
}

// collect returns the answers of the leaves, and adds to out what the shards have in common.
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
			out.cost.Samples += t.got.cost.Samples // the engine would hold those of all
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
