package fsck

import (
	"context"
	"errors"
	"fmt"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/schema"
)

// RebuildReport counts the results of RebuildIndex.
type RebuildReport struct {
	Recovered          int // lost manifests recovered
	Days, Packs, Cells int
	Bytes, Read        int64 // total size of the packs, and how much of it was read
}

// RebuildIndex rewrites the index rows of published days from the copies of the rows at
// the end of each pack, and reads only that part of the packs. Before that, it enters
// L0 packs without a receipt into the index, and recovers the manifests of days that
// have compacted packs but no manifest. If a manifest cannot be recovered, the other
// days are rebuilt nevertheless, and the error names the day.
func (k *Checker) RebuildIndex(ctx context.Context, tenants []tenant.ID, progress Progress) (RebuildReport, error) {
	var report RebuildReport
	if err := k.recoverL0(ctx); err != nil {
		return report, err
	}
	var unrecovered []error
	for at, t := range tenants {
		n, err := k.recoverManifests(ctx, t)
		report.Recovered += n
		if ctx.Err() != nil {
			return report, ctx.Err()
		}
		if err != nil {
			unrecovered = append(unrecovered, fmt.Errorf("recover manifests of tenant %s: %w", t, err))
		}
		list, _, err := k.index.Catalogs.Readable(ctx, t, 0, schema.MaxDay)
		if err != nil {
			return report, err
		}
		for i := range list {
			progress.day(&list[i], at, len(tenants), i, len(list))
			if list[i].Manifest == nil {
				continue
			}
			if err := k.rebuildDay(ctx, &list[i], &report); err != nil {
				return report, fmt.Errorf("rebuild day %d of tenant %s: %w", list[i].Day, t, err)
			}
			report.Days++
		}
	}
	return report, errors.Join(unrecovered...)
}

func (k *Checker) rebuildDay(ctx context.Context, c *index.Catalog, report *RebuildReport) error {
	stamp, _, err := k.store.Stamp(ctx, c.Tenant, c.Day)
	if err != nil {
		return err
	}
	for part := range c.Manifest.Packs {
		e := &c.Manifest.Packs[part]
		r, read, err := k.store.OpenTail(ctx, e)
		if err != nil {
			return err
		}
		cells := index.NewCells(stamp)
		err = index.CellsOf(r, c.Tenant, c.Day, c.Manifest.Version, part, func(key, qualifier string, value []byte) {
			cells.Set(key, qualifier, value)
			report.Cells++
		})
		report.Read += read()
		report.Bytes += e.Size
		report.Packs++
		if rerr := r.Release(); err == nil {
			err = rerr
		}
		if err == nil {
			err = k.index.Generations.Rewrite(ctx, cells)
		}
		if err != nil {
			return fmt.Errorf("object %s: %w", e.Object, err)
		}
	}
	return nil
}
