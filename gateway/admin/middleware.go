package admin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/authn/control"
)

const (
	maxBody         = 1 << 20          // bytes
	changeTimeout   = 30 * time.Second // of what goes on without its client
	maxIdempotency  = 255              // bytes of an Idempotency-Key
	pathSimulate    = Root + "/access-policies/simulate"
	headerRequestID = "X-Request-Id"
)

type requestKey struct{}

// identify gives each request an ID of our own; a client's could be forged.
func (a *api) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := apikey.NewID(16)
		if err != nil {
			a.logger.Error("request ID", "err", err)
		}
		w.Header().Set(headerRequestID, id)
		next.ServeHTTP(w, r.WithContext(withRequestID(r.Context(), id)))
	})
}

func withRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestKey{}, id)
}

// RequestID is the ID of a request that the API, or a route of Extra, serves.
func RequestID(r *http.Request) string { return requestID(r) }

func requestID(r *http.Request) string {
	id, _ := r.Context().Value(requestKey{}).(string)
	return id
}

// rescue turns a panic into an answer.
func (a *api) rescue(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(v) // net/http's own way to hang up
			}
			a.logger.Error("admin request panicked", "path", apikey.Redact(r.URL.Path), "request", requestID(r), "panic", v,
				"stack", string(debug.Stack()))
			writeProblem(w, r,
				&problem{status: http.StatusInternalServerError, message: "internal error; see the log of the server for request " + requestID(r)})
		}()
		next.ServeHTTP(w, r)
	})
}

// changes reports whether a request may change something.
func changes(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return false
	case http.MethodPost:
		return r.URL.Path != pathSimulate // a policy may have that name too
	}
	return true
}

// limitBody bounds the body and asks for JSON.
func (a *api) limitBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > maxBody {
			writeProblem(w, r, &problem{
				status:  http.StatusRequestEntityTooLarge,
				message: fmt.Sprintf("the body has %d bytes, at most %d are allowed", r.ContentLength, maxBody),
			})
			return
		}
		if ct := r.Header.Get("Content-Type"); ct != "" && r.ContentLength != 0 {
			if t, _, err := mime.ParseMediaType(ct); err != nil || t != "application/json" {
				writeProblem(w, r, &problem{
					status:  http.StatusUnsupportedMediaType,
					field:   "Content-Type",
					message: fmt.Sprintf("Content-Type is %q; send application/json", shorten(ct)),
				})
				return
			}
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next.ServeHTTP(w, r)
	})
}

// finish lets a change go on when its client hangs up, so that no half of one
// is left.
func (a *api) finish(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if changes(r) {
			ctx, cancel := detached(r)
			defer cancel()
			r = r.WithContext(ctx)
		}
		next.ServeHTTP(w, r)
	})
}

// detached is the request's context without its client's end.
func detached(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(r.Context()), changeTimeout)
}

// audit writes an event before each change and its outcome after it. What
// cannot be audited is not done.
func (a *api) audit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		match := chi.NewRouteContext()
		if !changes(r) || !chi.RouteContext(r.Context()).Routes.Match(match, r.Method, routePath(r)) {
			next.ServeHTTP(w, r)
			return
		}
		e, err := a.control.StartEvent(r.Context(), control.Event{
			RequestID: requestID(r), Actor: actor, Action: r.Method + " " + match.RoutePattern(),
			Path: shorten(apikey.Redact(r.URL.Path)), Source: source(r),
		})
		if err != nil {
			a.reject(w, r, err)
			return
		}
		rec := &recorder{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(rec, r)
		ctx, cancel := detached(r)
		defer cancel()
		err = a.control.EndEvent(ctx, e, control.Outcome{Status: rec.status, Target: w.Header().Get("Location")})
		if err != nil {
			a.logger.Error("outcome of an audit event is lost", "event", e.ID, "status", rec.status, "err", err)
		}
	})
}

// recorder notes the status of an answer, and its body if it is to be kept.
type recorder struct {
	http.ResponseWriter
	status int
	body   *bytes.Buffer // nil: not kept
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.body != nil {
		r.body.Write(b)
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// replay gives a POST that is repeated with its Idempotency-Key the answer of
// the first.
func (a *api) replay(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get("Idempotency-Key")
		if key == "" || r.Method != http.MethodPost || !changes(r) {
			next.ServeHTTP(w, r)
			return
		}
		if err := a.serveOnce(w, r, key, next); err != nil {
			a.reject(w, r, err)
		}
	})
}

func (a *api) serveOnce(w http.ResponseWriter, r *http.Request, key string, next http.Handler) error {
	if len(key) > maxIdempotency {
		return badField("Idempotency-Key", "Idempotency-Key has %d bytes, at most %d are allowed", len(key), maxIdempotency)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return decodeProblem(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q", r.Method, r.URL.RequestURI(), body))
	req, earlier, err := a.control.BeginRequest(r.Context(), key, hex.EncodeToString(sum[:]))
	if err != nil {
		return err
	}
	if earlier != nil {
		for name, v := range earlier.Headers {
			w.Header().Set(name, v)
		}
		w.Header().Set("Idempotency-Replayed", "true")
		w.WriteHeader(earlier.Status)
		_, _ = w.Write(earlier.Body) // the client may be gone
		return nil
	}
	rec := &recorder{ResponseWriter: w, status: http.StatusOK, body: &bytes.Buffer{}}
	done := false
	defer func() { a.endRequest(r, req, rec, done) }()
	next.ServeHTTP(rec, r)
	done = true
	return nil
}

// endRequest keeps the answer of a request that succeeded. One that was rejected
// or failed may be sent again.
func (a *api) endRequest(r *http.Request, req control.Request, rec *recorder, done bool) {
	ctx, cancel := detached(r) // the client may be gone
	defer cancel()
	var err error
	if done && rec.status < 300 {
		answer := control.Answer{Status: rec.status, Headers: map[string]string{}, Body: rec.body.Bytes()}
		for _, name := range []string{"Content-Type", "Cache-Control", "ETag", "Location"} {
			if v := rec.Header().Get(name); v != "" {
				answer.Headers[name] = v
			}
		}
		err = a.control.EndRequest(ctx, req, answer)
	} else {
		err = a.control.AbandonRequest(ctx, req)
	}
	if err != nil {
		a.logger.Error("answer for an Idempotency-Key was not kept", "request", requestID(r), "err", err)
	}
}
