package rulesapi

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/palliumhq/pallium/backend/api/exchange"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/rules"
	"github.com/palliumhq/pallium/backend/schema"
	"github.com/palliumhq/pallium/policies/limits"
)

// progress is a backfill in responses.
type progress struct {
	Namespace string    `json:"namespace"`
	Group     string    `json:"group"`
	State     string    `json:"state"` // running, done or failed
	Start     time.Time `json:"start"`
	End       time.Time `json:"end"`
	Done      float64   `json:"done"` // completed fraction of the time range, from 0 to 1
	Samples   int64     `json:"samples"`
	Failed    int64     `json:"failedEvaluations"`
	Error     string    `json:"error,omitempty"`
	Created   time.Time `json:"created"`
	Updated   time.Time `json:"updated"`
}

func progressOf(b *index.Backfill) progress {
	p := progress{Namespace: b.Namespace, Group: b.Group, State: map[schema.BackfillState]string{schema.BackfillRunning: "running",
		schema.BackfillDone: "done", schema.BackfillFailed: "failed"}[b.State],
		Start: time.UnixMilli(b.Start).UTC(), End: time.UnixMilli(b.End).UTC(), Samples: b.Samples, Failed: b.Failed, Error: b.Error,
		Created: time.UnixMilli(b.Created).UTC(), Updated: time.UnixMilli(b.Updated).UTC()}
	if span := b.End - b.Start; span > 0 {
		p.Done = max(0, min(1, float64(b.Done-b.Start)/float64(span)))
	}
	if b.State == schema.BackfillDone {
		p.Done = 1
	}
	return p
}

// startBackfill starts the evaluation of the recording rules of a group for a time in the past.
func (a *api) startBackfill(x *request) error {
	if err := x.checkProtection(); err != nil {
		return err
	}
	b, err := a.newBackfill(x)
	if err != nil {
		return err
	}
	g, ok, err := a.Store.Get(x.R.Context(), x.Tenant, x.namespace, x.group)
	switch {
	case err != nil:
		return err
	case !ok:
		return errNoGroup
	}
	d, err := rules.Stored(x.namespace, []byte(g.YAML))
	if err != nil {
		return err
	}
	recording := false
	for i := range d.Rules {
		recording = recording || d.Rules[i].Record != ""
	}
	if !recording {
		return exchange.BadRequest("the group has no recording rules: only those can be evaluated for the past")
	}
	err = a.Backfills.StartBackfill(x.R.Context(), b)
	if errors.Is(err, index.ErrBackfillRuns) {
		return &exchange.Error{Code: http.StatusConflict, Kind: "conflict",
			Text: "a backfill of this group is running: wait until it has ended, or delete it"}
	}
	if err != nil {
		return err
	}
	a.BackfillStarted()
	return writeDataAs(x.W, http.StatusAccepted, progressOf(b))
}

// maxForm is the maximum size of a form in bytes.
const maxForm = 64 << 10

// newBackfill returns a backfill with the parameters start and end.
func (a *api) newBackfill(x *request) (*index.Backfill, error) {
	x.R.Body = http.MaxBytesReader(x.W, x.R.Body, maxForm)
	if err := x.R.ParseForm(); err != nil {
		return nil, exchange.BadRequest(fmt.Sprintf("parse the parameters of the request: %v", err))
	}
	form := x.R.Form
	now := a.Now()
	start, err := parseTime("start", form.Get("start"), time.Time{})
	if err != nil {
		return nil, err
	}
	end, err := parseTime("end", form.Get("end"), now)
	if err != nil {
		return nil, err
	}
	switch {
	case form.Get("start") == "":
		return nil, exchange.BadRequest(
			"parameter start is missing: it must be the first time to evaluate, such as 2026-01-02T15:04:05Z or Unix seconds")
	case start.After(now):
		return nil, exchange.BadRequest(fmt.Sprintf("parameter start is %s, which is in the future", start.UTC().Format(time.RFC3339)))
	case end.After(now):
		return nil, exchange.BadRequest(fmt.Sprintf("parameter end is %s, which is in the future", end.UTC().Format(time.RFC3339)))
	case !start.Before(end):
		return nil, exchange.BadRequest("parameter start must be before end")
	}
	if err := x.checkAge(now.Sub(start)); err != nil {
		return nil, err
	}
	return &index.Backfill{Tenant: x.Tenant, Namespace: x.namespace, Group: x.group,
		Backfill: schema.Backfill{Start: start.UnixMilli(), End: end.UnixMilli(), Done: start.UnixMilli() - 1}}, nil
}

// checkAge returns an error if samples of this age would be rejected.
func (x *request) checkAge(age time.Duration) error {
	for limit, most := range map[string]limits.Duration{"past_grace": x.Limits.PastGrace, "retention": x.Limits.Retention} {
		if most > 0 && age > time.Duration(most) {
			return exchange.BadRequest(fmt.Sprintf("parameter start is %s ago, and samples older than the limit %s, %s, are rejected: "+
				"use a later start, or ask the administrator for a higher limit", limits.Duration(age.Round(time.Second)), limit, most))
		}
	}
	return nil
}

// parseTime parses a time as Prometheus' API does: RFC 3339, or Unix seconds with a fraction.
func parseTime(name, text string, missing time.Time) (time.Time, error) {
	if text == "" {
		return missing, nil
	}
	const most = 1 << 40 // seconds
	if s, err := strconv.ParseFloat(text, 64); err == nil && math.Abs(s) < most {
		return time.UnixMilli(int64(math.Round(s * 1000))), nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return t, exchange.BadRequest(fmt.Sprintf(
			"parameter %s is %.40q: it must be a time such as 2026-01-02T15:04:05Z, or Unix seconds", name, text))
	}
	return t, nil
}

var errNoBackfill = exchange.NotFound("the group has no backfill")

// getBackfill responds with the progress of a backfill.
func (a *api) getBackfill(x *request) error {
	b, ok, err := a.Backfills.Backfill(x.R.Context(), x.Tenant, x.namespace, x.group)
	switch {
	case err != nil:
		return err
	case !ok:
		return errNoBackfill
	}
	return writeDataAs(x.W, http.StatusOK, progressOf(&b))
}

// deleteBackfill deletes a backfill. A running backfill stops before its next block; the samples that it has written
// remain.
func (a *api) deleteBackfill(x *request) error {
	if err := x.checkProtection(); err != nil {
		return err
	}
	found, err := a.Backfills.DeleteBackfill(x.R.Context(), x.Tenant, x.namespace, x.group)
	switch {
	case err != nil:
		return err
	case !found:
		return errNoBackfill
	}
	writeJSON(x.W, http.StatusAccepted, succeeded)
	return nil
}
