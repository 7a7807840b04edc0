package querier

import (
	"context"
	"slices"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"golang.org/x/sync/errgroup"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
	"github.com/palliumhq/pallium/backend/timing"
)

// Recent reads from the ingesters. The store.Covered of a result reports whether the result
// contains all samples of an L0 pack.
type Recent interface {
	Select(ctx context.Context, req series.Request) (*series.Selection, store.Covered, error)
	LabelNames(ctx context.Context, req series.Request) ([]string, store.Covered, error)
	LabelValues(ctx context.Context, name string, req series.Request) ([]string, store.Covered, error)
	Exemplars(ctx context.Context, id tenant.ID, mint, maxt int64, sets [][]*labels.Matcher) ([]exemplar.QueryResult, error)
}

// LongTerm reads from the long-term store. It skips L0 packs that are covered.
type LongTerm interface {
	Select(ctx context.Context, req series.Request, covered store.Covered) (*series.Selection, error)
	LabelNames(ctx context.Context, req series.Request, covered store.Covered) ([]string, error)
	LabelValues(ctx context.Context, name string, req series.Request, covered store.Covered) ([]string, error)
}

// Both returns a Source that merges ingesters and the long-term store. A result is the union of
// both, whatever the compactor has published. An error of either is an error of the whole, except
// for the days that a partial request leaves out. Both are read concurrently. Only the store's
// reads of L0 packs wait for the result of the ingesters, which serve most L0 packs themselves.
func Both(recent Recent, long LongTerm) Source { return &both{recent: recent, long: long} }

type both struct {
	recent Recent
	long   LongTerm
}

// together runs the two reads concurrently. The store.Covered that it passes to long waits until
// the read of the ingesters ends.
func (b *both) together(
	ctx context.Context, recent func(context.Context) (store.Covered, error), long func(context.Context, store.Covered) error,
) error {
	g, ctx := errgroup.WithContext(ctx)
	answered := make(chan struct{})
	var served store.Covered
	g.Go(func() error {
		defer close(answered)
		defer timing.Of(ctx).Measure(timing.Ingesters)()
		got, err := recent(ctx)
		if err == nil {
			served = got
		}
		return err
	})
	g.Go(func() error {
		return long(ctx, func(id ulid.ULID) bool {
			<-answered
			return served == nil || served(id) // after an error the result is discarded: read no more packs
		})
	})
	return g.Wait()
}

// Select implements Source.
func (b *both) Select(ctx context.Context, req series.Request) (*series.Selection, error) {
	var recent, long *series.Selection
	err := b.together(ctx,
		func(ctx context.Context) (served store.Covered, err error) {
			recent, served, err = b.recent.Select(ctx, req)
			return served, err
		},
		func(ctx context.Context, c store.Covered) (err error) {
			long, err = b.selectLong(ctx, req, c)
			return err
		})
	if err != nil {
		for _, s := range []*series.Selection{recent, long} {
			if s != nil {
				s.Release()
			}
		}
		return nil, err
	}
	recent.Missing = long.Missing
	if len(long.Series) == 0 {
		long.Release()
		return recent, nil
	}
	recent.Hold(long.Release)
	if recent.Series, err = series.Merge(recent.Series, long.Series, req.MaxSeries); err != nil {
		recent.Release()
		return nil, err
	}
	return recent, nil
}

// LabelNames implements Source.
func (b *both) LabelNames(ctx context.Context, req series.Request) ([]string, error) {
	var recent, long []string
	err := b.together(ctx,
		func(ctx context.Context) (served store.Covered, err error) {
			recent, served, err = b.recent.LabelNames(ctx, req)
			return served, err
		},
		func(ctx context.Context, c store.Covered) (err error) {
			long, err = b.long.LabelNames(ctx, req, c)
			return err
		})
	return mergeSorted(recent, long), err
}

// LabelValues implements Source.
func (b *both) LabelValues(ctx context.Context, name string, req series.Request) ([]string, error) {
	var recent, long []string
	err := b.together(ctx,
		func(ctx context.Context) (served store.Covered, err error) {
			recent, served, err = b.recent.LabelValues(ctx, name, req)
			return served, err
		},
		func(ctx context.Context, c store.Covered) (err error) {
			long, err = b.long.LabelValues(ctx, name, req, c)
			return err
		})
	return mergeSorted(recent, long), err
}

func mergeSorted(a, b []string) []string {
	if len(b) == 0 {
		return a
	}
	out := append(a, b...)
	slices.Sort(out)
	return slices.Compact(out)
}

// Exemplars implements Source. Only ingesters have exemplars.
func (b *both) Exemplars(ctx context.Context, id tenant.ID, mint, maxt int64, sets [][]*labels.Matcher) ([]exemplar.QueryResult, error) {
	return b.recent.Exemplars(ctx, id, mint, maxt, sets)
}
