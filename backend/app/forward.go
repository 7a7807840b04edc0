package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/palliumhq/pallium/gateway/admin"
)

// forwarder passes the operator's commands on to one of this gateway's backends.
type forwarder struct {
	backends  []*url.URL
	transport http.RoundTripper
	proxy     *httputil.ReverseProxy
}

// newForwarder returns one over a transport that proves to backends that this
// process belongs to their cluster.
func (a *App) newForwarder(transport http.RoundTripper) (*forwarder, error) {
	f := &forwarder{transport: transport}
	for _, text := range a.cfg.Upstream.URLs {
		u, err := url.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("backend URL %q: %w", text, err)
		}
		f.backends = append(f.backends, u)
	}
	f.proxy = &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Path = operatorRoot + strings.TrimPrefix(pr.Out.URL.Path, admin.Root)
			if pr.Out.URL.RawPath != "" {
				pr.Out.URL.RawPath = operatorRoot + strings.TrimPrefix(pr.Out.URL.RawPath, admin.Root)
			}
			// Nothing of the client's goes on but the path and its parameters.
			pr.Out.Header = http.Header{admin.HeaderRequestID: {admin.RequestID(pr.In)}}
			pr.Out.Body, pr.Out.ContentLength = http.NoBody, 0
		},
		Transport: f,
		ModifyResponse: func(resp *http.Response) error {
			resp.Header.Del(admin.HeaderRequestID) // the answer has it already
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			admin.Serve(func(http.ResponseWriter, *http.Request) error {
				a.opts.Logger.Error("passing a command on to the backend failed",
					"path", r.URL.Path, "request", admin.RequestID(r), "err", err)
				return admin.Fail(http.StatusServiceUnavailable, "", "no backend answers, or it was cut off; see the log for request %s", admin.RequestID(r))
			}, a.opts.Logger)(w, r)
		},
	}
	return f, nil
}

func (f *forwarder) ServeHTTP(w http.ResponseWriter, r *http.Request) { f.proxy.ServeHTTP(w, r) }

// RoundTrip sends a request to the first backend that can be reached. One that may
// have been carried out is not sent again.
func (f *forwarder) RoundTrip(r *http.Request) (*http.Response, error) {
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

// maxStatusBytes bounds an answer that get reads.
const maxStatusBytes = 64 << 20

// get asks a backend by one of the commands.
func (f *forwarder) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, operatorRoot+path, nil)
	if err != nil {
		return err
	}
	resp, err := f.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("no backend answers: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxStatusBytes))
	if err != nil {
		return fmt.Errorf("a backend's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("a backend answers %s: %s", resp.Status, body[:min(len(body), 500)])
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("a backend's answer: %w", err)
	}
	return nil
}

// toCluster is the transport to internal listeners of backends.
func (a *App) toCluster() http.RoundTripper {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	transport.DialContext = a.dialBackend()
	transport.DialTLSContext = transport.DialContext
	return transport
}
