package operator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/palliumhq/pallium/gateway/admin"
)

// Forwarder forwards the operator's commands to one of a gateway's backends.
type Forwarder struct {
	backends  []*url.URL
	transport http.RoundTripper
	proxy     *httputil.ReverseProxy
}

// NewForwarder returns a Forwarder. transport must authenticate this process to the
// backends as a member of their cluster.
func NewForwarder(backends []string, transport http.RoundTripper, logger *slog.Logger) (*Forwarder, error) {
	f := &Forwarder{transport: transport}
	for _, text := range backends {
		u, err := url.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("backend URL %q: %w", text, err)
		}
		f.backends = append(f.backends, u)
	}
	f.proxy = &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Path = Root + strings.TrimPrefix(pr.Out.URL.Path, admin.Root)
			if pr.Out.URL.RawPath != "" {
				pr.Out.URL.RawPath = Root + strings.TrimPrefix(pr.Out.URL.RawPath, admin.Root)
			}
			// Of the client's request, only the method, the path and the query are forwarded.
			pr.Out.Header = http.Header{admin.HeaderRequestID: {admin.RequestID(pr.In)}}
			pr.Out.Body, pr.Out.ContentLength = http.NoBody, 0
		},
		Transport: f,
		ModifyResponse: func(resp *http.Response) error {
			resp.Header.Del(admin.HeaderRequestID) // the gateway has set it already
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			admin.Serve(func(http.ResponseWriter, *http.Request) error {
				logger.Error("failed to forward an operator command to a backend", "path", r.URL.Path, "request", admin.RequestID(r), "err", err)
				return admin.Fail(http.StatusServiceUnavailable, "", "no backend could be reached, or the connection to it broke; search the "+
					"gateway's log for request %s",
					admin.RequestID(r))
			}, logger)(w, r)
		},
	}
	return f, nil
}

func (f *Forwarder) ServeHTTP(w http.ResponseWriter, r *http.Request) { f.proxy.ServeHTTP(w, r) }

// RoundTrip sends a request to the first backend that can be reached. A command that a
// backend may have executed is not sent again.
func (f *Forwarder) RoundTrip(r *http.Request) (*http.Response, error) {
	var errs error
	for _, b := range f.backends {
		var connected atomic.Bool
		ctx := httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
		out := r.Clone(ctx)
		out.URL.Scheme, out.URL.Host, out.Host = b.Scheme, b.Host, b.Host
		resp, err := f.transport.RoundTrip(out)
		if err == nil {
			return resp, nil
		}
		errs = errors.Join(errs, fmt.Errorf("%s: %w", b.Host, err))
		if connected.Load() && r.Method != http.MethodGet || r.Context().Err() != nil {
			break
		}
	}
	return nil, errs
}

// maxStatusBytes bounds the response that status reads.
const maxStatusBytes = 64 << 20

// status requests from a backend the JSON that the overview page shows.
func (f *Forwarder) status(ctx context.Context) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, Root+"/status", nil)
	if err != nil {
		return nil, err
	}
	resp, err := f.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("no backend could be reached, or the connection to it broke: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxStatusBytes))
	if err != nil {
		return nil, fmt.Errorf("read a backend's response: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("a backend responded with %s: %s", resp.Status, body[:min(len(body), 500)])
	}
	return body, nil
}
