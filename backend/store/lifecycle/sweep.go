package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/schema"
)

// The garbage queue lists objects and rows that may become garbage, each with a due
// time. An entry is written before an object or row that a crash could leave behind,
// and before a publication for everything that it replaces. When an entry is due,
// Sweep deletes its object or rows unless something refers to them. So leftovers are
// found without listing all objects or rows.

// SweepReport counts the results of a sweep.
type SweepReport struct {
	Objects, Generations int // deleted
	Kept                 int // entries whose object or rows are in use
	Adopted              int // L0 packs of interrupted uploads entered into the index
}

// sweeper processes one list of due entries.
type sweeper struct {
	k      *Keeper
	report *SweepReport
	// fenced are the days whose fence was raised since the list was read: no attempt
	// with an entry in the list can publish any more.
	fenced map[index.TenantDay]struct{}
}

// Sweep processes all due entries of the garbage queue, after it has deleted obsolete
// records of series set aside. Entries that fail stay in the queue; the errors are
// joined.
func (k *Keeper) Sweep(ctx context.Context) (SweepReport, error) {
	var report SweepReport
	errs := k.clearAsides(ctx)
	for {
		list, err := k.index.Garbage.Due(ctx, 1000)
		if err != nil {
			return report, errors.Join(errs, err)
		}
		progress := false
		sw := sweeper{k: k, report: &report, fenced: map[index.TenantDay]struct{}{}}
		for _, d := range list {
			err := sw.collect(ctx, d.Garbage)
			if err == nil {
				err = k.index.Garbage.Done(ctx, d)
			}
			if err != nil {
				errs = errors.Join(errs, fmt.Errorf("sweep %s: %w", d.Name, err))
				continue
			}
			progress = true
		}
		if len(list) < 1000 || !progress || ctx.Err() != nil {
			return report, errs
		}
	}
}

// collect deletes the object or rows of an entry unless something refers to them.
func (sw *sweeper) collect(ctx context.Context, e schema.Garbage) error {
	switch e.Kind {
	case index.GarbagePack:
		return sw.collectPack(ctx, e)
	case index.GarbageIndex:
		return sw.collectIndex(ctx, e)
	case index.GarbageL0:
		return sw.k.collectL0(ctx, e, sw.report)
	case index.GarbageAdopt:
		adopted, err := sw.k.store.Adopt(ctx, e.Name)
		if adopted {
			sw.report.Adopted++
		}
		return err
	}
	return fmt.Errorf("garbage entry of unknown kind %q: written by a newer version of Pallium", e.Kind)
}

func (sw *sweeper) collectPack(ctx context.Context, e schema.Garbage) error {
	used, err := sw.inUse(ctx, e, func(m *schema.Manifest) bool {
		return slices.ContainsFunc(m.Packs, func(p schema.PackEntry) bool { return p.Object == e.Name })
	})
	if err != nil || used {
		return err
	}
	sw.report.Objects++
	return sw.k.opts.Objects.Delete(ctx, e.Name)
}

func (sw *sweeper) collectIndex(ctx context.Context, e schema.Garbage) error {
	used, err := sw.inUse(ctx, e, func(m *schema.Manifest) bool { return m.Version == e.Version })
	if err != nil || used {
		return err
	}
	sw.report.Generations++
	return sw.k.index.Generations.Delete(ctx, tenantDay(e.Tenant, e.Day), e.Version)
}

// maxFenceTries is the number of times that a sweep tries to raise the fence of a day
// while the day is being published. After that the entry waits for the next sweep.
const maxFenceTries = 3

// inUse reports whether the manifest of the entry's day names the object or rows of
// the entry. If it returns false, no later manifest can name them: an attempt that
// could still publish them was fenced. A due entry alone does not prove that the
// attempt has ended, because the clock of the sweeping process may be wrong.
func (sw *sweeper) inUse(ctx context.Context, e schema.Garbage, names func(*schema.Manifest) bool) (bool, error) {
	day := tenantDay(e.Tenant, e.Day)
	for range maxFenceTries {
		c, err := sw.k.index.Catalogs.Read(ctx, e.Tenant, e.Day)
		if err != nil {
			return false, err
		}
		if c.Manifest != nil && names(c.Manifest) {
			sw.report.Kept++
			return true, nil
		}
		if _, done := sw.fenced[day]; done || !mayPublish(&c, e.Version) {
			return false, nil
		}
		// A deleted tenant needs no fence: its rows are erased repeatedly, and a manifest
		// published meanwhile with them.
		if gone, err := sw.k.opts.Deleted(ctx, e.Tenant); err != nil || gone {
			return false, err
		}
		held, err := sw.k.index.Catalogs.RaiseFence(ctx, &c)
		if err != nil {
			return false, err
		}
		if held {
			sw.k.fenced.Inc()
			sw.fenced[day] = struct{}{}
			return false, nil
		}
	}
	return false, fmt.Errorf("day %d of tenant %s is being published concurrently; its unreferenced objects and rows are deleted "+
		"by the next sweep", e.Day, e.Tenant)
}

// mayPublish reports whether an attempt could still be published, that is, whether its
// generation is above the published one. Entries for packs that older versions wrote
// have no generation.
func mayPublish(c *index.Catalog, v schema.Version) bool {
	return v.Generation == 0 || v.Generation > c.Version().Generation
}

// clearAsides deletes the records of series set aside by lost ingesters if the tenant
// was deleted or the samples are beyond retention.
func (k *Keeper) clearAsides(ctx context.Context) error {
	all, err := k.index.Work.Asides(ctx)
	if err != nil {
		return err
	}
	var over []index.AsideOf
	for i := range all {
		if !index.IsLost(all[i].Ingester) {
			continue
		}
		gone, err := k.opts.Deleted(ctx, all[i].Tenant)
		if err != nil {
			return fmt.Errorf("tenant %s: %w", all[i].Tenant, err)
		}
		_, expiry, err := k.store.Stamp(ctx, all[i].Tenant, all[i].Window.Day)
		if err != nil {
			return err
		}
		if gone || expiry > 0 && expiry < k.nowMillis() {
			over = append(over, all[i])
		}
	}
	return k.index.Work.ClearAside(ctx, over)
}
