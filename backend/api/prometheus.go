package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/prometheus/common/route"
	"github.com/prometheus/prometheus/config"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/palliumhq/pallium/backend/querier"
	"github.com/palliumhq/pallium/policies/routes"
)

// Bounds of remote read. Only answers of old clients, which do not stream, are held
// in memory; readSamples is Prometheus' own default. How many run at once is the
// gate's to say, tenant by tenant: Prometheus' own bound would be one for all.
const (
	readSamples     = 50_000_000
	readConcurrency = 1 << 20
	readFrameBytes  = 1 << 20
)

// prometheus returns Prometheus' own API handler, which takes paths below
// routes.PrometheusAPI. It must have every route of a table that Prometheus answers.
func (a *api) prometheus(table []routes.Route) (http.Handler, error) {
	p := a.newPrometheus()
	if err := checkRegistered(p.Register, table); err != nil {
		return nil, err
	}
	router := route.New()
	p.Register(router)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// CORS is the edge's. Without a pattern of origins, which is what nil in
		// newPrometheus is, Prometheus' handlers panic at a request that has one.
		r.Header.Del("Origin")
		if _, ok := w.(*readWriter); !ok { // remote read does it itself
			ctx, fault := querier.NoteFaults(r.Context())
			w, r = &unavailableWriter{ResponseWriter: w, fault: fault}, r.WithContext(ctx)
		}
		router.ServeHTTP(w, r)
	}), nil
}

// checkRegistered finds routes of Prometheus' that it does not have, with their methods.
// register adds its routes to a router. The router here answers each of them by a status
// that only it has, without calling Prometheus.
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

// statusWriter keeps the status of an answer and drops the rest.
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

func (a *api) newPrometheus() *v1.API {
	return v1.NewAPI(
		a.Engine, readQueryable{a.Queryable}, nil, a.Queryable,
		nil, nil, nil, // scrape pools, targets, alertmanagers: Pallium scrapes nothing
		func() config.Config { return config.Config{} }, nil, v1.GlobalURLOptions{},
		func(h http.HandlerFunc) http.HandlerFunc { return h }, // readiness is the edge's
		nil, "", false, // no TSDB, no TSDB administration
		false, 0, a.Logger, nil,
		readSamples, readConcurrency, readFrameBytes,
		false, nil, nil, &v1.PrometheusVersion{}, nil, nil,
		nil, a.Registerer, nil,
		false, nil, false, false, false, // writes are ours
		a.Lookback, false, false, nil, nil, v1.OpenAPIOptions{}, a.Parser, false, 0,
	)
}

// unavailableWriter answers 503 with one body where Prometheus' handlers answer
// 500, or 422 for what could not be read, each with a body of its own: that is our
// trouble and may work when it is asked for again.
type unavailableWriter struct {
	http.ResponseWriter
	fault    func() error
	replaced bool // the answer was written, and what the handler writes is dropped
}

// WriteHeader implements http.ResponseWriter.
func (w *unavailableWriter) WriteHeader(code int) {
	err := w.fault()
	if code == http.StatusInternalServerError || code == http.StatusUnprocessableEntity && err != nil {
		_, text := status(err)
		w.replaced = true
		w.Header().Set("Retry-After", retryAfter)
		w.Header().Del("Content-Encoding")
		w.Header().Del("Content-Length")
		writeError(w.ResponseWriter, http.StatusServiceUnavailable, "unavailable", text)
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

// Unwrap is for http.ResponseController, Flush for remote read.
func (w *unavailableWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush implements http.Flusher.
func (w *unavailableWriter) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }
