package pack

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// Series is a series with references to its chunks, ascending in time.
type Series struct {
	Labels labels.Labels
	Chunks []ChunkRef
}

// Select returns a tenant's series that match all matchers and have a chunk in
// [mint, maxt] (Unix milliseconds, inclusive), with those chunks, in the order
// of labels.Compare, each series once. A missing label counts as empty, as in
// Prometheus.
func (r *Reader) Select(ctx context.Context, t tenant.ID, mint, maxt int64, ms ...*labels.Matcher) ([]Series, error) {
	var out []Series
	sections := r.sectionsOf(t)
	for i := range sections {
		found, err := r.selectSection(ctx, &sections[i], mint, maxt, ms)
		if err != nil {
			return nil, err
		}
		out = mergeSeries(out, found)
	}
	return out, nil
}

func (r *Reader) selectSection(ctx context.Context, s *section, mint, maxt int64, ms []*labels.Matcher) ([]Series, error) {
	var out []Series
	b := labels.NewScratchBuilder(32)
	err := r.eachPage(ctx, s, mint, maxt, ms, func(q *query, p *page, rows []uint16) {
		refs := make([]ChunkRef, 0, p.refsFor(q, rows))
		out = slices.Grow(out, len(rows))
		for _, row := range rows {
			first := len(refs)
			refs = p.appendRefs(refs, q, row)
			out = append(out, Series{Labels: p.labels(int(row), &b), Chunks: refs[first:len(refs):len(refs)]})
		}
	})
	if err != nil {
		return nil, err
	}
	// Pages are sorted by metric name first. That is also the order of labels,
	// unless a label sorts before __name__.
	byLabels := func(a, b Series) int { return labels.Compare(a.Labels, b.Labels) }
	if !slices.IsSortedFunc(out, byLabels) {
		slices.SortFunc(out, byLabels)
	}
	return out, nil
}

// eachPage calls fn for the pages of a section that contain results of a query,
// with the selected rows, which are valid only during the call.
func (r *Reader) eachPage(ctx context.Context, s *section, mint, maxt int64, ms []*labels.Matcher, fn func(*query, *page, []uint16)) error {
	if r.dir.level > 0 {
		return errors.New("Select does not support compacted packs: read them through the index or with Scan")
	}
	q, ok := queryOf(s, mint, maxt, ms)
	if !ok {
		return nil
	}
	rows := make([]uint16, 0, maxPageSeries)
	lo, hi := r.dir.pagesFor(s, q)
	for i := lo; i < hi; i++ {
		if !q.wants(&r.dir.pages[i]) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		p, err := r.loadPage(s, i)
		if err != nil {
			return fmt.Errorf("tenant %s, day %d: %w", s.Tenant, s.Day, err)
		}
		if rows, err = q.rows(ctx, p, rows); err != nil {
			return err
		}
		if len(rows) > 0 {
			fn(&q, p, rows)
		}
	}
	return nil
}

// refsFor counts the chunks of the rows in the query's time range.
func (p *page) refsFor(q *query, rows []uint16) int {
	n := 0
	for _, row := range rows {
		for i := p.first[row]; i < p.first[row+1]; i++ {
			if e := &p.chunks[i]; int64(e.min) <= q.maxt && int64(e.max) >= q.mint {
				n++
			}
		}
	}
	return n
}

func (p *page) appendRefs(refs []ChunkRef, q *query, row uint16) []ChunkRef {
	start := p.day * series.DayMillis
	for i := p.first[row]; i < p.first[row+1]; i++ {
		e := &p.chunks[i]
		if int64(e.min) > q.maxt || int64(e.max) < q.mint {
			continue
		}
		refs = append(refs, ChunkRef{MinTime: start + int64(e.min), MaxTime: start + int64(e.max), Samples: int(e.samples),
			Encoding: chunkenc.Encoding(e.encoding), frame: p.frameIndex[e.frame], offset: e.offset, length: e.length})
	}
	return refs
}

// mergeSeries merges two sorted lists. If a series is in both, the result has the
// chunks from a, which are older, followed by the chunks from b.
func mergeSeries(a, b []Series) []Series {
	if len(a) == 0 {
		return b
	}
	if len(b) == 0 {
		return a
	}
	out := make([]Series, 0, len(a)+len(b))
	i, j := 0, 0
	for i < len(a) && j < len(b) {
		switch c := labels.Compare(a[i].Labels, b[j].Labels); {
		case c < 0:
			out = append(out, a[i])
			i++
		case c > 0:
			out = append(out, b[j])
			j++
		default:
			a[i].Chunks = append(a[i].Chunks, b[j].Chunks...)
			out = append(out, a[i])
			i, j = i+1, j+1
		}
	}
	return append(append(out, a[i:]...), b[j:]...)
}

// LabelNames returns the sorted label names of the series that Select would
// return. If all series of a page match, it reads only the names of the page's
// columns.
func (r *Reader) LabelNames(ctx context.Context, t tenant.ID, mint, maxt int64, ms ...*labels.Matcher) ([]string, error) {
	set := map[string]struct{}{}
	err := r.eachColumn(ctx, t, mint, maxt, ms, func(c *pageColumn, rows []uint16, all bool) {
		if _, have := set[c.name]; have {
			return
		}
		if all || slices.ContainsFunc(rows, func(row uint16) bool { return c.id(int(row)) > 0 }) {
			set[c.name] = struct{}{}
		}
	})
	if err != nil {
		return nil, err
	}
	return sortedKeys(set), nil
}

// LabelValues returns the sorted values of a label in the series that Select
// would return. If all series of a page match, it reads only the column's
// dictionary.
func (r *Reader) LabelValues(ctx context.Context, t tenant.ID, name string, mint, maxt int64, ms ...*labels.Matcher) ([]string, error) {
	set := map[string]struct{}{}
	var used []bool
	err := r.eachColumn(ctx, t, mint, maxt, ms, func(c *pageColumn, rows []uint16, all bool) {
		if c.name != name {
			return
		}
		if !all {
			used = append(used[:0], make([]bool, len(c.values)+1)...)
			for _, row := range rows {
				used[c.id(int(row))] = true
			}
		}
		for i, v := range c.values {
			if all || used[i+1] {
				set[v] = struct{}{}
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return sortedKeys(set), nil
}

// eachColumn calls fn for the columns of all pages that contain results of the
// query, with the selected rows; `all` is true if those are all rows of the page.
func (r *Reader) eachColumn(ctx context.Context, t tenant.ID, mint, maxt int64, ms []*labels.Matcher,
	fn func(c *pageColumn, rows []uint16, all bool)) error {
	sections := r.sectionsOf(t)
	for i := range sections {
		err := r.eachPage(ctx, &sections[i], mint, maxt, ms, func(_ *query, p *page, rows []uint16) {
			for k := range p.columns {
				fn(&p.columns[k], rows, len(rows) == p.series)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func sortedKeys(set map[string]struct{}) []string {
	out := make([]string, 0, len(set))
	for s := range set {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}
