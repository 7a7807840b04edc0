package api

import (
	"net/http"
	"strconv"

	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/series"
)

type metadataAnswer struct {
	Type string `json:"type"`
	Help string `json:"help"`
	Unit string `json:"unit"`
}

// metadata implements Prometheus' endpoint metadata. Each metric has one entry, so limit_per_metric
// has no effect.
func (a *api) metadata(w http.ResponseWriter, r *http.Request) {
	limit, err := positive(r.FormValue("limit"))
	if err != nil {
		writeError(w, http.StatusBadRequest, "bad_data", "limit must be a number")
		return
	}
	if _, err := positive(r.FormValue("limit_per_metric")); err != nil {
		writeError(w, http.StatusBadRequest, "bad_data", "limit_per_metric must be a number")
		return
	}
	metric := r.FormValue("metric")
	data := map[string][]metadataAnswer{}
	known, err := a.knownMetadata(r)
	if err != nil {
		a.reject(w, r, err)
		return
	}
	for _, m := range known {
		if metric != "" && m.Metric != metric {
			continue
		}
		if limit >= 0 && len(data) >= limit {
			break
		}
		data[m.Metric] = []metadataAnswer{{Type: string(m.Type), Help: m.Help, Unit: m.Unit}}
	}
	writeJSON(w, http.StatusOK, map[string]any{"status": "success", "data": data})
}

// knownMetadata returns the metadata of the tenant's metrics, ascending by metric, and charges
// memory for it and for a response.
func (a *api) knownMetadata(r *http.Request) ([]series.MetricMetadata, error) {
	known, err := a.Metadata(r.Context(), access(r))
	if err != nil {
		return nil, err
	}
	size := int64(0)
	for i := range known {
		size += int64(len(known[i].Metric)+len(known[i].Help)+len(known[i].Unit)) + 100
	}
	return known, memory.FromContext(r.Context()).Take(3 * size) // as a map, and as text
}

// positive parses an optional limit; -1 if it is empty.
func positive(s string) (int, error) {
	if s == "" {
		return -1, nil
	}
	return strconv.Atoi(s)
}

// userStats returns the tenant's own usage, with the field names of Cortex.
func (a *api) userStats(w http.ResponseWriter, r *http.Request) {
	id := access(r)
	n, err := a.SeriesCount(r.Context(), id)
	if err != nil { // an incomplete count is an error
		a.reject(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"numSeries": n, "maxActiveSeries": a.Limits(id).MaxActiveSeries})
}
