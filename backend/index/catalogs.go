package index

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// Catalog is the catalog row of one tenant's UTC day: the manifest with the published
// packs, and the L0 packs.
type Catalog struct {
	Tenant   tenant.ID
	Day      int64
	Manifest *schema.Manifest // nil if nothing is published
	L0       []L0             // sections of L0 packs that are not compacted yet

	cell     []byte // value of the version cell as it was read; nil if there is none
	cellTime int64  // timestamp of the version cell
}

// Catalogs gives access to the catalog rows.
type Catalogs struct{ table }

// Empty reports whether the day has neither a manifest nor L0 packs.
func (c *Catalog) Empty() bool { return c.Manifest == nil && len(c.L0) == 0 }

// L0 is a tenant's section of an L0 pack.
type L0 struct {
	ID ulid.ULID
	schema.L0Entry
}

// Version returns the version of the manifest, or zero if there is none.
func (c *Catalog) Version() schema.Version {
	if c.Manifest == nil {
		return schema.Version{}
	}
	return c.Manifest.Version
}

// Read reads the catalog of a tenant's day.
func (s *Catalogs) Read(ctx context.Context, t tenant.ID, day int64) (Catalog, error) {
	c, _, err := s.Day(ctx, t, day)
	return c, err
}

// Day reads the catalog of a tenant's day and the tenant's deletions.
func (s *Catalogs) Day(ctx context.Context, t tenant.ID, day int64) (Catalog, Deletions, error) {
	list, deletions, err := s.All(ctx, t, day, day)
	if err != nil || len(list) == 0 {
		return Catalog{Tenant: t, Day: day}, deletions, err
	}
	return list[0], deletions, nil
}

// Readable reads the catalogs of a tenant's days that are not empty, ascending, and the
// tenant's deletions, in one call. It ignores cells older than CellLife, which Bigtable
// may collect at any time.
func (s *Catalogs) Readable(ctx context.Context, t tenant.ID, first, last int64) ([]Catalog, Deletions, error) {
	return s.catalogsSince(ctx, t, first, last, s.oldest())
}

// Held is Readable including cells older than CellLife that still exist, for callers that
// delete data: a wrong clock must not make a day look empty to them.
func (s *Catalogs) Held(ctx context.Context, t tenant.ID, first, last int64) ([]Catalog, Deletions, error) {
	return s.catalogsSince(ctx, t, first, last, always)
}

// Versioned is Readable including empty days that have a fence number.
func (s *Catalogs) Versioned(ctx context.Context, t tenant.ID, first, last int64) ([]Catalog, Deletions, error) {
	return s.catalogRows(ctx, t, first, last, s.oldest())
}

// Fingerprint returns the value of the version cell, which changes whenever the day is
// published, fenced or expired. It is empty if there is no such cell.
func (c *Catalog) Fingerprint() []byte { return c.cell }

// All is Held including the catalogs of empty days, which have a fence number only.
func (s *Catalogs) All(ctx context.Context, t tenant.ID, first, last int64) ([]Catalog, Deletions, error) {
	return s.catalogRows(ctx, t, first, last, always)
}

func (s *Catalogs) catalogsSince(ctx context.Context, t tenant.ID, first, last, oldest int64) ([]Catalog, Deletions, error) {
	list, deletions, err := s.catalogRows(ctx, t, first, last, oldest)
	return slices.DeleteFunc(list, func(c Catalog) bool { return c.Empty() }), deletions, err
}

// catalogRows reads the catalogs of a tenant's days, including empty ones, from cells
// with timestamps of at least oldest (Unix milliseconds).
func (s *Catalogs) catalogRows(ctx context.Context, t tenant.ID, first, last, oldest int64) ([]Catalog, Deletions, error) {
	start, end := schema.CatalogRange(t, first, last)
	ranges := []rows.Range{{Start: start, End: end}, rows.Single(schema.TenantKey(t))}
	var list []Catalog
	var deletions Deletions
	var broken error
	err := s.rows.ReadRows(ctx, ranges, rows.Filter{MinTime: 0, Latest: true}, func(r rows.Row) bool {
		if r.Key == schema.TenantKey(t) {
			deletions, broken = decodeDeletions(r)
			return broken == nil
		}
		c, err := decodeCatalog(r, oldest)
		if broken = err; err == nil {
			list = append(list, c)
		}
		return broken == nil
	})
	if err == nil {
		err = broken
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read catalog of tenant %s: %w", t, err)
	}
	return list, deletions, nil
}

// decodeCatalog decodes a catalog row, from cells with timestamps of at least oldest.
func decodeCatalog(r rows.Row, oldest int64) (Catalog, error) {
	t, day, ok := schema.ParseCatalogKey(r.Key)
	if !ok {
		return Catalog{}, fmt.Errorf("row %q is not a catalog row", r.Key)
	}
	c := Catalog{Tenant: t, Day: day}
	for _, cell := range r.Cells {
		if cell.Family == rows.Data && cell.Qualifier == schema.VersionQualifier {
			c.cell, c.cellTime = cell.Value, cell.Time // even if too old: conditions compare the existing cell
		}
		if cell.Family != rows.Data || cell.Time < oldest {
			continue
		}
		switch {
		case cell.Qualifier == schema.ManifestQualifier:
			m, err := schema.DecodeManifest(cell.Value)
			if err != nil {
				return c, fmt.Errorf("manifest of day %d: %w", day, err)
			}
			c.Manifest = &m
		case strings.HasPrefix(cell.Qualifier, schema.L0Prefix):
			id, ok := schema.ParseL0Qualifier(cell.Qualifier)
			if !ok {
				return c, fmt.Errorf("catalog of day %d has a cell with the invalid qualifier %q", day, cell.Qualifier)
			}
			e, err := schema.DecodeL0Entry(cell.Value)
			if err != nil {
				return c, fmt.Errorf("L0 cell %s of day %d: %w", id, day, err)
			}
			c.L0 = append(c.L0, L0{ID: id, L0Entry: e})
		}
	}
	return c, nil
}

// L0Cell is the cell for an L0 pack in the catalog of a tenant's day.
type L0Cell struct {
	TenantDay
	Stamp int64 // timestamp of the cell, Unix milliseconds
	Entry schema.L0Entry
}

// AddL0 writes the cells of an L0 pack.
func (s *Catalogs) AddL0(ctx context.Context, id ulid.ULID, cells []L0Cell) error {
	ms := make([]rows.RowMutation, 0, len(cells))
	for i := range cells {
		c := &cells[i]
		ms = append(ms, rows.RowMutation{Key: schema.CatalogKey(c.Tenant, c.Day),
			Mutations: []rows.Mutation{rows.Set(rows.Data, schema.L0Qualifier(id), c.Stamp, c.Entry.Encode())}})
	}
	if err := s.mutateRows(ctx, ms); err != nil {
		return fmt.Errorf("write catalog cells: %w", err)
	}
	return nil
}

// DropL0 removes the L0 packs from a day's catalog without compacting them, because the
// day is beyond retention or its tenant was deleted.
func (s *Catalogs) DropL0(ctx context.Context, c *Catalog) error {
	if len(c.L0) == 0 {
		return nil
	}
	m := rows.RowMutation{Key: schema.CatalogKey(c.Tenant, c.Day)}
	for _, l := range c.L0 {
		m.Mutations = append(m.Mutations, rows.DeleteColumn(rows.Data, schema.L0Qualifier(l.ID)))
	}
	if err := s.rows.Mutate(ctx, m); err != nil {
		return fmt.Errorf("remove L0 packs from day %d of tenant %s: %w", c.Day, c.Tenant, err)
	}
	return nil
}

// WithL0 returns the days among the given ones whose catalogs have a cell of the L0
// pack.
func (s *Catalogs) WithL0(ctx context.Context, id ulid.ULID, days []TenantDay) ([]TenantDay, error) {
	keys := make([]rows.Range, 0, len(days))
	for _, d := range days {
		keys = append(keys, rows.Single(schema.CatalogKey(d.Tenant, d.Day)))
	}
	filter := rows.Filter{Families: []rows.Family{rows.Data}, Qualifiers: []string{schema.L0Qualifier(id)}, MinTime: max(s.oldest(), 0),
		Latest: true}
	var out []TenantDay
	for batch := range slices.Chunk(keys, rows.MaxRanges) {
		err := s.rows.ReadRows(ctx, batch, filter, func(r rows.Row) bool {
			t, day, _ := schema.ParseCatalogKey(r.Key)
			out = append(out, TenantDay{t, day})
			return true
		})
		if err != nil {
			return nil, fmt.Errorf("read the cells of L0 pack %s: %w", id, err)
		}
	}
	return out, nil
}

// RemoveL0 deletes the cells of an L0 pack from catalogs, and its receipts from the work
// rows of days.
func (ix *Index) RemoveL0(ctx context.Context, id ulid.ULID, catalogs []TenantDay, days []int64) error {
	var ms []rows.RowMutation
	for _, d := range catalogs {
		ms = append(ms, rows.RowMutation{Key: schema.CatalogKey(d.Tenant, d.Day),
			Mutations: []rows.Mutation{rows.DeleteColumn(rows.Data, schema.L0Qualifier(id))}})
	}
	for _, day := range days {
		ms = append(ms, rows.RowMutation{Key: schema.WorkKey(day),
			Mutations: []rows.Mutation{rows.DeleteColumn(rows.System, schema.ReceiptQualifier(id))}})
	}
	if err := ix.mutateRows(ctx, ms); err != nil {
		return fmt.Errorf("remove L0 pack %s from the index: %w", id, err)
	}
	return nil
}
