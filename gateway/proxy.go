package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"
)

// newTransport returns a transport tuned for few backends with many requests each. It
// ignores the proxy settings of the environment, because backends trust the headers that
// it sends.
func newTransport(dial dialer) *http.Transport {
	t := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   5 * time.Second,
		MaxIdleConns:          1024,
		MaxIdleConnsPerHost:   256,
		IdleConnTimeout:       90 * time.Second,
		ResponseHeaderTimeout: 5 * time.Minute,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true, // responses are passed on unchanged
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        32 << 10,
	}
	if dial != nil {
		t.DialContext, t.DialTLSContext = dial, dial // dial encrypts the connection, whatever the scheme of the URL
	}
	return t
}

type dialer = func(ctx context.Context, network, addr string) (net.Conn, error)

// newProxy returns a handler that sends requests made by outgoing to the backends. Writes
// go to WriteURLs if there are any.
func newProxy(o *Options) (http.Handler, error) {
	reads, err := parseURLs(o.BackendURLs)
	if err != nil {
		return nil, err
	}
	writes, err := parseURLs(o.WriteURLs)
	if err != nil {
		return nil, err
	}
	rt := o.Transport
	if rt == nil {
		rt = newTransport(o.Dial)
	}
	read := newUpstream(reads, rt, o.Now)
	write := read
	if len(writes) > 0 {
		write = newUpstream(writes, rt, o.Now)
	}
	return &httputil.ReverseProxy{
		// Rewrite instead of Director: a client can delete headers that Director
		// sets by naming them in its Connection header.
		Rewrite: func(pr *httputil.ProxyRequest) {
			if g, ok := grantOf(pr.In.Context()); ok {
				g.stamp(pr.Out.Header)
			}
		},
		Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			if g, ok := grantOf(r.Context()); ok && g.write {
				return write.RoundTrip(r)
			}
			return read.RoundTrip(r)
		}),
		BufferPool:   newBufferPool(),
		ErrorLog:     slog.NewLogLogger(o.Logger.Handler(), slog.LevelWarn),
		ErrorHandler: proxyError,
	}, nil
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func parseURLs(backends []string) ([]*url.URL, error) {
	urls := make([]*url.URL, 0, len(backends))
	for _, b := range backends {
		u, err := url.Parse(b)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			// The error of Parse is not used, and the text up to an @ is left out, because it may contain a
			// password.
			return nil, fmt.Errorf("backend URL %q must have the form http(s)://host[:port][/path]", b[strings.LastIndex(b, "@")+1:])
		}
		urls = append(urls, u)
	}
	return urls, nil
}

// proxyError responds to a request for which no backend responded.
func proxyError(w http.ResponseWriter, r *http.Request, err error) {
	rec, ok := w.(*recorder)
	if !ok {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	rec.reject(&rejection{status: http.StatusServiceUnavailable, reason: "backend_unreachable",
		text: "the backend is not available; try again later", retry: 2 * time.Second, detail: err})
}

// statusClientGone is nginx's status for a client that closed the connection before the response.
// It is for logs and metrics: the client does not see it.
const statusClientGone = 499

func clientGone() *rejection {
	return &rejection{status: statusClientGone, reason: "client_gone", text: "the client closed the connection"}
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
