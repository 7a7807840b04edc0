package store

import (
	"context"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/palliumhq/pallium/backend/index"
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
	first, last, ok := DayRange(q.req.MinTime, q.req.MaxTime)
	if !ok {
		return nil
	}
	t := q.req.Tenant
	metrics, named := metricNames(q.req.Matchers)
	metrics = slices.Compact(slices.Sorted(slices.Values(metrics)))
	metrics = slices.DeleteFunc(metrics, func(n string) bool { return !matchesName(q.req.Matchers, n) })
	var list []index.Row
	var parts []index.NamesPart
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		q.catalogs, q.deletions, err = q.s.index.Catalogs.Readable(gctx, t, first, last)
		return err
	})
	g.Go(func() (err error) {
		if !named {
			parts, err = q.s.index.Generations.Names(gctx, t, first, last)
			return err
		}
		list, err = q.s.index.Generations.PagesOf(gctx, t, metrics, first, last, firstCells)
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if named {
		return q.takeRows(ctx, q.rowsOfMetrics(metrics), list)
	}
	parts, err := q.s.index.Generations.PublishedNames(ctx, q.catalogs, parts)
	if err != nil {
		return err
	}
	wanted, err := q.rowsOfNames(ctx, parts)
	if err != nil {
		return err
	}
	keys := make([]string, 0, len(wanted))
	for i := range wanted {
		keys = append(keys, wanted[i].key)
	}
	if list, err = q.s.index.Generations.PagesAt(ctx, keys, firstCells); err != nil {
		return err
	}
	return q.takeRows(ctx, wanted, list)
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
func (q *query) rowsOfNames(ctx context.Context, parts []index.NamesPart) ([]wantedRow, error) {
	var out []wantedRow
	byDay := index.Published(q.catalogs)
	accepted := map[string]bool{}
	for _, p := range parts {
		for i := range p.Names.Metrics {
			m := &p.Names.Metrics[i]
			ok, known := accepted[m.Name]
			if !known {
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				ok = matchesName(q.req.Matchers, m.Name)
				accepted[m.Name] = ok
			}
			if ok {
				key := schema.PagesKey(q.req.Tenant, m.Name, p.Day)
				out = append(out, wantedRow{catalog: byDay[p.Day], metric: m.Name, key: key, sure: true})
			}
		}
	}
	slices.SortFunc(out, func(a, b wantedRow) int { return strings.Compare(a.key, b.key) })
	return slices.CompactFunc(out, func(a, b wantedRow) bool { return a.key == b.key }), nil // a metric may be in two packs
}
