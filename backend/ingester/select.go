package ingester

import (
	"context"
	"errors"
	"fmt"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/series"
)

// Select returns the matching series that may have samples in the range, and their
// chunks that may overlap it, from the head, the files of series set aside and the
// local packs. It also returns the IDs of the local packs that were read: all that
// have samples of the tenant in the range.
func (ing *Ingester) Select(ctx context.Context, req series.Request) (*series.Selection, []ulid.ULID, error) {
	if err := ing.losses.check(req.Tenant, req.MinTime, req.MaxTime); err != nil {
		return nil, nil, err
	}
	deleted, err := ing.deletions.of(req.Tenant)
	if err != nil {
		return nil, nil, err
	}
	sel := &series.Selection{}
	j := series.NewJoiner(req.MaxSeries, memory.FromContext(ctx))
	// A seal moves samples from the head to packs and to the files of series set
	// aside. Read the head first, the packs last: samples that move during the read
	// may then be read twice, which is harmless, but are never missed.
	if err := ing.selectHead(ctx, req, j); err != nil {
		return nil, nil, err
	}
	err = ing.selectAside(ctx, req, deleted, func(ls labels.Labels, chunks []series.Chunk) error { return j.Add(ls, ls.Hash(), chunks) })
	if err != nil {
		return nil, nil, err
	}
	readers := ing.packs.retain(req.Tenant, req.MinTime, req.MaxTime)
	served := make([]ulid.ULID, 0, len(readers))
	for _, r := range readers {
		sel.Hold(func() { _ = r.Release() })
		served = append(served, r.Info().ID)
	}
	for _, r := range readers {
		if err := selectPack(ctx, r, req, deleted, j); err != nil {
			sel.Release()
			return nil, nil, err
		}
	}
	sel.Series = j.Series()
	return sel, served, nil
}

func (ing *Ingester) selectHead(ctx context.Context, req series.Request, j *series.Joiner) error {
	th := ing.head(req.Tenant, false)
	if th == nil || th.minTime.Load() > req.MaxTime || th.maxTime.Load() < req.MinTime {
		return nil
	}
	found, err := th.match(ctx, req.Matchers)
	if err != nil {
		return err
	}
	for _, s := range found {
		if !req.Range.Contains(s.labels) {
			continue
		}
		if req.LabelsOnly {
			if s.hasData(req.MinTime, req.MaxTime) {
				err = j.Add(s.labels, s.hash, nil)
			}
		} else {
			var chunks []series.Chunk
			chunks, err = s.chunks(req.MinTime, req.MaxTime, nil)
			if err == nil && len(chunks) > 0 {
				err = j.Add(s.labels, s.hash, chunks)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func selectPack(ctx context.Context, r *pack.Reader, req series.Request, deleted *tenantDeletions, j *series.Joiner) error {
	found, err := r.Select(ctx, req.Tenant, req.MinTime, req.MaxTime, req.Matchers...)
	if err != nil {
		return fmt.Errorf("pack %s: %w", r.Info().ID, err)
	}
	number := numberOf(r.Info(), req.Tenant)
	deletions := deleted.any(number)
	for i := range found {
		if err := ctx.Err(); err != nil {
			return err
		}
		s := &found[i]
		if !req.Range.Contains(s.Labels) {
			continue
		}
		var gone []series.Interval
		if deletions {
			if gone = deleted.after(number, s.Labels); !spanLeft(s.Chunks, gone) {
				continue
			}
		}
		if req.LabelsOnly {
			if err := j.Add(s.Labels, s.Labels.Hash(), nil); err != nil {
				return err
			}
			continue
		}
		chunks := make([]series.Chunk, 0, len(s.Chunks))
		for _, ref := range s.Chunks {
			c, err := r.Chunk(ref)
			if err != nil {
				return fmt.Errorf("pack %s: %w", r.Info().ID, err)
			}
			chunks = append(chunks, c)
		}
		if chunks, err = series.Without(chunks, gone); err != nil {
			return fmt.Errorf("pack %s: %w", r.Info().ID, err)
		}
		if len(chunks) == 0 {
			continue
		}
		if err := j.Add(s.Labels, s.Labels.Hash(), chunks); err != nil {
			return err
		}
	}
	return nil
}

// LabelNames returns the sorted label names of the matching series with samples in
// the range, and the IDs of the local packs that were read.
func (ing *Ingester) LabelNames(ctx context.Context, req series.Request) ([]string, []ulid.ULID, error) {
	if err := ing.losses.check(req.Tenant, req.MinTime, req.MaxTime); err != nil {
		return nil, nil, err
	}
	deleted, err := ing.deletions.of(req.Tenant)
	if err != nil {
		return nil, nil, err
	}
	names := memory.NewSet(memory.FromContext(ctx))
	err = ing.eachUnpacked(ctx, req, deleted, func(ls labels.Labels) {
		ls.Range(func(l labels.Label) { names.Add(l.Name) })
	})
	if err != nil {
		return nil, nil, err
	}
	served, err := ing.eachPack(req, func(r *pack.Reader) error {
		if deleted.any(numberOf(r.Info(), req.Tenant)) {
			return packLabels(ctx, r, req, deleted, func(ls labels.Labels) {
				ls.Range(func(l labels.Label) { names.Add(l.Name) })
			})
		}
		more, err := r.LabelNames(ctx, req.Tenant, req.MinTime, req.MaxTime, req.Matchers...)
		for _, n := range more {
			names.Add(n)
		}
		return errors.Join(err, names.Err())
	})
	if err != nil {
		return nil, nil, err
	}
	out, err := names.Sorted()
	return out, served, err
}

// LabelValues returns the sorted values of a label of the matching series with
// samples in the range, and the IDs of the local packs that were read.
func (ing *Ingester) LabelValues(ctx context.Context, name string, req series.Request) ([]string, []ulid.ULID, error) {
	if err := ing.losses.check(req.Tenant, req.MinTime, req.MaxTime); err != nil {
		return nil, nil, err
	}
	deleted, err := ing.deletions.of(req.Tenant)
	if err != nil {
		return nil, nil, err
	}
	values := memory.NewSet(memory.FromContext(ctx))
	err = ing.eachUnpacked(ctx, req, deleted, func(ls labels.Labels) {
		if v := ls.Get(name); v != "" {
			values.Add(v)
		}
	})
	if err != nil {
		return nil, nil, err
	}
	served, err := ing.eachPack(req, func(r *pack.Reader) error {
		if deleted.any(numberOf(r.Info(), req.Tenant)) {
			return packLabels(ctx, r, req, deleted, func(ls labels.Labels) {
				if v := ls.Get(name); v != "" {
					values.Add(v)
				}
			})
		}
		more, err := r.LabelValues(ctx, req.Tenant, name, req.MinTime, req.MaxTime, req.Matchers...)
		for _, v := range more {
			values.Add(v)
		}
		return errors.Join(err, values.Err())
	})
	if err != nil {
		return nil, nil, err
	}
	out, err := values.Sorted()
	return out, served, err
}

// eachUnpacked calls fn with the labels of the matching series in the head, and
// then of the matching series set aside.
func (ing *Ingester) eachUnpacked(ctx context.Context, req series.Request, deleted *tenantDeletions, fn func(labels.Labels)) error {
	if err := ing.eachHeadSeries(ctx, req, fn); err != nil {
		return err
	}
	return ing.readAsideLabels(ctx, req, deleted, fn)
}

func (ing *Ingester) eachHeadSeries(ctx context.Context, req series.Request, fn func(labels.Labels)) error {
	th := ing.head(req.Tenant, false)
	if th == nil || th.minTime.Load() > req.MaxTime || th.maxTime.Load() < req.MinTime {
		return nil
	}
	found, err := th.match(ctx, req.Matchers)
	if err != nil {
		return err
	}
	for _, s := range found {
		if s.hasData(req.MinTime, req.MaxTime) {
			fn(s.labels)
		}
	}
	return nil
}

// eachPack calls fn for the local packs with samples of the tenant in the range. It
// stops calling fn at the first error, but always returns the IDs of all these packs.
func (ing *Ingester) eachPack(req series.Request, fn func(*pack.Reader) error) ([]ulid.ULID, error) {
	readers := ing.packs.retain(req.Tenant, req.MinTime, req.MaxTime)
	var err error
	served := make([]ulid.ULID, 0, len(readers))
	for _, r := range readers {
		served = append(served, r.Info().ID)
		if err == nil {
			if err = fn(r); err != nil {
				err = fmt.Errorf("pack %s: %w", r.Info().ID, err)
			}
		}
		_ = r.Release()
	}
	return served, err
}

// Exemplars returns the exemplars in [mint, maxt] of the series that match one of
// the matcher sets.
func (ing *Ingester) Exemplars(
	ctx context.Context, id tenant.ID, mint, maxt int64, sets [][]*labels.Matcher,
) ([]exemplar.QueryResult, error) {
	th := ing.head(id, false)
	if th == nil {
		return nil, nil
	}
	return th.exemplars.query(ctx, mint, maxt, sets)
}
