// Package api is the backend's HTTP face: it decodes requests that the gateway
// has let through, calls the room that answers them, and encodes what it says.
// PromQL's endpoints are Prometheus' own code, so that every parameter and
// answer is Prometheus'.
//
// The handler trusts the tenant.Access in each request's context. It belongs
// behind the gateway and on no listener of its own.
package api

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/remotewrite"
	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// Queryable is what the query endpoints read.
type Queryable interface {
	storage.SampleAndChunkQueryable
	storage.ExemplarQueryable
}

// Options of the API.
type Options struct {
	Push        func(context.Context, *series.Batch) (series.Outcome, error)
	Queryable   Queryable
	Engine      promql.QueryEngine
	Parser      parser.Parser
	Metadata    func(tenant.ID) []series.MetricMetadata
	SeriesCount func(tenant.ID) int // active series of a tenant
	Limits      func(tenant.ID) limits.Limits
	Lookback    time.Duration
	Version     string
	Logger      *slog.Logger
	Registerer  prometheus.Registerer
}

type api struct {
	Options
	requests remotewrite.Pool
	bodies   bodyPool
}

// New returns the backend's handler.
func New(o Options) http.Handler {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	a := &api{Options: o}
	prom := a.prometheus()
	r := chi.NewRouter()
	r.Use(requireAccess)
	for _, path := range []string{"/api/v1/push", "/api/v1/write", "/api/prom/push"} {
		r.Post(path, a.push)
	}
	for _, prefix := range []string{"/prometheus", "/api/prom"} {
		v1 := http.StripPrefix(prefix+"/api/v1", prom)
		for _, path := range []string{"query", "query_range", "query_exemplars", "labels", "series", "format_query", "parse_query"} {
			r.Method(http.MethodGet, prefix+"/api/v1/"+path, v1)
			r.Method(http.MethodPost, prefix+"/api/v1/"+path, v1)
		}
		r.Method(http.MethodGet, prefix+"/api/v1/label/{name}/values", v1)
		r.Get(prefix+"/api/v1/metadata", a.metadata)
		r.Get(prefix+"/api/v1/status/buildinfo", a.buildInfo)
		r.Post(prefix+"/api/v1/read", a.remoteRead(v1))
	}
	r.Get("/api/v1/user_stats", a.userStats)
	r.Get("/api/v1/user_limits", a.userLimits)
	return r
}

// requireAccess refuses requests without a tenant and a policy: there is no
// default tenant. Only what says nothing of any tenant passes.
func requireAccess(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isBuildInfo(r.URL.Path) {
			next.ServeHTTP(w, r)
			return
		}
		if _, err := tenant.FromContext(r.Context()); err != nil {
			writeError(w, http.StatusUnauthorized, "unauthorized", err.Error())
			return
		}
		next.ServeHTTP(w, r)
	})
}

func isBuildInfo(path string) bool {
	return path == "/prometheus/api/v1/status/buildinfo" || path == "/api/prom/api/v1/status/buildinfo"
}

// access is the request's tenant; requireAccess has checked that there is one.
func access(r *http.Request) tenant.ID {
	a, _ := tenant.FromContext(r.Context())
	return a.Tenant
}
