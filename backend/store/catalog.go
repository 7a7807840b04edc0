package store

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

// Catalog is what the index says of one tenant's UTC day.
type Catalog struct {
	Tenant   tenant.ID
	Day      int64
	Manifest *schema.Manifest // nil: nothing is published
	L0       []L0             // sections of L0 packs that are not compacted yet

	cell     []byte // of the version, as it was read; nil: there is none
	cellTime int64  // its timestamp
}

// empty reports whether the day holds nothing that can be read.
func (c *Catalog) empty() bool { return c.Manifest == nil && len(c.L0) == 0 }

// L0 is a tenant's section of an L0 pack.
type L0 struct {
	ID ulid.ULID
	schema.L0Entry
}

// version is that of the manifest; zero when there is none.
func (c *Catalog) version() schema.Version {
	if c.Manifest == nil {
		return schema.Version{}
	}
	return c.Manifest.Version
}

// deletion is a deletion of series, ready to be asked.
type deletion struct {
	schema.Tombstone
	matches func(labels.Labels) bool
}

// Catalog reads what there is of a tenant's day.
func (s *Store) Catalog(ctx context.Context, t tenant.ID, day int64) (Catalog, error) {
	list, _, err := s.catalogRows(ctx, t, day, day, always)
	if err != nil || len(list) == 0 {
		return Catalog{Tenant: t, Day: day}, err
	}
	return list[0], nil
}

// catalogs reads the catalogs of a tenant's days that hold something, ascending,
// and the tenant's deletions, in one call. Cells whose time has passed are as if
// they were not there: a cluster's store collects them when it likes.
func (s *Store) catalogs(ctx context.Context, t tenant.ID, first, last int64) ([]Catalog, []deletion, error) {
	return s.catalogsSince(ctx, t, first, last, s.oldest())
}

// held is catalogs with the cells whose time has passed, as far as they are there:
// whoever decides what is deleted must not take a day for empty by its clock.
func (s *Store) held(ctx context.Context, t tenant.ID, first, last int64) ([]Catalog, []deletion, error) {
	return s.catalogsSince(ctx, t, first, last, always)
}

// always is the time of the oldest cells where none is too old.
const always = math.MinInt64

func (s *Store) catalogsSince(ctx context.Context, t tenant.ID, first, last, oldest int64) ([]Catalog, []deletion, error) {
	list, deletions, err := s.catalogRows(ctx, t, first, last, oldest)
	return slices.DeleteFunc(list, func(c Catalog) bool { return c.empty() }), deletions, err
}

// catalogRows reads the catalogs of a tenant's days, also of those that have a fence
// number alone, from cells that are not older than oldest.
func (s *Store) catalogRows(ctx context.Context, t tenant.ID, first, last, oldest int64) ([]Catalog, []deletion, error) {
	start, end := schema.CatalogRange(t, first, last)
	ranges := []rows.Range{{Start: start, End: end}, rows.Single(schema.TenantKey(t))}
	var list []Catalog
	var deletions []deletion
	var broken error
	err := s.opts.Rows.ReadRows(ctx, ranges, rows.Filter{MinTime: 0, Latest: true}, func(r rows.Row) bool {
		if r.Key == schema.TenantKey(t) {
			deletions, broken = s.decodeDeletions(r)
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

// decodeCatalog reads a catalog row, from cells that are not older than oldest.
func decodeCatalog(r rows.Row, oldest int64) (Catalog, error) {
	t, day, ok := schema.ParseCatalogKey(r.Key)
	if !ok {
		return Catalog{}, fmt.Errorf("row %q is not a catalog row", r.Key)
	}
	c := Catalog{Tenant: t, Day: day}
	for _, cell := range r.Cells {
		if cell.Family == rows.Data && cell.Qualifier == schema.VersionQualifier {
			c.cell, c.cellTime = cell.Value, cell.Time // also an old one: conditions are about what is there
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
				return c, fmt.Errorf("catalog of day %d has the cell %q", day, cell.Qualifier)
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

func (s *Store) decodeDeletions(r rows.Row) ([]deletion, error) {
	var out []deletion
	for _, cell := range r.Cells {
		if cell.Family != rows.System || !strings.HasPrefix(cell.Qualifier, schema.TombstonePrefix) && !strings.HasPrefix(cell.Qualifier, schema.PendingPrefix) {
			continue
		}
		t, err := schema.DecodeTombstone(cell.Value)
		if err != nil {
			return nil, fmt.Errorf("deletion %q: %w", cell.Qualifier, err)
		}
		matches, err := t.Compile()
		if err != nil {
			return nil, fmt.Errorf("deletion %d: %w", t.Number, err)
		}
		out = append(out, deletion{Tombstone: t, matches: matches})
	}
	return out, nil
}

// deletionsAfter returns what the deletions above a number took of a series.
func (q *query) deletionsAfter(number uint64, ls labels.Labels) []series.Interval {
	return deletedAfter(q.deletions, number, ls)
}

func deletedAfter(list []deletion, number uint64, ls labels.Labels) []series.Interval {
	var out []series.Interval
	for i := range list {
		d := &list[i]
		if d.Number > number && d.State == schema.Active && d.matches(ls) {
			out = append(out, series.Interval{Min: d.MinTime, Max: d.MaxTime})
		}
	}
	return out
}

// cutDeleted takes deleted intervals out of chunks. Chunks without data stand
// for a series' span only; they go when all of it is deleted.
func cutDeleted(chunks []series.Chunk, gone []series.Interval, labelsOnly bool) ([]series.Chunk, error) {
	if !labelsOnly {
		return series.Without(chunks, gone)
	}
	for _, g := range gone {
		if g.Min <= chunks[0].MinTime && g.Max >= chunks[0].MaxTime {
			return nil, nil
		}
	}
	return chunks, nil
}

// forever stands for the expiry of what is kept for ever.
const forever = int64(253402300799000) // the end of the year 9999

// stamp returns the timestamp for the cells of a tenant's day, and the day's
// expiry (Unix milliseconds; 0 is never). Readers do not go by the timestamp;
// it only lets the store collect cells long after their time.
func (s *Store) stamp(ctx context.Context, t tenant.ID, day int64) (stamp, expiry int64, err error) {
	keep, err := s.opts.Retention(ctx, t)
	if err != nil {
		return 0, 0, fmt.Errorf("retention of tenant %s: %w", t, err)
	}
	stamp, expiry = stampFor(day, keep)
	return stamp, expiry, nil
}

func stampFor(day int64, keep time.Duration) (stamp, expiry int64) {
	if keep == 0 {
		return forever, 0
	}
	expiry = (day+1)*series.DayMillis + keep.Milliseconds()
	return min(max(expiry+expiryDelay.Milliseconds()-cellLife.Milliseconds(), 0), forever), expiry
}

// Deletions is the deletions of series of a tenant.
type Deletions struct{ list []deletion }

// Day reads a tenant's day and its deletions, for compaction.
func (s *Store) Day(ctx context.Context, t tenant.ID, day int64) (Catalog, Deletions, error) {
	list, deletions, err := s.catalogRows(ctx, t, day, day, always)
	if err != nil || len(list) == 0 {
		return Catalog{Tenant: t, Day: day}, Deletions{deletions}, err
	}
	return list[0], Deletions{deletions}, nil
}

// After tells what the deletions above a number took of a series.
func (d Deletions) After(number uint64, ls labels.Labels) []series.Interval {
	return deletedAfter(d.list, number, ls)
}

// Last is the number of the last deletion; one that is not active yet does not
// count, and ok is false.
func (d Deletions) Last() (number uint64, ok bool) {
	ok = true
	for i := range d.list {
		number = max(number, d.list[i].Number)
		ok = ok && d.list[i].State == schema.Active
	}
	return number, ok
}

// Above reports whether there is an active deletion above a number.
func (d Deletions) Above(number uint64) bool {
	for i := range d.list {
		if d.list[i].State == schema.Active && d.list[i].Number > number {
			return true
		}
	}
	return false
}
