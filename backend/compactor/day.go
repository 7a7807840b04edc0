package compactor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
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

// openPacks holds the open L0 packs of a day. All tenants in a pack share its reader.
type openPacks struct {
	mu     sync.Mutex // guards byID while tenants are compacted
	byID   map[ulid.ULID]*pack.Reader
	failed map[ulid.ULID]error // packs that cannot be opened; not changed while tenants are compacted
}

// get returns an L0 pack. It opens the pack if openDay did not: if the receipt was
// written after the work was listed, or if the compaction is for a clean request.
// Other tenants wait while it opens a pack.
func (o *openPacks) get(ctx context.Context, s *store.Store, l *store.L0) (*pack.Reader, error) {
	if err := o.failed[l.ID]; err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if r := o.byID[l.ID]; r != nil {
		return r, nil
	}
	r, err := s.OpenPack(ctx, l.ID, l.Object, l.ObjectSize)
	if err == nil {
		o.byID[l.ID] = r
	}
	return r, err
}

func (o *openPacks) close() error {
	var errs error
	for _, r := range o.byID {
		errs = errors.Join(errs, r.Release())
	}
	return errs
}

// withSection returns the packs that have, or may have, a section of a tenant's day.
func (o *openPacks) withSection(t tenant.ID, day int64) []ulid.ULID {
	out := slices.Collect(maps.Keys(o.failed))
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, r := range o.byID {
		if slices.ContainsFunc(r.Info().Sections, func(s pack.SectionInfo) bool { return s.Tenant == t && s.Day == day }) {
			out = append(out, id)
		}
	}
	return out
}

// compactDay compacts a day of all tenants with uploaded samples or a requested rewrite,
// and marks packs that no tenant needs any more as consumed. After a failure the other
// tenants continue: only packs that a tenant needs or that cannot be opened keep their receipts.
func (c *Compactor) compactDay(ctx context.Context, d *store.DayWork, which Which, report *tally) (err error) {
	packs := &openPacks{byID: map[ulid.ULID]*pack.Reader{}, failed: map[ulid.ULID]error{}}
	defer func() { err = errors.Join(err, packs.close()) }()
	var errs problems
	tenants, err := c.openDay(ctx, d, which, packs, &errs)
	if err != nil {
		return err
	}
	report.add(Report{Days: 1})
	needed := map[ulid.ULID]bool{} // packs that a tenant still needs, or that cannot be read
	for id := range packs.failed {
		needed[id] = true
	}
	results := c.compactTenants(ctx, d, slices.Sorted(maps.Keys(tenants)), packs, which, report)
	if ctx.Err() != nil {
		errs.add(ctx.Err())
		return errs.join()
	}
	for _, r := range results {
		errs.add(r.err)
		for _, id := range r.left {
			needed[id] = true
		}
	}
	for _, r := range d.Receipts {
		if needed[r.ID] {
			continue
		}
		if err := c.opts.Store.MarkConsumed(ctx, d.Day, r); err != nil {
			errs.add(err)
			break // further calls would probably fail too
		}
	}
	return errs.join()
}

// openDay opens the packs of a day and returns the tenants to compact. It adds packs that
// cannot be opened to packs.failed. It returns an error only if ctx is done.
func (c *Compactor) openDay(ctx context.Context, d *store.DayWork, which Which, packs *openPacks,
	errs *problems) (map[tenant.ID]struct{}, error) {
	tenants := map[tenant.ID]struct{}{}
	for _, r := range d.Receipts {
		key := failingKey{day: d.Day, pack: r.ID}
		if which == Due && c.failing.waits(key, fingerprint{}, c.opts.Now()) {
			packs.failed[r.ID] = fmt.Errorf("object %s could not be opened: %s", r.Object, c.failing.text(key))
			continue
		}
		reader, err := c.opts.Store.OpenPack(ctx, r.ID, r.Object, r.Size)
		if ctx.Err() != nil {
			if err == nil {
				packs.byID[r.ID] = reader
			}
			return nil, ctx.Err()
		}
		if err != nil {
			packs.failed[r.ID] = err
			f := c.failing.failed(key, fingerprint{}, r.Object, err, c.opts.Now())
			c.opts.Logger.Error("failed to open L0 pack: no tenant in it is compacted for this day until it can be opened",
				"day", d.Day, "object", r.Object, "ingester", r.Ingester, "attempts", f.attempts, "next", f.next, "err", err)
			errs.add(fmt.Errorf("open pack %s of ingester %s: %w", r.ID, r.Ingester, err))
			continue
		}
		c.failing.succeeded(key)
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
	return tenants, nil
}

// tenantDay compacts a tenant's day, records a failure, and returns the packs that the
// tenant still needs. It returns no error if the day failed before and the next attempt
// is not due yet.
func (c *Compactor) tenantDay(ctx context.Context, t tenant.ID, d *store.DayWork, packs *openPacks, which Which,
	report *tally) ([]ulid.ULID, error) {
	key := failingKey{day: d.Day, tenant: t}
	o := outcome{}
	err := c.compactTenant(ctx, t, d.Day, packs, which, report, &o)
	if err == nil && !o.waits && slices.Contains(d.Rewrites, t) {
		err = c.rewritten(ctx, t, d.Day)
	}
	switch {
	case ctx.Err() != nil || o.waits:
	case err == nil:
		c.failing.succeeded(key)
	default:
		f := c.failing.failed(key, o.inputs, "", err, c.opts.Now())
		c.opts.Logger.Error("failed to compact a tenant's day; continuing with other tenants", "tenant", t, "day", d.Day,
			"attempts", f.attempts, "next", f.next, "err", err)
	}
	if !o.known {
		return packs.withSection(t, d.Day), err
	}
	return o.left, err
}

// outcome is the result of compactTenant in addition to its error.
type outcome struct {
	known  bool        // whether left is valid
	left   []ulid.ULID // L0 packs that the tenant's day still needs
	inputs fingerprint
	waits  bool // the same inputs failed before, and the next attempt is not due yet
}

func (o *outcome) keep(left []ulid.ULID) { o.left, o.known = left, true }

// compactTenant compacts a tenant's day and publishes it.
func (c *Compactor) compactTenant(ctx context.Context, t tenant.ID, day int64, packs *openPacks, which Which, report *tally,
	o *outcome) error {
	const attempts = 3
	key := failingKey{day: day, tenant: t}
	for try := 1; ; try++ {
		o.known = false
		if o.waits = which != All && try == 1 && c.failing.waits(key, fingerprint{}, c.opts.Now()); o.waits {
			return nil
		}
		catalog, deletions, err := c.opts.Store.Day(ctx, t, day)
		if err != nil {
			return err
		}
		o.keep(idsOf(catalog.L0))
		o.inputs = inputsOf(&catalog, deletions)
		if o.waits = which != All && try == 1 && c.failing.waits(key, o.inputs, c.opts.Now()); o.waits {
			return nil
		}
		if skip, err := c.skip(ctx, &catalog, deletions, which); err != nil || skip != compactIt {
			return err
		}
		err = c.rewrite(ctx, catalog, deletions, packs, report)
		switch {
		case err == nil:
			return c.remaining(ctx, t, day, o)
		case errors.Is(err, store.ErrDeleted):
			return c.drop(ctx, &catalog, o)
		case try == attempts || !overtaken(err):
			return err
		}
	}
}

// overtaken reports whether a compaction may have failed because the day changed while
// it ran, for example because another compactor published it.
func overtaken(err error) bool {
	return errors.Is(err, store.ErrConflict) || errors.Is(err, objects.ErrNotFound)
}

// drop removes the L0 packs of a deleted tenant from the catalog of a day.
func (c *Compactor) drop(ctx context.Context, catalog *store.Catalog, o *outcome) error {
	err := c.opts.Lifecycle.DropL0(ctx, catalog)
	if err == nil {
		o.keep(nil)
	}
	return err
}

// rewritten removes a tenant's request for a rewrite from the work, if all deletions are
// applied to the published packs.
func (c *Compactor) rewritten(ctx context.Context, t tenant.ID, day int64) error {
	catalog, deletions, err := c.opts.Store.Day(ctx, t, day)
	if err != nil || catalog.Manifest != nil && deletions.Above(catalog.Manifest.Tombstone) {
		return err
	}
	return c.opts.Store.Rewritten(ctx, t, day)
}

// remaining sets o.left to the L0 packs that were uploaded while the day was compacted. It
// clears o.inputs: they were compacted, so they are not the cause if remaining fails.
func (c *Compactor) remaining(ctx context.Context, t tenant.ID, day int64, o *outcome) error {
	o.known, o.inputs = false, fingerprint{}
	now, err := c.opts.Store.Catalog(ctx, t, day)
	if err == nil {
		o.keep(idsOf(now.L0))
	}
	return err
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
	skipNothing            // everything is compacted
	skipLater              // too soon after the last generation, beyond retention, or a deletion is pending
)

func (c *Compactor) skip(ctx context.Context, catalog *store.Catalog, deletions store.Deletions, which Which) (skipReason, error) {
	pending := catalog.Manifest != nil && deletions.Above(catalog.Manifest.Tombstone)
	if which == asked && !unapplied(catalog, deletions) || len(catalog.L0) == 0 && !pending {
		return skipNothing, nil
	}
	keep, err := c.opts.Retention(ctx, catalog.Tenant)
	if err != nil {
		return 0, fmt.Errorf("retention: %w", err)
	}
	now := c.opts.Now()
	if keep > 0 && now.Add(-keep).UnixMilli() >= (catalog.Day+1)*series.DayMillis {
		return skipLater, nil // the sweep expires the day; it limits the number of days
	}
	if _, ok := deletions.Last(); !ok { // a deletion is pending
		return skipLater, c.opts.Lifecycle.CancelDeletions(ctx, catalog.Tenant, deletions)
	}
	if which == Due && !pending && catalog.Manifest != nil && now.Sub(time.UnixMilli(catalog.Manifest.Written)) < lateSpacing {
		return skipLater, nil
	}
	return compactIt, nil
}

// rewrite merges all packs of the day into a new generation (steps C3 to C6 in
// docs/format/store.md).
func (c *Compactor) rewrite(ctx context.Context, catalog store.Catalog, deletions store.Deletions, packs *openPacks,
	report *tally) (err error) {
	release, err := c.admit(ctx, &catalog)
	if err != nil {
		return err
	}
	defer release()
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
	report.add(Report{Published: 1, Series: manifest.Series, Samples: manifest.Samples})
	c.metrics.samples.Add(float64(manifest.Samples))
	c.opts.Logger.Info("compacted a tenant's day", "tenant", catalog.Tenant, "day", catalog.Day, "generation", manifest.Version.Generation,
		"series", manifest.Series, "samples", manifest.Samples, "packs", len(manifest.Packs), "sources", len(catalog.L0),
		"took", c.opts.Now().Sub(start).Round(time.Millisecond))
	return nil
}

// inputs returns the runs to merge (the tenant's sections of L0 packs, and the packs of
// the previous generation) and their metadata. The caller calls closeAll.
func (c *Compactor) inputs(ctx context.Context, catalog *store.Catalog, deletions store.Deletions,
	packs *openPacks) (runs []*input, md []series.MetricMetadata, closeAll func() error, err error) {
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
			return fmt.Errorf("object %s: %w: the index lists a section of the tenant's day %d that the pack does not have", name,
				pack.ErrCorrupt, catalog.Day)
		}
		gone := func(ls labels.Labels) []series.Interval { return deletions.After(number, ls) }
		runs = append(runs, &input{name: name, scan: r.Scan(i), gone: gone})
		return nil
	}
	for i := range catalog.L0 {
		l := &catalog.L0[i]
		r, err := packs.get(ctx, c.opts.Store, l)
		if err != nil {
			return nil, nil, nil, errors.Join(err, closeAll())
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
		return cmp.Or(strings.Compare(a.Metric, b.Metric), strings.Compare(string(a.Type), string(b.Type)), strings.Compare(a.Unit, b.Unit),
			strings.Compare(a.Help, b.Help))
	})
	return runs, slices.Compact(md), closeAll, nil
}
