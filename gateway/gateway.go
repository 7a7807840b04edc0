// Package gateway is the edge: the only way from a client to a backend. For
// every request it finds the route in an exact table, proves the credential
// (package authn), decides (package policies), holds the tenant to its limits,
// and builds a new request that carries nothing of the client's but what is
// named, stamped with the tenant. That request goes to a handler in the same
// process or through a proxy; the two see the same.
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
	"github.com/palliumhq/pallium/gateway/quota"
	"github.com/palliumhq/pallium/policies"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/policies/routes"
)

// Authenticator proves who sends a request. Its error is an *authn.Error;
// anything else counts as a store that could not answer.
type Authenticator interface {
	Authenticate(ctx context.Context, a authn.Attempt) (authn.Proof, error)
}

// Tenants knows the limits of tenants. The error is tenant.ErrUnknown for one
// that does not exist; any other means that it could not be told.
type Tenants interface {
	Limits(ctx context.Context, id tenant.ID) (limits.Limits, error)
}

// Options of a Gateway. Auth, Tenants and one of Backend and BackendURLs must
// be set.
type Options struct {
	Config      Config
	Auth        Authenticator
	Tenants     Tenants
	Backend     http.Handler // in this process
	BackendURLs []string     // over the network, in turn
	WriteURLs   []string     // for writes, when they go elsewhere
	// Dial connects to backends; nil is a plain TCP connection.
	Dial       func(ctx context.Context, network, addr string) (net.Conn, error)
	Transport  http.RoundTripper           // with BackendURLs; nil makes a tuned one
	Memory     Memory                      // of bodies and answers that are kept; nil: not accounted for
	Ready      func(context.Context) error // nil: always ready
	Version    string                      // told by status/buildinfo
	Revision   string
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time
}

// Gateway is the edge as an http.Handler, safe for concurrent use. It owns no
// goroutines.
type Gateway struct {
	cfg     Config
	auth    Authenticator
	tenants Tenants
	next    http.Handler
	ready   func(context.Context) error
	version versionInfo
	now     func() time.Time

	memory    Memory
	wholeMost int64 // bytes of an answer to HTTP/1.0

	router   *router
	unrouted *boundRoute // of requests that have none
	trusted  []netip.Prefix
	quota    *quota.Tenants
	gate     *quota.Gate
	metrics  *metrics
	log      *requestLog
}

// New checks the options and the route table, and binds the gateway's own handlers to it.
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
	if err := o.Config.check(); err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	o.Config.setDefaults()
	trusted, err := o.Config.Trusted()
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	router, err := newRouter(routes.Table(), answers())
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
		version: versionInfo{version: o.Version, revision: o.Revision},
		memory:  o.Memory, wholeMost: maxWhole,
		router: router, unrouted: &boundRoute{Route: routes.Route{Name: "none", Kind: routes.Read}}, trusted: trusted,
		quota: quota.NewTenants(o.Config.MaxTenants, o.Now),
		gate:  quota.NewGate(o.Config.MaxInFlight, o.Config.MaxQueued, time.Duration(o.Config.QueueTimeout)),
		log:   newRequestLog(o.Logger, o.Now),
	}
	g.metrics = newMetrics(o.Registerer, g)
	return g, nil
}

// Budgets are the tenants' budgets at this gateway, for sharing them with others.
func (g *Gateway) Budgets() *quota.Tenants { return g.quota }

// maxWhole bounds an answer to HTTP/1.0, which is kept until it is complete.
const maxWhole = 64 << 20

// exchange is one request on its way through the gateway.
type exchange struct {
	g     *Gateway
	rec   *recorder
	r     *http.Request
	route *boundRoute
	path  string // to ask the backend for
	query string
	start time.Time
	from  netip.Addr
	held  Held // what the request holds of the memory; nil: nothing yet

	tenant     tenant.ID
	credential string
}

func (g *Gateway) exchange(w http.ResponseWriter, r *http.Request) *exchange {
	x := &exchange{g: g, r: r, route: g.unrouted, start: g.now(), from: source(r, g.trusted), rec: &recorder{
		ResponseWriter: w, requestID: newRequestID(), hasBody: r.ContentLength != 0,
	}}
	if r.ProtoMajor == 1 && r.ProtoMinor == 0 {
		x.rec.whole = conn.NewWhole(w, g.wholeMost)
		x.rec.ResponseWriter = x.rec.whole
	}
	x.rec.Header().Set("X-Content-Type-Options", "nosniff")
	return x
}

// ServeHTTP answers one request.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := g.exchange(w, r)
	defer x.finish()
	if f := x.find(); f != nil {
		x.rec.kind = x.route.Kind
		x.rec.reject(f)
		return
	}
	x.rec.kind = x.route.Kind
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
	x.rec.reject(&rejection{status: why.Status, reason: why.Reason, text: why.Text})
}

// find checks that the request means one thing only, and finds its route.
func (x *exchange) find() *rejection {
	if f := checkPath(x.r); f != nil {
		return f
	}
	rt, path, allow := x.g.router.find(x.r.Method, x.r.URL.Path)
	if rt != nil {
		x.route, x.path = rt, path
	}
	f := checkRequest(x.r)
	switch {
	case f != nil:
		return f
	case rt == nil && allow != "":
		x.rec.Header().Set("Allow", allow)
		return &rejection{status: http.StatusMethodNotAllowed, reason: "method", text: "the method is not allowed here; allowed: " + allow}
	case rt == nil:
		return &rejection{status: http.StatusNotFound, reason: "route", text: x.g.nothingAt(x.r.URL.Path)}
	}
	x.query, f = canonicalQuery(x.r.URL.RawQuery)
	return f
}

// serve answers open routes, and takes every other request through credential,
// policy and limits to the backend.
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

// admitted serves a request whose tenant and limits are known.
func (x *exchange) admitted(access tenant.Access, lim *limits.Limits) *rejection {
	admission, rej := x.g.quota.Admit(quota.Request{
		Tenant: access.Tenant, Limits: lim, Cost: x.route.Cost, Length: x.r.ContentLength,
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
		return f
	}
	// Now that all of the body is there: one that arrives slowly holds no budget.
	if rej := admission.Enter(b.received()); rej != nil {
		return overLimit(rej)
	}
	return x.forward(access, lim, b)
}

// limitedBody bounds the request's body; nil if it has none.
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

// forward waits for a place and hands the request to the backend.
func (x *exchange) forward(access tenant.Access, lim *limits.Limits, b *body) *rejection {
	if err := x.g.gate.Enter(x.r.Context(), access.Tenant); err != nil {
		if errors.Is(err, quota.ErrBusy) {
			return &rejection{status: http.StatusServiceUnavailable, reason: "busy", retry: time.Second,
				text: "the gateway is busy: too many requests are under way"}
		}
		return clientGone()
	}
	defer x.g.gate.Leave()
	conn.Patient(x.rec)
	x.g.next.ServeHTTP(x.rec, outgoing(x.r, &grant{
		access: access, limits: lim, requestID: x.rec.requestID,
		path: x.path, query: x.query, write: x.route.Kind == routes.Write,
	}, b))
	if x.rec.status == 0 {
		x.rec.WriteHeader(http.StatusOK)
	}
	return nil
}

// authorize proves the credential and decides.
func (x *exchange) authorize() (tenant.Access, *rejection) {
	proof, err := x.g.auth.Authenticate(x.r.Context(), authn.Attempt{
		Authorization: x.r.Header["Authorization"],
		Source:        x.from,
	})
	if err != nil {
		return tenant.Access{}, x.authRejection(err)
	}
	x.credential = proof.Identity.Credential
	d := policies.Decide(proof.Identity, policies.Action{
		Scope: x.route.Scope, Selector: selector(x.r.Header), BasicUser: proof.BasicUser,
	})
	if !d.Allowed {
		return tenant.Access{}, denied(d.Reason, x.route.Scope)
	}
	x.tenant = d.Access.Tenant
	return d.Access, nil
}
