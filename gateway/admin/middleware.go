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
	changeTimeout   = 30 * time.Second // of a change whose client has disconnected
	maxIdempotency  = 255              // bytes of an Idempotency-Key
	pathSimulate    = Root + "/access-policies/simulate"
	headerRequestID = "X-Request-Id"
)

type requestKey struct{}

// identify gives each request an ID generated here, because a client's ID could be
// forged.
func (a *api) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := apikey.NewID(16)
		if err != nil {
			a.logger.Error("could not generate a request ID", "err", err)
		}
		w.Header().Set(headerRequestID, id)
		next.ServeHTTP(w, r.WithContext(withRequestID(r.Context(), id)))
	})
}

func withRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestKey{}, id)
}

// RequestID returns the ID of a request to the API or to a route of Extra.
func RequestID(r *http.Request) string { return requestID(r) }

func requestID(r *http.Request) string {
	id, _ := r.Context().Value(requestKey{}).(string)
	return id
}

// rescue turns a panic into an error response.
func (a *api) rescue(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(v) // net/http aborts the response
			}
			a.logger.Error("admin request panicked", "path", apikey.Redact(r.URL.Path), "request", requestID(r), "panic", v,
				"stack", string(debug.Stack()))
			writeProblem(w, r,
				&problem{status: http.StatusInternalServerError, message: "internal error; search the server's log for " +
					"request " + requestID(r)})
		}()
		next.ServeHTTP(w, r)
	})
}

// changes reports whether a request may change state.
func changes(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return false
	case http.MethodPost:
		return r.URL.Path != pathSimulate // a policy may be named "simulate", too
	}
	return true
}

// limitBody limits the size of the body, and rejects a Content-Type other than JSON.
func (a *api) limitBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > maxBody {
			writeProblem(w, r, &problem{
				status:  http.StatusRequestEntityTooLarge,
				message: fmt.Sprintf("the body has %d bytes; the limit is %d bytes", r.ContentLength, maxBody),
			})
			return
		}
		if ct := r.Header.Get("Content-Type"); ct != "" && r.ContentLength != 0 {
			if t, _, err := mime.ParseMediaType(ct); err != nil || t != "application/json" {
				writeProblem(w, r, &problem{
					status:  http.StatusUnsupportedMediaType,
					field:   "Content-Type",
					message: fmt.Sprintf("Content-Type is %q: send application/json", shorten(ct)),
				})
				return
			}
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next.ServeHTTP(w, r)
	})
}

// finish lets a change continue when its client disconnects, so that no change is left
// half done.
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

// detached returns a context with the values of the request's context. It is not canceled when the
// client disconnects, but ends after changeTimeout.
func detached(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(r.Context()), changeTimeout)
}

// audit writes an audit event before each change and its outcome after it. A change whose
// event cannot be written is not made.
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
			a.logger.Error("failed to record the outcome of an audit event", "event", e.ID, "status", rec.status, "err", err)
		}
	})
}

// recorder records the status of a response, and its body if it is to be stored.
type recorder struct {
	http.ResponseWriter
	status int
	body   *bytes.Buffer // nil: not recorded
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

// Unwrap supports http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// replay sends the stored response again if a POST has the Idempotency-Key of an earlier POST that
// succeeded.
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
		return badField("Idempotency-Key", "Idempotency-Key has %d bytes; the limit is %d bytes", len(key), maxIdempotency)
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
		_, _ = w.Write(earlier.Body) // an error means that the client has disconnected
		return nil
	}
	rec := &recorder{ResponseWriter: w, status: http.StatusOK, body: &bytes.Buffer{}}
	done := false
	defer func() { a.endRequest(r, req, rec, done) }()
	next.ServeHTTP(rec, r)
	done = true
	return nil
}

// endRequest stores the response to a request that succeeded. A request that was rejected
// or failed may be sent again with the same key.
func (a *api) endRequest(r *http.Request, req control.Request, rec *recorder, done bool) {
	ctx, cancel := detached(r) // the client may have disconnected
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
		a.logger.Error("failed to store the response for an Idempotency-Key, or to release the key", "request", requestID(r), "err", err)
	}
}
