package frontend

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/prometheus/prometheus/promql"

	"github.com/palliumhq/pallium/backend/frontend/split"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/timing"
)

// lookUp reads the parts that are in the cache, and adds tasks for all other steps.
func (p *plan) lookUp(ctx context.Context) {
	defer timing.Of(ctx).Measure(timing.Cache)()
	if p.cached = p.cached && p.readVersions(ctx); p.cached {
		var keys []string
		for i := range p.parts {
			if !empty(p.parts[i].keepable) {
				keys = append(keys, p.parts[i].key)
			}
		}
		found := map[string][]byte{}
		if len(keys) > 0 {
			found = p.f.o.Cache.Get(ctx, p.id, keys)
		}
		for i := range p.parts {
			part := &p.parts[i]
			if value, ok := found[part.key]; ok && !empty(part.keepable) {
				part.kept = p.usable(ctx, part, value)
			}
		}
	}
	for i := range p.parts {
		p.addTasks(&p.parts[i])
	}
	for i := range p.tasks { // only now, because append may have moved the tasks
		t := &p.tasks[i]
		t.part.tasks = append(t.part.tasks, t)
	}
	p.setRuns()
}

// readVersions reads the current versions, and sets which steps may be cached. It returns false if
// the cache cannot be used.
func (p *plan) readVersions(ctx context.Context) bool {
	now := p.f.o.Now()
	first := p.parts[0]
	if w, _ := p.shape.Reads(first.steps.Start, first.steps.Start); w.To >= now.Add(-p.f.o.Settle).UnixMilli() {
		return false
	}
	oldest := int64(math.MinInt64)
	keep, err := p.f.o.Evaluator.Retention(ctx)
	if err != nil {
		return false
	}
	if keep > 0 {
		oldest = now.Add(retentionMargin - keep).UnixMilli()
	}
	if p.versions, err = p.f.o.Versions(ctx, p.id, p.mint(), p.maxt()); err != nil {
		// Not an error: the query fails only if its own reads fail.
		p.f.metrics.notKept.WithLabelValues("versions_unavailable").Inc()
		return false
	}
	bound, recent := p.versions.Bounds()
	p.bound = bound
	p.setKeepable(recent, oldest)
	return true
}

// mint and maxt return the range of the samples on which any part depends.
func (p *plan) mint() int64 {
	mint, _ := p.window(&p.parts[0])
	return mint
}

func (p *plan) maxt() int64 {
	_, maxt := p.window(&p.parts[len(p.parts)-1])
	return maxt
}

// usable decodes an entry. It returns nil if the entry cannot be used for the part, for example
// because its data has changed.
func (p *plan) usable(ctx context.Context, part *part, value []byte) *entry {
	e, err := p.decode(ctx, part, value)
	var reason string
	switch {
	case errors.Is(err, errEntry):
		reason = "damaged"
	case err != nil:
		reason = "memory"
	case p.f.o.Now().Sub(e.stored).Abs() > maxAge:
		reason = "old"
	case p.f.o.Evaluator.CheckCost(ctx, e.cost.Series, e.cost.Samples) != nil:
		reason = "limits" // evaluating only the steps that the query needs may succeed
	case !p.current(part, e):
		reason = "changed"
	case empty(intersect(e.steps, part.keepable)):
		reason = "other_steps"
	case len(e.notes) > 0 && (e.steps.Start < part.steps.Start || e.steps.End > part.steps.End):
		reason = "annotations" // the steps to which they belong are unknown
	case !p.shape.Splittable && e.steps != part.steps:
		reason = "other_steps"
	default:
		return e
	}
	p.f.metrics.unusable.WithLabelValues(reason).Inc()
	return nil
}

// maxAge is the maximum age of an entry. It is shorter than the time after which an expired day can
// no longer be distinguished from a day without samples.
const maxAge = 24 * time.Hour

// decode reserves memory for an entry and decodes it. An entry for which there is no memory is not used.
func (p *plan) decode(ctx context.Context, part *part, value []byte) (*entry, error) {
	if err := p.f.o.Evaluator.Take(ctx, decodedBytes(value)); err != nil {
		return nil, err
	}
	return decodeEntry(part.key, value, p.step)
}

// current reports whether the samples on which an entry depends are unchanged.
func (p *plan) current(part *part, e *entry) bool {
	now := p.storeVersion(&p.versions, part)
	return now.Equal(&e.store) && p.versions.Confirms(e.ingesters, e.recent)
}

// storeVersion returns the version of the days on which a part depends.
func (p *plan) storeVersion(v *series.Versions, part *part) series.StoreVersion {
	mint, maxt := p.window(part)
	mint, maxt = min(max(mint, -maxTime), maxTime), min(max(maxt, -maxTime), maxTime)
	return v.Store.Within(series.Day(mint), series.Day(maxt))
}

// addTasks adds tasks for the steps of a part that are not in the cache. Steps that may be cached
// and steps that may not are in separate tasks, because the annotations of a task belong to all of
// its steps.
func (p *plan) addTasks(part *part) {
	add := func(from, to int64) {
		if from <= to {
			p.tasks = append(p.tasks, task{part: part, steps: split.Range{Start: from, End: to}})
		}
	}
	from := part.steps.Start
	if e := part.kept; e != nil {
		add(from, e.steps.Start-p.step)
		from = max(from, e.steps.End+p.step)
	}
	if !empty(part.keepable) && part.keepable.End >= from {
		add(from, part.keepable.End)
		from = part.keepable.End + p.step
	}
	add(from, part.steps.End)
}

// keepTimeout is the maximum time for which a query delays its answer in order to cache it.
const keepTimeout = time.Second

// keep stores the evaluated answers in the cache, unless their data changed in the meantime or it is
// unknown whether it did.
func (p *plan) keep(ctx context.Context) {
	if !p.cached {
		return
	}
	var list []*entry
	var of []*part
	for i := range p.parts {
		if e := p.grown(&p.parts[i]); e != nil {
			list, of = append(list, e), append(of, &p.parts[i])
		}
	}
	if len(list) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, keepTimeout) // the answer is ready
	defer cancel()
	after, err := p.f.o.Versions(ctx, p.id, p.mint(), p.maxt())
	if err != nil {
		p.f.metrics.notKept.WithLabelValues("versions_unavailable").Add(float64(len(list)))
		return
	}
	for i, e := range list {
		then := p.readers(of[i])
		e.recent = p.lastSample(e.steps.End) >= p.bound
		if !p.versions.Confirms(then, e.recent) {
			p.f.metrics.notKept.WithLabelValues("readers").Inc()
			continue
		}
		before, now := p.storeVersion(&p.versions, of[i]), p.storeVersion(&after, of[i])
		if !after.Confirms(then, e.recent) || !now.Equal(&before) {
			p.f.metrics.notKept.WithLabelValues("changed").Inc()
			continue
		}
		e.key, e.ingesters, e.store, e.stored = of[i].key, then, before, p.f.o.Now()
		p.f.o.Cache.Put(ctx, p.id, e.key, e.encode(p.step))
	}
}

// readers returns the versions of the ingesters whose samples are in all steps of a part's answer,
// cached and evaluated.
func (p *plan) readers(part *part) []series.IngesterVersion {
	out := p.versions.Ingesters
	if part.kept != nil {
		out = series.Both(out, part.kept.ingesters, part.kept.recent)
	}
	for _, t := range part.tasks {
		if t.readers.Any {
			out = series.Both(out, p.versions.Of(t.readers.IDs), true)
		}
	}
	return out
}

// grown returns the cached entry of a part extended by the evaluated steps, or nil if there is
// nothing to store.
func (p *plan) grown(part *part) *entry {
	e := &entry{}
	var pieces []piece
	if part.kept != nil {
		e.notes, e.cost = slices.Clone(part.kept.notes), part.kept.cost
		pieces = append(pieces, piece{part.kept.steps, part.kept.points})
	}
	// An entry that no longer depends on recent samples is stored again without that mark, so that
	// new samples do not make it unusable.
	fresh := part.kept != nil && part.kept.recent && p.lastSample(part.kept.steps.End) < p.bound
	for _, t := range part.tasks {
		if empty(part.keepable) || t.steps.End > part.keepable.End {
			continue
		}
		if !t.storable {
			p.f.metrics.notKept.WithLabelValues("annotations").Inc()
			return nil
		}
		fresh = true
		for _, n := range t.notes {
			if !slices.Contains(e.notes, n) {
				e.notes = append(e.notes, n)
			}
		}
		e.cost = e.cost.And(t.cost)
		pieces = append(pieces, piece{t.steps, t.points})
	}
	if !fresh {
		return nil
	}
	sortPieces(pieces)
	var all []promql.Matrix
	for _, one := range pieces {
		all = append(all, one.points)
	}
	var err error
	if e.points, err = split.Merge(all); err != nil {
		return nil
	}
	e.steps = split.Range{Start: pieces[0].steps.Start, End: pieces[len(pieces)-1].steps.End}
	return e
}
