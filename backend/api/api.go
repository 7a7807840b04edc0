// Package api is the HTTP API of the backend: it decodes requests that the
// gateway has authorized, calls the role that serves them, and encodes the
// response. The PromQL endpoints are Prometheus' own code, so that parameters
// and responses are those of Prometheus, except for additions such as
// partial_response and for the status of some errors.
//
// The handler trusts the tenant.Access in each request's context. It must be called only through
// the gateway and not have a listener of its own. The gateway uses one path per route, even if
// clients can use several.
package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/features"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/active"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/remotewrite"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/policies/routes"
)

// Queryable is the storage of the query endpoints.
type Queryable interface {
	storage.SampleAndChunkQueryable
	storage.ExemplarQueryable
}

// Options configures the API. Without Push, write routes respond with 503; without Queryable, so do
// routes of the cost routes.Query.
type Options struct {
	Push        func(context.Context, *series.Batch) (series.Outcome, error)
	Queryable   Queryable
	Engine      promql.QueryEngine
	Parsers     switches.Parsers
	Metadata    func(context.Context, tenant.ID) ([]series.MetricMetadata, error) // ascending by metric
	SeriesCount func(context.Context, tenant.ID) (int, error)                     // active series of a tenant
	Head        func(context.Context, tenant.ID) (series.HeadStats, error)        // statistics of a tenant's chunks in the memory of ingesters
	Delete      func(context.Context, Deletion) error
	// CleanTombstones requests that a tenant's deleted series are removed from all packs now.
	CleanTombstones func(context.Context, tenant.ID) error
	Limits          func(tenant.ID) limits.Limits
	Memory          *memory.Account // nil: the memory of requests is not accounted for
	Gate            *querier.Gate   // nil: New creates one
	// Hold waits until a slot of queriers is free for a read that is not a query, and holds it
	// until release, which may be called more than once. The read waits like an instant query if
	// instant is set, otherwise like a range query; nil: such reads do not wait.
	Hold func(ctx context.Context, id tenant.ID, instant bool) (release func(), err error)
	// Handlers are handlers of other packages, by the names of their routes. They take precedence over
	// the API's own, and get requests as they are.
	Handlers map[string]http.HandlerFunc
	Active   *active.Registry // nil: New creates one
	Lookback time.Duration
	// Features sets which PromQL features are enabled for a request's tenant; nil: none is.
	Features   func(context.Context, features.Collector)
	Now        func() time.Time // nil: time.Now
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

type api struct {
	Options
	requests remotewrite.Pool
	bodies   bodyPool
	blocked  *querier.Blocked
}

// New returns the backend's handler. It binds handlers to the route table, and
// returns an error if a route has no handler or a handler has no route.
func New(o Options) (http.Handler, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Gate == nil {
		o.Gate = querier.NewGate(o.Registerer)
	}
	if o.Parsers == nil {
		o.Parsers = querier.NewParsers(querier.MaxPrettyOperators)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Active == nil {
		o.Active = active.New(active.Options{Now: o.Now})
	}
	o.Engine = notingEngine{o.Engine}
	a := &api{Options: o, blocked: querier.NewBlocked(o.Registerer)}
	r := chi.NewRouter()
	r.Use(requireAccess)
	if err := a.bind(r, routes.Table()); err != nil {
		return nil, fmt.Errorf("bind API handlers: %w", err)
	}
	return r, nil
}

// requireAccess rejects requests that have no tenant or no label policy: there is
// no default.
func requireAccess(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := tenant.FromContext(r.Context()); err != nil {
			writeError(w, http.StatusUnauthorized, "unauthorized", err.Error())
			return
		}
		next.ServeHTTP(w, r)
	})
}

// access returns the request's tenant; requireAccess has checked that there is
// one.
func access(r *http.Request) tenant.ID {
	a, _ := tenant.FromContext(r.Context())
	return a.Tenant
}

// ForGateways returns a handler for requests from gateways, which the caller
// must have authenticated as members of the cluster. It reads the tenant.Access
// from the headers of the request and calls h.
func ForGateways(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		access, err := tenant.AccessFromHeaders(r.Header)
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r.WithContext(tenant.NewContext(r.Context(), access)))
	})
}
