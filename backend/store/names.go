package store

import (
	"context"
	"fmt"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// namesPart is the metric names of one pack of a day.
type namesPart struct {
	day     int64
	version schema.Version
	part    int
	names   schema.Names
}

// names reads the metric names of a tenant's days, of all generations.
func (s *Store) names(ctx context.Context, t tenant.ID, first, last int64) ([]namesPart, error) {
	start, end := schema.NamesRange(t, first, last)
	var out []namesPart
	var broken error
	f := rows.Filter{Families: []rows.Family{rows.Data}, MinTime: s.oldest(), Latest: true}
	err := s.opts.Rows.ReadRows(ctx, []rows.Range{{Start: start, End: end}}, f, func(r rows.Row) bool {
		var parts []namesPart
		parts, broken = s.decodeNames(r)
		out = append(out, parts...)
		return broken == nil
	})
	if err == nil {
		err = broken
	}
	if err != nil {
		return nil, fmt.Errorf("read metric names: %w", err)
	}
	return out, nil
}

// decodeNames reads a row of names.
func (s *Store) decodeNames(r rows.Row) ([]namesPart, error) {
	_, day, ok := schema.ParseNamesKey(r.Key)
	if !ok {
		return nil, fmt.Errorf("row %q is not a row of names", r.Key)
	}
	var out []namesPart
	for _, cell := range r.Cells {
		v, _, part, _, ok := schema.ParseQualifier(cell.Qualifier)
		if !ok {
			return nil, fmt.Errorf("row %q has the cell %q", r.Key, cell.Qualifier)
		}
		n, err := s.codec.DecodeNames(cell.Value)
		if err != nil {
			return nil, fmt.Errorf("names of day %d: %w", day, err)
		}
		out = append(out, namesPart{day: day, version: v, part: part, names: n})
	}
	return out, nil
}

// publishedNames keeps the names of the published generations, by day and part.
// A day of which parts does not have all of them is read again by its exact
// generation: parts may have been read before the catalogs were. A manifest has
// names of each of its packs, so what is missing then is an error.
func (s *Store) publishedNames(ctx context.Context, catalogs []Catalog, parts []namesPart) ([]namesPart, error) {
	byDay := published(catalogs)
	have := map[int64][]namesPart{}
	for _, p := range parts {
		if c := byDay[p.day]; c != nil && c.Manifest.Version == p.version {
			have[p.day] = append(have[p.day], p)
		}
	}
	var again []exactRow
	for i := range catalogs {
		if c := &catalogs[i]; c.Manifest != nil && len(have[c.Day]) != len(c.Manifest.Packs) {
			again = append(again, exactRow{c, schema.NamesKey(c.Tenant, c.Day)})
		}
	}
	if len(again) > 0 {
		byKey, err := s.exactRows(ctx, again, 0)
		if err != nil {
			return nil, err
		}
		for _, e := range again {
			list, err := s.namesOf(e, byKey[e.key])
			if err != nil {
				return nil, fmt.Errorf("read metric names: %w", err)
			}
			have[e.catalog.Day] = list
		}
	}
	var out []namesPart
	for i := range catalogs {
		out = append(out, have[catalogs[i].Day]...)
	}
	return out, nil
}

// namesOf reads the names of a day out of the row of exactly its generation.
func (s *Store) namesOf(e exactRow, r rows.Row) ([]namesPart, error) {
	packs := len(e.catalog.Manifest.Packs)
	if len(r.Cells) != packs {
		return nil, fmt.Errorf("row %q has names of %d of the %d packs of the published generation %s: %w",
			e.key, len(r.Cells), packs, e.catalog.Manifest.Version, ErrIndex)
	}
	if packs == 0 {
		return nil, nil
	}
	return s.decodeNames(r)
}
