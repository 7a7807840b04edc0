package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"

	"github.com/palliumhq/pallium/backend/active"
	"github.com/palliumhq/pallium/backend/api/cardinality"
	"github.com/palliumhq/pallium/backend/distributor"
	"github.com/palliumhq/pallium/backend/frontend/dispatch"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/remotewrite"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// Errors caused by the caller. Their texts are returned to the caller.
type (
	badRequest  struct{ error } // 400
	unsupported string          // 415
)

// logged wraps an error that was logged where it occurred, so that it is not logged again.
type logged struct{ error }

func (e badRequest) Unwrap() error  { return e.error }
func (e logged) Unwrap() error      { return e.error }
func (e unsupported) Error() string { return string(e) }

// statusClientGone is the status of a request whose client has closed the connection before the
// response, as in nginx and Prometheus. It appears only in logs and metrics.
const statusClientGone = 499

// clientGone reports whether the client of a request has closed the connection. If the request
// timed out, or was ended by an operator or because of its memory, the context has another cause. An error
// context.Canceled of another process, for example of an ingester that is stopping, does not count:
// senders drop requests that get a 499.
func clientGone(r *http.Request) bool {
	return errors.Is(context.Cause(r.Context()), context.Canceled)
}

// statusFor returns the status of a failed request, and the text for the caller.
func statusFor(r *http.Request, err error) (int, string) {
	if clientGone(r) {
		return statusClientGone, "the client closed the connection"
	}
	return status(err)
}

// status returns the HTTP status of an error, and the text for the caller. It handles all errors of
// the backend that are not specific to one endpoint.
func status(err error) (int, string) {
	var (
		bad      badRequest
		media    unsupported
		exceeded *limits.Exceeded
		queue    *querier.QueueFullError
		needs    *memory.TooLargeError
		wrong    *cardinality.ParameterError
		blocked  querier.BlockedError
	)
	switch {
	case errors.As(err, &media):
		return http.StatusUnsupportedMediaType, media.Error()
	case errors.As(err, &needs):
		return http.StatusRequestEntityTooLarge, needs.Error()
	case errors.As(err, &queue):
		return http.StatusTooManyRequests, queue.Error()
	case errors.Is(err, active.ErrEnded):
		return http.StatusUnprocessableEntity, active.ErrEnded.Error()
	case errors.Is(err, memory.ErrEnded):
		return http.StatusUnprocessableEntity, memory.ErrEnded.Error()
	case errors.Is(err, memory.ErrFull):
		return http.StatusServiceUnavailable, memory.ErrFull.Error() + "; send the request again"
	case errors.Is(err, remotewrite.ErrTooMany), errors.Is(err, remotewrite.ErrTooLarge):
		return http.StatusRequestEntityTooLarge, err.Error()
	case errors.As(err, &wrong):
		return http.StatusBadRequest, wrong.Error()
	case errors.As(err, &bad), errors.Is(err, remotewrite.ErrMalformed):
		return http.StatusBadRequest, err.Error()
	case errors.As(err, &blocked):
		return http.StatusUnprocessableEntity, blocked.Error()
	case errors.As(err, &exceeded):
		if exceeded.Of(limits.MaxBodyBytes) || exceeded.Of(limits.MaxDecodedBytes) {
			return http.StatusRequestEntityTooLarge, exceeded.Error()
		}
		if exceeded.Of(limits.QueryTimeout) {
			return http.StatusServiceUnavailable, exceeded.Error() // as in Prometheus' API
		}
		return http.StatusUnprocessableEntity, exceeded.Error()
	}
	return http.StatusServiceUnavailable, unavailable(err)
}

// unavailable returns the text of a 503 response: the reason, and what to do, which is usually to
// send the request again.
func unavailable(err error) string {
	switch {
	case errors.Is(err, ingester.ErrFull):
		return "ingester's memory is full; send the request again"
	case errors.Is(err, ingester.ErrAside):
		return "too many of the tenant's series cannot be stored; the operator must drop them (pallium aside drop) " +
			"or increase ingester.aside_bytes; send the request again"
	case errors.Is(err, ingester.ErrDiskFull):
		return "ingester's disk is nearly full; send the request again: " +
			"writes are accepted again automatically once there is free space"
	case errors.Is(err, ingester.ErrLog):
		return "the write-ahead log could not be written; send the request again"
	case errors.Is(err, ingester.ErrStopped):
		return "ingester is stopping; send the request again"
	case errors.Is(err, series.ErrLost):
		return series.ErrLost.Error()
	case errors.Is(err, peers.ErrLost):
		return "samples of this time range were lost with ingesters of several zones; " +
			"queries outside the range work; to query it without the lost samples, an operator runs: pallium loss accept DAY"
	case errors.Is(err, ring.ErrTooFew), errors.Is(err, distributor.ErrUnavailable), errors.Is(err, peers.ErrTooFew):
		return "too few ingesters are available; send the request again"
	case errors.Is(err, dispatch.ErrNoQuerier):
		return dispatch.ErrNoQuerier.Error() + "; send the request again"
	case errors.Is(err, context.DeadlineExceeded):
		return "request took too long; send it again"
	case errors.Is(err, context.Canceled):
		return "request was canceled by a process that stops; send it again"
	}
	// All other errors are internal, so a retry may succeed.
	return "internal error; send the request again"
}

// timedOut reports whether a request failed because it exceeded query_timeout.
func timedOut(err error) bool {
	var exceeded *limits.Exceeded
	return errors.As(err, &exceeded) && exceeded.Of(limits.QueryTimeout)
}

// fail writes the response for a failed request, as plain text.
func (a *api) fail(w http.ResponseWriter, r *http.Request, err error) {
	code, text := statusFor(r, err)
	a.note(w, r, code, err)
	writeText(w, code, text)
}

// note sets Retry-After on the response for a failed request if a retry may
// succeed, and logs the error if the status is 500 or above, unless the query
// exceeded query_timeout.
func (a *api) note(w http.ResponseWriter, r *http.Request, code int, err error) {
	if code >= http.StatusInternalServerError || code == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", retryAfter)
	}
	if code >= http.StatusInternalServerError && !timedOut(err) {
		a.logFailure(r, err)
	}
}

func (a *api) logFailure(r *http.Request, err error) {
	if errors.As(err, &logged{}) {
		return
	}
	level := slog.LevelError
	if errors.Is(err, memory.ErrFull) {
		level = slog.LevelDebug // counted by the memory account; may be very frequent
	}
	a.Logger.Log(r.Context(), level, "request failed", "path", r.URL.Path, "tenant", access(r), "err", err)
}

// retryAfter is the value of Retry-After, in seconds.
const retryAfter = "5"

// writeText responds with plain text. Senders of remote write log its first
// line.
func writeText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text + "\n"))
}

// writeError responds with an error in the format of Prometheus' API.
func writeError(w http.ResponseWriter, code int, kind, text string) {
	writeJSON(w, code, map[string]string{"status": "error", "errorType": kind, "error": text})
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		code, data = http.StatusInternalServerError, []byte(`{"status":"error","errorType":"internal","error":"response cannot be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(data)
}
