package lifecycle

import (
	"context"
	"errors"
	"slices"

	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/store"
)

// collectL0 deletes a consumed L0 pack, unless an upload has entered it into the index
// again. It marks the object before it reads the index, and an upload checks for the
// mark after it has written to the index: so at least one of the two notices the other.
func (k *Keeper) collectL0(ctx context.Context, e schema.Garbage, report *SweepReport) error {
	obj, info, err := k.store.L0Info(ctx, e.Name)
	if errors.Is(err, objects.ErrNotFound) {
		return k.index.Garbage.Unmark(ctx, e.Name)
	}
	if err != nil {
		return err
	}
	if err := k.index.Garbage.Mark(ctx, e.Name); err != nil {
		return err
	}
	needed, err := k.l0Needed(ctx, obj, info)
	if err != nil {
		return err
	}
	if needed {
		report.Kept++
		return k.index.Garbage.Unmark(ctx, e.Name)
	}
	if err := k.opts.Objects.Delete(ctx, e.Name); err != nil {
		return err
	}
	report.Objects++
	if err := k.removeCells(ctx, e.Name, info); err != nil {
		return err
	}
	return k.index.Garbage.Unmark(ctx, e.Name)
}

// removeCells deletes the catalog cells and receipts that a repeated upload wrote while
// its object was being deleted; all samples of the pack are in compacted packs. The
// upload then fails, or it stored the object again after the deletion, so the object is
// entered into the garbage queue once more.
func (k *Keeper) removeCells(ctx context.Context, object string, info pack.Info) error {
	days, err := k.index.Catalogs.WithL0(ctx, info.ID, daysOf(info))
	if err != nil {
		return err
	}
	consumed, err := k.store.Consumed(ctx, info)
	if err != nil || consumed && len(days) == 0 {
		return err
	}
	if err := k.index.Garbage.Enter(ctx, k.nowMillis()+store.L0Delay.Milliseconds(),
		schema.Garbage{Kind: index.GarbageL0, Name: object}); err != nil {
		return err
	}
	return k.index.RemoveL0(ctx, info.ID, days, store.DaysOf(info))
}

// l0Needed reports whether an L0 pack has a receipt or a cell in a catalog. It writes a
// receipt for days with a cell and no receipt: without a receipt, the day would not be
// compacted and the cell would name the pack forever.
func (k *Keeper) l0Needed(ctx context.Context, obj objects.Object, info pack.Info) (bool, error) {
	consumed, err := k.store.Consumed(ctx, info)
	if err != nil || !consumed {
		return true, err
	}
	days, err := k.index.Catalogs.WithL0(ctx, info.ID, daysOf(info))
	if err != nil || len(days) == 0 {
		return false, err
	}
	named := map[int64]bool{}
	for _, d := range days {
		named[d.Day] = true
	}
	receipts := slices.DeleteFunc(store.Receipts(obj, info), func(r index.DayReceipt) bool { return !named[r.Day] })
	if err := k.index.Work.AddReceipts(ctx, info.ID, receipts); err != nil {
		return false, err
	}
	k.opts.Logger.Warn("L0 pack had no receipts: it would never have been compacted; wrote them again",
		"object", obj.Name, "ingester", info.Source, "days", len(named))
	return true, nil
}

// daysOf returns the tenant and day of each section of a pack.
func daysOf(info pack.Info) []index.TenantDay {
	out := make([]index.TenantDay, 0, len(info.Sections))
	for i := range info.Sections {
		out = append(out, tenantDay(info.Sections[i].Tenant, info.Sections[i].Day))
	}
	return out
}
