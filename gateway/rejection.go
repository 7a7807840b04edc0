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

// rejection is an answer of the gateway's own instead of the backend's. The text
// goes to the client: it names no tenant, key, address or Go error.
type rejection struct {
	status int
	reason string // a code out of a fixed set, for metrics and logs
	text   string
	retry  time.Duration // > 0: when it makes sense to try again
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

// overLimit is the answer to a request that a limit of its tenant keeps out.
func overLimit(r *quota.Rejection) *rejection {
	status := http.StatusTooManyRequests
	if r.Retry == 0 {
		status = http.StatusRequestEntityTooLarge
	}
	return &rejection{status: status, reason: r.Limit, text: r.Text, retry: r.Retry}
}

// tooLarge is the answer to a body of more than limit bytes.
func tooLarge(limit, bytes int64) *rejection { return overLimit(quota.BodyTooLarge(limit, bytes)) }

// write answers with the rejection: one line of text on the write path, where
// Prometheus logs the first line, Prometheus' JSON everywhere else.
func (f *rejection) write(w http.ResponseWriter, k routes.Kind) {
	h := w.Header()
	for _, name := range []string{"Content-Encoding", "Content-Length", "Etag", "Last-Modified"} {
		h.Del(name) // of an answer that this one replaces
	}
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if f.status == http.StatusUnauthorized {
		h["Www-Authenticate"] = []string{`Bearer realm="pallium"`, `Basic realm="pallium", charset="UTF-8"`}
	}
	if f.reason == "framing" {
		h.Set("Connection", "close") // where the next request begins is not certain
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

// send tells the length, so that the answer is whole before the connection is closed.
func (f *rejection) send(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Length", strconv.Itoa(len(text)+1))
	w.WriteHeader(f.status)
	_, _ = w.Write([]byte(text + "\n"))
}

// retryAfter is whole seconds, up to a quarter or one second later than needed,
// so that those rejected together do not come back together.
func retryAfter(d time.Duration) string {
	s := math.Min(math.Ceil(d.Seconds()), 3600)
	return strconv.Itoa(int(s) + rand.IntN(int(s/4)+2))
}
