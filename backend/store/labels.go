package store

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"golang.org/x/sync/errgroup"

	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

// LabelNames returns the sorted label names of the series that Select would return.
// Without matchers it may also return label names of other series of the range's days.
func (s *Store) LabelNames(ctx context.Context, req series.Request, covered Covered) ([]string, error) {
	set := memory.NewSet(memory.FromContext(ctx))
	err := s.labels(ctx, req, covered, labelSink{
		series: func(ls labels.Labels) {
			ls.Range(func(l labels.Label) { set.Add(l.Name) })
		},
		page: func(p *pack.Page, rows []uint16) {
			p.EachValue(rows, func(name string, _ []string) { set.Add(name) })
		},
		names: func(n *schema.Names) {
			for i := range n.Labels {
				set.Add(n.Labels[i].Name)
			}
			if len(n.Metrics) > 0 {
				set.Add(model.MetricNameLabel)
			}
		},
		l0: func(r *pack.Reader, mint, maxt int64) error {
			list, err := r.LabelNames(ctx, req.Tenant, mint, maxt, req.Matchers...)
			for _, n := range list {
				set.Add(n)
			}
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	return set.Sorted()
}

// LabelValues returns the sorted values of a label of the series that Select would
// return. Without matchers it may also return values of other series of the range's
// days.
func (s *Store) LabelValues(ctx context.Context, name string, req series.Request, covered Covered) ([]string, error) {
	set := memory.NewSet(memory.FromContext(ctx))
	sink := labelSink{
		series: func(ls labels.Labels) {
			if v := ls.Get(name); v != "" {
				set.Add(v)
			}
		},
		page: func(p *pack.Page, rows []uint16) {
			p.EachValue(rows, func(n string, values []string) {
				if n != name {
					return
				}
				for _, v := range values {
					set.Add(v)
				}
			})
		},
		l0: func(r *pack.Reader, mint, maxt int64) error {
			list, err := r.LabelValues(ctx, req.Tenant, name, mint, maxt, req.Matchers...)
			for _, v := range list {
				set.Add(v)
			}
			return err
		},
	}
	if name == model.MetricNameLabel {
		sink.names = func(n *schema.Names) {
			for i := range n.Metrics {
				if n.Metrics[i].Name != "" {
					set.Add(n.Metrics[i].Name)
				}
			}
		}
	} else {
		sink.values = name
		sink.value = func(v string) { set.Add(v) }
	}
	err := s.labels(ctx, req, covered, sink)
	if err != nil {
		return nil, err
	}
	return set.Sorted()
}

// labelSink collects the results of a read of labels. The read calls one of the
// functions for each source, depending on its kind: series, pages, rows of names,
// values of one label, or L0 packs.
type labelSink struct {
	series func(labels.Labels)
	page   func(p *pack.Page, rows []uint16)
	names  func(*schema.Names)
	values string // if names is nil: the label whose values are read
	value  func(string)
	l0     func(r *pack.Reader, mint, maxt int64) error
}

func (s *Store) labels(ctx context.Context, req series.Request, covered Covered, sink labelSink) error {
	q := s.newQuery(ctx, req, covered)
	first, last, ok := DayRange(req.MinTime, req.MaxTime)
	if !ok {
		return nil
	}
	whole := len(req.Matchers) == 0
	var err error
	if whole {
		q.catalogs, q.deletions, err = s.index.Catalogs.Readable(ctx, req.Tenant, first, last)
	} else {
		err = q.readIndex(ctx)
	}
	if err != nil {
		return err
	}
	if q.deletionsPending() {
		return s.labelsOfSeries(ctx, req, covered, sink)
	}
	if whole {
		err = q.wholeDays(ctx, first, last, sink)
	} else {
		var rowBuf []uint16
		for i := range q.pages {
			for _, pp := range q.pages[i].pages {
				if rowBuf, err = q.rowsOf(ctx, pp.page, rowBuf); err != nil {
					return err
				}
				if len(rowBuf) > 0 {
					sink.page(pp.page, rowBuf)
				}
			}
		}
	}
	if err != nil {
		return err
	}
	return q.eachL0(ctx, func(r *pack.Reader, c *Catalog, _ *L0) error {
		start := c.Day * series.DayMillis
		return sink.l0(r, max(req.MinTime, start), min(req.MaxTime, start+series.DayMillis-1))
	})
}

// deletionsPending reports whether a pack may still contain deleted series. If so,
// labels are read series by series.
func (q *query) deletionsPending() bool {
	for i := range q.deletions {
		d := &q.deletions[i]
		if d.State != schema.Active {
			continue
		}
		for k := range q.catalogs {
			c := &q.catalogs[k]
			if c.Manifest != nil && c.Manifest.Tombstone < d.Number {
				return true
			}
			for n := range c.L0 {
				if c.L0[n].Tombstone < d.Number {
					return true
				}
			}
		}
	}
	return false
}

func (s *Store) labelsOfSeries(ctx context.Context, req series.Request, covered Covered, sink labelSink) error {
	req.LabelsOnly = true
	sel, err := s.Select(ctx, req, covered)
	if err != nil {
		return err
	}
	defer sel.Release()
	for i := range sel.Series {
		sink.series(sel.Series[i].Labels)
	}
	return nil
}

// wholeDays reads the names, or the values of one label, of published days. It runs
// after the catalogs were read, so a cell that it does not find is missing in the
// index.
func (q *query) wholeDays(ctx context.Context, first, last int64, sink labelSink) error {
	byDay := index.Published(q.catalogs)
	if len(byDay) == 0 {
		return nil
	}
	var parts []index.NamesPart
	seen := map[valuesPart]int{}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		if parts, err = q.s.index.Generations.Names(gctx, q.req.Tenant, first, last); err == nil {
			parts, err = q.s.index.Generations.PublishedNames(gctx, q.catalogs, parts)
		}
		return err
	})
	if sink.names == nil {
		g.Go(func() error { return q.values(gctx, first, last, byDay, seen, sink) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i := range parts {
		p := &parts[i]
		if sink.names != nil {
			sink.names(&p.Names)
			continue
		}
		want := 0
		if k, ok := slices.BinarySearchFunc(p.Names.Labels, sink.values,
			func(l schema.Label, name string) int { return strings.Compare(l.Name, name) }); ok {
			want = len(p.Names.Labels[k].Buckets)
		}
		if got := seen[valuesPart{p.Day, p.Part}]; got != want {
			return fmt.Errorf("row %q lacks label buckets: it has %d of the %d listed for pack %d of the published generation %s: %w",
				schema.ValuesKey(q.req.Tenant, sink.values, p.Day), got, want, p.Part, p.Version, index.ErrInconsistent)
		}
	}
	return nil
}

// valuesPart identifies the label values of one pack of a day.
type valuesPart struct {
	day  int64
	part int
}

// values reads the values of one label in published days, and counts the buckets of
// each pack in `seen`.
func (q *query) values(ctx context.Context, first, last int64, byDay map[int64]*Catalog, seen map[valuesPart]int, sink labelSink) error {
	return q.s.index.Generations.EachValues(ctx, q.req.Tenant, sink.values, first, last, func(day int64, r index.Row) error {
		return q.s.takeValues(day, r, byDay, seen, sink.value)
	})
}

func (s *Store) takeValues(day int64, r index.Row, byDay map[int64]*Catalog, seen map[valuesPart]int, value func(string)) error {
	c := byDay[day]
	if c == nil {
		return nil
	}
	for _, cell := range r.Cells {
		v, _, part, _, ok := schema.ParseQualifier(cell.Qualifier)
		if !ok {
			return fmt.Errorf("row %q has a cell with the invalid qualifier %q", r.Key, cell.Qualifier)
		}
		if v != c.Manifest.Version {
			continue
		}
		seen[valuesPart{day, part}]++
		b, err := s.index.Codec().DecodeBucket(cell.Value)
		if err != nil {
			return fmt.Errorf("row %q: %w", r.Key, err)
		}
		for i := range b.Len() {
			value(b.Value(i))
		}
	}
	return nil
}
