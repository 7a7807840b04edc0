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

// A query without a metric name would have to read the pages of every metric of its days. A matcher
// on another label can tell which metrics have series that the query selects: the names of a pack
// list its labels, and for each value of a label, a bucket lists the metrics that have series with
// that value.

// Limits of narrowing.
const (
	narrowAbove   = 4  // rows of metrics: up to so many are read without the additional round trip for buckets
	narrowValues  = 64 // values of one matcher
	narrowBuckets = 4  // buckets to be read for one matcher and pack: a matcher that needs more is not used
	narrowLabels  = 2  // matchers for which buckets are read: those on the labels with the most values
)

// narrowing tells which metrics of one pack can have series that the query selects.
type narrowing struct {
	part *index.NamesPart
	none bool   // no metric can have such series: the pack lacks a label that the query requires
	uses []uses // a metric that one of them does not list has no such series
}

// uses is a matcher on one label, with the metrics that match it.
type uses struct {
	label   *schema.Label
	buckets map[int][]string // by bucket: the matcher's values that may be in it
	metrics map[int]bool     // ordinals of metrics that have a series with one of the values; set when the buckets are read
}

// narrow returns the wanted rows whose metric can have series that the query selects. The argument
// `parts` has the names of the published generations. A row is dropped only because of cells of
// exactly the published generation, which are read after the catalogs.
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

// narrowingOf returns which buckets of a pack must be read to know which of its metrics the query
// can select.
func (q *query) narrowingOf(p *index.NamesPart) narrowing {
	n := narrowing{part: p}
	seen := map[string]bool{}
	for _, m := range q.req.Matchers {
		// A matcher that matches the empty value also selects series without the label.
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

// bucketOf returns the only bucket of a label that can have the value. ok is false if
// no bucket can.
func bucketOf(l *schema.Label, value string) (bucket int, ok bool) {
	at, found := slices.BinarySearch(l.Buckets, value)
	if found {
		return at, true
	}
	return at - 1, at > 0
}
