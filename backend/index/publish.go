package index

import (
	"context"
	"fmt"

	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// Publication and deletion compare the version cell of the catalog row. Its version
// changes with every publication, and its fence number is raised before the sweep deletes
// anything of an attempt that could still be published. A conditional write on the bytes
// of the cell therefore succeeds only if neither happened since the cell was read.

// unchanged returns the condition that the version cell is as it was read.
func (c *Catalog) unchanged() rows.Condition {
	if c.cell == nil {
		return rows.Absent(rows.Data, schema.VersionQualifier)
	}
	return rows.ValueIs(rows.Data, schema.VersionQualifier, c.cell)
}

// Fence returns the fence number as it was read.
func (c *Catalog) Fence() (uint64, error) {
	cell, err := schema.DecodeVersionCell(c.cell)
	if err != nil {
		return 0, fmt.Errorf("day %d of tenant %s: %w", c.Day, c.Tenant, err)
	}
	return cell.Fence, nil
}

// VersionCell returns the version cell as it was read, or zero if there is none.
func (c *Catalog) VersionCell() (schema.VersionCell, error) { return schema.DecodeVersionCell(c.cell) }

// VersionTime returns the timestamp of the version cell (Unix milliseconds). ok is false
// if there is none.
func (c *Catalog) VersionTime() (ms int64, ok bool) { return c.cellTime, c.cell != nil }

// setVersion returns the mutations that replace the version cell.
func setVersion(cell schema.VersionCell, stamp int64) []rows.Mutation {
	return []rows.Mutation{rows.DeleteColumn(rows.Data, schema.VersionQualifier),
		rows.Set(rows.Data, schema.VersionQualifier, stamp, cell.Encode())}
}

// setManifest returns the mutations that replace the manifest and the version cell.
func setManifest(m *schema.Manifest, fence uint64, stamp int64) []rows.Mutation {
	return append([]rows.Mutation{
		rows.DeleteColumn(rows.Data, schema.ManifestQualifier),
		rows.Set(rows.Data, schema.ManifestQualifier, stamp, m.Encode()),
	}, setVersion(schema.VersionCell{Version: m.Version, Fence: fence}, stamp)...)
}

// RaiseFence raises the fence number of a day, so that all running compactions of the
// day fail to publish. It returns false, and changes nothing, if the version cell has
// changed since it was read.
func (s *Catalogs) RaiseFence(ctx context.Context, c *Catalog) (bool, error) {
	number, err := c.Fence()
	if err != nil {
		return false, err
	}
	stamp := c.cellTime
	if c.Manifest == nil {
		stamp = max(stamp, s.nowMillis())
	}
	held, err := s.rows.CheckAndMutate(ctx, schema.CatalogKey(c.Tenant, c.Day), c.unchanged(),
		setVersion(schema.VersionCell{Version: c.Version(), Fence: number + 1}, stamp), nil)
	if err != nil {
		return false, fmt.Errorf("raise the fence against older compactions of day %d of tenant %s: %w", c.Day, c.Tenant, err)
	}
	return held, nil
}

// Publish replaces the manifest of a day and removes the L0 packs of the catalog c, in
// one conditional mutation. It returns false, and changes nothing, if the version cell
// has changed since c was read.
func (s *Catalogs) Publish(ctx context.Context, c *Catalog, m *schema.Manifest, fence uint64, stamp int64) (bool, error) {
	ms := setManifest(m, fence, stamp)
	for _, l := range c.L0 {
		ms = append(ms, rows.DeleteColumn(rows.Data, schema.L0Qualifier(l.ID)))
	}
	return s.rows.CheckAndMutate(ctx, schema.CatalogKey(c.Tenant, c.Day), c.unchanged(), ms, nil)
}

// Replace is Publish without the removal of L0 packs.
func (s *Catalogs) Replace(ctx context.Context, c *Catalog, m *schema.Manifest, fence uint64, stamp int64) (bool, error) {
	return s.rows.CheckAndMutate(ctx, schema.CatalogKey(c.Tenant, c.Day), c.unchanged(), setManifest(m, fence, stamp), nil)
}

// Hide removes the manifest of a day, which hides its packs from reads, unless the
// version cell has changed since it was read.
func (s *Catalogs) Hide(ctx context.Context, c *Catalog) error {
	number, err := c.Fence()
	if err != nil {
		return err
	}
	// The fence number is raised, because a cell without a version could otherwise be
	// equal to the one that an attempt read before the first publication.
	_, err = s.rows.CheckAndMutate(ctx, schema.CatalogKey(c.Tenant, c.Day), c.unchanged(), append(
		[]rows.Mutation{rows.DeleteColumn(rows.Data, schema.ManifestQualifier)},
		setVersion(schema.VersionCell{Fence: number + 1}, s.nowMillis())...), nil)
	return err
}

// ForgetFence deletes the version cell of an empty day, unless the cell has changed since
// it was read.
func (s *Catalogs) ForgetFence(ctx context.Context, c *Catalog) error {
	_, err := s.rows.CheckAndMutate(ctx, schema.CatalogKey(c.Tenant, c.Day), c.unchanged(),
		[]rows.Mutation{rows.DeleteColumn(rows.Data, schema.VersionQualifier)}, nil)
	return err
}
