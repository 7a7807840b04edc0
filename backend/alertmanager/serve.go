package alertmanager

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/alertmanager/pace"
	"github.com/palliumhq/pallium/backend/index"
)

// Request is a request to the API of a tenant's Alertmanager.
type Request struct {
	Method      string
	Path        string // begins with Prefix, and includes the query string
	ContentType string
	Body        []byte
}

// Response is the response to a Request.
type Response struct {
	Code        int
	ContentType string
	Body        []byte
}

// Prefix is the prefix of the paths of the API.
const Prefix = "/alertmanager"

// Serve responds to a request of a tenant. It returns an error if the tenant's Alertmanager cannot be run in this
// process, its silences cannot be read or stored, or the API has no such path. The caller can then try another replica, unless
// the request is a change whose outcome is unknown.
func (a *Alertmanagers) Serve(ctx context.Context, t tenant.ID, r *Request) (*Response, error) {
	in, err := a.get(ctx, t)
	if err != nil {
		return nil, err
	}
	if r.Method == http.MethodGet && r.Path == ReceiversPath {
		return in.receivers()
	}
	path, ok := strings.CutPrefix(r.Path, Prefix)
	if !ok {
		return nil, fmt.Errorf("the Alertmanager's API has no path %s", r.Path)
	}
	if base, _, _ := strings.Cut(path, "?"); r.Method == http.MethodPost && base == "/api/v2/alerts" {
		return in.put(ctx, r.Body), nil
	}
	if refused := in.admit(r.Method, path, r.Body); refused != nil {
		return refused, nil
	}
	return in.serve(ctx, r, path)
}

// serve responds to a request to Alertmanager's own API.
func (in *instance) serve(ctx context.Context, r *Request, path string) (*Response, error) {
	handler, err := in.handler()
	if err != nil {
		return nil, err
	}
	out := &recorder{header: http.Header{}}
	request, err := http.NewRequest(r.Method, "http://alertmanager"+path, bytes.NewReader(r.Body))
	if err != nil {
		return nil, fmt.Errorf("request to the Alertmanager: %w", err)
	}
	if r.ContentType != "" {
		request.Header.Set("Content-Type", r.ContentType)
	}
	if r.Method == http.MethodGet {
		request.Header.Set("Accept", "application/json")
	}
	serve := func(ctx context.Context) { handler.ServeHTTP(out, request.WithContext(ctx)) }
	switch {
	case strings.HasPrefix(path, "/api/v2/silence"):
		return in.serveSilences(ctx, out, request.Method, func() { serve(ctx) })
	case strings.HasPrefix(path, "/api/v2/alerts"):
		return in.list(ctx, out, serve), nil
	}
	serve(ctx)
	if strings.HasPrefix(path, "/api/v2/status") && out.code == http.StatusOK {
		return in.status(out)
	}
	return out.response(), nil
}

// listTime is the maximum time to serve a list of alerts.
const listTime = 10 * time.Second

// list serves a list of alerts within the tenant's CPU time.
func (in *instance) list(ctx context.Context, out *recorder, serve func(context.Context)) *Response {
	waiting, cancel := context.WithTimeout(ctx, turnWait)
	defer cancel()
	turn, err := in.opts.Pace.Begin(waiting, in.tenant, pace.Requests)
	if err != nil {
		return text(http.StatusTooManyRequests, err.Error())
	}
	defer turn.End()
	serving, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	serve(serving)
	if serving.Err() != nil && ctx.Err() == nil {
		return text(http.StatusUnprocessableEntity, fmt.Sprintf("listing the alerts takes more than %s: use fewer or simpler inhibition rules "+
			"and routes", listTime))
	}
	return out.response()
}

// serveSilences responds to a request about silences after reading them from the row store. A change is stored before the
// response.
func (in *instance) serveSilences(ctx context.Context, out *recorder, method string, serve func()) (*Response, error) {
	if method == http.MethodGet {
		if err := in.silences.refresh(ctx); err != nil {
			return nil, err
		}
		serve()
		return out.response(), nil
	}
	err := in.silences.update(ctx, serve)
	if err != nil && out.code == 0 { // nothing was changed
		return nil, err
	}
	in.explainLimit(out)
	return changed(out, err), nil
}

// changed returns the response to a change of silences. err is the error of storing the change.
func changed(out *recorder, err error) *Response {
	switch {
	case errors.Is(err, index.ErrSilenceChanged):
		return text(http.StatusConflict, err.Error())
	case err != nil:
		return text(http.StatusServiceUnavailable, "writing the silence failed, but it may still be stored: "+err.Error())
	}
	return out.response()
}

func text(code int, message string) *Response {
	return &Response{Code: code, ContentType: "text/plain; charset=utf-8", Body: []byte(message + "\n")}
}

// recorder is an http.ResponseWriter that records the response.
type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (r *recorder) Header() http.Header { return r.header }

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(code int) {
	if r.code == 0 {
		r.code = code
	}
}

// Write implements http.ResponseWriter.
func (r *recorder) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(b)
}

func (r *recorder) response() *Response {
	code := r.code
	if code == 0 {
		code = http.StatusOK
	}
	return &Response{Code: code, ContentType: r.header.Get("Content-Type"), Body: r.body.Bytes()}
}
