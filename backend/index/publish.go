package index

import (
	"context"
	"fmt"

	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// Publication and deletion compare one cell, the version cell of the catalog row:
// its version changes with every publication, and its fence number before anything
// of an attempt is deleted that could still be published. Who reads the row and
// later writes it under the condition that the cell has the bytes that were read
// therefore knows that neither happened in between.

// unchanged is the condition that the version cell is as it was read.
func (c *Catalog) unchanged() rows.Condition {
	if c.cell == nil {
		return rows.Absent(rows.Data, schema.VersionQualifier)
	}
	return rows.ValueIs(rows.Data, schema.VersionQualifier, c.cell)
}

// Fence is the fence number as it was read.
func (c *Catalog) Fence() (uint64, error) {
	cell, err := schema.DecodeVersionCell(c.cell)
	if err != nil {
		return 0, fmt.Errorf("day %d of tenant %s: %w", c.Day, c.Tenant, err)
	}
	return cell.Fence, nil
}

// VersionCell is the version cell as it was read; zero when there is none.
func (c *Catalog) VersionCell() (schema.VersionCell, error) { return schema.DecodeVersionCell(c.cell) }

// VersionTime is the timestamp of the version cell (Unix milliseconds); ok is false
// when there is none.
func (c *Catalog) VersionTime() (ms int64, ok bool) { return c.cellTime, c.cell != nil }

// setVersion replaces the version cell.
func setVersion(cell schema.VersionCell, stamp int64) []rows.Mutation {
	return []rows.Mutation{rows.DeleteColumn(rows.Data, schema.VersionQualifier),
		rows.Set(rows.Data, schema.VersionQualifier, stamp, cell.Encode())}
}

// setManifest replaces the manifest and the version cell with it.
func setManifest(m *schema.Manifest, fence uint64, stamp int64) []rows.Mutation {
	return append([]rows.Mutation{
		rows.DeleteColumn(rows.Data, schema.ManifestQualifier),
		rows.Set(rows.Data, schema.ManifestQualifier, stamp, m.Encode()),
	}, setVersion(schema.VersionCell{Version: m.Version, Fence: fence}, stamp)...)
}

// RaiseFence makes every attempt to compact the day that is under way lose its
// publication. It reports false, and changes nothing, when the version cell is not
// as it was read.
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
		return false, fmt.Errorf("raise the fence of day %d of tenant %s: %w", c.Day, c.Tenant, err)
	}
	return held, nil
}

// Publish makes a manifest the day's, in place of the one that the catalog was read
// with, and takes the L0 packs out that were read: one conditional mutation. It
// reports false, and changes nothing, when the version cell is not as it was read.
func (s *Catalogs) Publish(ctx context.Context, c *Catalog, m *schema.Manifest, fence uint64, stamp int64) (bool, error) {
	ms := setManifest(m, fence, stamp)
	for _, l := range c.L0 {
		ms = append(ms, rows.DeleteColumn(rows.Data, schema.L0Qualifier(l.ID)))
	}
	return s.rows.CheckAndMutate(ctx, schema.CatalogKey(c.Tenant, c.Day), c.unchanged(), ms, nil)
}

// Replace is Publish for a manifest that consumes no L0 packs.
func (s *Catalogs) Replace(ctx context.Context, c *Catalog, m *schema.Manifest, fence uint64, stamp int64) (bool, error) {
	return s.rows.CheckAndMutate(ctx, schema.CatalogKey(c.Tenant, c.Day), c.unchanged(), setManifest(m, fence, stamp), nil)
}

// Hide takes the manifest out of a day, and so hides what it names, unless the
// version cell is not as it was read.
func (s *Catalogs) Hide(ctx context.Context, c *Catalog) error {
	number, err := c.Fence()
	if err != nil {
		return err
	}
	// The number is raised: without a version, the cell could else be what an attempt
	// read before the first publication.
	_, err = s.rows.CheckAndMutate(ctx, schema.CatalogKey(c.Tenant, c.Day), c.unchanged(), append(
		[]rows.Mutation{rows.DeleteColumn(rows.Data, schema.ManifestQualifier)},
		setVersion(schema.VersionCell{Fence: number + 1}, s.nowMillis())...), nil)
	return err
}

// ForgetFence deletes the version cell of a day that holds nothing, unless it is not
// as it was read.
func (s *Catalogs) ForgetFence(ctx context.Context, c *Catalog) error {
	_, err := s.rows.CheckAndMutate(ctx, schema.CatalogKey(c.Tenant, c.Day), c.unchanged(),
		[]rows.Mutation{rows.DeleteColumn(rows.Data, schema.VersionQualifier)}, nil)
	return err
}
