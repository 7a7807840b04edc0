package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"time"

	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/regexsize"
	"github.com/palliumhq/pallium/policies/limits"
)

// admit lets a read in by its form: the request's memory is accounted for until
// it is answered, its texts are bounded before anything parses them, it has the
// time of query_timeout, waiting included, and it takes one of the places that its
// tenant has. Whoever waits for a place holds the text of the request only.
func (a *api) admit(next http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r, lim, end := a.account(r)
		defer end()
		if err := readForm(w, r, lim); err != nil {
			a.reject(w, r, err)
			return
		}
		leave, err := a.enter(r, lim, r.Form["query"], r.Form["match[]"])
		if err != nil {
			a.reject(w, r, err)
			return
		}
		defer leave()
		next.ServeHTTP(w, r)
	}
}

// account begins the account of a read's memory and time, by the tenant's limits as
// they are now, which all of the read goes by. end ends both.
func (a *api) account(r *http.Request) (_ *http.Request, lim *limits.Limits, end func()) {
	id := access(r)
	l := a.Limits(id)
	h := a.Memory.Begin(memory.Request{Tenant: id, Limit: l.MaxMemoryBytes})
	ctx, cancel := context.WithCancelCause(querier.WithLimits(memory.NewContext(r.Context(), h), &l))
	h.OnEnd(cancel)
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

// enter bounds the texts of a read, expressions and selectors, and takes a place.
func (a *api) enter(r *http.Request, lim *limits.Limits, texts ...[]string) (leave func(), err error) {
	c := textCheck{lim: lim}
	for _, s := range slices.Concat(texts...) {
		c.text(s)
	}
	if err := c.take(memory.FromContext(r.Context())); err != nil {
		return nil, err
	}
	return a.Gate.Enter(r.Context(), access(r), lim)
}

// textCheck bounds the texts of one request together.
type textCheck struct {
	lim          *limits.Limits
	bytes        int
	instructions int
	err          error
}

// text takes in an expression or a selector.
func (c *textCheck) text(s string) {
	if c.length(len(s)); c.err == nil {
		n, err := regexsize.Expression(s, c.left())
		c.count(n, err)
	}
}

// length takes in so many bytes of text.
func (c *textCheck) length(n int) {
	c.bytes += n
	if most := c.lim.MaxQueryLength; c.err == nil && most > 0 && c.bytes > most {
		c.err = limits.MaxQueryLength.Exceeded(c.lim, int64(c.bytes))
	}
}

// unlimited is what is left of a limit that is not set: more than any program has.
const unlimited = 1 << 30

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

// take holds memory for what the texts will be compiled to, or returns what is
// wrong with them.
func (c *textCheck) take(h *memory.Holding) error {
	if c.err != nil {
		return c.err
	}
	return h.Take(int64(c.instructions) * regexsize.InstructionBytes)
}

// readForm reads the parameters of a request, those in its body too, into r.Form.
func readForm(w http.ResponseWriter, r *http.Request, lim *limits.Limits) error {
	if r.Body == nil || r.Body == http.NoBody || r.Method == http.MethodGet || r.Method == http.MethodHead {
		if err := r.ParseForm(); err != nil {
			return badRequest{fmt.Errorf("parameters: %w", err)}
		}
		return nil
	}
	h := memory.FromContext(r.Context())
	var buf bytes.Buffer
	if err := readBody(w, r, &buf, lim.MaxBodyBytes, h); err != nil {
		return err
	}
	// The text is kept as it came and as values, for whoever reads either.
	if err := h.Take(2 * int64(buf.Len())); err != nil {
		return err
	}
	// Without a reader with a bound, ParseForm has one of its own.
	r.Body = http.MaxBytesReader(w, readCloser{bytes.NewReader(buf.Bytes())}, int64(buf.Len())+1)
	if err := r.ParseForm(); err != nil {
		return badRequest{fmt.Errorf("parameters: %w", err)}
	}
	if media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); media != "multipart/form-data" {
		return nil
	}
	if err := r.ParseMultipartForm(int64(buf.Len())); err != nil {
		return badRequest{fmt.Errorf("parameters: %w", err)}
	}
	return nil
}

// unavailable answers a request that is to be repeated whatever ended it, as
// Prometheus' API answers.
func (a *api) unavailable(w http.ResponseWriter, r *http.Request, err error) {
	code, text := status(err)
	if code != http.StatusServiceUnavailable {
		_, text = status(nil)
	}
	a.note(w, r, http.StatusServiceUnavailable, err)
	writeError(w, http.StatusServiceUnavailable, "unavailable", text)
}

// reject answers a read that was not let in, as Prometheus' API answers.
func (a *api) reject(w http.ResponseWriter, r *http.Request, err error) {
	if cause := context.Cause(r.Context()); cause != nil {
		err = errors.Join(err, cause)
	}
	code, text := status(err)
	kind := "bad_data"
	switch {
	case code == http.StatusUnprocessableEntity:
		kind = "execution"
	case code == http.StatusTooManyRequests:
		kind = "too_many_requests"
	case code == statusClientGone:
		kind = "canceled"
	case code >= http.StatusInternalServerError:
		kind = "unavailable"
	}
	a.note(w, r, code, err)
	writeError(w, code, kind, text)
}
