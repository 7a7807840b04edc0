package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/schema"
)

// The garbage queue. Whoever is about to write something that a crash could
// leave behind, or to publish something that replaces another, first enters it
// here with a time. When the time has come, Sweep looks whether anything refers
// to it, and deletes it only if nothing does. So every leftover is found by its
// entry, and nothing has to list all objects or rows to find one.

// SweepReport counts what Sweep did.
type SweepReport struct {
	Objects, Generations int // deleted
	Kept                 int // entries of what turned out to be in use
	Adopted              int // L0 packs whose upload had not ended
}

// sweeper works off one list of due entries.
type sweeper struct {
	k      *Keeper
	report *SweepReport
	// fenced are the days whose fence was raised since the list was read: none of
	// the attempts that had an entry then can publish any more.
	fenced map[index.TenantDay]struct{}
}

// Sweep works off the garbage queue as far as it is due. What fails stays in the
// queue; the errors are joined.
func (k *Keeper) Sweep(ctx context.Context) (SweepReport, error) {
	var report SweepReport
	errs := k.settleAsides(ctx)
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

// collect deletes what an entry names unless something refers to it.
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
	return fmt.Errorf("garbage of the kind %q is not known to this version; a newer one wrote it", e.Kind)
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

// maxFenceTries is how often a sweep tries to raise the fence of a day that others
// publish at the same time; then the entry waits for the next sweep.
const maxFenceTries = 3

// inUse reports whether the manifest of the entry's day names what the entry does.
// When it does not, it never will: an attempt that could still publish it is
// fenced off. The time of an entry says only that the attempt should have ended,
// by the clock of whoever sweeps.
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
		// The rows of a deleted tenant go again and again, and what publishes with them.
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
	return false, fmt.Errorf("day %d of tenant %s is being published by others; its leftovers wait for the next sweep", e.Day, e.Tenant)
}

// mayPublish reports whether an attempt could still be published: its condition is
// that the generation before its own is, unless its fence number was passed.
// Entries that older versions wrote for packs do not say whose they are.
func mayPublish(c *index.Catalog, v schema.Version) bool {
	return v.Generation == 0 || v.Generation > c.Version().Generation
}

// settleAsides deletes the records of lost ingesters that can be of no more use:
// their tenant was deleted, or its retention has passed.
func (k *Keeper) settleAsides(ctx context.Context) error {
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
