package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// newTransport is tuned for few backends with many requests each. It never
// goes through a proxy of the environment: what it carries is trusted.
func newTransport() *http.Transport {
	return &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   5 * time.Second,
		MaxIdleConns:          1024,
		MaxIdleConnsPerHost:   256,
		IdleConnTimeout:       90 * time.Second,
		ResponseHeaderTimeout: 5 * time.Minute,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true, // answers pass as they are
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        32 << 10,
	}
}

// newProxy sends requests made by outgoing to the backends in turn.
func newProxy(backends []string, rt http.RoundTripper, log *slog.Logger) (http.Handler, error) {
	urls := make([]*url.URL, 0, len(backends))
	for _, b := range backends {
		u, err := url.Parse(b)
		if err != nil {
			return nil, fmt.Errorf("backend URL %q: %w", b, err)
		}
		if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return nil, fmt.Errorf("backend URL %q must read http(s)://host[:port][/path]", u.Redacted())
		}
		urls = append(urls, u)
	}
	if rt == nil {
		rt = newTransport()
	}
	var turn atomic.Uint64
	return &httputil.ReverseProxy{
		// Rewrite and not Director: Director's headers can be deleted by a
		// client that names them in its Connection header.
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(urls[turn.Add(1)%uint64(len(urls))])
			if g, ok := grantOf(pr.In.Context()); ok {
				g.stamp(pr.Out.Header)
			}
		},
		Transport:    rt,
		BufferPool:   newBufferPool(),
		ErrorLog:     slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ErrorHandler: proxyError,
	}, nil
}

// proxyError answers for a backend that did not. A recorder puts a failure of
// the client's body in its place, if there was one.
func proxyError(w http.ResponseWriter, r *http.Request, err error) {
	rec, ok := w.(*recorder)
	if !ok {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		rec.refuse(clientGone())
		return
	}
	rec.refuse(&refusal{status: http.StatusServiceUnavailable, reason: "backend_unreachable",
		text: "the backend is not available", retry: 2 * time.Second, detail: err})
}

// statusClientGone is nginx' code for a client that did not wait; nobody sees
// it but logs and metrics.
const statusClientGone = 499

func clientGone() *refusal {
	return &refusal{status: statusClientGone, reason: "client_gone", text: "the client closed the request"}
}

type bufferPool struct{ pool sync.Pool }

const proxyBuffer = 32 << 10

func newBufferPool() *bufferPool {
	return &bufferPool{pool: sync.Pool{New: func() any { return new([proxyBuffer]byte) }}}
}

func (p *bufferPool) Get() []byte { return p.pool.Get().(*[proxyBuffer]byte)[:] }

func (p *bufferPool) Put(b []byte) {
	if cap(b) >= proxyBuffer {
		p.pool.Put((*[proxyBuffer]byte)(b[:proxyBuffer]))
	}
}
