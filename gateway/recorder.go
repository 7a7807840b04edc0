package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/gateway/conn"
	"github.com/palliumhq/pallium/gateway/quota"
	"github.com/palliumhq/pallium/policies/routes"
)

// recorder is the ResponseWriter that a backend gets. It notes status and
// written samples, and keeps internal headers in.
type recorder struct {
	http.ResponseWriter
	kind      routes.Kind
	requestID string
	hasBody   bool        // the client sends one
	whole     *conn.Whole // of HTTP/1.0; else nil

	status   int
	written  int64 // samples, as the backend reports them
	beside   int64 // what a write costs beside them
	counted  bool  // it reports them
	rejected *rejection
	discard  bool // the backend's body is not wanted
}

// internalHeaders must not leave the gateway, should a backend repeat them.
var internalHeaders = [...]string{http.CanonicalHeaderKey(tenant.HeaderOrgID), tenant.HeaderPolicy, HeaderMaxDecoded, headerCharged}

// headerCharged is what a write costs beside its samples, in samples, as a Pallium
// backend reports it.
const headerCharged = "X-Pallium-Samples-Charged"

// writtenHeaders are the counts that make up the sample budget. Exemplars are
// not samples.
var writtenHeaders = [...]string{
	"X-Prometheus-Remote-Write-Samples-Written",
	"X-Prometheus-Remote-Write-Histograms-Written",
	headerCharged,
}

func (w *recorder) WriteHeader(status int) {
	if w.status != 0 || status < 200 {
		return // informational answers are not passed on
	}
	h := w.Header()
	w.count(h)
	for _, name := range internalHeaders {
		delete(h, name)
	}
	h[HeaderRequestID] = []string{w.requestID}
	if w.whole != nil && strings.HasPrefix(h.Get("Content-Type"), "application/x-streamed-protobuf") {
		w.replace(&rejection{status: http.StatusHTTPVersionNotSupported, reason: "http_version",
			text: "a streamed answer needs HTTP/1.1: use it, or ask for one that is not streamed"})
		return
	}
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// count notes what a write came to. An answer without counts leaves the budget
// of samples alone; that of bytes was charged.
func (w *recorder) count(h http.Header) {
	if w.kind != routes.Write {
		return
	}
	for _, name := range writtenHeaders {
		v := h[name]
		if len(v) != 1 {
			continue
		}
		if n, err := strconv.ParseInt(v[0], 10, 64); err == nil && n >= 0 && n < 1<<40 {
			w.counted = true
			if name == headerCharged {
				w.beside += n
				continue
			}
			w.written += n
		}
	}
}

// outcome is what the request cost: untold if the backend took a write without a
// count.
func (w *recorder) outcome(read int64) quota.Outcome {
	o := quota.Outcome{Read: read, Samples: w.written, Beside: w.beside}
	if w.kind == routes.Write && !w.counted && w.status/100 == 2 {
		o.Samples = quota.Untold
	}
	return o
}

func (w *recorder) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.discard {
		return 0, errReplaced
	}
	n, err := w.ResponseWriter.Write(p)
	if err != nil && w.whole != nil {
		f := noMemory(err)
		if errors.Is(err, conn.ErrTooLong) {
			f = &rejection{status: http.StatusInternalServerError, reason: "http_version",
				text: fmt.Sprintf("the answer has more than %d bytes: use HTTP/1.1, or ask for less", maxWhole)}
		}
		w.replace(f)
	}
	return n, err
}

// errReplaced ends a backend whose answer is not wanted any more.
var errReplaced = errors.New("another answer took the place of this one")

// replace answers with the gateway's own instead of what the backend began. Only
// what is kept whole can be replaced.
func (w *recorder) replace(f *rejection) {
	w.discard = true
	w.answer(f)
}

// complete sends what was kept. An answer that broke off is not sent.
func (w *recorder) complete(broken bool) {
	if broken && !w.discard {
		w.replace(&rejection{status: http.StatusServiceUnavailable, reason: "backend_broken", retry: 2 * time.Second,
			text: "the backend's answer broke off, try again"})
	}
	w.whole.Send()
}

// Flush and Unwrap keep streaming answers streaming.
func (w *recorder) Flush() {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// reject answers with the gateway's own rejection, unless an answer has begun.
func (w *recorder) reject(f *rejection) {
	if w.status == 0 {
		w.answer(f)
	}
}

func (w *recorder) answer(f *rejection) {
	w.status, w.rejected = f.status, f
	if w.whole != nil {
		w.whole.Reset() // and with it the account, which may be what has nothing left
	}
	w.Header()[HeaderRequestID] = []string{w.requestID}
	if w.hasBody {
		// The server reads the rest of a rejected body, to keep the
		// connection, and would wait for it for ever.
		_ = http.NewResponseController(w.ResponseWriter).SetReadDeadline(time.Now().Add(conn.BodyGrace))
	}
	f.write(w.ResponseWriter, w.kind)
}
