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

// Handler answers a request itself, or returns what is wrong with it: an error
// of Fail or Query, or another one, which is logged and answered with 503.
type Handler func(w http.ResponseWriter, r *http.Request) error

// Fail is an error that is answered as it is, in the form of the API's errors.
// field is what is at fault in the request; it may be empty.
func Fail(status int, field, format string, args ...any) error {
	return &problem{status: status, field: field, message: fmt.Sprintf(format, args...)}
}

// Unavailable is the error for what may succeed when it is repeated, answered as it
// is.
func Unavailable(format string, args ...any) error {
	return Fail(http.StatusServiceUnavailable, "", format, args...)
}

// NotFound is the error for a parameter that names nothing.
func NotFound(field, format string, args ...any) error {
	return Fail(http.StatusNotFound, field, format, args...)
}

// Invalid is the error for a parameter that is wrong.
func Invalid(field, format string, args ...any) error {
	return Fail(http.StatusBadRequest, field, format, args...)
}

// Conflict is the error for what cannot be done as things are.
func Conflict(field, format string, args ...any) error {
	return Fail(http.StatusConflict, field, format, args...)
}

// IsProblem reports whether an error is answered as it is.
func IsProblem(err error) bool {
	var p *problem
	return errors.As(err, &p)
}

// Query reads the query string of a request; parameters other than the known ones
// are an error for Handler.
func Query(r *http.Request, known ...string) (url.Values, error) { return query(r, known...) }

// Flag reads a parameter that is true or false, which it is when it is left out.
func Flag(q url.Values, name string) (bool, error) { return flag(q, name) }

// Param is a part of the path of a request, decoded.
func Param(r *http.Request, name string) string { return param(r, name) }

// WriteJSON answers with a JSON object.
func WriteJSON(w http.ResponseWriter, status int, v any) { writeJSON(w, status, v) }

// Serve makes a Handler one of net/http, for routes of Extra and of Passed.
func Serve(h Handler, logger *slog.Logger) http.HandlerFunc {
	return (&api{logger: logger}).serve(handler(h))
}

// Passed returns the handler of the routes under root that gateways pass on to
// another process: its answers are those of the API, with the gateways' request
// IDs. Whoever can reach it is not asked for a credential, and nothing is audited:
// the gateways have done both.
func Passed(root string, routes func(chi.Router), logger *slog.Logger) http.Handler {
	a := &api{logger: logger}
	r := chi.NewRouter()
	r.Use(a.passed, a.rescue)
	r.NotFound(a.serve(a.notFound))
	r.MethodNotAllowed(a.serve(a.methodNotAllowed))
	r.Route(root, routes)
	return r
}

// HeaderRequestID carries the ID of a request that is passed on.
const HeaderRequestID = headerRequestID

// passed takes over the gateway's ID of the request.
func (a *api) passed(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := apikey.Redact(shorten(r.Header.Get(headerRequestID)))
		w.Header().Set(headerRequestID, id)
		next.ServeHTTP(w, r.WithContext(withRequestID(r.Context(), id)))
	})
}
