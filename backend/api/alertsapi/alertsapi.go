// Package alertsapi is the HTTP API of tenants' Alertmanagers: the configuration as in Mimir and Cortex, secrets, and
// Alertmanager's own API, whose requests are forwarded to a replica of the tenant. docs/alertmanager.md describes it.
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
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/policies/limits"
)

const (
	// maxBody is the greatest size of a request: of a configuration, or of alerts.
	maxBody = 16 << 20
	// maxSecret is the greatest size of a secret, and maxSecrets the greatest number of a tenant.
	maxSecret  = 16 << 10
	maxSecrets = 100
	// checkWait is for how long a configuration may wait to be checked: those of a tenant are checked one after the other, in
	// the CPU time of its Alertmanager.
	checkWait = 10 * time.Second
	// checkFactor is the memory of a check in multiples of the configuration.
	checkFactor = 64
	// bodyFactor is the memory of a request in multiples of its body: as text, decoded, and as objects.
	bodyFactor = 8
)

// Store has the settings of tenants; index.Alertmanagers implements it.
type Store interface {
	Settings(ctx context.Context, t tenant.ID) (index.AlertmanagerSettings, error)
	SetConfig(ctx context.Context, t tenant.ID, yaml string) error
	DeleteConfig(ctx context.Context, t tenant.ID) error
	SetSecret(ctx context.Context, t tenant.ID, name string, value []byte) error
	DeleteSecret(ctx context.Context, t tenant.ID, name string) error
}

// Options configure the API. Fields without a default must be set.
type Options struct {
	Store Store
	// Check checks a configuration together with the stored secrets, and returns warnings.
	Check func(t tenant.ID, yaml []byte, s index.AlertmanagerSettings) (warnings []string, err error)
	// Seal encrypts a secret. It returns ErrNoKey if the process has no key.
	Seal func(t tenant.ID, name string, value []byte) ([]byte, error)
	// Forward sends a request to a replica of the tenant.
	Forward func(context.Context, tenant.ID, *alertmanager.Request) (*alertmanager.Response, error)
	// ForwardAll sends a request to all replicas of the tenant. An error means that they are not known.
	ForwardAll func(context.Context, tenant.ID, *alertmanager.Request) ([]Reply, error)
	Pace       *pace.Pace
	Limits     func(tenant.ID) limits.Limits
	Memory     *memory.Account // nil: the memory of requests is not accounted for
	Changed    func(tenant.ID) // called after each change of the settings; nil: nothing is
	Logger     *slog.Logger    // nil: nothing is logged
}

// ErrNoKey is returned by Options.Seal if there is no key for secrets.
var ErrNoKey = errors.New("secrets of receivers are off: the operator must set PALLIUM_SECRET_KEY")

type api struct{ Options }

// New returns the handlers of the API by the names of their routes.
func New(o Options) map[string]http.HandlerFunc {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Changed == nil {
		o.Changed = func(tenant.ID) {}
	}
	a := &api{o}
	handlers := map[string]http.HandlerFunc{}
	for name, serve := range map[string]func(*exchange) error{
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
		handlers[name] = a.handler(serve)
	}
	return handlers
}

// exchange is a request with what handlers need of it.
type exchange struct {
	w      http.ResponseWriter
	r      *http.Request
	tenant tenant.ID
	limits *limits.Limits
	memory *memory.Holding
}

func (a *api) handler(serve func(*exchange) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		access, err := tenant.FromContext(r.Context())
		if err != nil {
			writeText(w, http.StatusUnauthorized, err.Error())
			return
		}
		lim := a.Limits(access.Tenant)
		h := a.Memory.Begin(memory.Request{Tenant: access.Tenant, Limit: lim.MaxMemoryBytes})
		defer h.Close()
		ctx, cancel := context.WithCancelCause(memory.NewContext(r.Context(), h))
		defer cancel(nil)
		h.OnEnd(cancel)
		x := &exchange{w: w, r: r.WithContext(ctx), tenant: access.Tenant, limits: &lim, memory: h}
		if err := serve(x); err != nil {
			a.fail(x, err)
		}
	}
}

// statusError is an error with its status.
type statusError struct {
	code int
	text string
}

// Error implements error.
func (e statusError) Error() string { return e.text }

// fail answers a request that failed. Texts are plain, as those of Mimir's and Alertmanager's API.
func (a *api) fail(x *exchange, err error) {
	var status statusError
	var exceeded *limits.Exceeded
	switch {
	case errors.As(err, &status):
		writeText(x.w, status.code, status.text)
	case errors.As(err, &exceeded):
		writeText(x.w, http.StatusUnprocessableEntity, err.Error())
	case x.r.Context().Err() != nil:
		writeText(x.w, http.StatusServiceUnavailable, "the request was ended: "+context.Cause(x.r.Context()).Error())
	default:
		a.Logger.Warn("a request for an Alertmanager failed", "tenant", x.tenant, "path", x.r.URL.Path, "err", err)
		writeText(x.w, http.StatusServiceUnavailable, err.Error())
	}
}

func writeText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, text+"\n")
}

// body reads the body of a request.
func (x *exchange) body(most int64, what string) ([]byte, error) {
	if e := x.r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, statusError{http.StatusUnsupportedMediaType,
			fmt.Sprintf("content encoding %q is not supported: send the body uncompressed", e)}
	}
	expected := most
	if n := x.r.ContentLength; n >= 0 {
		expected = min(most, n)
	}
	if err := x.memory.Take(bodyFactor * expected); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(x.r.Body, most+1))
	if err != nil {
		return nil, statusError{http.StatusBadRequest, "could not read the body: " + err.Error()}
	}
	if int64(len(body)) > most {
		return nil, statusError{http.StatusRequestEntityTooLarge, fmt.Sprintf("%s has more than %d bytes", what, most)}
	}
	return body, nil
}

// get responds with the configuration, as it was sent.
func (a *api) get(x *exchange) error {
	s, err := a.Store.Settings(x.r.Context(), x.tenant)
	if err != nil {
		return err
	}
	if !s.Exists {
		return statusError{http.StatusNotFound, "the Alertmanager is not configured"}
	}
	x.w.Header().Set("Content-Type", "application/yaml")
	_, err = io.WriteString(x.w, s.Config.YAML)
	return ignoreWrite(err)
}

// ignoreWrite returns nil: a client that does not take its response gets none.
func ignoreWrite(error) error { return nil }

// set checks and stores a configuration.
func (a *api) set(x *exchange) error {
	most := x.limits.MaxAlertmanagerConfigBytes
	if most <= 0 {
		most = maxBody
	}
	body, err := x.body(min(most, maxBody), "the configuration (limit max_alertmanager_config_bytes)")
	if err != nil {
		return err
	}
	s, err := a.Store.Settings(x.r.Context(), x.tenant)
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
	if err := a.Store.SetConfig(x.r.Context(), x.tenant, string(body)); err != nil {
		return err
	}
	a.Changed(x.tenant)
	return x.json(http.StatusCreated, map[string]any{"status": "success", "warnings": warnings})
}

// check checks a configuration.
func (a *api) check(x *exchange, yaml []byte, s index.AlertmanagerSettings) ([]string, error) {
	ctx, cancel := context.WithTimeout(x.r.Context(), checkWait)
	defer cancel()
	turn, err := a.Pace.Begin(ctx, x.tenant)
	if err != nil && x.r.Context().Err() == nil {
		return nil, statusError{http.StatusTooManyRequests, "the configuration was not checked: " + err.Error()}
	}
	if err != nil {
		return nil, err
	}
	defer turn.End()
	if err := x.memory.Take(checkFactor * int64(len(yaml))); err != nil {
		return nil, err
	}
	warnings, err := a.Check(x.tenant, yaml, s)
	if warnings == nil {
		warnings = []string{}
	}
	if err != nil {
		return nil, statusError{http.StatusBadRequest, "the Alertmanager configuration is not valid: " + err.Error()}
	}
	return warnings, nil
}

func (x *exchange) json(code int, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode the response: %w", err)
	}
	x.w.Header().Set("Content-Type", "application/json")
	x.w.WriteHeader(code)
	_, err = x.w.Write(append(text, '\n'))
	return ignoreWrite(err)
}

// remove deletes the configuration. It succeeds without one, as in Mimir.
func (a *api) remove(x *exchange) error {
	if err := a.Store.DeleteConfig(x.r.Context(), x.tenant); err != nil {
		return err
	}
	a.Changed(x.tenant)
	x.w.WriteHeader(http.StatusOK)
	return nil
}

// forward sends a request to Alertmanager's own API of the tenant.
func (a *api) forward(x *exchange) error {
	r := &alertmanager.Request{Method: x.r.Method, Path: x.r.URL.RequestURI(), ContentType: x.r.Header.Get("Content-Type")}
	if x.r.Method == http.MethodPost {
		var err error
		if r.Body, err = x.body(maxBody, "the request"); err != nil {
			return err
		}
	}
	out, err := a.Forward(x.r.Context(), x.tenant, r)
	if err != nil {
		return err
	}
	if out.ContentType != "" {
		x.w.Header().Set("Content-Type", out.ContentType)
	}
	x.w.WriteHeader(out.Code)
	_, err = x.w.Write(out.Body)
	return ignoreWrite(err)
}
