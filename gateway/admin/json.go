package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/control"
	"github.com/palliumhq/pallium/policies/limits"
)

// problem is an error response.
type problem struct {
	status  int
	field   string // the part of the request that is wrong; may be empty
	message string // what is wrong; without API paths and fields, because the command line shows it
	hint    string // advice that names API paths and fields; may be empty
}

func (p *problem) Error() string {
	if p.hint == "" {
		return p.message
	}
	return p.message + "; " + p.hint
}

func badField(field, format string, args ...any) *problem {
	return &problem{status: http.StatusBadRequest, field: field, message: fmt.Sprintf(format, args...)}
}

// code returns the API's error code for a status.
func code(status int) string {
	switch status {
	case http.StatusBadRequest:
		return "invalid_request"
	case http.StatusUnauthorized:
		return "unauthorized"
	case http.StatusNotFound:
		return "not_found"
	case http.StatusMethodNotAllowed:
		return "method_not_allowed"
	case http.StatusConflict:
		return "conflict"
	case http.StatusPreconditionFailed:
		return "precondition_failed"
	case http.StatusRequestEntityTooLarge:
		return "too_large"
	case http.StatusUnsupportedMediaType:
		return "unsupported_media_type"
	case http.StatusPreconditionRequired:
		return "precondition_required"
	case http.StatusTooManyRequests:
		return "too_many_requests"
	case http.StatusServiceUnavailable:
		return "unavailable"
	default:
		return "internal"
	}
}

type errorBody struct {
	Code      string        `json:"code"`
	Message   string        `json:"message"`
	RequestID string        `json:"requestId"`
	Details   []errorDetail `json:"details"`
}

type errorDetail struct {
	Field  string `json:"field"`
	Reason string `json:"reason"`
}

func writeProblem(w http.ResponseWriter, r *http.Request, p *problem) {
	body := errorBody{Code: code(p.status), Message: p.Error(), RequestID: requestID(r), Details: []errorDetail{}}
	if p.field != "" {
		body.Details = append(body.Details, errorDetail{Field: p.field, Reason: p.message})
	}
	if p.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", retryAfter)
	}
	writeJSON(w, p.status, body)
}

// retryAfter is the value of Retry-After in every response with status 503, in seconds.
const retryAfter = "5"

// reject sends an error response. An error that is neither a problem nor a *control.Error is
// logged, and its text is not sent.
func (a *api) reject(w http.ResponseWriter, r *http.Request, err error) {
	var p *problem
	var e *control.Error
	switch {
	case errors.As(err, &p):
	case errors.As(err, &e):
		p = &problem{status: status(e.Kind), field: e.Field, message: e.Message, hint: e.Hint}
	default:
		a.logger.Error("admin request failed", "method", r.Method, "path", apikey.Redact(r.URL.Path), "request", requestID(r), "err", err)
		p = &problem{
			status:  http.StatusServiceUnavailable,
			message: "the request failed, probably because the store is unavailable; search the server's log for request " + requestID(r),
		}
	}
	// A key that was sent instead of a name must not end up in shells and their logs.
	p = &problem{status: p.status, field: apikey.Redact(p.field), message: apikey.Redact(p.message), hint: apikey.Redact(p.hint)}
	writeProblem(w, r, p)
}

func status(k control.Kind) int {
	switch k {
	case control.NotFound:
		return http.StatusNotFound
	case control.Conflict:
		return http.StatusConflict
	case control.Stale:
		return http.StatusPreconditionFailed
	default:
		return http.StatusBadRequest
	}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		status, b = http.StatusInternalServerError, *bytes.NewBufferString(`{"code":"internal","message":"the response could not be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // an error means that the client has disconnected
}

// resource sends one object with its ETag.
func resource(w http.ResponseWriter, status int, etag string, v any) error {
	w.Header().Set("ETag", strconv.Quote(etag))
	writeJSON(w, status, v)
	return nil
}

// created sends the response to a POST that created an object.
func created(w http.ResponseWriter, etag string, v any, path ...string) error {
	for i := range path {
		path[i] = url.PathEscape(path[i])
	}
	w.Header().Set("Location", Root+"/"+strings.Join(path, "/"))
	return resource(w, http.StatusCreated, etag, v)
}

type listBody[T any] struct {
	Items          []T    `json:"items"`
	NextPageCursor string `json:"nextPageCursor,omitempty"`
}

// list sends a page of a list. The function `view` converts an item to its JSON form.
func list[S, T any](w http.ResponseWriter, items []S, next string, view func(S) T) error {
	out := listBody[T]{Items: make([]T, 0, len(items)), NextPageCursor: next}
	for _, v := range items {
		out.Items = append(out.Items, view(v))
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// decode decodes the body into a struct and rejects unknown fields. An optional body may
// be empty.
func decode(r *http.Request, into any, optional bool) error {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if errors.Is(err, io.EOF) {
		if optional {
			return nil
		}
		return badField("", "the body is empty: send a JSON object")
	}
	if err == nil {
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil || !isTooLarge(err) {
			return badField("", "the body has data after its JSON object: send exactly one object")
		}
	}
	return decodeProblem(err)
}

func isTooLarge(err error) bool {
	var large *http.MaxBytesError
	return errors.As(err, &large)
}

func decodeProblem(err error) error {
	var p *problem
	var limit *limits.Error
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &p):
		return p
	case isTooLarge(err):
		return &problem{status: http.StatusRequestEntityTooLarge, message: fmt.Sprintf("the body is larger than the limit of %d bytes", maxBody)}
	case errors.As(err, &limit):
		return badField(limit.Key, "%s", limit.Message)
	case errors.As(err, &wrong):
		if wrong.Field == "" {
			return badField("", "the body must be a JSON object, but is of type %s", wrong.Value)
		}
		return badField(wrong.Field, "field %q must not be of type %s; docs/admin-api.md has the type of each field",
			wrong.Field, wrong.Value)
	}
	if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		field = strings.Trim(field, `"`)
		return badField(shorten(field), "unknown field %q; docs/admin-api.md lists the fields", shorten(field))
	}
	return badField("", "the body is not valid JSON: %s", shorten(err.Error()))
}

// query parses the query string and rejects parameters that the route does not have.
func query(r *http.Request, known ...string) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badField("", "the query string is malformed: check its escapes")
	}
	for name, values := range q {
		if !slices.Contains(known, name) {
			supported := "supported: " + strings.Join(known, ", ")
			if len(known) == 0 {
				supported = "this path has no parameters"
			}
			return nil, badField(shorten(name), "unknown query parameter %q; %s", shorten(name), supported)
		}
		if len(values) > 1 {
			return nil, badField(name, "query parameter %s appears %d times", name, len(values))
		}
	}
	return q, nil
}

// page parses pageSize and pageCursor, together with the other parameters of the route.
func page(r *http.Request, others ...string) (control.Page, url.Values, error) {
	q, err := query(r, append([]string{"pageSize", "pageCursor"}, others...)...)
	if err != nil {
		return control.Page{}, nil, err
	}
	size, err := PageSize(q)
	return control.Page{Cursor: q.Get("pageCursor"), Size: size}, q, err
}

// PageSize returns the requested number of items per page.
func PageSize(q url.Values) (int, error) {
	s := q.Get("pageSize")
	if s == "" {
		return control.DefaultPageSize, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > control.MaxPageSize {
		return 0, badField("pageSize", "pageSize is %q: it must be a number from 1 to %d", shorten(s), control.MaxPageSize)
	}
	return n, nil
}

// flag parses a boolean query parameter.
func flag(q url.Values, name string) (bool, error) {
	switch q.Get(name) {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	default:
		return false, badField(name, "%s must be true or false", name)
	}
}

// ifMatch returns the ETag in If-Match, which PUT and DELETE require.
func ifMatch(r *http.Request) (string, error) {
	values := r.Header.Values("If-Match")
	if len(values) == 0 {
		return "", &problem{
			status:  http.StatusPreconditionRequired,
			field:   "If-Match",
			message: "header If-Match is missing: send the ETag of the last GET, so that no concurrent change is lost, or * to skip the check",
		}
	}
	v := strings.TrimSpace(values[0])
	if v == control.AnyETag && len(values) == 1 {
		return v, nil
	}
	etag, ok := strings.CutPrefix(v, `"`)
	etag, ok2 := strings.CutSuffix(etag, `"`)
	if len(values) > 1 || !ok || !ok2 || strings.Contains(etag, `"`) {
		return "", badField("If-Match", `If-Match must be * or one ETag in double quotes, as GET returns it`)
	}
	if etag == "" {
		return "none", nil // matches nothing
	}
	return etag, nil
}

// shorten limits how much of a client's text is repeated in a response.
func shorten(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}
