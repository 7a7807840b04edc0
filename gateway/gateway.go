// Package gateway is the edge: all requests of clients reach the backend through it. It finds the
// route of every request in an exact table. Unless the route is open, it authenticates the
// credential (package authn), authorizes the request (package policies) and enforces the tenant's
// limits. It serves open and local routes itself. For all other routes it builds a new request,
// which has only the headers of the client's request that are on an allow list, and headers of the
// gateway, such as the tenant. The new request goes to a handler in the same process or through a
// proxy to a remote backend; both get the same request.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn"
	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/gateway/conn"
	"github.com/palliumhq/pallium/gateway/openapi"
	"github.com/palliumhq/pallium/gateway/quota"
	"github.com/palliumhq/pallium/policies"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/policies/routes"
)

// Authenticator verifies a request's credential. Its error is an *authn.Error; any other
// error counts as an unavailable store.
type Authenticator interface {
	Authenticate(ctx context.Context, a authn.Attempt) (authn.Proof, error)
}

// Tenants returns the limits of tenants. The error is tenant.ErrUnknown for a tenant that
// does not exist; any other error means that the limits could not be read.
type Tenants interface {
	Limits(ctx context.Context, id tenant.ID) (limits.Limits, error)
}

// Options are the options of New. Auth, Tenants and one of Backend and BackendURLs must
// be set.
type Options struct {
	Config      Config
	Auth        Authenticator
	Tenants     Tenants
	Backend     http.Handler // in the same process
	BackendURLs []string     // remote backends, used round robin
	WriteURLs   []string     // remote backends of writes; empty: BackendURLs
	// Dial connects to remote backends; nil uses a plain TCP connection.
	Dial       func(ctx context.Context, network, addr string) (net.Conn, error)
	Transport  http.RoundTripper           // to remote backends; nil uses newTransport
	Memory     Memory                      // accounts for buffered bodies and responses; nil: no accounting
	Ready      func(context.Context) error // nil: always ready
	Version    string                      // shown by status/buildinfo
	Revision   string
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
}

// Gateway is the edge as an http.Handler. It is safe for concurrent use and starts no
// goroutines.
type Gateway struct {
	cfg     Config
	auth    Authenticator
	tenants Tenants
	next    http.Handler
	ready   func(context.Context) error
	version versionInfo
	openapi []byte // the document
	now     func() time.Time

	memory     Memory
	wholeLimit int64 // maximum bytes of a response to an HTTP/1.0 client

	router   *router
	unrouted *boundRoute // the route of requests that match none
	trusted  []netip.Prefix
	quota    *quota.Tenants
	gate     *quota.Gate
	metrics  *metrics
	log      *requestLog
}

// New checks the options and the route table and binds the gateway's own handlers to
// their routes.
func New(o Options) (*Gateway, error) {
	if o.Auth == nil || o.Tenants == nil {
		return nil, errors.New("gateway: Auth and Tenants must be set")
	}
	if (o.Backend == nil) == (len(o.BackendURLs) == 0) {
		return nil, errors.New("gateway: exactly one of Backend and BackendURLs must be set")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Memory == nil {
		o.Memory = unlimited{}
	}
	if err := o.Config.Check(); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	o.Config.setDefaults()
	trusted, err := o.Config.Trusted()
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	router, err := newRouter(routes.Table(), newOwnHandlers())
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	document, err := openapi.Document(routes.Table(), o.Version)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	next := o.Backend
	if next == nil {
		if next, err = newProxy(&o); err != nil {
			return nil, fmt.Errorf("gateway: %w", err)
		}
	}
	g := &Gateway{
		cfg: o.Config, auth: o.Auth, tenants: o.Tenants, next: next, ready: o.Ready, now: o.Now,
		version: versionInfo{version: o.Version, revision: o.Revision}, openapi: document,
		memory: o.Memory, wholeLimit: maxWhole,
		router: router, unrouted: &boundRoute{Route: routes.Route{Name: "none", Kind: routes.Read}}, trusted: trusted,
		quota: quota.NewTenants(o.Config.MaxTenants, o.Now),
		gate:  quota.NewGate(o.Config.MaxInFlight, o.Config.MaxQueued, time.Duration(o.Config.QueueTimeout)),
		log:   newRequestLog(o.Logger, o.Now),
	}
	g.metrics = newMetrics(o.Registerer, g)
	return g, nil
}

// Budgets returns this gateway's budgets of tenants, for sharing them with other
// gateways.
func (g *Gateway) Budgets() *quota.Tenants { return g.quota }

// maxWhole bounds a response to an HTTP/1.0 client, which is buffered until it is
// complete.
const maxWhole = 64 << 20

// exchange is one request and its response on their way through the gateway.
type exchange struct {
	g     *Gateway
	rec   *recorder
	r     *http.Request
	route *boundRoute
	path  string // of the request to the backend
	raw   string // percent-encoded path; "" if it follows from path
	query string
	start time.Time
	from  netip.Addr
	held  Held // the request's memory account; nil before it is admitted

	tenant     tenant.ID
	credential string
	concurrent int // requests of the credential that may be in progress; 0 = no limit
}

func (g *Gateway) exchange(w http.ResponseWriter, r *http.Request) *exchange {
	x := &exchange{g: g, r: r, route: g.unrouted, start: g.now(), from: source(r, g.trusted), rec: &recorder{
		ResponseWriter: w, requestID: newRequestID(), hasBody: r.ContentLength != 0, gone: func() bool { return r.Context().Err() != nil },
	}}
	if r.ProtoMajor == 1 && r.ProtoMinor == 0 {
		x.rec.whole = conn.NewWhole(w, g.wholeLimit)
		x.rec.ResponseWriter = x.rec.whole
	}
	x.rec.Header().Set("X-Content-Type-Options", "nosniff")
	return x
}

// ServeHTTP implements http.Handler.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := g.exchange(w, r)
	defer x.finish()
	if f := x.find(); f != nil {
		x.rec.kind = x.route.Kind
		x.rec.reject(f)
		return
	}
	x.rec.kind = x.route.Kind
	x.rec.counts = x.route.Kind == routes.Write && isWriteV2(r.Header)
	if f := x.serve(); f != nil {
		x.rec.reject(f)
	}
}

// Reject implements conn.Rejecter.
func (g *Gateway) Reject(w http.ResponseWriter, r *http.Request, why *conn.Rejection) {
	x := g.exchange(w, r)
	defer x.finish()
	if rt, _, _ := g.router.find(r.Method, r.URL.Path); rt != nil {
		x.route = rt
	}
	x.rec.kind = x.route.Kind
	x.rec.reject(&rejection{status: why.Status, reason: why.Reason, text: why.Text, retry: why.Retry})
}

// find rejects ambiguous requests, and sets the route, the path and the query.
func (x *exchange) find() *rejection {
	to, f := x.g.router.target(x.r)
	if f != nil {
		return f
	}
	rt, allow := to.route, to.allow
	if rt != nil {
		x.route, x.path, x.raw = rt, to.path, to.raw
	}
	f = checkRequest(x.r)
	switch {
	case f != nil:
		return f
	case rt == nil && allow != "":
		x.rec.Header().Set("Allow", allow)
		return &rejection{status: http.StatusMethodNotAllowed, reason: "method", text: "the method is not allowed at this path: use " + allow}
	case rt == nil:
		return &rejection{status: http.StatusNotFound, reason: "route", text: x.g.notFoundText(x.r.URL.Path)}
	}
	x.query, f = canonicalQuery(x.r.URL.RawQuery)
	return f
}

// serve serves open routes. Requests of other routes pass through authentication,
// authorization and limits, and then go to a local handler or to the backend.
func (x *exchange) serve() *rejection {
	if x.route.open != nil {
		return x.route.open(x)
	}
	access, f := x.authorize()
	if f != nil {
		return f
	}
	lim, err := x.g.tenants.Limits(x.r.Context(), access.Tenant)
	if errors.Is(err, tenant.ErrUnknown) {
		return tenantRejected("tenant_unknown")
	}
	if err != nil {
		return unavailable("limits_unavailable", err)
	}
	return x.admitted(access, &lim)
}

// admitted serves a request whose tenant is authorized and whose limits were read.
func (x *exchange) admitted(access tenant.Access, lim *limits.Limits) *rejection {
	admission, rej := x.g.quota.Admit(quota.Request{
		Tenant: access.Tenant, Limits: lim, Cost: x.route.Cost, Length: x.r.ContentLength,
		Token: x.credential, TokenLimit: x.concurrent,
	})
	if rej != nil {
		return overLimit(rej)
	}
	x.held = x.g.memory.Hold(access.Tenant, lim.MaxMemoryBytes, x.route.Kind == routes.Write)
	if x.rec.whole != nil {
		x.rec.whole.Charge(x.held.Take)
	}
	b := x.limitedBody(lim)
	defer func() { admission.Done(x.rec.outcome(b.received())) }()
	if x.route.local != nil {
		return x.route.local(x, lim)
	}
	if x.r.ContentLength > x.g.cfg.MaxBodyBytes {
		return tooLarge(x.g.cfg.MaxBodyBytes, x.r.ContentLength)
	}
	if f := b.receive(); f != nil {
		if x.r.ProtoMajor == 2 && x.rec.gone() { // the client has reset the stream; in HTTP/1 framing may be broken
			return clientGone()
		}
		return f
	}
	// Only after the whole body has arrived, so that a slow sender reserves neither samples nor one of the
	// concurrent requests.
	if rej := admission.Enter(b.received()); rej != nil {
		return overLimit(rej)
	}
	return x.forward(access, lim, b)
}

// limitedBody returns the request's body with its size limit, or nil if the request has
// no body.
func (x *exchange) limitedBody(lim *limits.Limits) *body {
	if x.r.ContentLength == 0 || x.r.Body == nil || x.r.Body == http.NoBody {
		return nil
	}
	most := x.g.cfg.MaxBodyBytes
	if lim.MaxBodyBytes > 0 {
		most = min(most, lim.MaxBodyBytes)
	}
	return newBody(x.rec.ResponseWriter, x.r, most, x.held.Take)
}

// forward waits in the fair queue and sends the request to the backend.
func (x *exchange) forward(access tenant.Access, lim *limits.Limits, b *body) *rejection {
	if err := x.g.gate.Enter(x.r.Context(), access.Tenant); err != nil {
		if errors.Is(err, quota.ErrBusy) {
			return &rejection{status: http.StatusServiceUnavailable, reason: "busy", retry: time.Second,
				text: "the gateway is overloaded: too many requests are in progress; try again later"}
		}
		return clientGone()
	}
	defer x.g.gate.Leave()
	conn.Patient(x.rec)
	x.g.next.ServeHTTP(x.rec, outgoing(x.r, &grant{
		access: access, limits: lim, requestID: x.rec.requestID,
		path: x.path, raw: x.raw, query: x.query, write: x.route.Kind == routes.Write,
	}, b))
	if x.rec.status == 0 && x.rec.gone() {
		return clientGone()
	}
	if x.rec.status == 0 {
		x.rec.WriteHeader(http.StatusOK)
	}
	return nil
}

// authorize authenticates the credential and decides whether the request is allowed.
func (x *exchange) authorize() (tenant.Access, *rejection) {
	proof, err := x.g.auth.Authenticate(x.r.Context(), authn.Attempt{
		Authorization: x.r.Header["Authorization"],
		Source:        x.from,
	})
	if err != nil {
		return tenant.Access{}, x.authRejection(err)
	}
	x.credential, x.concurrent = proof.Identity.Credential, proof.Identity.MaxConcurrentRequests
	d := policies.Decide(proof.Identity, policies.Action{
		Scope: x.route.Scope, Selector: selector(x.r.Header), BasicUser: proof.BasicUser,
	})
	if !d.Allowed {
		return tenant.Access{}, denied(d.Reason, x.route.Scope)
	}
	x.tenant = d.Access.Tenant
	return d.Access, nil
}
