// Package exchange contains the common part of the APIs of rules and of Alertmanagers: the beginning of a request, with its
// tenant, limits and memory account, and the mapping of errors to responses.
package exchange

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/policies/limits"
)

// StatusClientGone is the status of a request whose client has closed the connection, as in nginx. No client receives it.
const StatusClientGone = 499

// retryAfter is the value of Retry-After, in seconds.
const retryAfter = "5"

// Exchange is a request with the values that handlers need.
type Exchange struct {
	W      http.ResponseWriter
	R      *http.Request // its context ends if the memory account ends the request
	Tenant tenant.ID
	Limits *limits.Limits
	Memory *memory.Holding
}

// Options configure the handlers of an API.
type Options struct {
	Limits func(tenant.ID) limits.Limits
	Memory *memory.Account // may be nil: the memory of requests is not accounted for
	Logger *slog.Logger
	// What describes the data of the API, such as "the rules". If tenants must not see the text of an error, the response says
	// only that What could not be read or written.
	What string
	// Write writes the response for a request that failed.
	Write func(http.ResponseWriter, *Error)
}

// Error is an error whose text is for the tenant.
type Error struct {
	Code int
	Kind string // errorType of Prometheus' API
	Text string
}

// Error implements error.
func (e *Error) Error() string { return e.Text }

// BadRequest returns an error with status 400.
func BadRequest(text string) error { return &Error{http.StatusBadRequest, "bad_data", text} }

// NotFound returns an error with status 404.
func NotFound(text string) error { return &Error{http.StatusNotFound, "not_found", text} }

// Unavailable returns an error with status 503: the request can be sent again.
func Unavailable(text string) error {
	return &Error{http.StatusServiceUnavailable, "unavailable", text}
}

// Handler returns a handler that begins an exchange and calls `serve`. If `serve` returns an error, the handler writes the
// response.
func (o Options) Handler(serve func(*Exchange) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		access, err := tenant.FromContext(r.Context())
		if err != nil {
			o.Write(w, &Error{http.StatusUnauthorized, "unauthorized", err.Error()})
			return
		}
		lim := o.Limits(access.Tenant)
		h := o.Memory.Begin(memory.Request{Tenant: access.Tenant, Limit: lim.MaxMemoryBytes})
		defer h.Close()
		ctx, cancel := context.WithCancelCause(memory.NewContext(r.Context(), h))
		defer cancel(nil)
		h.OnEnd(cancel)
		x := &Exchange{W: w, R: r.WithContext(ctx), Tenant: access.Tenant, Limits: &lim, Memory: h}
		if err := serve(x); err != nil {
			o.fail(x, err)
		}
	}
}

// fail writes the response for an exchange that failed.
func (o Options) fail(x *Exchange, err error) {
	if errors.Is(context.Cause(x.R.Context()), context.Canceled) {
		x.W.WriteHeader(StatusClientGone)
		return
	}
	known := o.status(err)
	if known == nil {
		o.Logger.Error("a request for the settings of a tenant failed", "path", x.R.URL.Path, "tenant", x.Tenant, "err", err)
		known = &Error{http.StatusServiceUnavailable, "unavailable", o.What + " could not be read or written; send the request again"}
	}
	if known.Code == http.StatusServiceUnavailable || known.Code == http.StatusTooManyRequests {
		x.W.Header().Set("Retry-After", retryAfter)
	}
	o.Write(x.W, known)
}

// status returns the response for an error, or nil if tenants must not see the text of the error.
func (o Options) status(err error) *Error {
	var (
		known    *Error
		exceeded *limits.Exceeded
		large    *memory.TooLargeError
	)
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &exceeded) && exceeded.Of(limits.MaxMemoryBytes):
		return &Error{http.StatusUnprocessableEntity, "execution", exceeded.Error()}
	case errors.As(err, &exceeded):
		return &Error{http.StatusBadRequest, "bad_data", exceeded.Error()}
	case errors.Is(err, memory.ErrEnded):
		return &Error{http.StatusUnprocessableEntity, "execution", memory.ErrEnded.Error()}
	case errors.As(err, &large):
		return &Error{http.StatusRequestEntityTooLarge, "bad_data", large.Error()}
	case errors.Is(err, memory.ErrFull):
		return &Error{http.StatusServiceUnavailable, "unavailable", memory.ErrFull.Error() + "; send the request again"}
	}
	return nil
}
