package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strconv"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"

	"github.com/palliumhq/pallium/backend/series"
)

// maxSearchLimit is the highest parameter limit of the endpoints search/*: Prometheus'
// default of --web.search.max-limit.
const maxSearchLimit = 10000

// errNotSearchable is the error of a Queryable whose queriers do not implement storage.Searcher,
// which Prometheus' handlers of search/* need.
var errNotSearchable = errors.New("internal error: the storage does not implement searches")

// SearchLabelNames implements storage.Searcher.
func (q readQuerier) SearchLabelNames(
	ctx context.Context, hints *storage.SearchHints, matchers ...*labels.Matcher,
) storage.SearchResultSet {
	if s, ok := q.Querier.(storage.Searcher); ok {
		return s.SearchLabelNames(ctx, hints, matchers...)
	}
	return storage.ErrSearchResultSet(errNotSearchable)
}

// SearchLabelValues implements storage.Searcher.
func (q readQuerier) SearchLabelValues(
	ctx context.Context, name string, hints *storage.SearchHints, matchers ...*labels.Matcher,
) storage.SearchResultSet {
	if s, ok := q.Querier.(storage.Searcher); ok {
		return s.SearchLabelValues(ctx, name, hints, matchers...)
	}
	return storage.ErrSearchResultSet(errNotSearchable)
}

// searchMetrics wraps Prometheus' handler of search/metric_names, and implements include_metadata.
// Prometheus' own implementation reads the metadata of scraped targets into a cache that tenants
// would share. It must be inside admit, which parses the parameters.
func (a *api) searchMetrics(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Prometheus' handler rejects other values.
		if yes, err := strconv.ParseBool(r.Form.Get("include_metadata")); err != nil || !yes {
			next.ServeHTTP(w, r)
			return
		}
		list, err := a.knownMetadata(r)
		if err != nil {
			a.reject(w, r, err)
			return
		}
		known := make(map[string]series.MetricMetadata, len(list))
		for _, m := range list {
			known[m.Metric] = m
		}
		r = r.WithContext(r.Context())
		r.Form = maps.Clone(r.Form)
		r.Form.Del("include_metadata")
		next.ServeHTTP(&metadataWriter{ResponseWriter: w, known: known}, r)
	})
}

// searchBatch is a line of the response of search/metric_names, as in Prometheus.
type searchBatch struct {
	Results  []searchResult  `json:"results"`
	Warnings json.RawMessage `json:"warnings,omitempty"`
}

type searchResult struct {
	Name  string          `json:"name"`
	Score json.RawMessage `json:"score,omitempty"`
	Type  string          `json:"type,omitempty"`
	Help  string          `json:"help,omitempty"`
	Unit  string          `json:"unit,omitempty"`
}

// metadataWriter adds metadata to the results of search/metric_names. Prometheus' handler writes
// each line with one call.
type metadataWriter struct {
	http.ResponseWriter
	known map[string]series.MetricMetadata // by metric
}

// resultsPrefix is the beginning of a line with results.
var resultsPrefix = []byte(`{"results":`)

// Write implements http.ResponseWriter.
func (w *metadataWriter) Write(line []byte) (int, error) {
	if !bytes.HasPrefix(line, resultsPrefix) {
		return w.ResponseWriter.Write(line)
	}
	var batch searchBatch
	if err := json.Unmarshal(line, &batch); err != nil {
		return 0, err
	}
	for i := range batch.Results {
		res := &batch.Results[i]
		if m, ok := familyOf(w.known, res.Name); ok {
			res.Type, res.Help, res.Unit = string(m.Type), m.Help, m.Unit
		}
	}
	out, err := json.Marshal(batch)
	if err != nil {
		return 0, err
	}
	if _, err := w.ResponseWriter.Write(append(out, '\n')); err != nil {
		return 0, err
	}
	return len(line), nil
}

// Flush implements http.Flusher.
func (w *metadataWriter) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

// Unwrap implements the optional interface of http.ResponseController.
func (w *metadataWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// familyOf returns the metadata of a metric's family: of the family with the metric's name, or with
// that name without a suffix that the family's type allows. It follows metadataForMetric of
// Prometheus' web/api/v1/search.go.
func familyOf(known map[string]series.MetricMetadata, metric string) (series.MetricMetadata, bool) {
	if m, ok := known[metric]; ok {
		return m, true
	}
	i := strings.LastIndexByte(metric, '_')
	if i < 0 {
		return series.MetricMetadata{}, false
	}
	family, suffix := metric[:i], metric[i:]
	if (suffix == "_total" || suffix == "_info") && strings.HasSuffix(family, suffix) {
		return series.MetricMetadata{}, false
	}
	m, ok := known[family]
	return m, ok && mayHave(m.Type, suffix)
}

// mayHave reports whether series of a metric family of the type may have the suffix.
func mayHave(t model.MetricType, suffix string) bool {
	switch suffix {
	case "_total":
		return t == model.MetricTypeCounter
	case "_bucket":
		return t == model.MetricTypeHistogram || t == model.MetricTypeGaugeHistogram
	case "_sum", "_count":
		return t == model.MetricTypeHistogram || t == model.MetricTypeGaugeHistogram || t == model.MetricTypeSummary
	case "_gsum", "_gcount":
		return t == model.MetricTypeGaugeHistogram
	case "_info":
		return t == model.MetricTypeInfo
	}
	return false
}
