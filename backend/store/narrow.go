package store

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/schema"
)

// A query without a metric name reads the pages of every metric of its days, unless a matcher on
// another label tells which metrics can have a series that it selects: the names of a pack list
// its labels, and the buckets of a label have for each value the metrics with a series with it.

// Limits of narrowing.
const (
	narrowAbove   = 4  // rows of metrics: fewer are read at once, without the round trip for buckets
	narrowValues  = 64 // values of one matcher
	narrowBuckets = 4  // of one matcher and pack: a matcher with more is not used
	narrowLabels  = 2  // matchers for which buckets are read, those of the labels with the most values
)

// narrowing is the metrics of one pack that can have series that the query selects.
type narrowing struct {
	part *index.NamesPart
	none bool   // no metric can: a label that the query needs is not in the pack
	uses []uses // each one rules out the metrics that it does not list
}

// uses holds a matcher with the values and metrics that the buckets have for it.
type uses struct {
	label   *schema.Label
	buckets map[int][]string // values of the matcher that may be in the bucket
	metrics map[int]bool     // ordinals of metrics that have a series with one of the values
}

// narrow returns those of the wanted rows of metrics that can have series that the query selects.
// parts are the names of the published generations. What it rules out is ruled out by cells of
// exactly the published generation, read after the catalogs.
func (q *query) narrow(ctx context.Context, parts []index.NamesPart, wanted []wantedRow) ([]wantedRow, error) {
	if len(wanted) <= narrowAbove {
		return wanted, nil
	}
	byDay := index.Published(q.catalogs)
	list := make([]narrowing, 0, len(parts))
	var cells []index.BucketCell
	owner := map[index.BucketCell]*uses{}
	for i := range parts {
		list = append(list, q.narrowingOf(&parts[i]))
		n := &list[i]
		for k := range n.uses {
			for bucket := range n.uses[k].buckets {
				c := index.BucketCell{Catalog: byDay[n.part.Day], Label: n.uses[k].label.Name, Part: n.part.Part, Bucket: bucket}
				cells = append(cells, c)
				owner[c] = &n.uses[k]
			}
		}
	}
	err := q.s.index.Generations.Buckets(ctx, cells, func(c index.BucketCell, b *schema.Bucket) {
		u := owner[c]
		for _, value := range u.buckets[c.Bucket] {
			if at, ok := b.Find(value); ok {
				for _, ordinal := range b.Metrics(at) {
					u.metrics[ordinal] = true
				}
			}
		}
	})
	if err != nil {
		return nil, err
	}
	possible := map[string]bool{} // by the key of the row
	for i := range list {
		for ordinal := range list[i].part.Names.Metrics {
			if list[i].allows(ordinal) {
				possible[schema.PagesKey(q.req.Tenant, list[i].part.Names.Metrics[ordinal].Name, list[i].part.Day)] = true
			}
		}
	}
	return slices.DeleteFunc(wanted, func(w wantedRow) bool { return !possible[w.key] }), nil
}

// allows reports whether a metric of the pack can have series that the query selects.
func (n *narrowing) allows(ordinal int) bool {
	if n.none {
		return false
	}
	for i := range n.uses {
		if !n.uses[i].metrics[ordinal] {
			return false
		}
	}
	return true
}

// narrowingOf returns which buckets of a pack say which of its metrics a query can select.
func (q *query) narrowingOf(p *index.NamesPart) narrowing {
	n := narrowing{part: p}
	seen := map[string]bool{}
	for _, m := range q.req.Matchers {
		// A matcher that matches the empty value selects series without the label as well.
		if m.Name == model.MetricNameLabel || m.Matches("") {
			continue
		}
		at, ok := slices.BinarySearchFunc(p.Names.Labels, m.Name, func(l schema.Label, name string) int { return strings.Compare(l.Name, name) })
		if !ok {
			n.none, n.uses = true, nil
			return n
		}
		label := &p.Names.Labels[at]
		values := listedValues(m)
		if len(values) == 0 || seen[label.Name] { // one matcher for each label, so that no bucket has two owners
			continue
		}
		u := uses{label: label, buckets: map[int][]string{}, metrics: map[int]bool{}}
		for _, v := range values {
			if b, ok := bucketOf(label, v); ok {
				u.buckets[b] = append(u.buckets[b], v)
			}
		}
		if len(u.buckets) <= narrowBuckets {
			n.uses = append(n.uses, u)
			seen[label.Name] = true
		}
	}
	slices.SortStableFunc(n.uses, func(a, b uses) int { return cmp.Compare(b.label.Values, a.label.Values) })
	n.uses = n.uses[:min(len(n.uses), narrowLabels)]
	return n
}

// listedValues returns the values that a matcher selects, if it lists a few of them: by equality,
// or by a regular expression that is an alternation of literals.
func listedValues(m *labels.Matcher) []string {
	switch m.Type {
	case labels.MatchEqual:
		return []string{m.Value}
	case labels.MatchRegexp:
		if set := m.SetMatches(); len(set) <= narrowValues {
			return set
		}
	}
	return nil
}

// bucketOf returns the bucket of a label that has a value, if the label has the value.
func bucketOf(l *schema.Label, value string) (bucket int, ok bool) {
	at, found := slices.BinarySearch(l.Buckets, value)
	if found {
		return at, true
	}
	return at - 1, at > 0
}
