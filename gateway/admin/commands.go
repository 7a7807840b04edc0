package admin

import (
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

// Query reads the query string of a request; parameters other than the known ones
// are an error for Handler.
func Query(r *http.Request, known ...string) (url.Values, error) { return query(r, known...) }

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
