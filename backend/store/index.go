package store

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

// firstCells is how many cells of a metric's row the first read takes: the
// summaries of a large metric and its first pages.
const firstCells = 8

// pageKey names a page for ever.
type pageKey struct {
	row, qualifier string
}

// readIndex reads catalogs and pages. For a named metric both come in the same
// round trip; else the metric names come with the catalogs, and the pages in the
// next one.
func (q *query) readIndex(ctx context.Context) error {
	first, last, ok := dayRange(q.req.MinTime, q.req.MaxTime)
	if !ok {
		return nil
	}
	t := q.req.Tenant
	names, named := metricNames(q.req.Matchers)
	var metricRows []rows.Row
	var parts []namesPart
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		q.catalogs, q.deletions, err = q.s.catalogs(gctx, t, first, last)
		return err
	})
	g.Go(func() (err error) {
		if !named {
			parts, err = q.s.names(gctx, t, first, last)
			return err
		}
		var ranges []rows.Range
		for _, n := range names {
			if matchesName(q.req.Matchers, n) {
				start, end := schema.PagesRange(t, n, first, last)
				ranges = append(ranges, rows.Range{Start: start, End: end})
			}
		}
		metricRows, err = q.s.metricRows(gctx, ranges)
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	byDay := q.published()
	if !named {
		var err error
		if metricRows, err = q.rowsByNames(ctx, byDay, parts); err != nil {
			return err
		}
		return q.takeRows(ctx, byDay, metricRows, "")
	}
	for _, n := range names {
		if err := q.takeRows(ctx, byDay, metricRows, n); err != nil {
			return err
		}
	}
	return nil
}

// published is the catalogs with a manifest by day.
func (q *query) published() map[int64]*Catalog {
	out := map[int64]*Catalog{}
	for i := range q.catalogs {
		if q.catalogs[i].Manifest != nil {
			out[q.catalogs[i].Day] = &q.catalogs[i]
		}
	}
	return out
}

func (s *Store) metricRows(ctx context.Context, ranges []rows.Range) ([]rows.Row, error) {
	var out []rows.Row
	err := s.opts.Rows.ReadRows(ctx, ranges, rows.Filter{Families: []rows.Family{rows.Data}, MinTime: s.oldest(), Latest: true, CellsPerRow: firstCells},
		func(r rows.Row) bool { out = append(out, r); return true })
	if err != nil {
		return nil, fmt.Errorf("read pages: %w", err)
	}
	return out, nil
}

// rowsByNames reads the rows of the metrics that the names list and the matchers
// accept. Each (metric, day) is in one of them at most.
func (q *query) rowsByNames(ctx context.Context, byDay map[int64]*Catalog, parts []namesPart) ([]rows.Row, error) {
	var ranges []rows.Range
	accepted := map[string]bool{}
	for _, p := range parts {
		c := byDay[p.day]
		if c == nil || c.Manifest.Version != p.version {
			continue
		}
		for i := range p.names.Metrics {
			m := &p.names.Metrics[i]
			ok, known := accepted[m.Name]
			if !known {
				ok = matchesName(q.req.Matchers, m.Name)
				accepted[m.Name] = ok
			}
			if ok {
				ranges = append(ranges, rows.Single(schema.PagesKey(q.req.Tenant, m.Name, p.day)))
			}
		}
	}
	slices.SortFunc(ranges, func(a, b rows.Range) int { return strings.Compare(a.Start, b.Start) })
	ranges = slices.Compact(ranges)
	var out []rows.Row
	for len(ranges) > 0 {
		n := min(len(ranges), rows.MaxRanges)
		more, err := q.s.metricRows(ctx, ranges[:n])
		if err != nil {
			return nil, err
		}
		out, ranges = append(out, more...), ranges[n:]
	}
	return out, nil
}

// incomplete is a row whose first cells were not all that the manifest's
// generation has there.
type incomplete struct {
	catalog *Catalog
	row     rows.Row
}

// takeRows takes the pages of the published generations out of rows. Rows that
// show other generations only, or more pages than their first cells have, are
// read again by exact qualifiers.
func (q *query) takeRows(ctx context.Context, byDay map[int64]*Catalog, list []rows.Row, metric string) error {
	var again []incomplete
	for _, r := range list {
		_, name, day, ok := schema.ParsePagesKey(r.Key)
		if !ok {
			return fmt.Errorf("row %q is not a row of pages", r.Key)
		}
		if metric != "" && r.Key != schema.PagesKey(q.req.Tenant, metric, day) {
			continue
		}
		c := byDay[day]
		if c == nil {
			continue // not published: whoever writes it is not done
		}
		dp := dayPages{catalog: c, metric: name}
		whole, err := q.takeCells(&dp, r.Key, r.Cells, len(r.Cells) < firstCells)
		if err != nil {
			return err
		}
		if !whole {
			again = append(again, incomplete{c, r})
			continue
		}
		q.pages = append(q.pages, dp)
	}
	return q.readAgain(ctx, again)
}

// takeCells takes the pages of the manifest's generation out of the cells of a
// row, which are in order; all says that the row has no other cells. It reports
// false when the generation may have more there.
func (q *query) takeCells(dp *dayPages, key string, cells []rows.Cell, all bool) (bool, error) {
	v := dp.catalog.Manifest.Version
	summaries, pages, declared := 0, 0, 0
	ended := all
	for _, cell := range cells {
		cv, kind, part, _, ok := schema.ParseQualifier(cell.Qualifier)
		if !ok {
			return false, fmt.Errorf("row %q has the cell %q, which is not of a page", key, cell.Qualifier)
		}
		if cv != v {
			ended = ended || pages+summaries > 0
			continue
		}
		if kind == schema.KindSummaries {
			sm, err := q.s.codec.DecodeSummaries(cell.Value)
			if err != nil {
				return false, fmt.Errorf("summaries in row %q: %w", key, err)
			}
			summaries++
			declared += sm.Len()
			continue
		}
		if err := q.takePage(dp, key, cell, part); err != nil {
			return false, err
		}
		pages++
	}
	if pages+summaries == 0 {
		return all, nil // only other generations, or nothing that is known of
	}
	if !ended {
		return false, nil
	}
	if summaries > 0 && pages != declared || summaries == 0 && pages != 1 {
		return false, fmt.Errorf("row %q has %d pages of generation %s, its summaries say %d: %w", key, pages, v, declared, ErrIndex)
	}
	return true, nil
}

func (q *query) takePage(dp *dayPages, key string, cell rows.Cell, part int) error {
	packs := dp.catalog.Manifest.Packs
	if part >= len(packs) {
		return fmt.Errorf("row %q has a page of pack %d, the manifest has %d packs: %w", key, part, len(packs), ErrIndex)
	}
	p, err := q.s.page(key, cell)
	if err != nil {
		return fmt.Errorf("page in row %q: %w", key, err)
	}
	if p.Day() != dp.catalog.Day {
		return fmt.Errorf("row %q has a page of day %d: %w", key, p.Day(), ErrIndex)
	}
	dp.pages = append(dp.pages, partPage{object: packs[part].Object, page: p})
	return nil
}

func (s *Store) page(key string, cell rows.Cell) (*pack.Page, error) {
	k := pageKey{key, cell.Qualifier}
	if p, ok := s.pages.get(k); ok {
		return p, nil
	}
	p, err := s.decoder.Page(cell.Value)
	if err != nil {
		return nil, err
	}
	s.pages.put(k, p)
	return p, nil
}

// readAgain reads what the first cells of rows left open, in one round trip: the
// pages that the summaries do not rule out, when the first cells had all
// summaries; else all cells of the manifests' generations.
func (q *query) readAgain(ctx context.Context, again []incomplete) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxGets)
	results := make([][]rows.Row, len(again))
	pruned := make([][]string, len(again))
	for i, a := range again {
		qualifiers, known, err := q.prune(a)
		if err != nil {
			return err
		}
		f := rows.Filter{Families: []rows.Family{rows.Data}, QualifierPrefix: a.catalog.Manifest.Version.Prefix(), MinTime: q.s.oldest(), Latest: true}
		if known {
			if len(qualifiers) == 0 {
				continue
			}
			pruned[i] = qualifiers
			f.QualifierPrefix, f.Qualifiers = "", qualifiers
		}
		g.Go(func() error {
			return q.s.opts.Rows.ReadRows(gctx, []rows.Range{rows.Single(a.row.Key)}, f, func(r rows.Row) bool { results[i] = append(results[i], r); return true })
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("read pages again: %w", err)
	}
	for i, a := range again {
		_, name, _, _ := schema.ParsePagesKey(a.row.Key)
		dp := dayPages{catalog: a.catalog, metric: name}
		if pruned[i] != nil {
			if err := q.takePruned(&dp, a.row.Key, results[i], pruned[i]); err != nil {
				return err
			}
			q.pages = append(q.pages, dp)
			continue
		}
		for _, r := range results[i] {
			if whole, err := q.takeCells(&dp, r.Key, r.Cells, true); err != nil {
				return err
			} else if whole {
				q.pages = append(q.pages, dp)
			}
		}
	}
	return nil
}

// prune lists the pages of a row that may hold something for the query, by the
// summaries among its first cells. known is false when those are not all there.
func (q *query) prune(a incomplete) (qualifiers []string, known bool, err error) {
	m := a.catalog.Manifest
	_, metric, day, _ := schema.ParsePagesKey(a.row.Key)
	from, to := m.PartsOf(metric)
	if metric == "" || from == to {
		return nil, false, nil
	}
	start := day * series.DayMillis
	mint, maxt := max(q.req.MinTime, start)-start, min(q.req.MaxTime, start+series.DayMillis-1)-start
	seen := 0
	for _, cell := range a.row.Cells {
		v, kind, part, _, ok := schema.ParseQualifier(cell.Qualifier)
		if !ok || v != m.Version || kind != schema.KindSummaries {
			continue
		}
		sm, err := q.s.codec.DecodeSummaries(cell.Value)
		if err != nil {
			return nil, false, fmt.Errorf("summaries in row %q: %w", a.row.Key, err)
		}
		seen++
		for page := range sm.Len() {
			if sm.MayMatch(page, mint, maxt, q.req.Matchers) {
				qualifiers = append(qualifiers, schema.PageQualifier(v, part, page))
			}
		}
	}
	return qualifiers, seen == to-from, nil
}

// takePruned takes exactly the pages that were asked for.
func (q *query) takePruned(dp *dayPages, key string, list []rows.Row, qualifiers []string) error {
	n := 0
	for _, r := range list {
		for _, cell := range r.Cells {
			_, _, part, _, ok := schema.ParseQualifier(cell.Qualifier)
			if !ok {
				return fmt.Errorf("row %q has the cell %q, which is not of a page", key, cell.Qualifier)
			}
			if err := q.takePage(dp, key, cell, part); err != nil {
				return err
			}
			n++
		}
	}
	if n != len(qualifiers) {
		return fmt.Errorf("row %q has %d of the %d pages that its summaries name: %w", key, n, len(qualifiers), ErrIndex)
	}
	return nil
}

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
	err := s.opts.Rows.ReadRows(ctx, []rows.Range{{Start: start, End: end}}, rows.Filter{Families: []rows.Family{rows.Data}, MinTime: s.oldest(), Latest: true}, func(r rows.Row) bool {
		_, day, ok := schema.ParseNamesKey(r.Key)
		if !ok {
			broken = fmt.Errorf("row %q is not a row of names", r.Key)
			return false
		}
		for _, cell := range r.Cells {
			v, _, part, _, ok := schema.ParseQualifier(cell.Qualifier)
			if !ok {
				broken = fmt.Errorf("row %q has the cell %q", r.Key, cell.Qualifier)
				return false
			}
			n, err := s.codec.DecodeNames(cell.Value)
			if err != nil {
				broken = fmt.Errorf("names of day %d: %w", day, err)
				return false
			}
			out = append(out, namesPart{day: day, version: v, part: part, names: n})
		}
		return true
	})
	if err == nil {
		err = broken
	}
	if err != nil {
		return nil, fmt.Errorf("read metric names: %w", err)
	}
	return out, nil
}
