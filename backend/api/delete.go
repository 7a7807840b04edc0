package api

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/store/lifecycle"
)

// Deletion is a request to delete the samples in [MinTime, MaxTime] (Unix
// milliseconds) of the series that match at least one of the matcher sets.
type Deletion struct {
	Tenant           tenant.ID
	MinTime, MaxTime int64
	Sets             [][]*labels.Matcher
}

// maxDeletionSets is the maximum number of selectors in a request; tombstones
// are stored for weeks.
const maxDeletionSets = 16

// deleteSeries implements delete_series of Prometheus' admin API; it responds with 204. It is
// wrapped in admit, because it parses selectors. If a deletion is interrupted, it is unknown
// whether it took effect, so the response tells the client to repeat it.
func (a *api) deleteSeries(w http.ResponseWriter, r *http.Request) {
	d, err := a.parseDeletion(r)
	if err != nil {
		writeError(w, http.StatusBadRequest, "bad_data", err.Error())
		return
	}
	if err := a.Delete(r.Context(), d); err != nil {
		var invalid lifecycle.InvalidDeletion
		if errors.As(err, &invalid) {
			writeError(w, http.StatusBadRequest, "bad_data", invalid.Error())
			return
		}
		a.unavailable(w, r, fmt.Errorf("delete series: %w", err))
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// cleanTombstones implements clean_tombstones of Prometheus' admin API, without
// parameters; it responds with 204. Unlike Prometheus, which responds after rewriting its
// blocks, it only requests the rewrite, because the compactor may be another process.
func (a *api) cleanTombstones(w http.ResponseWriter, r *http.Request) {
	if err := a.CleanTombstones(r.Context(), access(r)); err != nil {
		a.unavailable(w, r, fmt.Errorf("clean tombstones: %w", err))
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (a *api) parseDeletion(r *http.Request) (Deletion, error) {
	d := Deletion{Tenant: access(r), MinTime: math.MinInt64, MaxTime: math.MaxInt64}
	if n := len(r.Form["match[]"]); n == 0 || n > maxDeletionSets {
		return d, errors.New("1 to 16 match[] parameters are required, each a series selector")
	}
	for _, m := range r.Form["match[]"] {
		set, err := a.parser(r).ParseMetricSelector(m)
		if err != nil {
			return d, fmt.Errorf("parameter match[]: %w", err)
		}
		d.Sets = append(d.Sets, set)
	}
	var err error
	if d.MinTime, err = timeParameter(r.Form.Get("start"), d.MinTime); err != nil {
		return d, errors.New("start is not a valid time: use Unix seconds or RFC 3339")
	}
	if d.MaxTime, err = timeParameter(r.Form.Get("end"), d.MaxTime); err != nil {
		return d, errors.New("end is not a valid time: use Unix seconds or RFC 3339")
	}
	if d.MinTime > d.MaxTime {
		return d, errors.New("end is before start")
	}
	return d, nil
}

// timeParameter parses Unix seconds or RFC 3339, and returns Unix milliseconds. It returns the
// default none if s is empty.
func timeParameter(s string, none int64) (int64, error) {
	if s == "" {
		return none, nil
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		if math.IsNaN(f) || math.Abs(f) > math.MaxInt64/2000 {
			return 0, errors.New("out of range")
		}
		return int64(math.Round(f * 1000)), nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	return t.UnixMilli(), err
}
