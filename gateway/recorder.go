package gateway

import (
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/gateway/conn"
	"github.com/palliumhq/pallium/gateway/quota"
	"github.com/palliumhq/pallium/policies/routes"
)

// recorder is the ResponseWriter that a backend gets. It records the status and the
// counts of written samples, and removes internal headers.
type recorder struct {
	http.ResponseWriter
	kind      routes.Kind
	requestID string
	hasBody   bool        // the request has a body
	counts    bool        // the client understands the counts of written samples: it sent remote write 2.0
	whole     *conn.Whole // buffers the response to an HTTP/1.0 client; nil for others
	gone      func() bool // reports whether the client has closed the connection

	status   int
	written  int64 // samples, as the backend reports them
	extra    int64 // cost of a write in samples, in addition to its own samples
	counted  bool  // whether the backend reported counts
	rejected *rejection
	discard  bool // drop further output of the backend
}

// internalHeaders never leave the gateway, even if a backend sends them.
var internalHeaders = [...]string{http.CanonicalHeaderKey(tenant.HeaderOrgID), tenant.HeaderPolicy, HeaderMaxDecoded, headerCharged}

// headerCharged is how many samples a Pallium backend charges for a write in addition to
// the samples that it contains.
const headerCharged = "X-Pallium-Samples-Charged"

// Headers of remote write 2.0 with the numbers of samples, histograms and exemplars that were written.
const (
	headerSamples    = "X-Prometheus-Remote-Write-Samples-Written"
	headerHistograms = "X-Prometheus-Remote-Write-Histograms-Written"
	headerExemplars  = "X-Prometheus-Remote-Write-Exemplars-Written"
)

// chargedHeaders are the counts that are charged to the sample budget.
var chargedHeaders = [...]string{headerSamples, headerHistograms, headerCharged}

// countHeaders are only for senders of remote write 2.0: a response with them proves that the
// receiver supports 2.0.
var countHeaders = [...]string{headerSamples, headerHistograms, headerExemplars}

// isWriteV2 returns whether a request is remote write 2.0.
func isWriteV2(h http.Header) bool {
	_, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && params["proto"] == "io.prometheus.write.v2.Request"
}

func (w *recorder) WriteHeader(status int) {
	if w.status != 0 || status < 200 {
		return // informational responses are not passed on
	}
	h := w.Header()
	w.count(h)
	for _, name := range internalHeaders {
		delete(h, name)
	}
	if w.kind == routes.Write && !w.counts {
		for _, name := range countHeaders {
			delete(h, name)
		}
	}
	h[HeaderRequestID] = []string{w.requestID}
	if w.whole != nil && strings.HasPrefix(h.Get("Content-Type"), "application/x-streamed-protobuf") {
		w.replace(&rejection{status: http.StatusHTTPVersionNotSupported, reason: "http_version",
			text: "a streamed response requires HTTP/1.1: use HTTP/1.1, or request the response type SAMPLES"})
		return
	}
	w.status = status
	if status >= http.StatusInternalServerError && w.gone() {
		w.status = statusClientGone // the client caused the failure, and does not see the response
	}
	w.ResponseWriter.WriteHeader(status)
}

// count records how many samples a write contained. A response without counts leaves the
// sample budget unchanged; the byte budget was charged already.
func (w *recorder) count(h http.Header) {
	if w.kind != routes.Write {
		return
	}
	for _, name := range chargedHeaders {
		v := h[name]
		if len(v) != 1 {
			continue
		}
		if n, err := strconv.ParseInt(v[0], 10, 64); err == nil && n >= 0 && n < 1<<40 {
			w.counted = true
			if name == headerCharged {
				w.extra += n
				continue
			}
			w.written += n
		}
	}
}

// outcome returns the cost of the request. Its samples are quota.UnknownSamples if the backend
// accepted a write without reporting a count.
func (w *recorder) outcome(read int64) quota.Outcome {
	o := quota.Outcome{Read: read, Samples: w.written, Extra: w.extra}
	if w.kind == routes.Write && !w.counted && w.status/100 == 2 {
		o.Samples = quota.UnknownSamples
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
				text: fmt.Sprintf("the response is larger than %d bytes, which is the limit for HTTP/1.0: use HTTP/1.1, or request less "+
					"data", maxWhole)}
		}
		w.replace(f)
	}
	return n, err
}

// errReplaced stops a backend whose response was replaced.
var errReplaced = errors.New("response was replaced by an error of the gateway")

// replace responds with the rejection instead of the response that the backend has written
// so far. Only a buffered response can be replaced.
func (w *recorder) replace(f *rejection) {
	w.discard = true
	w.answer(f)
}

// complete sends a buffered response. A response that is incomplete is replaced by an
// error.
func (w *recorder) complete(broken bool) {
	if broken && !w.discard {
		w.replace(&rejection{status: http.StatusServiceUnavailable, reason: "backend_broken", retry: 2 * time.Second,
			text: "the response of the backend is incomplete; try again"})
	}
	w.whole.Send()
}

// Flush implements http.Flusher, so that streamed responses stay streamed.
func (w *recorder) Flush() {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// reject responds with a rejection, unless a response was started.
func (w *recorder) reject(f *rejection) {
	if w.status == 0 {
		w.answer(f)
	}
}

func (w *recorder) answer(f *rejection) {
	if f.status >= http.StatusInternalServerError && f.reason != "panic" && w.gone() {
		f = clientGone()
	}
	w.status, w.rejected = f.status, f
	if w.whole != nil {
		w.whole.Reset() // also detaches the memory account, which may be exhausted
	}
	w.Header()[HeaderRequestID] = []string{w.requestID}
	if w.hasBody {
		// The server reads the rest of a rejected body to reuse the
		// connection, and would wait for it forever.
		_ = http.NewResponseController(w.ResponseWriter).SetReadDeadline(time.Now().Add(conn.BodyGrace))
	}
	f.write(w.ResponseWriter, w.kind)
}
