package pack

import (
	"context"
	"slices"
	"sort"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/series"
)

// query selects series and a time range of one section.
type query struct {
	mint, maxt int64 // milliseconds from the start of the section's day
	matchers   []*labels.Matcher
}

// queryOf returns the query for a section, with times relative to its day, or
// false if the section does not overlap the time range.
func queryOf(s *section, mint, maxt int64, ms []*labels.Matcher) (query, bool) {
	if mint > maxt || !s.Overlaps(mint, maxt) {
		return query{}, false
	}
	start := s.Day * series.DayMillis
	return query{mint: max(mint, s.MinTime) - start, maxt: min(maxt, s.MaxTime) - start, matchers: ms}, true
}

// pagesFor returns the range of d.pages that may contain the query's metric
// names. The caller must also check each page with wants.
func (d *directory) pagesFor(s *section, q query) (lo, hi int) {
	lo, hi = s.firstPage, s.firstPage+s.pages
	for _, m := range q.matchers {
		if m.Name != model.MetricNameLabel || m.Type != labels.MatchEqual {
			continue
		}
		pages := d.pages[lo:hi]
		from := sort.Search(len(pages), func(i int) bool { return pages[i].last >= m.Value })
		to := sort.Search(len(pages), func(i int) bool { return pages[i].first > m.Value })
		lo, hi = lo+from, lo+max(from, to)
	}
	return lo, hi
}

// wants reports whether the page may contain results of the query.
func (q *query) wants(p *pageInfo) bool {
	if int64(p.min) > q.maxt || int64(p.max) < q.mint {
		return false
	}
	if p.first != p.last {
		return true
	}
	for _, m := range q.matchers {
		if m.Name == model.MetricNameLabel && !m.Matches(p.first) {
			return false
		}
	}
	return true
}

// rows returns the series of the page that match and may have samples in the
// time range, in buf's memory. The only error is ctx's.
func (q *query) rows(ctx context.Context, p *page, buf []uint16) ([]uint16, error) {
	rows := buf[:0]
	for i := range p.series {
		rows = append(rows, uint16(i))
	}
	for _, m := range q.matchers {
		var err error
		if rows, err = filter(ctx, p, m, rows); err != nil || len(rows) == 0 {
			return rows, err
		}
	}
	return slices.DeleteFunc(rows, func(i uint16) bool { return !p.overlaps(int(i), q.mint, q.maxt) }), nil
}

// filter returns the rows whose value of the matcher's label matches; a missing
// label counts as empty. Each distinct value is matched once. A regular
// expression may take seconds for one long value, so ctx is checked before
// each.
func filter(ctx context.Context, p *page, m *labels.Matcher, rows []uint16) ([]uint16, error) {
	c := p.column(m.Name)
	switch {
	case c == nil:
		if m.Matches("") {
			return rows, nil
		}
		return rows[:0], nil
	case c.ids == nil:
		if m.Matches(c.value(c.constant)) {
			return rows, nil
		}
		return rows[:0], nil
	case m.Type == labels.MatchEqual:
		id, ok := c.idOf(m.Value)
		if !ok {
			return rows[:0], nil
		}
		return slices.DeleteFunc(rows, func(i uint16) bool { return c.ids[i] != id }), nil
	}
	matches := make([]bool, len(c.values)+1)
	matches[0] = m.Matches("")
	for i, v := range c.values {
		if err := ctx.Err(); err != nil {
			return rows[:0], err
		}
		matches[i+1] = m.Matches(v)
	}
	return slices.DeleteFunc(rows, func(i uint16) bool { return !matches[c.ids[i]] }), nil
}

// value returns the value of an id; id 0 is the empty value.
func (c *pageColumn) value(id uint16) string {
	if id == 0 {
		return ""
	}
	return c.values[id-1]
}

// idOf returns the id of a value, or false if the column does not contain it.
func (c *pageColumn) idOf(value string) (uint16, bool) {
	if value == "" {
		return 0, true
	}
	i, ok := slices.BinarySearch(c.values, value)
	return uint16(i + 1), ok
}
