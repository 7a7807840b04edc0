package alertsapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/palliumhq/pallium/backend/alertmanager"
)

// Reply is the reply of one replica.
type Reply struct {
	Response *alertmanager.Response // set if Err is nil
	Err      error                  // error with the name of the replica, if there is no response
}

// attempts responds with the receivers of the tenant, and with the last attempt to notify of each integration.
func (a *api) attempts(x *request) error {
	list, warnings, err := a.receivers(x)
	if err != nil {
		return err
	}
	return x.json(http.StatusOK, map[string]any{"status": "success", "data": list, "warnings": warnings})
}

// receivers requests the receivers from all replicas, because any of them may have sent a notification. The warnings describe
// what may be missing.
func (a *api) receivers(x *request) (list []alertmanager.Receiver, warnings []string, err error) {
	replies, err := a.ForwardAll(x.R.Context(), x.Tenant, &alertmanager.Request{Method: http.MethodGet, Path: alertmanager.ReceiversPath})
	if err != nil {
		return nil, nil, err
	}
	var answers []alertmanager.Receivers
	var errs error
	for _, reply := range replies {
		answer, err := x.answer(reply)
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		answers = append(answers, answer)
	}
	if len(answers) == 0 {
		return nil, nil, fmt.Errorf("no replica of the Alertmanager answered: %w", errs)
	}
	warnings = []string{}
	if n := len(replies) - len(answers); n > 0 {
		a.Logger.Warn("could not ask all replicas of a tenant's Alertmanager for their attempts to notify", "tenant", x.Tenant, "err", errs)
		warnings = append(warnings, fmt.Sprintf("%d of %d replicas of the Alertmanager did not respond: their attempts to notify are "+
			"missing",
			n, len(replies)))
	}
	if why := answers[0].Failed; why != "" {
		warnings = append(warnings, "the stored configuration does not run: "+why)
	}
	return merged(answers), warnings, nil
}

// answer decodes the reply of a replica.
func (x *request) answer(reply Reply) (out alertmanager.Receivers, err error) {
	if reply.Err != nil {
		return out, reply.Err
	}
	if reply.Response.Code != http.StatusOK {
		return out, fmt.Errorf("read the receivers: status %d", reply.Response.Code)
	}
	if err := x.Memory.Take(bodyFactor * int64(len(reply.Response.Body))); err != nil {
		return out, err
	}
	if err := json.Unmarshal(reply.Response.Body, &out); err != nil {
		return out, fmt.Errorf("decode the receivers: %w", err)
	}
	return out, nil
}

// place identifies an integration of a receiver.
type place struct {
	receiver, name string
	index          int
}

// merged returns the receivers of the first answer. Each integration has the newest attempt of all answers. Its number of
// failed attempts is the sum over the replicas whose last attempt was after the last success of any replica. Replicas may run
// different configurations for ten seconds; integrations that the first answer does not have are left out.
func merged(answers []alertmanager.Receivers) []alertmanager.Receiver {
	all := map[place][]alertmanager.Integration{}
	for _, answer := range answers {
		for _, r := range answer.Receivers {
			for i := range r.Integrations {
				key := place{r.Name, r.Integrations[i].Name, r.Integrations[i].Index}
				all[key] = append(all[key], r.Integrations[i])
			}
		}
	}
	out := answers[0].Receivers
	for _, r := range out {
		for i := range r.Integrations {
			in := &r.Integrations[i]
			*in = newest(in.Kind, all[place{r.Name, in.Name, in.Index}])
		}
	}
	return out
}

// newest merges the attempts of an integration on all replicas.
func newest(kind alertmanager.Kind, list []alertmanager.Integration) alertmanager.Integration {
	var out alertmanager.Integration
	for i := range list {
		success := out.LastNotifySuccess
		if list[i].LastNotifySuccess.After(success) {
			success = list[i].LastNotifySuccess
		}
		if list[i].LastNotifyAttempt.After(out.LastNotifyAttempt) {
			out = list[i]
		}
		out.LastNotifySuccess = success
	}
	out.Kind, out.FailedNotifyAttempts = kind, 0
	for i := range list {
		if list[i].LastNotifyAttempt.After(out.LastNotifySuccess) {
			out.FailedNotifyAttempts += list[i].FailedNotifyAttempts
		}
	}
	return out
}
