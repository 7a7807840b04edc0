package alertmanager

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/alertmanager/notify"
)

// ReceiversPath is the path of an internal request, to which each replica responds with its Receivers. Tenants cannot
// request it: the API merges the responses of all replicas for them.
const ReceiversPath = Prefix + "/receivers"

// Receivers contains the receivers of a tenant, with the last attempts of one replica.
type Receivers struct {
	Receivers []Receiver `json:"receivers"`
	// Failed is the error for which the stored configuration is not running; empty if it is running.
	Failed string `json:"failed,omitempty"`
}

// Receiver is a receiver of the running configuration. The names in JSON are those of Grafana's API.
type Receiver struct {
	Name         string        `json:"name"`
	Active       bool          `json:"active"` // whether a route leads to it
	Integrations []Integration `json:"integrations"`
}

// Integration is an integration of a receiver with its last attempt to notify.
type Integration struct {
	Kind
	LastNotifyAttempt         time.Time `json:"lastNotifyAttempt,omitzero"` // begin of the attempt; zero if there was none
	LastNotifyAttemptDuration string    `json:"lastNotifyAttemptDuration,omitempty"`
	LastNotifyAttemptError    string    `json:"lastNotifyAttemptError,omitempty"` // empty if the attempt succeeded
	LastNotifySuccess         time.Time `json:"lastNotifySuccess,omitzero"`
	// FailedNotifyAttempts is the number of failed attempts since the last successful one.
	FailedNotifyAttempts int `json:"failedNotifyAttempts"`
}

// Kind identifies an integration of a receiver.
type Kind struct {
	Name         string `json:"name"` // such as "webhook"
	Index        int    `json:"index"`
	SendResolved bool   `json:"sendResolved"`
}

// KindsOf returns the kinds of integrations.
func KindsOf(list []notify.Integration) []Kind {
	var out []Kind
	for i := range list {
		out = append(out, Kind{list[i].Name(), list[i].Index(), list[i].SendResolved()})
	}
	return out
}

// receivers responds to a request for ReceiversPath.
func (in *instance) receivers() (*Response, error) {
	r := in.current.Load()
	out := Receivers{Receivers: []Receiver{}}
	if r.failed != nil {
		out.Failed = r.failed.Error()
	}
	for i := range r.compiled.Config.Receivers {
		name := r.compiled.Config.Receivers[i].Name
		list, active := r.compiled.Integrations[name]
		kinds := r.compiled.Unused[name]
		if active {
			kinds = KindsOf(list)
		}
		next := Receiver{Name: name, Active: active, Integrations: []Integration{}}
		for _, k := range kinds {
			next.Integrations = append(next.Integrations, in.attempts.get(integrationKey{name, k.Name, k.Index}).of(k))
		}
		out.Receivers = append(out.Receivers, next)
	}
	text, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encode the receivers: %w", err)
	}
	return &Response{Code: http.StatusOK, ContentType: "application/json", Body: append(text, '\n')}, nil
}

// of returns an integration with its last attempt.
func (a attempt) of(k Kind) Integration {
	out := Integration{Kind: k, LastNotifyAttempt: a.began.UTC(), LastNotifyAttemptError: a.failure, LastNotifySuccess: a.succeeded.UTC(),
		FailedNotifyAttempts: a.failures}
	if !a.began.IsZero() {
		out.LastNotifyAttemptDuration = a.took.Round(time.Microsecond).String()
	}
	return out
}
