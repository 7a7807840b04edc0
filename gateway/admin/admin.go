// Package admin is the admin API, /admin/v1: tenants and their limits, plans, access
// policies, API keys and the audit log, as JSON over HTTP. It decodes requests, calls
// authn/control and encodes the results; docs/admin-api.md describes the API for users.
package admin

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/palliumhq/pallium/authn/control"
)

// Root is the path prefix of all routes of the API.
const Root = "/admin/v1"

// Options are the options of New. Control, Token and EdgeURL are required.
type Options struct {
	Control *control.Control
	Token   string // the admin credential; see CheckToken
	EdgeURL string // URL of the edge for clients, such as https://metrics.example.com; used in the snippets that come with a new key

	// Extra adds routes under Root, such as POST /flush. They require the admin
	// credential, are audited and support Idempotency-Key. Unlike changes by the API's
	// own routes, they are canceled when their client disconnects.
	Extra func(chi.Router)

	Logger     *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time // nil: time.Now
}

type api struct {
	control *control.Control
	edge    string
	logger  *slog.Logger
	now     func() time.Time
}

// New returns the handler of all paths under Root. It responds with 404 to other paths.
func New(o Options) (http.Handler, error) {
	if err := CheckToken(o.Token); err != nil {
		return nil, fmt.Errorf("admin token (PALLIUM_ADMIN_TOKEN or PALLIUM_ADMIN_TOKEN_FILE): %w", err)
	}
	edge, err := url.Parse(o.EdgeURL)
	if err != nil || edge.Scheme != "http" && edge.Scheme != "https" || edge.Host == "" {
		return nil, fmt.Errorf("the URL of the edge is %q, it must have the form http(s)://host[:port][/path]: set external_url",
			shorten(o.EdgeURL))
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	a := &api{control: o.Control, edge: strings.TrimRight(o.EdgeURL, "/"), logger: o.Logger, now: o.Now}
	guard := newGuard(o.Token, o.Now, o.Logger, o.Registerer)

	r := chi.NewRouter()
	r.Use(a.identify, a.rescue)
	r.NotFound(a.serve(a.notFound))
	r.MethodNotAllowed(a.serve(a.methodNotAllowed))
	r.Route(Root, func(r chi.Router) {
		r.Use(guard.require, a.limitBody, a.audit)
		r.Group(func(r chi.Router) {
			r.Use(a.finish, a.replay)
			a.routes(r)
		})
		if o.Extra != nil {
			r.Group(func(r chi.Router) {
				r.Use(a.replay)
				o.Extra(r)
			})
		}
	})
	return r, nil
}

func (a *api) routes(r chi.Router) {
	for _, rt := range []struct {
		method, path string
		handler      handler
	}{
		{"GET", "/tenants", a.listTenants},
		{"POST", "/tenants", a.createTenant},
		{"GET", "/tenants/{tenant}", a.getTenant},
		{"PUT", "/tenants/{tenant}", a.putTenant},
		{"DELETE", "/tenants/{tenant}", a.deleteTenant},
		{"GET", "/tenants/{tenant}/limits", a.getLimits},
		{"PUT", "/tenants/{tenant}/limits", a.putLimits},
		{"GET", "/plans", a.listPlans},
		{"POST", "/plans", a.createPlan},
		{"GET", "/plans/{plan}", a.getPlan},
		{"PUT", "/plans/{plan}", a.putPlan},
		{"DELETE", "/plans/{plan}", a.deletePlan},
		{"GET", "/access-policies", a.listPolicies},
		{"POST", "/access-policies", a.createPolicy},
		{"POST", "/access-policies/simulate", a.simulate},
		{"GET", "/access-policies/{policy}", a.getPolicy},
		{"PUT", "/access-policies/{policy}", a.putPolicy},
		{"DELETE", "/access-policies/{policy}", a.deletePolicy},
		{"GET", "/tokens", a.listTokens},
		{"POST", "/tokens", a.issueToken},
		{"GET", "/tokens/{token}", a.getToken},
		{"PUT", "/tokens/{token}", a.putToken},
		{"DELETE", "/tokens/{token}", a.deleteToken},
		{"POST", "/tokens/{token}/rotate", a.rotateToken},
		{"POST", "/tokens/{token}/revoke", a.revokeToken},
		{"GET", "/audit-events", a.listEvents},
		{"GET", "/whoami", a.whoami},
	} {
		r.Method(rt.method, rt.path, a.serve(rt.handler))
	}
}

// handler writes the response itself or returns an error.
type handler func(w http.ResponseWriter, r *http.Request) error

func (a *api) serve(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			a.reject(w, r, err)
		}
	}
}

func (a *api) notFound(http.ResponseWriter, *http.Request) error {
	return &problem{status: http.StatusNotFound, field: "path", message: "the admin API has no such path",
		hint: "docs/admin-api.md lists all paths"}
}

func (a *api) methodNotAllowed(w http.ResponseWriter, r *http.Request) error {
	routes := chi.RouteContext(r.Context()).Routes
	var allowed []string
	for _, m := range []string{"GET", "POST", "PUT", "DELETE"} {
		if routes.Match(chi.NewRouteContext(), m, routePath(r)) {
			allowed = append(allowed, m)
		}
	}
	list := strings.Join(allowed, ", ")
	w.Header().Set("Allow", list)
	return &problem{status: http.StatusMethodNotAllowed, message: "method " + shorten(r.Method) + " is not allowed at this path: use " + list}
}

// routePath returns the path that chi matches.
func routePath(r *http.Request) string {
	if r.URL.RawPath != "" {
		return r.URL.RawPath
	}
	return r.URL.Path
}

// param returns a decoded parameter of the path.
func param(r *http.Request, name string) string {
	v := chi.URLParam(r, name)
	if r.URL.RawPath == "" {
		return v // net/http has decoded the path
	}
	decoded, err := url.PathUnescape(v)
	if err != nil {
		return v // no object has such a name
	}
	return decoded
}
