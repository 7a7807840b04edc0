package gateway

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/palliumhq/pallium/gateway/quota"
	"github.com/palliumhq/pallium/policies/routes"
)

// rejection is an error response of the gateway. The text goes to the client: it must not contain a
// tenant, a key, the address of a client or backend, or a Go error.
type rejection struct {
	status int
	reason string // one of a fixed set of codes, for metrics and logs
	text   string
	retry  time.Duration // > 0: when the client should retry
	detail error         // for the log only
}

// errorType returns Prometheus' name for a status, and Mimir's where Prometheus
// has none.
func errorType(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "unauthorized"
	case http.StatusForbidden:
		return "forbidden"
	case http.StatusNotFound:
		return "not_found"
	case http.StatusTooManyRequests:
		return "too_many_requests"
	case http.StatusRequestEntityTooLarge, http.StatusRequestURITooLong, http.StatusRequestHeaderFieldsTooLarge:
		return "too_large_entry"
	case http.StatusRequestTimeout:
		return "timeout"
	case http.StatusServiceUnavailable, http.StatusBadGateway:
		return "unavailable"
	case http.StatusUnprocessableEntity:
		return "execution"
	case http.StatusInternalServerError:
		return "internal"
	}
	return "bad_data"
}

// overLimit returns the response to a request that exceeds a limit of its tenant or of its token.
func overLimit(r *quota.Rejection) *rejection {
	status := http.StatusTooManyRequests
	if r.Retry == 0 {
		status = http.StatusRequestEntityTooLarge
	}
	return &rejection{status: status, reason: r.Limit, text: r.Text, retry: r.Retry}
}

// tooLarge returns the response to a body of more than limit bytes.
func tooLarge(limit, bytes int64) *rejection { return overLimit(quota.BodyTooLarge(limit, bytes)) }

// write sends the rejection: one line of text on the write path, because Prometheus logs
// the first line, and Prometheus' JSON error format everywhere else.
func (f *rejection) write(w http.ResponseWriter, k routes.Kind) {
	h := w.Header()
	for _, name := range []string{"Content-Encoding", "Content-Length", "Etag", "Last-Modified"} {
		h.Del(name) // of the response that this one replaces
	}
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if f.status == http.StatusUnauthorized {
		h["Www-Authenticate"] = []string{`Bearer realm="pallium"`, `Basic realm="pallium", charset="UTF-8"`}
	}
	if f.reason == "framing" {
		h.Set("Connection", "close") // it is uncertain where the next request begins
	}
	if f.retry > 0 {
		h.Set("Retry-After", retryAfter(f.retry))
	}
	if k == routes.Write {
		h.Set("Content-Type", "text/plain; charset=utf-8")
		f.send(w, f.text)
		return
	}
	h.Set("Content-Type", "application/json")
	text, _ := json.Marshal(map[string]string{"status": "error", "errorType": errorType(f.status), "error": f.text}) // cannot fail
	f.send(w, string(text))
}

// send sets Content-Length, so that the client knows that the response is complete before
// the connection is closed.
func (f *rejection) send(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Length", strconv.Itoa(len(text)+1))
	w.WriteHeader(f.status)
	_, _ = w.Write([]byte(text + "\n"))
}

// retryAfter returns whole seconds, with a random delay of up to a quarter plus one second added,
// so that clients that were rejected together do not retry together.
func retryAfter(d time.Duration) string {
	s := math.Min(math.Ceil(d.Seconds()), 3600)
	return strconv.Itoa(int(s) + rand.IntN(int(s/4)+2))
}
