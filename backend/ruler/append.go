package ruler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/backend/series"
)

// pushFor is the time for which a push with an unknown outcome is repeated, but not longer than
// the interval of the group. A repetition writes the same samples, because they have the timestamps
// of the slot.
const pushFor = 15 * time.Second

// appendable implements storage.AppendableV2 for one group.
type appendable struct{ g *group }

// AppenderV2 implements storage.AppendableV2.
func (a appendable) AppenderV2(ctx context.Context) storage.AppenderV2 {
	e := a.g.eval
	rule := e.writing()
	return &appender{push: func(list []series.Entry) error { return e.push(ctx, rule, list) }}
}

// appender collects the samples of one rule.
type appender struct {
	push    func([]series.Entry) error
	entries []series.Entry
}

// Append implements storage.AppenderV2.
func (a *appender) Append(_ storage.SeriesRef, ls labels.Labels, _, t int64, v float64, h *histogram.Histogram,
	fh *histogram.FloatHistogram, _ storage.AOptions) (storage.SeriesRef, error) {
	a.entries = append(a.entries, series.Entry{Labels: ls, Hash: ls.Hash(), Samples: []series.Sample{{T: t, V: v, H: h, FH: fh}}})
	return 0, nil
}

// Commit implements storage.AppenderV2: it pushes the samples.
func (a *appender) Commit() error {
	if len(a.entries) == 0 {
		return nil
	}
	return a.push(a.entries)
}

// Rollback implements storage.AppenderV2.
func (a *appender) Rollback() error {
	a.entries = nil
	return nil
}

// push writes the samples of a rule under the lease of the share. As in Prometheus, if samples are rejected, that is the error of
// the rule, but the evaluation counts as successful: series that ended get staleness markers. rule is nil for the staleness
// markers of removed rules, whose rejection is ignored.
func (e *evaluation) push(ctx context.Context, rule rules.Rule, list []series.Entry) error {
	if e.repeat {
		return nil
	}
	g := e.group
	if g.ghost() {
		var err error
		if list, err = e.ended(ctx, list); err != nil || len(list) == 0 {
			return err
		}
	}
	out, err := e.pushAgain(ctx, list)
	if err != nil {
		return e.blame(ctx, fmt.Errorf("write the results: %w", err))
	}
	if len(out.Rejections) > 0 && rule != nil {
		rule.SetHealth(rules.HealthBad)
		rule.SetLastError(errors.New(out.String()))
	}
	return nil
}

// pushAgain repeats a push until its outcome is known, or until the evaluation is canceled because its share was lost.
func (e *evaluation) pushAgain(ctx context.Context, list []series.Entry) (series.Outcome, error) {
	end := e.opts.Running() + min(pushFor, e.group.interval)
	for wait := 250 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		out, err := e.pushOnce(ctx, append([]series.Entry(nil), list...))
		if err == nil || !e.passes(err) || e.opts.Running()+wait > end {
			return out, err
		}
		select {
		case <-ctx.Done():
			return out, err
		case <-time.After(wait):
		}
	}
}

// passes reports whether a push may succeed later although it failed with an error.
func (e *evaluation) passes(err error) bool {
	if errors.Is(err, errLapsed) {
		return true
	}
	return !errors.Is(err, series.ErrFenced) && !errors.Is(err, errLease) && !e.opts.UserError(err)
}

func (e *evaluation) pushOnce(ctx context.Context, list []series.Entry) (series.Outcome, error) {
	g := e.group
	number, deadline, ok := e.opts.Shares.Lease(g.share)
	if err := ctx.Err(); err != nil { // the evaluation was canceled, and may have been abandoned
		return series.Outcome{}, err
	}
	if !ok {
		return series.Outcome{}, errLapsed
	}
	if number != g.number {
		return series.Outcome{}, errLease
	}
	ctx, cancel := context.WithTimeout(ctx, deadline-e.opts.Running())
	defer cancel()
	return e.opts.Push(ctx, &series.Batch{Tenant: g.tenant.id, Limits: e.opts.Limits(g.tenant.id), Entries: list,
		Fence: &series.Fence{Share: g.share, Number: number}})
}

// maxMarkTries is the maximum number of attempts to write the staleness markers of a deleted group.
const maxMarkTries = 3

// markStale writes the staleness markers of a deleted group. It returns the time after which it must
// be called again, or 0.
func (r *Ruler) markStale(ctx context.Context, g *group) time.Duration {
	g.rules.Eval(ctx, g.deleted)
	if g.tries++; g.eval.failed == nil || g.tries >= maxMarkTries {
		return 0
	}
	return g.interval
}

// ended returns the entries whose series have no sample after the deletion of the group. The other
// series are now written by another group, and get no marker: it would interrupt them.
func (e *evaluation) ended(ctx context.Context, list []series.Entry) ([]series.Entry, error) {
	g := e.group
	q, err := e.opts.Select(g.tenant.id).Querier(g.deleted.UnixMilli()+1, e.opts.Now().UnixMilli())
	if err != nil {
		return nil, e.blame(ctx, err)
	}
	defer func() { _ = q.Close() }()
	later := map[string]map[string]bool{} // by metric name
	out := list[:0:0]
	for i := range list {
		name := list[i].Labels.Get(model.MetricNameLabel)
		if later[name] == nil {
			if later[name], err = continued(ctx, q, name, g.deleted.UnixMilli()); err != nil {
				return nil, e.blame(ctx, err)
			}
		}
		if !later[name][list[i].Labels.String()] {
			out = append(out, list[i])
		}
	}
	return out, nil
}

// continued returns the series of a metric that have samples after a time in milliseconds. A storage may return
// samples outside of the range of the querier.
func continued(ctx context.Context, q storage.Querier, name string, after int64) (map[string]bool, error) {
	m, err := labels.NewMatcher(labels.MatchEqual, model.MetricNameLabel, name)
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	set := q.Select(ctx, false, nil, m)
	var it chunkenc.Iterator
	for set.Next() {
		s := set.At()
		it = s.Iterator(it)
		for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
			if it.AtT() <= after {
				continue
			}
			if kind == chunkenc.ValFloat {
				if _, v := it.At(); value.IsStaleNaN(v) {
					continue
				}
			}
			out[s.Labels().String()] = true
			break
		}
		if err := it.Err(); err != nil {
			return nil, err
		}
	}
	return out, set.Err()
}
