package store

import (
	"context"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/timing"
)

// firstCells is the number of cells of a metric's row that the first read requests:
// the summaries of a large metric and its first pages.
const firstCells = 8

// publishMargin is the minimum age of a manifest, at the start of a read, for which
// rows that are read concurrently with the manifest certainly have all cells of its
// generation. The rows are written before the manifest, so with a single clock any
// positive age would do. The clocks of two processes may each be off by ten minutes
// before an alert fires; the other ten minutes are a reserve.
const publishMargin = 30 * time.Minute

// wantedRow is a row of pages that a query needs, of one metric and published day.
type wantedRow struct {
	catalog *Catalog
	metric  string
	key     string
	// listed is true if the manifest or the names list the metric. If it is false,
	// the day may have no such metric.
	listed bool
}

// readIndex reads catalogs and pages. If the matchers select metric names, this usually
// takes one round trip. Otherwise it reads metric names and catalogs first, then the buckets
// of label values that tell which metrics can match (see narrow), and then the pages.
// Rows that were read concurrently with the catalogs may be older than the catalogs, so
// a cell that is missing in them may exist: see takeRows and
// index.Generations.PublishedNames.
func (q *query) readIndex(ctx context.Context) error {
	defer timing.Of(ctx).Measure(timing.Index)()
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
	if err == nil {
		wanted, err = q.narrow(ctx, parts, wanted)
	}
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

// rowsOfMetrics returns the rows that the given metrics have or may have, judging by
// the first and last metric of each pack in the manifests.
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
				listed: to-from > 1 || p.FirstMetric == metric || p.LastMetric == metric})
		}
	}
	return out
}

// rowsOfNames returns the rows of the listed metrics that the matchers accept.
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
				out = append(out, wantedRow{catalog: byDay[p.Day], metric: m.Name, key: key, listed: true})
			}
		}
	}
	slices.SortFunc(out, func(a, b wantedRow) int { return strings.Compare(a.key, b.key) })
	return slices.CompactFunc(out, func(a, b wantedRow) bool { return a.key == b.key }), nil // a metric may be in two packs
}
