package alertmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/go-openapi/strfmt"
	"github.com/prometheus/alertmanager/alert"
	apiv2 "github.com/prometheus/alertmanager/api/v2"
	"github.com/prometheus/alertmanager/api/v2/models"
)

// put adds alerts as Alertmanager's API does, which is too large to be built for every tenant that only receives alerts.
// Alerts are added even if others have invalid times or labels; a request that is not of the form of the API is rejected.
// One request is served at a time, so that its rejections are known.
func (in *instance) put(ctx context.Context, body []byte) *Response {
	var list models.PostableAlerts
	if err := json.Unmarshal(body, &list); err != nil {
		return text(http.StatusBadRequest, "parse the alerts: "+err.Error())
	}
	if err := list.Validate(strfmt.Default); err != nil {
		return text(http.StatusBadRequest, err.Error())
	}
	now := in.opts.Now()
	timeout := time.Duration(in.current.Load().compiled.Config.Global.ResolveTimeout)
	var valid []*alert.Alert
	var errs error
	for _, a := range apiv2.OpenAPIAlertsToAlerts(ctx, list) {
		complete(a, now, timeout)
		if err := a.Validate(); err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		valid = append(valid, a)
	}
	in.putting.Lock()
	defer in.putting.Unlock()
	_ = in.limits.take()
	if err := in.alerts.Put(ctx, valid...); err != nil {
		return text(http.StatusInternalServerError, fmt.Sprintf("add the alerts: %v", err))
	}
	if in.stopped.Load() { // the alerts may be lost
		return text(http.StatusServiceUnavailable, errStopped.Error())
	}
	if err := in.limits.take(); err != nil {
		return text(http.StatusTooManyRequests, err.Error())
	}
	if errs != nil {
		return text(http.StatusBadRequest, errs.Error())
	}
	return &Response{Code: http.StatusOK}
}

// complete sets the times that an alert lacks, and removes empty labels.
func complete(a *alert.Alert, now time.Time, timeout time.Duration) {
	a.UpdatedAt = now
	if a.StartsAt.IsZero() {
		a.StartsAt = now
		if !a.EndsAt.IsZero() {
			a.StartsAt = a.EndsAt
		}
	}
	if a.EndsAt.IsZero() {
		a.Timeout, a.EndsAt = true, now.Add(timeout)
	}
	for name, value := range a.Labels {
		if value == "" {
			delete(a.Labels, name)
		}
	}
}
