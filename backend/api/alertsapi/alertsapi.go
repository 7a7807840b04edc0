// Package alertsapi is the HTTP API of tenants' Alertmanagers. It consists of the configuration as in Mimir and Cortex, secrets,
// and Alertmanager's own API, whose requests are forwarded: alerts to all replicas of the tenant, others to one.
// docs/alertmanager.md describes it.
package alertsapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/alertmanager"
	"github.com/palliumhq/pallium/backend/alertmanager/pace"
	"github.com/palliumhq/pallium/backend/api/exchange"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/policies/limits"
)

const (
	// maxBody is the maximum size of a request body, such as a configuration or alerts, in bytes.
	maxBody = 16 << 20
	// maxSecret is the maximum size of a secret in bytes, and maxSecrets the maximum number of secrets of a tenant.
	maxSecret  = 16 << 10
	maxSecrets = 100
	// checkWait is the maximum time that a configuration waits for its check. The configurations of a tenant are checked one
	// after the other, within the CPU time of its Alertmanager.
	checkWait = 10 * time.Second
	// checkFactor is the memory of a check, as a multiple of the size of the configuration.
	checkFactor = 64
	// bodyFactor is the memory of a request, as a multiple of the size of its body: text, decoded text, and objects.
	bodyFactor = 8
)

// Store reads and writes the settings of tenants. index.Alertmanagers implements it.
type Store interface {
	Settings(ctx context.Context, t tenant.ID) (index.AlertmanagerSettings, error)
	SetConfig(ctx context.Context, t tenant.ID, yaml string) error
	DeleteConfig(ctx context.Context, t tenant.ID) error
	SetSecret(ctx context.Context, t tenant.ID, name string, value []byte) error
	DeleteSecret(ctx context.Context, t tenant.ID, name string) error
}

// Options are the options of New. Fields that may not be nil must be set.
type Options struct {
	Store Store
	// Check checks a configuration together with the stored secrets, and returns warnings.
	Check func(t tenant.ID, yaml []byte, s index.AlertmanagerSettings) (warnings []string, err error)
	// Seal encrypts a secret. It returns ErrNoKey if the process has no key.
	Seal func(t tenant.ID, name string, value []byte) ([]byte, error)
	// Forward sends a request with alerts to all replicas of the tenant, and other requests to one.
	Forward func(context.Context, tenant.ID, *alertmanager.Request) (*alertmanager.Response, error)
	// ForwardAll sends a request to all replicas of the tenant. It returns an error if the replicas are unknown.
	ForwardAll func(context.Context, tenant.ID, *alertmanager.Request) ([]Reply, error)
	Pace       *pace.Pace
	Limits     func(tenant.ID) limits.Limits
	Memory     *memory.Account // may be nil: the memory of requests is not accounted for
	Changed    func(tenant.ID) // called after each change of the settings; may be nil
	Logger     *slog.Logger    // may be nil: nothing is logged
}

// ErrNoKey is returned by Options.Seal if there is no key for secrets.
var ErrNoKey = errors.New("secrets of receivers are off: the operator must set PALLIUM_SECRET_KEY")

type api struct {
	Options
	exchanges exchange.Options
}

// New returns the handlers of the API by the names of their routes.
func New(o Options) map[string]http.HandlerFunc {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Changed == nil {
		o.Changed = func(tenant.ID) {}
	}
	a := &api{o, exchange.Options{Limits: o.Limits, Memory: o.Memory, Logger: o.Logger, What: "the Alertmanager", Write: writeFailure}}
	handlers := map[string]http.HandlerFunc{}
	for name, serve := range map[string]func(*request) error{
		"alertmanager_config":        a.get,
		"set_alertmanager_config":    a.set,
		"delete_alertmanager_config": a.remove,
		"alertmanager_attempts":      a.attempts,
		"alertmanager_secrets":       a.secrets,
		"set_alertmanager_secret":    a.setSecret,
		"delete_alertmanager_secret": a.deleteSecret,
		"alertmanager_page":          a.page,
		"alertmanager_status":        a.forward,
		"alertmanager_receivers":     a.forward,
		"alertmanager_alerts":        a.forward,
		"alertmanager_push":          a.forward,
		"alertmanager_groups":        a.forward,
		"silences":                   a.forward,
		"set_silence":                a.forward,
		"silence":                    a.forward,
		"delete_silence":             a.forward,
	} {
		handlers[name] = a.exchanges.Handler(func(e *exchange.Exchange) error { return serve(&request{e}) })
	}
	return handlers
}

// request is an exchange with methods to read the body and to respond.
type request struct{ *exchange.Exchange }

// writeFailure responds with an error as plain text, as Mimir's API of configurations does.
func writeFailure(w http.ResponseWriter, e *exchange.Error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(e.Code)
	_, _ = io.WriteString(w, e.Text+"\n")
}

// body reads the body of a request.
func (x *request) body(most int64, what string) ([]byte, error) {
	if e := x.R.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, &exchange.Error{Code: http.StatusUnsupportedMediaType,
			Text: fmt.Sprintf("content encoding %q is not supported: send the body uncompressed", e)}
	}
	expected := most
	if n := x.R.ContentLength; n >= 0 {
		expected = min(most, n)
	}
	if err := x.Memory.Take(bodyFactor * expected); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(x.R.Body, most+1))
	if err != nil {
		return nil, exchange.BadRequest("could not read the body: " + err.Error())
	}
	if int64(len(body)) > most {
		return nil, &exchange.Error{Code: http.StatusRequestEntityTooLarge, Text: fmt.Sprintf("%s has more than %d bytes", what, most)}
	}
	return body, nil
}

// get responds with the configuration, as it was sent.
func (a *api) get(x *request) error {
	s, err := a.Store.Settings(x.R.Context(), x.Tenant)
	if err != nil {
		return err
	}
	if !s.Exists {
		return exchange.NotFound("the Alertmanager is not configured")
	}
	x.W.Header().Set("Content-Type", "application/yaml")
	_, err = io.WriteString(x.W, s.Config.YAML)
	return ignoreWrite(err)
}

// ignoreWrite ignores the error of writing a response: the client has disconnected.
func ignoreWrite(error) error { return nil }

// set checks and stores a configuration.
func (a *api) set(x *request) error {
	most := x.Limits.MaxAlertmanagerConfigBytes
	if most <= 0 {
		most = maxBody
	}
	body, err := x.body(min(most, maxBody), "the configuration (limit max_alertmanager_config_bytes)")
	if err != nil {
		return err
	}
	s, err := a.Store.Settings(x.R.Context(), x.Tenant)
	if err != nil {
		return err
	}
	warnings, err := a.check(x, body, s)
	if err != nil {
		return err
	}
	if s.Exists && s.Config.YAML == string(body) {
		return x.json(http.StatusCreated, map[string]any{"status": "success", "warnings": warnings})
	}
	if err := a.Store.SetConfig(x.R.Context(), x.Tenant, string(body)); err != nil {
		return err
	}
	a.Changed(x.Tenant)
	return x.json(http.StatusCreated, map[string]any{"status": "success", "warnings": warnings})
}

// check checks a configuration.
func (a *api) check(x *request, yaml []byte, s index.AlertmanagerSettings) ([]string, error) {
	ctx, cancel := context.WithTimeout(x.R.Context(), checkWait)
	defer cancel()
	turn, err := a.Pace.Begin(ctx, x.Tenant, pace.Configuration)
	if err != nil && x.R.Context().Err() == nil {
		return nil, &exchange.Error{Code: http.StatusTooManyRequests, Text: "the configuration was not checked: " + err.Error()}
	}
	if err != nil {
		return nil, err
	}
	defer turn.End()
	if err := x.Memory.Take(checkFactor * int64(len(yaml))); err != nil {
		return nil, err
	}
	warnings, err := a.Check(x.Tenant, yaml, s)
	if warnings == nil {
		warnings = []string{}
	}
	if err != nil {
		return nil, exchange.BadRequest("the Alertmanager configuration is not valid: " + err.Error())
	}
	return warnings, nil
}

func (x *request) json(code int, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode the response: %w", err)
	}
	x.W.Header().Set("Content-Type", "application/json")
	x.W.WriteHeader(code)
	_, err = x.W.Write(append(text, '\n'))
	return ignoreWrite(err)
}

// remove deletes the configuration. It succeeds without one, as in Mimir.
func (a *api) remove(x *request) error {
	if err := a.Store.DeleteConfig(x.R.Context(), x.Tenant); err != nil {
		return err
	}
	a.Changed(x.Tenant)
	x.W.WriteHeader(http.StatusOK)
	return nil
}

// forward forwards a request to the tenant's Alertmanager.
func (a *api) forward(x *request) error {
	r := &alertmanager.Request{Method: x.R.Method, Path: x.R.URL.RequestURI(), ContentType: x.R.Header.Get("Content-Type")}
	if x.R.Method == http.MethodPost {
		var err error
		if r.Body, err = x.body(maxBody, "the request"); err != nil {
			return err
		}
	}
	out, err := a.Forward(x.R.Context(), x.Tenant, r)
	if err != nil {
		return err
	}
	if out.ContentType != "" {
		x.W.Header().Set("Content-Type", out.ContentType)
	}
	x.W.WriteHeader(out.Code)
	_, err = x.W.Write(out.Body)
	return ignoreWrite(err)
}
