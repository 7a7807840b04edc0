package admin

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"

	"github.com/go-chi/chi/v5"

	"github.com/palliumhq/pallium/authn/apikey"
)

// Handler serves a request: it writes the response, or returns an error. An error of Fail, Query or
// a similar function and a *control.Error are sent to the client. Any other error is logged, and
// the response is 503.
type Handler func(w http.ResponseWriter, r *http.Request) error

// Fail returns an error that is sent to the client in the API's error format. The argument
// `field` is the part of the request that is wrong; it may be empty.
func Fail(status int, field, format string, args ...any) error {
	return &problem{status: status, field: field, message: fmt.Sprintf(format, args...)}
}

// NotFound returns an error for a parameter that names an object that does not exist.
func NotFound(field, format string, args ...any) error {
	return Fail(http.StatusNotFound, field, format, args...)
}

// Invalid returns an error for a parameter with an invalid value.
func Invalid(field, format string, args ...any) error {
	return Fail(http.StatusBadRequest, field, format, args...)
}

// Conflict returns an error for a request that conflicts with the current state.
func Conflict(field, format string, args ...any) error {
	return Fail(http.StatusConflict, field, format, args...)
}

// WithHint adds advice in terms of the API to an error of Fail or a similar function. The
// advice becomes part of the message, but not of details[].reason, which the command line
// shows.
func WithHint(err error, format string, args ...any) error {
	var p *problem
	if !errors.As(err, &p) {
		return err
	}
	changed := *p
	changed.hint = fmt.Sprintf(format, args...)
	return &changed
}

// IsProblem reports whether an error is one of Fail, Query or a similar function, whose text is sent
// to the client.
func IsProblem(err error) bool {
	var p *problem
	return errors.As(err, &p)
}

// Query parses the query string of a request. A parameter that is not in `known` is an
// error.
func Query(r *http.Request, known ...string) (url.Values, error) { return query(r, known...) }

// Flag returns a boolean query parameter, which is false if it is missing.
func Flag(q url.Values, name string) (bool, error) { return flag(q, name) }

// Param returns a decoded parameter of the request's path.
func Param(r *http.Request, name string) string { return param(r, name) }

// WriteJSON sends a JSON response.
func WriteJSON(w http.ResponseWriter, status int, v any) { writeJSON(w, status, v) }

// Serve returns the http.HandlerFunc of a Handler, for routes of Extra and of Passed.
func Serve(h Handler, logger *slog.Logger) http.HandlerFunc {
	return (&api{logger: logger}).serve(handler(h))
}

// Passed returns the handler of the routes under root that gateways forward to another
// process. Its responses have the format of the API and the gateways' request IDs. It
// checks no credential and writes no audit events, because the gateways have done both.
func Passed(root string, routes func(chi.Router), logger *slog.Logger) http.Handler {
	a := &api{logger: logger}
	r := chi.NewRouter()
	r.Use(a.passed, a.rescue)
	r.NotFound(a.serve(a.notFound))
	r.MethodNotAllowed(a.serve(a.methodNotAllowed))
	r.Route(root, routes)
	return r
}

// HeaderRequestID carries the ID of a forwarded request.
const HeaderRequestID = headerRequestID

// passed sets the request ID of a forwarded request, which the gateway has chosen.
func (a *api) passed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := apikey.Redact(shorten(r.Header.Get(headerRequestID)))
		w.Header().Set(headerRequestID, id)
		next.ServeHTTP(w, r.WithContext(withRequestID(r.Context(), id)))
	})
}
