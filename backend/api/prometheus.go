package api

import (
	"net/http"

	"github.com/prometheus/common/route"
	"github.com/prometheus/prometheus/config"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/palliumhq/pallium/backend/querier"
)

// Bounds of remote read: they are per process. Only answers of old clients, which
// do not stream, are held in memory; readSamples is Prometheus' own default.
const (
	readSamples     = 50_000_000
	readConcurrency = 10
	readFrameBytes  = 1 << 20
)

// prometheus is Prometheus' own API handler, of which New serves a part.
func (a *api) prometheus() http.Handler {
	p := v1.NewAPI(
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
	router := route.New()
	p.Register(router)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// CORS is the edge's. Without a pattern of origins, which is what nil
		// above is, Prometheus' handlers panic at a request that has one.
		r.Header.Del("Origin")
		if _, ok := w.(*readWriter); !ok { // remote read does it itself
			ctx, unreadable := querier.NoteFaults(r.Context())
			w, r = &unavailableWriter{w, unreadable}, r.WithContext(ctx)
		}
		router.ServeHTTP(w, r)
	})
}

// unavailableWriter answers 503 where Prometheus' handlers answer 500, or 422 for
// what could not be read: that is our trouble and may work when it is asked for
// again.
type unavailableWriter struct {
	http.ResponseWriter
	unreadable func() bool
}

// WriteHeader implements http.ResponseWriter.
func (w *unavailableWriter) WriteHeader(code int) {
	if code == http.StatusInternalServerError || code == http.StatusUnprocessableEntity && w.unreadable() {
		code = http.StatusServiceUnavailable
	}
	w.ResponseWriter.WriteHeader(code)
}

// Unwrap is for http.ResponseController, Flush for remote read.
func (w *unavailableWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Flush implements http.Flusher.
func (w *unavailableWriter) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }
