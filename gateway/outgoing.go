package gateway

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/limits"
)

// Headers that the gateway sets, in addition to those of package tenant.
const (
	// HeaderMaxDecoded tells the backend, which decompresses, the maximum size in bytes
	// of a decompressed body of this tenant.
	HeaderMaxDecoded = "X-Pallium-Max-Decoded-Bytes"
	// HeaderRequestID is in every request to the backend and in every response.
	HeaderRequestID = "X-Request-Id"
)

// forwarded are the only headers of a client that reach the backend, in canonical form.
// Credentials, tenant, policy and hop-by-hop headers are never forwarded, however a
// client spells them.
var forwarded = [...]string{
	"Accept", "Accept-Encoding", "Cache-Control", "Content-Encoding", "Content-Type",
	"If-None-Match", "Retry-Attempt", "Traceparent", "Tracestate", "User-Agent",
	"X-Mimir-Ruler-Override-Namespace-Protection",
	"X-Prometheus-Remote-Read-Version", "X-Prometheus-Remote-Write-Version",
}

// grant is the gateway's decision about one request that it allows.
type grant struct {
	access    tenant.Access
	limits    *limits.Limits
	requestID string
	path      string // of the request to the backend
	raw       string // percent-encoded path; "" if it follows from path
	query     string // canonical
	write     bool
}

// outgoing builds the request to the backend, for the proxy and for a handler in the same
// process. Of the client's request, it copies only the method and the forwarded headers.
func outgoing(r *http.Request, g *grant, b *body) *http.Request {
	u := &url.URL{Path: g.path, RawPath: g.raw, RawQuery: g.query}
	out := &http.Request{
		Method: r.Method, URL: u, Host: "pallium",
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:     make(http.Header, len(forwarded)+4),
		Body:       http.NoBody,
		RequestURI: u.RequestURI(),
	}
	if b != nil && b.buffer.Len() > 0 {
		out.ContentLength = b.buffer.Len()
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(b.buffer.Reader()), nil }
		out.Body, _ = out.GetBody() // cannot fail
	}
	for _, name := range forwarded {
		if v := r.Header[name]; len(v) > 0 {
			out.Header[name] = v
		}
	}
	g.stamp(out.Header)
	ctx := tenant.NewContext(r.Context(), g.access)
	return out.WithContext(context.WithValue(ctx, grantKey{}, g))
}

// stamp sets the headers that only the gateway may set.
func (g *grant) stamp(h http.Header) {
	g.access.SetHeaders(h)
	h[HeaderRequestID] = []string{g.requestID}
	if g.write && g.limits.MaxDecodedBytes > 0 {
		h.Set(HeaderMaxDecoded, strconv.FormatInt(g.limits.MaxDecodedBytes, 10))
	}
}

type grantKey struct{}

func grantOf(ctx context.Context) (*grant, bool) {
	g, ok := ctx.Value(grantKey{}).(*grant)
	return g, ok
}
