package store

import (
	"context"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

// pageKey identifies a page. It never changes its meaning: generations are immutable.
type pageKey struct {
	row, qualifier string
}

// incomplete is a row whose first cells were read, and whose published generation
// may have more cells.
type incomplete struct {
	wantedRow
	row index.Row
}

// shown is how much of the published generation a read of a row returned.
type shown int

const (
	showsNothing shown = iota // no cell of the generation, and the row has no further cells
	showsOthers               // no cell of the generation so far, but the row has further cells
	showsPart                 // some cells of the generation; the others do not exist
	showsFirst                // some cells of the generation; further ones may follow
	showsAll
)

// takeRows decodes the pages of the published generations from the first cells of
// rows, which may have been read before the catalogs. A wanted row without all pages
// of its generation is read again, restricted to exactly that generation. That read
// starts after the catalogs were read, so a cell that it does not find does not
// exist. The first read proves absence only for a generation published long before
// the query.
func (q *query) takeRows(ctx context.Context, wanted []wantedRow, list []index.Row) error {
	byKey := make(map[string]index.Row, len(list))
	for _, r := range list {
		byKey[r.Key] = r
	}
	var large []incomplete
	var again []wantedRow
	for _, w := range wanted {
		r := byKey[w.key]
		delete(byKey, w.key)
		state, err := q.shows(&w, r.Cells, len(r.Cells) < firstCells)
		if err != nil {
			return err
		}
		published := q.began-w.catalog.Manifest.Written > publishMargin.Milliseconds() // before both reads
		switch {
		case state == showsAll:
			err = q.takePages(&w, r.Cells)
		case state == showsFirst:
			large = append(large, incomplete{w, r})
		case state == showsNothing && !w.listed && published: // the metric is not in the day
		default:
			again = append(again, w)
		}
		if err != nil {
			return err
		}
	}
	if err := q.checkUnwanted(byKey); err != nil {
		return err
	}
	exact, err := q.takeExact(ctx, again)
	if err != nil {
		return err
	}
	return q.readLarge(ctx, append(large, exact...))
}

// takeExact reads rows, restricted to the cells of the published generation, and
// decodes their pages. It returns the rows that have more cells than the first
// ones.
func (q *query) takeExact(ctx context.Context, wanted []wantedRow) ([]incomplete, error) {
	if len(wanted) == 0 {
		return nil, nil
	}
	list := make([]index.ExactRow, 0, len(wanted))
	for i := range wanted {
		list = append(list, index.ExactRow{Catalog: wanted[i].catalog, Key: wanted[i].key})
	}
	byKey, err := q.s.index.Generations.Exact(ctx, list, firstCells)
	if err != nil {
		return nil, err
	}
	var large []incomplete
	for _, w := range wanted {
		r := byKey[w.key]
		state, err := q.shows(&w, r.Cells, len(r.Cells) < firstCells)
		if err != nil {
			return nil, err
		}
		switch {
		case state == showsAll:
			err = q.takePages(&w, r.Cells)
		case state == showsFirst:
			large = append(large, incomplete{w, r})
		case state == showsNothing && !w.listed: // the metric is not in the day
		default:
			err = missingPages(&w)
		}
		if err != nil {
			return nil, err
		}
	}
	return large, nil
}

// missingPages returns the error of a row without all pages of its published
// generation.
func missingPages(w *wantedRow) error {
	return fmt.Errorf("row %q lacks pages of the published generation %s: %w", w.key, w.catalog.Manifest.Version, index.ErrInconsistent)
}

// checkUnwanted returns an error if a row has pages of a published generation
// although the metric is not in the day according to the manifest: the index is
// inconsistent, and without the error the result would lack those pages.
func (q *query) checkUnwanted(list map[string]index.Row) error {
	if len(list) == 0 {
		return nil
	}
	byDay := index.Published(q.catalogs)
	for key, r := range list {
		_, _, day, ok := schema.ParsePagesKey(key)
		if !ok {
			return fmt.Errorf("row key %q is not the key of a metric's pages", key)
		}
		c := byDay[day]
		if c == nil {
			continue // not published yet
		}
		for _, cell := range r.Cells {
			if strings.HasPrefix(cell.Qualifier, c.Manifest.Version.Prefix()) {
				return fmt.Errorf("row %q has pages of the published generation %s, but no pack of its manifest has the metric: %w", key,
					c.Manifest.Version, index.ErrInconsistent)
			}
		}
	}
	return nil
}

// counted is the number of cells that a row has of the published generation.
type counted struct {
	summaries, pages int
	declared         int  // number of pages according to the summaries
	ended            bool // no further cells of the generation follow
}

// count counts the cells of the published generation in `cells`, the sorted first cells of
// a row. The argument `all` says that the row has no further cells.
func (q *query) count(w *wantedRow, cells []index.Cell, all bool) (counted, error) {
	n := counted{ended: all}
	for _, cell := range cells {
		v, kind, _, _, ok := schema.ParseQualifier(cell.Qualifier)
		if !ok {
			return n, fmt.Errorf("row %q has the cell %q, which is not a page or its summaries", w.key, cell.Qualifier)
		}
		switch {
		case v != w.catalog.Manifest.Version:
			n.ended = n.ended || n.pages+n.summaries > 0
		case kind == schema.KindSummaries:
			sm, err := q.s.index.Codec().DecodeSummaries(cell.Value)
			if err != nil {
				return n, fmt.Errorf("summaries in row %q: %w", w.key, err)
			}
			n.summaries++
			n.declared += sm.Len()
		default:
			n.pages++
		}
	}
	return n, nil
}

// shows returns how much of the published generation is in `cells`, the sorted first cells
// of a row. The argument `all` says that the row has no further cells.
func (q *query) shows(w *wantedRow, cells []index.Cell, all bool) (shown, error) {
	n, err := q.count(w, cells, all)
	if err != nil {
		return 0, err
	}
	m := w.catalog.Manifest
	from, to := m.PartsOf(w.metric)
	// A metric with one page has no summaries.
	single := n.summaries == 0 && to-from == 1
	if single {
		n.declared = 1
	}
	everySummary := single || n.summaries == to-from
	switch {
	case n.pages+n.summaries == 0 && all:
		return showsNothing, nil
	case n.pages+n.summaries == 0:
		return showsOthers, nil
	case !n.ended:
		return showsFirst, nil
	case n.pages > n.declared && (n.summaries == to-from || to-from == 1):
		return 0, fmt.Errorf("row %q has %d pages of generation %s, but its summaries list %d: %w",
			w.key, n.pages, m.Version, n.declared, index.ErrInconsistent)
	case n.pages != n.declared || !everySummary:
		return showsPart, nil
	}
	return showsAll, nil
}

// takePages decodes the pages of the published generation from the cells of a row.
func (q *query) takePages(w *wantedRow, cells []index.Cell) error {
	dp := dayPages{catalog: w.catalog, metric: w.metric}
	for _, cell := range cells {
		v, kind, part, _, ok := schema.ParseQualifier(cell.Qualifier)
		if !ok {
			return fmt.Errorf("row %q has the cell %q, which is not a page or its summaries", w.key, cell.Qualifier)
		}
		if v != w.catalog.Manifest.Version || kind == schema.KindSummaries {
			continue
		}
		if err := q.takePage(&dp, w.key, cell, part); err != nil {
			return err
		}
	}
	q.pages = append(q.pages, dp)
	return nil
}

func (q *query) takePage(dp *dayPages, key string, cell index.Cell, part int) error {
	packs := dp.catalog.Manifest.Packs
	if part >= len(packs) {
		return fmt.Errorf("row %q has a page of pack %d, but the manifest has %d packs: %w", key, part, len(packs), index.ErrInconsistent)
	}
	p, err := q.s.page(key, cell)
	if err != nil {
		return fmt.Errorf("page in row %q: %w", key, err)
	}
	if p.Day() != dp.catalog.Day {
		return fmt.Errorf("row %q has a page of day %d: %w", key, p.Day(), index.ErrInconsistent)
	}
	dp.pages = append(dp.pages, partPage{object: packs[part].Object, page: p})
	return q.memory.Take(p.Bytes()) // the query keeps the page even if the cache evicts it
}

func (s *Store) page(key string, cell index.Cell) (*pack.Page, error) {
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

// readLarge reads the remaining pages of rows in one round trip. If the first cells
// of a row have all summaries, it reads the pages that may match according to the
// summaries; otherwise it reads all cells of the published generation.
func (q *query) readLarge(ctx context.Context, large []incomplete) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxGets)
	results := make([]index.Row, len(large))
	pruned := make([][]string, len(large))
	skip := make([]bool, len(large))
	for i, a := range large {
		qualifiers, known, err := q.prune(ctx, a)
		if err != nil {
			return err
		}
		if known {
			if skip[i] = len(qualifiers) == 0; skip[i] {
				continue
			}
			pruned[i] = qualifiers
		}
		g.Go(func() (err error) {
			results[i], err = q.s.index.Generations.Row(gctx, a.key, a.catalog.Manifest.Version, pruned[i])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("read the remaining pages: %w", err)
	}
	for i := range large {
		if skip[i] {
			continue
		}
		if err := q.takeLarge(&large[i], results[i], pruned[i]); err != nil {
			return err
		}
	}
	return nil
}

// takeLarge decodes the pages that readLarge read of a row. They were read after the
// catalogs, so a page that was not found is missing in the index.
func (q *query) takeLarge(a *incomplete, r index.Row, pruned []string) error {
	if pruned != nil {
		if len(r.Cells) != len(pruned) {
			return fmt.Errorf("row %q has %d of the %d pages that its summaries list: %w", a.key, len(r.Cells), len(pruned), index.ErrInconsistent)
		}
		return q.takePages(&a.wantedRow, r.Cells)
	}
	state, err := q.shows(&a.wantedRow, r.Cells, true)
	if err != nil {
		return err
	}
	if state != showsAll {
		return missingPages(&a.wantedRow)
	}
	return q.takePages(&a.wantedRow, r.Cells)
}

// prune returns the qualifiers of the pages of a row that may have matching series, by the
// summaries in the first cells of the row. The result `known` is false if a summary is not
// among these cells.
func (q *query) prune(ctx context.Context, a incomplete) (qualifiers []string, known bool, err error) {
	m := a.catalog.Manifest
	from, to := m.PartsOf(a.metric)
	start := a.catalog.Day * series.DayMillis
	mint, maxt := max(q.req.MinTime, start)-start, min(q.req.MaxTime, start+series.DayMillis-1)-start
	seen := 0
	for _, cell := range a.row.Cells {
		v, kind, part, _, ok := schema.ParseQualifier(cell.Qualifier)
		if !ok || v != m.Version || kind != schema.KindSummaries {
			continue
		}
		sm, err := q.s.index.Codec().DecodeSummaries(cell.Value)
		if err != nil {
			return nil, false, fmt.Errorf("summaries in row %q: %w", a.key, err)
		}
		seen++
		for page := range sm.Len() {
			if err := ctx.Err(); err != nil { // matching a regular expression on one page may take long
				return nil, false, err
			}
			if sm.MayMatch(page, mint, maxt, q.req.Matchers) {
				qualifiers = append(qualifiers, schema.PageQualifier(v, part, page))
			}
		}
	}
	return qualifiers, seen == to-from, nil
}
