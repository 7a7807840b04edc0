package index

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// Row is a row with pages of a metric or values of a label. It may have cells of several
// generations; the catalog has the version of the published one.
type Row = rows.Row

// Cell is a cell of a Row.
type Cell = rows.Cell

// maxReads is the number of concurrent reads of one call.
const maxReads = 64

// Generations gives access to the rows of pages, names and values. A row may have cells
// of several generations.
type Generations struct {
	table
	codec   *schema.Codec
	rereads prometheus.Counter
}

// Published returns the catalogs that have a manifest, by day.
func Published(list []Catalog) map[int64]*Catalog {
	out := map[int64]*Catalog{}
	for i := range list {
		if list[i].Manifest != nil {
			out[list[i].Day] = &list[i]
		}
	}
	return out
}

// Write writes the rows of a pack's index, the names first: the sweep of an unpublished
// attempt uses the names to find the other rows.
func (s *Generations) Write(ctx context.Context, d TenantDay, stamp int64, b *Builder) error {
	ms := b.rows(d.Tenant, d.Day, stamp)
	b.cells, b.pages = nil, nil
	if err := s.mutateRows(ctx, ms); err != nil {
		return fmt.Errorf("write index rows: %w", err)
	}
	return nil
}

// PagesOf reads the rows with the pages of metrics in a range of days: the first perRow
// cells of each row, of all generations.
func (s *Generations) PagesOf(ctx context.Context, t tenant.ID, metrics []string, first, last int64, perRow int) ([]Row, error) {
	var ranges []rows.Range
	for _, n := range metrics {
		start, end := schema.PagesRange(t, n, first, last)
		ranges = append(ranges, rows.Range{Start: start, End: end})
	}
	return s.pages(ctx, ranges, perRow)
}

// PagesAt reads rows of pages by their keys, as PagesOf does.
func (s *Generations) PagesAt(ctx context.Context, keys []string, perRow int) ([]Row, error) {
	return s.pages(ctx, singles(keys), perRow)
}

func singles(keys []string) []rows.Range {
	out := make([]rows.Range, 0, len(keys))
	for _, k := range keys {
		out = append(out, rows.Single(k))
	}
	return out
}

func (s *Generations) pages(ctx context.Context, ranges []rows.Range, perRow int) ([]Row, error) {
	var out []Row
	f := rows.Filter{Families: []rows.Family{rows.Data}, MinTime: s.oldest(), Latest: true, CellsPerRow: perRow}
	for some := range slices.Chunk(ranges, rows.MaxRanges) {
		err := s.rows.ReadRows(ctx, some, f, func(r rows.Row) bool { out = append(out, r); return true })
		if err != nil {
			return nil, fmt.Errorf("read pages: %w", err)
		}
	}
	return out, nil
}

// Row reads the cells of one generation in a row: those with the given qualifiers, or all
// if qualifiers is empty. It returns an empty Row if there are none.
func (s *Generations) Row(ctx context.Context, key string, v schema.Version, qualifiers []string) (Row, error) {
	f := rows.Filter{Families: []rows.Family{rows.Data}, MinTime: s.oldest(), Latest: true}
	if len(qualifiers) > 0 {
		f.Qualifiers = qualifiers
	} else {
		f.QualifierPrefix = v.Prefix()
	}
	var out Row
	err := s.rows.ReadRows(ctx, []rows.Range{rows.Single(key)}, f, func(r rows.Row) bool { out = r; return true })
	return out, err
}

// ExactRow names a row to be read, and the catalog whose published generation is read.
type ExactRow struct {
	Catalog *Catalog
	Key     string
}

// Exact reads the cells of the published generations in rows: the first perRow cells of
// each row, or all if perRow is 0. It reads up to rows.MaxRanges rows of a day in one call
// of the row store. The catalogs were read before, so a cell that it does not find does
// not exist.
func (s *Generations) Exact(ctx context.Context, list []ExactRow, perRow int) (map[string]Row, error) {
	byDay := map[*Catalog][]rows.Range{}
	for _, e := range list {
		byDay[e.Catalog] = append(byDay[e.Catalog], rows.Single(e.Key))
	}
	var mu sync.Mutex
	out := map[string]Row{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxReads)
	for c, ranges := range byDay {
		f := rows.Filter{Families: []rows.Family{rows.Data}, QualifierPrefix: c.Manifest.Version.Prefix(),
			MinTime: s.oldest(), Latest: true, CellsPerRow: perRow}
		for some := range slices.Chunk(ranges, rows.MaxRanges) {
			g.Go(func() error {
				return s.rows.ReadRows(ctx, some, f, func(r rows.Row) bool {
					mu.Lock()
					defer mu.Unlock()
					out[r.Key] = r
					return true
				})
			})
		}
	}
	s.rereads.Add(float64(len(list)))
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("read rows of the published generation: %w", err)
	}
	return out, nil
}

// EachValues calls visit for the rows with the values of a label in a range of days,
// until visit returns an error.
func (s *Generations) EachValues(ctx context.Context, t tenant.ID, label string, first, last int64,
	visit func(day int64, r Row) error) error {
	start, end := schema.ValuesRange(t, label, first, last)
	var broken error
	err := s.rows.ReadRows(ctx, []rows.Range{{Start: start, End: end}},
		rows.Filter{Families: []rows.Family{rows.Data}, MinTime: s.oldest(), Latest: true}, func(r rows.Row) bool {
			_, _, day, ok := schema.ParseValuesKey(r.Key)
			if !ok {
				broken = fmt.Errorf("row %q is not a row of label values", r.Key)
				return false
			}
			broken = visit(day, r)
			return broken == nil
		})
	if err == nil {
		err = broken
	}
	if err != nil {
		return fmt.Errorf("read values of label %s: %w", label, err)
	}
	return nil
}

// rowsPerCall is the number of rows per read when all rows of a generation are read.
const rowsPerCall = 512

// Delete deletes the cells of one generation of a day: first those in the rows that its
// names list, then the names.
func (s *Generations) Delete(ctx context.Context, d TenantDay, v schema.Version) error {
	parts, err := s.Names(ctx, d.Tenant, d.Day, d.Day)
	if err != nil {
		return err
	}
	for keys := range slices.Chunk(keysOf(d, v, parts), rowsPerCall) {
		if err := s.deleteCells(ctx, keys, v); err != nil {
			return err
		}
	}
	return s.deleteCells(ctx, []rows.Range{rows.Single(schema.NamesKey(d.Tenant, d.Day))}, v)
}

// keysOf returns the keys of the rows of a generation, except the row of its names.
func keysOf(d TenantDay, v schema.Version, parts []NamesPart) []rows.Range {
	var keys []rows.Range
	for _, p := range parts {
		if p.Version != v {
			continue
		}
		for i := range p.Names.Metrics {
			keys = append(keys, rows.Single(schema.PagesKey(d.Tenant, p.Names.Metrics[i].Name, d.Day)))
		}
		for i := range p.Names.Labels {
			keys = append(keys, rows.Single(schema.ValuesKey(d.Tenant, p.Names.Labels[i].Name, d.Day)))
		}
	}
	return keys
}

// deleteCells deletes the cells of a generation in the given rows.
func (s *Generations) deleteCells(ctx context.Context, keys []rows.Range, v schema.Version) error {
	var ms []rows.RowMutation
	err := s.rows.ReadRows(ctx, keys, rows.Filter{Families: []rows.Family{rows.Data}, QualifierPrefix: v.Prefix()}, func(r rows.Row) bool {
		m := rows.RowMutation{Key: r.Key}
		for _, c := range r.Cells {
			m.Mutations = append(m.Mutations, rows.DeleteColumn(rows.Data, c.Qualifier))
		}
		ms = append(ms, m)
		return true
	})
	if err != nil {
		return fmt.Errorf("read rows of generation %s: %w", v, err)
	}
	return s.mutateRows(ctx, ms)
}

// restampedRows is the number of rows that Restamp reads and rewrites at once.
const restampedRows = 256

// Restamp rewrites the cells of a day's published generation with another timestamp
// (Unix milliseconds).
func (s *Generations) Restamp(ctx context.Context, c *Catalog, stamp int64) error {
	parts, err := s.Names(ctx, c.Tenant, c.Day, c.Day)
	if err == nil {
		parts, err = s.PublishedNames(ctx, []Catalog{*c}, parts)
	}
	if err != nil {
		return err
	}
	keys := append([]rows.Range{rows.Single(schema.NamesKey(c.Tenant, c.Day))},
		keysOf(TenantDay{c.Tenant, c.Day}, c.Manifest.Version, parts)...)
	f := rows.Filter{Families: []rows.Family{rows.Data}, QualifierPrefix: c.Manifest.Version.Prefix(), Latest: true}
	for some := range slices.Chunk(keys, restampedRows) {
		var ms []rows.RowMutation
		err := s.rows.ReadRows(ctx, some, f, func(r rows.Row) bool {
			m := rows.RowMutation{Key: r.Key}
			for _, cell := range r.Cells {
				if cell.Time != stamp {
					m.Mutations = append(m.Mutations, rows.Set(rows.Data, cell.Qualifier, stamp, cell.Value),
						rows.DeleteCell(rows.Data, cell.Qualifier, cell.Time))
				}
			}
			if len(m.Mutations) > 0 {
				ms = append(ms, m)
			}
			return true
		})
		if err == nil {
			err = s.mutateRows(ctx, ms)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// EachCell calls visit for the cells of a generation in the given rows.
func (s *Generations) EachCell(ctx context.Context, keys []string, v schema.Version,
	visit func(key, qualifier string, value []byte)) error {
	f := rows.Filter{Families: []rows.Family{rows.Data}, QualifierPrefix: v.Prefix(), MinTime: s.oldest(), Latest: true}
	for some := range slices.Chunk(singles(keys), rowsPerCall) {
		err := s.rows.ReadRows(ctx, some, f, func(r rows.Row) bool {
			for _, cell := range r.Cells {
				visit(r.Key, cell.Qualifier, cell.Value)
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Cells collects cells to be written. Each replaces all existing versions of the
// same cell.
type Cells struct {
	stamp int64
	byKey map[string]int
	ms    []rows.RowMutation
}

// NewCells returns an empty collection of cells with the given timestamp.
func NewCells(stamp int64) *Cells { return &Cells{stamp: stamp, byKey: map[string]int{}} }

// Set adds a cell.
func (c *Cells) Set(key, qualifier string, value []byte) {
	i, ok := c.byKey[key]
	if !ok {
		i = len(c.ms)
		c.byKey[key] = i
		c.ms = append(c.ms, rows.RowMutation{Key: key})
	}
	// Delete all versions of the cell: a damaged one may have a later timestamp.
	c.ms[i].Mutations = append(c.ms[i].Mutations, rows.DeleteColumn(rows.Data, qualifier), rows.Set(rows.Data, qualifier, c.stamp, value))
}

// Rewrite writes the collected cells.
func (s *Generations) Rewrite(ctx context.Context, c *Cells) error { return s.mutateRows(ctx, c.ms) }
