// Package backfill evaluates recording rules for times in the past, as if they had existed then.
package backfill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/promql"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// Options configure a Backfill.
type Options struct {
	// Range evaluates a range query of a tenant, or an instant query if start and end are equal. If
	// Tenant returns true for its error, the tenant caused the error, and a repetition would fail again.
	Range func(ctx context.Context, id tenant.ID, expr string, start, end time.Time, step time.Duration) (promql.Matrix, error)
	// Tenant reports whether the tenant caused an error of Range or Push.
	Tenant func(error) bool
	// Push writes samples of a group. Rejected samples are an error.
	Push func(ctx context.Context, g *Group, entries []series.Entry) error
}

// Group is a group to be evaluated at the slots from First to Last.
type Group struct {
	Tenant      tenant.ID
	Namespace   string
	Name        string
	Rules       []rulefmt.Rule // alerting rules are ignored
	Labels      map[string]string
	Limit       int // maximum number of series of one evaluation of a rule; 0 means unlimited
	Interval    time.Duration
	Offset      time.Duration // time before the slot at which a rule is evaluated
	First, Last time.Time
}

// Report contains counts for the slots of one block.
type Report struct {
	Samples int64 // samples written, including staleness markers
	Failed  int   // evaluations of rules that failed, as they would have failed at that time
	Err     error // error of the last failed evaluation
}

// Backfill evaluates groups. It is safe for concurrent use.
type Backfill struct{ o Options }

// New returns a Backfill.
func New(o Options) *Backfill { return &Backfill{o} }

// Sizes of a block. Each rule is evaluated with one query, unless the slots are evaluated one after the other.
const (
	blockSteps  = 1000
	blockTime   = 6 * time.Hour
	singleSteps = 200 // maximum number of slots in the latter case; see slotBySlot
)

// maxFailed is the maximum number of evaluations of all rules that may fail in one block. With more
// failures, the backfill fails.
const maxFailed = 100

// ErrFails is wrapped by the error of a block in which more than maxFailed evaluations fail.
var ErrFails = errors.New("too many evaluations fail")

// Block evaluates the next slots of a group, starting at g.First. It evaluates the rules in their
// order, so that a rule can use the samples of earlier rules. It returns the last slot of the block;
// the caller continues with the next slot. Block may be repeated after an error: it writes the same
// samples, unless a rule reads what it or a later rule recorded at the same slot. `after` is false if
// g.First is the first slot of the backfill. Otherwise, a series whose last sample is in the slot
// before g.First gets a staleness marker.
func (b *Backfill) Block(ctx context.Context, g *Group, after bool) (last time.Time, r Report, err error) {
	steps := blockSteps
	single := slotBySlot(g.Rules)
	if single {
		steps = singleSteps
	}
	n := max(1, min(steps, int(blockTime/g.Interval)))
	last = g.First.Add(time.Duration(n-1) * g.Interval)
	if last.After(g.Last) {
		last = g.First.Add(g.Last.Sub(g.First) / g.Interval * g.Interval)
	}
	var list []*evaluation
	for i := range g.Rules {
		if g.Rules[i].Record == "" {
			continue
		}
		e := &evaluation{Backfill: b, Group: g, rule: &g.Rules[i], report: &r}
		if after {
			if err := e.begin(ctx); err != nil {
				return last, r, fmt.Errorf("rule %q: %w", e.rule.Record, err)
			}
		}
		list = append(list, e)
	}
	for from := g.First; !from.After(last); {
		to := last
		if single {
			to = from
		}
		for _, e := range list {
			if err := e.run(ctx, from, to); err != nil {
				return last, r, fmt.Errorf("rule %q: %w", e.rule.Record, err)
			}
		}
		from = to.Add(g.Interval)
	}
	return last, r, nil
}

// evaluation evaluates one rule in a block.
type evaluation struct {
	*Backfill
	*Group
	rule   *rulefmt.Rule
	report *Report
	// previous contains the series of the last successful evaluation.
	previous []recorded
}

// begin determines the series of the slot before the block. If the rule fails at that slot, its series are unknown: those
// that end at the first slot of the block get no staleness markers.
func (e *evaluation) begin(ctx context.Context) error {
	before := e.First.Add(-e.Interval)
	_, last, err := e.evaluate(ctx, before, before)
	if err != nil && !e.ruleFails(err) {
		return err
	}
	e.previous = last
	return nil
}

// run evaluates the rule at the slots from `first` to `last`. If that fails, it divides the range, to find the slots at which
// the rule fails.
func (e *evaluation) run(ctx context.Context, first, last time.Time) error {
	out, series, err := e.evaluate(ctx, first, last)
	switch {
	case err == nil:
		e.previous = series
		return e.write(ctx, out)
	case !e.ruleFails(err):
		return err
	case first.Equal(last):
		e.report.Failed++
		e.report.Err = err
		if e.report.Failed > maxFailed {
			return fmt.Errorf("%w: %w", ErrFails, err)
		}
		return nil
	}
	half := first.Add(last.Sub(first) / e.Interval / 2 * e.Interval)
	if err := e.run(ctx, first, half); err != nil {
		return err
	}
	return e.run(ctx, half.Add(e.Interval), last)
}

// ruleFails reports whether the rule caused an error, so that an evaluation of fewer slots may succeed.
func (e *evaluation) ruleFails(err error) bool {
	var limit *LimitError
	var duplicate *DuplicateError
	return errors.As(err, &limit) || errors.As(err, &duplicate) || e.o.Tenant(err)
}

// evaluate returns the samples of the rule at the slots from `first` to `last`, including the staleness markers of series that
// end in this range, and the series of the last slot.
func (e *evaluation) evaluate(ctx context.Context, first, last time.Time) (out []series.Entry, ends []recorded, err error) {
	m, err := e.o.Range(ctx, e.Tenant, e.rule.Expr, first.Add(-e.Offset), last.Add(-e.Offset), e.Interval)
	if err != nil {
		return nil, nil, err
	}
	from, to, step := first.Add(-e.Offset).UnixMilli(), last.Add(-e.Offset).UnixMilli(), e.Interval.Milliseconds()
	if err := e.checkLimit(m, from, step, int((to-from)/step)+1); err != nil {
		return nil, nil, err
	}
	all := newRecords()
	lb := labels.NewBuilder(labels.EmptyLabels())
	for i := range m {
		all.of(e.labels(lb, m[i].Metric)).add(&m[i])
	}
	for i := range e.previous {
		if r := all.of(e.previous[i].labels); len(r.samples) == 0 || r.first() > from {
			r.samples = append(r.samples, series.Sample{T: from, V: math.Float64frombits(value.StaleNaN)})
		}
	}
	for _, r := range all.list {
		entry, ended, err := r.entry(to, step)
		if err != nil {
			return nil, nil, err
		}
		out = append(out, entry)
		if !ended {
			ends = append(ends, recorded{labels: r.labels})
		}
	}
	return out, ends, nil
}

// records contains the recorded series of a result, by their labels.
type records struct {
	list []*recorded
	at   map[string]*recorded
}

func newRecords() *records { return &records{at: map[string]*recorded{}} }

func (r *records) of(ls labels.Labels) *recorded {
	key := string(ls.Bytes(nil))
	one := r.at[key]
	if one == nil {
		one = &recorded{labels: ls}
		r.at[key] = one
		r.list = append(r.list, one)
	}
	return one
}

// checkLimit returns an error if more series than the limit have a sample at one slot.
func (e *evaluation) checkLimit(m promql.Matrix, from, step int64, slots int) error {
	if e.Limit <= 0 || len(m) <= e.Limit {
		return nil
	}
	count := make([]int, slots)
	note := func(t int64) {
		if i := int((t - from) / step); t >= from && i < slots {
			count[i]++
		}
	}
	for i := range m {
		for _, p := range m[i].Floats {
			note(p.T)
		}
		for _, p := range m[i].Histograms {
			note(p.T)
		}
	}
	for _, n := range count {
		if n > e.Limit {
			return &LimitError{Limit: e.Limit, Series: n}
		}
	}
	return nil
}

// LimitError is the error of an evaluation that returns more series than the limit of the group, or max_rule_results, allows.
type LimitError struct{ Limit, Series int }

// Error implements error.
func (e *LimitError) Error() string {
	return fmt.Sprintf("the evaluation returned %d series; the limit of the group, or max_rule_results, is %d", e.Series, e.Limit)
}

// DuplicateError is the error of an evaluation with two series that are equal after the labels of the rule were applied.
type DuplicateError struct{ Labels labels.Labels }

// Error implements error.
func (e *DuplicateError) Error() string {
	return fmt.Sprintf("the evaluation returned two series that have the labels %s after the labels of the rule were applied", e.Labels)
}

// labels returns the labels of a recorded series.
func (e *evaluation) labels(lb *labels.Builder, of labels.Labels) labels.Labels {
	lb.Reset(of)
	lb.Set(model.MetricNameLabel, e.rule.Record)
	for n, v := range e.Labels {
		lb.Set(n, v)
	}
	for n, v := range e.rule.Labels {
		lb.Set(n, v)
	}
	return lb.Labels()
}

// recorded contains the samples of a recorded series. They come from all series of the result that have its labels.
type recorded struct {
	labels  labels.Labels
	samples []series.Sample
}

func (r *recorded) add(s *promql.Series) {
	for _, p := range s.Floats {
		r.samples = append(r.samples, series.Sample{T: p.T, V: p.F})
	}
	for _, p := range s.Histograms {
		r.samples = append(r.samples, series.Sample{T: p.T, FH: p.H})
	}
}

// first returns the time of the first sample.
func (r *recorded) first() int64 {
	return slices.MinFunc(r.samples, func(a, b series.Sample) int { return cmp.Compare(a.T, b.T) }).T
}

// entry returns the samples up to the slot `to`. If a sample is not followed by one at the next slot, a staleness marker
// follows. `ended` is true if there is no sample at the slot `to`.
func (r *recorded) entry(to, step int64) (e series.Entry, ended bool, err error) {
	slices.SortStableFunc(r.samples, func(a, b series.Sample) int { return cmp.Compare(a.T, b.T) })
	e = series.Entry{Labels: r.labels, Hash: r.labels.Hash()}
	for i, s := range r.samples {
		next := int64(math.MaxInt64)
		if i+1 < len(r.samples) {
			next = r.samples[i+1].T
		}
		if next == s.T {
			return e, false, &DuplicateError{r.labels}
		}
		e.Samples = append(e.Samples, s)
		stale := !s.IsHistogram() && value.IsStaleNaN(s.V)
		if t := s.T + step; next > t && t <= to && !stale {
			e.Samples = append(e.Samples, series.Sample{T: t, V: math.Float64frombits(value.StaleNaN)})
		}
		ended = stale || s.T < to
	}
	return e, ended, nil
}

// pushSamples is the approximate number of samples in one write.
const pushSamples = 10_000

// write writes entries, in several batches if they are large.
func (e *evaluation) write(ctx context.Context, entries []series.Entry) error {
	for len(entries) > 0 {
		n, samples := 0, 0
		for n < len(entries) && (n == 0 || samples < pushSamples) {
			samples += len(entries[n].Samples)
			n++
		}
		if samples > 0 {
			if err := e.o.Push(ctx, e.Group, entries[:n:n]); err != nil {
				return fmt.Errorf("write the samples: %w", err)
			}
			e.report.Samples += int64(samples)
		}
		entries = entries[n:]
	}
	return nil
}

// MatrixOf returns the result of an instant query as that of a range query.
func MatrixOf(v promql.Vector) promql.Matrix {
	out := make(promql.Matrix, len(v))
	for i, s := range v {
		out[i].Metric = s.Metric
		if s.H != nil {
			out[i].Histograms = []promql.HPoint{{T: s.T, H: s.H}}
			continue
		}
		out[i].Floats = []promql.FPoint{{T: s.T, F: s.F}}
	}
	return out
}
