// Package cardinality counts a tenant's recent series by label names and values: the endpoints
// status/tsdb, with Prometheus' answer, and cardinality/*, with Mimir's. It counts the series that
// the querier returns for the request: the tenant's series that the label policy of the credential
// allows, each once, even if several ingesters have it.
package cardinality

import (
	"context"
	"math"
	"net/http"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/series"
)

// Options configures an API.
type Options struct {
	Queryable storage.Queryable
	Parser    func(*http.Request) parser.Parser // of selectors
	// Head returns statistics of the chunks of all of a tenant's series in the memory of ingesters,
	// whatever the label policy. Only a request that may read all series may get them.
	Head func(context.Context, tenant.ID) (series.HeadStats, error)
	Now  func() time.Time
}

// API has the endpoints. Each returns the answer to encode as JSON, and charges its memory to the
// holding in the request's context. Errors are a *ParameterError, or errors of the Queryable, of
// Head, and of packages memory and tenant.
type API struct{ o Options }

// New returns an API.
func New(o Options) *API { return &API{o: o} }

// activeFor is the time after its last sample for which a series is active, as in docs/limits.md. A
// series is counted as in memory if it is active or has samples that are not sealed yet. Both are
// defined by the times of samples, not by the memory of an ingester, so that answers do not depend
// on restarts and on memory pressure.
const activeFor = 30 * time.Minute

// newest is the end of all ranges, in Unix milliseconds. Samples may be in the future.
const newest = math.MaxInt64 / 2

// since returns a time in Unix milliseconds: series with a sample at or after it are counted.
func (a *API) since(active bool) int64 {
	now := a.o.Now()
	from := now.Add(-activeFor).UnixMilli()
	if active {
		return from
	}
	return min(from, series.WindowStart(now.Add(-ingester.SealDelay).UnixMilli()))
}

// each calls fn for the labels of each matching series with a sample at or after since.
func (a *API) each(ctx context.Context, since int64, matchers []*labels.Matcher, fn func(labels.Labels) error) error {
	q, err := a.o.Queryable.Querier(since, newest)
	if err != nil {
		return err
	}
	defer func() { _ = q.Close() }()
	set := q.Select(ctx, true, &storage.SelectHints{Start: since, End: newest, Func: "series"}, matchers...)
	for set.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(set.At().Labels()); err != nil {
			return err
		}
	}
	return set.Err()
}

// count counts the matching series. If `only` is not nil, it counts only these label names.
func (a *API) count(ctx context.Context, p *parameters, only []string) (*counter, error) {
	c := newCounter(memory.FromContext(ctx), only)
	return c, a.each(querier.Counting(ctx), a.since(p.active), p.selector, c.add)
}

// ActiveSeries implements cardinality/active_series: the labels of the active series that
// match the selector, sorted.
func (a *API) ActiveSeries(r *http.Request) (any, error) {
	p, err := a.parse(r)
	if err != nil {
		return nil, err
	}
	if p.selector == nil {
		return nil, bad(`parameter selector is required: a series selector such as {__name__="up"}`)
	}
	answer := activeAnswer{Data: []labels.Labels{}}
	err = a.each(r.Context(), a.since(true), p.selector, func(ls labels.Labels) error {
		answer.Data = append(answer.Data, ls)
		return nil
	})
	return answer, err
}

type activeAnswer struct {
	Data []labels.Labels `json:"data"`
}

// LabelNames implements cardinality/label_names: the label names with the most values.
func (a *API) LabelNames(r *http.Request) (any, error) {
	p, err := a.parse(r)
	if err != nil {
		return nil, err
	}
	c, err := a.count(r.Context(), p, nil)
	if err != nil {
		return nil, err
	}
	most := newTop(p.limit)
	answer := namesAnswer{LabelNamesCount: len(c.names), Cardinality: []nameCount{}}
	for name, n := range c.names {
		answer.LabelValuesCountTotal += len(n.values)
		most.push(entry{name: name, count: uint64(len(n.values))})
	}
	for _, e := range most.list() {
		answer.Cardinality = append(answer.Cardinality, nameCount{LabelName: e.name, LabelValuesCount: e.count})
	}
	return answer, c.take(most.textBytes())
}

type namesAnswer struct {
	LabelValuesCountTotal int         `json:"label_values_count_total"`
	LabelNamesCount       int         `json:"label_names_count"`
	Cardinality           []nameCount `json:"cardinality"`
}

type nameCount struct {
	LabelName        string `json:"label_name"`
	LabelValuesCount uint64 `json:"label_values_count"`
}

// LabelValues implements cardinality/label_values: for each requested label name, the values
// with the most series.
func (a *API) LabelValues(r *http.Request) (any, error) {
	p, err := a.parse(r)
	if err != nil {
		return nil, err
	}
	if len(p.names) == 0 {
		return nil, bad("parameter label_names[] is required: the label names whose values are counted, each in a parameter of its own")
	}
	c, err := a.count(r.Context(), p, p.names)
	if err != nil {
		return nil, err
	}
	answer := valuesAnswer{SeriesCountTotal: c.series, Labels: []labelCount{}}
	names := newTop(len(p.names))
	for _, name := range p.names {
		names.push(entry{name: name, count: c.names[name].series})
	}
	if err := c.take(names.textBytes()); err != nil { // the request may have thousands of names
		return nil, err
	}
	for _, e := range names.list() {
		of := c.names[e.name]
		l := labelCount{LabelName: e.name, LabelValuesCount: len(of.values), SeriesCount: e.count, Cardinality: []valueCount{}}
		most := newTop(p.limit)
		for value, n := range of.values {
			most.push(entry{value: value, count: n})
		}
		for _, v := range most.list() {
			l.Cardinality = append(l.Cardinality, valueCount{LabelValue: v.value, SeriesCount: v.count})
		}
		if err := c.take(most.textBytes()); err != nil {
			return nil, err
		}
		answer.Labels = append(answer.Labels, l)
	}
	return answer, nil
}

type valuesAnswer struct {
	SeriesCountTotal uint64       `json:"series_count_total"`
	Labels           []labelCount `json:"labels"`
}

type labelCount struct {
	LabelName        string       `json:"label_name"`
	LabelValuesCount int          `json:"label_values_count"`
	SeriesCount      uint64       `json:"series_count"`
	Cardinality      []valueCount `json:"cardinality"`
}

type valueCount struct {
	LabelValue  string `json:"label_value"`
	SeriesCount uint64 `json:"series_count"`
}
