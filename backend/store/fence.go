package store

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

// fence is the fence number as it was read.
func (c *Catalog) fence() (uint64, error) {
	cell, err := schema.DecodeVersionCell(c.cell)
	if err != nil {
		return 0, fmt.Errorf("day %d of tenant %s: %w", c.Day, c.Tenant, err)
	}
	return cell.Fence, nil
}

// setVersion replaces the version cell.
func setVersion(cell schema.VersionCell, stamp int64) []rows.Mutation {
	return []rows.Mutation{rows.DeleteColumn(rows.Data, schema.VersionQualifier), rows.Set(rows.Data, schema.VersionQualifier, stamp, cell.Encode())}
}

// setManifest replaces the manifest and the version cell with it.
func setManifest(m *schema.Manifest, fence uint64, stamp int64) []rows.Mutation {
	return append([]rows.Mutation{
		rows.DeleteColumn(rows.Data, schema.ManifestQualifier),
		rows.Set(rows.Data, schema.ManifestQualifier, stamp, m.Encode()),
	}, setVersion(schema.VersionCell{Version: m.Version, Fence: fence}, stamp)...)
}

// raiseFence makes every attempt to compact the day that is under way lose its
// publication. It reports false, and changes nothing, when the version cell is not
// as it was read.
func (s *Store) raiseFence(ctx context.Context, c *Catalog) (bool, error) {
	number, err := c.fence()
	if err != nil {
		return false, err
	}
	stamp := c.cellTime
	if c.Manifest == nil {
		stamp = max(stamp, s.nowMillis())
	}
	held, err := s.opts.Rows.CheckAndMutate(ctx, schema.CatalogKey(c.Tenant, c.Day), c.unchanged(),
		setVersion(schema.VersionCell{Version: c.version(), Fence: number + 1}, stamp), nil)
	if err != nil {
		return false, fmt.Errorf("raise the fence of day %d of tenant %s: %w", c.Day, c.Tenant, err)
	}
	if held {
		s.metrics.fenced.Inc()
	}
	return held, nil
}

// mayPublish reports whether an attempt could still be published: its condition is
// that the generation before its own is, unless its fence number was passed.
// Entries that older versions wrote for packs do not say whose they are.
func mayPublish(c *Catalog, v schema.Version) bool {
	return v.Generation == 0 || v.Generation > c.version().Generation
}

// forgetFence takes the fence number of a day that holds nothing, once no attempt
// of before it can be under way.
func (s *Store) forgetFence(ctx context.Context, c *Catalog) error {
	if c.cell == nil || c.Manifest != nil || len(c.L0) > 0 || s.nowMillis()-c.cellTime < fenceLife.Milliseconds() {
		return nil
	}
	_, err := s.opts.Rows.CheckAndMutate(ctx, schema.CatalogKey(c.Tenant, c.Day), c.unchanged(), []rows.Mutation{rows.DeleteColumn(rows.Data, schema.VersionQualifier)}, nil)
	return err
}
