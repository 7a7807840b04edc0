package compactor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/store"
)

// A tenant can request that its deleted series are removed from the packs of a day now
// (lifecycle.Keeper.CleanDeletions). Its day is then compacted in the next run even if the
// day has not ended. The other tenants of the day are not compacted, and no pack is marked
// as consumed.

// cleanTime is the minimum age of a request that is removed. A younger one stays even
// if nothing is left to do, because ingesters may still upload packs that they sealed
// before the deletion.
const cleanTime = 15 * time.Minute

// Wake makes Run start a compaction at once, or after the running one.
func (c *Compactor) Wake() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// clean compacts a day for the tenants with a request, if the day has packs with deleted
// series.
func (c *Compactor) clean(ctx context.Context, d *store.DayWork, report *tally) (err error) {
	packs := &openPacks{byID: map[ulid.ULID]*pack.Reader{}, failed: map[ulid.ULID]error{}}
	defer func() { err = errors.Join(err, packs.close()) }()
	tenants := make([]tenant.ID, 0, len(d.Cleans))
	for _, one := range d.Cleans {
		tenants = append(tenants, one.Tenant)
	}
	var errs problems
	for i, r := range c.compactTenants(ctx, d, tenants, packs, asked, report) {
		if ctx.Err() != nil {
			errs.add(ctx.Err())
			return errs.join()
		}
		if r.err == nil {
			r.err = c.cleaned(ctx, d.Day, d.Cleans[i])
		}
		errs.add(r.err)
	}
	return errs.join()
}

// cleaned removes a request from the work if it is at least cleanTime old and all
// deletions are applied to all packs.
func (c *Compactor) cleaned(ctx context.Context, day int64, one store.CleanOf) error {
	if c.opts.Now().Sub(time.UnixMilli(one.Since)) < cleanTime {
		return nil
	}
	catalog, deletions, err := c.opts.Store.Day(ctx, one.Tenant, day)
	if err != nil {
		return fmt.Errorf("tenant %s: %w", one.Tenant, err)
	}
	if unapplied(&catalog, deletions) {
		return nil
	}
	return c.opts.Store.Cleaned(ctx, day, one)
}

// unapplied reports whether a deletion is not applied to some pack of the day.
func unapplied(catalog *store.Catalog, deletions store.Deletions) bool {
	if catalog.Manifest != nil && deletions.Above(catalog.Manifest.Tombstone) {
		return true
	}
	for i := range catalog.L0 {
		if deletions.Above(catalog.L0[i].Tombstone) {
			return true
		}
	}
	return false
}
