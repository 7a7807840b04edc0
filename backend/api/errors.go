package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/palliumhq/pallium/backend/distributor"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/peers"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/remotewrite"
	"github.com/palliumhq/pallium/backend/ring"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// Errors that are the caller's mistake. Their texts are for the caller.
type (
	badRequest  struct{ error } // 400
	unsupported string          // 415
)

func (e badRequest) Unwrap() error  { return e.error }
func (e unsupported) Error() string { return string(e) }

// statusClientGone is what nginx logs for a client that hung up.
const statusClientGone = 499

// status maps an error to its HTTP status, the one place where that is done for
// the backend, and to the text that the caller may see.
func status(err error) (int, string) {
	var (
		bad      badRequest
		media    unsupported
		exceeded *limits.Exceeded
		queue    *querier.QueueFullError
		needs    *memory.TooLargeError
	)
	switch {
	case errors.As(err, &media):
		return http.StatusUnsupportedMediaType, media.Error()
	case errors.As(err, &needs):
		return http.StatusRequestEntityTooLarge, needs.Error()
	case errors.As(err, &queue):
		return http.StatusTooManyRequests, queue.Error()
	case errors.Is(err, memory.ErrEnded):
		return http.StatusServiceUnavailable, memory.ErrEnded.Error() + "; try again later"
	case errors.Is(err, memory.ErrFull):
		return http.StatusServiceUnavailable, memory.ErrFull.Error() + "; send the request again"
	case errors.Is(err, remotewrite.ErrTooMany), errors.Is(err, remotewrite.ErrTooLarge):
		return http.StatusRequestEntityTooLarge, err.Error()
	case errors.As(err, &bad), errors.Is(err, remotewrite.ErrMalformed):
		return http.StatusBadRequest, err.Error()
	case errors.As(err, &exceeded):
		if exceeded.Of(limits.MaxBodyBytes) || exceeded.Of(limits.MaxDecodedBytes) {
			return http.StatusRequestEntityTooLarge, exceeded.Error()
		}
		return http.StatusUnprocessableEntity, exceeded.Error()
	case errors.Is(err, context.Canceled):
		return statusClientGone, "request was canceled"
	}
	return http.StatusServiceUnavailable, unavailable(err)
}

// unavailable is the text of an answer 503: what is wrong here, and that the request
// is to be sent again.
func unavailable(err error) string {
	switch {
	case errors.Is(err, ingester.ErrFull):
		return "ingester's memory is full; send the request again"
	case errors.Is(err, ingester.ErrAside):
		return "too many of the tenant's series cannot be stored; the operator must drop them (POST /admin/v1/aside/drop) " +
			"or give them more room (ingester.aside_bytes); send the request again"
	case errors.Is(err, ingester.ErrDiskFull):
		return "ingester's disk is nearly full; send the request again: " +
			"writes are accepted again without intervention once there is room"
	case errors.Is(err, ingester.ErrLog):
		return "the write-ahead log could not be written; send the request again"
	case errors.Is(err, ingester.ErrStopped):
		return "ingester is stopping; send the request again"
	case errors.Is(err, series.ErrLost):
		return series.ErrLost.Error()
	case errors.Is(err, ring.ErrTooFew), errors.Is(err, distributor.ErrUnavailable), errors.Is(err, peers.ErrTooFew):
		return "too few ingesters are available; send the request again"
	case errors.Is(err, context.DeadlineExceeded):
		return "request took too long; send it again"
	}
	// Not known to be the caller's fault, so it is to be sent again.
	return "internal error; send the request again"
}

// fail answers a request that could not be carried out.
func (a *api) fail(w http.ResponseWriter, r *http.Request, err error) {
	code, text := status(err)
	a.note(w, r, code, err)
	writeText(w, code, text)
}

// note prepares the answer of a request that could not be carried out: the log has
// what is ours, and the client is told when to come again.
func (a *api) note(w http.ResponseWriter, r *http.Request, code int, err error) {
	if code >= http.StatusInternalServerError || code == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", retryAfter)
	}
	switch {
	case code < http.StatusInternalServerError:
	case errors.Is(err, memory.ErrFull), errors.Is(err, memory.ErrEnded): // counted by the account; there can be very many
		a.Logger.Debug("request failed", "path", r.URL.Path, "tenant", access(r), "err", err)
	default:
		a.Logger.Error("request failed", "path", r.URL.Path, "tenant", access(r), "err", err)
	}
}

// retryAfter is in how many seconds a client should come again.
const retryAfter = "5"

// writeText answers with plain text, of which Prometheus logs the first line.
func writeText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text + "\n"))
}

// writeError answers as Prometheus' API does.
func writeError(w http.ResponseWriter, code int, kind, text string) {
	writeJSON(w, code, map[string]string{"status": "error", "errorType": kind, "error": text})
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		code, data = http.StatusInternalServerError, []byte(`{"status":"error","errorType":"internal","error":"answer cannot be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(data)
}
