package store

import (
	"context"
	"fmt"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/pack"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/backend/series"
)

// Covered reports whether an ingester that takes part in the same read serves the
// samples of an L0 pack from its local copy. nil covers no pack.
type Covered func(ulid.ULID) bool

// Select returns a tenant's series with samples in the range, from the packs that the
// manifests name and from L0 packs that are neither compacted nor covered. When a row
// or object cannot be read it returns an error that names the row or object.
//
// A query with a metric name takes two dependent round trips: rows, then objects. One
// more each is needed for rows that may have been read before their generation was
// complete, for a metric with more pages than the first cells of its row, and for L0
// packs. A query without a metric name takes one more to read names, and one more if
// it reads buckets of label values (see narrow).
func (s *Store) Select(ctx context.Context, req series.Request, covered Covered) (*series.Selection, error) {
	q := s.newQuery(ctx, req, covered)
	if err := q.readIndex(ctx); err != nil {
		return nil, err
	}
	sel := &series.Selection{}
	if err := q.selectPages(ctx); err != nil {
		return nil, err
	}
	if err := q.selectL0(ctx); err != nil {
		return nil, err
	}
	sel.Series = q.join.Series()
	if req.LabelsOnly {
		for i := range sel.Series {
			sel.Series[i].Chunks = nil // they have a time range only
		}
	}
	return sel, nil
}

// query is the state of one read.
type query struct {
	s       *Store
	req     series.Request
	covered Covered
	began   int64 // Unix milliseconds

	catalogs  []Catalog // of the days that overlap the range, ascending
	deletions Deletions
	pages     []dayPages
	fetch     *fetcher
	memory    *memory.Holding // of the request
	join      *series.Joiner
}

// dayPages is the pages of one metric and day that may have matching series.
type dayPages struct {
	catalog *Catalog
	metric  string
	pages   []partPage
}

// partPage is a page and the object of the pack that has its series.
type partPage struct {
	object string
	page   *pack.Page
}

func (s *Store) newQuery(ctx context.Context, req series.Request, covered Covered) *query {
	if covered == nil {
		covered = func(ulid.ULID) bool { return false }
	}
	held := memory.FromContext(ctx)
	return &query{s: s, req: req, covered: covered, began: s.nowMillis(), fetch: s.newFetcher(),
		memory: held, join: series.NewJoiner(req.MaxSeries, held)}
}

// metricNames returns the metric names that the matchers select, if a matcher lists
// them: by equality, or by a regular expression that is an alternation of literals.
// ok is false if none does.
func metricNames(ms []*labels.Matcher) (names []string, ok bool) {
	const most = 64
	for _, m := range ms {
		if m.Name != model.MetricNameLabel {
			continue
		}
		var set []string
		switch {
		case m.Type == labels.MatchEqual && m.Value != "":
			set = []string{m.Value}
		case m.Type == labels.MatchRegexp && len(m.SetMatches()) > 0 && len(m.SetMatches()) <= most:
			set = m.SetMatches()
		default:
			continue
		}
		if !ok || len(set) < len(names) {
			names, ok = set, true
		}
	}
	return names, ok
}

// rowsOf returns the rows of a page that the query selects.
func (q *query) rowsOf(ctx context.Context, p *pack.Page, buf []uint16) ([]uint16, error) {
	return p.Rows(ctx, q.req.MinTime, q.req.MaxTime, q.req.Matchers, buf)
}

// found is a series of a page with the location of its samples.
type found struct {
	labels  labels.Labels
	ref     pack.TableRef
	object  string
	catalog *Catalog
}

// selectPages finds the series in the pages and fetches their frames.
func (q *query) selectPages(ctx context.Context) error {
	var all []found
	var wants []want
	b := labels.NewScratchBuilder(32)
	rows := make([]uint16, 0, 2048)
	var refs []pack.TableRef
	for i := range q.pages {
		dp := &q.pages[i]
		for _, pp := range dp.pages {
			var err error
			if rows, err = q.rowsOf(ctx, pp.page, rows); err != nil {
				return err
			}
			refs = pp.page.Refs(rows, refs[:0])
			for k, row := range rows {
				f := found{labels: pp.page.Labels(row, &b), ref: refs[k], object: pp.object, catalog: dp.catalog}
				if !q.req.Range.Contains(f.labels) {
					continue
				}
				if err := q.join.Admit(f.labels, 1); err != nil {
					return err
				}
				all = append(all, f)
				if q.req.LabelsOnly {
					continue
				}
				wants = append(wants, want{pp.object, f.ref.Frame})
				if f.ref.Times.Length > 0 {
					wants = append(wants, want{pp.object, f.ref.Times})
				}
			}
		}
	}
	if !q.req.LabelsOnly {
		if err := q.fetch.fetch(ctx, wants); err != nil {
			return err
		}
	}
	return q.addFound(all)
}

// addFound joins the chunks of the series found to the result.
func (q *query) addFound(all []found) error {
	frames := map[blockKey]*frame{}
	for i := range all {
		f := &all[i]
		deleted := q.deletions.After(f.catalog.Manifest.Tombstone, f.labels)
		chunks, err := q.chunksOf(f, frames, len(deleted) > 0)
		if err != nil {
			return err
		}
		if len(deleted) > 0 {
			if chunks, err = cutDeleted(chunks, deleted, q.req.LabelsOnly); err != nil {
				return fmt.Errorf("object %s: %w", f.object, err)
			}
			if len(chunks) == 0 {
				continue
			}
		}
		q.join.Join(f.labels, chunks)
	}
	return nil
}

// chunksOf returns the chunks of a series of a page. Floats are decoded when the chunk is
// read, or at once if the argument `now` is set; histograms are always decoded at once.
func (q *query) chunksOf(f *found, frames map[blockKey]*frame, now bool) ([]series.Chunk, error) {
	whole := series.Chunk{MinTime: f.ref.MinTime, MaxTime: f.ref.MaxTime, Samples: f.ref.Samples}
	if q.req.LabelsOnly {
		return []series.Chunk{whole}, nil
	}
	key := blockKey{f.object, f.ref.Frame.Offset}
	fr := frames[key]
	if fr == nil {
		fr = &frame{s: q.s, key: key, block: q.fetch.blocks[key], day: f.catalog.Day}
		frames[key] = fr
	}
	var times []byte
	if f.ref.Times.Length > 0 {
		times = q.fetch.blocks[blockKey{f.object, f.ref.Times.Offset}]
	}
	if f.ref.Floats && !now {
		whole.Column = &frameColumn{frame: fr, i: f.ref.Series, times: times, n: f.ref.Samples}
		return []series.Chunk{whole}, nil
	}
	return fr.chunks(f.ref.Series, times, f.ref.MinTime, f.ref.MaxTime)
}

// cutDeleted removes deleted intervals from chunks. With labelsOnly the chunks have
// only the time range of a series, and are removed when all of the range is deleted.
func cutDeleted(chunks []series.Chunk, gone []series.Interval, labelsOnly bool) ([]series.Chunk, error) {
	if !labelsOnly {
		return series.Without(chunks, gone)
	}
	for _, g := range gone {
		if g.Min <= chunks[0].MinTime && g.Max >= chunks[0].MaxTime {
			return nil, nil
		}
	}
	return chunks, nil
}

// matchesName reports whether a metric name satisfies all matchers on the name.
func matchesName(ms []*labels.Matcher, name string) bool {
	for _, m := range ms {
		if m.Name == model.MetricNameLabel && !m.Matches(name) {
			return false
		}
	}
	return true
}

// DayRange returns the first and last UTC day of a range of times in Unix
// milliseconds, limited to the valid days (0 to schema.MaxDay). ok is false if the
// range has no such day.
func DayRange(mint, maxt int64) (first, last int64, ok bool) {
	if maxt < 0 || mint > maxt {
		return 0, 0, false
	}
	return series.Day(max(mint, 0)), min(series.Day(maxt), schema.MaxDay), true
}

// ObjectDir returns the prefix of the object names of a tenant's compacted packs.
func ObjectDir(t tenant.ID) string { return "l1/" + string(t) }
