package compactor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/progress"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/store"
)

// openPacks has the L0 packs of a day open, each once for all tenants in it.
type openPacks struct {
	byID map[ulid.ULID]*pack.Reader
}

func (o *openPacks) close() error {
	var errs error
	for _, r := range o.byID {
		errs = errors.Join(errs, r.Release())
	}
	return errs
}

// compactDay compacts a day of all tenants that have something uploaded, in the
// order in which L0 packs have them, and discharges the packs that were used up.
func (c *Compactor) compactDay(ctx context.Context, d *store.DayWork, which Which, report *Report) (err error) {
	packs := &openPacks{byID: map[ulid.ULID]*pack.Reader{}}
	defer func() { err = errors.Join(err, packs.close()) }()
	tenants := map[tenant.ID]struct{}{}
	for _, r := range d.Receipts {
		reader, err := c.opts.Store.OpenPack(ctx, r.ID, r.Object, r.Size)
		if err != nil {
			return err
		}
		packs.byID[r.ID] = reader
		for _, sec := range reader.Info().Sections {
			if sec.Day == d.Day {
				tenants[sec.Tenant] = struct{}{}
			}
		}
	}
	for _, t := range d.Rewrites {
		tenants[t] = struct{}{}
	}
	report.Days++
	held := map[ulid.ULID]bool{} // packs that a tenant still needs
	var errs error
	for _, t := range slices.Sorted(maps.Keys(tenants)) {
		if ctx.Err() != nil {
			return errors.Join(errs, ctx.Err())
		}
		left, err := c.compactTenant(ctx, t, d.Day, packs, which, report)
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("tenant %s: %w", t, err))
		}
		for _, id := range left {
			held[id] = true
		}
		if err == nil && slices.Contains(d.Rewrites, t) {
			errs = errors.Join(errs, c.rewritten(ctx, t, d.Day))
		}
	}
	if errs != nil {
		return errs
	}
	for _, r := range d.Receipts {
		if held[r.ID] {
			continue
		}
		if err := c.opts.Store.Discharge(ctx, d.Day, r); err != nil {
			return err
		}
	}
	return nil
}

// compactTenant writes a tenant's day anew and publishes it. It returns the L0
// packs that the day still needs.
func (c *Compactor) compactTenant(ctx context.Context, t tenant.ID, day int64, packs *openPacks, which Which, report *Report) ([]ulid.ULID, error) {
	const attempts = 3
	progress.At(ctx, fmt.Sprintf("tenant %s day %d", t, day))
	for try := 1; ; try++ {
		catalog, deletions, err := c.opts.Store.Day(ctx, t, day)
		if err != nil {
			return nil, err
		}
		skip, err := c.skip(ctx, &catalog, deletions, which)
		if err != nil {
			return nil, err
		}
		switch skip {
		case skipLater:
			return idsOf(catalog.L0), nil
		case skipNothing:
			return nil, nil
		case skipDrop:
			return nil, c.opts.Store.DropL0(ctx, &catalog)
		}
		err = c.rewrite(ctx, catalog, deletions, packs, report)
		switch {
		case err == nil:
			return c.remaining(ctx, t, day)
		case errors.Is(err, store.ErrDeleted):
			return nil, c.opts.Store.DropL0(ctx, &catalog)
		case errors.Is(err, store.ErrConflict) && try < attempts,
			errors.Is(err, objects.ErrNotFound) && try < attempts:
			continue // another compactor was faster; its packs are other ones
		}
		return idsOf(catalog.L0), err
	}
}

// rewritten takes a tenant's request out of the work when its deletions are
// applied to what is published.
func (c *Compactor) rewritten(ctx context.Context, t tenant.ID, day int64) error {
	catalog, deletions, err := c.opts.Store.Day(ctx, t, day)
	if err != nil || catalog.Manifest != nil && deletions.Above(catalog.Manifest.Tombstone) {
		return err
	}
	return c.opts.Store.Rewritten(ctx, t, day)
}

// remaining lists the L0 packs that came while the day was compacted.
func (c *Compactor) remaining(ctx context.Context, t tenant.ID, day int64) ([]ulid.ULID, error) {
	now, err := c.opts.Store.Catalog(ctx, t, day)
	return idsOf(now.L0), err
}

func idsOf(list []store.L0) []ulid.ULID {
	out := make([]ulid.ULID, 0, len(list))
	for i := range list {
		out = append(out, list[i].ID)
	}
	return out
}

type skipReason int

const (
	compactIt   skipReason = iota
	skipNothing            // all is compacted
	skipLater              // too soon after the last generation
	skipDrop               // beyond retention
)

func (c *Compactor) skip(ctx context.Context, catalog *store.Catalog, deletions store.Deletions, which Which) (skipReason, error) {
	pending := catalog.Manifest != nil && deletions.Above(catalog.Manifest.Tombstone)
	if len(catalog.L0) == 0 && !pending {
		return skipNothing, nil
	}
	keep, err := c.opts.Retention(ctx, catalog.Tenant)
	if err != nil {
		return 0, fmt.Errorf("retention: %w", err)
	}
	now := c.opts.Now()
	if keep > 0 && now.Add(-keep).UnixMilli() >= (catalog.Day+1)*series.DayMillis {
		return skipDrop, nil
	}
	if _, settled := deletions.Last(); !settled {
		return skipLater, c.opts.Store.CancelDeletions(ctx, catalog.Tenant, deletions) // one is under way
	}
	if which == Due && !pending && catalog.Manifest != nil && now.Sub(time.UnixMilli(catalog.Manifest.Written)) < lateSpacing {
		return skipLater, nil
	}
	return compactIt, nil
}

// rewrite merges all there is of the day into a new generation (C3 to C6).
func (c *Compactor) rewrite(ctx context.Context, catalog store.Catalog, deletions store.Deletions, packs *openPacks, report *Report) (err error) {
	start := c.opts.Now()
	runs, metadata, closeRuns, err := c.inputs(ctx, &catalog, deletions, packs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeRuns()) }()
	number, _ := deletions.Last()
	if catalog.Manifest != nil {
		number = max(number, catalog.Manifest.Tombstone)
	}
	g, err := c.opts.Store.NewGeneration(ctx, catalog, number, metadata)
	if err != nil {
		return err
	}
	m := newMerger(ctx, runs)
	for m.next(ctx) {
		progress.Step(ctx)
		if err := g.Add(ctx, m.labels, &m.out); err != nil {
			return errors.Join(err, g.Abort())
		}
	}
	if m.err != nil {
		return errors.Join(m.err, g.Abort())
	}
	manifest, err := g.Publish(ctx)
	if err != nil {
		return errors.Join(err, g.Abort())
	}
	report.Published++
	report.Series += manifest.Series
	report.Samples += manifest.Samples
	c.metrics.samples.Add(float64(manifest.Samples))
	c.opts.Logger.Info("compacted", "tenant", catalog.Tenant, "day", catalog.Day, "generation", manifest.Version.Generation, "series", manifest.Series,
		"samples", manifest.Samples, "packs", len(manifest.Packs), "sources", len(catalog.L0), "took", c.opts.Now().Sub(start).Round(time.Millisecond))
	return nil
}

// inputs opens the runs to merge: the tenant's sections of L0 packs, and the
// packs of the generation before.
func (c *Compactor) inputs(ctx context.Context, catalog *store.Catalog, deletions store.Deletions, packs *openPacks) (runs []*input, md []series.MetricMetadata, closeAll func() error, err error) {
	var own []*pack.Reader
	closeAll = func() error {
		var errs error
		for _, r := range own {
			errs = errors.Join(errs, r.Release())
		}
		return errs
	}
	add := func(r *pack.Reader, name string, number uint64) error {
		i := slices.IndexFunc(r.Info().Sections, func(s pack.SectionInfo) bool { return s.Tenant == catalog.Tenant && s.Day == catalog.Day })
		if i < 0 {
			return fmt.Errorf("object %s: %w: it has no section of the tenant's day %d, which the index names", name, pack.ErrCorrupt, catalog.Day)
		}
		runs = append(runs, &input{name: name, scan: r.Scan(i), gone: func(ls labels.Labels) []series.Interval { return deletions.After(number, ls) }})
		return nil
	}
	for i := range catalog.L0 {
		l := &catalog.L0[i]
		r := packs.byID[l.ID]
		if r == nil { // its receipt came after the work was listed
			if r, err = c.opts.Store.OpenPack(ctx, l.ID, l.Object, l.ObjectSize); err != nil {
				return nil, nil, nil, errors.Join(err, closeAll())
			}
			packs.byID[l.ID] = r
		}
		more, err := r.Metadata(catalog.Tenant)
		if err == nil {
			md = append(md, more...)
			err = add(r, l.Object, l.Tombstone)
		}
		if err != nil {
			return nil, nil, nil, errors.Join(err, closeAll())
		}
	}
	if catalog.Manifest != nil {
		more, err := c.opts.Store.Metadata(ctx, catalog.Tenant, catalog.Day, catalog.Day)
		if err != nil {
			return nil, nil, nil, errors.Join(err, closeAll())
		}
		md = append(md, more...)
		for i := range catalog.Manifest.Packs {
			p := &catalog.Manifest.Packs[i]
			r, err := c.opts.Store.OpenPack(ctx, p.ID, p.Object, p.Size)
			if err == nil {
				own = append(own, r)
				err = add(r, p.Object, catalog.Manifest.Tombstone)
			}
			if err != nil {
				return nil, nil, nil, errors.Join(err, closeAll())
			}
		}
	}
	slices.SortStableFunc(md, func(a, b series.MetricMetadata) int {
		return cmp.Or(strings.Compare(a.Metric, b.Metric), strings.Compare(string(a.Type), string(b.Type)), strings.Compare(a.Unit, b.Unit), strings.Compare(a.Help, b.Help))
	})
	return runs, slices.Compact(md), closeAll, nil
}
