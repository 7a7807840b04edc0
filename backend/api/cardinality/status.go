package cardinality

import (
	"net/http"
	"net/url"
	"strconv"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
)

// Limits of the lists of status/tsdb, as in Prometheus.
const (
	defaultStatusLimit = 10
	maxStatusLimit     = 10000
)

// Status implements status/tsdb: statistics of the series in memory.
func (a *API) Status(r *http.Request) (any, error) {
	limit, err := statusLimit(r.Form)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	access, err := tenant.FromContext(ctx)
	if err != nil {
		return nil, err
	}
	head, err := a.o.Head(ctx, access.Tenant)
	if err != nil {
		return nil, err
	}
	c, err := a.count(ctx, &parameters{}, nil)
	if err != nil {
		return nil, err
	}
	s := statistics{series: newTop(limit), values: newTop(limit), memory: newTop(limit), pairs: newTop(limit)}
	s.add(c)
	var response statusResponse
	response.Status = "success"
	response.Data.HeadStats = headStats{NumSeries: c.series, NumLabelPairs: s.labelPairs, ChunkCount: head.Chunks,
		MinTime: head.MinTime, MaxTime: head.MaxTime}
	for _, l := range []struct {
		from *top
		to   *[]stat
	}{
		{s.series, &response.Data.SeriesCountByMetricName}, {s.values, &response.Data.LabelValueCountByLabelName},
		{s.memory, &response.Data.MemoryInBytesByLabelName}, {s.pairs, &response.Data.SeriesCountByLabelValuePair},
	} {
		if *l.to = l.from.stats(); err == nil {
			err = c.take(2 * l.from.textBytes())
		}
	}
	return response, err
}

// statusLimit parses the parameter limit. The errors have Prometheus' texts.
func statusLimit(form url.Values) (int, error) {
	text := form.Get("limit")
	if text == "" {
		return defaultStatusLimit, nil
	}
	limit, err := strconv.Atoi(text)
	switch {
	case err != nil, limit < 1:
		return 0, bad("limit must be a positive number")
	case limit > maxStatusLimit:
		return 0, bad("limit must not exceed %d", maxStatusLimit)
	}
	return limit, nil
}

// statistics are the lists of status/tsdb.
type statistics struct {
	labelPairs                    int
	series, values, memory, pairs *top
}

// add adds the counts, as MemPostings.Stats of Prometheus does.
func (s *statistics) add(c *counter) {
	for name, n := range c.names {
		s.labelPairs += len(n.values)
		s.values.push(entry{name: name, count: uint64(len(n.values))})
		size := uint64(0)
		for value, count := range n.values {
			if name == model.MetricNameLabel {
				s.series.push(entry{name: value, count: count})
			}
			s.pairs.push(entry{name: name, value: value, count: count})
			size += labels.SizeOfLabels(name, value, count)
		}
		s.memory.push(entry{name: name, count: size})
	}
}

// stats returns the entries of a list in the form of status/tsdb.
func (t *top) stats() []stat {
	out := make([]stat, 0, len(t.kept))
	for _, e := range t.list() {
		name := e.name
		if e.value != "" {
			name += "=" + e.value
		}
		out = append(out, stat{Name: name, Value: e.count})
	}
	return out
}

// statusResponse is Prometheus' response to status/tsdb; see TSDBStatus of its package
// web/api/v1.
type statusResponse struct {
	Status string     `json:"status"`
	Data   tsdbStatus `json:"data"`
}

type tsdbStatus struct {
	HeadStats                   headStats `json:"headStats"`
	SeriesCountByMetricName     []stat    `json:"seriesCountByMetricName"`
	LabelValueCountByLabelName  []stat    `json:"labelValueCountByLabelName"`
	MemoryInBytesByLabelName    []stat    `json:"memoryInBytesByLabelName"`
	SeriesCountByLabelValuePair []stat    `json:"seriesCountByLabelValuePair"`
}

type headStats struct {
	NumSeries     uint64 `json:"numSeries"`
	NumLabelPairs int    `json:"numLabelPairs"`
	ChunkCount    int64  `json:"chunkCount"`
	MinTime       int64  `json:"minTime"` // Unix milliseconds
	MaxTime       int64  `json:"maxTime"`
}

type stat struct {
	Name  string `json:"name"`
	Value uint64 `json:"value"`
}
