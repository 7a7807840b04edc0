// Package api is the backend's HTTP face: it decodes requests that the gateway
// has let through, calls the room that answers them, and encodes what it says.
// PromQL's endpoints are Prometheus' own code, so that every parameter and
// answer is Prometheus'.
//
// The handler trusts the tenant.Access in each request's context. It belongs
// behind the gateway and on no listener of its own. The gateway asks for every
// route by one path only, whatever name the client used.
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
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/memory"
	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/remotewrite"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
	"github.com/palliumhq/pallium/policies/routes"
)

// Queryable is what the query endpoints read.
type Queryable interface {
	storage.SampleAndChunkQueryable
	storage.ExemplarQueryable
}

// Options of the API. Without Push, or without Queryable, it has no routes to
// write, or to read.
type Options struct {
	Push        func(context.Context, *series.Batch) (series.Outcome, error)
	Queryable   Queryable
	Engine      promql.QueryEngine
	Parser      parser.Parser
	Metadata    func(context.Context, tenant.ID) ([]series.MetricMetadata, error) // ascending by metric
	SeriesCount func(context.Context, tenant.ID) (int, error)                     // active series of a tenant
	Delete      func(context.Context, Deletion) error
	Limits      func(tenant.ID) limits.Limits
	Memory      *memory.Account // nil: nobody accounts for what requests hold
	Gate        *querier.Gate   // nil: a gate of its own
	Lookback    time.Duration
	Logger      *slog.Logger
	Registerer  prometheus.Registerer
}

type api struct {
	Options
	requests remotewrite.Pool
	bodies   bodyPool
}

// New returns the backend's handler. It binds the handlers to the route table, and returns
// an error if a route or a handler is left over.
func New(o Options) (http.Handler, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Gate == nil {
		o.Gate = querier.NewGate(o.Registerer)
	}
	a := &api{Options: o}
	r := chi.NewRouter()
	r.Use(requireAccess)
	if err := a.bind(r, routes.Table()); err != nil {
		return nil, fmt.Errorf("bind the API's handlers: %w", err)
	}
	return r, nil
}

// requireAccess rejects requests without a tenant and a policy: there is no
// default tenant.
func requireAccess(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := tenant.FromContext(r.Context()); err != nil {
			writeError(w, http.StatusUnauthorized, "unauthorized", err.Error())
			return
		}
		next.ServeHTTP(w, r)
	})
}

// access is the request's tenant; requireAccess has checked that there is one.
func access(r *http.Request) tenant.ID {
	a, _ := tenant.FromContext(r.Context())
	return a.Tenant
}

// ForGateways has the handler serve requests of gateways that have proved to belong to
// the cluster: their headers say whom they let in.
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
