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

// problem is an answer that rejects the request.
type problem struct {
	status  int
	field   string // at fault; may be empty
	message string
}

func (p *problem) Error() string { return p.message }

func badField(field, format string, args ...any) *problem {
	return &problem{status: http.StatusBadRequest, field: field, message: fmt.Sprintf(format, args...)}
}

// code is the stable word for a status.
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
	body := errorBody{Code: code(p.status), Message: p.message, RequestID: requestID(r), Details: []errorDetail{}}
	if p.field != "" {
		body.Details = append(body.Details, errorDetail{Field: p.field, Reason: p.message})
	}
	writeJSON(w, p.status, body)
}

// reject answers with an error. What is not the caller's mistake is logged, and
// answered without its text.
func (a *api) reject(w http.ResponseWriter, r *http.Request, err error) {
	var p *problem
	var e *control.Error
	switch {
	case errors.As(err, &p):
	case errors.As(err, &e):
		p = &problem{status: status(e.Kind), field: e.Field, message: e.Message}
	default:
		a.logger.Error("admin request failed", "method", r.Method, "path", apikey.Redact(r.URL.Path), "request", requestID(r), "err", err)
		w.Header().Set("Retry-After", "5")
		p = &problem{
			status:  http.StatusServiceUnavailable,
			message: "the store could not answer; see the log of the server for request " + requestID(r),
		}
	}
	// A key in the place of a name would be repeated into shells and their logs.
	p = &problem{status: p.status, field: apikey.Redact(p.field), message: apikey.Redact(p.message)}
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
		status, b = http.StatusInternalServerError, *bytes.NewBufferString(`{"code":"internal","message":"the answer could not be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the client may be gone; there is nobody to tell
}

// resource answers with one thing and its ETag.
func resource(w http.ResponseWriter, status int, etag string, v any) error {
	w.Header().Set("ETag", strconv.Quote(etag))
	writeJSON(w, status, v)
	return nil
}

// created answers a POST that made something.
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

// list answers with a page, its items as the API shows them.
func list[S, T any](w http.ResponseWriter, items []S, next string, view func(S) T) error {
	out := listBody[T]{Items: make([]T, 0, len(items)), NextPageCursor: next}
	for _, v := range items {
		out.Items = append(out.Items, view(v))
	}
	writeJSON(w, http.StatusOK, out)
	return nil
}

// decode reads the body into a struct. Fields that it does not have are
// rejected. optional bodies may be empty.
func decode(r *http.Request, into any, optional bool) error {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if errors.Is(err, io.EOF) {
		if optional {
			return nil
		}
		return badField("", "the body is empty; send a JSON object")
	}
	if err == nil {
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil || !isTooLarge(err) {
			return badField("", "the body has something behind its JSON object")
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
		return &problem{status: http.StatusRequestEntityTooLarge, message: fmt.Sprintf("the body is larger than %d bytes", maxBody)}
	case errors.As(err, &limit):
		return badField(limit.Key, "%s", limit.Message)
	case errors.As(err, &wrong):
		return badField(wrong.Field, "field %q cannot be a %s", wrong.Field, wrong.Value)
	}
	if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		field = strings.Trim(field, `"`)
		return badField(shorten(field), "there is no field %q here; see docs/admin-api.md", shorten(field))
	}
	return badField("", "the body is not valid JSON: %s", shorten(err.Error()))
}

// query reads the query string; parameters that the route does not have are
// rejected.
func query(r *http.Request, known ...string) (url.Values, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badField("", "the query string is malformed")
	}
	for name, values := range q {
		if !slices.Contains(known, name) {
			return nil, badField(shorten(name), "there is no query parameter %q here; there are: %s", shorten(name), strings.Join(known, ", "))
		}
		if len(values) > 1 {
			return nil, badField(name, "query parameter %s appears twice", name)
		}
	}
	return q, nil
}

// page reads pageSize and pageCursor, with the other parameters of the route.
func page(r *http.Request, others ...string) (control.Page, url.Values, error) {
	q, err := query(r, append([]string{"pageSize", "pageCursor"}, others...)...)
	if err != nil {
		return control.Page{}, nil, err
	}
	size, err := PageSize(q)
	return control.Page{Cursor: q.Get("pageCursor"), Size: size}, q, err
}

// PageSize reads how many items a page of a list shall have.
func PageSize(q url.Values) (int, error) {
	s := q.Get("pageSize")
	if s == "" {
		return control.DefaultPageSize, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > control.MaxPageSize {
		return 0, badField("pageSize", "pageSize is %q, it must be a number from 1 to %d", shorten(s), control.MaxPageSize)
	}
	return n, nil
}

// flag reads a query parameter that is true or false.
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

// ifMatch reads the ETag that PUT and DELETE must give.
func ifMatch(r *http.Request) (string, error) {
	values := r.Header.Values("If-Match")
	if len(values) == 0 {
		return "", &problem{
			status:  http.StatusPreconditionRequired,
			field:   "If-Match",
			message: "header If-Match is missing; send the ETag that GET answers, so that no other change is lost",
		}
	}
	v := strings.TrimSpace(values[0])
	if v == control.AnyETag && len(values) == 1 {
		return v, nil
	}
	etag, ok := strings.CutPrefix(v, `"`)
	etag, ok2 := strings.CutSuffix(etag, `"`)
	if len(values) > 1 || !ok || !ok2 || strings.Contains(etag, `"`) {
		return "", badField("If-Match", `If-Match must be one ETag in double quotes, as GET answers it, or *`)
	}
	if etag == "" {
		return "none", nil // matches nothing
	}
	return etag, nil
}

// shorten keeps what a client sent from filling an answer.
func shorten(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}
