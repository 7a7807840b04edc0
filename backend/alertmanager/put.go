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

	"github.com/palliumhq/pallium/backend/alertmanager/pace"
)

const (
	// maxLabels is the maximum size of the labels of an alert in bytes.
	maxLabels = 8 << 10
	// turnWait is the maximum time that a request waits for the tenant's CPU time.
	turnWait = 5 * time.Second
)

// put adds alerts in the same way as Alertmanager's API, which takes too much memory for tenants that only receive alerts.
// If some alerts have invalid times or labels, the others are added; a request that cannot be decoded is rejected. put serves
// one request at a time, so that it can attribute rejected alerts to it.
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
		if err := errors.Join(a.Validate(), checkLabels(a)); err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		valid = append(valid, a)
	}
	if err := in.route(ctx, valid); err != nil {
		return text(http.StatusTooManyRequests, err.Error())
	}
	in.putting.Lock()
	defer in.putting.Unlock()
	_ = in.limits.take()
	if err := in.alerts.Put(ctx, valid...); err != nil {
		return text(http.StatusInternalServerError, fmt.Sprintf("add the alerts: %v", err))
	}
	if in.stopped.Load() { // the alerts may have been lost
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

// checkLabels limits the size of the labels of an alert, because the matchers of all routes are compared with them.
func checkLabels(a *alert.Alert) error {
	n := 0
	for name, value := range a.Labels {
		n += len(name) + len(value)
	}
	if n > maxLabels {
		return fmt.Errorf("the labels of the alert %.64q have %d bytes, the limit is %d: shorten them, or use annotations",
			a.Name(), n, maxLabels)
	}
	return nil
}

// route charges the tenant for finding the routes of alerts: it finds them within the tenant's CPU time. The dispatcher finds
// them again, without a charge.
func (in *instance) route(ctx context.Context, alerts []*alert.Alert) error {
	ctx, cancel := context.WithTimeout(ctx, turnWait)
	defer cancel()
	turn, err := in.opts.Pace.Begin(ctx, in.tenant, pace.Alerts)
	if err != nil {
		return err
	}
	defer turn.End()
	routes := in.current.Load().routes
	began := time.Now()
	for _, a := range alerts {
		routes.Match(a.Labels)
	}
	turn.Total(2 * time.Since(began))
	return nil
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
