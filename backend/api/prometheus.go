package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/route"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/promql/parser"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/backend/switches"
	"github.com/palliumhq/pallium/policies/routes"
)

// Limits of remote read. readSamples is Prometheus' default; it applies to
// clients without streaming, whose responses are held in memory.
// readConcurrency effectively disables Prometheus' limit of concurrent reads,
// which would be shared by all tenants; querier.Gate limits them per tenant.
const (
	readSamples     = 50_000_000
	readConcurrency = 1 << 20
	readFrameBytes  = 1 << 20
)

// prometheus returns Prometheus' API handler, for paths relative to routes.PrometheusAPI. It
// returns an error if the table has a route that this version of Prometheus' API does not have.
func (a *api) prometheus(table []routes.Route) (http.Handler, error) {
	first := a.newPrometheus(switches.Set{}, a.Registerer)
	if err := checkRegistered(first.Register, table); err != nil {
		return nil, err
	}
	// The parser belongs to a handler, not to a request, so each set of switches has its own
	// handler. Remote read, the only route with metrics, parses nothing: it is always served by the
	// first handler.
	router := routerOf(first)
	others := switches.Each(func(s switches.Set) *route.Router { return routerOf(a.newPrometheus(s, nil)) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The edge handles CORS. Because newPrometheus passes no pattern of allowed origins,
		// Prometheus' handlers would panic on a request with an Origin.
		r.Header.Del("Origin")
		if _, ok := w.(*readWriter); !ok { // remoteRead has wrapped w itself
			ctx, fault := querier.NoteFaults(r.Context())
			w, r = &unavailableWriter{ResponseWriter: w, fault: fault, gone: func() bool { return clientGone(r) },
				ended: func() error { return ended(r) }}, r.WithContext(ctx)
			if s := querier.Switches(r.Context()).Grammar(); s != (switches.Set{}) {
				others(s).ServeHTTP(w, r)
				return
			}
		}
		router.ServeHTTP(w, r)
	}), nil
}

func routerOf(p *v1.API) *route.Router {
	router := route.New()
	p.Register(router)
	return router
}

// parser returns the parser of the request's tenant.
func (a *api) parser(r *http.Request) parser.Parser { return a.Parsers(querier.Switches(r.Context())) }

// checkRegistered returns an error for each of Prometheus' routes and methods in the table that
// Prometheus' API does not have. register adds Prometheus' routes to a router; checkRegistered
// replaces their handlers by one with a unique status.
func checkRegistered(register func(*route.Router), table []routes.Route) error {
	router := route.New().WithInstrumentation(func(string, http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }
	})
	register(router)
	var errs []error
	for i := range table {
		if table[i].By != routes.Prometheus {
			continue
		}
		path := strings.ReplaceAll(strings.TrimPrefix(table[i].Upstream(), routes.PrometheusAPI), "{name}", "x")
		for _, method := range table[i].Methods {
			w := &statusWriter{header: http.Header{}}
			router.ServeHTTP(w, &http.Request{Method: method, URL: &url.URL{Path: path}})
			if w.status != http.StatusTeapot {
				errs = append(errs, fmt.Errorf("route %s: Prometheus' API does not have %s %s", table[i].Name, method, path))
			}
		}
	}
	return errors.Join(errs...)
}

// statusWriter records the status of a response and drops the rest.
type statusWriter struct {
	header http.Header
	status int
}

// Header implements http.ResponseWriter.
func (w *statusWriter) Header() http.Header { return w.header }

// Write implements http.ResponseWriter.
func (w *statusWriter) Write(p []byte) (int, error) { return len(p), nil }

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) { w.status = status }

// newPrometheus returns Prometheus' API for tenants with these switches.
func (a *api) newPrometheus(s switches.Set, reg prometheus.Registerer) *v1.API {
	return v1.NewAPI(
		a.Engine, readQueryable{a.Queryable}, nil, a.Queryable,
		nil, nil, nil, // scrape pools, targets, alertmanagers: Pallium does not scrape
		configuration, nil, v1.GlobalURLOptions{},
		func(h http.HandlerFunc) http.HandlerFunc { return h }, // the edge checks readiness
		nil, "", false, // no TSDB, no TSDB administration
		true, maxSearchLimit, a.Logger, nil,
		readSamples, readConcurrency, readFrameBytes,
		false, nil, nil, &v1.PrometheusVersion{}, nil, nil,
		nil, reg, renderStats,
		false, nil, false, false, false, // no remote write receiver: see push
		a.Lookback, false, false, nil, nil, v1.OpenAPIOptions{}, a.Parsers(s), true, 0,
	)
}

// assumedInterval is the assumed time between the samples of a series in estimates of costs, which
// read no samples. Grafana assumes the same by default.
const assumedInterval = 15 * time.Second

// configuration returns a Prometheus configuration with the settings that estimates of costs need.
func configuration() config.Config {
	return config.Config{GlobalConfig: config.GlobalConfig{
		ScrapeInterval: model.Duration(assumedInterval), EvaluationInterval: model.Duration(querier.SubqueryStep),
	}}
}

// unavailableWriter replaces responses of Prometheus' handlers. Status 500, and 422 if data could
// not be read, become 503 with the text of the function status: these are internal errors, and a
// retry may succeed. If the queue of the tenant's query frontend is full, the status is 429. If an
// operator or the memory account ended the request, it is 422. An error has the status 499 if and
// only if the client is gone.
type unavailableWriter struct {
	http.ResponseWriter
	fault    func() error
	gone     func() bool  // reports whether the client has closed the connection
	ended    func() error // returns why the request was ended; see ended
	replaced bool         // the replacement was written: output of the handler is dropped
}

// WriteHeader implements http.ResponseWriter.
func (w *unavailableWriter) WriteHeader(code int) {
	err := w.fault()
	if cause := w.ended(); code >= http.StatusBadRequest && cause != nil { // not all handlers return the cause
		w.replaced = true
		w.Header().Del("Content-Encoding")
		w.Header().Del("Content-Length")
		writeError(w.ResponseWriter, http.StatusUnprocessableEntity, "execution", cause.Error())
		return
	}
	if code >= http.StatusBadRequest && w.gone() {
		w.ResponseWriter.WriteHeader(statusClientGone)
		return
	}
	if code == statusClientGone { // canceled, but not by the client
		code, err = http.StatusInternalServerError, errors.Join(err, context.Canceled)
	}
	if code == http.StatusInternalServerError || code == http.StatusUnprocessableEntity && err != nil {
		instead, text := status(err)
		kind := "unavailable"
		switch {
		case instead == http.StatusTooManyRequests: // the queue of the tenant's query frontend is full
			kind = "too_many_requests"
		case timedOut(err): // Prometheus' handlers of labels respond with 422
			kind = "timeout"
		}
		if instead != http.StatusTooManyRequests {
			instead = http.StatusServiceUnavailable
		}
		w.replaced = true
		w.Header().Set("Retry-After", retryAfter)
		w.Header().Del("Content-Encoding")
		w.Header().Del("Content-Length")
		writeError(w.ResponseWriter, instead, kind, text)
		return
	}
	if code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", retryAfter)
	}
	w.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (w *unavailableWriter) Write(p []byte) (int, error) {
	if w.replaced {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap implements the optional interface of http.ResponseController.
func (w *unavailableWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush implements http.Flusher.
func (w *unavailableWriter) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }
