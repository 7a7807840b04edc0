package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/palliumhq/pallium/backend/frontend"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/regexsize"
	"github.com/palliumhq/pallium/backend/timing"
	"github.com/palliumhq/pallium/policies/limits"
)

// admit wraps the handler of a read whose parameters are a form. It accounts for the request's
// memory until the response is written, checks the size of expressions and selectors before they
// are parsed, sets a deadline of query_timeout, which includes the time in the queue, and waits for
// one of the tenant's slots in the gate. While it waits for a slot, a request holds memory only for
// its parameters and regular expressions.
func (a *api) admit(next http.Handler) http.HandlerFunc {
	return a.admitIf(func(r *http.Request, _ *limits.Limits) (*http.Request, func(), error) { return r, func() {}, nil }, next)
}

// admitIf is admit with a check of the parameters. check may return a request with another context;
// it returns a function that is called at the end of the request.
func (a *api) admitIf(check func(*http.Request, *limits.Limits) (*http.Request, func(), error), next http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r, lim, end := a.account(r)
		defer end()
		if err := readForm(w, r, lim); err != nil {
			a.reject(w, r, err)
			return
		}
		r, stop, err := check(r, lim)
		if err != nil {
			a.reject(w, r, err)
			return
		}
		defer stop()
		w, r, entry := a.begin(w, r)
		defer entry.Done()
		leave, err := a.enter(r, lim, r.Form["query"], r.Form["match[]"], r.Form["selector"])
		if err != nil {
			a.reject(w, r, err)
			return
		}
		defer leave()
		entry.Run()
		next.ServeHTTP(w, r)
	}
}

// account starts the memory accounting and the timeout of a read. It returns the tenant's current
// limits, which apply to the whole read. `end` releases the memory and stops the timeout.
func (a *api) account(r *http.Request) (_ *http.Request, lim *limits.Limits, end func()) {
	id := access(r)
	l := a.Limits(id)
	h := a.Memory.Begin(memory.Request{Tenant: id, Limit: l.MaxMemoryBytes})
	ctx, cancel := context.WithCancelCause(querier.WithLimits(memory.NewContext(r.Context(), h), &l))
	h.OnEnd(cancel)
	if noStore(r) {
		ctx = frontend.WithoutCache(ctx)
	}
	stop := func() {}
	if t := time.Duration(l.QueryTimeout); t > 0 {
		ctx, stop = context.WithTimeoutCause(ctx, t, querier.TimedOut(&l))
	}
	return r.WithContext(ctx), &l, func() {
		stop()
		cancel(nil)
		h.Close()
	}
}

// noStore reports whether a request has Cache-Control: no-store (RFC 9111, 5.2.1.5): it is answered without
// the results cache.
func noStore(r *http.Request) bool {
	for _, list := range r.Header.Values("Cache-Control") {
		for directive := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(strings.TrimSpace(directive), "no-store") {
				return true
			}
		}
	}
	return false
}

// partial wraps the handler of a query. With partial_response=true, days of the long-term store
// that cannot be read are left out, with a warning for each, and the cache of results is neither
// read nor filled. It must be inside admit, which parses the parameters.
func (a *api) partial(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if text := r.Form.Get("partial_response"); text != "" {
			yes, err := strconv.ParseBool(text)
			if err != nil {
				a.reject(w, r, badRequest{fmt.Errorf("parameter partial_response must be true or false, not %.40q", text)})
				return
			}
			if yes {
				r = r.WithContext(frontend.WithoutCache(querier.WithPartial(r.Context())))
			}
		}
		next.ServeHTTP(w, r)
	})
}

// hold wraps the handler of a read that is not a query, but shares the slots of queriers with
// the queries of all tenants. It must be inside admit.
func (a *api) hold(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		release, err := a.holdSlot(r, true)
		if err != nil {
			a.reject(w, r, err)
			return
		}
		defer release()
		next.ServeHTTP(slotWriter{w, release}, r)
	})
}

// slowWrite is how long a client may take to receive a piece of a response before the read no
// longer holds a slot of the queriers.
const slowWrite = time.Second

// slotWriter is the ResponseWriter of a read that holds a slot: it releases the slot when the client
// does not receive a piece of the response within slowWrite. Write buffers a small piece, which then
// waits for the client in Flush.
type slotWriter struct {
	http.ResponseWriter
	release func()
}

// Write implements http.ResponseWriter.
func (w slotWriter) Write(p []byte) (int, error) {
	defer time.AfterFunc(slowWrite, w.release).Stop()
	return w.ResponseWriter.Write(p)
}

// Flush implements http.Flusher, which streamed responses need.
func (w slotWriter) Flush() {
	defer time.AfterFunc(slowWrite, w.release).Stop()
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap implements the optional interface of http.ResponseController.
func (w slotWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// holdSlot waits for a slot, like an instant query or a range query, and holds it until release.
func (a *api) holdSlot(r *http.Request, instant bool) (release func(), err error) {
	if a.Hold == nil {
		return func() {}, nil
	}
	defer timing.Of(r.Context()).Measure(timing.Queue)()
	return a.Hold(r.Context(), access(r), instant)
}

// enter checks the texts of a read (expressions and selectors), and waits for a slot of the gate.
func (a *api) enter(r *http.Request, lim *limits.Limits, texts ...[]string) (leave func(), err error) {
	c := textCheck{lim: lim}
	for _, s := range slices.Concat(texts...) {
		c.text(s)
	}
	for _, s := range r.Form["search[]"] { // compared with every name or value
		c.length(len(s))
	}
	if err := c.take(memory.FromContext(r.Context())); err != nil {
		return nil, err
	}
	return a.Gate.Enter(r.Context(), access(r), lim)
}

// textCheck checks the total size of all texts of one request.
type textCheck struct {
	lim          *limits.Limits
	bytes        int
	instructions int
	err          error
}

// text adds an expression or a selector.
func (c *textCheck) text(s string) {
	if c.length(len(s)); c.err == nil {
		n, err := regexsize.Expression(s, c.left())
		c.count(n, err)
	}
}

// length adds n bytes of text.
func (c *textCheck) length(n int) {
	c.bytes += n
	if most := c.lim.MaxQueryLength; c.err == nil && most > 0 && c.bytes > most {
		c.err = limits.MaxQueryLength.Exceeded(c.lim, int64(c.bytes))
	}
}

// unlimited is the result of left if the limit is not set: more instructions than any program has.
const unlimited = 1 << 30

// left returns how many instructions the remaining texts may have.
func (c *textCheck) left() int {
	if c.lim.MaxRegexInstructions <= 0 {
		return unlimited
	}
	return c.lim.MaxRegexInstructions - c.instructions
}

func (c *textCheck) count(n int, err error) {
	if err != nil {
		c.err = limits.MaxRegexInstructions.Exceeded(c.lim, limits.More)
		return
	}
	c.instructions += n
}

// take reserves memory for the compiled texts, or returns the error of a text.
func (c *textCheck) take(h *memory.Holding) error {
	if c.err != nil {
		return c.err
	}
	return h.Take(int64(c.instructions) * regexsize.InstructionBytes)
}

// readForm parses the parameters of a request, including those in its body,
// into r.Form.
func readForm(w http.ResponseWriter, r *http.Request, lim *limits.Limits) error {
	if r.Body == nil || r.Body == http.NoBody || r.Method == http.MethodGet || r.Method == http.MethodHead {
		if err := r.ParseForm(); err != nil {
			return badRequest{fmt.Errorf("parse the parameters of the request: %w", err)}
		}
		return nil
	}
	h := memory.FromContext(r.Context())
	var buf bytes.Buffer
	if err := readBody(w, r, &buf, lim.MaxBodyBytes, h); err != nil {
		return err
	}
	// Handlers may read the body as text or as parsed values, so both are in memory.
	if err := h.Take(2 * int64(buf.Len())); err != nil {
		return err
	}
	// With a MaxBytesReader, ParseForm does not apply its own limit of 10 MB.
	r.Body = http.MaxBytesReader(w, readCloser{bytes.NewReader(buf.Bytes())}, int64(buf.Len())+1)
	if err := r.ParseForm(); err != nil {
		return badRequest{fmt.Errorf("parse the parameters of the request: %w", err)}
	}
	if media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); media != "multipart/form-data" {
		return nil
	}
	if err := r.ParseMultipartForm(int64(buf.Len())); err != nil {
		return badRequest{fmt.Errorf("parse the parameters of the request: %w", err)}
	}
	return nil
}

// unavailable responds with 503 in the format of Prometheus' API, whatever the error is (unless the
// client is gone): the client must send the request again, because it may have taken effect in
// part.
func (a *api) unavailable(w http.ResponseWriter, r *http.Request, err error) {
	code, text := statusFor(r, err)
	if code == statusClientGone {
		writeError(w, code, "canceled", text)
		return
	}
	switch {
	case endedByOperator(r):
		text = "an operator ended the request; send it again"
	case code != http.StatusServiceUnavailable || timedOut(err):
		_, text = status(nil)
	}
	w.Header().Set("Retry-After", retryAfter)
	a.logFailure(r, err)
	writeError(w, http.StatusServiceUnavailable, "unavailable", text)
}

// reject writes the response for a failed or rejected read, in the format of
// Prometheus' API.
func (a *api) reject(w http.ResponseWriter, r *http.Request, err error) {
	if cause := context.Cause(r.Context()); cause != nil {
		err = errors.Join(err, cause)
	}
	code, text := statusFor(r, err)
	kind := "bad_data"
	switch {
	case code == http.StatusUnprocessableEntity:
		kind = "execution"
	case code == http.StatusTooManyRequests:
		kind = "too_many_requests"
	case code == statusClientGone:
		kind = "canceled"
	case code == http.StatusServiceUnavailable && timedOut(err):
		kind = "timeout"
	case code >= http.StatusInternalServerError:
		kind = "unavailable"
	}
	a.note(w, r, code, err)
	writeError(w, code, kind, text)
}
