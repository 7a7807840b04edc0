package store

import (
	"context"
	"fmt"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// RebuildReport counts what RebuildIndex did.
type RebuildReport struct {
	Recovered          int // manifests that were lost and made again
	Days, Packs, Cells int
	Bytes, Read        int64 // size of the packs, and bytes read of them
}

// RebuildIndex writes the rows of the index of published days again, from what
// the packs keep of them. It reads only the ends of packs. Days that have packs
// and no manifest get one again first; L0 packs that no catalog names are entered
// into it.
func (s *Store) RebuildIndex(ctx context.Context, tenants []tenant.ID) (RebuildReport, error) {
	var report RebuildReport
	if err := s.recoverL0(ctx); err != nil {
		return report, err
	}
	for _, t := range tenants {
		n, err := s.recoverManifests(ctx, t)
		report.Recovered += n
		if err != nil {
			return report, fmt.Errorf("recover manifests of tenant %s: %w", t, err)
		}
		list, _, err := s.catalogs(ctx, t, 0, lastDay)
		if err != nil {
			return report, err
		}
		for i := range list {
			if list[i].Manifest == nil {
				continue
			}
			if err := s.rebuildDay(ctx, &list[i], &report); err != nil {
				return report, fmt.Errorf("rebuild day %d of tenant %s: %w", list[i].Day, t, err)
			}
			report.Days++
		}
	}
	return report, nil
}

func (s *Store) rebuildDay(ctx context.Context, c *Catalog, report *RebuildReport) error {
	stamp, _, err := s.stamp(ctx, c.Tenant, c.Day)
	if err != nil {
		return err
	}
	for part := range c.Manifest.Packs {
		e := &c.Manifest.Packs[part]
		r, read, err := s.openTail(ctx, e)
		if err != nil {
			return err
		}
		byKey := map[string]int{}
		var ms []rows.RowMutation
		err = s.indexOf(r, c.Tenant, c.Day, c.Manifest.Version, part, func(key, qualifier string, value []byte) {
			i, ok := byKey[key]
			if !ok {
				i = len(ms)
				byKey[key] = i
				ms = append(ms, rows.RowMutation{Key: key})
			}
			// All versions of the cell go: a damaged one may have a later timestamp.
			ms[i].Mutations = append(ms[i].Mutations, rows.DeleteColumn(rows.Data, qualifier), rows.Set(rows.Data, qualifier, stamp, value))
			report.Cells++
		})
		report.Read += read()
		report.Bytes += e.Size
		report.Packs++
		if rerr := r.Release(); err == nil {
			err = rerr
		}
		if err == nil {
			err = s.mutateRows(ctx, ms)
		}
		if err != nil {
			return fmt.Errorf("object %s: %w", e.Object, err)
		}
	}
	return nil
}

// openTail opens a compacted pack and fetches its index in one read. read tells
// how many bytes were fetched so far.
func (s *Store) openTail(ctx context.Context, e *schema.PackEntry) (r *pack.Reader, read func() int64, err error) {
	src := &objectSource{ctx: ctx, s: s, object: e.Object, size: e.Size, exact: true}
	read = func() int64 { src.mu.Lock(); defer src.mu.Unlock(); return src.fetched }
	if r, err = s.openSource(src, e.ID); err != nil {
		return nil, read, err
	}
	for i := range r.Info().Sections {
		if p := r.IndexPlace(i); p.Length > 0 {
			if _, err := src.Range(p.Offset, p.Length); err != nil {
				_ = r.Release()
				return nil, read, err
			}
		}
	}
	return r, read, nil
}

// indexOf calls set for every cell of the index that a compacted pack keeps.
func (s *Store) indexOf(r *pack.Reader, t tenant.ID, day int64, v schema.Version, part int, set func(key, qualifier string, value []byte)) error {
	number, metric := 0, ""
	first := true
	err := r.EachIndexPage(0, func(m string, block []byte) error {
		if first || m != metric {
			number, metric, first = 0, m, false
		}
		set(schema.PagesKey(t, m, day), schema.PageQualifier(v, part, number), block)
		number++
		return nil
	})
	if err != nil {
		return err
	}
	cells, err := r.IndexCells(0)
	if err != nil {
		return err
	}
	for _, c := range cells {
		ic := indexCell{name: c.Name, value: c.Value}
		if err := ic.check(); err != nil {
			return err
		}
		if c.Name[0] == cellGeneration {
			continue
		}
		key, qualifier := ic.place(t, day, v, part)
		set(key, qualifier, c.Value)
	}
	return nil
}
