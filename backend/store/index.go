package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// firstCells is how many cells of a metric's row the first read takes: the
// summaries of a large metric and its first pages.
const firstCells = 8

// publishMargin is how much older than a read a manifest must be for the rows
// that were read beside it to be all of its generation. The rows are written
// before the manifest, so any positive age would do if all clocks were one: two
// processes may each differ by ten minutes from the reference before their guards
// raise an alert, and the rest is to spare.
const publishMargin = 30 * time.Minute

// wantedRow is a row of pages that a query needs: of one metric and published day.
type wantedRow struct {
	catalog *Catalog
	metric  string
	key     string
	// sure says that the manifest or the names list the metric. Without it the
	// metric may also be absent from the day.
	sure bool
}

// readIndex reads catalogs and pages. For a named metric both come in the same
// round trip; else the metric names come with the catalogs, and the pages in the
// next one. What was read beside the catalogs may be older than they are, so
// nothing is concluded to be absent from it alone: see takeRows and
// publishedNames.
func (q *query) readIndex(ctx context.Context) error {
	first, last, ok := dayRange(q.req.MinTime, q.req.MaxTime)
	if !ok {
		return nil
	}
	t := q.req.Tenant
	metrics, named := metricNames(q.req.Matchers)
	metrics = slices.Compact(slices.Sorted(slices.Values(metrics)))
	metrics = slices.DeleteFunc(metrics, func(n string) bool { return !matchesName(q.req.Matchers, n) })
	var list []rows.Row
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
		for _, n := range metrics {
			start, end := schema.PagesRange(t, n, first, last)
			ranges = append(ranges, rows.Range{Start: start, End: end})
		}
		list, err = q.s.metricRows(gctx, ranges)
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if named {
		return q.takeRows(ctx, q.rowsOfMetrics(metrics), list)
	}
	parts, err := q.s.publishedNames(ctx, q.catalogs, parts)
	if err != nil {
		return err
	}
	wanted, err := q.rowsOfNames(ctx, parts)
	if err != nil {
		return err
	}
	var ranges []rows.Range
	for i := range wanted {
		ranges = append(ranges, rows.Single(wanted[i].key))
	}
	if list, err = q.s.metricRows(ctx, ranges); err != nil {
		return err
	}
	return q.takeRows(ctx, wanted, list)
}

// published is the catalogs with a manifest by day.
func published(list []Catalog) map[int64]*Catalog {
	out := map[int64]*Catalog{}
	for i := range list {
		if list[i].Manifest != nil {
			out[list[i].Day] = &list[i]
		}
	}
	return out
}

// metricRows reads the first cells of rows of pages.
func (s *Store) metricRows(ctx context.Context, ranges []rows.Range) ([]rows.Row, error) {
	var out []rows.Row
	f := rows.Filter{Families: []rows.Family{rows.Data}, MinTime: s.oldest(), Latest: true, CellsPerRow: firstCells}
	for some := range slices.Chunk(ranges, rows.MaxRanges) {
		err := s.opts.Rows.ReadRows(ctx, some, f, func(r rows.Row) bool { out = append(out, r); return true })
		if err != nil {
			return nil, fmt.Errorf("read pages: %w", err)
		}
	}
	return out, nil
}

// rowsOfMetrics lists the rows that named metrics have, or may have, by the
// packs that the manifests name.
func (q *query) rowsOfMetrics(metrics []string) []wantedRow {
	var out []wantedRow
	for i := range q.catalogs {
		c := &q.catalogs[i]
		if c.Manifest == nil {
			continue
		}
		for _, metric := range metrics {
			from, to := c.Manifest.PartsOf(metric)
			if from == to {
				continue
			}
			p := &c.Manifest.Packs[from]
			out = append(out, wantedRow{catalog: c, metric: metric, key: schema.PagesKey(q.req.Tenant, metric, c.Day),
				sure: to-from > 1 || p.FirstMetric == metric || p.LastMetric == metric})
		}
	}
	return out
}

// rowsOfNames lists the rows of the metrics that the names list and the matchers
// accept.
func (q *query) rowsOfNames(ctx context.Context, parts []namesPart) ([]wantedRow, error) {
	var out []wantedRow
	byDay := published(q.catalogs)
	accepted := map[string]bool{}
	for _, p := range parts {
		for i := range p.names.Metrics {
			m := &p.names.Metrics[i]
			ok, known := accepted[m.Name]
			if !known {
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				ok = matchesName(q.req.Matchers, m.Name)
				accepted[m.Name] = ok
			}
			if ok {
				key := schema.PagesKey(q.req.Tenant, m.Name, p.day)
				out = append(out, wantedRow{catalog: byDay[p.day], metric: m.Name, key: key, sure: true})
			}
		}
	}
	slices.SortFunc(out, func(a, b wantedRow) int { return strings.Compare(a.key, b.key) })
	return slices.CompactFunc(out, func(a, b wantedRow) bool { return a.key == b.key }), nil // a metric may be in two packs
}

// exactRow is a row to be read by the cells of its catalog's published generation.
type exactRow struct {
	catalog *Catalog
	key     string
}

// exactRows reads the cells of the published generations of rows, the first
// perRow of each (0: all), with one call for the rows of a day. It is called after
// the catalogs were read: what it does not find is not there.
func (s *Store) exactRows(ctx context.Context, list []exactRow, perRow int) (map[string]rows.Row, error) {
	byDay := map[*Catalog][]rows.Range{}
	for _, e := range list {
		byDay[e.catalog] = append(byDay[e.catalog], rows.Single(e.key))
	}
	var mu sync.Mutex
	out := map[string]rows.Row{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxGets)
	for c, ranges := range byDay {
		f := rows.Filter{Families: []rows.Family{rows.Data}, QualifierPrefix: c.Manifest.Version.Prefix(),
			MinTime: s.oldest(), Latest: true, CellsPerRow: perRow}
		for some := range slices.Chunk(ranges, rows.MaxRanges) {
			g.Go(func() error {
				return s.opts.Rows.ReadRows(ctx, some, f, func(r rows.Row) bool {
					mu.Lock()
					defer mu.Unlock()
					out[r.Key] = r
					return true
				})
			})
		}
	}
	s.metrics.rereads.Add(float64(len(list)))
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("read rows of the published generation: %w", err)
	}
	return out, nil
}
