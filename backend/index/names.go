package index

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// NamesPart is the metric and label names of one pack of a generation.
type NamesPart struct {
	Day     int64
	Version schema.Version
	Part    int
	Names   schema.Names
}

// Names reads the names rows of a tenant's days, of all generations.
func (s *Generations) Names(ctx context.Context, t tenant.ID, first, last int64) ([]NamesPart, error) {
	start, end := schema.NamesRange(t, first, last)
	var out []NamesPart
	var broken error
	f := rows.Filter{Families: []rows.Family{rows.Data}, MinTime: s.oldest(), Latest: true}
	err := s.rows.ReadRows(ctx, []rows.Range{{Start: start, End: end}}, f, func(r rows.Row) bool {
		var parts []NamesPart
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

// decodeNames decodes a row of names.
func (s *Generations) decodeNames(r rows.Row) ([]NamesPart, error) {
	_, day, ok := schema.ParseNamesKey(r.Key)
	if !ok {
		return nil, fmt.Errorf("row %q is not a row of names", r.Key)
	}
	var out []NamesPart
	for _, cell := range r.Cells {
		v, _, part, _, ok := schema.ParseQualifier(cell.Qualifier)
		if !ok {
			return nil, fmt.Errorf("row %q has a cell with the invalid qualifier %q", r.Key, cell.Qualifier)
		}
		n, err := s.codec.DecodeNames(cell.Value)
		if err != nil {
			return nil, fmt.Errorf("names of day %d: %w", day, err)
		}
		out = append(out, NamesPart{Day: day, Version: v, Part: part, Names: n})
	}
	return out, nil
}

// PublishedNames returns the names of the published generations among parts, in the order
// of the catalogs. Since `parts` may have been read before the catalogs, a day without the
// names of all packs of its manifest is read again by its exact generation. If names are
// still missing, PublishedNames returns ErrInconsistent.
func (s *Generations) PublishedNames(ctx context.Context, catalogs []Catalog, parts []NamesPart) ([]NamesPart, error) {
	byDay := Published(catalogs)
	have := map[int64][]NamesPart{}
	for _, p := range parts {
		if c := byDay[p.Day]; c != nil && c.Manifest.Version == p.Version {
			have[p.Day] = append(have[p.Day], p)
		}
	}
	var again []ExactRow
	for i := range catalogs {
		if c := &catalogs[i]; c.Manifest != nil && len(have[c.Day]) != len(c.Manifest.Packs) {
			again = append(again, ExactRow{c, schema.NamesKey(c.Tenant, c.Day)})
		}
	}
	if len(again) > 0 {
		byKey, err := s.Exact(ctx, again, 0)
		if err != nil {
			return nil, err
		}
		for _, e := range again {
			list, err := s.namesOf(e, byKey[e.Key])
			if err != nil {
				return nil, fmt.Errorf("read metric names: %w", err)
			}
			have[e.Catalog.Day] = list
		}
	}
	var out []NamesPart
	for i := range catalogs {
		out = append(out, have[catalogs[i].Day]...)
	}
	return out, nil
}

// namesOf decodes the names of a day from the cells of exactly its generation.
func (s *Generations) namesOf(e ExactRow, r rows.Row) ([]NamesPart, error) {
	packs := len(e.Catalog.Manifest.Packs)
	if len(r.Cells) != packs {
		return nil, fmt.Errorf("row %q has the names of %d of the %d packs of the published generation %s: %w",
			e.Key, len(r.Cells), packs, e.Catalog.Manifest.Version, ErrInconsistent)
	}
	if packs == 0 {
		return nil, nil
	}
	return s.decodeNames(r)
}

// BucketCell identifies a bucket of the values of a label, in one pack of a published generation.
type BucketCell struct {
	Catalog      *Catalog
	Label        string
	Part, Bucket int
}

// maxBucketReads is the number of days whose buckets are read concurrently. It is smaller than
// maxReads, because a bucket usually has up to 128 KiB, and all buckets of a call are in memory until they
// are decoded.
const maxBucketReads = 16

// Buckets reads buckets that the names of published generations list, and calls visit for each of
// them, one after the other. It reads the buckets of a day in one call of the row store. The
// catalogs were read before, so for a missing bucket it returns ErrInconsistent.
func (s *Generations) Buckets(ctx context.Context, list []BucketCell, visit func(BucketCell, *schema.Bucket)) error {
	byDay := map[*Catalog][]BucketCell{}
	for _, b := range list {
		byDay[b.Catalog] = append(byDay[b.Catalog], b)
	}
	var mu sync.Mutex
	one := func(c BucketCell, b *schema.Bucket) {
		mu.Lock()
		defer mu.Unlock()
		visit(c, b)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxBucketReads)
	for c, buckets := range byDay {
		g.Go(func() error { return s.bucketsOfDay(ctx, c, buckets, one) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("read buckets of label values: %w", err)
	}
	return nil
}

// bucketsOfDay is Buckets for one day.
func (s *Generations) bucketsOfDay(ctx context.Context, c *Catalog, list []BucketCell, visit func(BucketCell, *schema.Bucket)) error {
	type cell struct{ key, qualifier string }
	wanted := make(map[cell]BucketCell, len(list))
	f := rows.Filter{Families: []rows.Family{rows.Data}, MinTime: s.oldest(), Latest: true}
	var keys []string
	for _, b := range list {
		k := cell{schema.ValuesKey(c.Tenant, b.Label, c.Day), schema.ValuesQualifier(c.Manifest.Version, b.Part, b.Bucket)}
		wanted[k] = b
		keys, f.Qualifiers = append(keys, k.key), append(f.Qualifiers, k.qualifier)
	}
	var broken error
	err := s.rows.ReadRows(ctx, singles(keys), f, func(r rows.Row) bool {
		for _, found := range r.Cells {
			k := cell{r.Key, found.Qualifier}
			b, ok := wanted[k]
			if !ok { // the filter applies to all rows: this bucket was requested for another label
				continue
			}
			delete(wanted, k)
			decoded, err := s.codec.DecodeBucket(found.Value)
			if err != nil {
				broken = fmt.Errorf("row %q: %w", r.Key, err)
				return false
			}
			visit(b, decoded)
		}
		return true
	})
	if err == nil {
		err = broken
	}
	for k, b := range wanted {
		if err == nil {
			err = fmt.Errorf("row %q lacks a bucket of label %s that the names of the published generation %s list: %w", k.key, b.Label,
				c.Manifest.Version, ErrInconsistent)
		}
	}
	return err
}
